/* Owns a mesh's trust: opening, what callers ask of it, the facts that are no statements. Must not verify or resolve: evidence.c, recount.c, names.c. */
#include "trust/trust_internal.h"
#include "util/memory.h"

int trust_open(struct db *db, const struct trust_identity *identity, struct trust **ret_trust, struct error *error)
{
    struct trust *trust = memory_zalloc(sizeof(*trust));
    int result = 0;
    trust->mesh_id = memory_strdup(identity->mesh_id);
    trust->mesh_slug = memory_strdup(identity->mesh_slug);
    trust->store = trust_store_new(db, identity->mesh_id);
    if (identity->owner_pubkey != NULL && identity->owner_pubkey[0] != '\0') {
        if (string_copy(trust->owner_pubkey, sizeof(trust->owner_pubkey), identity->owner_pubkey) != 0 ||
            people_get(trust, identity->owner_pubkey) == NULL) {
            result = error_set(error, ERROR_INVALID, "the owner's key of mesh '%s' is malformed", identity->mesh_slug);
            goto failed;
        }
    }
    if (string_copy(trust->own_pubkey, sizeof(trust->own_pubkey), identity->own_pubkey) != 0 ||
        people_get(trust, identity->own_pubkey) == NULL) {
        result = error_set(error, ERROR_INVALID, "our own key in mesh '%s' is malformed", identity->mesh_slug);
        goto failed;
    }
    trust->loading = true;
    result = trust_store_load(trust->store, trust, error);
    trust->loading = false;
    if (result < 0) {
        goto failed;
    }
    struct person *own = people_find(trust, trust->own_pubkey);
    if (own->member.member_id[0] == '\0' && identity->own_member_id != NULL) {
        free(own->member.member_id);
        own->member.member_id = memory_strdup(identity->own_member_id);
    }
    recount(trust, NULL);
    *ret_trust = trust;
    return 0;
failed:
    trust_free(trust);
    return result;
}

void trust_free(struct trust *trust)
{
    if (trust == NULL) {
        return;
    }
    people_free(trust);
    names_free(trust);
    trust_store_free(trust->store);
    free(trust->revocations);
    free(trust->invite_revocations);
    free(trust->facts.profile);
    json_decref(trust->deferred);
    free(trust->mesh_id);
    free(trust->mesh_slug);
    free(trust);
}

/* ---- members ---------------------------------------------------------------------------------------------- */

const struct trust_member *trust_member(const struct trust *trust, const char *pubkey_hex)
{
    const struct person *person = people_find(trust, pubkey_hex);
    return person != NULL && person_is_visible(trust, person) ? &person->member : NULL;
}

size_t trust_member_count(const struct trust *trust)
{
    return trust->visible_count;
}

const struct trust_member *trust_member_at(const struct trust *trust, size_t index)
{
    return index < trust->visible_count ? &trust->visible[index]->member : NULL;
}

bool trust_is_fresh(const struct trust *trust)
{
    return trust->fresh;
}

bool trust_awaits_list(const struct trust *trust)
{
    return trust->awaits_list;
}

void trust_mark_stale(struct trust *trust)
{
    trust->fresh = false;
}

/* ---- revocations ------------------------------------------------------------------------------------------ */

const char *trust_rv(const struct trust *trust)
{
    return trust->rv;
}

int64_t trust_revocation_count(const struct trust *trust)
{
    return trust->counted_revocations;
}

bool trust_is_revoked(const struct trust *trust, const char *pubkey_hex)
{
    const struct person *person = people_find(trust, pubkey_hex);
    return person != NULL && person->member.revoked;
}

bool trust_self_revoked(const struct trust *trust)
{
    return trust_is_revoked(trust, trust->own_pubkey);
}

bool trust_expect_rv(struct trust *trust, const char *rv)
{
    enum { COUNT_DIGITS = 16 }; /* of 2^53, as in the statement's text */
    char digits[COUNT_DIGITS + 1];
    uint64_t count = 0;
    size_t length = rv == NULL ? 0 : strcspn(rv, ":");
    if (length == 0 || length > COUNT_DIGITS) {
        return false;
    }
    memcpy(digits, rv, length);
    digits[length] = '\0';
    if (parse_uint64(digits, &count) != 0 || (int64_t)count <= trust->counted_revocations) {
        return false;
    }
    if ((int64_t)count > trust->expected_revocations) {
        trust->expected_revocations = (int64_t)count;
    }
    return true;
}

