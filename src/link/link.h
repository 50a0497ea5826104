/* One mesh's connection to its broker (40-wire): hello with both signatures, replay and skew handling, feature negotiation, keepalive, reconnect with backoff; frames in and
 * out. Knows no message semantics: delivery (daemon) and the cold path (command line) stand on it. States are a table in link.c. Loop thread. */
#ifndef LINK_LINK_H
#define LINK_LINK_H

#include <jansson.h>

#include "crypto/keys.h"
#include "net/loop.h"
#include "proto/features.h"

enum link_state { LINK_IDLE, LINK_CONNECTING, LINK_OPEN, LINK_RECONNECTING, LINK_CLOSED, LINK_REFUSED, LINK_STATES };
const char *link_state_name(
    enum link_state state); /* "idle", "connecting", "open", "reconnecting", "closed", "refused" (20-ipc broker_status) */

struct link;
struct link_options {
    const char *mesh_slug, *mesh_id, *member_id, *broker_url, *session_id, *display_name;
    const struct keypair *keys;   /* outlives the link */
    const char *channel;          /* "claudemesh-daemon" */
    const char *peer_type;        /* "connector" */
    const char *host_fingerprint; /* NULL: none */
    const char *hostname, *cwd;   /* NULL: not shared */
    const json_t *groups;         /* NULL */
    bool receive;                 /* false: send-only */
    const char *const *require;   /* features; copied */
    size_t require_count;
    const char *ca_file;
    bool allow_insecure;
    bool challenge_required;                        /* a challenge was seen at this URL before (45-trust, Hello) */
    int64_t reconnect_initial_ms, reconnect_max_ms; /* 500, 30000; 25 % jitter */
    bool once; /* cold path: no reconnect; the first failure is CLOSED (REFUSED when the negotiation failed); a skewed or
                                           replayed hello is still mended once */
};
struct link_callbacks {
    void *argument;
    /* reason: a sentence or a code; never NULL. On OPEN the features are known. */
    void (*state)(void *argument, struct link *link, enum link_state state, const char *reason);
    /* A frame that answers no request of ours. Borrowed. Called only while OPEN. type is its "type". */
    void (*frame)(void *argument, struct link *link, const char *type, const json_t *frame);
    /* A challenge header came for the first time: remember it durably. */
    void (*challenge_seen)(void *argument, struct link *link);
    /* Negotiation failed: for the event feature_negotiation_failed. */
    void (*negotiation_failed)(void *argument, struct link *link, const struct feature_verdict *verdict);
    void (*drained)(void *argument, struct link *link); /* the output is empty again; may be NULL */
    /* The owner's own demands on what was negotiated, asked before OPEN; not FEATURE_OK in *verdict refuses the link. May be NULL. */
    void (*judge)(void *argument, struct link *link, const struct feature_set *features, struct feature_verdict *verdict);
    /* After link_stop: the socket is closed and gone (at once when there was none). The one callback after link_stop; may be NULL. */
    void (*stopped)(void *argument, struct link *link);
};
/* A link is not freed inside one of its own callbacks. */
int link_new(struct loop *loop, const struct link_options *options, const struct link_callbacks *callbacks, struct link **ret_link,
             struct error *error) MUST_CHECK;
void link_start(struct link *link); /* connects; never gives up but when refused for good (revoked) */
void link_stop(struct link *link);  /* closes cleanly (1001); no callbacks after */
void link_free(struct link *link);

enum link_state link_state(const struct link *link);
const char *link_reason(const struct link *link); /* of the newest state */
const struct feature_set *link_features(const struct link *link);
const char *link_broker_version(const struct link *link); /* "" unknown */
/* Why the connection that was open last is no longer: a word of a fixed list (metrics' label), NULL before the first loss: "connection_lost" (gone without a word, or silent),
 * "closed_by_broker", "replaced" (4003, 4004), "refused" (4010), "reset" (link_reset). */
const char *link_loss(const struct link *link);
int64_t link_clock_skew_ms(const struct link *link); /* 0 unless corrected */
/* The broker's time as this link knows it, to 60 s: while it is open it follows no step of this host's clock. */
int64_t link_now_ms(const struct link *link);
int64_t link_lag_ms(const struct link *link);    /* newest ping's round trip; until there is one, hello's; -1 unknown */
bool link_is_revoked(const struct link *link);   /* closed with 4002 */
bool link_was_replaced(const struct link *link); /* its newest end was 4003 or 4004; said while the state changes for it */

/* -1 when not open. */
int link_send(struct link *link, const char *text, size_t size);
size_t link_backlog(const struct link *link);
bool link_has_input(const struct link *link); /* in a callback: more frames may follow at once */
/* Adds _reqId, sends, and calls back once with the answer, or NULL (timeout of 15 s, or the link was lost: never silently dropped). The request is borrowed. An `error` frame with the id is an answer too. */
/* -1 when not open: then there is no callback. */
int link_request(struct link *link, json_t *request, void (*answer)(void *argument, const json_t *answer), void *argument);
/* Stops and resumes reading (back pressure). A new connection reads. */
void link_pause(struct link *link, bool paused);
/* Closes and reconnects with backoff (a drain whose answers stopped coming). */
void link_reset(struct link *link, const char *reason);
/* A verified statement says that we are revoked: closed for good, as after 4002. */
void link_revoke(struct link *link, const char *reason);

#endif
