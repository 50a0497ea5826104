/* Invites and certificates: the vector both ways, admins' invites, and what hostile links and certificates try. */
#include "fixture.h"

#include "proto/invite.h"
#include "proto/statement.h"
#include "util/limits.h"

static json_t *vectors;
static struct keypair *owner;  /* alice, who owns the vectors' mesh */
static struct keypair *member; /* bob */

static const char *vector_link(void)
{
    return vector_string(vectors, "invite.link");
}

static void parse_vector(struct invite *ret_invite)
{
    assert_ok(invite_parse_link(vector_link(), ret_invite, error));
}

/* A link around any JSON. */
static char *link_of(const char *scheme, const json_t *object)
{
    struct buffer link;
    size_t length = 0;
    char *text = json_to_string(object, &length);
    buffer_init(&link, BUFFER_UNLIMITED);
    (void)buffer_append_text(&link, scheme);
    (void)base64url_encode(text, length, &link);
    free(text);
    return buffer_take(&link, NULL);
}

static void expect_link_refused(const char *scheme, const json_t *object, enum error_code code)
{
    struct invite invite = { .version = 77 };
    struct error error = { 0 };
    char *link = link_of(scheme, object);
    int result = invite_parse_link(link, &invite, &error);
    if (result != -(int)code) {
        fail_msg("%s: %d %s", link, result, error.message);
    }
    assert_int_equal(invite.version, 77);
    assert_null(strstr(error.message, "bLJclECrj7g9sKxsJ1lWNXnufxJxKR1eMNg95PkWnrA"));
    assert_null(strstr(error.message, "lX_pwOnHSw5wCxZ3P5"));
    free(link);
}

/* ---- invites ---------------------------------------------------------------------------------------------- */

static void the_vectors_link_is_read_whole_and_its_signature_holds(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    struct buffer text;
    uint8_t root_key[32];
    struct buffer decoded;
    const char *root_text = vector_string(vectors, "invite.invite.root_key");
    parse_vector(&invite);
    assert_int_equal(invite.version, 3);
    assert_string_equal(invite.mesh_id, vector_string(vectors, "mesh_id"));
    assert_string_equal(invite.mesh_slug, "acme");
    assert_string_equal(invite.mesh_name, "Acme");
    assert_string_equal(invite.broker_url, "ws://127.0.0.1:7900/ws");
    assert_string_equal(invite.role, "member");
    assert_int_equal(invite.expires_at_s, 4102444800);
    assert_int_equal(invite.max_uses, 5);
    assert_null(invite.signer_pubkey);
    assert_true(invite.has_root_key && invite.has_invite_seed);
    buffer_init(&decoded, 32);
    assert_int_equal(base64url_decode(root_text, strlen(root_text), &decoded), 0);
    memcpy(root_key, decoded.data, sizeof(root_key));
    assert_memory_equal(invite.root_key, root_key, sizeof(root_key));
    buffer_release(&decoded);
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_ok(invite_text(&invite, &text, error));
    assert_string_equal(text.data, vector_string(vectors, "invite.text"));
    assert_ok(invite_verify(&invite, error));
    buffer_release(&text);
    invite_release(&invite);
}

static void the_vectors_link_is_formatted_byte_for_byte(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    parse_vector(&invite);
    char *link = invite_format_link(&invite);
    assert_string_equal(link, vector_link());
    free(link);
    invite_release(&invite);
}

static void the_owner_signs_as_the_vector_does(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    parse_vector(&invite);
    memset(invite.signature, '0', SIGNATURE_HEX_SIZE - 1);
    free(invite.invite_id);
    invite.invite_id = NULL;
    invite.invite_pubkey[0] = '\0';
    invite.root_key_sha256[0] = '\0';
    assert_ok(invite_sign(&invite, owner, error));
    assert_string_equal(invite.signature, vector_string(vectors, "invite.invite.signature"));
    assert_string_equal(invite.invite_id, vector_string(vectors, "invite.invite.invite_id"));
    assert_refused(invite_sign(&invite, member, error), ERROR_DENIED);
    invite_release(&invite);
}

