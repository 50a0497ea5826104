/* Owns who waits for which row. At most as many as requests may be in flight, so a list will do. Must not know what is answered. */
#include "ipc/waits.h"

#include "util/memory.h"

struct wait {
    struct waits *waits;
    struct wait *previous, *next;
    char *client_message_id;
    struct loop_timer *timer;
    void (*over)(void *argument, const struct wait_result *result);
    void *argument;
};

struct waits {
    struct loop *loop;
    struct wait *first;
    size_t count;
};

struct waits *waits_new(struct loop *loop)
{
    struct waits *waits = memory_zalloc(sizeof(*waits));
    waits->loop = loop;
    return waits;
}

void waits_cancel(struct waits *waits, struct wait *wait)
{
    if (wait->previous != NULL)
        wait->previous->next = wait->next;
    else
        waits->first = wait->next;
    if (wait->next != NULL)
        wait->next->previous = wait->previous;
    waits->count--;
    loop_timer_free(wait->timer);
    free(wait->client_message_id);
    free(wait);
}

void waits_free(struct waits *waits)
{
    if (waits == NULL)
        return;
    while (waits->first != NULL)
        waits_cancel(waits, waits->first);
    free(waits);
}

static void end(struct wait *wait, const struct wait_result *result)
{
    void (*over)(void *, const struct wait_result *) = wait->over;
    void *argument = wait->argument;
    waits_cancel(wait->waits, wait);
    over(argument, result);
}

static void time_is_up(void *argument)
{
    end(argument, &(struct wait_result){ .finished = false });
}

struct wait *waits_add(struct waits *waits, const char *client_message_id, int64_t timeout_ms,
                       void (*over)(void *argument, const struct wait_result *result), void *argument)
{
    struct wait *wait = memory_zalloc(sizeof(*wait));
    wait->waits = waits;
    wait->client_message_id = memory_strdup(client_message_id);
    wait->over = over;
    wait->argument = argument;
    wait->timer = loop_timer_new(waits->loop, time_is_up, wait);
    loop_timer_start(wait->timer, timeout_ms);
    wait->next = waits->first;
    if (waits->first != NULL)
        waits->first->previous = wait;
    waits->first = wait;
    waits->count++;
    return wait;
}

static struct wait *find(const struct waits *waits, const char *client_message_id)
{
    for (struct wait *wait = waits->first; wait != NULL; wait = wait->next)
        if (strcmp(wait->client_message_id, client_message_id) == 0)
            return wait;
    return NULL;
}

void waits_finished(struct waits *waits, const char *client_message_id, const struct wait_result *result)
{
    struct wait *wait;
    while ((wait = find(waits, client_message_id)) != NULL)
        end(wait, result);
}

void waits_end_all(struct waits *waits)
{
    while (waits->first != NULL)
        end(waits->first, &(struct wait_result){ .finished = false });
}

size_t waits_count(const struct waits *waits)
{
    return waits->count;
}
