/* What this room's tests share: a mesh with an owner and keys by name, a real database, and everything that honest and dishonest members can sign. */
#ifndef TESTS_UNIT_TRUST_FIXTURE_H
#define TESTS_UNIT_TRUST_FIXTURE_H

#include "db/support.h"
#include "json/json.h"
#include "proto/invite.h"
#include "trust/trust.h"

#define assert_ok(call)                                      \
    do {                                                     \
        struct error assert_error = { 0 };                   \
        struct error *error = &assert_error;                 \
        if ((call) != 0) {                                   \
            fail_msg("%s: %s", #call, assert_error.message); \
        }                                                    \
    } while (0)

static const char MESH_ID[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11";
static const char OTHER_MESH_ID[] = "11111111-9d0c-4a3e-8a4e-3c1b6f0e2d11";
static const int64_t T0 = INT64_C(1790000000000); /* ms; everything in the tests happens after it */
static const int64_t EXPIRES_S = INT64_C(1790000100);
static const struct db_migration MIGRATIONS[] = { { 1, TRUST_SCHEMA_SQL }, { 2, TRUST_AWAITING_SQL } };

enum who { OWNER, ALICE, BOB, CAROL, DAVE, EVE, FRANK, PEOPLE };
static const char *const NAMES[PEOPLE] = { "owner", "alice", "bob", "carol", "dave", "eve", "frank" };

struct world {
    struct test_place place;
    struct db *db;
    struct trust *trust;
    struct keypair *keys[PEOPLE]; /* we are alice */
    json_t *list;                 /* a members_list to fill */
    struct trust_changes changes; /* of the last merge */
};

static inline const char *hex_of(const struct world *world, enum who who)
{
    return keypair_public_hex(world->keys[who]);
}

static inline struct trust_identity identity_of(const struct world *world)
{
    return (struct trust_identity){ MESH_ID, "acme", hex_of(world, OWNER), hex_of(world, ALICE), "m-alice" };
}

static inline void world_open(struct world *world)
{
    const struct trust_identity identity = identity_of(world);
    world->db = place_open(&world->place, MIGRATIONS, ARRAY_LENGTH(MIGRATIONS));
    assert_ok(trust_open(world->db, &identity, &world->trust, error));
}

static inline void world_close(struct world *world)
{
    trust_free(world->trust);
    place_close(&world->place, world->db);
}

static inline void world_reopen(struct world *world)
{
    world_close(world);
    world_open(world);
}

static inline void list_new(struct world *world)
{
    json_decref(world->list);
    world->list = json_new_object();
    json_put_string(world->list, "type", "members_list");
    json_put(world->list, "members", json_new_array());
}

/* Keys are the same in every run: orders by key must be. */
static inline int world_setup(void **state)
{
    struct world *world = memory_zalloc(sizeof(*world));
    place_init(&world->place);
    for (uint8_t who = 0; who < PEOPLE; who++) {
        uint8_t seed[SEED_BYTES] = { 1, who };
        assert_ok(keypair_from_seed(seed, &world->keys[who], error));
    }
    list_new(world);
    world_open(world);
    *state = world;
    return 0;
}

static inline int world_teardown(void **state)
{
    struct world *world = *state;
    world_close(world);
    for (size_t who = 0; who < PEOPLE; who++) {
        keypair_free(world->keys[who]);
    }
    json_decref(world->list);
    place_release(&world->place);
    free(world);
    return 0;
}

/* ---- statements ------------------------------------------------------------------------------------------- */

static inline json_t *sign(enum statement_kind kind, json_t *fields, const struct keypair *keys, const char *signature_name)
{
    char signature[SIGNATURE_HEX_SIZE];
    assert_ok(statement_sign_json(kind, fields, keys, signature, error));
    json_put_string(fields, signature_name, signature);
    return fields;
}

static inline json_t *make_grant(struct world *world, enum who by, enum who subject, const char *role, int64_t seq, int64_t at)
{
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", MESH_ID);
    json_put_string(fields, "pubkey", hex_of(world, subject));
    json_put_string(fields, "role", role);
    json_put_integer(fields, "seq", seq);
    json_put_integer(fields, "at", at);
    json_put_string(fields, "by", hex_of(world, by));
    return sign(STATEMENT_GRANT, fields, world->keys[by], "sig");
}

static inline json_t *make_name(struct world *world, enum who by, enum who subject, const char *name, int64_t seq)
{
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", MESH_ID);
    json_put_string(fields, "pubkey", hex_of(world, subject));
    json_put_string(fields, "name", name);
    json_put_integer(fields, "seq", seq);
    json_put_string(fields, "by", hex_of(world, subject));
    return sign(STATEMENT_NAME, fields, world->keys[by], "sig");
}

static inline json_t *make_revocation(struct world *world, enum who by, enum who subject, int64_t at)
{
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", MESH_ID);
    json_put_string(fields, "subject_pubkey", hex_of(world, subject));
    json_put_string(fields, "member_id", "member-2");
    json_put_integer(fields, "at", at);
    json_put_string(fields, "by", hex_of(world, by));
    return sign(STATEMENT_REVOCATION, fields, world->keys[by], "sig");
}

static inline json_t *make_invite_revocation(struct world *world, enum who by, const char *invite_id, int64_t at)
{
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", MESH_ID);
    json_put_string(fields, "invite_id", invite_id);
    json_put_integer(fields, "at", at);
    json_put_string(fields, "by", hex_of(world, by));
    return sign(STATEMENT_INVITE_REVOCATION, fields, world->keys[by], "sig");
}

static inline json_t *make_leave(struct world *world, enum who by, enum who subject, int64_t at)
{
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", MESH_ID);
    json_put_string(fields, "member_id", "member-2");
    json_put_string(fields, "pubkey", hex_of(world, subject));
    json_put_integer(fields, "at", at);
    return sign(STATEMENT_LEAVE, fields, world->keys[by], "sig");
}

static inline json_t *make_rotation(struct world *world, enum who old, enum who new, int64_t seq, int64_t at)
{
    json_t *fields = json_new_object();
    json_put_string(fields, "mesh", MESH_ID);
    json_put_string(fields, "member_id", "member-2");
    json_put_integer(fields, "seq", seq);
    json_put_string(fields, "old", hex_of(world, old));
    json_put_string(fields, "new", hex_of(world, new));
    json_put_integer(fields, "at", at);
    sign(STATEMENT_ROTATION, fields, world->keys[old], "sig_old");
    return sign(STATEMENT_ROTATION, fields, world->keys[new], "sig_new");
}

/* ---- invites and certificates --------------------------------------------------------------------------------- */

struct invite_options {
    enum who owner, signer;
    const char *role, *mesh_id;
    uint8_t number; /* another number is another invite */
    int64_t max_uses;
    json_t *grant; /* when the signer is not the owner; taken over */
};

static inline struct invite make_invite(struct world *world, const struct invite_options *options)
{
    struct invite invite = {
        .version = 3,
        .mesh_id = memory_strdup(options->mesh_id == NULL ? MESH_ID : options->mesh_id),
        .mesh_slug = memory_strdup("acme"),
        .mesh_name = memory_strdup("Acme"),
        .broker_url = memory_strdup("ws://127.0.0.1:7900/ws"),
        .role = memory_strdup(options->role == NULL ? "member" : options->role),
        .expires_at_s = EXPIRES_S,
        .max_uses = options->max_uses == 0 ? 1 : options->max_uses,
        .owner_pubkey = memory_strdup(hex_of(world, options->owner)),
        .has_root_key = true,
        .has_invite_seed = true,
    };
    invite.invite_seed[0] = 77;
    invite.invite_seed[1] = options->number;
    if (options->signer != options->owner) {
        invite.signer_pubkey = memory_strdup(hex_of(world, options->signer));
        invite.signer_grant = options->grant;
    }
    assert_ok(invite_sign(&invite, world->keys[options->signer], error));
    return invite;
}

static inline json_t *make_certificate(struct world *world, const struct invite_options *options, enum who who, const char *name,
                                       int64_t at)
{
    json_t *certificate = NULL;
    struct invite invite = make_invite(world, options);
    assert_ok(certificate_make(&invite, world->keys[who], name, at, &certificate, error));
    invite_release(&invite);
    return certificate;
}

/* An invite of its own, by the owner, for one. */
static inline json_t *own_certificate(struct world *world, enum who who, int64_t at)
{
    const struct invite_options options = { .number = (uint8_t)(100 + who) };
    return make_certificate(world, &options, who, NAMES[who], at);
}

static inline json_t *admin_certificate(struct world *world, enum who who, int64_t at)
{
    const struct invite_options options = { .number = (uint8_t)(120 + who), .role = "admin" };
    return make_certificate(world, &options, who, NAMES[who], at);
}

/* ---- lists ------------------------------------------------------------------------------------------------ */

static inline json_t *list_member_named(struct world *world, enum who who, const char *name, json_t *certificate)
{
    json_t *member = json_new_object();
    json_put(member, "id", json_pack("s+", "m-", NAMES[who]));
    json_put_string(member, "pubkey", hex_of(world, who));
    json_put_string(member, "displayName", name);
    json_put_string(member, "role", "member");
    json_put_integer(member, "joinedAt", T0);
    json_put_null(member, "lastSeenAt");
    json_put_bool(member, "revoked", false);
    if (certificate != NULL) {
        json_put(member, "cert", certificate);
    }
    (void)json_array_append_new(json_object_get(world->list, "members"), member);
    return member;
}

static inline json_t *list_member(struct world *world, enum who who, json_t *certificate)
{
    return list_member_named(world, who, NAMES[who], certificate);
}

static inline void list_statement(struct world *world, const char *name, json_t *statement)
{
    json_t *list = json_object_get(world->list, name);
    if (list == NULL) {
        list = json_new_array();
        json_put(world->list, name, list);
    }
    (void)json_array_append_new(list, statement);
}

/* As it comes off the wire. */
static inline void merge_list(struct world *world)
{
    size_t length = 0;
    json_t *parsed = NULL;
    char *text = json_to_string(world->list, &length);
    assert_ok(json_parse_strict(text, length, &parsed, error));
    assert_ok(trust_merge_members(world->trust, parsed, &world->changes, error));
    json_decref(parsed);
    free(text);
}

static inline const struct trust_member *member_of(const struct world *world, enum who who)
{
    const struct trust_member *member = trust_member(world->trust, hex_of(world, who));
    if (member == NULL) {
        fail_msg("%s is not there", NAMES[who]);
    }
    return member;
}

static inline bool is_verified(const struct world *world, enum who who)
{
    const struct trust_member *member = trust_member(world->trust, hex_of(world, who));
    return member != NULL && member->verified;
}

#endif
