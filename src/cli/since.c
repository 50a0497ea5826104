/* `--since`, as the API wants it. */
#include "cli/since.h"

int since_parse(const char *text, int64_t now_ms, char ret_rfc3339[RFC3339_SIZE], struct error *error)
{
    int64_t time_ms, span_ms;
    if (duration_parse(text, &span_ms) == 0) {
        if (span_ms > now_ms) {
            return error_set(error, ERROR_INVALID, "--since reaches back before 1970; give a shorter time");
        }
        time_format_rfc3339(now_ms - span_ms, ret_rfc3339);
        return 0;
    }
    if (time_parse_rfc3339(text, &time_ms) == 0) {
        time_format_rfc3339(time_ms, ret_rfc3339);
        return 0;
    }
    return error_set(error, ERROR_INVALID, "--since takes a time like 2026-11-23T12:00:00Z, or a span like 10m, 2h or 3d");
}
