/* Owns the acceptance of single statements: form, mesh, signature, and whether their signer may say such a thing at all; then the fact and its row. What the facts mean together is
 * recount.c's: a statement that is kept here may still count for nothing. */
#include "json/json.h"
#include "proto/invite.h"
#include "trust/trust_internal.h"
#include "util/clock.h"
#include "util/memory.h"

/* ---- reading ---------------------------------------------------------------------------------------------- */

static const char *string_of(const json_t *object, const char *name)
{
    const char *value = NULL;
    return json_read_string(object, name, JSON_REQUIRED, &value, NULL) == 0 ? value : NULL;
}

/* A key as text, or NULL. */
static const char *key_of(const json_t *object, const char *name)
{
    const char *value = string_of(object, name);
    return value != NULL && hex_is_key(value) ? value : NULL;
}

static bool integer_of(const json_t *object, const char *name, int64_t *ret_value)
{
    return json_read_integer(object, name, JSON_REQUIRED, 0, INT64_C(1) << 53, ret_value, NULL) == 0;
}

/* What comes from our own tables was verified before it was put there. */
static bool is_signed(const struct trust *trust, enum statement_kind kind, const json_t *document, const char *by_hex,
                      const char *signature_name)
{
    return trust->loading || statement_verify_json(kind, document, by_hex, signature_name, NULL) == 0;
}

static bool is_of_this_mesh(const struct trust *trust, const json_t *document)
{
    return string_equal(string_of(document, "mesh"), trust->mesh_id);
}

static bool is_owner(const struct trust *trust, const char *pubkey_hex)
{
    return trust->owner_pubkey[0] != '\0' && string_equal(pubkey_hex, trust->owner_pubkey);
}

static void copy_key(char ret_key[KEY_HEX_SIZE], const char *key)
{
    memcpy(ret_key, key, KEY_HEX_SIZE);
}

/* ---- keeping ---------------------------------------------------------------------------------------------- */

static void copy_field(json_t *target, const json_t *source, const char *name)
{
    json_t *value = json_object_get(source, name);
    if (value != NULL) {
        json_put(target, name, json_incref(value));
    }
}

/* The statement's own fields and signatures, and nothing that a broker may have hung beside them. */
static json_t *bare_statement(enum statement_kind kind, const json_t *document)
{
    static const char *const SIGNATURES[] = { "by", "sig", "sig_old", "sig_new" };
    json_t *bare = json_new_object();
    for (size_t index = 0; index < statement_field_count(kind); index++) {
        copy_field(bare, document, statement_field_name(kind, index));
    }
    for (size_t index = 0; index < ARRAY_LENGTH(SIGNATURES); index++) {
        copy_field(bare, document, SIGNATURES[index]);
    }
    return bare;
}

static void keep_document(struct trust *trust, const char *kind, char *id /* taken over */, json_t *document /* taken over */)
{
    if (!trust->loading) {
        char *text = json_to_string(document, NULL);
        trust_store_put_statement(trust->store, kind, id, text);
        free(text);
    }
    json_decref(document);
    free(id);
}

static void keep_statement(struct trust *trust, enum statement_kind kind, const char *kind_name, char *id, const json_t *document)
{
    keep_document(trust, kind_name, id, bare_statement(kind, document));
}

/* ---- certificates ----------------------------------------------------------------------------------------- */

static json_t *bare_certificate(const struct certificate *certificate, const json_t *document)
{
    json_t *bare = json_new_object();
    json_t *invite = invite_public_json(&certificate->invite);
    if (certificate->invite.signer_grant != NULL) {
        json_put(invite, "signer_grant", bare_statement(STATEMENT_GRANT, certificate->invite.signer_grant));
    }
    json_put(bare, "invite", invite);
    json_put(bare, "join", bare_statement(STATEMENT_JOIN, json_object_get(document, "join")));
    copy_field(bare, document, "invite_pubkey");
    copy_field(bare, document, "invite_sig");
    copy_field(bare, document, "self_sig");
    return bare;
}

static struct certificate_fact *certificate_of_invite(const struct person *person, const char *invite_id)
{
    for (size_t index = 0; person != NULL && index < person->certificate_count; index++) {
        if (string_equal(person->certificates[index].invite_id, invite_id)) {
            return &person->certificates[index];
        }
    }
    return NULL;
}

/* Joining twice with one key uses one place: the earlier join is the one. Also saves verifying each certificate again with every list. */
static bool certificate_is_known(const struct trust *trust, const json_t *document)
{
    const json_t *join = json_object_get(document, "join");
    int64_t at = 0;
    const char *invite_id = string_of(join, "invite_id");
    const struct certificate_fact *fact =
        invite_id == NULL ? NULL : certificate_of_invite(people_find(trust, key_of(join, "pubkey")), invite_id);
    return fact != NULL && integer_of(join, "at", &at) && at >= fact->at;
}

