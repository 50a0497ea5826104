#include "store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <sqlite3.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "util/memory.h"
#include "util/text.h"

const char MESH_ID[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11";
const char ALICE[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const char BOB[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const char CAROL[] = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

static int64_t now_ms = INT64_C(1800000000000);

int64_t fixture_now_ms(void)
{
    return now_ms;
}

void fixture_set_now_ms(int64_t now)
{
    now_ms = now;
}

void fixture_done(struct store_request *request)
{
    *(bool *)request->argument = true;
}

void fixture_wait(struct fixture *fixture, const bool *done)
{
    while (!*done) {
        bool closed;
        struct message *message = mailbox_wait_all(&fixture->completions, 10000, &closed);
        assert_non_null(message);
        while (message != NULL) {
            struct message *next = message->next;
            message->handle(message);
            message = next;
        }
    }
}

void fixture_open(struct fixture *fixture)
{
    struct error error;
    fixture->admission = admission_new(&fixture->limits);
    const struct store_options options = {
        .completions = &fixture->completions,
        .admission = admission_for_store(fixture->admission),
        .waiting_maximum = fixture->waiting_maximum,
    };
    if (store_open(fixture->where, &options, &fixture->store, &error) != 0)
        fail_msg("%s", error.message);
}

void fixture_close(struct fixture *fixture)
{
    if (fixture->store == NULL)
        return;
    fixture->store->operations->close(fixture->store);
    for (struct message *message = mailbox_take_all(&fixture->completions), *next; message != NULL; message = next) {
        next = message->next;
        message->handle(message);
    }
    fixture->store->operations->free(fixture->store);
    fixture->store = NULL;
    admission_free(fixture->admission);
    fixture->admission = NULL;
}

int fixture_setup(void **state)
{
    struct error error;
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    if (crypto_start(&error) != 0)
        return -1;
    fixture_set_now_ms(INT64_C(1800000000000));
    (void)snprintf(fixture->directory, sizeof fixture->directory, "/tmp/broker-store-XXXXXX");
    if (mkdtemp(fixture->directory) == NULL)
        return -1;
    (void)snprintf(fixture->path, sizeof fixture->path, "%s/broker.db", fixture->directory);
    (void)snprintf(fixture->where, sizeof fixture->where, "sqlite:%s/broker.db", fixture->directory);
    mailbox_init(&fixture->completions, NULL, NULL);
    fixture->limits.now_ms = fixture_now_ms;
    fixture->waiting_maximum = 100000;
    *state = fixture;
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    mailbox_release(&fixture->completions);
    DIR *directory = opendir(fixture->directory);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.') {
            char path[400];
            (void)snprintf(path, sizeof path, "%s/%s", fixture->directory, entry->d_name);
            (void)unlink(path);
        }
    if (directory != NULL)
        (void)closedir(directory);
    (void)rmdir(fixture->directory);
    free(fixture);
    return 0;
}

int64_t fixture_number(struct fixture *fixture, const char *sql)
{
    sqlite3 *handle = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open_v2(fixture->path, &handle, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    if (sqlite3_prepare_v2(handle, sql, -1, &statement, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(handle));
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(statement, 0);
    (void)sqlite3_finalize(statement);
    assert_int_equal(sqlite3_close(handle), SQLITE_OK);
    return number;
}

void fixture_execute(struct fixture *fixture, const char *sql)
{
    sqlite3 *handle = NULL;
    assert_null(fixture->store);
    assert_int_equal(sqlite3_open_v2(fixture->path, &handle, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    if (sqlite3_exec(handle, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(handle));
    assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

enum store_join_outcome fixture_join(struct fixture *fixture, const char *pubkey, const char *invite, int64_t max_uses, int64_t *ret_member)
{
    bool done = false;
    struct store_join join = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh_id = MESH_ID,
        .invite_id = invite,
        .owner_pubkey = ALICE,
        .pubkey = pubkey,
        .name = "somebody",
        .role = "member",
        .certificate = "{\"cert\":true}",
        .invite_expires_at = now_ms + 1000,
        .max_uses = max_uses,
        .now_ms = now_ms,
    };
    ulid_generate(join.member_id);
    fixture->store->operations->join(fixture->store, &join);
    fixture_wait(fixture, &done);
    assert_int_equal(join.request.status, 0);
    if (ret_member != NULL)
        *ret_member = join.member;
    return join.outcome;
}

void fixture_make_mesh(struct fixture *fixture)
{
    bool done = false;
    struct store_create_mesh create = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh_id = MESH_ID,
        .slug = "acme",
        .name = "Acme",
        .owner_pubkey = ALICE,
        .display_name = "alice",
        .now_ms = now_ms,
    };
    ulid_generate(create.member_id);
    fixture->store->operations->create_mesh(fixture->store, &create);
    fixture_wait(fixture, &done);
    assert_int_equal(create.request.status, 0);
    assert_true(create.created);
    assert_int_equal(fixture_join(fixture, BOB, "kinvite", 10, &fixture->bob), STORE_JOINED);
    fixture->mesh = 1;
    fixture->alice = fixture_number(fixture, "SELECT id FROM member WHERE role = 'admin'");
}

static char *member_id_of(struct fixture *fixture, const char *pubkey)
{
    sqlite3 *handle = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open_v2(fixture->path, &handle, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(handle, "SELECT member_id FROM member WHERE pubkey = ?", -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_bind_text(statement, 1, pubkey, -1, SQLITE_STATIC), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    char *id = memory_strdup((const char *)sqlite3_column_text(statement, 0));
    (void)sqlite3_finalize(statement);
    assert_int_equal(sqlite3_close(handle), SQLITE_OK);
    return id;
}

int64_t fixture_hello(struct fixture *fixture, const char *pubkey, const char *session_uid, bool alone)
{
    bool done = false;
    char *member_id = member_id_of(fixture, pubkey);
    struct store_hello hello = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh_id = MESH_ID,
        .member_id = member_id,
        .pubkey = pubkey,
        .session_uid = session_uid,
        .timestamp = now_ms + (int64_t)fixture->counter++,
        .now_ms = now_ms + (int64_t)fixture->counter,
        .receive = true,
        .alone = alone,
    };
    fixture->store->operations->hello(fixture->store, &hello);
    fixture_wait(fixture, &done);
    assert_int_equal(hello.request.status, 0);
    assert_int_equal(hello.outcome, STORE_WELCOME);
    free(hello.mesh_slug);
    free(hello.display_name);
    free(hello.role);
    free(hello.certificate);
    free(hello.state);
    free(member_id);
    return hello.session;
}

void fixture_message(struct fixture *fixture, struct store_accept *accept, int64_t sender, const char *to, const char *id)
{
    struct sha256 digest;
    sha256_of(id, strlen(id), &digest);
    *accept = (struct store_accept){
        .mesh = fixture->mesh,
        .sender = sender,
        .connection = 7,
        .client_message_id = id,
        .destination_kind = "dm",
        .destination_ref = to,
        .target_spec = to,
        .priority = 1,
        .sender_pubkey = sender == fixture->alice ? ALICE : BOB,
        .sender_member_pubkey = sender == fixture->alice ? ALICE : BOB,
        .nonce = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        .ciphertext = "c2VjcmV0",
        .ciphertext_length = 8,
        .body_version = 3,
        .key_epoch = -1,
        .now_ms = now_ms,
        .dedupe_expires_at = now_ms + INT64_C(365) * 24 * 3600 * 1000,
    };
    memcpy(accept->fingerprint, digest.bytes, sizeof accept->fingerprint);
    ulid_generate(accept->claimed_message_id);
}

enum store_outcome fixture_send(struct fixture *fixture, struct store_accept *accept)
{
    bool done = false;
    accept->request.done = fixture_done;
    accept->request.argument = &done;
    fixture->store->operations->accept(fixture->store, accept);
    fixture_wait(fixture, &done);
    assert_int_equal(accept->request.status, 0);
    return accept->outcome;
}

enum store_outcome fixture_send_simply(struct fixture *fixture, int64_t sender, const char *to, const char *id)
{
    struct store_accept accept;
    fixture_message(fixture, &accept, sender, to, id);
    return fixture_send(fixture, &accept);
}

size_t fixture_fetch(struct fixture *fixture, int64_t member, int64_t session, char ids[][32], size_t limit)
{
    bool done = false;
    struct store_fetch fetch = {
        .request = { .done = fixture_done, .argument = &done },
        .session = session,
        .member = member,
        .wanted = { true, true, true },
        .limit = limit,
        .byte_limit = 1 << 20,
    };
    fixture->store->operations->fetch(fixture->store, &fetch);
    fixture_wait(fixture, &done);
    assert_int_equal(fetch.request.status, 0);
    size_t count = 0;
    for (const struct store_message *message = fetch.first; message != NULL; message = message->next)
        (void)snprintf(ids[count++], 32, "%s", message->client_message_id);
    store_messages_free(fetch.first);
    return count;
}

struct store_ack fixture_acknowledge(struct fixture *fixture, int64_t member, int64_t session, const char *broker_message_id,
                                     enum store_ack_kind kind)
{
    return fixture_acknowledge_by(fixture, member, session, broker_message_id, kind, "");
}

struct store_ack fixture_acknowledge_by(struct fixture *fixture, int64_t member, int64_t session, const char *broker_message_id,
                                        enum store_ack_kind kind, const char *by)
{
    bool done = false;
    struct store_acknowledge *acks = memory_zalloc(sizeof(*acks) + sizeof(struct store_ack));
    acks->request.done = fixture_done;
    acks->request.argument = &done;
    acks->count = 1;
    acks->acks[0] = (struct store_ack){ .kind = kind, .mesh = fixture->mesh, .member = member, .session = session, .at = now_ms };
    assert_int_equal(string_copy(acks->acks[0].broker_message_id, ULID_SIZE, broker_message_id), 0);
    assert_int_equal(string_copy(acks->acks[0].by, STORE_KEY_SIZE, by), 0);
    fixture->store->operations->acknowledge(fixture->store, acks);
    fixture_wait(fixture, &done);
    assert_int_equal(acks->request.status, 0);
    struct store_ack ack = acks->acks[0];
    free(acks);
    return ack;
}

enum store_statement_outcome fixture_state(struct fixture *fixture, enum store_statement_kind kind, const char *subject, const char *by,
                                           const char *value, int64_t seq)
{
    bool done = false;
    struct store_statement statement = {
        .request = { .done = fixture_done, .argument = &done },
        .mesh = fixture->mesh,
        .kind = kind,
        .subject = subject,
        .by = by,
        .value = value,
        .seq = seq,
        .document = "{\"signed\":true}",
        .now_ms = now_ms,
    };
    fixture->store->operations->state(fixture->store, &statement);
    fixture_wait(fixture, &done);
    assert_int_equal(statement.request.status, 0);
    return statement.outcome;
}
