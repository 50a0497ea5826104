/* The members of one members_list, judged without a memory. Must not believe the broker about names, membership or revocation. */
#include "cli/cold_members.h"

#include "cli/output.h"
#include "crypto/crypto.h"
#include "delivery/delivery.h"
#include "json/json.h"
#include "proto/invite.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { PREFIX_SHORTEST = 8 };

bool cold_member_has_key(const struct cold_member *member, const char *pubkey)
{
    bool has = string_equal(member->pubkey, pubkey);
    for (size_t i = 0; i < member->former_count; i++) {
        has = has || string_equal(member->former[i], pubkey);
    }
    return has;
}

/* The step that leads to `pubkey`, when both its keys signed it. NULL: none. */
static const json_t *step_to(const json_t *rotations, const char *mesh_id, const char *pubkey)
{
    size_t index = 0;
    const json_t *rotation = NULL;
    json_array_foreach(rotations, index, rotation)
    {
        const char *old_key = answer_text(rotation, "old");
        if (string_equal(answer_text(rotation, "new"), pubkey) && string_equal(answer_text(rotation, "mesh"), mesh_id) &&
            statement_verify_json(STATEMENT_ROTATION, rotation, old_key, "sig_old", NULL) == 0 &&
            statement_verify_json(STATEMENT_ROTATION, rotation, pubkey, "sig_new", NULL) == 0) {
            return rotation;
        }
    }
    return NULL;
}

/* Back along the steps, as long as each is one below the one after it. */
static void find_former(struct cold_member *member, const json_t *rotations, const char *mesh_id)
{
    const json_t *step = step_to(rotations, mesh_id, member->pubkey);
    for (int64_t seq = answer_integer(step, "seq", 0); step != NULL && seq >= 1 && answer_integer(step, "seq", 0) == seq; seq--) {
        member->former = memory_realloc(member->former, (member->former_count + 1) * sizeof(*member->former));
        memcpy(member->former[member->former_count++], answer_text(step, "old"), KEY_HEX_SIZE);
        step = step_to(rotations, mesh_id, member->former[member->former_count - 1]);
    }
}

static struct cold_member *find(const struct cold_members *members, const char *pubkey)
{
    for (size_t i = 0; i < members->count; i++) {
        if (cold_member_has_key(&members->items[i], pubkey)) {
            return &members->items[i];
        }
    }
    return NULL;
}

static void set_name(struct cold_member *member, const char *name)
{
    free(member->name);
    free(member->folded);
    member->name = memory_strdup(name);
    member->folded = trust_fold_name(name);
}

static void judge_member(struct cold_member *member, const json_t *object, const struct config_mesh *mesh)
{
    const json_t *certificate_json = json_object_get(object, "cert");
    const json_t *grant = json_object_get(object, "grant");
    const json_t *name = json_object_get(object, "name_statement");
    struct certificate certificate = { 0 };

    if (cold_member_has_key(member, mesh->owner_pubkey)) {
        member->verified = member->admin = member->owner = true;
    }
    if (json_is_object(certificate_json) &&
        certificate_verify(certificate_json, mesh->mesh_id, mesh->owner_pubkey, &certificate, NULL) == 0) {
        if (cold_member_has_key(member, certificate.pubkey)) {
            member->verified = true;
            member->admin = member->admin || string_equal(certificate.role, "admin");
            member->invite_id = memory_strdup(certificate.invite.invite_id);
            member->joined_at = certificate.at_ms;
            member->max_uses = certificate.invite.max_uses;
            set_name(member, certificate.name);
        }
        certificate_release(&certificate);
    }
    if (json_is_object(grant) && string_equal(answer_text(grant, "mesh"), mesh->mesh_id) &&
        cold_member_has_key(member, answer_text(grant, "pubkey")) && string_equal(answer_text(grant, "by"), mesh->owner_pubkey) &&
        statement_verify_json(STATEMENT_GRANT, grant, mesh->owner_pubkey, "sig", NULL) == 0) {
        member->verified = true;
        member->admin = string_equal(answer_text(grant, "role"), "admin");
    }
    if (json_is_object(name) && string_equal(answer_text(name, "mesh"), mesh->mesh_id) &&
        cold_member_has_key(member, answer_text(name, "pubkey")) &&
        statement_verify_json(STATEMENT_NAME, name, answer_text(name, "pubkey"), "sig", NULL) == 0) {
        set_name(member, answer_text(name, "name"));
    }
}

