/* The broker's state, shared by its files: one struct broker, its meshes, members, sessions. The loop thread's alone; the store has its own. */
#ifndef BROKER_STATE_H
#define BROKER_STATE_H

#include <jansson.h>
#include <sys/queue.h>

#include "broker/admission.h"
#include "broker/broker.h"
#include "broker/metrics.h"
#include "broker/store/store.h"
#include "broker/store/table.h"
#include "crypto/keys.h"
#include "net/http_server.h"
#include "net/loop.h"
#include "net/watchdog.h"
#include "net/websocket.h"
#include "privilege/privilege.h"
#include "proto/features.h"

enum broker_limit { /* bytes unless the name says otherwise; each with its reason */
                    /* Pushes stop while this much waits for a slow reader; the rest stays in the store (70-broker, Delivering). */
                    BROKER_PUSH_BACKLOG = 256 * 1024,
                    /* Above it nothing more is read from a connection that does not read its answers. */
                    BROKER_ANSWER_BACKLOG = 1024 * 1024,
                    /* Sends of one connection, and bytes of all, that the store has not decided; then reading waits. */
                    BROKER_UNDECIDED_SENDS = 512,
                    BROKER_UNDECIDED_BYTES = 24 * 1024 * 1024,
                    /* Questions of one connection that the store has not answered; then reading waits, so that nobody fills the reader's queue for the others. Count. */
                    BROKER_QUESTIONS = 16,
                    /* A page of a fetch. */
                    BROKER_FETCH_BYTES = 256 * 1024,
                    /* A list in one frame leaves room for its last entry below LIMIT_FRAME. */
                    BROKER_LIST_BYTES = 896 * 1024,
                    /* What a client says before its hello is decided, in a frame and in all: whoever connects may make us keep as much. */
                    BROKER_EARLY_BYTES = 64 * 1024,
                    /* Bodies of POST /mesh and /join, which are a few KiB. */
                    BROKER_HTTP_BODY = 64 * 1024,
                    /* HTTP connections beyond the WebSockets that are allowed: for health, joins, and to tell who is too many. Count. */
                    BROKER_HTTP_SPARE = 64,
                    /* A certificate, which goes out in lists and events to everybody; ours have 2 to 4 KiB. */
                    BROKER_CERTIFICATE = 16 * 1024,
                    /* Presence, as a client sets it. */
                    BROKER_SESSION_UID = 128,
                    BROKER_SUMMARY = 4096,
                    BROKER_PROFILE = 16 * 1024,
                    BROKER_GROUPS = 64 /* count */,
                    BROKER_HOST_TEXT = 1024, /* hostname, cwd, channel */
                    BROKER_MENTIONS = 16 * 1024,
                    /* 40-wire: the fingerprint's and key's length in hex. */
                    BROKER_CHALLENGE_BYTES = 32
};

enum connection_policy { POLICY_PREFER_NEWEST, POLICY_PREFER_OLDEST, POLICY_ALLOW_CONCURRENT };

struct broker_figures { /* 70-broker, Limits; from the settings */
    bool dedupe_permanent;
    int64_t dedupe_retention_ms, message_retention_ms, key_grace_ms, inline_bytes, blob_bytes;
    size_t ciphertext_maximum; /* decoded */
    size_t max_connections, max_connections_per_mesh, max_new_connections_per_second;
    int64_t hello_timeout_ms, presence_grace_ms, lease_ms, check_interval_ms;
    size_t window;
    int64_t dedupe_retention_days;
    enum connection_policy policy;
    const char *policy_name;
};

struct session;
struct presence;

struct mesh { /* while somebody is or was a moment ago there */
    struct table_node node;
    int64_t key;
    char *mesh_id, *slug;
    LIST_HEAD(, session) sessions;
    LIST_HEAD(, presence) presences;
    size_t session_count;
    size_t members; /* struct member that point here */
};

struct member { /* while it has a session or a presence */
    struct table_node node, by_pubkey;
    struct mesh *mesh;
    int64_t key;
    char *member_id, *name, *certificate /* NULL: none */;
    char pubkey[KEY_HEX_SIZE];
    char host_fingerprint[KEY_HEX_SIZE]; /* of the newest connection that gave one; "" none */
    char refused_host[KEY_HEX_SIZE];     /* told of already; "" none */
    int64_t rotation_seq; /* of its last rotation; 0: none */
    bool admin;
    LIST_HEAD(, session) sessions;
    size_t references;
};

struct address_rate; /* web.c */

struct broker {
    struct loop *loop;
    struct store *store;
    struct admission *admission;
    struct http_server *server;
    SSL_CTX *tls;
    struct broker_figures figures;
    json_t *offer_override; /* NULL none */
    char **public_urls;     /* hello v2's broker_url is one of them */
    size_t public_url_count;
    char **authorities; /* their hosts and ports, for the Host check */
    size_t authority_count;
    const char *const *allowed_origins, *const *trusted_proxies; /* the settings' */
    size_t allowed_origin_count, trusted_proxy_count;
    char *admin_token; /* wiped */
    const struct broker_options *options;
    struct settings *reloaded; /* the newest, after a SIGHUP; NULL: the options' are in effect */
    uint16_t port;

