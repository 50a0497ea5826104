/* Owns what follows from the facts: who is verified, in which role, revoked, gone, under which name, and rv (45-trust "Members", "Names and keys", "Revocations"). A function of the
 * set of statements alone: in whatever order a broker hands them out, everybody who has the same ones comes to the same result. Must not verify a signature or touch a database.
 *
 * Readings of the specification, each the safe one:
 * - The owner's word stands above all; an admin's counts until the owner revoked or demoted that admin, or the admin left. Time is that of the statements: acts at or after
 *   that moment are void (grants, revocations, invite revocations, and certificates of invites that the admin signed).
 * - An invite's revocation voids certificates whose join is at or after it, not those before. Only the owner's voids an admin's certificate, since only the owner revokes an admin.
 * - A revocation by an admin never touches the owner, nor anybody whom the owner made an admin, for as long as that held.
 * - Surplus certificates are counted over all valid certificates of the invite, also of members who were revoked or left: their place is used.
 * - Keys that rotations join are one member: verified, revoked and gone together. */
#include "trust/trust_internal.h"
#include "util/memory.h"

static bool is_owner(const struct trust *trust, const char *pubkey_hex)
{
    return trust->owner_pubkey[0] != '\0' && string_equal(pubkey_hex, trust->owner_pubkey);
}

/* ---- authority -------------------------------------------------------------------------------------------- */

/* The owner's newest word on this line's role; NULL: none. */
static const struct grant_fact *owner_grant(const struct trust *trust, const struct person *root)
{
    const struct grant_fact *newest = NULL;
    for (const struct person *person = root; person != NULL; person = person->successor) {
        for (size_t index = 0; index < person->grant_count; index++) {
            const struct grant_fact *grant = &person->grants[index];
            if (is_owner(trust, grant->by) &&
                (newest == NULL || grant->seq > newest->seq || (grant->seq == newest->seq && grant->at > newest->at))) {
                newest = grant;
            }
        }
    }
    return newest;
}

/* By the owner alone, and before the join or at it. */
static bool is_revoked_by_owner(const struct trust *trust, const struct certificate_fact *certificate)
{
    for (size_t index = 0; index < trust->invite_revocation_count; index++) {
        const struct invite_revocation_fact *revocation = &trust->invite_revocations[index];
        if (is_owner(trust, revocation->by) && revocation->at <= certificate->at &&
            string_equal(revocation->invite_id, certificate->invite_id)) {
            return true;
        }
    }
    return false;
}

static bool has_admin_evidence(const struct trust *trust, const struct person *root)
{
    for (const struct person *person = root; person != NULL; person = person->successor) {
        for (size_t index = 0; index < person->grant_count; index++) {
            if (person->grants[index].role == ROLE_ADMIN && is_owner(trust, person->grants[index].by)) {
                return true;
            }
        }
        for (size_t index = 0; index < person->certificate_count; index++) {
            const struct certificate_fact *certificate = &person->certificates[index];
            if (certificate->role == ROLE_ADMIN && !certificate->surplus && !is_revoked_by_owner(trust, certificate)) {
                return true;
            }
        }
    }
    return false;
}

