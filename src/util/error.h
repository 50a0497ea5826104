/* The one error type. Low rooms fill it and return its negative code; only
 * ipc, daemon, broker and cli log or print it, once (STYLE 5, 7). */
#ifndef UTIL_ERROR_H
#define UTIL_ERROR_H

#include "util/attributes.h"

enum error_code {
    ERROR_NONE = 0,
    ERROR_INVALID,     /* the input is malformed or of the wrong shape */
    ERROR_TOO_LARGE,   /* over one of the maxima of util/limits.h */
    ERROR_NOT_FOUND,   /* no such file, row, peer */
    ERROR_CONFLICT,    /* it contradicts what is already there */
    ERROR_AMBIGUOUS,   /* more than one fits */
    ERROR_DENIED,      /* not allowed: permissions, signature, membership */
    ERROR_FULL,        /* the disk, or a configured limit */
    ERROR_BUSY,        /* somebody else holds it; may pass */
    ERROR_UNREACHABLE, /* no connection could be made, or it was lost */
    ERROR_TIMEOUT,     /* no answer in time */
    ERROR_CORRUPT,     /* what was read is damaged */
    ERROR_NEWER,       /* written by a newer program: it names the version */
    ERROR_SYSTEM,      /* a system call failed: sys_errno says which way */
    ERROR_INTERNAL     /* a bug here */
};

enum { ERROR_MESSAGE_SIZE = 512 };

struct error {
    enum error_code code;
    int sys_errno;                    /* 0 when no system call was involved */
    char message[ERROR_MESSAGE_SIZE]; /* one sentence for a person; no secret in it */
};

/* Fills *error (which may be NULL) and returns -(int)code, so that
 * `return error_set(error, ERROR_INVALID, "...")` reads well. A long message is cut. */
int error_set(struct error *error, enum error_code code, const char *format, ...) ATTRIBUTE_PRINTF(3, 4);

/* The same for a failed system call: code ERROR_SYSTEM (ERROR_FULL for ENOSPC and
 * EDQUOT, ERROR_NOT_FOUND for ENOENT, ERROR_DENIED for EACCES and EPERM), keeps
 * errno, appends ": <strerror>". */
int error_set_errno(struct error *error, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);

/* Puts "context: " before the message that is there. Returns -(int)error->code. */
int error_prefix(struct error *error, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);

/* The stable word for a code ("invalid", "not_found", ...). Static storage. */
const char *error_code_name(enum error_code code);

#endif
