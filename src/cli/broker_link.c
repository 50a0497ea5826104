/* The link of one command. Must not know what is sent over it. */
#include "cli/broker_link.h"

#include "cli/output.h"
#include "json/json.h"
#include "net/loop.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

enum { CLOSE_MS = 500, PAGES_MAXIMUM = 1000 };

struct broker_link {
    struct loop *loop;
    struct link *link;
    struct loop_timer *timer;
    bool done; /* what the current call waits for has happened */
    bool timed_out, stopped;
    enum link_state state;
    char reason[256];
    const char *awaited_id; /* of the ack */
    json_t *answer;
};

static void finish(struct broker_link *connection)
{
    connection->done = true;
    loop_stop(connection->loop);
}

static void on_timer(void *argument)
{
    struct broker_link *connection = argument;
    connection->timed_out = true;
    finish(connection);
}

static void on_state(void *argument, struct link *link, enum link_state state, const char *reason)
{
    struct broker_link *connection = argument;
    (void)link;
    connection->state = state;
    (void)snprintf(connection->reason, sizeof connection->reason, "%s", reason);
    if (state == LINK_OPEN || state == LINK_CLOSED || state == LINK_REFUSED) {
        finish(connection);
    }
}

static void on_frame(void *argument, struct link *link, const char *type, const json_t *frame)
{
    struct broker_link *connection = argument;
    (void)link;
    if (connection->awaited_id == NULL || connection->answer != NULL) {
        return;
    }
    bool ours = string_equal(answer_text(frame, "id"), connection->awaited_id);
    if (ours && (string_equal(type, "ack") || string_equal(type, "error"))) {
        connection->answer = json_deep_copy(frame);
        finish(connection);
    }
}

static void on_stopped(void *argument, struct link *link)
{
    struct broker_link *connection = argument;
    (void)link;
    connection->stopped = true;
    finish(connection);
}

static void on_answer(void *argument, const json_t *answer)
{
    struct broker_link *connection = argument;
    connection->answer = answer == NULL ? NULL : json_deep_copy(answer);
    finish(connection);
}

/* Runs the loop until something finishes it or the time is over. */
static void wait_done(struct broker_link *connection, int64_t timeout_ms)
{
    connection->timed_out = false;
    loop_timer_start(connection->timer, timeout_ms);
    while (!connection->done) {
        loop_run(connection->loop);
    }
    loop_timer_stop(connection->timer);
}

static int state_error(const struct broker_link *connection, struct error *error)
{
    if (link_is_revoked(connection->link)) {
        return error_set(error, ERROR_DENIED, "this member was removed from the mesh (revoked)");
    }
    static const char *const DENIALS[] = { "bad_signature", "timestamp_skew", "key_rotated",   "unauthorized",
                                           "unauthorised",  "revoked",        "unknown_member" };
    for (size_t i = 0; i < ARRAY_LENGTH(DENIALS); i++) {
        if (strstr(connection->reason, DENIALS[i]) != NULL) {
            return error_set(error, ERROR_DENIED, "the broker refused this member: %s", connection->reason);
        }
    }
    if (connection->state == LINK_REFUSED) {
        return error_set(error, ERROR_CONFLICT, "the link was refused: %s", connection->reason);
    }
    return error_set(error, ERROR_UNREACHABLE, "no connection to the broker: %s", connection->reason);
}

int broker_link_open(const struct config_mesh *mesh, const struct keypair *keys, const struct settings *settings, int64_t timeout_ms,
                     struct broker_link **ret_link, struct error *error)
{
    struct broker_link *connection = memory_calloc(1, sizeof *connection);
    char session_id[UUID_SIZE];
    size_t require_count;
    const char *const *require = settings_list(settings, "features.require", &require_count);
    int status = loop_new(&connection->loop, error);

    if (status != 0) {
        goto out;
    }
    /* Its own session: a hello with the daemon's would replace the daemon's connection at a broker that does not know send-only ones. */
    uuid_generate(session_id);
    struct link_options options = {
        .mesh_slug = mesh->slug,
        .mesh_id = mesh->mesh_id,
        .member_id = mesh->member_id,
        .broker_url = mesh->broker_url,
        .session_id = session_id,
        .keys = keys,
        .channel = "claudemesh-cli",
        .peer_type = "human",
        .receive = false,
        .require = require,
        .require_count = require_count,
        .ca_file = settings_text(settings, "broker.ca_file"),
        .allow_insecure = settings_bool(settings, "broker.allow_insecure"),
        .reconnect_initial_ms = 500,
        .reconnect_max_ms = 30000,
        .once = true,
    };
    struct link_callbacks callbacks = { .argument = connection, .state = on_state, .frame = on_frame, .stopped = on_stopped };
    connection->timer = loop_timer_new(connection->loop, on_timer, connection);
    status = link_new(connection->loop, &options, &callbacks, &connection->link, error);
    if (status != 0) {
        goto out;
    }
    link_start(connection->link);
    wait_done(connection, timeout_ms);
    if (connection->state == LINK_OPEN) {
        *ret_link = connection;
        return 0;
    }
    status = connection->timed_out ? error_set(error, ERROR_TIMEOUT, "the broker did not answer in %d s", (int)(timeout_ms / 1000))
                                   : state_error(connection, error);
out:
    broker_link_close(connection);
    return status;
}