static int64_t lower(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void settle_authority(const struct trust *trust, struct person *root)
{
    root->authority_known = true;
    root->ever_admin = false;
    root->authority_until = INT64_MAX;
    for (const struct person *person = root; person != NULL; person = person->successor) {
        if (is_owner(trust, person->member.pubkey)) {
            root->ever_admin = true;
            return;
        }
    }
    root->ever_admin = has_admin_evidence(trust, root);
    const struct grant_fact *grant = owner_grant(trust, root);
    if (grant != NULL && grant->role == ROLE_MEMBER) {
        root->authority_until = grant->at;
    }
    for (const struct person *person = root; person != NULL; person = person->successor) {
        if (person->left_at >= 0) {
            root->authority_until = lower(root->authority_until, person->left_at);
        }
        for (size_t index = 0; index < trust->revocation_count; index++) {
            const struct revocation_fact *revocation = &trust->revocations[index];
            if (is_owner(trust, revocation->by) && string_equal(revocation->subject, person->member.pubkey)) {
                root->authority_until = lower(root->authority_until, revocation->at);
            }
        }
    }
}

/* Whether that key could act as an admin at that time. */
static bool had_authority(const struct trust *trust, const char *pubkey_hex, int64_t at)
{
    struct person *person = people_find(trust, pubkey_hex);
    if (person == NULL) {
        return is_owner(trust, pubkey_hex);
    }
    struct person *root = person_root(person);
    if (!root->authority_known) {
        settle_authority(trust, root);
    }
    return root->ever_admin && at < root->authority_until;
}

bool recount_is_authority(struct trust *trust, const char *pubkey_hex)
{
    struct person *person = people_find(trust, pubkey_hex);
    return is_owner(trust, pubkey_hex) || (person != NULL && has_admin_evidence(trust, person_root(person)));
}

/* ---- certificates ----------------------------------------------------------------------------------------- */

struct use {
    struct certificate_fact *certificate;
    const char *pubkey;
};

/* By invite, then `at`, then key. */
static int compare_uses(const void *left, const void *right)
{
    const struct use *a = left;
    const struct use *b = right;
    int order = strcmp(a->certificate->invite_id, b->certificate->invite_id);
    if (order == 0) {
        order = a->certificate->at < b->certificate->at ? -1 : a->certificate->at > b->certificate->at ? 1 : 0;
    }
    return order != 0 ? order : strcmp(a->pubkey, b->pubkey);
}

static void mark_surplus(struct trust *trust)
{
    size_t count = 0;
    for (size_t index = 0; index < trust->people_count; index++) {
        count += trust->people[index]->certificate_count;
    }
    if (count == 0) {
        return;
    }
    struct use *uses = memory_calloc(count, sizeof(*uses));
    size_t filled = 0;
    for (size_t index = 0; index < trust->people_count; index++) {
        struct person *person = trust->people[index];
        for (size_t number = 0; number < person->certificate_count; number++) {
            uses[filled++] = (struct use){ &person->certificates[number], person->member.pubkey };
        }
    }
    qsort(uses, count, sizeof(*uses), compare_uses);
    int64_t rank = 0;
    for (size_t index = 0; index < count; index++) {
        bool is_first = index == 0 || !string_equal(uses[index].certificate->invite_id, uses[index - 1].certificate->invite_id);
        rank = is_first ? 0 : rank + 1;
        uses[index].certificate->surplus = rank >= uses[index].certificate->max_uses;
    }
    free(uses);
}

static bool is_revoked_by_admin(const struct trust *trust, const struct certificate_fact *certificate)
{
    for (size_t index = 0; index < trust->invite_revocation_count; index++) {
        const struct invite_revocation_fact *revocation = &trust->invite_revocations[index];
        if (revocation->at <= certificate->at && string_equal(revocation->invite_id, certificate->invite_id) &&
            had_authority(trust, revocation->by, revocation->at)) {
            return true;
        }
    }
    return false;
}

static bool certificate_counts(const struct trust *trust, const struct certificate_fact *certificate)
{
    if (certificate->surplus || is_revoked_by_owner(trust, certificate) || !had_authority(trust, certificate->signer, certificate->at)) {
        return false;
    }
    return certificate->role == ROLE_ADMIN || !is_revoked_by_admin(trust, certificate);
}

/* ---- revocations ------------------------------------------------------------------------------------------ */

static bool revocation_counts(const struct trust *trust, const struct revocation_fact *revocation)
{
    if (is_owner(trust, revocation->subject)) {
        return false;
    }
    return is_owner(trust, revocation->by) ||
           (had_authority(trust, revocation->by, revocation->at) && !had_authority(trust, revocation->subject, revocation->at));
}

static void count_revocations(struct trust *trust)
{
    struct sha256 *hashes = memory_calloc(trust->revocation_count + 1, sizeof(*hashes));
    size_t count = 0;
    for (size_t index = 0; index < trust->revocation_count; index++) {
        struct revocation_fact *revocation = &trust->revocations[index];
        revocation->counts = revocation_counts(trust, revocation);
        if (revocation->counts) {
            hashes[count++] = revocation->text_hash;
            person_root(people_find(trust, revocation->subject))->line_revoked = true; /* made when the statement was kept */
        }
    }
    statement_rv(hashes, count, trust->rv);
    trust->counted_revocations = (int64_t)count;
    free(hashes);
}

/* ---- a member --------------------------------------------------------------------------------------------- */

struct standing {
    bool verified, is_admin, left, fork;
    const struct certificate_fact *newest_certificate; /* of those that count */
};

static bool grant_counts(const struct trust *trust, const struct grant_fact *grant)
{
    return is_owner(trust, grant->by) || had_authority(trust, grant->by, grant->at);
}

static void stand_by_evidence(const struct trust *trust, const struct person *person, int64_t left_at, struct standing *standing)
{
    for (size_t index = 0; index < person->certificate_count; index++) {
        const struct certificate_fact *certificate = &person->certificates[index];
        if (!certificate->counts || certificate->at <= left_at) {
            continue;
        }
        standing->verified = true;
        standing->is_admin = standing->is_admin || certificate->role == ROLE_ADMIN;
        if (standing->newest_certificate == NULL || certificate->at > standing->newest_certificate->at) {
            standing->newest_certificate = certificate;
        }
    }
    for (size_t index = 0; index < person->grant_count; index++) {
        standing->verified = standing->verified || (person->grants[index].at > left_at && grant_counts(trust, &person->grants[index]));
    }
}

static struct standing standing_of(const struct trust *trust, const struct person *root)
{
    struct standing standing = { .verified = false };
    int64_t left_at = -1;
    int64_t fork_at = -1;
    for (const struct person *person = root; person != NULL; person = person->successor) {
        left_at = person->left_at > left_at ? person->left_at : left_at;
        fork_at = person->fork_at > fork_at ? person->fork_at : fork_at;
    }
    standing.fork = fork_at >= 0;
    bool is_owners = false;
    for (const struct person *person = root; person != NULL; person = person->successor) {
        stand_by_evidence(trust, person, left_at, &standing);
        is_owners = is_owners || is_owner(trust, person->member.pubkey);
        for (size_t index = 0; index < person->grant_count; index++) {
            bool settles = person->grants[index].at > fork_at && grant_counts(trust, &person->grants[index]);
            standing.fork = standing.fork && !settles;
        }
    }
    const struct grant_fact *grant = owner_grant(trust, root);
    if (grant != NULL && grant->at > left_at) {
        standing.is_admin = grant->role == ROLE_ADMIN; /* the owner's newest word decides */
    }
    if (is_owners) {
        standing.verified = true;
        standing.is_admin = true;
    }
    standing.left = left_at >= 0 && !standing.verified;
    return standing;
}

static bool replace_name(struct person *person, const char *name)
{
    if (string_equal(person->member.name, name)) {
        return false;
    }
    free(person->member.name);
    free(person->member.folded_name);
    person->member.name = memory_strdup(name);
    person->member.folded_name = trust_fold_name(name);
    return true;
}

static void apply_standing(struct person *person, const struct standing *standing, const char *signed_name, bool revoked,
                           struct trust_changes *changes)
{
    struct trust_member *member = &person->member;
    bool had_name = member->name[0] != '\0';
    bool is_verified = standing->verified && !revoked;
    changes->newly_verified += is_verified && !member->verified ? 1 : 0;
    changes->newly_revoked += revoked && !member->revoked ? 1 : 0;
    member->verified = is_verified;
    member->revoked = revoked;
    member->role = is_verified && standing->is_admin ? ROLE_ADMIN : ROLE_MEMBER;
    member->left = standing->left;
    member->superseded = person->successor != NULL;
    member->rotation_fork = standing->fork;
    member->name_signed = signed_name != NULL;
    changes->renamed += replace_name(person, signed_name != NULL ? signed_name : person->broker_name) && had_name ? 1 : 0;
}

/* Each key has the newest name that the member signed until then: its own statement, an older key's, the certificate's. */
static void apply_to_line(struct person *root, const struct standing *standing, struct trust_changes *changes)
{
    const char *signed_name = standing->newest_certificate == NULL ? NULL : standing->newest_certificate->name;
    for (struct person *person = root; person != NULL; person = person->successor) {
        signed_name = person->signed_name != NULL ? person->signed_name : signed_name;
        apply_standing(person, standing, signed_name, root->line_revoked, changes);
    }
}

void recount(struct trust *trust, struct trust_changes *changes)
{
    struct trust_changes unheard = { 0 };
    changes = changes == NULL ? &unheard : changes;
    for (size_t index = 0; index < trust->people_count; index++) {
        trust->people[index]->authority_known = false;
        trust->people[index]->line_revoked = false;
    }
    mark_surplus(trust);
    for (size_t index = 0; index < trust->people_count; index++) {
        struct person *person = trust->people[index];
        for (size_t number = 0; number < person->certificate_count; number++) {
            person->certificates[number].counts = certificate_counts(trust, &person->certificates[number]);
        }
    }
    count_revocations(trust);
    for (size_t index = 0; index < trust->people_count; index++) {
        struct person *root = trust->people[index];
        if (root->predecessor != NULL) {
            continue;
        }
        struct standing standing = standing_of(trust, root);
        apply_to_line(root, &standing, changes);
    }
    people_collect_visible(trust);
    names_check_pins(trust, changes);
}
