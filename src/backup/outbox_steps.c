/* Owns the order of outbox.db's steps. A step that was released is never moved: a new one, whichever room it comes from, is added at the end. */
#include "backup/outbox_steps.h"

#include "outbox/outbox.h"
#include "trust/schema.h"

size_t outbox_steps(struct db_migration ret_steps[static OUTBOX_STEPS_MAXIMUM])
{
    const char *const released[] = { OUTBOX_MIGRATIONS[0].sql, TRUST_SCHEMA_SQL, TRUST_AWAITING_SQL };
    for (size_t i = 0; i < ARRAY_LENGTH(released); i++) {
        ret_steps[i] = (struct db_migration){ .version = (int)i + 1, .sql = released[i] };
    }
    return ARRAY_LENGTH(released);
}
