/* What the files of link/ share: the phases as data, the link's inside. Not for other rooms; tests look at the phases and shorten the times. */
#ifndef LINK_LINK_INTERNAL_H
#define LINK_LINK_INTERNAL_H

#include "link/link.h"
#include "net/websocket.h"

enum { CLOSE_FEATURE_UNAVAILABLE = 4010 }; /* 40-wire */

enum link_phase {
    PHASE_IDLE,        /* made, not started */
    PHASE_CONNECTING,  /* TCP, TLS, upgrade */
    PHASE_GREETING,    /* hello sent */
    PHASE_NEGOTIATING, /* features asked for */
    PHASE_OPEN,
    PHASE_WAITING, /* lost; the retry timer runs */
    PHASE_REFUSED, /* not asked again for 5 minutes */
    PHASE_CLOSED,  /* for good */
    PHASES
};
enum link_event {
    EVENT_START,    /* link_start */
    EVENT_UPGRADED, /* the WebSocket is open */
    EVENT_WELCOMED, /* hello_ack */
    EVENT_AGREED,   /* the features suffice */
    EVENT_REFUSED,  /* they do not, or the broker says so (4010) */
    EVENT_AGAIN,    /* a hello that can be mended at once: skew, replay */
    EVENT_LOST,     /* anything else that ends a connection */
    EVENT_REVOKED,  /* 4002, or a verified statement */
    EVENT_RETRY,    /* the retry timer */
    EVENT_STOPPED,  /* link_stop */
    EVENTS
};
/* next PHASE_IDLE: a hole, the event is not for this phase. state LINK_IDLE: what others see stays. */
struct link_move {
    enum link_phase next;
    enum link_state state;
};
extern const struct link_move LINK_MOVES[PHASES][EVENTS];
const char *link_phase_name(enum link_phase phase);

struct link_times {      /* ms */
    int64_t connect;     /* TCP, TLS and upgrade together */
    int64_t hello;       /* to hello_ack */
    int64_t refusal;     /* from an error frame to the close that must follow it */
    int64_t negotiation; /* no answer counts as none (40-wire) */
    int64_t request;
    int64_t refused_retry;    /* not faster than once in 5 minutes (40-wire) */
    int64_t replaced_initial; /* after 4003 and 4004: from 30 s, doubling (50-identity) */
    int64_t replaced_maximum;
    int64_t
        replaced_calm; /* open for this long, the next replacement starts from 30 s again: two daemons with one key must not swap for ever */
};
extern const struct link_times LINK_TIMES;

struct link_request {
    struct link_request *next;
    char id[24];
    int64_t deadline_ms; /* monotonic */
    void (*answer)(void *argument, const json_t *answer);
    void *argument;
};

struct link {
    struct loop *loop;
    struct link_options options; /* strings are ours; so are groups and require */
    struct link_callbacks callbacks;
    struct link_times times;

    enum link_phase phase;
    enum link_state state;
    char *reason;
    const char *loss; /* link_loss */
    bool stopping;    /* link_stop was called: no callback but `stopped` */
    bool revoked;
    bool replaced; /* the newest end was 4003 or 4004 */

    struct websocket *socket; /* NULL: none */
    bool socket_closing;      /* we closed it: what still comes from it is ignored */
    struct loop_timer *retry_timer, *phase_timer, *request_timer;
    int64_t backoff_ms, replaced_backoff_ms; /* the next ones; 0: the first */
    int64_t opened_ms;                       /* monotonic, of the newest OPEN */

    /* hello */
    char challenge[65]; /* "" none */
    bool challenge_required;
    int64_t skew_ms, last_hello_at;
    int64_t hello_boot_ms;                    /* when last_hello_at was now */
    bool skew_tried;                          /* corrected once since the last OPEN or backoff */
    unsigned replays;                         /* mended since then */
    char refusal_code[64], refusal_text[160]; /* of the error frame that came before the close; "" none */
    int64_t refusal_server_time;              /* -1 none */
    int64_t hello_sent_us;

    /* features */
    struct feature_set features;
    char negotiation_id[24];
    bool negotiation_was_silent; /* the last one had no answer, and its ping no pong */
    json_t *early;               /* frames that came before OPEN */
    size_t early_bytes;
    char *broker_version;
    int64_t lag_ms; /* hello's, or the negotiation's */

    struct link_request *requests, **requests_end;
    uint64_t request_count;
};

/* link.c: the one function that moves a link. False: a hole, nothing happened. It does what entering the phase needs: timers, backoff, callbacks. */
bool link_move(struct link *link, enum link_event event, const char *reason);
void link_close_socket(struct link *link, int code, const char *reason);
int link_write(struct link *link, const char *text, size_t size); /* in any phase with a socket; -1 none */
void link_measure_lag(struct link *link, int64_t since_us);

/* hello.c */
void hello_send(struct link *link, const char *challenge);
void hello_receive(struct link *link, const char *type, const json_t *frame);
/* What a connection's end means, by the close code, the error frame before it, and the phase. */
enum link_event hello_judge_close(struct link *link, int code);

/* negotiation.c */
void negotiation_send(struct link *link);
void negotiation_receive(struct link *link, const char *type, const json_t *frame, size_t size /* of its text */);
void negotiation_give_up(struct link *link);                                     /* no answer in 5 s */
void negotiation_refused_by_broker(struct link *link, const char *close_reason); /* 4010 from the other side */

/* requests.c */
bool requests_answer(struct link *link, const char *type, const json_t *frame); /* true: it was one of ours */
void requests_lose(struct link *link);
void requests_expire(void *link);
void requests_new_id(struct link *link, char ret_id[24]);

#endif
