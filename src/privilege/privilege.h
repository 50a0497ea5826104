/* What a process that serves gives up once it is set up: capabilities, new privileges, starting programs, files that are none of its business (80-operations,
 * Service; docs/decisions/0017). Everything is probed at run time: what this kernel lacks is left out, and said. Irrevocable. */
#ifndef PRIVILEGE_PRIVILEGE_H
#define PRIVILEGE_PRIVILEGE_H

#include <stdbool.h>
#include <stddef.h>

#include "util/attributes.h"
#include "util/error.h"

struct privilege_rules {
    /* Paths, absolute; NULL entries and absent files are skipped; symbolic links are followed now. With everything below them. */
    const char *const *readable;
    size_t readable_count;
    const char *const *writable; /* read, written, made, renamed and removed below; never executed */
    size_t writable_count;
    const char *runs; /* below it directories may be made and emptied, and sockets bound, no file written; NULL: none */
    bool low_ports;   /* ports below 1024 are still to be bound: CAP_NET_BIND_SERVICE stays, if it is there */
};

struct privilege_state { /* what holds now */
    bool no_new_privileges;
    bool no_capabilities;  /* or none but that for low ports */
    bool no_writable_code; /* memory never becomes executable */
    bool system_calls;     /* the list of forbidden ones is in force */
    int landlock;          /* the version of its interface that is in force; 0: none */
    const char *failed;    /* what the kernel has and refused nevertheless, a word; NULL: nothing */
    int failed_errno;
};

/* No core file, and no other process of the user looks into this one: keys are in its memory. */
int privilege_no_core_dumps(struct error *error) MUST_CHECK;

/* With one thread, before all others: what is given up here every later thread is born without. Blocking (opens the paths). */
void privilege_drop(const struct privilege_rules *rules, struct privilege_state *ret_state);
/* One line, `privilege_dropped`; a warning when something failed or nothing could be done. */
void privilege_log(const struct privilege_state *state);

/* What every serving process reads beside its own files: names, certificates, time zones, the system's libraries. NULL-terminated. */
extern const char *const PRIVILEGE_SYSTEM_FILES[];

#endif
