/* Owns what a copy of the outbox without its payloads is. */
#include "outbox/copied.h"

#include "util/attributes.h"

static const struct db_substitute SUBSTITUTES[] = {
    { "outbox", "payload", "x''" },
    { "outbox", "meta", "NULL" },
    { "outbox", "mentions", "NULL" },
    { "outbox", "reply_to_id", "NULL" },
};
static const char *const WITHOUT[] = { "outbox_attempt", "receipt", NULL };
const struct db_selection OUTBOX_WITHOUT_PAYLOADS = { SUBSTITUTES, ARRAY_LENGTH(SUBSTITUTES), WITHOUT };

/* One state after the other: each has its index. */
static const char *const ABORT_ROWS[] = {
    "UPDATE outbox SET status = 'aborted', aborted_at = ?1, aborted_by = ?2 WHERE status = 'pending'",
    "UPDATE outbox SET status = 'aborted', aborted_at = ?1, aborted_by = ?2 WHERE status = 'inflight'",
    "UPDATE outbox SET status = 'aborted', aborted_at = ?1, aborted_by = ?2 WHERE status = 'dead'",
};
static const char MOVE_COUNTS[] =
    "UPDATE outbox_count SET aborted = aborted + pending + inflight + dead, pending = 0, inflight = 0, dead = 0";

static const char FORGET_PAYLOADS[] = "UPDATE outbox SET payload = x'', meta = NULL, mentions = NULL, reply_to_id = NULL"
                                      " WHERE length(payload) > 0 OR meta IS NOT NULL OR mentions IS NOT NULL OR reply_to_id IS NOT NULL";
static const char *const FORGET[] = { FORGET_PAYLOADS, "DELETE FROM outbox_attempt", "DELETE FROM receipt" };
static const char COUNT_ROWS[] = "SELECT count(*) FROM outbox";

int outbox_abort_copied(struct db_connection *connection, const char *by, int64_t at, int64_t *ret_aborted, struct error *error)
{
    int64_t aborted = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(ABORT_ROWS); i++) {
        int64_t changed = 0;
        int status = db_execute(connection, error, &changed, ABORT_ROWS[i], "it", at, by);
        if (status < 0) {
            return status;
        }
        aborted += changed;
    }
    int status = db_execute(connection, error, NULL, MOVE_COUNTS, "");
    if (status == 0 && ret_aborted != NULL) {
        *ret_aborted = aborted;
    }
    return status;
}

int outbox_forget_payloads(struct db_connection *connection, const char *by, int64_t at, int64_t *ret_aborted, int64_t *ret_kept,
                           struct error *error)
{
    for (size_t i = 0; i < ARRAY_LENGTH(FORGET); i++) {
        int status = db_execute(connection, error, NULL, FORGET[i], "");
        if (status < 0) {
            return status;
        }
    }
    int status = outbox_abort_copied(connection, by, at, ret_aborted, error);
    return status == 0 ? db_read_number(connection, COUNT_ROWS, ret_kept, error) : status;
}
