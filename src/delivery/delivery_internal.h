/* What the files of delivery/ share: the inside of one mesh's delivery. */
#ifndef DELIVERY_DELIVERY_INTERNAL_H
#define DELIVERY_DELIVERY_INTERNAL_H

#include "delivery/delivery.h"
#include "delivery/drain.h"
#include "proto/frames.h"

enum { ASKED_KEYS = 32 };

struct receiving {
    json_t *held; /* pushes that wait for the member list, in order; NULL: none */
    size_t held_bytes;
    bool holding;
    struct loop_timer *hold_timer; /* and not for ever */
    size_t storing;                /* inserts and quarantines not yet on disk */
    size_t unsettled_bytes;        /* of ciphertext, held or being stored */
    bool paused;                   /* reading is, until some of it is settled */
    char *
        stalled_on; /* broker's id of the first message that could not be stored: what follows it must not be stored before it; NULL: none */
    int64_t stalled_until_ms; /* monotonic: the broker has had time to send it again */
    struct {
        char pubkey[KEY_HEX_SIZE];
        int64_t at_ms;   /* monotonic */
    } asked[ASKED_KEYS]; /* unknown senders that we have asked about: once is enough */
    size_t asked_next;
    bool insert_failed; /* said in the log, until one succeeds */
};

struct pending_ack {
    char *client_message_id, *broker_message_id;
    bool quarantined;
    int64_t at;
    char rsig[SIGNATURE_HEX_SIZE]; /* "" none */
};

struct acks {
    struct pending_ack *items;
    size_t count, capacity;
    bool flush_is_due;
    json_t *receipts; /* for receipt_ack */
    json_t *seen;     /* acks of rows marked seen, until the link takes them */
};

struct directory {
    json_t *presences; /* array, as peers_list has them; the last known */
    json_t *of_member; /* object: a member's key, and an array of its presences */
    size_t presence_bytes;
    json_t *departures; /* object: a member's key, and when it was last present */
    int64_t lost_at;    /* when the link was lost; -1 before */
    bool listing;       /* a list_members is on its way */
    bool list_again;    /* and was asked for again meanwhile */
    int64_t after;      /* the page asked for; 0: the first */
    size_t pages;
};

struct profile {
    json_t *fields; /* as set; never NULL */
    struct loop_timer *heartbeat_timer;
    bool working;
    const char *sent_status; /* what the broker knows; NULL: nothing yet on this connection */
};

struct expiry {
    struct loop_timer *timer;
    bool running; /* in the database now */
    bool again;
    bool open_after; /* the drain opens when it is done */
};

/* Rebuilding the inbox (history.c). */
struct history {
    struct loop_timer *timer; /* to ask again */
    bool asking;              /* a page is asked for, or being stored */
    bool failed, end;         /* of the page: something was not stored; it is the last */
    int64_t after, next;      /* history ids: what the page was asked after, and where it ends */
    size_t storing;
    size_t pages;
    int64_t rows; /* stored */
};

struct rotation {                             /* of our own key */
    struct loop_timer *timer;                 /* for the drain to become quiet */
    void (*quiet)(void *argument, bool idle); /* NULL: nobody waits */
    void *quiet_argument;
    bool asking;                  /* the broker is: what is signed by the old key now may come too late */
    struct rotation_asked *asked; /* NULL: no answer is awaited */
};

struct delivery {
    struct loop *loop;
    struct outbox *outbox;
    struct inbox *inbox;
    struct event_sink events;
    const struct keypair *keys;
    const struct key_archive *archive; /* NULL none */
    int64_t key_grace_ms;
    int64_t newest_sent_at; /* of what was sealed here */
    char *slug, *mesh_id, *member_id;
    int64_t max_age_hours, max_age_override_hours;

    struct trust *trust;
    struct link *link;
    struct drain *drain;
    struct box_cache *boxes;
    struct blinding_key *blinding;

    bool open;     /* the link is */
    bool was_open; /* ever: its features are known */
    bool freed;
    unsigned outstanding; /* database answers that will still come: the memory stays until then */

    /* stopping */
    bool stopping; /* delivery_stop was called */
    bool link_stopping, link_stopped, stop_is_told;
    struct loop_timer *stop_timer;
    void (*stopped)(void *argument);
    void *stopped_argument;

    struct receiving receiving;
    struct history history;
    struct acks acks;
    struct receipts *receipts; /* receipts.c */
    struct directory directory;
    struct profile profile;
    struct expiry expiry;
    struct rotation rotation;
    bool fork_told;
};