void broker_link_close(struct broker_link *connection)
{
    if (connection == NULL) {
        return;
    }
    if (connection->link != NULL) {
        connection->done = false;
        link_stop(connection->link);
        if (!connection->stopped) {
            wait_done(connection, CLOSE_MS);
        }
    }
    link_free(connection->link);
    loop_timer_free(connection->timer);
    loop_free(connection->loop);
    json_decref(connection->answer);
    free(connection);
}

int64_t broker_link_clock_skew_ms(const struct broker_link *link)
{
    return link_clock_skew_ms(link->link);
}

const struct feature_set *broker_link_features(const struct broker_link *connection)
{
    return link_features(connection->link);
}

static int take_answer(struct broker_link *connection, json_t **ret_answer, struct error *error)
{
    json_t *answer = connection->answer;
    connection->answer = NULL;
    if (answer != NULL) {
        *ret_answer = answer;
        return 0;
    }
    if (connection->state != LINK_OPEN) {
        return state_error(connection, error);
    }
    return error_set(error, ERROR_TIMEOUT, "the broker did not answer in time");
}

int broker_link_request(struct broker_link *connection, json_t *request, int64_t timeout_ms, json_t **ret_answer, struct error *error)
{
    connection->done = false;
    if (link_request(connection->link, request, on_answer, connection) != 0) {
        return state_error(connection, error);
    }
    wait_done(connection, timeout_ms);
    return take_answer(connection, ret_answer, error);
}

static int list_page(struct broker_link *connection, int64_t after, json_t **ret_page, struct error *error)
{
    json_t *request = json_new_object();
    json_put_string(request, "type", "list_members");
    if (after >= 0) {
        json_put_integer(request, "after", after);
    }
    int status = broker_link_request(connection, request, BROKER_LINK_ANSWER_MS, ret_page, error);
    json_decref(request);
    return status == 0 ? broker_answer_check(*ret_page, error) : status;
}

/* The arrays of `page` are appended to those of `list`. */
static void add_page(json_t *list, json_t *page)
{
    const char *name;
    json_t *value;
    json_object_foreach(page, name, value)
    {
        json_t *known = json_object_get(list, name);
        if (json_is_array(known) && json_is_array(value)) {
            (void)json_array_extend(known, value);
        } else if (known == NULL) {
            json_put(list, name, json_incref(value));
        }
    }
}

int broker_link_list_members(struct broker_link *connection, json_t **ret_list, struct error *error)
{
    json_t *list = json_new_object();
    int64_t after = -1;
    for (int pages = 0; pages < PAGES_MAXIMUM; pages++) {
        json_t *page = NULL;
        int status = list_page(connection, after, &page, error);
        int64_t next = status == 0 ? answer_integer(page, "next", -1) : -1;
        if (status == 0) {
            add_page(list, page);
        }
        json_decref(page);
        if (status != 0) {
            json_decref(list);
            return status;
        }
        if (next <= after) {
            break;
        }
        after = next;
    }
    *ret_list = list;
    return 0;
}

int broker_link_send(struct broker_link *connection, const char *frame, size_t size, const char *client_message_id, int64_t timeout_ms,
                     json_t **ret_ack, struct error *error)
{
    connection->done = false;
    connection->awaited_id = client_message_id;
    if (link_send(connection->link, frame, size) != 0) {
        return state_error(connection, error);
    }
    wait_done(connection, timeout_ms);
    connection->awaited_id = NULL;
    return take_answer(connection, ret_ack, error);
}

int broker_answer_check(const json_t *answer, struct error *error)
{
    const char *code = answer_text(answer, "code");
    const char *message = answer_text(answer, "message");
    if (!string_equal(answer_text(answer, "type"), "error")) {
        return 0;
    }
    bool denied = strstr(code, "unauthor") != NULL || strstr(code, "forbidden") != NULL || strstr(code, "signature") != NULL ||
                  strstr(code, "denied") != NULL || strstr(code, "not_allowed") != NULL;
    return error_set(error, denied ? ERROR_DENIED : ERROR_INVALID, "the broker refused it: %s%s%s",
                     message[0] == '\0' ? "no reason given" : message, code[0] == '\0' ? "" : ", code ", code);
}

int broker_link_need(struct cli *cli, const struct config_mesh *mesh, const struct keypair *keys, const struct settings *settings,
                     struct broker_link **ret_link)
{
    struct error error = { 0 };
    if (broker_link_open(mesh, keys, settings, BROKER_LINK_OPEN_MS, ret_link, &error) == 0) {
        return EXIT_DONE;
    }
    return error.code == ERROR_CONFLICT ? cli_fail(cli, EXIT_LINK_REFUSED, "%s", error.message) : cli_fail_error(cli, &error);
}
