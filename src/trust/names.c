/* Owns names: folding, pins, and the resolution of `to` (20-ipc, its table; 45-trust, "Names and keys"). Must not decide who is a member: recount.c did.
 *
 * A display name that begins with # or @, or is *, is never matched: nobody may catch a topic's or a group's messages by calling himself like it. */
#include <utf8proc.h>

#include "trust/trust_internal.h"
#include "util/clock.h"
#include "util/memory.h"

enum {
    CANDIDATES_MAXIMUM = 8,
    PREFIX_MINIMUM = 8,
    KEY_DIGITS = KEY_HEX_SIZE - 1,
    /* A display name of 128 bytes in its longest equivalent spelling; some characters fold to 18 others, so what is folded must be bounded. */
    FOLD_MAXIMUM = 1024
};

/* ---- folding ---------------------------------------------------------------------------------------------- */

char *trust_fold_name(const char *name)
{
    utf8proc_uint8_t *folded = NULL;
    if (strnlen(name, FOLD_MAXIMUM + 1) > FOLD_MAXIMUM) {
        return memory_strdup("");
    }
    const utf8proc_option_t options =
        UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD | UTF8PROC_IGNORE;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)name, 0, &folded, options);
    if (length == UTF8PROC_ERROR_NOMEM) {
        memory_exhausted();
    }
    if (length < 0) {
        return memory_strdup("");
    }
    const char *start = (const char *)folded;
    const char *end = start + length;
    while (start < end && strchr(" \t\r\n", *start) != NULL) {
        start++;
    }
    while (end > start && strchr(" \t\r\n", end[-1]) != NULL) {
        end--;
    }
    char *result = memory_strndup(start, (size_t)(end - start));
    free(folded);
    return result;
}

/* ---- pins ------------------------------------------------------------------------------------------------- */

static struct pin *pin_find(const struct trust *trust, const char *folded_name)
{
    for (size_t index = 0; index < trust->pin_count; index++) {
        if (string_equal(trust->pins[index].folded_name, folded_name)) {
            return &trust->pins[index];
        }
    }
    return NULL;
}

void names_load_pin(struct trust *trust, const char *folded_name, const char *pubkey_hex, int64_t first_seen, bool settled)
{
    struct pin pin = { .folded_name = memory_strdup(folded_name), .first_seen = first_seen, .settled = settled };
    if (string_copy(pin.pubkey, sizeof(pin.pubkey), pubkey_hex) != 0) {
        free(pin.folded_name);
        return;
    }
    trust->pins = memory_realloc(trust->pins, (trust->pin_count + 1) * sizeof(*trust->pins));
    trust->pins[trust->pin_count++] = pin;
}

bool names_is_pinned(const struct trust *trust, const char *pubkey_hex)
{
    for (size_t index = 0; index < trust->pin_count; index++) {
        if (string_equal(trust->pins[index].pubkey, pubkey_hex)) {
            return true;
        }
    }
    return false;
}

static void pin_set(struct trust *trust, const char *folded_name, const char *pubkey_hex, bool settled)
{
    struct pin *pin = pin_find(trust, folded_name);
    if (pin == NULL) {
        names_load_pin(trust, folded_name, pubkey_hex, clock_wall_ms(), settled);
        pin = &trust->pins[trust->pin_count - 1];
    } else {
        memcpy(pin->pubkey, pubkey_hex, KEY_HEX_SIZE);
        pin->settled = settled;
        pin->swapped = false;
    }
    trust_store_put_pin(trust->store, pin->folded_name, pin->pubkey, pin->first_seen, pin->settled);
    trust_store_flush(trust->store);
}

void names_free(struct trust *trust)
{
    for (size_t index = 0; index < trust->pin_count; index++) {
        free(trust->pins[index].folded_name);
    }
    free(trust->pins);
}

/* ---- claims ----------------------------------------------------------------------------------------------- */

/* Known members under one folded name. */
struct claims {
    const struct person *people[CANDIDATES_MAXIMUM];
    size_t count; /* may be more than are kept */
    size_t verified;
};

static void claims_add(struct claims *claims, const struct person *person)
{
    if (claims->count < CANDIDATES_MAXIMUM) {
        claims->people[claims->count] = person;
    }
    claims->count++;
    claims->verified += person->member.verified ? 1 : 0;
}

