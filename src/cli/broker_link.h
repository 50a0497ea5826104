/* A short, send-only connection to a mesh's broker for one command (10-cli, the cold path; 40-wire "receive":false), made blocking: each call runs the loop until its answer is
 * there. */
#ifndef CLI_BROKER_LINK_H
#define CLI_BROKER_LINK_H

#include <jansson.h>

#include "cli/command.h"
#include "crypto/keys.h"
#include "link/link.h"

struct broker_link;

enum { BROKER_LINK_OPEN_MS = 10000, BROKER_LINK_ANSWER_MS = 15000 };

/* Connects, says hello, negotiates. Everything given outlives the link. ERROR_UNREACHABLE, ERROR_TIMEOUT, ERROR_DENIED (the hello was refused), or
 * ERROR_CONFLICT: the features were (exit 8). */
int broker_link_open(const struct config_mesh *mesh, const struct keypair *keys, const struct settings *settings, int64_t timeout_ms,
                     struct broker_link **ret_link, struct error *error) MUST_CHECK;
/* Closes cleanly, within half a second. Takes NULL. */
void broker_link_close(struct broker_link *link);

int64_t broker_link_clock_skew_ms(const struct broker_link *link); /* 0 unless hello had to be corrected by it */
const struct feature_set *broker_link_features(const struct broker_link *link);
/* One request and its answer, of whatever type (new reference). */
int broker_link_request(struct broker_link *link, json_t *request, int64_t timeout_ms, json_t **ret_answer, struct error *error) MUST_CHECK;
/* Sends a `send` frame and waits for its ack (new reference). ERROR_TIMEOUT and ERROR_UNREACHABLE after it was sent: the outcome is unknown. */
int broker_link_send(struct broker_link *link, const char *frame, size_t size, const char *client_message_id, int64_t timeout_ms,
                     json_t **ret_ack, struct error *error) MUST_CHECK;

/* list_members, all its pages as one members_list (new reference). */
int broker_link_list_members(struct broker_link *link, json_t **ret_list, struct error *error) MUST_CHECK;

/* An `error` frame as an error: ERROR_DENIED for what names authorisation, else ERROR_INVALID. 0 when the answer is none. */
int broker_answer_check(const json_t *answer, struct error *error) MUST_CHECK;

/* Opens for `mesh` as above; prints on failure and returns the exit code. */
int broker_link_need(struct cli *cli, const struct config_mesh *mesh, const struct keypair *keys, const struct settings *settings,
                     struct broker_link **ret_link);

#endif
