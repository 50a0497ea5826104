/* Owns the one table of signed statements (45-trust, "Form"): domains, fields, their types; the one encoder and the one verifier. Must not know a clock, a socket or a
 * store: who may sign what, and when it counts, is trust's to say. */
#include "proto/statement.h"

#include "json/json.h"
#include "util/ids.h"
#include "util/limits.h"
#include "util/memory.h"

enum field_type {
    FIELD_UUID,
    FIELD_ID,
    FIELD_KEY,
    FIELD_HASH,
    FIELD_KEY_ID,
    FIELD_RV,
    FIELD_INTEGER,
    FIELD_ROLE,
    FIELD_RECEIPT_STATE,
    FIELD_DESTINATION_KIND,
    FIELD_PRIORITY,
    FIELD_NAME,
    FIELD_TOPIC,
    FIELD_MESSAGE_ID,
    FIELD_TEXT,
    FIELD_TYPES
};

enum presence { REQUIRED, MAY_BE_EMPTY };

struct field {
    const char *name;
    enum field_type type;
    enum presence presence;
};

struct statement_shape {
    const char *domain;
    size_t optional_tail; /* so many of the last fields stand in the text together or not at all */
    struct field fields[STATEMENT_FIELDS_MAXIMUM + 1];
};

/* One row a kind. The names are those of the JSON forms; they are signed by position. */
static const struct statement_shape SHAPES[STATEMENT_KINDS] = {
    [STATEMENT_JOIN] = { "claudemesh-join-v1",
                         0,
                         { { "mesh", FIELD_UUID, REQUIRED },
                           { "invite_id", FIELD_ID, REQUIRED },
                           { "role", FIELD_ROLE, REQUIRED },
                           { "pubkey", FIELD_KEY, REQUIRED },
                           { "name", FIELD_NAME, REQUIRED },
                           { "at", FIELD_INTEGER, REQUIRED } } },
    [STATEMENT_GRANT] = { "claudemesh-member-v1",
                          0,
                          { { "mesh", FIELD_UUID, REQUIRED },
                            { "pubkey", FIELD_KEY, REQUIRED },
                            { "role", FIELD_ROLE, REQUIRED },
                            { "seq", FIELD_INTEGER, REQUIRED },
                            { "at", FIELD_INTEGER, REQUIRED },
                            { "by", FIELD_KEY, REQUIRED } } },
    [STATEMENT_NAME] = { "claudemesh-name-v1",
                         0,
                         { { "mesh", FIELD_UUID, REQUIRED },
                           { "pubkey", FIELD_KEY, REQUIRED },
                           { "name", FIELD_NAME, REQUIRED },
                           { "seq", FIELD_INTEGER, REQUIRED } } },
    [STATEMENT_INVITE_REVOCATION] = { "claudemesh-invite-revoke-v1",
                                      0,
                                      { { "mesh", FIELD_UUID, REQUIRED },
                                        { "invite_id", FIELD_ID, REQUIRED },
                                        { "at", FIELD_INTEGER, REQUIRED },
                                        { "by", FIELD_KEY, REQUIRED } } },
    /* Who revokes a key that the broker gave no id knows none. */
    [STATEMENT_REVOCATION] = { "claudemesh-revoke-v1",
                               0,
                               { { "mesh", FIELD_UUID, REQUIRED },
                                 { "subject_pubkey", FIELD_KEY, REQUIRED },
                                 { "member_id", FIELD_ID, MAY_BE_EMPTY },
                                 { "at", FIELD_INTEGER, REQUIRED },
                                 { "by", FIELD_KEY, REQUIRED } } },
    [STATEMENT_LEAVE] = { "claudemesh-leave-v1",
                          0,
                          { { "mesh", FIELD_UUID, REQUIRED },
                            { "member_id", FIELD_ID, REQUIRED },
                            { "pubkey", FIELD_KEY, REQUIRED },
                            { "at", FIELD_INTEGER, REQUIRED } } },
    [STATEMENT_ROTATION] = { "claudemesh-rotate-v1",
                             0,
                             { { "mesh", FIELD_UUID, REQUIRED },
                               { "member_id", FIELD_ID, REQUIRED },
                               { "seq", FIELD_INTEGER, REQUIRED },
                               { "old", FIELD_KEY, REQUIRED },
                               { "new", FIELD_KEY, REQUIRED },
                               { "at", FIELD_INTEGER, REQUIRED } } },
    [STATEMENT_SESSION] = { "claudemesh-session-v1",
                            0,
                            { { "mesh", FIELD_UUID, REQUIRED },
                              { "member_pubkey", FIELD_KEY, REQUIRED },
                              { "session_pubkey", FIELD_KEY, REQUIRED },
                              { "expires_at", FIELD_INTEGER, REQUIRED } } },
    [STATEMENT_EPOCH] = { "claudemesh-epoch-v1",
                          0,
                          { { "mesh", FIELD_UUID, REQUIRED },
                            { "topic", FIELD_TOPIC, REQUIRED },
                            { "epoch", FIELD_INTEGER, REQUIRED },
                            { "key_id", FIELD_KEY_ID, REQUIRED },
                            { "prev_key_id", FIELD_KEY_ID, MAY_BE_EMPTY },
                            { "reason", FIELD_ID, REQUIRED },
                            { "rv", FIELD_RV, REQUIRED },
                            { "at", FIELD_INTEGER, REQUIRED },
                            { "by", FIELD_KEY, REQUIRED } } },
    [STATEMENT_MESSAGE] = { "claudemesh-message-v1",
                            2,
                            { { "mesh", FIELD_UUID, REQUIRED },
                              { "id", FIELD_MESSAGE_ID, REQUIRED },
                              { "from", FIELD_KEY, REQUIRED },
                              { "kind", FIELD_DESTINATION_KIND, REQUIRED },
                              { "to", FIELD_TEXT, REQUIRED },
                              { "sent_at", FIELD_INTEGER, REQUIRED },
                              { "body_sha256", FIELD_HASH, REQUIRED },
                              { "meta_sha256", FIELD_HASH, REQUIRED },
                              { "reply_to", FIELD_TEXT, MAY_BE_EMPTY },
                              { "mentions", FIELD_TEXT, MAY_BE_EMPTY } } },
    /* seq and prev are reserved: empty until a feature defines them (45-trust, "Messages"). */
    [STATEMENT_MESSAGE_X1] = { "claudemesh-message-x1",
                               0,
                               { { "sig_text_sha256", FIELD_HASH, REQUIRED },
                                 { "reply_to", FIELD_TEXT, MAY_BE_EMPTY },
                                 { "mentions_sha256", FIELD_HASH, REQUIRED },
                                 { "priority", FIELD_PRIORITY, REQUIRED },
                                 { "key_id", FIELD_KEY_ID, MAY_BE_EMPTY },
                                 { "rv", FIELD_RV, REQUIRED },
                                 { "seq", FIELD_INTEGER, MAY_BE_EMPTY },
                                 { "prev", FIELD_HASH, MAY_BE_EMPTY } } },
    [STATEMENT_RECEIPT] = { "claudemesh-receipt-v1",
                            0,
                            { { "mesh", FIELD_UUID, REQUIRED },
                              { "client_message_id", FIELD_MESSAGE_ID, REQUIRED },
                              { "sender_pubkey", FIELD_KEY, REQUIRED },
                              { "by", FIELD_KEY, REQUIRED },
                              { "state", FIELD_RECEIPT_STATE, REQUIRED },
                              { "at", FIELD_INTEGER, REQUIRED },
                              { "content_sha256", FIELD_HASH, REQUIRED } } },
    [STATEMENT_HELLO_V2] = { "claudemesh-hello-v2",
                             0,
                             { { "broker_url", FIELD_TEXT, REQUIRED },
                               { "challenge", FIELD_HASH, REQUIRED },
                               { "meshId", FIELD_UUID, REQUIRED },
                               { "memberId", FIELD_ID, REQUIRED },
                               { "pubkey", FIELD_KEY, REQUIRED },
                               { "sessionId", FIELD_ID, REQUIRED },
                               { "sessionPubkey", FIELD_KEY, MAY_BE_EMPTY },
                               { "timestamp", FIELD_INTEGER, REQUIRED } } },
};