static struct claims claims_of(const struct trust *trust, const char *folded_name, const struct person *but)
{
    struct claims claims = { .count = 0 };
    for (size_t index = 0; index < trust->visible_count; index++) {
        const struct person *person = trust->visible[index];
        if (person != but && person_is_known(person) && string_equal(person->member.folded_name, folded_name)) {
            claims_add(&claims, person);
        }
    }
    return claims;
}

/* Whom the pin means now: its key, or the one that rotations lead to. NULL: nobody known any more. */
static struct person *pin_person(const struct trust *trust, const struct pin *pin)
{
    struct person *person = people_find(trust, pin->pubkey);
    person = person == NULL ? NULL : person_current(person);
    return person != NULL && person_is_known(person) ? person : NULL;
}

/* Known, in the broker's list, and still called so. */
static bool holds_name(const struct person *person, const struct pin *pin)
{
    return person != NULL && person->member.listed && string_equal(person->member.folded_name, pin->folded_name);
}

void names_check_pins(struct trust *trust, struct trust_changes *changes)
{
    for (size_t index = 0; index < trust->pin_count; index++) {
        struct pin *pin = &trust->pins[index];
        const struct person *person = pin_person(trust, pin);
        bool swapped = !holds_name(person, pin) && claims_of(trust, pin->folded_name, person).count > 0;
        changes->key_swaps += swapped && !pin->swapped ? 1 : 0;
        pin->swapped = swapped;
    }
}

/* ---- resolving -------------------------------------------------------------------------------------------- */

static void destination_candidate(struct trust_destination *destination, const char *pubkey_hex, const char *name)
{
    if (destination->candidate_count == CANDIDATES_MAXIMUM) {
        return;
    }
    size_t index = destination->candidate_count++;
    memcpy(destination->candidates[index], pubkey_hex, KEY_HEX_SIZE);
    (void)snprintf(destination->candidate_names[index], sizeof(destination->candidate_names[index]), "%s", name);
}

static enum trust_resolution ambiguous(const struct claims *claims, struct trust_destination *destination)
{
    for (size_t index = 0; index < claims->count && index < CANDIDATES_MAXIMUM; index++) {
        destination_candidate(destination, claims->people[index]->member.pubkey, claims->people[index]->member.name);
    }
    return RESOLVE_AMBIGUOUS;
}

static enum trust_resolution to_member(const struct person *person, struct trust_destination *destination)
{
    destination->kind = "dm";
    destination->known_member = true;
    memcpy(destination->ref, person->member.pubkey, KEY_HEX_SIZE);
    (void)snprintf(destination->name, sizeof(destination->name), "%s", person->member.name);
    return RESOLVED;
}

