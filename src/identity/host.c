/* Owns the comparison of the recorded host with this one (50-identity, Host fingerprint), and what accepting a host means. */
#include "identity/host.h"

#include <errno.h>
#include <stdio.h>

#include "util/clock.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

static bool is_present(const struct host_facts *facts, const char *mac)
{
    for (size_t i = 0; i < facts->present_count; i++)
        if (string_equal(facts->present[i], mac))
            return true;
    return false;
}

/* An id on one side only is another id: a directory that was copied to where the host cannot be told must not start there unnoticed. */
enum host_verdict host_compare(const struct host_record *stored, const struct host_facts *facts)
{
    if (stored == NULL)
        return HOST_FIRST_START;
    if (host_record_is_random(stored))
        return facts->id[0] == '\0' && facts->mac[0] == '\0' ? HOST_UNDETECTABLE : HOST_NOW_READABLE;
    if (!string_equal(stored->id, facts->id))
        return HOST_MISMATCH;
    if (stored->mac[0] == '\0' || is_present(facts, stored->mac))
        return HOST_MATCH;
    return stored->id[0] != '\0' ? HOST_MAC_GONE : HOST_MISMATCH;
}

static int read_stored(const struct config_paths *paths, struct host_check *check, bool *ret_found, struct error *error)
{
    int status = host_record_read(paths->host_fingerprint, &check->stored, error);
    *ret_found = status == 0;
    return status == -(int)ERROR_NOT_FOUND ? 0 : status;
}

int host_check(const struct config_paths *paths, struct host_check *ret_check, struct error *error)
{
    struct host_check check = { .verdict = HOST_FIRST_START };
    struct host_facts facts;
    bool found = false;
    int status = read_stored(paths, &check, &found, error);
    if (status == -(int)ERROR_CORRUPT || status == -(int)ERROR_NEWER)
        return error_prefix(error, "it is left as it is; if this host is right, run `claudemesh daemon accept-host`");
    if (status == 0)
        status = host_facts_read(NULL, &facts, error);
    if (status != 0)
        return status;
    check.verdict = host_compare(found ? &check.stored : NULL, &facts);
    if (facts.denied && check.verdict == HOST_MAC_GONE)
        check.verdict = HOST_MATCH; /* it may be there, among what cannot be read */
    if (facts.denied && check.verdict == HOST_MISMATCH && facts.id[0] == '\0') {
        host_facts_release(&facts);
        return error_set(error, ERROR_DENIED, "Who this host is may not be read (%s, /sys/class/net), so it cannot be compared with %s",
                         "/etc/machine-id", paths->host_fingerprint);
    }
    if (check.verdict == HOST_MATCH || check.verdict == HOST_UNDETECTABLE)
        check.current = check.stored;
    else
        host_record_make(&facts, &check.current);
    host_facts_release(&facts);
    *ret_check = check;
    return 0;
}

/* ---- accepting ------------------------------------------------------------------------------------------------------------ */

static char *aside_name(const char *path)
{
    char now[RFC3339_SIZE];
    time_format_rfc3339(clock_wall_ms(), now);
    return memory_printf("%s.replaced-%s", path, now);
}

int host_accept(const struct config_paths *paths, struct host_check *ret_check, struct error *error)
{
    const char *path = paths->host_fingerprint;
    struct host_check check = { .verdict = HOST_FIRST_START };
    struct host_facts facts = { .present = NULL };
    char *aside = NULL;
    bool found = false;
    int status = read_stored(paths, &check, &found, error);
    bool unreadable = status == -(int)ERROR_CORRUPT || status == -(int)ERROR_NEWER;
    if (status != 0 && !unreadable)
        return status;
    status = host_facts_read(NULL, &facts, error);
    if (status != 0)
        return status;
    check.verdict = host_compare(found ? &check.stored : NULL, &facts);
    if (check.verdict == HOST_MATCH)
        check.current = check.stored; /* with the address that was frozen */
    else
        host_record_make(&facts, &check.current);
    if (unreadable) {
        aside = aside_name(path);
        if (rename(path, aside) != 0)
            status = error_set_errno(error, "cannot move %s aside", path);
    }
    if (status == 0 && check.verdict != HOST_MATCH)
        status = host_record_write(path, &check.current, error);
    if (status != 0 && unreadable && !file_exists(path) && rename(aside, path) != 0 && errno != ENOENT)
        (void)error_prefix(error, "what stood there is kept as %s", aside);
    if (status == 0 && ret_check != NULL)
        *ret_check = check;
    free(aside);
    host_facts_release(&facts);
    return status;
}

/* ---- words ------------------------------------------------------------------------------------------------------------------ */

void host_record_describe(const struct host_record *record, char ret_text[static HOST_SHORT_SIZE])
{
    enum { SHORT = 8 };
    if (record->id[0] == '\0' && record->mac[0] == '\0') {
        (void)snprintf(ret_text, HOST_SHORT_SIZE, "unknown");
    } else if (record->id[0] == '\0') {
        (void)snprintf(ret_text, HOST_SHORT_SIZE, "address %s", record->mac);
    } else {
        size_t skip = host_record_is_random(record) ? strlen("random-") : 0;
        bool cut = strlen(record->id) > skip + SHORT;
        (void)snprintf(ret_text, HOST_SHORT_SIZE, "id %.*s%s%s%s", SHORT, record->id + skip, cut ? "…" : "",
                       record->mac[0] == '\0' ? "" : ", address ", record->mac);
    }
}

void host_hello_fingerprint(const char *mesh_id, const char *fingerprint, char ret_hex[static SHA256_HEX_SIZE])
{
    const struct text parts[] = {
        TEXT("claudemesh-host-v1"), { "", 1 }, text_from(mesh_id), { "", 1 }, text_from(fingerprint),
    };
    struct sha256 digest;
    sha256_of_parts(parts, ARRAY_LENGTH(parts), &digest);
    hex_encode(digest.bytes, sizeof(digest.bytes), ret_hex);
}
