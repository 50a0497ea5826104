/* Owns what a broker hands out: member lists and membership events, taken apart into what it says (shown) and what members signed (believed, evidence.c). Must not
 * fail over one bad entry: what is refused is counted, and the rest holds. */
#include "json/json.h"
#include "trust/trust_internal.h"
#include "util/limits.h"
#include "util/memory.h"

enum { DEFERRED_BYTES_MAXIMUM = 4 * 1024 * 1024 }; /* of a list in pages; what a broker may make us hold */

/* ---- statements ------------------------------------------------------------------------------------------- */

static enum acceptance accept_certificate(struct trust *trust, const json_t *document, struct trust_changes *changes)
{
    (void)changes;
    return evidence_certificate(trust, document);
}

static enum acceptance accept_grant(struct trust *trust, const json_t *document, struct trust_changes *changes)
{
    (void)changes;
    return evidence_grant(trust, document);
}

static enum acceptance accept_invite_revocation(struct trust *trust, const json_t *document, struct trust_changes *changes)
{
    (void)changes;
    return evidence_invite_revocation(trust, document);
}

static enum acceptance accept_revocation(struct trust *trust, const json_t *document, struct trust_changes *changes)
{
    (void)changes;
    return evidence_revocation(trust, document);
}

static enum acceptance accept_rotation(struct trust *trust, const json_t *document, struct trust_changes *changes)
{
    bool is_fork = false;
    enum acceptance acceptance = evidence_rotation(trust, document, &is_fork);
    changes->rotation_forks += is_fork ? 1 : 0;
    return acceptance;
}

static enum acceptance accept_name(struct trust *trust, const json_t *document, struct trust_changes *changes)
{
    (void)changes;
    return evidence_name(trust, document);
}

static enum acceptance accept_leave(struct trust *trust, const json_t *document, struct trust_changes *changes)
{
    (void)changes;
    return evidence_leave(trust, document);
}

/* Where statements of a kind stand: in a list of their own, in a member or an event, or as an event's whole data. */
static const struct source {
    const char *list, *field, *event;
    enum acceptance (*accept)(struct trust *trust, const json_t *document, struct trust_changes *changes);
} SOURCES[] = {
    { "certs", "cert", NULL, accept_certificate },
    { "grants", "grant", "member_joined", accept_grant },
    { "invite_revocations", "invite_revocation", NULL, accept_invite_revocation },
    { "revocations", "revocation", "member_revoked", accept_revocation },
    { "rotations", "rotation", "member_keypair_rotated", accept_rotation },
    { "names", "name_statement", "member_renamed", accept_name },
    { "leaves", "leave", "member_left", accept_leave },
};

struct candidate {
    const json_t *document;
    const struct source *source;
    bool settled;        /* accepted, or never to be */
    int64_t seq, number; /* of a rotation; of all, as they came */
};

struct candidates {
    struct candidate *items;
    size_t count, accepted;
};

static void candidates_add(struct candidates *candidates, const struct source *source, const json_t *document)
{
    if (document == NULL || json_is_null(document)) {
        return;
    }
    candidates->items = memory_realloc(candidates->items, (candidates->count + 1) * sizeof(*candidates->items));
    struct candidate candidate = { .document = document, .source = source, .number = (int64_t)candidates->count };
    if (source->accept == accept_rotation &&
        json_read_integer(document, "seq", JSON_REQUIRED, 0, INT64_C(1) << 53, &candidate.seq, NULL) != 0) {
        candidate.seq = 0; /* none: whoever accepts it says so */
    }
    candidates->items[candidates->count++] = candidate;
}

/* Each step of a line after the one before it, however long the line and whatever order a broker chose: one pass takes them all. */
static int compare_candidates(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    int64_t order = a->source != b->source ? a->source - b->source : a->seq != b->seq ? a->seq - b->seq : a->number - b->number;
    return order < 0 ? -1 : order > 0 ? 1 : 0;
}

static void candidates_add_fields(struct candidates *candidates, const json_t *object)
{
    for (size_t index = 0; index < ARRAY_LENGTH(SOURCES); index++) {
        candidates_add(candidates, &SOURCES[index], json_object_get(object, SOURCES[index].field));
    }
}

/* One statement may rest on another that stands further down: again, for as long as anything new was accepted. */
static void candidates_settle(struct trust *trust, struct candidates *candidates, struct trust_changes *changes)
{
    size_t accepted = 0;
    if (candidates->count > 1) {
        qsort(candidates->items, candidates->count, sizeof(*candidates->items), compare_candidates);
    }
    do {
        accepted = 0;
        for (size_t index = 0; index < candidates->count; index++) {
            struct candidate *candidate = &candidates->items[index];
            if (candidate->settled) {
                continue;
            }
            enum acceptance acceptance = candidate->source->accept(trust, candidate->document, changes);
            candidate->settled = acceptance != EVIDENCE_REFUSED;
            candidates->accepted += acceptance == EVIDENCE_NEW || acceptance == EVIDENCE_KNOWN ? 1 : 0;
            accepted += acceptance == EVIDENCE_NEW ? 1 : 0;
        }
    } while (accepted > 0);
}