static void a_change_of_any_signed_field_breaks_the_signature(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
        enum error_code at_verification; /* ERROR_NONE: the link is refused already */
    } CASES[] = {
        { "mesh_id", "\"7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d12\"", ERROR_DENIED },
        { "mesh_slug", "\"acme2\"", ERROR_DENIED },
        { "broker_url", "\"ws://127.0.0.1:7901/ws\"", ERROR_DENIED },
        { "invite_id", "\"k06c677d4ce5380990f55f03cd9e8727f26339915\"", ERROR_DENIED },
        { "role", "\"admin\"", ERROR_DENIED },
        { "expires_at", "4102444801", ERROR_DENIED },
        { "max_uses", "6", ERROR_DENIED },
        { "owner_pubkey", "\"429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa17\"", ERROR_DENIED },
        { "root_key", "\"aLJclECrj7g9sKxsJ1lWNXnufxJxKR1eMNg95PkWnrA\"", ERROR_DENIED },
        { "invite_seed", "\"mX_pwOnHSw5wCxZ3P5-_bg8NTORJh1U4r7ZzZKh_pxk\"", ERROR_DENIED },
        { "mesh_name", "\"Acme \\u001b[31m\"", ERROR_NONE }, /* not signed: shown with its control characters stripped */
        { "unknown_field", "{}", ERROR_NONE },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct invite invite = { 0 };
        json_t *object = json_copy(vector_at(vectors, "invite.invite"));
        json_put(object, CASES[index].name, parse_json(CASES[index].value));
        char *link = link_of("claudemesh://join/", object);
        assert_ok(invite_parse_link(link, &invite, error));
        if (CASES[index].at_verification == ERROR_NONE) {
            assert_ok(invite_verify(&invite, error));
        } else {
            assert_refused(invite_verify(&invite, error), ERROR_DENIED);
        }
        invite_release(&invite);
        json_decref(object);
        free(link);
    }
}

static void a_malformed_field_is_refused_before_any_signature(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
    } CASES[] = {
        { "v", "2" },
        { "v", "\"3\"" },
        { "v", "1" },
        { "mesh_id", "\"7F9D2A54-9D0C-4A3E-8A4E-3C1B6F0E2D11\"" },
        { "mesh_id", "5" },
        { "mesh_id", "null" },
        { "mesh_slug", "\"A slug\"" },
        { "mesh_slug", "\"a|b\"" },
        { "mesh_name", "5" },
        { "broker_url", "\"http://127.0.0.1/ws\"" },
        { "broker_url", "\"ws://a|b\"" },
        { "broker_url", "\"ws://a b\"" },
        { "broker_url", "\"ws://a\\nb\"" },
        { "invite_id", "\"a|b\"" },
        { "invite_id", "\"\"" },
        { "role", "\"owner\"" },
        { "expires_at", "0" },
        { "expires_at", "-1" },
        { "expires_at", "1.5" },
        { "expires_at", "253402300800" },
        { "expires_at", "\"4102444800\"" },
        { "max_uses", "0" },
        { "max_uses", "4294967296" },
        { "max_uses", "true" },
        { "owner_pubkey", "\"1FF737358D057F57942963BC607598FA031AD7B7294E61867DFCB992A4E47A0A\"" },
        { "owner_pubkey", "\"1ff7\"" },
        { "root_key", "\"bLJclECrj7g9sKxsJ1lWNXnufxJxKR1eMNg95PkWnrA=\"" },
        { "root_key", "\"bLJc\"" },
        { "root_key", "{}" },
        { "root_key", "\"bLJclECrj7g9sKxsJ1lWNXnufxJxKR1eMNg95PkWnrB\"" }, /* bits past the last byte */
        { "invite_seed", "\"lX/pwOnHSw5wCxZ3P5+/bg8NTORJh1U4r7ZzZKh/pxk\"" },
        { "invite_seed", "null" },
        { "signature", "\"1FC477B4\"" },
        { "signature", "5" },
        { "signer_pubkey", "\"429bef6eb5907cb68ab9608d26ddc7b12d7af5a8e4f5b4dd948ce391f0eeaa17\"" }, /* without a grant */
        { "signer_grant", "{}" },                                                                    /* without a signer */
        { "signer_grant", "\"grant\"" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        json_t *object = json_copy(vector_at(vectors, "invite.invite"));
        json_put(object, CASES[index].name, parse_json(CASES[index].value));
        expect_link_refused("claudemesh://join/", object, ERROR_INVALID);
        json_decref(object);
    }
}

