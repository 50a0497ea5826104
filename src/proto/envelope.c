/* Owns the sealed envelope's plaintext: printed with both signatures, parsed with strict types, verified (40-wire "Encryption", 45-trust "Messages"). Must not know boxes, and must not
 * compare the envelope with the push that brought it: that is delivery's table. */
#include "proto/envelope.h"

#include "crypto/box.h"
#include "json/json.h"
#include "proto/statement.h"
#include "util/limits.h"
#include "util/memory.h"

enum {
    MESSAGE_FIELDS = 10, /* of claudemesh-message-v1, with reply_to and mentions */
    MESSAGE_FIELDS_PLAIN = 8,
    X1_FIELDS = 8,
    NUMBER_TEXT_SIZE = 24
};

/* What both signatures cover, as text. meta and mentions stay as canonical JSON: it is also what is sent. */
struct signed_texts {
    struct buffer meta, mentions; /* canonical; empty when absent */
    struct buffer sig, xsig;
};

static void signed_texts_init(struct signed_texts *texts)
{
    buffer_init(&texts->meta, LIMIT_FRAME);
    buffer_init(&texts->mentions, LIMIT_FRAME);
    buffer_init(&texts->sig, STATEMENT_TEXT_MAXIMUM);
    buffer_init(&texts->xsig, STATEMENT_TEXT_MAXIMUM);
}

static void signed_texts_release(struct signed_texts *texts)
{
    buffer_wipe_release(&texts->meta); /* content, as the body is */
    buffer_wipe_release(&texts->mentions);
    buffer_release(&texts->sig);
    buffer_release(&texts->xsig);
}

static struct text view(const struct buffer *buffer)
{
    return (struct text){ buffer->data, buffer->length };
}

static int print_canonical(const json_t *value, const char *name, struct buffer *ret_text, struct error *error)
{
    if (json_print_canonical(value, ret_text) != 0) {
        return error_set(error, ERROR_TOO_LARGE, "the envelope's '%s' is too large", name);
    }
    return 0;
}

/* Empty meta counts as none, as in the fingerprint (30-delivery). */
static int make_canonical(const struct envelope *envelope, struct signed_texts *texts, struct error *error)
{
    int result = 0;
    if (envelope->meta != NULL && json_object_size(envelope->meta) > 0) {
        result = print_canonical(envelope->meta, "meta", &texts->meta, error);
    }
    if (result == 0 && envelope->mentions != NULL) {
        result = print_canonical(envelope->mentions, "mentions", &texts->mentions, error);
    }
    return result;
}

static int make_sig_text(const struct envelope *envelope, struct signed_texts *texts, struct error *error)
{
    char body[SHA256_HEX_SIZE];
    char meta[SHA256_HEX_SIZE];
    char sent_at[NUMBER_TEXT_SIZE];
    sha256_hex(envelope->body.data, envelope->body.length, body);
    sha256_hex(texts->meta.data, texts->meta.length, meta);
    int length = snprintf(sent_at, sizeof(sent_at), "%" PRId64, envelope->sent_at);
    const struct text values[MESSAGE_FIELDS] = {
        text_from(envelope->mesh),     text_from(envelope->id),     text_from(envelope->from),  text_from(envelope->kind),
        text_from(envelope->to),       { sent_at, (size_t)length }, { body, sizeof(body) - 1 }, { meta, sizeof(meta) - 1 },
        text_from(envelope->reply_to), view(&texts->mentions),
    };
    bool has_tail = envelope->reply_to != NULL || envelope->mentions != NULL;
    return statement_text(STATEMENT_MESSAGE, values, has_tail ? MESSAGE_FIELDS : MESSAGE_FIELDS_PLAIN, &texts->sig, error);
}

static int make_xsig_text(const struct envelope *envelope, struct signed_texts *texts, struct error *error)
{
    char sig[SHA256_HEX_SIZE];
    char mentions[SHA256_HEX_SIZE];
    sha256_hex(texts->sig.data, texts->sig.length, sig);
    sha256_hex(texts->mentions.data, texts->mentions.length, mentions);
    const struct text values[X1_FIELDS] = {
        { sig, sizeof(sig) - 1 },
        text_from(envelope->reply_to),
        { mentions, sizeof(mentions) - 1 },
        text_from(envelope->priority),
        text_from(envelope->key_id),
        text_from(envelope->rv),
        { "", 0 },
        { "", 0 },
    };
    return statement_text(STATEMENT_MESSAGE_X1, values, X1_FIELDS, &texts->xsig, error);
}

