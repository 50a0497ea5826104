/* Owns GET /v1/metrics: asks the outbox's reader what only it can tell, and answers without that when it does not come in time: a disk that hangs must be seen. */
#include "ipc/internal.h"
#include "ipc/metrics_internal.h"
#include "util/memory.h"

enum { PATIENCE_MS = 2000 };

/* Freed when the answer was given and the reader is done, whichever is later. */
struct scrape {
    struct ipc *ipc;
    struct exchange *exchange; /* NULL: answered */
    struct loop_timer *timer;
};

static void answer(struct scrape *scrape, const struct outbox_backlog *backlog)
{
    struct exchange *exchange = scrape->exchange;
    struct buffer text;
    scrape->exchange = NULL;
    exchange->on_gone = NULL;
    loop_timer_stop(scrape->timer);
    buffer_init(&text, BUFFER_UNLIMITED);
    ipc_metrics_print(scrape->ipc, backlog, &text);
    exchange_answer(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", text.data, text.length);
    buffer_release(&text);
}

static void on_late(void *argument)
{
    struct scrape *scrape = argument;
    if (scrape->exchange != NULL)
        answer(scrape, NULL);
}

static void on_caller_gone(struct exchange *exchange)
{
    struct scrape *scrape = exchange->state;
    scrape->exchange = NULL;
    loop_timer_stop(scrape->timer);
    exchange_drop(exchange);
}

static void on_backlog(void *argument, const struct outbox_backlog *backlog)
{
    struct scrape *scrape = argument;
    if (scrape->exchange != NULL)
        answer(scrape, backlog);
    loop_timer_free(scrape->timer);
    free(scrape);
}

void route_metrics(struct exchange *exchange)
{
    struct ipc *ipc = exchange->ipc;
    struct scrape *scrape = memory_zalloc(sizeof(*scrape));
    scrape->ipc = ipc;
    scrape->exchange = exchange;
    scrape->timer = loop_timer_new(ipc->loop, on_late, scrape);
    exchange->state = scrape;
    exchange->on_gone = on_caller_gone;
    const char **meshes = memory_calloc(ipc->mesh_count + 1, sizeof(*meshes));
    for (size_t i = 0; i < ipc->mesh_count; i++)
        meshes[i] = ipc_row_mesh(&ipc->meshes[i]);
    loop_timer_start(scrape->timer, PATIENCE_MS);
    outbox_read_backlog(ipc->outbox, ipc->directory, meshes, ipc->mesh_count, on_backlog, scrape);
    free(meshes);
}