/* The lower-case form of `to`, when it is nothing but hex digits and no longer than a key. */
static bool read_hex(const char *to, char ret_hex[KEY_HEX_SIZE], size_t *ret_digits)
{
    size_t digits = 0;
    for (; to[digits] != '\0'; digits++) {
        char digit = to[digits];
        digit = digit >= 'A' && digit <= 'F' ? (char)(digit - 'A' + 'a') : digit;
        if (digits == KEY_DIGITS || !((digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f'))) {
            return false;
        }
        ret_hex[digits] = digit;
    }
    ret_hex[digits] = '\0';
    *ret_digits = digits;
    return true;
}

static enum trust_resolution resolve_key(const struct trust *trust, const char *key, struct trust_destination *destination)
{
    struct person *person = people_find(trust, key);
    destination->kind = "dm";
    memcpy(destination->ref, key, KEY_HEX_SIZE);
    if (person != NULL) {
        const struct person *current = person_current(person); /* a former key reaches its member while the grace lasts (50-identity) */
        destination->known_member = person_is_known(current);
        (void)snprintf(destination->name, sizeof(destination->name), "%s", current->member.name);
    }
    return RESOLVED;
}

/* RESOLVE_UNKNOWN: nobody's key begins so, and it may be a name. */
static enum trust_resolution resolve_prefix(const struct trust *trust, const char *prefix, size_t digits,
                                            struct trust_destination *destination)
{
    struct claims claims = { .count = 0 };
    for (size_t index = 0; index < trust->visible_count; index++) {
        const struct person *person = trust->visible[index];
        if (person_is_known(person) && memcmp(person->member.pubkey, prefix, digits) == 0) {
            claims_add(&claims, person);
        }
    }
    if (claims.count > 1) {
        return ambiguous(&claims, destination);
    }
    return claims.count == 1 ? to_member(claims.people[0], destination) : RESOLVE_UNKNOWN;
}

static enum trust_resolution key_changed(const struct pin *pin, const struct person *pinned, const struct claims *claims,
                                         struct trust_destination *destination)
{
    destination_candidate(destination, pin->pubkey, pinned == NULL ? "" : pinned->member.name);
    for (size_t index = 0; index < claims->count && index < CANDIDATES_MAXIMUM; index++) {
        destination_candidate(destination, claims->people[index]->member.pubkey, claims->people[index]->member.name);
    }
    return RESOLVE_KEY_CHANGED;
}

static enum trust_resolution resolve_pinned(struct trust *trust, struct pin *pin, struct trust_destination *destination)
{
    struct person *person = pin_person(trust, pin);
    struct claims others = claims_of(trust, pin->folded_name, person);
    if (others.count > 0 && !holds_name(person, pin)) {
        return key_changed(pin, people_find(trust, pin->pubkey), &others, destination);
    }
    if (person == NULL) {
        return RESOLVE_UNKNOWN;
    }
    /* Two verified members of one name: only a person can say which is meant, by `verify --accept`. An unverified claim moves no pin. */
    if (others.verified > 0 && person->member.verified && !pin->settled) {
        struct claims all = claims_of(trust, pin->folded_name, NULL);
        return ambiguous(&all, destination);
    }
    if (!string_equal(person->member.pubkey, pin->pubkey)) {
        pin_set(trust, pin->folded_name, person->member.pubkey, pin->settled); /* a rotation led there */
    }
    return to_member(person, destination);
}

static enum trust_resolution resolve_name(struct trust *trust, const char *name, struct trust_destination *destination)
{
    enum trust_resolution resolution = RESOLVE_UNKNOWN;
    char *folded = trust_fold_name(name);
    struct pin *pin = folded[0] == '\0' ? NULL : pin_find(trust, folded);
    if (pin != NULL) {
        resolution = resolve_pinned(trust, pin, destination);
    } else if (folded[0] != '\0') {
        struct claims claims = claims_of(trust, folded, NULL);
        if (claims.count > 1) {
            resolution = ambiguous(&claims, destination);
        } else if (claims.count == 1) {
            pin_set(trust, folded, claims.people[0]->member.pubkey, false); /* first use */
            resolution = to_member(claims.people[0], destination);
        }
    }
    free(folded);
    return resolution;
}

static enum trust_resolution resolve_named(const char *kind, const char *ref, const char *name, struct trust_destination *destination)
{
    if (!name_is_valid(name) || string_copy(destination->ref, sizeof(destination->ref), ref) != 0) {
        return RESOLVE_INVALID;
    }
    destination->kind = kind;
    return RESOLVED;
}

enum trust_resolution trust_resolve(struct trust *trust, const char *to, struct trust_destination *ret_destination)
{
    char hex[KEY_HEX_SIZE];
    size_t digits = 0;
    *ret_destination = (struct trust_destination){ .kind = NULL };
    if (to == NULL || to[0] == '\0') {
        return RESOLVE_INVALID;
    }
    if (to[0] == '#') {
        return resolve_named("topic", to + 1, to + 1, ret_destination);
    }
    if (to[0] == '@') {
        return resolve_named("queue", to, to + 1, ret_destination);
    }
    if (string_equal(to, "*")) {
        return resolve_named("queue", to, "all", ret_destination);
    }
    if (read_hex(to, hex, &digits)) {
        if (digits == KEY_DIGITS) {
            return resolve_key(trust, hex, ret_destination);
        }
        enum trust_resolution resolution = digits < PREFIX_MINIMUM ? RESOLVE_UNKNOWN : resolve_prefix(trust, hex, digits, ret_destination);
        if (resolution != RESOLVE_UNKNOWN) {
            return resolution;
        }
    }
    return resolve_name(trust, to, ret_destination);
}

int trust_accept_key(struct trust *trust, const char *name, const char *pubkey_hex, struct error *error)
{
    if (pubkey_hex == NULL || !hex_is_key(pubkey_hex)) {
        return error_set(error, ERROR_INVALID, "a key has 64 lower-case hex digits");
    }
    char *folded = trust_fold_name(name);
    const struct person *person = people_find(trust, pubkey_hex);
    int result = 0;
    if (person == NULL || !person_is_known(person) || folded[0] == '\0' || !string_equal(person->member.folded_name, folded)) {
        result = error_set(error, ERROR_NOT_FOUND, "no known member of this name has this key");
    } else {
        pin_set(trust, folded, pubkey_hex, true);
    }
    free(folded);
    return result;
}