static int make_texts(const struct envelope *envelope, struct signed_texts *texts, struct error *error)
{
    int result = make_canonical(envelope, texts, error);
    if (result == 0) {
        result = make_sig_text(envelope, texts, error);
    }
    if (result == 0) {
        result = make_xsig_text(envelope, texts, error);
    }
    return result;
}

/* ---- building --------------------------------------------------------------------------------------------- */

static void append_string(struct buffer *text, const char *key, struct text value)
{
    (void)buffer_append_text(text, key);
    (void)buffer_append_json_string(text, value.data, value.length);
}

/* Keys as literals with their punctuation: this runs for every message. */
static void print_envelope(const struct envelope *envelope, const struct signed_texts *texts, const struct keypair *sender,
                           struct buffer *text)
{
    char signature[SIGNATURE_HEX_SIZE];
    append_string(text, "{\"v\":1,\"id\":", text_from(envelope->id));
    append_string(text, ",\"mesh\":", text_from(envelope->mesh));
    append_string(text, ",\"from\":", text_from(envelope->from));
    append_string(text, ",\"kind\":", text_from(envelope->kind));
    append_string(text, ",\"to\":", text_from(envelope->to));
    (void)buffer_printf(text, ",\"sent_at\":%" PRId64, envelope->sent_at);
    if (envelope->reply_to != NULL) {
        append_string(text, ",\"reply_to\":", text_from(envelope->reply_to));
    }
    if (texts->meta.length > 0) {
        (void)buffer_append_text(text, ",\"meta\":");
        (void)buffer_append(text, texts->meta.data, texts->meta.length);
    }
    if (texts->mentions.length > 0) {
        (void)buffer_append_text(text, ",\"mentions\":");
        (void)buffer_append(text, texts->mentions.data, texts->mentions.length);
    }
    append_string(text, ",\"body\":", envelope->body);
    append_string(text, ",\"priority\":", text_from(envelope->priority));
    append_string(text, ",\"rv\":", text_from(envelope->rv));
    if (envelope->key_id != NULL && envelope->key_id[0] != '\0') {
        append_string(text, ",\"key_id\":", text_from(envelope->key_id));
    }
    keypair_sign_hex(sender, texts->sig.data, texts->sig.length, signature);
    append_string(text, ",\"sig\":", (struct text){ signature, sizeof(signature) - 1 });
    keypair_sign_hex(sender, texts->xsig.data, texts->xsig.length, signature);
    append_string(text, ",\"xsig\":", (struct text){ signature, sizeof(signature) - 1 });
    (void)buffer_append_byte(text, '}');
}

int envelope_build(const struct envelope *envelope, const struct keypair *sender, struct buffer *ret_plaintext, struct error *error)
{
    struct signed_texts texts;
    signed_texts_init(&texts);
    int result = 0;
    if (ret_plaintext->length != 0) {
        result = error_set(error, ERROR_INTERNAL, "an envelope is padded from its first byte: the buffer must be empty");
        goto done;
    }
    /* A body that is no text would arrive as another one, under a signature that does not fit it. */
    if (!utf8_is_valid(envelope->body.data, envelope->body.length)) {
        result = error_set(error, ERROR_INVALID, "the body is not valid UTF-8");
        goto done;
    }
    if (!string_equal(keypair_public_hex(sender), envelope->from)) {
        result = error_set(error, ERROR_INTERNAL, "the envelope's sender is not the signing key");
        goto done;
    }
    result = make_texts(envelope, &texts, error);
    if (result != 0) {
        goto done;
    }
    print_envelope(envelope, &texts, sender, ret_plaintext);
    if (ret_plaintext->overflow) {
        result = error_set(error, ERROR_TOO_LARGE, "the envelope does not fit its buffer");
        goto done;
    }
    result = envelope_pad(ret_plaintext, error);
done:
    signed_texts_release(&texts);
    return result;
}

/* ---- parsing ---------------------------------------------------------------------------------------------- */

/* 45-trust: an object with these is bodyVersion 3, whatever was declared. */
static bool is_envelope(const json_t *document)
{
    return json_is_object(document) && json_object_get(document, "v") != NULL && json_object_get(document, "mesh") != NULL &&
           json_object_get(document, "from") != NULL && json_object_get(document, "id") != NULL;
}

