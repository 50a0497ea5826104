/* What the files of `claudemesh doctor` share: what is looked at, and how a finding is told. A check only looks: it changes nothing, and opens no database. */
#ifndef CLI_DOCTOR_H
#define CLI_DOCTOR_H

#include "cli/command.h"
#include "util/attributes.h"

enum doctor_state {
    DOCTOR_OK,
    DOCTOR_NOTE,   /* worth knowing; not wrong */
    DOCTOR_PROBLEM /* exit status 1 */
};

struct doctor {
    struct cli *cli;
    struct json_t *checks;     /* [{check, state, detail, remedy}…] */
    char *program;             /* as to be typed: "claudemesh", with --config-dir where it is not the default one */
    struct settings *settings; /* NULL: they cannot be read */
    struct config_file *file;  /* NULL: cannot be read */
    size_t problems;
};

/* One finding. `check` is a stable snake_case word. remedy: one line that works when it is pasted into a shell; NULL with DOCTOR_OK, and where nothing can be done here. Copied. */
void doctor_tell(struct doctor *doctor, enum doctor_state state, const char *check, const char *remedy, const char *format, ...)
    ATTRIBUTE_PRINTF(5, 6);
/* The same with a remedy made of a format; the first %s is the program as to be typed. */
char *doctor_command(const struct doctor *doctor, const char *format, ...) ATTRIBUTE_PRINTF(2, 3) MUST_CHECK;
/* 'it''s' as one word for a shell; heap. */
char *doctor_quote(const char *text) MUST_CHECK;

/* doctor_files.c */
void doctor_check_settings(struct doctor *doctor); /* fills doctor->settings */
void doctor_check_meshes(struct doctor *doctor);   /* fills doctor->file */
void doctor_check_permissions(struct doctor *doctor);
void doctor_check_host(struct doctor *doctor);
void doctor_check_databases(struct doctor *doctor);
void doctor_check_leftovers(struct doctor *doctor);
/* doctor_system.c */
void doctor_check_disk(struct doctor *doctor);
void doctor_check_limits(struct doctor *doctor);
void doctor_check_hooks(struct doctor *doctor);
void doctor_check_service(struct doctor *doctor);
/* doctor_network.c */
void doctor_check_daemon(struct doctor *doctor);
void doctor_check_brokers(struct doctor *doctor);

#endif