/* ---- types ------------------------------------------------------------------------------------------------ */

static bool text_is_hex(struct text value, size_t digits)
{
    if (value.length != digits) {
        return false;
    }
    for (size_t index = 0; index < digits; index++) {
        char digit = value.data[index];
        if (!((digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f'))) {
            return false;
        }
    }
    return true;
}

/* The checks of util/text.h take strings; the longest of them is a message id. */
static bool text_passes(struct text value, bool (*check)(const char *))
{
    char copy[LIMIT_CLIENT_MESSAGE_ID + 1];
    if (value.length >= sizeof(copy)) {
        return false;
    }
    memcpy(copy, value.data, value.length);
    copy[value.length] = '\0';
    return check(copy);
}

static bool is_uuid(struct text value)
{
    return value.length == UUID_SIZE - 1 && text_passes(value, uuid_is_valid);
}

static bool is_id(struct text value)
{
    return text_passes(value, id_is_valid);
}

static bool is_sha256(struct text value)
{
    return text_is_hex(value, SHA256_HEX_SIZE - 1);
}

static bool is_key_id(struct text value)
{
    enum { KEY_ID_DIGITS = 32 };
    return text_is_hex(value, KEY_ID_DIGITS);
}

/* Decimal in its one form, and no more than JSON can carry exactly (2^53). */
static bool is_integer(struct text value)
{
    enum { DIGITS_MAXIMUM = 16 };
    static const uint64_t LARGEST = UINT64_C(9007199254740992);
    if (value.length == 0 || value.length > DIGITS_MAXIMUM || (value.length > 1 && value.data[0] == '0')) {
        return false;
    }
    uint64_t number = 0;
    for (size_t index = 0; index < value.length; index++) {
        if (value.data[index] < '0' || value.data[index] > '9') {
            return false;
        }
        number = number * 10 + (uint64_t)(value.data[index] - '0');
    }
    return number <= LARGEST;
}

static bool is_rv(struct text value)
{
    const char *colon = memchr(value.data, ':', value.length);
    if (colon == NULL) {
        return false;
    }
    size_t digits = (size_t)(colon - value.data);
    return is_integer((struct text){ value.data, digits }) && is_sha256((struct text){ colon + 1, value.length - digits - 1 });
}

static bool is_role(struct text value)
{
    return text_equal(value, TEXT("member")) || text_equal(value, TEXT("admin"));
}

static bool is_receipt_state(struct text value)
{
    return text_equal(value, TEXT("stored")) || text_equal(value, TEXT("seen"));
}

static bool is_destination_kind(struct text value)
{
    return text_equal(value, TEXT("dm")) || text_equal(value, TEXT("topic")) || text_equal(value, TEXT("queue"));
}

static bool is_priority(struct text value)
{
    return text_equal(value, TEXT("now")) || text_equal(value, TEXT("next")) || text_equal(value, TEXT("low"));
}

static bool is_display_name(struct text value)
{
    return value.length >= 1 && value.length <= LIMIT_DISPLAY_NAME && utf8_is_valid(value.data, value.length);
}

static bool is_topic(struct text value)
{
    return text_equal(value, TEXT("*")) || text_passes(value, name_is_valid);
}

static bool is_message_id(struct text value)
{
    return client_message_id_is_valid(value.data, value.length);
}

static bool is_free_text(struct text value)
{
    return value.length <= STATEMENT_TEXT_MAXIMUM && utf8_is_valid(value.data, value.length);
}

static const struct {
    bool (*check)(struct text value);
    const char *demand;
} TYPES[FIELD_TYPES] = {
    [FIELD_UUID] = { is_uuid, "a lower-case UUID" },
    [FIELD_ID] = { is_id, "1 to 64 of A-Z a-z 0-9 . _ -" },
    [FIELD_KEY] = { is_sha256, "64 lower-case hex digits" },
    [FIELD_HASH] = { is_sha256, "64 lower-case hex digits" },
    [FIELD_KEY_ID] = { is_key_id, "32 lower-case hex digits" },
    [FIELD_RV] = { is_rv, "a count, a colon and 64 lower-case hex digits" },
    [FIELD_INTEGER] = { is_integer, "a whole number from 0 to 2^53" },
    [FIELD_ROLE] = { is_role, "member or admin" },
    [FIELD_RECEIPT_STATE] = { is_receipt_state, "stored or seen" },
    [FIELD_DESTINATION_KIND] = { is_destination_kind, "dm, topic or queue" },
    [FIELD_PRIORITY] = { is_priority, "now, next or low" },
    [FIELD_NAME] = { is_display_name, "1 to 128 bytes of UTF-8" },
    [FIELD_TOPIC] = { is_topic, "a topic's name or *" },
    [FIELD_MESSAGE_ID] = { is_message_id, "1 to 128 printable ASCII characters without spaces" },
    [FIELD_TEXT] = { is_free_text, "UTF-8 of at most 16384 bytes" },
};

/* ---- the table's accessors ------------------------------------------------------------------------------------ */

const char *statement_domain(enum statement_kind kind)
{
    return SHAPES[kind].domain;
}

size_t statement_field_count(enum statement_kind kind)
{
    size_t count = 0;
    while (SHAPES[kind].fields[count].name != NULL) {
        count++;
    }
    return count;
}

const char *statement_field_name(enum statement_kind kind, size_t index)
{
    return SHAPES[kind].fields[index].name;
}

/* ---- encoder ---------------------------------------------------------------------------------------------- */

static int check_field(const struct field *field, struct text value, struct error *error)
{
    if (value.length == 0) {
        return field->presence == MAY_BE_EMPTY ? 0 : error_set(error, ERROR_INVALID, "field '%s' is missing", field->name);
    }
    if (memchr(value.data, '\0', value.length) != NULL) {
        return error_set(error, ERROR_INVALID, "field '%s' has a zero byte", field->name);
    }
    if (!TYPES[field->type].check(value)) {
        return error_set(error, ERROR_INVALID, "field '%s' must be %s", field->name, TYPES[field->type].demand);
    }
    return 0;
}

int statement_text(enum statement_kind kind, const struct text *values, size_t count, struct buffer *ret_text, struct error *error)
{
    const struct statement_shape *shape = &SHAPES[kind];
    size_t fields = statement_field_count(kind);
    if (count != fields && count != fields - shape->optional_tail) {
        return error_set(error, ERROR_INTERNAL, "%s has %zu fields, not %zu", shape->domain, fields, count);
    }
    size_t domain_length = strlen(shape->domain);
    size_t length = domain_length;
    for (size_t index = 0; index < count; index++) {
        int result = check_field(&shape->fields[index], values[index], error);
        if (result != 0) {
            return result;
        }
        length += 1 + values[index].length;
    }
    if (length > STATEMENT_TEXT_MAXIMUM) {
        return error_set(error, ERROR_TOO_LARGE, "a statement's text may have %d bytes", STATEMENT_TEXT_MAXIMUM);
    }
    char *text = buffer_reserve(ret_text, length);
    if (text == NULL) {
        return error_set(error, ERROR_TOO_LARGE, "no room for a statement's text");
    }
    memcpy(text, shape->domain, domain_length);
    text += domain_length;
    for (size_t index = 0; index < count; index++) {
        *text++ = '\0';
        if (values[index].length > 0) {
            memcpy(text, values[index].data, values[index].length);
            text += values[index].length;
        }
    }
    buffer_commit(ret_text, length);
    return 0;
}

enum { NUMBER_TEXT_SIZE = 24 };

/* One field of the object as text; integers are printed into `number`. Absent is empty. */
static int read_field(const json_t *object, const struct field *field, char number[NUMBER_TEXT_SIZE], struct text *ret_value,
                      struct error *error)
{
    *ret_value = (struct text){ "", 0 };
    if (field->type != FIELD_INTEGER) {
        return json_read_text(object, field->name, JSON_OPTIONAL, ret_value, error);
    }
    const json_t *value = json_object_get(object, field->name);
    if (field->presence == MAY_BE_EMPTY && json_is_string(value) && json_string_length(value) == 0) {
        return 0;
    }
    int64_t integer = -1;
    int result = json_read_integer(object, field->name, JSON_OPTIONAL, 0, INT64_C(1) << 53, &integer, error);
    if (result == 0 && integer >= 0) {
        int length = snprintf(number, NUMBER_TEXT_SIZE, "%" PRId64, integer);
        *ret_value = (struct text){ number, (size_t)length };
    }
    return result;
}

int statement_text_of_json(enum statement_kind kind, const json_t *fields, struct buffer *ret_text, struct error *error)
{
    const struct statement_shape *shape = &SHAPES[kind];
    struct text values[STATEMENT_FIELDS_MAXIMUM];
    char numbers[STATEMENT_FIELDS_MAXIMUM][NUMBER_TEXT_SIZE];
    if (!json_is_object(fields)) {
        return error_set(error, ERROR_INVALID, "a statement must be an object");
    }
    size_t count = statement_field_count(kind);
    for (size_t index = 0; index < count; index++) {
        int result = read_field(fields, &shape->fields[index], numbers[index], &values[index], error);
        if (result != 0) {
            return result;
        }
    }
    size_t filled_tail = 0;
    for (size_t index = count - shape->optional_tail; index < count; index++) {
        filled_tail += values[index].length > 0 ? 1 : 0;
    }
    return statement_text(kind, values, filled_tail > 0 ? count : count - shape->optional_tail, ret_text, error);
}

/* ---- signatures ------------------------------------------------------------------------------------------- */

int statement_sign_json(enum statement_kind kind, const json_t *fields, const struct keypair *signer,
                        char ret_signature_hex[SIGNATURE_HEX_SIZE], struct error *error)
{
    struct buffer text;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    int result = statement_text_of_json(kind, fields, &text, error);
    if (result == 0) {
        keypair_sign_hex(signer, text.data, text.length, ret_signature_hex);
    }
    buffer_release(&text);
    return result;
}

int statement_verify_json(enum statement_kind kind, const json_t *object, const char *by_hex, const char *signature_name,
                          struct error *error)
{
    const char *signature = NULL;
    struct buffer text;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    int result = statement_text_of_json(kind, object, &text, error);
    if (result != 0) {
        goto done;
    }
    result = json_read_string(object, signature_name, JSON_REQUIRED, &signature, error);
    if (result != 0) {
        goto done;
    }
    if (!text_is_hex(text_from(signature), SIGNATURE_HEX_SIZE - 1)) {
        result = error_set(error, ERROR_INVALID, "field '%s' must be 128 lower-case hex digits", signature_name);
    } else if (!signature_hex_is_valid(by_hex, text.data, text.length, signature)) {
        result = error_set(error, ERROR_DENIED, "%s: '%s' is not a signature by its signer", SHAPES[kind].domain, signature_name);
    }
done:
    buffer_release(&text);
    return result;
}

/* ---- rv --------------------------------------------------------------------------------------------------- */

static int compare_hashes(const void *left, const void *right)
{
    return memcmp(((const struct sha256 *)left)->bytes, ((const struct sha256 *)right)->bytes, SHA256_BYTES);
}

void statement_rv(const struct sha256 *text_hashes, size_t count, char ret_rv[RV_SIZE])
{
    struct sha256 *sorted = memory_calloc(count + 1, sizeof(*sorted));
    char digest[SHA256_HEX_SIZE];
    if (count > 0) {
        memcpy(sorted, text_hashes, count * sizeof(*sorted));
        qsort(sorted, count, sizeof(*sorted), compare_hashes);
    }
    sha256_hex(sorted, count * sizeof(*sorted), digest);
    (void)snprintf(ret_rv, RV_SIZE, "%zu:%s", count, digest);
    free(sorted);
}
