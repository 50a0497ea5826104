/* Owns host_fingerprint.json (50-identity, Host fingerprint): its bytes, and what makes one malformed. */
#include <stdio.h>

#include "identity/host.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/text.h"

#define RANDOM_PREFIX "random-"

enum { SCHEMA_VERSION = 2, FILE_MAXIMUM = 16 * 1024, RANDOM_BYTES = 16 };

bool host_record_is_random(const struct host_record *record)
{
    return string_has_prefix(record->id, RANDOM_PREFIX);
}

static void fill_fingerprint(struct host_record *record)
{
    const struct text parts[] = {
        TEXT("v2"), { "", 1 }, text_from(record->id), { "", 1 }, text_from(record->mac),
    };
    struct sha256 digest;
    sha256_of_parts(parts, ARRAY_LENGTH(parts), &digest);
    hex_encode(digest.bytes, sizeof(digest.bytes), record->fingerprint);
}

void host_record_make(const struct host_facts *facts, struct host_record *ret_record)
{
    struct host_record record = { .id = "" };
    memcpy(record.id, facts->id, sizeof(record.id));
    memcpy(record.mac, facts->mac, sizeof(record.mac));
    if (record.id[0] == '\0' && record.mac[0] == '\0') {
        uint8_t bytes[RANDOM_BYTES];
        char hex[2 * RANDOM_BYTES + 1];
        random_bytes(bytes, sizeof(bytes));
        hex_encode(bytes, sizeof(bytes), hex);
        (void)snprintf(record.id, sizeof(record.id), RANDOM_PREFIX "%s", hex);
    }
    fill_fingerprint(&record);
    *ret_record = record;
}

/* ---- reading -------------------------------------------------------------------------------------------------------------- */

static bool id_is_usable(const char *id)
{
    for (const char *byte = id; *byte != '\0'; byte++)
        if (*byte <= ' ' || *byte > '~')
            return false;
    return true;
}

static bool mac_is_usable(const char *mac)
{
    if (mac[0] == '\0')
        return true;
    for (size_t i = 0; i < HOST_MAC_SIZE - 1; i++) {
        bool digit = (mac[i] >= '0' && mac[i] <= '9') || (mac[i] >= 'a' && mac[i] <= 'f');
        if (i % 3 == 2 ? mac[i] != ':' : !digit)
            return false;
    }
    return mac[HOST_MAC_SIZE - 1] == '\0';
}

static int read_fields(const json_t *document, struct host_record *record, struct error *error)
{
    int64_t version = 0;
    const char *fingerprint = NULL, *id = NULL, *mac = NULL;
    if (!json_is_object(document))
        return error_set(error, ERROR_CORRUPT, "it must be a JSON object");
    int status = json_read_integer(document, "schema_version", JSON_REQUIRED, 0, INT64_C(1) << 53, &version, error);
    if (status == 0 && version > SCHEMA_VERSION)
        return error_set(error, ERROR_NEWER, "it is of schema %" PRId64 "; this program knows schema %d", version, (int)SCHEMA_VERSION);
    if (status == 0 && version < SCHEMA_VERSION)
        return error_set(error, ERROR_CORRUPT, "schema %" PRId64 " is none that can be compared", version);
    if (status == 0)
        status = json_read_string(document, "fingerprint", JSON_REQUIRED, &fingerprint, error);
    if (status == 0)
        status = json_read_string(document, "host_id", JSON_REQUIRED, &id, error);
    if (status == 0)
        status = json_read_string(document, "stable_mac", JSON_REQUIRED, &mac, error);
    if (status != 0)
        return status;
    if (string_copy(record->id, sizeof(record->id), id) != 0 || !id_is_usable(record->id))
        return error_set(error, ERROR_CORRUPT, "field 'host_id' is none");
    if (string_copy(record->mac, sizeof(record->mac), mac) != 0 || !mac_is_usable(record->mac))
        return error_set(error, ERROR_CORRUPT, "field 'stable_mac' is no hardware address");
    if (record->id[0] == '\0' && record->mac[0] == '\0')
        return error_set(error, ERROR_CORRUPT, "it names no host");
    fill_fingerprint(record);
    return string_equal(fingerprint, record->fingerprint) ? 0
                                                          : error_set(error, ERROR_CORRUPT, "the fingerprint is not that of its fields");
}

int host_record_parse(const char *bytes, size_t length, struct host_record *ret_record, struct error *error)
{
    struct host_record record = { .id = "" };
    json_t *document = NULL;
    int status = json_parse_strict(bytes, length, &document, error);
    if (status == 0)
        status = read_fields(document, &record, error);
    json_decref(document);
    if (status == 0)
        *ret_record = record;
    else if (status != -(int)ERROR_NEWER && error != NULL)
        error->code = ERROR_CORRUPT; /* of whatever kind the mistake is, the file is malformed */
    return status == 0 || status == -(int)ERROR_NEWER ? status : -(int)ERROR_CORRUPT;
}

int host_record_read(const char *path, struct host_record *ret_record, struct error *error)
{
    struct buffer bytes;
    struct error cause = { 0 };
    buffer_init(&bytes, FILE_MAXIMUM);
    int status = file_read(path, &bytes, &cause);
    if (status == 0)
        status = host_record_parse(bytes.data, bytes.length, ret_record, &cause);
    else if (status == -(int)ERROR_TOO_LARGE)
        status = -(int)ERROR_CORRUPT;
    buffer_release(&bytes);
    if (status == -(int)ERROR_CORRUPT)
        return error_set(error, ERROR_CORRUPT, "%s is malformed: %s", path, cause.message);
    if (status == -(int)ERROR_NEWER)
        return error_set(error, ERROR_NEWER, "%s was written by a newer program: %s", path, cause.message);
    if (status != 0 && error != NULL)
        *error = cause;
    return status;
}

/* ---- writing -------------------------------------------------------------------------------------------------------------- */

int host_record_write(const char *path, const struct host_record *record, struct error *error)
{
    struct buffer text;
    json_t *document = json_new_object();
    json_put_integer(document, "schema_version", SCHEMA_VERSION);
    json_put_string(document, "fingerprint", record->fingerprint);
    json_put_string(document, "host_id", record->id);
    json_put_string(document, "stable_mac", record->mac);
    json_put_time(document, "written_at", clock_wall_ms());
    buffer_init(&text, FILE_MAXIMUM);
    int status = json_print(document, &text) != 0 || buffer_append_byte(&text, '\n') != 0
                     ? error_set(error, ERROR_INTERNAL, "the host's record does not fit")
                     : file_write_atomic(path, 0600, text.data, text.length, error);
    buffer_release(&text);
    json_decref(document);
    return status;
}
