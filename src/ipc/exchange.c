/* Owns an exchange's life, how answers and errors are printed, and how parameters are read. Must not know any route. */
#include "ipc/exchange.h"

#include <stdarg.h>

#include "ipc/internal.h"
#include "json/json.h"
#include "trust/trust.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

/* What the scratch buffer may keep between answers. */
enum { SCRATCH_KEPT = 64 * 1024, DETAIL_SIZE = 512 };

struct exchange *exchange_new(struct ipc *ipc, struct http_request *http)
{
    struct exchange *exchange = memory_zalloc(sizeof(*exchange));
    exchange->ipc = ipc;
    exchange->http = http;
    exchange->rest = "";
    exchange->next = ipc->exchanges;
    if (ipc->exchanges != NULL)
        ipc->exchanges->previous = exchange;
    ipc->exchanges = exchange;
    if (http != NULL)
        http_set_user(http, exchange);
    return exchange;
}

void exchange_drop(struct exchange *exchange)
{
    if (exchange->previous != NULL)
        exchange->previous->next = exchange->next;
    else
        exchange->ipc->exchanges = exchange->next;
    if (exchange->next != NULL)
        exchange->next->previous = exchange->previous;
    json_decref(exchange->body);
    capability_let_go(exchange->capability);
    free(exchange);
}

void exchange_answer(struct exchange *exchange, int status, const char *content_type, const void *body, size_t size)
{
    struct http_request *http = exchange->http;
    if (http != NULL) {
        ipc_metrics_request(exchange->ipc->metrics, exchange->route, http_transport(http), status,
                            clock_monotonic_us() - http_started_us(http));
        http_set_user(http, NULL);
        http_respond(http, status, content_type, body, size);
    }
    if (exchange->answered != NULL)
        exchange->answered(exchange->answered_argument, status, body, size);
    exchange_drop(exchange);
}

void exchange_answer_json(struct exchange *exchange, int status, json_t *value)
{
    struct buffer *scratch = &exchange->ipc->scratch;
    buffer_reset(scratch);
    if (exchange->http != NULL || exchange->answered != NULL)
        json_print(value, scratch);
    json_decref(value);
    exchange_answer(exchange, status, NULL, scratch->data, scratch->length);
    if (scratch->capacity > SCRATCH_KEPT) {
        buffer_release(scratch);
        buffer_init(scratch, BUFFER_UNLIMITED);
    }
}

static void ATTRIBUTE_PRINTF(5, 0)
    fail(struct exchange *exchange, int status, const char *code, json_t *more, const char *format, va_list arguments)
{
    char detail[DETAIL_SIZE];
    (void)vsnprintf(detail, sizeof(detail), format, arguments);
    if (detail[0] >= 'a' && detail[0] <= 'z')
        detail[0] = (char)(detail[0] - ('a' - 'A')); /* low rooms' sentences begin in small letters, to stand after a prefix */
    json_t *value = json_new_object();
    json_put_string(value, "error", code);
    if (more != NULL && json_object_update(value, more) != 0)
        memory_exhausted();
    json_decref(more);
    /* A name that was cut in the middle of a character must not make the sentence vanish. */
    char *printable = text_printable(detail, strlen(detail));
    json_put_string(value, "detail", utf8_is_valid(printable, strlen(printable)) ? printable : code);
    free(printable);
    exchange_answer_json(exchange, status, value);
}

void exchange_fail(struct exchange *exchange, int status, const char *code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fail(exchange, status, code, NULL, format, arguments);
    va_end(arguments);
}

void exchange_fail_with(struct exchange *exchange, int status, const char *code, json_t *more, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fail(exchange, status, code, more, format, arguments);
    va_end(arguments);
}

void exchange_fail_shape(struct exchange *exchange, const struct error *error)
{
    exchange_fail(exchange, 400, "invalid_request", "%s", error->message);
}

void exchange_fail_store(struct exchange *exchange, int status)
{
    if (status == -ERROR_FULL) {
        exchange_fail(exchange, 507, "insufficient_storage",
                      "The disk or the outbox is full and nothing was stored; make room and try again.");
        return;
    }
    log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("route", exchange->route->path),
              LOG_TEXT("error", error_code_name((enum error_code)(-status))), LOG_END);
    exchange_fail(exchange, 500, "internal_error", "The database did not answer as it must; the daemon's log says more.");
}

const char *exchange_header(const struct exchange *exchange, const char *name)
{
    return exchange->http == NULL ? NULL : http_header(exchange->http, name);
}

static const char *query(const struct exchange *exchange, const char *name)
{
    return exchange->http == NULL ? NULL : http_query(exchange->http, name);
}

int exchange_query_integer(const struct exchange *exchange, const char *name, int64_t minimum, int64_t maximum, int64_t *ret_value,
                           struct error *error)
{
    const char *text = query(exchange, name);
    if (text == NULL)
        return 0;
    int64_t value;
    if (parse_int64(text, &value) != 0 || value < minimum || value > maximum)
        return error_set(error, ERROR_INVALID, "Parameter '%s' must be a whole number from %" PRId64 " to %" PRId64 ".", name, minimum,
                         maximum);
    *ret_value = value;
    return 0;
}

int exchange_query_bool(const struct exchange *exchange, const char *name, bool *ret_value, struct error *error)
{
    const char *text = query(exchange, name);
    if (text == NULL)
        return 0;
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        return error_set(error, ERROR_INVALID, "Parameter '%s' must be true or false.", name);
    *ret_value = strcmp(text, "true") == 0;
    return 0;
}

int exchange_mesh_slug(const struct exchange *exchange, const char **ret_slug, struct error *error)
{
    const char *parameter = query(exchange, "mesh");
    const char *field = NULL;
    if (exchange->body != NULL && json_read_string(exchange->body, "mesh", JSON_OPTIONAL, &field, error) != 0)
        return -(int)error->code;
    if (parameter != NULL && field != NULL && strcmp(parameter, field) != 0)
        return error_set(error, ERROR_INVALID, "Field 'mesh' and parameter 'mesh' name two meshes; give one.");
    *ret_slug = field != NULL ? field : parameter;
    return 0;
}

json_t *exchange_candidates(const struct trust_destination *destination)
{
    json_t *more = json_new_object(), *list = json_new_array();
    for (size_t i = 0; i < destination->candidate_count; i++) {
        json_t *candidate = json_new_object();
        json_put_string(candidate, "pubkey", destination->candidates[i]);
        json_put_string(candidate, "name", destination->candidate_names[i]);
        if (json_array_append_new(list, candidate) != 0)
            memory_exhausted();
    }
    json_put(more, "candidates", list);
    return more;
}