static int check_mentions(const json_t *mentions, struct error *error)
{
    for (size_t index = 0; index < json_array_size(mentions); index++) {
        if (!json_is_string(json_array_get(mentions, index))) {
            return error_set(error, ERROR_INVALID, "field 'mentions' must be an array of strings");
        }
    }
    return 0;
}

static int read_envelope(const json_t *document, struct envelope *envelope, struct error *error)
{
    const struct {
        const char *name;
        enum json_presence presence;
        const char **value;
    } strings[] = {
        { "id", JSON_REQUIRED, &envelope->id },
        { "mesh", JSON_REQUIRED, &envelope->mesh },
        { "from", JSON_REQUIRED, &envelope->from },
        { "kind", JSON_REQUIRED, &envelope->kind },
        { "to", JSON_REQUIRED, &envelope->to },
        { "reply_to", JSON_OPTIONAL, &envelope->reply_to },
        { "priority", JSON_OPTIONAL, &envelope->priority },
        { "rv", JSON_OPTIONAL, &envelope->rv },
        { "key_id", JSON_OPTIONAL, &envelope->key_id },
        { "sig", JSON_OPTIONAL, &(const char *){ NULL } },
        { "xsig", JSON_OPTIONAL, &(const char *){ NULL } },
    };
    int64_t version = 0;
    int result = json_read_integer(document, "v", JSON_REQUIRED, 1, 1, &version, error);
    for (size_t index = 0; index < ARRAY_LENGTH(strings) && result == 0; index++) {
        result = json_read_string(document, strings[index].name, strings[index].presence, strings[index].value, error);
    }
    if (result == 0) {
        result = json_read_integer(document, "sent_at", JSON_REQUIRED, 0, INT64_C(1) << 53, &envelope->sent_at, error);
    }
    if (result == 0) {
        result = json_read_object(document, "meta", JSON_OPTIONAL, &envelope->meta, error);
    }
    if (result == 0) {
        result = json_read_array(document, "mentions", JSON_OPTIONAL, &envelope->mentions, error);
    }
    if (result == 0) {
        result = check_mentions(envelope->mentions, error);
    }
    if (result == 0) {
        result = json_read_text(document, "body", JSON_REQUIRED, &envelope->body, error);
    }
    return result;
}

int envelope_parse(const void *padded, size_t size, struct envelope *ret_envelope, json_t **ret_document, bool *ret_is_envelope,
                   struct error *error)
{
    struct envelope envelope = { 0 };
    json_t *document = NULL;
    size_t length = 0;
    *ret_is_envelope = false;
    int result = envelope_unpad(padded, size, &length, error);
    if (result != 0) {
        return result;
    }
    result = json_parse_strict(padded, length, &document, error);
    if (result != 0) {
        return result;
    }
    if (!is_envelope(document)) {
        result = error_set(error, ERROR_INVALID, "the plaintext is not an envelope");
        goto failed;
    }
    *ret_is_envelope = true;
    result = read_envelope(document, &envelope, error);
    if (result != 0) {
        goto failed;
    }
    *ret_envelope = envelope;
    *ret_document = document;
    return 0;
failed:
    json_decref(document);
    return result;
}

/* ---- verifying -------------------------------------------------------------------------------------------- */

static int verify_one(const json_t *document, const char *name, const char *from, const struct buffer *text, struct error *error)
{
    const char *signature = json_string_value(json_object_get(document, name));
    if (signature == NULL) {
        return error_set(error, ERROR_DENIED, "the envelope has no '%s'", name);
    }
    if (!signature_hex_is_valid(from, text->data, text->length, signature)) {
        return error_set(error, ERROR_DENIED, "the envelope's '%s' is not its sender's signature", name);
    }
    return 0;
}

int envelope_verify(const struct envelope *envelope, const json_t *document, struct error *error)
{
    struct signed_texts texts;
    signed_texts_init(&texts);
    int result = make_texts(envelope, &texts, NULL);
    if (result != 0) {
        result = error_set(error, ERROR_DENIED, "the envelope has fields that nobody could have signed");
        goto done;
    }
    result = verify_one(document, "sig", envelope->from, &texts.sig, error);
    if (result == 0) {
        result = verify_one(document, "xsig", envelope->from, &texts.xsig, error);
    }
done:
    signed_texts_release(&texts);
    return result;
}
