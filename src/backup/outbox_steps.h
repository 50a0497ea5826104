/* outbox.db's steps, those of both rooms that have tables in it, in the order in which they were released (docs/decisions/0004). */
#ifndef BACKUP_OUTBOX_STEPS_H
#define BACKUP_OUTBOX_STEPS_H

#include "db/db.h"

enum { OUTBOX_STEPS_MAXIMUM = 64 };
size_t outbox_steps(struct db_migration ret_steps[static OUTBOX_STEPS_MAXIMUM]);

#endif
