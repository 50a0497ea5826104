/* The outbox as a backup or a reset copies it, and what is put right in the copy. Its SQL stands here because its tables do. On a database that is being made; blocking. */
#ifndef OUTBOX_COPIED_H
#define OUTBOX_COPIED_H

#include "db/dump.h"

/* Every row with its ids, fingerprints and outcome, and nothing of what was said: the consumed ids (45-trust, Restore). Neither attempts nor receipts. */
extern const struct db_selection OUTBOX_WITHOUT_PAYLOADS;

/* Rows whose payload is not there cannot be sent any more: pending, inflight and dead ones become `aborted` by `by`. Counts follow. */
int outbox_abort_copied(struct db_connection *connection, const char *by, int64_t at, int64_t *ret_aborted, struct error *error) MUST_CHECK;
/* A reset: payloads, meta and receipts go, then as above; ids, fingerprints and outcomes stay. *ret_kept: rows. */
int outbox_forget_payloads(struct db_connection *connection, const char *by, int64_t at, int64_t *ret_aborted, int64_t *ret_kept,
                           struct error *error) MUST_CHECK;

#endif
