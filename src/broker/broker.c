/* Wires the broker: settings to figures, store, server, signals; runs until told to stop, and stops in order: no new connections, 1001 to those that are there, what is queued
 * committed. */
#include "broker/broker.h"

#include <signal.h>

#include "broker/confine.h"
#include "broker/handlers.h"
#include "broker/keeping.h"
#include "broker/session.h"
#include "broker/web.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "net/tls.h"
#include "privilege/privilege.h"
#include "util/clock.h"
#include "util/descriptors.h"
#include "util/file.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/notify.h"
#include "util/text.h"

enum { STOP_MS = 5000, TOKEN_BYTES = 32, TOKEN_FILE_MAXIMUM = 4096 };
static const char DEFAULT_LISTEN[] = "127.0.0.1:7900";
enum { EXIT_STATUS_DONE = 0, EXIT_STATUS_FAILED = 1, EXIT_STATUS_USAGE = 2 };

/* ---- settings ----------------------------------------------------------------------------------------------------------------------- */

/* What is not built yet is not offered; the operator's word goes over both. */
static int read_offer(struct broker *broker, const struct settings *settings, struct error *error)
{
    static const char *const NOT_YET[] = { "key_epoch", "files" };
    const char *text = settings_text(settings, "broker.offer_override");
    broker->offer_override = json_new_object();
    for (size_t i = 0; i < ARRAY_LENGTH(NOT_YET); i++)
        json_put_null(broker->offer_override, NOT_YET[i]);
    if (text[0] == '\0')
        return 0;
    json_t *override = NULL;
    int status = json_parse_strict(text, strlen(text), &override, error);
    if (status != 0)
        return error_prefix(error, "broker.offer_override");
    if (!json_is_object(override))
        status = error_set(error, ERROR_INVALID, "broker.offer_override must be a JSON object");
    else if (json_object_update(broker->offer_override, override) != 0)
        memory_exhausted();
    json_decref(override);
    return status;
}

static void add_text(char ***list, size_t *count, char *text /* given */)
{
    *list = memory_realloc(*list, (*count + 1) * sizeof(**list));
    (*list)[(*count)++] = text;
}

static int add_url(struct broker *broker, const char *url, struct error *error)
{
    struct url_parts parts;
    int status = url_parse(url, &parts, error);
    if (status != 0)
        return error_prefix(error, "broker.public_urls");
    if (strncasecmp(url, "ws", 2) != 0) { /* no client names it so at hello: nobody could come in */
        url_parts_release(&parts);
        return error_set(error, ERROR_INVALID, "broker.public_urls: '%s' does not begin with ws:// or wss://", url);
    }
    bool is_ipv6 = strchr(parts.host, ':') != NULL;
    const char *open = is_ipv6 ? "[" : "", *close = is_ipv6 ? "]" : "";
    add_text(&broker->public_urls, &broker->public_url_count, memory_strdup(url));
    add_text(&broker->authorities, &broker->authority_count, memory_printf("%s%s%s:%u", open, parts.host, close, (unsigned)parts.port));
    url_parts_release(&parts);
    return 0;
}

/* Without a setting: where it listens, and this host's own names. */
static int read_public_urls(struct broker *broker, const struct settings *settings, const char *host, struct error *error)
{
    size_t count;
    const char *const *urls = settings_list(settings, "broker.public_urls", &count);
    const char *hosts[] = { host, "localhost", "127.0.0.1" };
    int status = 0;
    for (size_t i = 0; i < count && status == 0; i++)
        status = add_url(broker, urls[i], error);
    for (size_t i = 0; i < ARRAY_LENGTH(hosts) && count == 0 && status == 0; i++) {
        bool is_ipv6 = strchr(hosts[i], ':') != NULL;
        char *url = memory_printf("%s://%s%s%s:%u/ws", broker->tls == NULL ? "ws" : "wss", is_ipv6 ? "[" : "", hosts[i], is_ipv6 ? "]" : "",
                                  (unsigned)broker->port);
        status = add_url(broker, url, error);
        free(url);
    }
    return status;
}

/* ---- where it listens, where it keeps ---------------------------------------------------------------------------------------------- */