/* 45-trust: of one invite, only its first max_uses certificates count, by time and then key. */
static void drop_surplus(struct cold_members *members)
{
    for (size_t i = 0; i < members->count; i++) {
        struct cold_member *member = &members->items[i];
        int64_t earlier = 0;
        for (size_t j = 0; member->invite_id != NULL && j < members->count; j++) {
            const struct cold_member *other = &members->items[j];
            bool before = other->joined_at < member->joined_at ||
                          (other->joined_at == member->joined_at && strcmp(other->pubkey, member->pubkey) < 0);
            earlier += string_equal(other->invite_id, member->invite_id) && before ? 1 : 0;
        }
        if (member->invite_id != NULL && earlier >= member->max_uses) {
            member->verified = member->admin = false;
        }
    }
}

/* Revocations by the owner, or by an admin of somebody who is none; and what envelopes say about how many are known (rv). */
static void read_revocations(struct cold_members *members, const json_t *revocations, const struct config_mesh *mesh)
{
    size_t count = json_array_size(revocations), kept = 0;
    struct sha256 *hashes = memory_calloc(count + 1, sizeof *hashes);
    for (size_t i = 0; i < count; i++) {
        const json_t *revocation = json_array_get(revocations, i);
        const char *by = answer_text(revocation, "by"), *subject_key = answer_text(revocation, "subject_pubkey");
        const struct cold_member *admin = find(members, by);
        struct cold_member *subject = find(members, subject_key);
        bool by_owner = string_equal(by, mesh->owner_pubkey);
        bool by_admin = admin != NULL && admin->admin && (subject == NULL || !subject->admin);
        struct buffer text;
        buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
        if ((by_owner || by_admin) && (subject == NULL || !subject->owner) && !string_equal(subject_key, mesh->owner_pubkey) &&
            string_equal(answer_text(revocation, "mesh"), mesh->mesh_id) &&
            statement_verify_json(STATEMENT_REVOCATION, revocation, by, "sig", NULL) == 0 &&
            statement_text_of_json(STATEMENT_REVOCATION, revocation, &text, NULL) == 0) {
            sha256_of(text.data, text.length, &hashes[kept++]);
            if (subject != NULL) {
                subject->revoked = true;
                subject->verified = false;
            }
        }
        buffer_release(&text);
    }
    statement_rv(hashes, kept, members->rv);
    free(hashes);
}

/* Who said that they left is no member until a newer certificate says otherwise. */
static void read_leaves(struct cold_members *members, const json_t *leaves, const struct config_mesh *mesh)
{
    for (size_t i = 0; i < json_array_size(leaves); i++) {
        const json_t *leave = json_array_get(leaves, i);
        struct cold_member *member = find(members, answer_text(leave, "pubkey"));
        if (member != NULL && answer_integer(leave, "at", -1) >= member->joined_at &&
            string_equal(answer_text(leave, "mesh"), mesh->mesh_id) &&
            statement_verify_json(STATEMENT_LEAVE, leave, answer_text(leave, "pubkey"), "sig", NULL) == 0) {
            member->verified = member->admin = false;
        }
    }
}