static void what_is_no_link_is_refused(void **state)
{
    (void)state;
    static const char *const LINKS[] = {
        "",
        "http://join/e30",
        "claudemesh://join",
        "claudemesh://join/",
        "claudemesh://join/!!!",
        "claudemesh://join/e30=",
        "claudemesh://join/W10" /* [] */,
        "claudemesh://join/e30" /* {} */,
        "claudemesh://join/bnVsbA" /* null */,
        " claudemesh://join/e30",
    };
    struct invite invite;
    for (size_t index = 0; index < ARRAY_LENGTH(LINKS); index++) {
        assert_refused(invite_parse_link(LINKS[index], &invite, error), ERROR_INVALID);
    }
    char *cut = memory_strndup(vector_link(), strlen(vector_link()) - 3);
    assert_refused(invite_parse_link(cut, &invite, error), ERROR_INVALID);
    free(cut);
    char *trailing = memory_printf("%s\n", vector_link());
    assert_refused(invite_parse_link(trailing, &invite, error), ERROR_INVALID);
    free(trailing);
    char *huge = memory_zalloc(LIMIT_INVITE_LINK + 100);
    memset(huge, 'A', LIMIT_INVITE_LINK + 99);
    memcpy(huge, "claudemesh://join/", strlen("claudemesh://join/"));
    assert_refused(invite_parse_link(huge, &invite, error), ERROR_TOO_LARGE);
    free(huge);
}

static json_t *make_grant(const struct keypair *by, const char *pubkey, const char *role, const char *mesh)
{
    char signature[SIGNATURE_HEX_SIZE];
    json_t *grant = json_new_object();
    json_put_string(grant, "mesh", mesh);
    json_put_string(grant, "pubkey", pubkey);
    json_put_string(grant, "role", role);
    json_put_integer(grant, "seq", 1);
    json_put_integer(grant, "at", 1790000001500);
    json_put_string(grant, "by", keypair_public_hex(by));
    assert_ok(statement_sign_json(STATEMENT_GRANT, grant, by, signature, error));
    json_put_string(grant, "sig", signature);
    return grant;
}

/* An invite by `signer`, with that grant. */
static int admin_invite(const struct keypair *signer, json_t *grant, const char *role, struct invite *ret_invite, struct error *error)
{
    parse_vector(ret_invite);
    free(ret_invite->role);
    ret_invite->role = memory_strdup(role);
    ret_invite->signer_pubkey = memory_strdup(keypair_public_hex(signer));
    ret_invite->signer_grant = grant;
    return invite_sign(ret_invite, signer, error);
}

static void an_admins_invite_carries_the_owners_grant(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    struct invite again = { 0 };
    json_t *grant = make_grant(owner, keypair_public_hex(member), "admin", vector_string(vectors, "mesh_id"));
    assert_ok(admin_invite(member, grant, "member", &invite, error));
    assert_ok(invite_verify(&invite, error));
    char *link = invite_format_link(&invite);
    assert_ok(invite_parse_link(link, &again, error));
    assert_ok(invite_verify(&again, error));
    char *link_again = invite_format_link(&again);
    assert_string_equal(link, link_again);
    free(link);
    free(link_again);
    invite_release(&invite);
    invite_release(&again);
}