/* ---- across pages --------------------------------------------------------------------------------------------- */

/* What rests on something that no page had until now: a revocation by an admin whose certificate comes with the members, the step of somebody who is not listed yet. It is looked at again with the last
 * page, before anything is judged by the list. */
static void defer(struct trust *trust, const struct candidate *candidate, struct trust_changes *changes)
{
    size_t size = json_dumpb(candidate->document, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY);
    if (size == 0 || size > DEFERRED_BYTES_MAXIMUM - trust->deferred_bytes) {
        changes->refused++;
        return;
    }
    if (trust->deferred == NULL) {
        trust->deferred = json_new_array();
    }
    json_t *kept = json_new_array();
    json_array_append_new(kept, json_integer(candidate->source - SOURCES));
    json_array_append_new(kept, json_deep_copy(candidate->document)); /* whatever the caller's page lies in */
    json_array_append_new(trust->deferred, kept);
    trust->deferred_bytes += size;
}

static void forget_deferred(struct trust *trust)
{
    json_decref(trust->deferred);
    trust->deferred = NULL;
    trust->deferred_bytes = 0;
}

static void candidates_add_deferred(struct candidates *candidates, const struct trust *trust)
{
    size_t index = 0;
    const json_t *kept = NULL;
    json_array_foreach(trust->deferred, index, kept)
    {
        candidates_add(candidates, &SOURCES[json_integer_value(json_array_get(kept, 0))], json_array_get(kept, 1));
    }
}

static void candidates_end(struct trust *trust, const struct candidates *candidates, bool more, struct trust_changes *changes)
{
    size_t open = 0;
    for (size_t index = 0; more && index < candidates->count; index++) {
        if (!candidates->items[index].settled) {
            open++;
            defer(trust, &candidates->items[index], changes);
        }
    }
    changes->refused += candidates->count - candidates->accepted - open;
}

/* ---- what the broker says ------------------------------------------------------------------------------------- */

/* The front of a text that fits a display name, in whole characters. */
static char *cut_name(const char *name)
{
    size_t length = strnlen(name, LIMIT_DISPLAY_NAME);
    while (name[length] != '\0' && length > 0 && ((unsigned char)name[length] & 0xC0) == 0x80) {
        length--;
    }
    return memory_strndup(name, length);
}

/* Milliseconds, or an existing broker's RFC 3339. */
static int64_t time_of(const json_t *object, const char *name, int64_t otherwise)
{
    int64_t time_ms = otherwise;
    const json_t *value = json_object_get(object, name);
    if (json_is_string(value)) {
        return time_parse_rfc3339(json_string_value(value), &time_ms) == 0 ? time_ms : otherwise;
    }
    return json_read_integer(object, name, JSON_OPTIONAL, 0, INT64_C(1) << 53, &time_ms, NULL) == 0 ? time_ms : otherwise;
}

static const char *string_or_null(const json_t *object, const char *name, const char *other_name)
{
    const char *value = NULL;
    if (json_read_string(object, name, JSON_OPTIONAL, &value, NULL) == 0 && value == NULL) {
        return json_read_string(object, other_name, JSON_OPTIONAL, &value, NULL) == 0 ? value : NULL;
    }
    return value;
}

static bool replace_text(char **text, char *value /* taken over */)
{
    bool differs = !string_equal(*text, value);
    free(*text);
    *text = value;
    return differs;
}

/* One entry of the list. false: it names no key that could be anybody's. */
static bool merge_member(struct trust *trust, const json_t *object, struct trust_changes *changes)
{
    const char *pubkey = string_or_null(object, "pubkey", "memberPubkey");
    const char *member_id = string_or_null(object, "id", "memberId");
    const char *name = string_or_null(object, "displayName", "name");
    struct person *person = pubkey == NULL ? NULL : people_get(trust, pubkey);
    if (person == NULL) {
        return false;
    }
    struct trust_member *member = &person->member;
    bool changed = !member->listed;
    changes->new_members += member->listed ? 0 : 1;
    member->listed = true;
    person->list_generation = trust->list_generation;
    if (member_id != NULL && id_is_valid(member_id)) {
        changed = replace_text(&member->member_id, memory_strdup(member_id)) || changed;
    }
    if (name != NULL) {
        changed = replace_text(&person->broker_name, cut_name(name)) || changed;
    }
    int64_t joined_at = time_of(object, "joinedAt", member->joined_at);
    int64_t last_seen_at = time_of(object, "lastSeenAt", member->last_seen_at);
    const json_t *revoked = json_object_get(object, "revoked");
    bool revoked_claim = json_is_boolean(revoked) ? json_is_true(revoked) : member->revoked_claim;
    changed = changed || joined_at != member->joined_at || last_seen_at != member->last_seen_at || revoked_claim != member->revoked_claim;
    member->joined_at = joined_at;
    member->last_seen_at = last_seen_at;
    member->revoked_claim = revoked_claim;
    if (changed) {
        trust_store_put_member(trust->store, member, person->broker_name);
    }
    return true;
}