/* "host:port" or "[v6]:port". host is heap. */
static int split_listen(const char *listen, char **ret_host, uint16_t *ret_port, struct error *error)
{
    const char *colon = strrchr(listen, ':');
    uint64_t port;
    if (colon == NULL || colon == listen || parse_uint64(colon + 1, &port) != 0 || port > UINT16_MAX)
        return error_set(error, ERROR_INVALID, "--listen takes HOST:PORT, not '%s'", listen);
    size_t length = (size_t)(colon - listen);
    if (listen[0] == '[' && length > 2 && listen[length - 1] == ']') {
        listen++;
        length -= 2;
    }
    if (memchr(listen, '[', length) != NULL || memchr(listen, ']', length) != NULL)
        return error_set(error, ERROR_INVALID, "--listen takes [ADDRESS]:PORT for IPv6");
    *ret_host = memory_strndup(listen, length);
    *ret_port = (uint16_t)port;
    return 0;
}

/* The directory of a "sqlite:PATH"; heap. NULL for other stores. */
static char *store_directory(const char *store)
{
    static const char SCHEME[] = "sqlite:";
    if (!string_has_prefix(store, SCHEME))
        return NULL;
    const char *path = store + sizeof SCHEME - 1, *slash = strrchr(path, '/');
    if (slash == NULL)
        return memory_strdup(".");
    return memory_strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/* Made (0600) when there is none (45-trust). */
static int read_admin_token(struct broker *broker, const char *path, struct error *error)
{
    struct buffer text;
    buffer_init(&text, TOKEN_FILE_MAXIMUM);
    int status = 0;
    if (!file_exists(path)) {
        uint8_t random[TOKEN_BYTES];
        random_bytes(random, sizeof random);
        (void)base64url_encode(random, sizeof random, &text);
        secret_wipe(random, sizeof random);
        buffer_append_byte(&text, '\n');
        status = file_write_atomic(path, 0600, text.data, text.length, error);
    } else {
        status = file_check_private(path, error);
        if (status == 0)
            status = file_read(path, &text, error);
    }
    if (status == 0) {
        size_t length = strcspn(text.data, " \t\r\n");
        if (length < 16)
            status = error_set(error, ERROR_INVALID, "%s holds no token of 16 characters or more", path);
        else
            broker->admin_token = memory_strndup(text.data, length);
    }
    buffer_wipe_release(&text);
    return status;
}

/* ---- running ------------------------------------------------------------------------------------------------------------------------------ */

static void measured(void *argument, enum store_measure op, int64_t duration_us)
{
    struct broker *broker = argument;
    histogram_add(&broker->metrics.store_seconds[op], duration_us);
}

static void stop_now(void *argument)
{
    struct broker *broker = argument;
    loop_stop(broker->loop);
}

static void begin_stop(void *argument, int signal_number)
{
    struct broker *broker = argument;
    if (broker->stopping)
        return;
    log_event(LOG_LEVEL_INFO, "broker_stopping", LOG_NUMBER("signal", signal_number), LOG_END);
    notify_stopping();
    broker->stopping = true;
    http_server_stop_accepting(broker->server);
    keeping_stop(broker);
    session_stop_all(broker);
    loop_timer_start(broker->stop_timer, broker->connection_count == 0 ? 0 : STOP_MS);
}

static void dump_state(void *argument, int signal_number)
{
    (void)signal_number;
    const struct broker *broker = argument;
    log_event(LOG_LEVEL_INFO, "state", LOG_NUMBER("connections", broker->connection_count), LOG_END);
}

static int listen_for_signals(struct broker *broker, struct error *error)
{
    static const int SIGNALS[] = { SIGTERM, SIGINT };
    for (size_t i = 0; i < ARRAY_LENGTH(SIGNALS); i++) {
        int status = loop_on_signal(broker->loop, SIGNALS[i], begin_stop, broker, error);
        if (status != 0)
            return status;
    }
    int status = loop_on_signal(broker->loop, SIGUSR1, dump_state, broker, error);
    return status != 0 ? status : loop_on_signal(broker->loop, SIGHUP, broker_reload, broker, error);
}

static void counted(struct store_request *base)
{
    struct store_count *count = CONTAINER_OF(base, struct store_count, request);
    struct broker *broker = base->argument;
    if (base->status == 0) {
        broker->mesh_count += count->meshes;
        broker->metrics.deliveries_waiting += count->deliveries;
    }
    free(count);
}

static int open_store(struct broker *broker, const struct broker_options *options, const char *where, struct error *error)
{
    const struct admission_options admission = {
        .rate_per_minute = settings_integer(options->settings, "broker.rate_limit_per_minute"),
        .burst = settings_integer(options->settings, "broker.rate_limit_burst"),
        .now_ms = clock_monotonic_ms,
    };
    broker->admission = admission_new(&admission);
    const struct store_options store = {
        .completions = loop_mailbox(broker->loop),
        .admission = admission_for_store(broker->admission),
        .waiting_maximum = settings_integer(options->settings, "broker.max_waiting_per_recipient"),
        .batched = string_equal(settings_text(options->settings, "store.fsync"), "batched"),
        .measured = measured,
        .argument = broker,
    };
    int status = store_open(where, &store, &broker->store, error);
    if (status != 0)
        return status;
    struct store_count *count = memory_zalloc(sizeof(*count));
    count->request.done = counted;
    count->request.argument = broker;
    broker->store->operations->count(broker->store, count);
    return 0;
}

static int open_server(struct broker *broker, const struct broker_options *options, const char *host, uint16_t port, struct error *error)
{
    const struct http_callbacks callbacks = web_callbacks(broker);
    int status = 0;
    if (options->tls_cert != NULL)
        status = tls_server_context_new(options->tls_cert, options->tls_key, &broker->tls, error);
    if (status == 0)
        status = http_server_new(broker->loop, &callbacks, BROKER_HTTP_BODY, &broker->server, error);
    if (status == 0)
        status = http_server_listen_tcp(broker->server, host, port, broker->tls, &broker->port, error);
    if (status == 0)
        status = read_public_urls(broker, options->settings, host, error);
    if (status == 0) {
        printf("claudemesh broker listening on %s://%s%s%s:%u/ws\n", broker->tls == NULL ? "ws" : "wss",
               strchr(host, ':') != NULL ? "[" : "", host, strchr(host, ':') != NULL ? "]" : "", (unsigned)broker->port);
        (void)fflush(stdout);
        log_event(LOG_LEVEL_INFO, "broker_ready", LOG_TEXT("listen", host), LOG_NUMBER("port", broker->port),
                  LOG_TEXT("version", CLAUDEMESH_VERSION), LOG_END);
    }
    return status;
}

/* A connection is a descriptor; the usual soft limit is a tenth of the connections that are allowed. */
static void raise_descriptor_limit(const struct broker *broker)
{
    enum { OTHERS = 64 }; /* the store, the loop */
    const size_t wanted = broker->figures.max_connections + BROKER_HTTP_SPARE + OTHERS;
    const size_t allowed = descriptors_allow(wanted);
    if (allowed < wanted)
        log_event(LOG_LEVEL_WARN, "descriptor_limit_low", LOG_NUMBER("descriptors", allowed), LOG_NUMBER("wanted", wanted), LOG_END);
}

static void make_timers(struct broker *broker)
{
    broker->lease_timer = loop_timer_new(broker->loop, deliver_check_leases, broker);
    broker->grace_timer = loop_timer_new(broker->loop, presence_grace_over, broker);
    broker->stop_timer = loop_timer_new(broker->loop, stop_now, broker);
    LIST_INIT(&broker->leased);
    TAILQ_INIT(&broker->leaving);
}

static int start(struct broker *broker, const struct broker_options *options, struct error *error)
{
    char *where = options->store != NULL ? memory_strdup(options->store) : memory_printf("sqlite:%s", options->paths->broker_db);
    char *directory = store_directory(where), *host = NULL;
    char *token = options->admin_token_file != NULL ? memory_strdup(options->admin_token_file)
                                                    : path_join(directory == NULL ? options->paths->broker : directory, "admin-token");
    uint16_t port = 0;
    int status = split_listen(options->listen == NULL ? DEFAULT_LISTEN : options->listen, &host, &port, error);
    if (status == 0 && directory != NULL)
        status = directory_ensure(directory, 0700, error);
    if (status == 0)
        broker_confine(options, directory, token, port, &broker->privilege);
    if (status == 0 && log_start_writer() != 0)
        status = error_set_errno(error, "Cannot start a thread for the log");
    if (status == 0)
        status = loop_new(&broker->loop, error);
    if (status != 0)
        goto out;
    broker->options = options;
    make_timers(broker);
    broker_read_figures(broker, options->settings);
    raise_descriptor_limit(broker);
    status = read_offer(broker, options->settings, error);
    if (status == 0)
        status = open_store(broker, options, where, error);
    if (status == 0)
        status = read_admin_token(broker, token, error);
    if (status == 0)
        status = listen_for_signals(broker, error);
    if (status == 0)
        status = open_server(broker, options, host, port, error);
    if (status == 0)
        keeping_start(broker);
out:
    free(host);
    free(where);
    free(directory);
    free(token);
    return status;
}

static void abort_session(void *argument, struct table_node *node)
{
    struct session *session = CONTAINER_OF(node, struct session, by_connection);
    (void)argument;
    session_drop(session);
}

static void free_list(char **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i]);
    free(list);
}

