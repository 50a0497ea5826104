/* Sealed envelopes: any plaintext; and envelopes made from the input, which open as what went in, and which no changed byte makes into another that verifies. Padding by itself, too. */
#include "crypto/box.h"
#include "fuzz_json.h"
#include "fuzz_keys.h"
#include "proto/envelope.h"
#include "util/limits.h"

static void check_padding(const uint8_t *data, size_t size)
{
    struct buffer text;
    struct error error;
    size_t length = SIZE_MAX;

    if (envelope_unpad(data, size, &length, &error) == 0)
        REQUIRE(length < size && data[length] == 0x80);
    else
        REQUIRE(length == SIZE_MAX && error.code == ERROR_INVALID);
    buffer_init(&text, BUFFER_UNLIMITED);
    REQUIRE(buffer_append(&text, data, size) == 0 && envelope_pad(&text, &error) == 0);
    REQUIRE(text.length > size && text.length % 128 == 0 && (text.length <= 1024 || text.length <= (size + 128) * 9 / 8 + 128));
    REQUIRE(envelope_unpad(text.data, text.length, &length, &error) == 0 && length == size && memcmp(text.data, data, size) == 0);
    buffer_release(&text);
}

static bool same_json(const json_t *a, const json_t *b)
{
    return a == NULL || b == NULL ? a == b : json_equal(a, b) != 0;
}

static bool same_text(const char *a, const char *b)
{
    return string_equal(a == NULL ? "" : a, b == NULL ? "" : b);
}

/* Empty meta counts as none (30-delivery), as an absent key_id does. */
static bool same_envelope(const struct envelope *a, const struct envelope *b)
{
    const json_t *a_meta = json_object_size(a->meta) == 0 ? NULL : a->meta, *b_meta = json_object_size(b->meta) == 0 ? NULL : b->meta;
    return string_equal(a->id, b->id) && string_equal(a->mesh, b->mesh) && string_equal(a->from, b->from) &&
           string_equal(a->kind, b->kind) && string_equal(a->to, b->to) && a->sent_at == b->sent_at &&
           same_text(a->reply_to, b->reply_to) && same_json(a_meta, b_meta) && same_json(a->mentions, b->mentions) &&
           string_equal(a->priority, b->priority) && string_equal(a->rv, b->rv) && same_text(a->key_id, b->key_id) &&
           text_equal(a->body, b->body);
}

static void check_any(const uint8_t *data, size_t size)
{
    struct envelope envelope = { 0 };
    json_t *document = NULL;
    bool is_envelope = false;
    struct error error;
    char *bytes = memory_alloc(size + 1);

    memcpy(bytes, data, size);
    bytes[size] = (char)0x80;
    if (envelope_parse(bytes, size + 1, &envelope, &document, &is_envelope, &error) == 0) {
        REQUIRE(is_envelope && document != NULL && envelope.id != NULL && envelope.sent_at >= 0);
        /* The keys of the seeds are the only ones that anybody here can sign with. */
        if (envelope_verify(&envelope, document, &error) == 0)
            REQUIRE(string_equal(envelope.from, keypair_public_hex(fuzz_keys(FUZZ_MEMBER))));
    } else {
        REQUIRE(document == NULL && envelope.id == NULL);
    }
    json_decref(document);
    free(bytes);
}

/* One byte is another: what still verifies says the same. */
static void check_changed(const struct envelope *original, const struct buffer *padded, uint16_t at, uint8_t change)
{
    struct envelope envelope = { 0 };
    json_t *document = NULL;
    bool is_envelope;
    struct error error;
    char *bytes = memory_dup(padded->data, padded->length);

    bytes[at % padded->length] ^= (char)change;
    if (envelope_parse(bytes, padded->length, &envelope, &document, &is_envelope, &error) == 0 &&
        envelope_verify(&envelope, document, &error) == 0)
        REQUIRE(same_envelope(original, &envelope));
    json_decref(document);
    free(bytes);
}

static void check_built(const struct envelope *envelope, uint16_t at, uint8_t change)
{
    struct envelope again;
    json_t *document = NULL;
    bool is_envelope;
    struct error error;
    struct buffer padded;

    buffer_init(&padded, LIMIT_FRAME);
    if (envelope_build(envelope, fuzz_keys(FUZZ_MEMBER), &padded, &error) != 0) {
        REQUIRE(error.code == ERROR_INVALID || error.code == ERROR_TOO_LARGE);
    } else {
        REQUIRE(envelope_parse(padded.data, padded.length, &again, &document, &is_envelope, &error) == 0);
        REQUIRE(same_envelope(envelope, &again) && envelope_verify(&again, document, &error) == 0);
        check_changed(envelope, &padded, at, change);
        json_decref(document);
    }
    buffer_release(&padded);
}

static void check_made(struct fuzz_input input)
{
    const uint16_t at = (uint16_t)(fuzz_take_byte(&input) << 8 | fuzz_take_byte(&input));
    const uint8_t change = fuzz_take_byte(&input), kind = fuzz_take_byte(&input);
    static const char *const KINDS[] = { "dm", "topic", "queue" }, *const PRIORITIES[] = { "now", "next", "low" };
    char *texts[6];
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        texts[i] = fuzz_take_string(&input, '\n');
    size_t body_size;
    char *body = fuzz_take_rest(&input, &body_size);
    json_t *meta = fuzz_parse_json(texts[3], strlen(texts[3])), *mentions = fuzz_parse_json(texts[4], strlen(texts[4]));
    const struct envelope envelope = {
        .id = texts[0],
        .mesh = FUZZ_MESH,
        .from = keypair_public_hex(fuzz_keys(FUZZ_MEMBER)),
        .kind = KINDS[kind % 3],
        .to = texts[1],
        .sent_at = at,
        .reply_to = texts[2][0] == '\0' ? NULL : texts[2],
        .meta = json_is_object(meta) ? meta : NULL,
        .mentions = json_is_array(mentions) && json_array_size(mentions) == 0 ? mentions : NULL,
        .priority = PRIORITIES[kind / 3 % 3],
        .rv = "0:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        .key_id = texts[5][0] == '\0' ? NULL : texts[5],
        .body = { body, body_size },
    };
    if (utf8_is_valid(texts[1], strlen(texts[1])) && utf8_is_valid(texts[2], strlen(texts[2])))
        check_built(&envelope, at, change);
    json_decref(meta);
    json_decref(mentions);
    free(body);
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        free(texts[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };

    (void)fuzz_keys(FUZZ_MEMBER);
    check_padding(data, size);
    if ((fuzz_take_byte(&input) & 1) == 0)
        check_any(input.at, input.left);
    else
        check_made(input);
    return 0;
}