/* The list is whole: who was not in it is not listed any more. */
static void finish_list(struct trust *trust, struct trust_changes *changes)
{
    for (size_t index = 0; index < trust->people_count; index++) {
        struct person *person = trust->people[index];
        if (person->member.listed && person->list_generation != trust->list_generation) {
            person->member.listed = false;
            trust_store_put_member(trust->store, &person->member, person->broker_name);
        }
    }
    trust->fresh = true;
    if (trust->awaits_list) { /* stored with what the list brought: a crash between leaves neither */
        trust->awaits_list = false;
        trust_store_drop_awaiting(trust->store);
    }
    trust->fork = trust->expected_revocations > trust->counted_revocations;
    changes->fork = trust->fork;
}

/* ---- entry points ----------------------------------------------------------------------------------------- */

static bool is_positive(const json_t *object, const char *name)
{
    int64_t number = 0;
    return json_read_integer(object, name, JSON_OPTIONAL, INT64_MIN, INT64_MAX, &number, NULL) == 0 && number > 0;
}

int trust_merge_members(struct trust *trust, const json_t *members_list, struct trust_changes *ret_changes, struct error *error)
{
    struct candidates candidates = { NULL, 0, 0 };
    const json_t *members = NULL;
    size_t index = 0;
    const json_t *member = NULL;
    int result = json_read_array(members_list, "members", JSON_REQUIRED, &members, error);
    if (result != 0) {
        return result;
    }
    *ret_changes = (struct trust_changes){ 0 };
    bool more = is_positive(members_list, "next");
    if (!is_positive(members_list, "after")) {
        trust->list_generation++; /* the first page, or the only one */
        forget_deferred(trust);
    }
    json_array_foreach(members, index, member)
    {
        if (merge_member(trust, member, ret_changes)) {
            candidates_add_fields(&candidates, member);
        } else {
            ret_changes->refused++;
        }
    }
    for (size_t source = 0; source < ARRAY_LENGTH(SOURCES); source++) {
        const json_t *list = json_object_get(members_list, SOURCES[source].list);
        const json_t *document = NULL;
        json_array_foreach(list, index, document)
        {
            candidates_add(&candidates, &SOURCES[source], document);
        }
    }
    if (!more) {
        candidates_add_deferred(&candidates, trust);
    }
    candidates_settle(trust, &candidates, ret_changes);
    candidates_end(trust, &candidates, more, ret_changes);
    free(candidates.items);
    recount(trust, ret_changes);
    if (!more) {
        forget_deferred(trust);
        finish_list(trust, ret_changes);
        recount(trust, ret_changes); /* who is listed decides whose names are claims */
        people_drop_strangers(trust);
    }
    trust_store_flush(trust->store);
    return 0;
}

/* An event whose data is the statement itself. */
static void candidates_add_whole(struct candidates *candidates, const char *event, const json_t *data)
{
    const json_t *nested = json_object_get(data, "statement");
    const json_t *document = nested != NULL ? nested : data;
    if (json_object_get(document, "sig") == NULL && json_object_get(document, "sig_old") == NULL) {
        return;
    }
    for (size_t index = 0; index < ARRAY_LENGTH(SOURCES); index++) {
        if (string_equal(SOURCES[index].event, event)) {
            candidates_add(candidates, &SOURCES[index], document);
        }
    }
}

static bool merge_event_member(struct trust *trust, const char *event, const json_t *data, struct trust_changes *changes)
{
    const char *pubkey = string_or_null(data, "pubkey", "memberPubkey");
    bool is_about_a_member =
        string_equal(event, "member_joined") ||
        (string_equal(event, "member_renamed") && people_find(trust, pubkey) != NULL && json_object_get(data, "displayName") != NULL);
    return is_about_a_member && merge_member(trust, data, changes);
}

int trust_merge_event(struct trust *trust, const char *event, const json_t *event_data, struct trust_changes *ret_changes,
                      struct error *error)
{
    struct candidates candidates = { NULL, 0, 0 };
    struct trust_changes changes = { 0 };
    if (!json_is_object(event_data)) {
        return error_set(error, ERROR_INVALID, "the event has no data");
    }
    bool is_useful = merge_event_member(trust, event, event_data, &changes);
    candidates_add_fields(&candidates, event_data);
    candidates_add_whole(&candidates, event, event_data);
    candidates_settle(trust, &candidates, &changes);
    candidates_end(trust, &candidates, false, &changes);
    free(candidates.items);
    is_useful = is_useful || candidates.accepted > 0;
    recount(trust, &changes);
    trust_store_flush(trust->store);
    if (!is_useful) {
        return error_set(error, ERROR_INVALID, "nothing in the event can be believed");
    }
    changes.fork = trust->fork;
    *ret_changes = changes;
    return 0;
}
