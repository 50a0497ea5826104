/* What `daemon status` says of room: what is at its end or nearly so, what that means, and what to do. */
#include "cli/output.h"
#include "cli/room_status.h"
#include "util/text.h"

enum { HIGH_PCT = 80, ALMOST_PCT = 95 };

static const struct {
    const char *reason;
    const char *text;
} REASONS[] = {
    { "outbox_disk_full", "the disk is full: sends are refused (507), what is queued is kept. Make room; it goes on by itself" },
    { "outbox_limit",
      "the outbox is at its limit: sends are refused (507) until the queue drains. See 'claudemesh daemon outbox list'; the limits are "
      "outbox.max_rows and outbox.max_bytes" },
    { "inbox_disk_full", "the inbox cannot be written: messages stay at the broker, unacknowledged. Make room; they come by themselves" },
    { "inbox_limit",
      "the inbox is at its limit and holds only messages that nobody has seen, which are kept. Mark them seen, or raise inbox.max_bytes" },
};

static void print_pressure(const struct cli *cli, const json_t *health, const char *field, const char *what, const char *meaning)
{
    int64_t pct = answer_integer(health, field, 0);
    if (pct >= HIGH_PCT) {
        cli_say(cli, "%s is %" PRId64 " %% full%s%s", what, pct, pct >= ALMOST_PCT ? ": " : "", pct >= ALMOST_PCT ? meaning : "");
    }
}

void room_status_print(const struct cli *cli, const json_t *health)
{
    const json_t *reasons = json_object_get(health, "reasons");
    for (size_t i = 0; i < json_array_size(reasons); i++) {
        for (size_t known = 0; known < ARRAY_LENGTH(REASONS); known++) {
            if (string_equal(json_string_value(json_array_get(reasons, i)), REASONS[known].reason)) {
                cli_say(cli, "%s", REASONS[known].text);
            }
        }
    }
    print_pressure(cli, health, "outbox_pressure_pct", "the outbox", "new sends are refused (507) until it drains");
    print_pressure(cli, health, "inbox_pressure_pct", "the inbox", "at 100 % the oldest messages marked seen go before their time");
    print_pressure(cli, health, "disk_pct", "the disk", "make room before sends are refused");
}