/* Also of one that was started halfway. The store is closed when nothing can ask it any more, and its answers are run before what they look at goes. */
static void release(struct broker *broker)
{
    broker->stopping = true;
    table_each(&broker->sessions, abort_session, NULL);
    if (broker->loop != NULL)
        presence_end_all(broker);
    keeping_stop(broker);
    if (broker->store != NULL) {
        acks_flush(broker);
        loop_defer_cancel(broker->loop, acks_flush, broker);
        broker->store->operations->close(broker->store);
        while (mailbox_count(loop_mailbox(broker->loop)) > 0)
            loop_run_mailbox(broker->loop);
    }
    http_server_free(broker->server);
    if (broker->store != NULL)
        broker->store->operations->free(broker->store);
    admission_free(broker->admission);
    loop_timer_free(broker->lease_timer);
    loop_timer_free(broker->grace_timer);
    loop_timer_free(broker->stop_timer);
    watchdog_free(broker->watchdog);
    web_release(broker);
    table_release(&broker->sessions);
    table_release(&broker->sessions_by_key);
    table_release(&broker->members);
    table_release(&broker->members_by_pubkey);
    table_release(&broker->meshes);
    json_decref(broker->offer_override);
    free_list(broker->public_urls, broker->public_url_count);
    free_list(broker->authorities, broker->authority_count);
    if (broker->admin_token != NULL)
        secret_wipe(broker->admin_token, strlen(broker->admin_token));
    free(broker->admin_token);
    if (broker->tls != NULL)
        SSL_CTX_free(broker->tls);
    settings_free(broker->reloaded);
    loop_free(broker->loop);
}

