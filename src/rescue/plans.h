/* What rows of each database must look like, and what becomes of one that is not whole. Internal to the room. */
#ifndef RESCUE_PLANS_H
#define RESCUE_PLANS_H

#include "rescue/salvage.h"

/* Counts into *report while it is used. */
void plan_outbox(struct rescue_report *report, struct salvage_plan *ret_plan);
void plan_inbox(struct salvage_plan *ret_plan);
/* A table whose loss means that whom to trust may have been forgotten. */
bool plan_is_trust_table(const char *table);

#endif