static void a_grant_that_does_not_make_the_signer_an_admin_of_this_mesh_is_refused(void **state)
{
    (void)state;
    const char *mesh = vector_string(vectors, "mesh_id");
    const char *bob = keypair_public_hex(member);
    struct keypair *stranger = new_keys();
    json_t *forged = make_grant(owner, bob, "member", mesh);
    json_put_string(forged, "role", "admin");
    json_t *grants[] = {
        make_grant(stranger, bob, "admin", mesh),                                /* not by the owner */
        make_grant(owner, bob, "member", mesh),                                  /* no admin */
        make_grant(owner, keypair_public_hex(stranger), "admin", mesh),          /* somebody else */
        make_grant(owner, bob, "admin", "11111111-9d0c-4a3e-8a4e-3c1b6f0e2d11"), /* another mesh */
        forged,
    };
    for (size_t index = 0; index < ARRAY_LENGTH(grants); index++) {
        struct invite invite = { 0 };
        assert_ok(admin_invite(member, grants[index], "member", &invite, error));
        assert_refused(invite_verify(&invite, error), ERROR_DENIED);
        invite_release(&invite);
    }
    keypair_free(stranger);
}

static void only_the_owner_invites_an_admin(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    struct buffer text;
    json_t *grant = make_grant(owner, keypair_public_hex(member), "admin", vector_string(vectors, "mesh_id"));
    assert_refused(admin_invite(member, grant, "admin", &invite, error), ERROR_DENIED);
    /* nor when it signs by hand */
    buffer_init(&text, BUFFER_UNLIMITED);
    assert_ok(invite_text(&invite, &text, error));
    keypair_sign_hex(member, text.data, text.length, invite.signature);
    assert_refused(invite_verify(&invite, error), ERROR_DENIED);
    buffer_release(&text);
    invite_release(&invite);
}

static void the_public_form_holds_no_secret_and_is_read_again(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    struct invite again = { 0 };
    parse_vector(&invite);
    json_t *public_form = invite_public_json(&invite);
    char *text = json_to_string(public_form, NULL);
    assert_null(strstr(text, vector_string(vectors, "invite.invite.root_key")));
    assert_null(strstr(text, vector_string(vectors, "invite.invite.invite_seed")));
    assert_null(strstr(text, "\"root_key\""));
    assert_ok(invite_parse_public(public_form, &again, error));
    assert_false(again.has_root_key || again.has_invite_seed);
    assert_string_equal(again.root_key_sha256, invite.root_key_sha256);
    assert_refused(invite_verify(&again, error), ERROR_INVALID); /* its key is not known yet */
    memcpy(again.invite_pubkey, invite.invite_pubkey, KEY_HEX_SIZE);
    assert_ok(invite_verify(&again, error));
    struct invite refused;
    json_put_string(public_form, "root_key", "x");
    assert_refused(invite_parse_public(public_form, &refused, error), ERROR_INVALID);
    assert_refused(invite_parse_public(json_null(), &refused, error), ERROR_INVALID);
    free(text);
    json_decref(public_form);
    invite_release(&invite);
    invite_release(&again);
}

static void a_malformed_public_form_is_refused(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    static const struct {
        const char *field;
        const char *json; /* NULL: it is missing */
    } CASES[] = {
        { "root_key_sha256", NULL },       { "root_key_sha256", "5" },  { "root_key_sha256", "\"ab\"" },
        { "invite_seed", "\"AAAA\"" },     { "v", "4" },                { "v", "\"3\"" },
        { "mesh_id", NULL },               { "mesh_name", "5" },        { "expires_at", "0" },
        { "expires_at", "9007199254740991" }, { "max_uses", "0" },      { "max_uses", "1.5" },
        { "role", "\"king\"" },            { "signature", "\"zz\"" },   { "owner_pubkey", "\"AB\"" },
        { "signer_pubkey", "\"nokey\"" },  { "signer_pubkey", "5" },
    };
    parse_vector(&invite);
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        struct invite again = { 0 };
        json_t *form = invite_public_json(&invite);
        if (CASES[index].json == NULL) {
            (void)json_object_del(form, CASES[index].field);
        } else {
            json_put(form, CASES[index].field, json_loads(CASES[index].json, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL));
        }
        if (invite_parse_public(form, &again, NULL) == 0) {
            fail_msg("%s = %s was taken", CASES[index].field, CASES[index].json == NULL ? "nothing" : CASES[index].json);
        }
        assert_null(again.mesh_id); /* untouched */
        json_decref(form);
    }
    invite_release(&invite);
}

