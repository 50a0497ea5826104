/* Member lists and membership events from a broker that lies: nobody is verified, revoked or an admin without a signature that the broker cannot make; the same list again changes nothing; names resolve to one
 * member, or to nobody. */
#include "fuzz_json.h"
#include "trust_world.h"
#include "util/text.h"

static void check_members(struct trust *trust)
{
    for (size_t i = 0; i < trust_member_count(trust); i++) {
        const struct trust_member *member = trust_member_at(trust, i);
        REQUIRE(trust_member(trust, member->pubkey) == member && strlen(member->name) <= LIMIT_DISPLAY_NAME);
        REQUIRE(utf8_is_valid(member->name, strlen(member->name)));
        if (member->verified || member->revoked || member->role == ROLE_ADMIN || member->name_signed || member->left || member->superseded)
            REQUIRE(trust_world_knows(member->pubkey));
    }
    REQUIRE(!trust_is_revoked(trust, keypair_public_hex(fuzz_keys(FUZZ_OWNER))));
    REQUIRE(string_has_prefix(trust_rv(trust), "0:") == (trust_revocation_count(trust) == 0));
}

static void merge(struct trust *trust, const json_t *list)
{
    struct trust_changes changes;
    struct error error = { .code = ERROR_NONE };
    const bool was_fresh = trust_is_fresh(trust);

    if (trust_merge_members(trust, list, &changes, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID && trust_is_fresh(trust) == was_fresh);
        return;
    }
    check_members(trust);
    char *rv = memory_strdup(trust_rv(trust));
    const size_t count = trust_member_count(trust);
    REQUIRE(trust_merge_members(trust, list, &changes, &error) == 0);
    REQUIRE(changes.newly_verified == 0 && changes.newly_revoked == 0 && changes.rotation_forks == 0);
    REQUIRE(string_equal(rv, trust_rv(trust)) && count == trust_member_count(trust));
    check_members(trust);
    free(rv);
}

static void check_fold(const char *name)
{
    char *folded = trust_fold_name(name), *again = trust_fold_name(folded);
    REQUIRE(utf8_is_valid(folded, strlen(folded)) && string_equal(folded, again));
    free(again);
    free(folded);
}

static void check_resolution(struct trust *trust, const char *to)
{
    struct trust_destination destination = { .kind = NULL };

    switch (trust_resolve(trust, to, &destination)) {
    case RESOLVED:
        if (string_equal(destination.kind, "dm"))
            REQUIRE(hex_is_key(destination.ref) && to[0] != '#' && to[0] != '@');
        else
            REQUIRE(string_equal(destination.kind, to[0] == '#' ? "topic" : "queue") && destination.ref[0] != '\0');
        REQUIRE(!destination.known_member || trust_member(trust, destination.ref) != NULL);
        break;
    case RESOLVE_AMBIGUOUS:
    case RESOLVE_KEY_CHANGED:
        REQUIRE(destination.candidate_count >= 1 && destination.candidate_count <= ARRAY_LENGTH(destination.candidates));
        for (size_t i = 0; i < destination.candidate_count; i++)
            REQUIRE(hex_is_key(destination.candidates[i]));
        break;
    case RESOLVE_UNKNOWN:
    case RESOLVE_INVALID:
        REQUIRE(destination.candidate_count == 0);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const EVENTS[] = {
        NULL, "member_joined", "member_revoked", "member_renamed", "member_keypair_rotated", "member_left"
    };
    struct fuzz_input input = { data, size };
    const uint8_t mode = fuzz_take_byte(&input) % 8;
    char *to = fuzz_take_string(&input, '\n');
    struct trust *trust = trust_world_open(FUZZ_ADMIN);
    json_t *document = fuzz_parse_json(input.at, input.left);
    struct trust_changes changes;
    struct error error;

    if (mode >= ARRAY_LENGTH(EVENTS)) {
        for (size_t i = 0; i < json_array_size(document); i++)
            merge(trust, json_array_get(document, i));
    } else if (mode == 0) {
        merge(trust, document);
    } else if (trust_merge_event(trust, EVENTS[mode], document, &changes, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID);
    }
    check_members(trust);
    check_fold(to);
    check_resolution(trust, to);
    if (trust_expect_rv(trust, to))
        trust_list_failed(trust);
    check_members(trust);
    json_decref(document);
    trust_free(trust);
    free(to);
    return 0;
}
