/* Owns what becomes of a copied inbox. */
#include "inbox/copied.h"

static const char DROP_EPOCH[] = "DELETE FROM inbox_epoch";
static const char DROP_HOOK_RUNS[] = "DELETE FROM hook_runs";
static const char KEEP_KEYS[] = "INSERT OR IGNORE INTO inbox_pruned (mesh, sender_pubkey, client_message_id, sent_at, received_at)"
                                " SELECT mesh, sender_pubkey, client_message_id, sent_at, received_at FROM inbox";
static const char DROP_MESSAGES[] = "DELETE FROM inbox";
/* It points into rows that are gone; the next start makes it again. */
static const char DROP_SEARCH[] = "DROP TABLE IF EXISTS inbox_search";
/* What went is not to be fetched again. */
static const char DROP_REBUILD[] = "DELETE FROM inbox_rebuild";
static const char DROP_QUARANTINE[] = "DELETE FROM quarantine";

int inbox_begin_anew(struct db_connection *connection, struct error *error)
{
    int status = db_execute(connection, error, NULL, DROP_EPOCH, "");
    return status == 0 ? db_execute(connection, error, NULL, DROP_HOOK_RUNS, "") : status;
}

int inbox_forget_copied(struct db_connection *connection, struct error *error)
{
    int status = db_execute(connection, error, NULL, KEEP_KEYS, "");
    if (status == 0) {
        status = db_execute(connection, error, NULL, DROP_SEARCH, "");
    }
    if (status == 0) {
        status = db_execute(connection, error, NULL, DROP_MESSAGES, "");
    }
    if (status == 0) {
        status = db_execute(connection, error, NULL, DROP_REBUILD, "");
    }
    if (status == 0) {
        status = db_execute(connection, error, NULL, DROP_QUARANTINE, "");
    }
    return status == 0 ? inbox_begin_anew(connection, error) : status;
}