void trust_list_failed(struct trust *trust)
{
    trust->fork = trust->expected_revocations > trust->counted_revocations;
}

bool trust_membership_fork(const struct trust *trust)
{
    return trust->fork;
}

/* ---- rotations ---------------------------------------------------------------------------------------------- */

bool trust_rotated_out(const struct trust *trust, const char *pubkey_hex, int64_t *ret_at)
{
    const struct person *person = people_find(trust, pubkey_hex);
    if (person == NULL || person->successor == NULL) {
        return false;
    }
    *ret_at = person->rotated_at;
    return true;
}

const char *trust_current_key(const struct trust *trust, const char *pubkey_hex)
{
    struct person *person = people_find(trust, pubkey_hex);
    return person == NULL ? pubkey_hex : person_current(person)->member.pubkey;
}

bool trust_same_member(const struct trust *trust, const char *pubkey_hex, const char *other_hex)
{
    struct person *person = people_find(trust, pubkey_hex);
    struct person *other = people_find(trust, other_hex);
    return string_equal(pubkey_hex, other_hex) || (person != NULL && other != NULL && person_root(person) == person_root(other));
}

size_t trust_keys_of(const struct trust *trust, const char *pubkey_hex, const char **ret_keys, size_t maximum)
{
    struct person *person = people_find(trust, pubkey_hex);
    size_t length = 0, count = 0;
    if (person == NULL) {
        ret_keys[0] = pubkey_hex;
        return 1;
    }
    for (const struct person *each = person_root(person); each != NULL; each = each->successor) {
        length++;
    }
    size_t skipped = length > maximum ? length - maximum : 0;
    for (const struct person *each = person_root(person); each != NULL; each = each->successor) {
        if (skipped > 0) {
            skipped--;
        } else {
            ret_keys[count++] = each->member.pubkey;
        }
    }
    return count;
}

bool trust_is_forked(const struct trust *trust, const char *pubkey_hex)
{
    const struct person *person = people_find(trust, pubkey_hex);
    return person != NULL && person->member.rotation_fork;
}

int64_t trust_next_rotation_seq(const struct trust *trust)
{
    const struct person *own = people_find(trust, trust->own_pubkey);
    return own->rotation_seq + 1;
}

/* ---- facts about senders and about the mesh ------------------------------------------------------------------------ */

int64_t trust_sender_body_version(const struct trust *trust, const char *pubkey_hex)
{
    struct person *person = people_find(trust, pubkey_hex);
    int64_t highest = 0;
    for (person = person == NULL ? NULL : person_root(person); person != NULL; person = person->successor) {
        highest = person->body_version > highest ? person->body_version : highest;
    }
    return highest;
}

void trust_note_body_version(struct trust *trust, const char *pubkey_hex, int64_t body_version)
{
    struct person *person = people_get(trust, pubkey_hex);
    if (person == NULL || body_version <= person->body_version) {
        return;
    }
    person->body_version = body_version;
    trust_store_put_body_version(trust->store, pubkey_hex, body_version);
    trust_store_flush(trust->store);
}

static void put_facts(struct trust *trust)
{
    trust_store_put_facts(trust->store, &trust->facts);
    trust_store_flush(trust->store);
}

int64_t trust_retention_days(const struct trust *trust)
{
    return trust->facts.retention_days;
}

void trust_set_retention_days(struct trust *trust, int64_t days)
{
    if (days != trust->facts.retention_days) {
        trust->facts.retention_days = days;
        put_facts(trust);
    }
}

bool trust_challenge_seen(const struct trust *trust)
{
    return trust->facts.challenge_seen;
}

void trust_set_challenge_seen(struct trust *trust)
{
    if (!trust->facts.challenge_seen) {
        trust->facts.challenge_seen = true;
        put_facts(trust);
    }
}

const char *trust_profile(const struct trust *trust)
{
    return trust->facts.profile;
}

void trust_set_profile(struct trust *trust, const char *json)
{
    if (!string_equal(json, trust->facts.profile)) {
        char *profile = memory_strdup(json);
        free(trust->facts.profile);
        trust->facts.profile = profile;
        put_facts(trust);
    }
}
