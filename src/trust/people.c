/* Owns the table of keys of a mesh and their lines of rotation. Must not judge anybody. */
#include "trust/trust_internal.h"
#include "util/memory.h"

/* Keys are points that their owners cannot choose bit by bit, but may search for: the first eight bytes spread well enough, and a list has one frame's room. */
static size_t slot_of(const struct trust *trust, const char *pubkey_hex)
{
    size_t hash = 0;
    for (size_t index = 0; index < 16; index++) {
        hash = hash * 31 + (unsigned char)pubkey_hex[index * 4];
    }
    return hash & (trust->slot_count - 1);
}

struct person *people_find(const struct trust *trust, const char *pubkey_hex)
{
    if (trust->slot_count == 0 || pubkey_hex == NULL || strnlen(pubkey_hex, KEY_HEX_SIZE) != KEY_HEX_SIZE - 1) {
        return NULL;
    }
    for (size_t slot = slot_of(trust, pubkey_hex); trust->slots[slot] != NULL; slot = (slot + 1) & (trust->slot_count - 1)) {
        if (memcmp(trust->slots[slot]->member.pubkey, pubkey_hex, KEY_HEX_SIZE) == 0) {
            return trust->slots[slot];
        }
    }
    return NULL;
}

static void slot_put(struct trust *trust, struct person *person)
{
    size_t slot = slot_of(trust, person->member.pubkey);
    while (trust->slots[slot] != NULL) {
        slot = (slot + 1) & (trust->slot_count - 1);
    }
    trust->slots[slot] = person;
}

/* At most half full. */
static void slots_rebuild(struct trust *trust)
{
    size_t count = 16;
    while (count < trust->people_count * 2 + 2) {
        count *= 2;
    }
    free(trust->slots);
    trust->slots = memory_calloc(count, sizeof(struct person *));
    trust->slot_count = count;
    for (size_t index = 0; index < trust->people_count; index++) {
        slot_put(trust, trust->people[index]);
    }
}

struct person *people_get(struct trust *trust, const char *pubkey_hex)
{
    struct public_key key;
    struct person *person = people_find(trust, pubkey_hex);
    if (person != NULL || pubkey_hex == NULL || public_key_parse(pubkey_hex, &key, NULL) != 0) {
        return person;
    }
    person = memory_zalloc(sizeof(*person));
    memcpy(person->member.pubkey, pubkey_hex, KEY_HEX_SIZE);
    person->member.key = key;
    person->member.member_id = memory_strdup("");
    person->member.name = memory_strdup("");
    person->member.folded_name = memory_strdup("");
    person->member.joined_at = -1;
    person->member.last_seen_at = -1;
    person->broker_name = memory_strdup("");
    person->name_seq = -1;
    person->left_at = -1;
    person->fork_at = -1;
    person->rotated_at = -1;
    trust->people = memory_realloc(trust->people, (trust->people_count + 1) * sizeof(struct person *));
    trust->people[trust->people_count++] = person;
    if (trust->people_count * 2 > trust->slot_count) {
        slots_rebuild(trust);
    } else {
        slot_put(trust, person);
    }
    return person;
}

static void person_free(struct person *person)
{
    for (size_t index = 0; index < person->certificate_count; index++) {
        free(person->certificates[index].name);
    }
    free(person->certificates);
    free(person->grants);
    free(person->signed_name);
    free(person->broker_name);
    free(person->member.member_id);
    free(person->member.name);
    free(person->member.folded_name);
    free(person);
}

void people_free(struct trust *trust)
{
    for (size_t index = 0; index < trust->people_count; index++) {
        person_free(trust->people[index]);
    }
    free(trust->people);
    free(trust->slots);
    free(trust->visible);
}

/* Nothing signed by others, no line, no fact of ours hangs on it. */
static bool is_stranger(const struct trust *trust, const struct person *person)
{
    return !person->member.listed && person->certificate_count == 0 && person->grant_count == 0 && person->predecessor == NULL &&
           person->successor == NULL && person->fork_at < 0 && person->body_version == 0 && !person->member.revoked &&
           !string_equal(person->member.pubkey, trust->owner_pubkey) && !string_equal(person->member.pubkey, trust->own_pubkey) &&
           !names_is_pinned(trust, person->member.pubkey);
}

void people_drop_strangers(struct trust *trust)
{
    size_t kept = 0;
    for (size_t index = 0; index < trust->people_count; index++) {
        struct person *person = trust->people[index];
        if (is_stranger(trust, person)) {
            trust_store_drop_member(trust->store, person->member.pubkey);
            person_free(person);
        } else {
            trust->people[kept++] = person;
        }
    }
    if (kept != trust->people_count) {
        trust->people_count = kept;
        slots_rebuild(trust);
        people_collect_visible(trust);
    }
}

/* Somebody of whom we only know what version of bodies he sent is no member. */
bool person_is_visible(const struct trust *trust, const struct person *person)
{
    return person->member.listed || person->member.verified || person->member.revoked || person->member.left || person->member.superseded ||
           person->certificate_count > 0 || person->grant_count > 0 || string_equal(person->member.pubkey, trust->own_pubkey);
}

void people_collect_visible(struct trust *trust)
{
    trust->visible = memory_realloc(trust->visible, (trust->people_count + 1) * sizeof(struct person *));
    trust->visible_count = 0;
    for (size_t index = 0; index < trust->people_count; index++) {
        if (person_is_visible(trust, trust->people[index])) {
            trust->visible[trust->visible_count++] = trust->people[index];
        }
    }
}

struct person *person_root(struct person *person)
{
    while (person->predecessor != NULL) {
        person = person->predecessor;
    }
    return person;
}

struct person *person_current(struct person *person)
{
    while (person->successor != NULL) {
        person = person->successor;
    }
    return person;
}

bool person_is_known(const struct person *person)
{
    return !person->member.revoked && !person->member.left && !person->member.superseded &&
           (person->member.listed || person->member.verified);
}
