/* A row of the outbox as the API shows it: its size, not its payload. */
#ifndef IPC_OUTBOX_ROWS_H
#define IPC_OUTBOX_ROWS_H

#include "ipc/internal.h"

json_t *outbox_row_to_json(const struct ipc *ipc, const struct outbox_row *row) MUST_CHECK;

#endif
