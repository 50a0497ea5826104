#include "bench_mesh.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

#include "json/json.h"
#include "proto/envelope.h"
#include "proto/invite.h"
#include "proto/statement.h"
#include "trust/schema.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

const char MESH_ID[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11";

/* ---- databases ------------------------------------------------------------------------------------------------ */

static struct db *open_db(const struct bench_mesh *bench, const char *name, const struct db_migration *migrations, size_t count)
{
    char *path = memory_printf("%s/%s", bench->directory, name);
    const struct db_options options = {
        .path = path, .migrations = migrations, .migration_count = count, .completions = loop_mailbox(bench->loop)
    };
    struct db *db = NULL;
    struct error error;
    assert_int_equal(db_open(&options, &db, &error), 0);
    free(path);
    return db;
}

void bench_init(struct bench_mesh *bench)
{
    *bench = (struct bench_mesh){ 0 };
    struct error error;
    assert_int_equal(crypto_start(&error), 0);
    assert_int_equal(loop_new(&bench->loop, &error), 0);
    (void)snprintf(bench->directory, sizeof(bench->directory), "/tmp/cm-delivery-XXXXXX");
    assert_non_null(mkdtemp(bench->directory));
    const struct db_migration outbox_steps[] = { OUTBOX_MIGRATIONS[0], { 2, TRUST_SCHEMA_SQL }, { 3, TRUST_AWAITING_SQL } };
    bench->outbox_db = open_db(bench, "outbox.db", outbox_steps, ARRAY_LENGTH(outbox_steps));
    bench->inbox_db = open_db(bench, "inbox.db", INBOX_MIGRATIONS, INBOX_MIGRATION_COUNT);
    const struct outbox_limits limits = { .max_rows = 100000, .max_bytes = INT64_C(1) << 32 };
    assert_int_equal(outbox_open(bench->outbox_db, &limits, &bench->outbox, &error), 0);
    assert_int_equal(inbox_open(bench->inbox_db, &(struct inbox_options){ .search = true }, &bench->inbox, &error), 0);
    struct keypair **keys[] = { &bench->owner, &bench->me, &bench->carol, &bench->stranger };
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
        assert_int_equal(keypair_generate(keys[i], &error), 0);
    }
    bench->boxes = box_cache_new(16);
}

void bench_release(struct bench_mesh *bench)
{
    db_close(bench->outbox_db);
    db_close(bench->inbox_db);
    loop_run_mailbox(bench->loop);
    outbox_free(bench->outbox);
    inbox_free(bench->inbox);
    loop_free(bench->loop);
    static const char *const FILES[] = { "outbox.db", "outbox.db-wal", "outbox.db-shm", "inbox.db", "inbox.db-wal", "inbox.db-shm" };
    for (size_t i = 0; i < ARRAY_LENGTH(FILES); i++) {
        char *path = memory_printf("%s/%s", bench->directory, FILES[i]);
        (void)unlink(path);
        free(path);
    }
    (void)rmdir(bench->directory);
    box_cache_free(bench->boxes);
    keypair_free(bench->owner);
    keypair_free(bench->me);
    keypair_free(bench->carol);
    keypair_free(bench->stranger);
}

/* ---- members -------------------------------------------------------------------------------------------------- */

