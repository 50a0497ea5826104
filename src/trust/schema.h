/* The schema of trust's tables alone, for whoever composes outbox.db's migrations (docs/decisions/0004). */
#ifndef TRUST_SCHEMA_H
#define TRUST_SCHEMA_H

/* Steps, each released on its own; never changed. */
extern const char TRUST_SCHEMA_SQL[];   /* statements, members, pins, sender facts, facts of a mesh */
extern const char TRUST_AWAITING_SQL[]; /* meshes of which a members_list must be merged before anything is sent */

#endif
