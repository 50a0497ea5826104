/* Signed statements of every kind, and certificates: the signed text is made of the fields and of nothing else, two statements never share one, and what was signed verifies as long as nothing in it changed. */
#include "fuzz_json.h"
#include "fuzz_keys.h"
#include "proto/invite.h"
#include "proto/statement.h"

/* Splits the text again: the domain, then one part a field. */
static void check_text(enum statement_kind kind, const json_t *fields, const struct buffer *text)
{
    const char *at = text->data, *end = text->data + text->length;
    const size_t count = statement_field_count(kind);

    REQUIRE(text->length <= STATEMENT_TEXT_MAXIMUM && string_equal(at, statement_domain(kind)));
    at += strlen(at);
    size_t parts = 0;
    for (; at < end; parts++) {
        const json_t *value = json_object_get(fields, statement_field_name(kind, parts));
        const size_t length = strlen(at + 1);
        REQUIRE(*at == '\0' && parts < count && at + 1 + length <= end);
        at++;
        if (json_is_string(value))
            REQUIRE(length == json_string_length(value) && memcmp(at, json_string_value(value), length) == 0);
        else if (json_is_number(value))
            REQUIRE(strtod(at, NULL) == json_number_value(value) && strspn(at, "0123456789") == length && length > 0);
        else
            REQUIRE(length == 0);
        at += length;
    }
    REQUIRE(at == end && (parts == count || (kind == STATEMENT_MESSAGE && parts == count - 2)));
}

static void check_kind(enum statement_kind kind, json_t *fields)
{
    struct buffer text;
    struct error error = { .code = ERROR_NONE };
    char signature[SIGNATURE_HEX_SIZE];

    buffer_init(&text, BUFFER_UNLIMITED);
    const int result = statement_text_of_json(kind, fields, &text, &error);
    if (result != 0) {
        REQUIRE(text.length == 0 && (error.code == ERROR_INVALID || error.code == ERROR_TOO_LARGE));
    } else {
        check_text(kind, fields, &text);
        REQUIRE(statement_sign_json(kind, fields, fuzz_keys(FUZZ_OWNER), signature, &error) == 0);
        json_put_string(fields, "sig of this", signature);
        REQUIRE(statement_verify_json(kind, fields, keypair_public_hex(fuzz_keys(FUZZ_OWNER)), "sig of this", &error) == 0);
        REQUIRE(statement_verify_json(kind, fields, keypair_public_hex(fuzz_keys(FUZZ_MEMBER)), "sig of this", &error) ==
                -(int)ERROR_DENIED);
        (void)json_object_del(fields, "sig of this");
    }
    buffer_release(&text);
}

/* A whole certificate as it came: what verifies has a shape, too. */
static void check_certificate(const json_t *document)
{
    const char *owner = keypair_public_hex(fuzz_keys(FUZZ_OWNER));
    struct certificate certificate = { .name = NULL };
    struct error error = { .code = ERROR_NONE };

    if (certificate_parse(document, &certificate, &error) != 0) {
        REQUIRE(certificate.name == NULL && certificate.invite.mesh_id == NULL);
        REQUIRE(certificate_verify(document, FUZZ_MESH, owner, &certificate, &error) != 0 && certificate.name == NULL);
        return;
    }
    REQUIRE(hex_is_key(certificate.pubkey) && !certificate.invite.has_root_key && string_equal(certificate.role, certificate.invite.role));
    certificate_release(&certificate);
    if (certificate_verify(document, FUZZ_MESH, owner, &certificate, &error) == 0) {
        REQUIRE(certificate.at_ms <= certificate.invite.expires_at_s * 1000 && string_equal(certificate.invite.owner_pubkey, owner));
        certificate_release(&certificate);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    const uint8_t kind = fuzz_take_byte(&input);

    (void)fuzz_keys(FUZZ_OWNER);
    json_t *document = fuzz_parse_json(input.at, input.left);
    if (kind >= STATEMENT_KINDS)
        check_certificate(document);
    else if (document != NULL)
        check_kind((enum statement_kind)kind, document);
    json_decref(document);
    return 0;
}
