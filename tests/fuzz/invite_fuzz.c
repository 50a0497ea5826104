/* Invite links and public invites: a link that is accepted is written again as one that says the same; secrets stay out of the public form and out of errors. */
#include "fuzz_json.h"
#include "fuzz_keys.h"
#include "proto/invite.h"

static void check_same(const struct invite *a, const struct invite *b)
{
    REQUIRE(a->version == b->version && string_equal(a->mesh_id, b->mesh_id) && string_equal(a->mesh_slug, b->mesh_slug));
    REQUIRE(string_equal(a->mesh_name, b->mesh_name) && string_equal(a->broker_url, b->broker_url));
    REQUIRE(string_equal(a->invite_id, b->invite_id) && string_equal(a->role, b->role) && a->expires_at_s == b->expires_at_s);
    REQUIRE(a->max_uses == b->max_uses && string_equal(a->owner_pubkey, b->owner_pubkey));
    REQUIRE(string_equal(a->signer_pubkey, b->signer_pubkey) && (a->signer_grant == NULL) == (b->signer_grant == NULL));
    REQUIRE(a->signer_grant == NULL || json_equal(a->signer_grant, b->signer_grant));
    REQUIRE(string_equal(a->root_key_sha256, b->root_key_sha256) && string_equal(a->signature, b->signature));
}

/* Only the keys of the seeds ever sign: an owner of another key has made its own mesh, and its invites say so. */
static void check_signed(const struct invite *invite)
{
    const bool admin = invite->signer_pubkey != NULL;

    REQUIRE(hex_is_key(invite->owner_pubkey) && (!admin || string_equal(invite->role, "member")));
}

static void check_public(const struct invite *invite)
{
    struct invite again = { 0 };
    struct error error;
    json_t *public = invite_public_json(invite);

    REQUIRE(json_object_get(public, "root_key") == NULL && json_object_get(public, "invite_seed") == NULL);
    REQUIRE(invite_parse_public(public, &again, &error) == 0);
    REQUIRE(!again.has_root_key && !again.has_invite_seed && again.invite_pubkey[0] == '\0');
    check_same(invite, &again);
    REQUIRE(invite_verify(&again, &error) == -(int)ERROR_INVALID); /* its key stands in the certificate, not in it */
    invite_release(&again);
    json_put_string(public, "root_key", "");
    REQUIRE(invite_parse_public(public, &again, &error) == -(int)ERROR_INVALID && again.mesh_id == NULL);
    json_decref(public);
}

/* The secret half of the link must not stand in what a person is shown. */
static void check_error(const struct error *error, const char *link)
{
    REQUIRE(error->code == ERROR_INVALID || error->code == ERROR_TOO_LARGE);
    REQUIRE(strlen(link) < 40 || strstr(error->message, link + strlen(link) - 20) == NULL);
}

static void check_link(const char *link)
{
    struct invite invite = { 0 }, again = { 0 };
    struct error error = { .code = ERROR_NONE };

    if (invite_parse_link(link, &invite, &error) != 0) {
        REQUIRE(invite.mesh_id == NULL && !invite.has_root_key && !invite.has_invite_seed);
        check_error(&error, link);
        return;
    }
    if (invite.version == 1) {
        REQUIRE(invite_verify(&invite, &error) == -(int)ERROR_DENIED && !invite.has_invite_seed);
    } else {
        char *written = invite_format_link(&invite);
        REQUIRE(invite.version == 3 && invite.has_root_key && invite.has_invite_seed);
        REQUIRE(invite_parse_link(written, &again, &error) == 0);
        check_same(&invite, &again);
        REQUIRE(memcmp(invite.root_key, again.root_key, sizeof(again.root_key)) == 0);
        REQUIRE(memcmp(invite.invite_seed, again.invite_seed, sizeof(again.invite_seed)) == 0);
        REQUIRE(string_equal(invite.invite_pubkey, again.invite_pubkey));
        if (invite_verify(&invite, &error) == 0)
            check_signed(&invite);
        check_public(&invite);
        invite_release(&again);
        free(written);
    }
    invite_release(&invite);
}

/* As JSON, so that mutations reach the fields: encoded here. */
static void check_content(const char *scheme, const uint8_t *data, size_t size)
{
    struct buffer link;
    buffer_init(&link, BUFFER_UNLIMITED);
    (void)buffer_append_text(&link, scheme);
    REQUIRE(base64url_encode(data, size, &link) == 0);
    check_link(link.data);
    buffer_release(&link);
}

static void check_object(const uint8_t *data, size_t size)
{
    struct invite invite = { 0 };
    struct error error = { .code = ERROR_NONE };
    json_t *object = fuzz_parse_json(data, size);

    if (object != NULL && invite_parse_public(object, &invite, &error) == 0) {
        check_public(&invite);
        invite_release(&invite);
    } else {
        REQUIRE(invite.mesh_id == NULL);
    }
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    char *text;

    (void)fuzz_keys(FUZZ_OWNER);
    switch (fuzz_take_byte(&input) % 4) {
    case 0:
        text = fuzz_take_string(&input, '\0');
        check_link(text);
        free(text);
        break;
    case 1:
        check_content("claudemesh://join/", input.at, input.left);
        break;
    case 2:
        check_content("ic://join/", input.at, input.left);
        break;
    default:
        check_object(input.at, input.left);
        break;
    }
    return 0;
}
