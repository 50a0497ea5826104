/* Requests on a link: `_reqId`, one answer each, or NULL after 15 s or with the link (20-ipc routes wait for them, so none may be forgotten). */
#include "link/link_internal.h"

#include "json/json.h"
#include "util/clock.h"
#include "util/memory.h"
#include "util/text.h"

void requests_new_id(struct link *link, char ret_id[24])
{
    (void)snprintf(ret_id, 24, "r%" PRIu64, ++link->request_count);
}

static struct link_request *take_first(struct link *link)
{
    struct link_request *request = link->requests;
    link->requests = request->next;
    if (link->requests == NULL) {
        link->requests_end = &link->requests;
    }
    return request;
}

/* Out of the list first: an answer's callback may ask again, or lose the link. */
static void finish(struct link_request *request, const json_t *answer)
{
    request->answer(request->argument, answer);
    free(request);
}

int link_request(struct link *link, json_t *request, void (*answer)(void *argument, const json_t *answer), void *argument)
{
    if (link->phase != PHASE_OPEN) {
        return -1;
    }
    struct link_request *entry = memory_zalloc(sizeof(*entry));
    requests_new_id(link, entry->id);
    json_t *frame = json_copy(request); /* the caller's stays as it is */
    json_put_string(frame, "_reqId", entry->id);
    size_t size = 0;
    char *text = json_to_string(frame, &size);
    json_decref(frame);
    int result = link_write(link, text, size);
    free(text);
    if (result < 0) {
        free(entry);
        return -1;
    }
    entry->answer = answer;
    entry->argument = argument;
    entry->deadline_ms = clock_monotonic_ms() + link->times.request;
    *link->requests_end = entry;
    link->requests_end = &entry->next;
    if (!loop_timer_is_running(link->request_timer)) {
        loop_timer_start(link->request_timer, link->times.request);
    }
    return 0;
}

bool requests_answer(struct link *link, const char *type, const json_t *frame)
{
    (void)type;
    const char *id = json_string_value(json_object_get(frame, "_reqId"));
    if (id == NULL) {
        return false;
    }
    for (struct link_request **place = &link->requests; *place != NULL; place = &(*place)->next) {
        struct link_request *request = *place;
        if (string_equal(request->id, id)) {
            *place = request->next;
            if (link->requests_end == &request->next) {
                link->requests_end = place;
            }
            finish(request, frame);
            return true;
        }
    }
    return true; /* the answer to a request that timed out: nobody else's */
}

void requests_lose(struct link *link)
{
    struct link_request *lost = link->requests;
    link->requests = NULL;
    link->requests_end = &link->requests;
    loop_timer_stop(link->request_timer);
    while (lost != NULL) {
        struct link_request *next = lost->next;
        finish(lost, NULL);
        lost = next;
    }
}

void requests_expire(void *argument)
{
    struct link *link = argument;
    int64_t now_ms = clock_monotonic_ms();
    while (link->requests != NULL && link->requests->deadline_ms <= now_ms) {
        finish(take_first(link), NULL);
    }
    if (link->requests != NULL && !loop_timer_is_running(link->request_timer)) {
        loop_timer_start(link->request_timer, link->requests->deadline_ms - clock_monotonic_ms());
    }
}
