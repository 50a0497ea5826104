/* host_fingerprint.json, and what a system tells of itself: what is accepted is written again as the same record, and describes itself; everything else is malformed or of a newer
 * schema, with a reason, and changes nothing. */
#include "fuzz.h"
#include "identity/host.h"
#include "memory_file.h"
#include "util/buffer.h"
#include "util/file.h"
#include "util/text.h"

static void check_accepted(const struct host_record *record)
{
    char text[HOST_SHORT_SIZE], hex[SHA256_HEX_SIZE];
    struct host_facts same = { .present = NULL };
    struct host_record again;

    REQUIRE(strlen(record->id) < sizeof(record->id) && strlen(record->mac) < sizeof(record->mac));
    REQUIRE(record->id[0] != '\0' || record->mac[0] != '\0');
    host_record_describe(record, text);
    REQUIRE(text[0] != '\0' && strlen(text) < sizeof(text));
    host_hello_fingerprint("mesh", record->fingerprint, hex);
    REQUIRE(hex_is_key(hex) && hex_is_key(record->fingerprint));
    memcpy(same.id, record->id, sizeof(same.id));
    memcpy(same.mac, record->mac, sizeof(same.mac));
    if (host_record_is_random(record))
        return;
    host_record_make(&same, &again);
    REQUIRE(string_equal(again.fingerprint, record->fingerprint));
    char present[1][HOST_MAC_SIZE];
    memcpy(present[0], record->mac, sizeof(present[0]));
    same.present = present;
    same.present_count = 1;
    REQUIRE(host_compare(record, &same) == HOST_MATCH);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct host_record UNTOUCHED = { .id = "untouched" };
    static bool started;
    struct host_record record = UNTOUCHED, read = UNTOUCHED;
    struct error error = { .code = ERROR_NONE };
    REQUIRE(started || crypto_start(&error) == 0);
    started = true;
    const char *path = memory_file_write(data, size);
    int status = host_record_parse((const char *)data, size, &record, &error);

    REQUIRE(status == 0 || status == -(int)ERROR_CORRUPT || status == -(int)ERROR_NEWER);
    if (status == 0)
        check_accepted(&record);
    else
        REQUIRE(error.message[0] != '\0' && memcmp(&record, &UNTOUCHED, sizeof(record)) == 0);
    REQUIRE(host_record_read(path, &read, &error) == status || size > 16 * 1024);
    REQUIRE(memcmp(&read, &record, sizeof(read)) == 0);
    return 0;
}