static void links_of_the_older_form_are_read_and_never_verified(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    json_t *object = json_new_object();
    json_put_integer(object, "v", 1);
    json_put_string(object, "mesh_id", "JVqD7kx0aBcD_mesh");
    json_put_string(object, "mesh_slug", "acme");
    json_put_string(object, "broker_url", "wss://broker.example/ws");
    json_put_integer(object, "expires_at", 4102444800);
    json_put_string(object, "mesh_root_key", vector_string(vectors, "invite.invite.root_key"));
    json_put_string(object, "owner_pubkey", vector_string(vectors, "keys.alice.public"));
    json_put_string(object, "signature", vector_string(vectors, "invite.invite.signature"));
    char *link = link_of("ic://join/", object);
    assert_ok(invite_parse_link(link, &invite, error));
    assert_int_equal(invite.version, 1);
    assert_string_equal(invite.mesh_id, "JVqD7kx0aBcD_mesh");
    assert_string_equal(invite.role, "member");
    assert_true(invite.has_root_key);
    assert_false(invite.has_invite_seed);
    assert_refused(invite_verify(&invite, error), ERROR_DENIED);
    invite_release(&invite);
    free(link);
    expect_link_refused("claudemesh://join/", object, ERROR_INVALID);
    json_put_string(object, "role", "king");
    expect_link_refused("ic://join/", object, ERROR_INVALID);
    assert_int_equal(json_object_del(object, "role"), 0);
    assert_int_equal(json_object_del(object, "mesh_root_key"), 0);
    expect_link_refused("ic://join/", object, ERROR_INVALID);
    expect_link_refused("ic://join/", vector_at(vectors, "invite.invite"), ERROR_INVALID);
    json_decref(object);
}

/* ---- certificates ----------------------------------------------------------------------------------------- */

static const int64_t AT_MS = INT64_C(1790000001000);

static json_t *make_certificate(void)
{
    struct invite invite = { 0 };
    json_t *certificate = NULL;
    parse_vector(&invite);
    assert_ok(certificate_make(&invite, member, "bob", AT_MS, &certificate, error));
    invite_release(&invite);
    return certificate;
}

static int verify_certificate(const json_t *document, struct error *error)
{
    struct certificate certificate = { 0 };
    int result = certificate_verify(document, vector_string(vectors, "mesh_id"), keypair_public_hex(owner), &certificate, error);
    certificate_release(&certificate);
    return result;
}

static void a_certificate_has_the_vectors_signatures_and_verifies(void **state)
{
    (void)state;
    struct certificate certificate = { 0 };
    json_t *document = make_certificate();
    assert_string_equal(vector_string(document, "invite_sig"), vector_string(vectors, "statements.join.signatures.invite_sig"));
    assert_string_equal(vector_string(document, "self_sig"), vector_string(vectors, "statements.join.signatures.self_sig"));
    assert_ok(certificate_verify(document, vector_string(vectors, "mesh_id"), keypair_public_hex(owner), &certificate, error));
    assert_string_equal(certificate.pubkey, keypair_public_hex(member));
    assert_string_equal(certificate.name, "bob");
    assert_string_equal(certificate.role, "member");
    assert_int_equal(certificate.at_ms, AT_MS);
    assert_int_equal(certificate.invite.max_uses, 5);
    certificate_release(&certificate);
    json_decref(document);
}

static void a_certificate_survives_being_printed_and_parsed(void **state)
{
    (void)state;
    json_t *document = make_certificate();
    char *text = json_to_string(document, NULL);
    json_t *again = parse_json(text);
    assert_ok(verify_certificate(again, error));
    json_decref(again);
    json_decref(document);
    free(text);
}