    struct table meshes, members, members_by_pubkey, sessions /* by connection */, sessions_by_key;
    size_t connection_count;
    uint64_t last_connection;
    LIST_HEAD(, session) leased; /* with unacknowledged pushes */
    struct loop_timer *lease_timer;
    TAILQ_HEAD(, presence) leaving; /* in grace, the first to end first */
    struct loop_timer *grace_timer;
    struct loop_timer *keep_timer, *stop_timer;
    struct privilege_state privilege;                /* what was given up */
    struct watchdog *watchdog;                       /* NULL: no service manager listens */
    int64_t kept_at_ms, check_due_ms, touched_at_ms; /* monotonic */
    bool keeping, checking;

    struct store_acknowledge *acks; /* gathered in this turn of the loop; NULL none */
    size_t ack_capacity;
    size_t undecided_bytes; /* of sends in the store */
    bool reading_stopped;   /* sessions wait for undecided_bytes to fall */

    struct table addresses; /* struct address_rate */
    int64_t addresses_second;
    struct metrics metrics;
    int64_t mesh_count; /* in the store */
    bool stopping;
};

enum session_state { SESSION_NEW, SESSION_ADMITTING, SESSION_OPEN, SESSION_CLOSING, SESSION_STATES };

struct inflight { /* a push that waits for its acknowledgement */
    int64_t history_id, pushed_at_ms /* monotonic */;
    char message_id[ULID_SIZE];
    uint8_t priority;
    bool acknowledged;
};

struct outgoing {                     /* deliver.c's */
    int64_t cursor[STORE_PRIORITIES]; /* everything up to here was pushed */
    bool waiting[STORE_PRIORITIES];   /* the store may have more past the cursor */
    bool arrived[STORE_PRIORITIES];   /* came while a fetch was under way */
    bool fetching, leased;
    unsigned generation;   /* changes when the cursors go back */
    struct inflight *ring; /* NULL while nothing is in flight: an idle connection costs nothing */
    size_t head, count, capacity, unacknowledged;
    int64_t backlogged_at_ms; /* monotonic: last seen with output in the buffer here */
    LIST_ENTRY(session) of_leased;
};

struct early_frame {
    struct early_frame *next;
    size_t size;
    char text[];
};

struct session { /* one WebSocket */
    struct table_node by_connection, by_key;
    struct broker *broker;
    struct websocket *socket;
    uint64_t connection;
    enum session_state state;
    char *challenge;          /* until hello */
    struct loop_timer *timer; /* hello, then the negotiation that was announced; NULL later */
    struct early_frame *early, **early_end;
    size_t early_bytes;

    /* From hello on. */
    struct member *member;
    LIST_ENTRY(session) of_mesh, of_member;
    int64_t key; /* 0: send-only */
    char *session_uid;
    char routing_key[KEY_HEX_SIZE];
    struct presence *presence; /* NULL: send-only */
    bool acknowledges;         /* declared client_ack */
    bool ready;                /* what was announced is negotiated: pushes may come */
    bool delivery_ack;
    bool refused_in_passing; /* the admission remembers this connection */
    bool paused, saving, save_again;
    size_t undecided; /* sends in the store */
    size_t questions; /* lists, history, statements in the store */
    bool receipts_fetching, receipts_again;
    int64_t receipts_after; /* -1: nothing to fetch */
    struct outgoing out;
};

struct presence { /* presence.c's */
    LIST_ENTRY(presence) of_mesh;
    TAILQ_ENTRY(presence) of_leaving;
    struct member *member;
    struct session *session; /* NULL: in grace */
    int64_t session_key, leaves_at_ms /* monotonic */, connected_at;
    char presence_id[ULID_SIZE];
    char *session_uid;
    char routing_key[KEY_HEX_SIZE];
    char *display_name, *cwd, *hostname, *peer_type, *channel;
    char *summary;      /* NULL none */
    const char *status; /* one of the words of 20-ipc */
    bool visible;
    bool announced;           /* peer_joined was told */
    json_t *groups, *profile; /* never NULL */
};

struct mesh *state_find_mesh(const struct broker *broker, int64_t key);
struct member *state_find_member(const struct broker *broker, int64_t key);
struct member *state_find_member_by_pubkey(const struct broker *broker, const char *mesh_id, const char *pubkey);
/* Finds or makes both from a welcome; the caller holds one reference on the member. */
struct member *state_hold_member(struct broker *broker, const struct store_hello *hello) MUST_CHECK;
/* Its key is another one from now on. */
void state_rekey_member(struct broker *broker, struct member *member, const char *pubkey);
void state_release_member(struct broker *broker, struct member *member); /* frees it, and its mesh, with the last */

/* reload.c */
void broker_read_figures(struct broker *broker, const struct settings *settings);
void broker_reload(void *broker, int signal_number);

#endif