/* delivery.c */
void delivery_hold(struct delivery *delivery);
void delivery_let_go(struct delivery *delivery); /* may free */
void delivery_publish(struct delivery *delivery, const char *type, json_t *data /* given */, int64_t inbox_seq);
void delivery_publish_system(struct delivery *delivery, const char *event, json_t *data /* given; NULL none */);
void delivery_count(const struct delivery *delivery, enum delivery_figure figure, const char *label /* NULL, or a literal */);
int delivery_send_json(struct delivery *delivery, json_t *frame /* given */); /* -1 not open */
void delivery_check_stopped(struct delivery *delivery);
int64_t delivery_now_ms(const struct delivery *delivery); /* wall clock, corrected by the skew that the broker showed us */
/* The rows' `mesh` column: the mesh's id, since a slug may be another mesh's tomorrow. */
const char *delivery_row_mesh(const struct delivery *delivery);
json_t *delivery_keep_json(const json_t *value) MUST_CHECK; /* a reference to what is only borrowed; never changed */

/* receive.c */
void receive_init(struct delivery *delivery);
void receive_release(struct delivery *delivery);
void receive_push(struct delivery *delivery, const json_t *frame);
void receive_opened(struct delivery *delivery);         /* holds pushes until the members are listed */
void receive_members_listed(struct delivery *delivery); /* or cannot be */
void receive_lost(struct delivery *delivery);

/* One item of the broker's history: judged and stored like a push, with no event, hook or receipt; history_settled is called once, maybe before it returns. */
void receive_history(struct delivery *delivery, const json_t *frame, const struct frame_push *push);

/* history.c */
void history_init(struct delivery *delivery);
void history_release(struct delivery *delivery);
void history_continue(struct delivery *delivery); /* the members are known: asks, when something is to be asked */
void history_lost(struct delivery *delivery);     /* the link is */
void history_settled(struct delivery *delivery, int status, bool is_new);
const char *history_state(const struct delivery *delivery); /* "waiting", "running", "unavailable"; NULL: nothing is to be rebuilt */

/* acks.c */
void acks_init(struct delivery *delivery);
void acks_release(struct delivery *delivery);
void acks_stored(struct delivery *delivery, const char *client_message_id, const char *broker_message_id, const char *sender_pubkey,
                 const struct sha256 *content);
void acks_quarantined(struct delivery *delivery, const char *client_message_id, const char *broker_message_id);
void acks_receipt(struct delivery *delivery, const char *broker_message_id, const char *by, const char *state);
void acks_opened(struct delivery *delivery); /* sends what waited */
void acks_lost(struct delivery *delivery);
void acks_resume(struct delivery *delivery); /* a rotation that held them was refused */

/* receipts.c */
void receipts_init(struct delivery *delivery);
void receipts_release(struct delivery *delivery);
void receipts_lost(struct delivery *delivery); /* the link is */
void receipts_accepted(struct delivery *delivery, const char *client_message_id, const char *broker_message_id, const char *destination_ref,
                       const struct sha256 *content);
void receipts_receive(struct delivery *delivery, const json_t *frame);

/* directory.c */
void directory_init(struct delivery *delivery);
void directory_release(struct delivery *delivery);
void directory_opened(struct delivery *delivery);
void directory_lost(struct delivery *delivery);
void directory_list_members(struct delivery *delivery);
/* A system push: presence and membership. True when it was one of those. */
bool directory_event(struct delivery *delivery, const char *event, const json_t *event_data);

/* rotation.c */
void rotation_init(struct delivery *delivery);
void rotation_release(struct delivery *delivery);
void rotation_drain_idle(struct delivery *delivery);

/* profile.c */
void profile_init(struct delivery *delivery);
void profile_release(struct delivery *delivery);
void profile_opened(struct delivery *delivery);
void profile_lost(struct delivery *delivery);

/* expiry.c: maximum age (30-delivery) */
void expiry_init(struct delivery *delivery);
void expiry_release(struct delivery *delivery);
int64_t expiry_max_age_ms(const struct delivery *delivery);
/* 0, or the hours that the override may not pass: outbox_max_age_above_dedupe_window. */
int64_t expiry_override_limit(const struct delivery *delivery, int64_t dedupe_retention_days);
void expiry_run(struct delivery *delivery);
void expiry_run_and_open(struct delivery *delivery); /* and then lets the drain send */
void expiry_row_inserted(struct delivery *delivery);

#endif