json_t *bench_certificate(const struct bench_mesh *bench, const struct keypair *member, const char *name)
{
    struct keypair *invite_keys = NULL;
    struct error error;
    assert_int_equal(keypair_generate(&invite_keys, &error), 0);
    char invite_id[INVITE_ID_SIZE];
    invite_id_of(keypair_public_hex(invite_keys), invite_id);
    struct invite invite = {
        .version = 3,
        .mesh_id = memory_strdup(MESH_ID),
        .mesh_slug = memory_strdup("acme"),
        .mesh_name = memory_strdup("Acme"),
        .broker_url = memory_strdup("ws://127.0.0.1:1/ws"),
        .invite_id = memory_strdup(invite_id),
        .role = memory_strdup("member"),
        .expires_at_s = 4102444800,
        .max_uses = 5,
        .owner_pubkey = memory_strdup(keypair_public_hex(bench->owner)),
        .has_root_key = true,
        .has_invite_seed = true,
    };
    memset(invite.root_key, 7, sizeof(invite.root_key));
    sha256_hex(invite.root_key, sizeof(invite.root_key), invite.root_key_sha256);
    keypair_seed(invite_keys, invite.invite_seed);
    assert_int_equal(string_copy(invite.invite_pubkey, sizeof(invite.invite_pubkey), keypair_public_hex(invite_keys)), 0);
    assert_int_equal(invite_sign(&invite, bench->owner, &error), 0);
    json_t *certificate = NULL;
    assert_int_equal(certificate_make(&invite, member, name, clock_wall_ms() - 60000, &certificate, &error), 0);
    invite_release(&invite);
    keypair_free(invite_keys);
    return certificate;
}

json_t *bench_member(const struct bench_mesh *bench, const struct keypair *member, const char *name, bool certified)
{
    json_t *object = json_new_object();
    char id[32];
    (void)snprintf(id, sizeof(id), "m-%.12s", keypair_public_hex(member));
    json_put_string(object, "id", id);
    json_put_string(object, "pubkey", keypair_public_hex(member));
    json_put_string(object, "displayName", name);
    json_put_string(object, "role", "member");
    json_put_integer(object, "joinedAt", 1790000000000);
    json_put_bool(object, "revoked", false);
    if (certified) {
        json_put(object, "cert", bench_certificate(bench, member, name));
    }
    return object;
}

json_t *bench_members(const struct bench_mesh *bench)
{
    json_t *list = json_new_object();
    json_t *members = json_new_array();
    json_array_append_new(members, bench_member(bench, bench->owner, "owner", false));
    json_array_append_new(members, bench_member(bench, bench->me, "me", true));
    json_array_append_new(members, bench_member(bench, bench->carol, "carol", true));
    json_put(list, "members", members);
    return list;
}

json_t *bench_revocation(const struct bench_mesh *bench, const struct keypair *subject)
{
    json_t *revocation = json_new_object();
    char id[32];
    (void)snprintf(id, sizeof(id), "m-%.12s", keypair_public_hex(subject));
    json_put_string(revocation, "mesh", MESH_ID);
    json_put_string(revocation, "subject_pubkey", keypair_public_hex(subject));
    json_put_string(revocation, "member_id", id);
    json_put_integer(revocation, "at", clock_wall_ms());
    json_put_string(revocation, "by", keypair_public_hex(bench->owner));
    char signature[SIGNATURE_HEX_SIZE];
    struct error error;
    assert_int_equal(statement_sign_json(STATEMENT_REVOCATION, revocation, bench->owner, signature, &error), 0);
    json_put_string(revocation, "sig", signature);
    return revocation;
}

/* ---- letters -------------------------------------------------------------------------------------------------- */

static void put_over(json_t *object, json_t *change)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(change, name, value)
    {
        if (json_is_null(value)) {
            (void)json_object_del(object, name);
        } else {
            json_object_set(object, name, value);
        }
    }
    json_decref(change);
}

/* envelope_build signs as `from` itself; a letter signed by another gets that one's signatures over the same text. */
static void sign_as(const struct bench_letter *letter, const struct envelope *envelope, json_t *document)
{
    struct buffer padded;
    struct envelope theirs = *envelope;
    struct envelope parsed;
    json_t *other = NULL;
    bool is_envelope = false;
    struct error error;
    buffer_init(&padded, BUFFER_UNLIMITED);
    theirs.from = keypair_public_hex(letter->signer);
    assert_int_equal(envelope_build(&theirs, letter->signer, &padded, &error), 0);
    assert_int_equal(envelope_parse(padded.data, padded.length, &parsed, &other, &is_envelope, &error), 0);
    json_object_set(document, "sig", json_object_get(other, "sig"));
    json_object_set(document, "xsig", json_object_get(other, "xsig"));
    json_decref(other);
    buffer_release(&padded);
}