static void certificate_keep(struct trust *trust, struct person *person, const struct certificate *certificate, const json_t *document)
{
    struct certificate_fact *fact = certificate_of_invite(person, certificate->invite.invite_id);
    if (fact == NULL) {
        person->certificates = memory_realloc(person->certificates, (person->certificate_count + 1) * sizeof(*person->certificates));
        fact = &person->certificates[person->certificate_count++];
        *fact = (struct certificate_fact){ 0 };
    }
    const char *signer = certificate->invite.signer_pubkey;
    (void)snprintf(fact->invite_id, sizeof(fact->invite_id), "%s", certificate->invite.invite_id);
    copy_key(fact->signer, signer != NULL ? signer : certificate->invite.owner_pubkey);
    fact->role = string_equal(certificate->role, "admin") ? ROLE_ADMIN : ROLE_MEMBER;
    fact->at = certificate->at_ms;
    fact->max_uses = certificate->invite.max_uses;
    free(fact->name);
    fact->name = memory_strdup(certificate->name);
    keep_document(trust, "certificate", memory_printf("%s:%s", certificate->pubkey, fact->invite_id),
                  bare_certificate(certificate, document));
    if (certificate->invite.signer_grant != NULL) {
        (void)evidence_grant(trust, certificate->invite.signer_grant); /* verified with the certificate; known or new is all the same */
    }
}

enum acceptance evidence_certificate(struct trust *trust, const json_t *document)
{
    struct certificate certificate = { 0 };
    enum acceptance acceptance = EVIDENCE_REFUSED;
    if (certificate_is_known(trust, document)) {
        return EVIDENCE_KNOWN;
    }
    int result = trust->loading ? certificate_parse(document, &certificate, NULL)
                                : certificate_verify(document, trust->mesh_id, trust->owner_pubkey, &certificate, NULL);
    if (result != 0) {
        return EVIDENCE_FALSE; /* nothing but the pinned owner decides about it */
    }
    struct person *person = people_get(trust, certificate.pubkey);
    if (person != NULL) {
        certificate_keep(trust, person, &certificate, document);
        acceptance = EVIDENCE_NEW;
    }
    certificate_release(&certificate);
    return acceptance;
}

/* ---- grants ----------------------------------------------------------------------------------------------- */

enum acceptance evidence_grant(struct trust *trust, const json_t *document)
{
    const char *pubkey = key_of(document, "pubkey");
    const char *by = key_of(document, "by");
    const char *role = string_of(document, "role");
    struct grant_fact fact = { .role = string_equal(role, "admin") ? ROLE_ADMIN : ROLE_MEMBER };
    if (!is_of_this_mesh(trust, document) || pubkey == NULL || by == NULL || !integer_of(document, "seq", &fact.seq) ||
        !integer_of(document, "at", &fact.at)) {
        return EVIDENCE_REFUSED;
    }
    copy_key(fact.by, by);
    struct person *person = people_find(trust, pubkey);
    for (size_t index = 0; person != NULL && index < person->grant_count; index++) {
        if (string_equal(person->grants[index].by, by) && person->grants[index].seq == fact.seq) {
            return EVIDENCE_KNOWN; /* the first of one seq is kept */
        }
    }
    /* Whoever makes an admin is the owner; an admin may vouch for a member. */
    if (!trust->loading && !is_owner(trust, by) && (fact.role == ROLE_ADMIN || !recount_is_authority(trust, by))) {
        return EVIDENCE_REFUSED;
    }
    if (!is_signed(trust, STATEMENT_GRANT, document, by, "sig") || (person = people_get(trust, pubkey)) == NULL) {
        return EVIDENCE_FALSE;
    }
    person->grants = memory_realloc(person->grants, (person->grant_count + 1) * sizeof(*person->grants));
    person->grants[person->grant_count++] = fact;
    keep_statement(trust, STATEMENT_GRANT, "grant", memory_printf("%s:%s:%" PRId64, pubkey, by, fact.seq), document);
    return EVIDENCE_NEW;
}

/* ---- names and leaves ------------------------------------------------------------------------------------- */

/* Only the key itself speaks; a statement that names another as its maker is none. */
static bool is_by_itself(const json_t *document, const char *pubkey)
{
    const json_t *by = json_object_get(document, "by");
    return by == NULL || json_is_null(by) || string_equal(string_of(document, "by"), pubkey);
}

