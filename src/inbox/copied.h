/* The inbox as a backup or a reset copies it, and what is put right in the copy. Its SQL stands here because its tables do. On a database that is being made; blocking. */
#ifndef INBOX_COPIED_H
#define INBOX_COPIED_H

#include "db/dump.h"

/* A copy starts a time of its own: another epoch, so that nobody's place in the event stream is taken for one in the former; and no hook runs for a message for which it may have run since. */
int inbox_begin_anew(struct db_connection *connection, struct error *error) MUST_CHECK;
/* A reset: every message goes as the retention lets it go, so that its key still keeps it from being received, and its hooks from being run, a second time; and the quarantine goes. */
int inbox_forget_copied(struct db_connection *connection, struct error *error) MUST_CHECK;

#endif