static void a_certificate_of_another_mesh_or_owner_is_refused(void **state)
{
    (void)state;
    struct certificate certificate;
    json_t *document = make_certificate();
    assert_refused(certificate_verify(document, "11111111-9d0c-4a3e-8a4e-3c1b6f0e2d11", keypair_public_hex(owner), &certificate, error),
                   ERROR_DENIED);
    assert_refused(certificate_verify(document, vector_string(vectors, "mesh_id"), keypair_public_hex(member), &certificate, error),
                   ERROR_DENIED);
    assert_refused(certificate_verify(document, vector_string(vectors, "mesh_id"), "", &certificate, error), ERROR_DENIED);
    json_decref(document);
}

static void a_changed_join_statement_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value;
    } CASES[] = {
        { "mesh", "\"11111111-9d0c-4a3e-8a4e-3c1b6f0e2d11\"" },
        { "invite_id", "\"k06c677d4ce5380990f55f03cd9e8727f26339915\"" },
        { "role", "\"admin\"" },
        { "pubkey", "\"93ebbe88034c2051a0a42ed5c24a8039c0f64df52c5e1c7fadbe079438d88390\"" },
        { "name", "\"boss\"" },
        { "at", "1790000001001" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        json_t *document = make_certificate();
        json_put(json_object_get(document, "join"), CASES[index].name, parse_json(CASES[index].value));
        assert_refused(verify_certificate(document, error), ERROR_DENIED);
        json_decref(document);
    }
}

static void a_malformed_certificate_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *path, *value;
    } CASES[] = {
        { "invite", "null" },        { "invite", "[]" },       { "join", "5" },     { "invite_pubkey", "\"F00\"" },
        { "invite_pubkey", "null" }, { "invite_sig", "null" }, { "self_sig", "5" }, { "self_sig", "\"00\"" },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        json_t *document = make_certificate();
        json_put(document, CASES[index].path, parse_json(CASES[index].value));
        assert_refused(verify_certificate(document, error), ERROR_INVALID);
        json_decref(document);
    }
    assert_refused(verify_certificate(json_null(), error), ERROR_INVALID);
    assert_refused(verify_certificate(NULL, error), ERROR_INVALID);
    json_t *document = make_certificate();
    char upper[KEY_HEX_SIZE];
    for (size_t index = 0; index < sizeof(upper); index++) {
        char digit = keypair_public_hex(member)[index];
        upper[index] = digit >= 'a' && digit <= 'f' ? (char)(digit - 'a' + 'A') : digit;
    }
    json_put_string(json_object_get(document, "join"), "pubkey", upper);
    assert_refused(verify_certificate(document, error), ERROR_INVALID);
    json_decref(document);
}

static void signatures_of_the_wrong_keys_are_refused(void **state)
{
    (void)state;
    json_t *document = make_certificate();
    json_t *swapped = json_copy(document);
    json_put(swapped, "invite_sig", json_incref(json_object_get(document, "self_sig")));
    json_put(swapped, "self_sig", json_incref(json_object_get(document, "invite_sig")));
    assert_refused(verify_certificate(swapped, error), ERROR_DENIED);
    json_decref(swapped);
    json_put_string(document, "invite_pubkey", keypair_public_hex(member)); /* a key that the invite does not commit to */
    assert_refused(verify_certificate(document, error), ERROR_DENIED);
    json_decref(document);
}

