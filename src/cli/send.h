/* A send on its way through the command line: what was asked, and the three ways it may take (10-cli, "How send finds its way"). */
#ifndef CLI_SEND_H
#define CLI_SEND_H

#include <jansson.h>

#include "cli/command.h"
#include "util/buffer.h"
#include "util/text.h"

struct send_request {
    const char *to;
    struct text message;
    const char *priority;          /* "now", "next", "low" */
    const char *client_message_id; /* given, or made here so that a retry by hand is safe */
    bool id_was_given;
    json_t *meta;            /* NULL none */
    const char *reply_to_id; /* NULL none */
    int64_t wait_s;          /* -1: --wait was not given */
    bool allow_self;
};

/* This way is not there; try the next. Else an exit code: the answer. */
enum { SEND_NO_WAY = -1 };

int send_by_daemon(struct cli *cli, const struct send_request *request, const struct config_file *file);
int send_by_bridge(struct cli *cli, const struct send_request *request, const struct config_mesh *mesh);
int send_cold(struct cli *cli, const struct send_request *request, const struct config_mesh *mesh);

/* EXIT_DONE: another way than the daemon's may be taken. Else an exit code; it was told why. */
int send_check_guard(struct cli *cli);

/* Whether `to` is this key: the whole of it, or a prefix long enough to count as one. */
bool send_is_own_key(const char *to, const char *own_pubkey);
int send_refuse_self(struct cli *cli);

#endif
