/* Owns the rules for inbox rows: whole, or not at all; what is lost here, the broker may have. */
#include <string.h>

#include "rescue/plans.h"
#include "util/text.h"

static const struct salvage_shape SHAPES[] = {
    { "inbox", "ntttTItTktTTTTIiIibi" },
    { "quarantine", "nttttttbi" },
    { "inbox_pruned", "tktIi" },
    { "inbox_legacy", "tb" },
};
/* The epoch is a new one: streams that resume begin again. The index and what was rebuilt are made anew. */
static const char *const SKIP[] = { "schema", "inbox_epoch", "inbox_index", "inbox_rebuild", NULL };

static bool judge(void *argument, struct rescue_record *row, bool orphan)
{
    enum { ID = 1, VERIFIED = 17, VERIFIED_MAXIMUM = 2 };
    (void)argument;
    (void)orphan;
    for (size_t i = 0; i < row->count; i++) {
        if (row->values[i].type == RESCUE_LOST)
            return false;
    }
    const struct rescue_value *verified = &row->values[VERIFIED];
    return row->rowid > 0 && row->values[ID].size == 26 && verified->integer >= 0 && verified->integer <= VERIFIED_MAXIMUM;
}

void plan_inbox(struct salvage_plan *ret_plan)
{
    *ret_plan = (struct salvage_plan){ .shapes = SHAPES,
                                       .shape_count = ARRAY_LENGTH(SHAPES),
                                       .main_table = "inbox",
                                       .main_index = "sqlite_autoindex_inbox_1",
                                       .skip = SKIP,
                                       .judge = judge };
}
