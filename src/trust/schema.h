/* The schema of trust's tables alone, for whoever composes outbox.db's migrations (docs/decisions/0004). */
#ifndef TRUST_SCHEMA_H
#define TRUST_SCHEMA_H

extern const char TRUST_SCHEMA_SQL[]; /* one migration step: statements, members, pins, sender facts, facts of a mesh */

#endif