static void a_join_after_the_invites_expiry_is_refused(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    json_t *document = NULL;
    parse_vector(&invite);
    invite.expires_at_s = AT_MS / 1000;
    assert_ok(invite_sign(&invite, owner, error));
    assert_ok(certificate_make(&invite, member, "bob", AT_MS, &document, error)); /* the last moment */
    assert_ok(verify_certificate(document, error));
    json_decref(document);
    assert_refused(certificate_make(&invite, member, "bob", AT_MS + 1, &document, error), ERROR_DENIED);
    /* somebody who signs all the same */
    char signature[SIGNATURE_HEX_SIZE];
    struct keypair *invite_keys = NULL;
    assert_ok(keypair_from_seed(invite.invite_seed, &invite_keys, error));
    assert_ok(certificate_make(&invite, member, "bob", AT_MS, &document, error));
    json_t *join = json_object_get(document, "join");
    json_put_integer(join, "at", AT_MS + 1);
    assert_ok(statement_sign_json(STATEMENT_JOIN, join, invite_keys, signature, error));
    json_put_string(document, "invite_sig", signature);
    assert_ok(statement_sign_json(STATEMENT_JOIN, join, member, signature, error));
    json_put_string(document, "self_sig", signature);
    assert_refused(verify_certificate(document, error), ERROR_DENIED);
    keypair_free(invite_keys);
    json_decref(document);
    invite_release(&invite);
}

static void a_name_that_no_statement_can_hold_makes_no_certificate(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    json_t *document = NULL;
    char name[LIMIT_DISPLAY_NAME + 2];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    parse_vector(&invite);
    assert_refused(certificate_make(&invite, member, "", AT_MS, &document, error), ERROR_INVALID);
    assert_refused(certificate_make(&invite, member, name, AT_MS, &document, error), ERROR_INVALID);
    assert_null(document);
    invite_release(&invite);
}

static void an_admins_invite_makes_certificates_too(void **state)
{
    (void)state;
    struct invite invite = { 0 };
    json_t *document = NULL;
    struct keypair *newcomer = new_keys();
    json_t *grant = make_grant(owner, keypair_public_hex(member), "admin", vector_string(vectors, "mesh_id"));
    assert_ok(admin_invite(member, grant, "member", &invite, error));
    assert_ok(certificate_make(&invite, newcomer, "carol", AT_MS, &document, error));
    assert_ok(verify_certificate(document, error));
    json_decref(document);
    invite_release(&invite);
    keypair_free(newcomer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vectors_link_is_read_whole_and_its_signature_holds),
        cmocka_unit_test(the_vectors_link_is_formatted_byte_for_byte),
        cmocka_unit_test(the_owner_signs_as_the_vector_does),
        cmocka_unit_test(a_change_of_any_signed_field_breaks_the_signature),
        cmocka_unit_test(a_malformed_field_is_refused_before_any_signature),
        cmocka_unit_test(what_is_no_link_is_refused),
        cmocka_unit_test(an_admins_invite_carries_the_owners_grant),
        cmocka_unit_test(a_grant_that_does_not_make_the_signer_an_admin_of_this_mesh_is_refused),
        cmocka_unit_test(only_the_owner_invites_an_admin),
        cmocka_unit_test(the_public_form_holds_no_secret_and_is_read_again),
        cmocka_unit_test(a_malformed_public_form_is_refused),
        cmocka_unit_test(links_of_the_older_form_are_read_and_never_verified),
        cmocka_unit_test(a_certificate_has_the_vectors_signatures_and_verifies),
        cmocka_unit_test(a_certificate_survives_being_printed_and_parsed),
        cmocka_unit_test(a_certificate_of_another_mesh_or_owner_is_refused),
        cmocka_unit_test(a_changed_join_statement_is_refused),
        cmocka_unit_test(a_malformed_certificate_is_refused),
        cmocka_unit_test(signatures_of_the_wrong_keys_are_refused),
        cmocka_unit_test(a_join_after_the_invites_expiry_is_refused),
        cmocka_unit_test(a_name_that_no_statement_can_hold_makes_no_certificate),
        cmocka_unit_test(an_admins_invite_makes_certificates_too),
    };
    assert_ok(crypto_start(error));
    vectors = load_vectors();
    owner = vector_keys(vectors, "keys.alice.secret");
    member = vector_keys(vectors, "keys.bob.secret");
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    keypair_free(owner);
    keypair_free(member);
    json_decref(vectors);
    return failures;
}
