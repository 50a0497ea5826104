/* The exit codes of 10-cli, and the tables that lead to them: from the daemon's error codes and from our own errors. Pure. */
#ifndef CLI_EXIT_CODES_H
#define CLI_EXIT_CODES_H

#include "util/error.h"

enum exit_code {
    EXIT_DONE = 0,
    EXIT_FAILED = 1, /* the operation failed */
    EXIT_USAGE = 2,  /* wrong usage */
    EXIT_NOT_AUTHORISED = 3,
    EXIT_IDENTITY = 4,    /* refused for identity reasons (host fingerprint) */
    EXIT_UNREACHABLE = 5, /* the daemon or broker cannot be reached */
    EXIT_CONFLICT = 6,    /* idempotency key reused, mesh_conflict */
    EXIT_TIMED_OUT = 7,
    EXIT_LINK_REFUSED = 8
};

/* For an answer of the daemon or the broker: by its `error` code, else by its status. code may be NULL. */
enum exit_code exit_code_of_answer(int status, const char *code);
enum exit_code exit_code_of_error(enum error_code code);

#endif