enum acceptance evidence_name(struct trust *trust, const json_t *document)
{
    const char *pubkey = key_of(document, "pubkey");
    const char *name = string_of(document, "name");
    struct person *person = people_find(trust, pubkey);
    int64_t seq = 0;
    if (!is_of_this_mesh(trust, document) || person == NULL || name == NULL || !integer_of(document, "seq", &seq) ||
        !is_by_itself(document, pubkey)) {
        return EVIDENCE_REFUSED;
    }
    if (seq <= person->name_seq) {
        return EVIDENCE_KNOWN; /* this one, or an older one that somebody plays again */
    }
    if (!is_signed(trust, STATEMENT_NAME, document, pubkey, "sig")) {
        return EVIDENCE_FALSE;
    }
    free(person->signed_name);
    person->signed_name = memory_strdup(name);
    person->name_seq = seq;
    keep_statement(trust, STATEMENT_NAME, "name", memory_strdup(pubkey), document);
    return EVIDENCE_NEW;
}

enum acceptance evidence_leave(struct trust *trust, const json_t *document)
{
    const char *pubkey = key_of(document, "pubkey");
    struct person *person = people_find(trust, pubkey);
    int64_t at = 0;
    if (!is_of_this_mesh(trust, document) || person == NULL || !integer_of(document, "at", &at) || !is_by_itself(document, pubkey)) {
        return EVIDENCE_REFUSED;
    }
    if (at <= person->left_at) {
        return EVIDENCE_KNOWN;
    }
    if (!is_signed(trust, STATEMENT_LEAVE, document, pubkey, "sig")) {
        return EVIDENCE_FALSE;
    }
    person->left_at = at;
    keep_statement(trust, STATEMENT_LEAVE, "leave", memory_strdup(pubkey), document);
    return EVIDENCE_NEW;
}

/* ---- revocations ------------------------------------------------------------------------------------------ */

static bool hash_of_text(enum statement_kind kind, const json_t *document, struct sha256 *ret_hash)
{
    struct buffer text;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    bool is_text = statement_text_of_json(kind, document, &text, NULL) == 0;
    if (is_text) {
        sha256_of(text.data, text.length, ret_hash);
    }
    buffer_release(&text);
    return is_text;
}

static bool hash_equal(const struct sha256 *a, const struct sha256 *b)
{
    return memcmp(a->bytes, b->bytes, SHA256_BYTES) == 0;
}

static char *hash_hex(const struct sha256 *hash)
{
    char *hex = memory_alloc(SHA256_HEX_SIZE);
    hex_encode(hash->bytes, SHA256_BYTES, hex);
    return hex;
}

/* By the owner, or by somebody who was an admin at some time. When, and against whom, is judged anew at each recount. */
static bool may_revoke(struct trust *trust, const char *by)
{
    return trust->loading || is_owner(trust, by) || recount_is_authority(trust, by);
}

enum acceptance evidence_revocation(struct trust *trust, const json_t *document)
{
    struct revocation_fact fact = { .at = 0 };
    const char *subject = key_of(document, "subject_pubkey");
    const char *by = key_of(document, "by");
    if (!is_of_this_mesh(trust, document) || subject == NULL || by == NULL || !integer_of(document, "at", &fact.at) ||
        !hash_of_text(STATEMENT_REVOCATION, document, &fact.text_hash)) {
        return EVIDENCE_REFUSED;
    }
    for (size_t index = 0; index < trust->revocation_count; index++) {
        if (hash_equal(&trust->revocations[index].text_hash, &fact.text_hash)) {
            return EVIDENCE_KNOWN;
        }
    }
    if (is_owner(trust, subject) || !may_revoke(trust, by)) {
        return EVIDENCE_REFUSED;
    }
    if (!is_signed(trust, STATEMENT_REVOCATION, document, by, "sig") || people_get(trust, subject) == NULL) {
        return EVIDENCE_FALSE;
    }
    copy_key(fact.subject, subject);
    copy_key(fact.by, by);
    trust->revocations = memory_realloc(trust->revocations, (trust->revocation_count + 1) * sizeof(*trust->revocations));
    trust->revocations[trust->revocation_count++] = fact;
    keep_statement(trust, STATEMENT_REVOCATION, "revocation", hash_hex(&fact.text_hash), document);
    return EVIDENCE_NEW;
}