static void describe(void *argument, char ret_line[static WATCHDOG_STATUS_SIZE])
{
    const struct broker *broker = argument;
    (void)snprintf(ret_line, WATCHDOG_STATUS_SIZE, "Serving %zu connection%s", broker->connection_count,
                   broker->connection_count == 1 ? "" : "s");
}

static void warn_of_variable(void *argument, const char *variable, const char *nearest)
{
    (void)argument;
    log_event(LOG_LEVEL_WARN, "environment_unknown", LOG_TEXT("variable", variable), LOG_TEXT("nearest", nearest), LOG_END);
}

int broker_run(const struct broker_options *options)
{
    struct broker broker = { 0 };
    struct error error = { 0 };
    enum log_level level;
    (void)clock_steady_ms(); /* from now on it knows a step */
    (void)log_detect_journal();
    notify_start(true);
    if (log_level_parse(settings_text(options->settings, "log.level"), &level) == 0)
        log_set_level(level);
    if (loop_hold_signals(&error) != 0 || privilege_no_core_dumps(&error) != 0 || crypto_start(&error) != 0 ||
        start(&broker, options, &error) != 0) {
        fprintf(stderr, "claudemesh: the broker did not start: %s\n", error.message); /* for whoever started it; no log is kept yet */
        release(&broker);
        log_flush();
        return error.code == ERROR_INVALID ? EXIT_STATUS_USAGE : EXIT_STATUS_FAILED;
    }
    settings_check_environment(warn_of_variable, NULL);
    broker_confine_log(options, &broker.privilege);
    broker.watchdog = watchdog_new(broker.loop, describe, &broker);
    loop_run(broker.loop);
    release(&broker);
    log_event(LOG_LEVEL_INFO, "broker_stopped", LOG_END);
    log_flush();
    return EXIT_STATUS_DONE;
}

int64_t broker_check(const char *store, void (*found)(void *argument, const char *finding), void *argument, struct error *error)
{
    return store_check_file(store, found, argument, error);
}
