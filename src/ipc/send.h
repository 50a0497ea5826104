/* What the files of POST /v1/send share: a send on its way, and why a new row would be refused. */
#ifndef IPC_SEND_H
#define IPC_SEND_H

#include "crypto/fingerprint.h"
#include "ipc/internal.h"
#include "ipc/send_request.h"
#include "trust/trust.h"
#include "util/ids.h"

struct send_refusal {
    int status; /* 0: none */
    const char *code;
    json_t *more; /* further fields; NULL */
    char *detail; /* heap */
};

struct send { /* small: one is made and freed for each request of the measured path */
    struct exchange *exchange;
    struct send_request request;
    int64_t wait_ms; /* -1: not asked for */
    bool placed;     /* a mesh is chosen */
    char slug[LIMIT_NAME + 1], row_mesh[LIMIT_NAME + 1];
    bool resolved; /* kind and ref are what `to` means; else kind is "dm" and ref empty */
    const char *kind;
    char ref[sizeof(((struct trust_destination *)NULL)->ref)];
    char name[LIMIT_DISPLAY_NAME_SIZE]; /* the member's; "" unknown */
    struct fingerprint fingerprint;
    struct send_refusal refusal; /* why a new row is refused; an id that has a row is answered all the same */
    char outbox_id[ULID_SIZE];
    const char *status_word; /* while waiting: what is known so far */
    bool duplicate;
    struct wait *wait;
    struct ipc_capability *replying; /* whose reply:event was taken for it, held: an exchange is gone before its send; NULL */
    bool stands;                     /* it has a row */
    bool judged;                     /* pre-send was asked, and let it pass */
    void *question;                  /* that pre-send has not answered; NULL none */
    struct text message;             /* to be stored: the request's, or what pre-send put in its place */
    char *replaced;                  /* the memory of the latter; NULL */
    struct buffer meta;              /* to be stored; empty: none */
};
void send_free(struct send *send);

/* send_place.c: chooses the mesh and resolves `to`; refusal says what stands in the way of a new row. NULL: no mesh. */
struct delivery *send_place(struct send *send) MUST_CHECK;
void send_refuse(struct send *send, int status, const char *code, json_t *more /* taken over */, const char *format, ...)
    ATTRIBUTE_PRINTF(5, 6);
/* The best reading of a request against the row that its id has: whether `to` can mean that row's destination, and its `mesh` that row's mesh. */
bool send_means_row(const struct send *send, const struct outbox_row *row) MUST_CHECK;

/* send_guard.c: pre-send is asked about a new row; then submit() is called again, or the send refused. */
bool send_needs_guard(const struct send *send);
void send_ask_guard(struct send *send);
/* send.c: what was placed and judged goes to the outbox. delivery NULL: only the id is looked up. */
void send_submit(struct send *send, const struct delivery *delivery);

/* send_answer.c: each answers the exchange and frees the send. */
struct send_facts {              /* of the row; strings borrowed */
    const char *destination_ref; /* NULL: the send's own */
    const char *broker_message_id, *reason;
    int64_t history_id;
    const struct fingerprint *fingerprint;
};
void send_answer_accepted(struct send *send, int status, const char *word, const struct send_facts *facts);
void send_answer_conflict(struct send *send, const struct accept_cell *cell, enum outbox_state state, const struct send_facts *facts);
void send_answer_failed(struct send *send, const char *reason);
void send_answer_refused(struct send *send);
/* Under mesh "" when none was chosen. */
void send_count_refused(const struct send *send);

#endif