enum acceptance evidence_invite_revocation(struct trust *trust, const json_t *document)
{
    struct invite_revocation_fact fact = { .at = 0 };
    const char *invite_id = string_of(document, "invite_id");
    const char *by = key_of(document, "by");
    if (!is_of_this_mesh(trust, document) || invite_id == NULL || by == NULL || !integer_of(document, "at", &fact.at) ||
        !hash_of_text(STATEMENT_INVITE_REVOCATION, document, &fact.text_hash)) {
        return EVIDENCE_REFUSED;
    }
    for (size_t index = 0; index < trust->invite_revocation_count; index++) {
        if (hash_equal(&trust->invite_revocations[index].text_hash, &fact.text_hash)) {
            return EVIDENCE_KNOWN;
        }
    }
    if (!may_revoke(trust, by)) {
        return EVIDENCE_REFUSED;
    }
    if (!is_signed(trust, STATEMENT_INVITE_REVOCATION, document, by, "sig")) {
        return EVIDENCE_FALSE;
    }
    (void)snprintf(fact.invite_id, sizeof(fact.invite_id), "%s", invite_id); /* 64 at most: its text was made */
    copy_key(fact.by, by);
    trust->invite_revocations =
        memory_realloc(trust->invite_revocations, (trust->invite_revocation_count + 1) * sizeof(*trust->invite_revocations));
    trust->invite_revocations[trust->invite_revocation_count++] = fact;
    keep_statement(trust, STATEMENT_INVITE_REVOCATION, "invite_revocation", hash_hex(&fact.text_hash), document);
    return EVIDENCE_NEW;
}

/* ---- rotations -------------------------------------------------------------------------------------------- */

static bool rotation_is_signed(const struct trust *trust, const json_t *document, const char *old, const char *new)
{
    return is_signed(trust, STATEMENT_ROTATION, document, old, "sig_old") && is_signed(trust, STATEMENT_ROTATION, document, new, "sig_new");
}

/* Its `at` is its maker's word: one that lies far ahead must not put every grant to come behind it. So it is kept with when it was first seen. */
static void keep_fork(struct trust *trust, struct person *old, const json_t *document, int64_t at)
{
    int64_t seen_at = clock_wall_ms();
    if (trust->loading && !integer_of(document, "seen_at", &seen_at)) {
        seen_at = at;
    }
    old->fork_at = at < seen_at ? at : seen_at;
    json_t *kept = bare_statement(STATEMENT_ROTATION, document);
    json_put_integer(kept, "seen_at", seen_at);
    keep_document(trust, "rotation_fork", memory_strdup(old->member.pubkey), kept);
}

/* A second one for a seq: the first is kept (45-trust). The same step under another time is the same step: who died before the broker's answer signs it again. */
static enum acceptance rotation_fork(struct trust *trust, const json_t *document, struct person *old, const char *new, int64_t seq,
                                     int64_t at, bool *ret_fork)
{
    if (string_equal(old->successor->member.pubkey, new)) {
        return EVIDENCE_KNOWN;
    }
    if (old->fork_at >= 0) {
        return EVIDENCE_KNOWN; /* told once */
    }
    if (seq != old->successor->rotation_seq) {
        return EVIDENCE_REFUSED;
    }
    if (!rotation_is_signed(trust, document, old->member.pubkey, new)) {
        return EVIDENCE_FALSE;
    }
    *ret_fork = true;
    keep_fork(trust, old, document, at);
    return EVIDENCE_NEW;
}

enum acceptance evidence_rotation(struct trust *trust, const json_t *document, bool *ret_fork)
{
    const char *old_key = key_of(document, "old");
    const char *new_key = key_of(document, "new");
    struct person *old = people_find(trust, old_key);
    int64_t seq = 0;
    int64_t at = 0;
    if (!is_of_this_mesh(trust, document) || old == NULL || new_key == NULL || string_equal(old_key, new_key) ||
        !integer_of(document, "seq", &seq) || !integer_of(document, "at", &at)) {
        return EVIDENCE_REFUSED;
    }
    if (old->successor != NULL) {
        return rotation_fork(trust, document, old, new_key, seq, at, ret_fork);
    }
    if (seq != old->rotation_seq + 1) {
        return EVIDENCE_REFUSED;
    }
    if (!rotation_is_signed(trust, document, old_key, new_key)) {
        return EVIDENCE_FALSE;
    }
    struct person *new_person = people_get(trust, new_key);
    /* A key stands in one line, and in it once: so no line ever runs into itself. */
    if (new_person == NULL || new_person->predecessor != NULL || new_person->successor != NULL) {
        return EVIDENCE_FALSE;
    }
    old->successor = new_person;
    old->rotated_at = at;
    new_person->predecessor = old;
    new_person->rotation_seq = seq;
    keep_statement(trust, STATEMENT_ROTATION, "rotation", memory_strdup(old_key), document);
    return EVIDENCE_NEW;
}