static void write_letter(const struct bench_mesh *bench, const struct bench_letter *letter, const struct keypair *from,
                         struct buffer *plaintext)
{
    struct error error;
    if (letter->bare != NULL) {
        assert_int_equal(buffer_append_text(plaintext, letter->bare), 0);
        return;
    }
    const struct envelope envelope = {
        .id = letter->id == NULL ? "id-1" : letter->id,
        .mesh = MESH_ID,
        .from = keypair_public_hex(from),
        .kind = "dm",
        .to = letter->to == NULL ? keypair_public_hex(bench->me) : letter->to,
        .sent_at = letter->sent_at == 0 ? clock_wall_ms() : letter->sent_at,
        .reply_to = letter->reply_to,
        .meta = letter->meta,
        .priority = letter->priority == NULL ? "next" : letter->priority,
        .rv = letter->rv == NULL ? "0:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" : letter->rv,
        .body = text_from(letter->body == NULL ? "hello" : letter->body),
    };
    assert_int_equal(envelope_build(&envelope, from, plaintext, &error), 0);
    if (letter->change == NULL && letter->signer == NULL) {
        return;
    }
    struct envelope parsed;
    json_t *document = NULL;
    bool is_envelope = false;
    assert_int_equal(envelope_parse(plaintext->data, plaintext->length, &parsed, &document, &is_envelope, &error), 0);
    if (letter->signer != NULL) {
        sign_as(letter, &envelope, document);
    }
    put_over(document, letter->change);
    buffer_reset(plaintext);
    json_print(document, plaintext);
    assert_int_equal(envelope_pad(plaintext, &error), 0);
    json_decref(document);
}

static void put_base64(json_t *push, const char *name, const void *data, size_t size)
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_int_equal(base64_encode(data, size, &text), 0);
    json_put_string(push, name, text.data);
    buffer_release(&text);
}

json_t *bench_push(const struct bench_mesh *bench, const struct bench_letter *letter, json_t *change)
{
    static int number;
    const struct keypair *from = letter->from == NULL ? bench->carol : letter->from;
    struct buffer plaintext;
    struct buffer sealed;
    struct nonce nonce;
    struct error error;
    buffer_init(&plaintext, BUFFER_UNLIMITED);
    buffer_init(&sealed, BUFFER_UNLIMITED);
    write_letter(bench, letter, from, &plaintext);
    nonce_random(&nonce);
    assert_int_equal(box_seal(bench->boxes, letter->sealer == NULL ? from : letter->sealer, keypair_public(bench->me), &nonce,
                              plaintext.data, plaintext.length, &sealed, &error),
                     0);
    json_t *push = json_new_object();
    char message_id[32];
    (void)snprintf(message_id, sizeof(message_id), "B%025d", ++number);
    json_put_string(push, "type", "push");
    json_put_string(push, "messageId", message_id);
    json_put_string(push, "meshId", MESH_ID);
    json_put_string(push, "senderPubkey", keypair_public_hex(from));
    json_put_string(push, "senderMemberPubkey", keypair_public_hex(from));
    json_put_string(push, "senderMemberId", "m-1");
    json_put_string(push, "senderName", "whatever the broker says");
    json_put_string(push, "priority", letter->priority == NULL ? "next" : letter->priority);
    put_base64(push, "nonce", nonce.bytes, NONCE_BYTES);
    put_base64(push, "ciphertext", sealed.data, sealed.length);
    json_put_integer(push, "bodyVersion", letter->bare == NULL ? 3 : 1);
    json_put_integer(push, "createdAt", clock_wall_ms());
    json_put_string(push, "client_message_id", letter->id == NULL ? "id-1" : letter->id);
    json_put_integer(push, "history_id", number);
    json_put_string(push, "targetSpec", keypair_public_hex(bench->me));
    put_over(push, change);
    buffer_release(&plaintext);
    buffer_release(&sealed);
    json_decref(letter->meta);
    return push;
}
