/* Drain (30-delivery): takes due rows of one mesh out of the outbox, in order, keeps at most a window of them in the air, and writes what became of them back. Knows neither
 * sockets nor keys: sealing and writing are callbacks, so that a test is its broker. Loop thread.
 *
 * Order. A lane is (destination, priority). Each priority has a cursor over pending rows; a row whose lane waits is skipped, the lane remembers from where, and when it is
 * due and nothing of it is in the air any more, its rows from there are fetched before the cursor's. So nothing overtakes inside a lane, and a lane that waits costs
 * the others nothing.
 *
 * Marks. A row is marked `inflight` before its frame is written. A row that comes from memory right after its accept is written as soon as the mark is queued; rows that were read
 * from the disk are written when the mark is known to have happened, because an operator may have retired them meanwhile. */
#ifndef DELIVERY_DRAIN_H
#define DELIVERY_DRAIN_H

#include "net/loop.h"
#include "outbox/outbox.h"
#include "proto/frames.h"

struct drain;

struct drain_options {
    struct loop *loop;
    struct outbox *outbox;
    const char *row_mesh;  /* the rows' `mesh` */
    const char *mesh_slug; /* for the log */
    size_t window;
    int64_t backoff_initial_ms, backoff_max_ms;
    int jitter_pct;
    int64_t silence_ms; /* no answer for this long: silent() */

    void *argument;
    /* The frame of a row, and the hash that receipts of it will carry. -ERROR_BUSY: not now, its lane waits. Otherwise negative: it can never be sent; the row becomes dead with
     * error->message. */
    int (*seal)(void *argument, const struct outbox_row *row, struct buffer *ret_frame, struct sha256 *ret_content, struct error *error);
    int (*write)(void *argument, const char *text, size_t size); /* -1: the link is gone, drain_lost follows */
    size_t (*backlog)(void *argument);                           /* bytes that the link has not yet got rid of */
    void (*silent)(void *argument);                              /* answers stopped coming: reset the link (drain_lost follows) */
    /* A row that the broker refused for now was given up here (dropped, too old), and the broker, who cannot know, holds back what follows it (70-broker): reset the link. NULL: nothing. */
    void (*given_up)(void *argument);
    void (*aged)(void *argument); /* a row past the maximum age was met: expire */
    /* The broker has it: content is the hash that seal gave. May be NULL. */
    void (*accepted)(void *argument, const char *client_message_id, const char *broker_message_id, const char *destination_ref,
                     const struct sha256 *content);
    void (*duplicate)(void *argument, bool history_pruned); /* and had it before; may have its message no longer. May be NULL. */
    /* NULL: outbox_fetch_pending. A test that decides when a page arrives puts itself between. */
    void (*fetch)(struct outbox *outbox, const struct outbox_fetch *fetch,
                  void (*done)(void *argument, int status, struct outbox_row **rows, size_t count), void *argument);
    void (*idle)(void *argument); /* drain_is_idle became true; may be NULL; must not free the drain */
};

/* Strings are copied. */
struct drain *drain_new(const struct drain_options *options) MUST_CHECK;
void drain_free(struct drain *drain); /* takes NULL; what still comes back from the database finds it safely gone */

/* The link is open: send. Rows older than max_age_ms are left for the expiry. page_rows: how many rows are read at once. */
void drain_open(struct drain *drain, int64_t max_age_ms, size_t page_rows);
/* The link is lost: what is in the air goes back to `pending` at once, and the cursors to the start when that has happened. */
void drain_lost(struct drain *drain);
/* As in the options, from the next row on; a lane that waits already waits as long as it was told. */
void drain_tune(struct drain *drain, size_t window, int64_t backoff_initial_ms, int64_t backoff_max_ms, int jitter_pct);
void drain_stop(struct drain *drain);               /* no new sends; answers still count */
void drain_pause(struct drain *drain, bool paused); /* the same, and back */
bool drain_is_idle(const struct drain *drain);      /* nothing in the air, nothing unwritten to the database */

void drain_inserted(struct drain *drain, const struct outbox_row *row);
void drain_retired(struct drain *drain, int64_t seq);
void drain_answer(struct drain *drain, const struct frame_ack *ack);
void drain_writable(struct drain *drain); /* the link's backlog is gone */

struct drain_figures {
    size_t in_air; /* rows that await an answer or are about to be sent */
    int64_t accepted, duplicates, history_pruned, refused, retried, late;
};
const struct drain_figures *drain_figures(const struct drain *drain);

#endif