int cold_members_read(const json_t *members_list, const struct config_mesh *mesh, struct cold_members *ret_members, struct error *error)
{
    const json_t *list = NULL;
    struct cold_members members = { 0 };
    if (json_read_array(members_list, "members", JSON_REQUIRED, &list, error) != 0) {
        return error_prefix(error, "the broker's list of members");
    }
    members.items = memory_calloc(json_array_size(list) + 1, sizeof *members.items);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *object = json_array_get(list, i);
        const char *pubkey = answer_text(object, "pubkey");
        if (!hex_is_key(pubkey) || find(&members, pubkey) != NULL) {
            continue;
        }
        struct cold_member *member = &members.items[members.count++];
        memcpy(member->pubkey, pubkey, sizeof member->pubkey);
        member->member_id = memory_strdup(answer_text(object, "id"));
        member->name = memory_strdup(answer_text(object, "displayName"));
        find_former(member, json_object_get(members_list, "rotations"), mesh->mesh_id);
        if (mesh->owner_pubkey != NULL) {
            judge_member(member, object, mesh);
        }
    }
    drop_surplus(&members);
    read_leaves(&members, json_object_get(members_list, "leaves"), mesh);
    read_revocations(&members, json_object_get(members_list, "revocations"), mesh);
    *ret_members = members;
    return 0;
}

void cold_members_release(struct cold_members *members)
{
    for (size_t i = 0; i < members->count; i++) {
        free(members->items[i].former);
        free(members->items[i].member_id);
        free(members->items[i].name);
        free(members->items[i].folded);
        free(members->items[i].invite_id);
    }
    free(members->items);
    *members = (struct cold_members){ 0 };
}

static bool is_prefix(const char *to)
{
    size_t length = strlen(to);
    return length >= PREFIX_SHORTEST && length < KEY_HEX_SIZE - 1 && strspn(to, "0123456789abcdefABCDEF") == length;
}

static int check(const struct cold_member *member, const struct cold_member **ret_member, struct error *error)
{
    if (member->revoked) {
        return error_set(error, ERROR_DENIED, "%.16s… was removed from the mesh (revoked)", member->pubkey);
    }
    *ret_member = member;
    return 0;
}

static int take_one(const struct cold_member *const *found, size_t count, const char *to, const struct cold_member **ret_member,
                    struct error *error)
{
    if (count == 1) {
        return check(found[0], ret_member, error);
    }
    struct buffer list;
    buffer_init(&list, 300);
    for (size_t i = 0; i < count; i++) {
        (void)buffer_printf(&list, "%s%s %.16s", i == 0 ? "" : ", ", found[i]->name, found[i]->pubkey);
    }
    int status = error_set(error, ERROR_AMBIGUOUS, "'%.80s' fits more than one member: %s", to, list.data);
    buffer_release(&list);
    return status;
}

int cold_members_resolve(const struct cold_members *members, const char *to, const struct cold_member **ret_member, struct error *error)
{
    char lower[KEY_HEX_SIZE] = "";
    const struct cold_member *found[8];
    size_t count = 0;
    bool prefix = is_prefix(to);
    char *folded = trust_fold_name(to);
    int status;

    if (prefix || strlen(to) == KEY_HEX_SIZE - 1) {
        for (size_t i = 0; to[i] != '\0'; i++) {
            lower[i] = (char)(to[i] >= 'A' && to[i] <= 'F' ? to[i] - 'A' + 'a' : to[i]);
        }
    }
    const struct cold_member *by_key = hex_is_key(lower) ? find(members, lower) : NULL;
    if (by_key != NULL) {
        status = check(by_key, ret_member, error);
        goto out;
    }
    for (size_t i = 0; prefix && i < members->count && count < ARRAY_LENGTH(found); i++) {
        if (members->items[i].verified && string_has_prefix(members->items[i].pubkey, lower)) {
            found[count++] = &members->items[i];
        }
    }
    bool by_name = count == 0 && folded[0] != '\0';
    for (size_t i = 0; by_name && i < members->count && count < ARRAY_LENGTH(found); i++) {
        if (members->items[i].verified && string_equal(members->items[i].folded, folded)) {
            found[count++] = &members->items[i];
        }
    }
    status = count > 0 ? take_one(found, count, to, ret_member, error)
                       : error_set(error, ERROR_NOT_FOUND,
                                   "nobody in this mesh is called '%.80s' (an unverified member is reached by its whole key)", to);
out:
    free(folded);
    return status;
}
