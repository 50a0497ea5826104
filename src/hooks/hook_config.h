/* hooks.toml (60-hooks; 45-trust): which hooks run, and how. Pure: bytes in, structs out. */
#ifndef HOOKS_HOOK_CONFIG_H
#define HOOKS_HOOK_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attributes.h"
#include "util/error.h"

struct hook_config { /* one section; heap strings */
    char *name;
    char *problem; /* NULL: sound. Else what is wrong with the section: the hook does not run, and pre-send denies */
    bool enabled;
    bool is_disabled; /* "enabled = false" stands there: then a problem does not matter */
    int64_t timeout_ms;
    size_t output_size_limit; /* bytes */
    char **redact_payload;    /* paths, "body.password" */
    size_t redact_count;
    bool allow_reply;
    char **capability_token_scope; /* "reply:event", "dm:send:sender", "topic:<name>:post" */
    size_t scope_count;
    bool network_allow;    /* network_policy = "allow" */
    bool bubblewrap;       /* sandbox = "bubblewrap" */
    bool allow_unverified; /* runs for messages that are not verified */
    bool accept_legacy;    /* runs for bodyVersion 1 */
};

struct hooks_file {
    struct hook_config *hooks;
    size_t count;
};

/* "on-message", …, "pre-send", "on-topic-<name>". */
bool hook_name_is_valid(const char *name);

/* A file that is no TOML: ERROR_INVALID with line and column. What is wrong inside a section (an unknown key, with the nearest; a value of the wrong type
 * or out of range) is that hook's `problem`; a section that is no hook's name is kept, with its problem. `name` is the file's, for messages. */
int hooks_file_parse(const char *name, const char *bytes, size_t length, struct hooks_file *ret_file, struct error *error) MUST_CHECK;
void hooks_file_release(struct hooks_file *file); /* takes NULL and zeroed structs */
const struct hook_config *hooks_file_find(const struct hooks_file *file, const char *name);

#endif
