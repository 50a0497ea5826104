/* Owns which meshes are served: the joined ones of config.json, taken up and dropped while running (10-cli, Meshes). One that cannot be made never stops the others. */
#include <unistd.h>

#include "daemon/hooks.h"
#include "daemon/internal.h"
#include "delivery/delivery.h"
#include "identity/host.h"
#include "identity/reminted.h"
#include "ipc/metrics.h"
#include "link/link.h"
#include "util/limits.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { HOST_TEXT_SIZE = 4096 };
static const int64_t DAY_MS = INT64_C(24) * 3600 * 1000;

/* ---- events of a delivery -------------------------------------------------------------------------------------------- */

static void stop_when_refused(void *argument)
{
    struct daemon *daemon = argument;
    if (daemon->options->exit_on_refused && daemon_every_link_is_refused(daemon))
        daemon_stop(daemon, DAEMON_EXIT_LINK_REFUSED);
}

/* The broker saw a member with another host's fingerprint, and tells the mesh's admins (50-identity, Host fingerprint). */
static void note_clone(const struct daemon *daemon, const char *mesh_slug, const json_t *data)
{
    if (!string_equal(json_string_value(json_object_get(data, "event")), "member_clone_suspected"))
        return;
    const json_t *told = json_object_get(data, "data");
    const char *member_id = json_string_value(json_object_get(told, "memberId"));
    char *printable_id = text_printable(member_id == NULL ? "" : member_id, member_id == NULL ? 0 : strlen(member_id));
    log_event(LOG_LEVEL_WARN, "member_clone_suspected", LOG_SECURITY, LOG_TEXT("mesh", mesh_slug), LOG_TEXT("member_id", printable_id),
              LOG_END);
    ipc_metrics_clone_suspected(daemon->metrics);
    free(printable_id);
}

static void publish(void *argument, const char *type, const char *mesh_slug, json_t *data, int64_t inbox_seq)
{
    struct daemon *daemon = argument;
    if (strcmp(type, "system") == 0)
        note_clone(daemon, mesh_slug, data);
    if (strcmp(type, "broker_status") == 0)
        daemon_rotation_link_changed(daemon);
    if (strcmp(type, "broker_status") == 0 && daemon->options->exit_on_refused)
        loop_defer(daemon->loop, stop_when_refused, daemon); /* once the link has told everyone */
    json_incref(data);
    ipc_publish(daemon->ipc, type, mesh_slug, data, inbox_seq);
    daemon_hooks_published(daemon, type, mesh_slug, data);
    json_decref(data);
}

static void count(void *argument, enum delivery_figure figure, const char *mesh_slug, const char *label)
{
    const struct daemon *daemon = argument;
    ipc_metrics_delivery(daemon->metrics, mesh_slug, figure, label);
}

bool daemon_every_link_is_refused(const struct daemon *daemon)
{
    bool any = false;
    for (const struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next) {
        if (mesh->leaving)
            continue;
        if (mesh->delivery == NULL || link_state(delivery_link(mesh->delivery)) != LINK_REFUSED || daemon_rotation_settles(mesh))
            return false;
        any = true;
    }
    return any;
}

/* ---- one mesh -------------------------------------------------------------------------------------------------------- */

static void mesh_free(struct daemon_mesh *mesh)
{
    daemon_forget_rotation(mesh);
    delivery_free(mesh->delivery);
    keypair_free(mesh->keys);
    key_archive_release(&mesh->archive);
    free(mesh->mesh_id);
    free(mesh->slug);
    free(mesh->pubkey);
    free(mesh->broker_url);
    free(mesh);
}

struct shared_facts { /* with the broker; NULL unless [privacy] share_host */
    char name[256], directory[HOST_TEXT_SIZE];
    const char *hostname, *cwd;
};

static void read_shared_facts(const struct settings *settings, struct shared_facts *ret_facts)
{
    *ret_facts = (struct shared_facts){ 0 };
    if (!settings_bool(settings, "privacy.share_host"))
        return;
    if (gethostname(ret_facts->name, sizeof(ret_facts->name) - 1) == 0)
        ret_facts->hostname = ret_facts->name;
    if (getcwd(ret_facts->directory, sizeof(ret_facts->directory)) != NULL)
        ret_facts->cwd = ret_facts->directory;
}

static int make_delivery(struct daemon_mesh *mesh, const struct config_file *file, const struct config_mesh *config, struct error *error)
{
    struct daemon *daemon = mesh->daemon;
    const struct settings *settings = daemon->settings;
    const char *display_name = settings_text(settings, "daemon.display_name");
    struct shared_facts host;
    char host_fingerprint[SHA256_HEX_SIZE];
    read_shared_facts(settings, &host);
    host_hello_fingerprint(config->mesh_id, daemon->host_fingerprint, host_fingerprint);
    struct delivery_options options = {
        .loop = daemon->loop,
        .outbox = daemon->outbox,
        .inbox = daemon->inbox,
        .trust_db = daemon->outbox_db,
        .link = { .mesh_slug = config->slug,
                  .mesh_id = config->mesh_id,
                  .member_id = config->member_id,
                  .broker_url = config->broker_url,
                  .session_id = daemon->session_id,
                  .display_name = *display_name != '\0' ? display_name : file->display_name,
                  .keys = mesh->keys,
                  .channel = "claudemesh-daemon",
                  .peer_type = "connector",
                  .host_fingerprint = host_fingerprint,
                  .hostname = host.hostname,
                  .cwd = host.cwd,
                  .receive = true,
                  .ca_file = settings_text(settings, "broker.ca_file"),
                  .allow_insecure = settings_bool(settings, "broker.allow_insecure"),
                  .reconnect_initial_ms = 500,
                  .reconnect_max_ms = 30000 },
        .archive = &mesh->archive,
        .key_grace_ms = settings_integer(settings, "crypto.key_grace_period_days") * DAY_MS,
        .owner_pubkey = config->owner_pubkey != NULL ? config->owner_pubkey : "",
        .role = config->role,
        .events = { .argument = daemon, .publish = publish, .count = count, .arriving = daemon_hooks_arriving },
        .window = (size_t)settings_integer(settings, "drain.window"),
        .backoff_initial_ms = settings_integer(settings, "drain.backoff_initial_ms"),
        .backoff_max_ms = settings_integer(settings, "drain.backoff_max_ms"),
        .jitter_pct = (int)settings_integer(settings, "drain.jitter_pct"),
        .max_age_hours = settings_integer(settings, "outbox.max_age_hours"),
        .max_age_override_hours = settings_integer(settings, "outbox.max_age_hours_override"),
        .allow_plaintext = settings_mesh_bool(settings, config->slug, "allow_plaintext", settings_bool(settings, "broker.allow_plaintext")),
    };
    options.link.require = settings_list(settings, "features.require", &options.link.require_count);
    daemon_read_archive(daemon, &mesh->archive);
    int status = identity_mesh_keys(config, &mesh->keys, error);
    if (status == 0) {
        options.link.keys = mesh->keys;
        status = delivery_new(&options, &mesh->delivery, error);
    }
    return status;
}

/* The same mesh under another key is still on its way out: two that drain one outbox would miss what the first gives back. */
static bool waits_for_another(const struct daemon_mesh *mesh)
{
    for (const struct daemon_mesh *other = mesh->daemon->meshes; other != NULL; other = other->next)
        if (other != mesh && other->leaving && !other->stopped && strcmp(other->mesh_id, mesh->mesh_id) == 0)
            return true;
    return false;
}

/* Fails only at start, and only for what forbids the start: a maximum age beyond what a broker remembers (30-delivery, Maximum age). */
int daemon_take_up(struct daemon *daemon, const struct config_file *file, const struct config_mesh *config, struct error *error)
{
    struct daemon_mesh *mesh = memory_zalloc(sizeof(*mesh));
    mesh->daemon = daemon;
    mesh->mesh_id = memory_strdup(config->mesh_id);
    mesh->slug = memory_strdup(config->slug);
    mesh->pubkey = memory_strdup(config->pubkey);
    mesh->broker_url = memory_strdup(config->broker_url);
    mesh->next = daemon->meshes;
    daemon->meshes = mesh;
    if (make_delivery(mesh, file, config, error) != 0) {
        log_event(LOG_LEVEL_ERROR, "mesh_failed", LOG_TEXT("mesh", mesh->slug), LOG_TEXT("error", error->message), LOG_END);
        ipc_add_failed_mesh(daemon->ipc, mesh->slug, mesh->mesh_id, error->message);
        bool forbids_start = string_has_prefix(error->message, "outbox_max_age_above_dedupe_window");
        return forbids_start && !daemon->serving ? -(int)error->code : 0;
    }
    log_event(LOG_LEVEL_INFO, "mesh_taken_up", LOG_TEXT("mesh", mesh->slug), LOG_END);
    ipc_add_mesh(daemon->ipc, mesh->delivery);
    if (config->next_secret_key != NULL)
        daemon_resume_rotation(mesh);
    mesh->waiting = daemon->serving && waits_for_another(mesh);
    if (daemon->serving && !mesh->waiting)
        delivery_start(mesh->delivery);
    return 0;
}

/* ---- dropping --------------------------------------------------------------------------------------------------------- */

static void start_successors(struct daemon *daemon)
{
    for (struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (mesh->waiting && !mesh->leaving && daemon->exit_status < 0 && !waits_for_another(mesh)) {
            mesh->waiting = false;
            delivery_start(mesh->delivery);
        }
}

static void free_left(void *argument)
{
    struct daemon *daemon = argument;
    for (struct daemon_mesh **link = &daemon->meshes; *link != NULL;) {
        struct daemon_mesh *mesh = *link;
        if (!mesh->leaving || !mesh->stopped) {
            link = &mesh->next;
            continue;
        }
        *link = mesh->next;
        mesh_free(mesh);
    }
    start_successors(daemon);
}

static void on_stopped(void *argument)
{
    struct daemon_mesh *mesh = argument;
    mesh->stopped = true;
    if (mesh->leaving)
        loop_defer(mesh->daemon->loop, free_left, mesh->daemon); /* not inside its own call */
}

static void stop_mesh(struct daemon_mesh *mesh, int64_t grace_ms)
{
    if (mesh->delivery != NULL)
        delivery_stop(mesh->delivery, grace_ms, on_stopped, mesh);
    else
        on_stopped(mesh);
}

static void drop(struct daemon_mesh *mesh)
{
    log_event(LOG_LEVEL_INFO, "mesh_dropped", LOG_TEXT("mesh", mesh->slug), LOG_END);
    daemon_forget_rotation(mesh);
    ipc_remove_mesh(mesh->daemon->ipc, mesh->mesh_id);
    mesh->leaving = true;
    stop_mesh(mesh, 0);
}

/* Another key: the API goes from one to the other without a gap, and the new connection waits until the old one has given back what it had in hand. */
static void replace(struct daemon_mesh *mesh)
{
    log_event(LOG_LEVEL_INFO, "mesh_key_changed", LOG_TEXT("mesh", mesh->slug), LOG_END);
    daemon_forget_rotation(mesh);
    mesh->leaving = true;
    stop_mesh(mesh, 0);
}

/* ---- all of them -------------------------------------------------------------------------------------------------------- */

static bool is_chosen(const struct daemon *daemon, const char *slug)
{
    if (daemon->options->mesh != NULL)
        return strcmp(daemon->options->mesh, slug) == 0;
    size_t count;
    const char *const *slugs = settings_list(daemon->settings, "daemon.meshes", &count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(slugs[i], slug) == 0)
            return true;
    return count == 0;
}

/* The same membership: another key, slug or broker is another one. */
static bool is_same(const struct daemon_mesh *mesh, const struct config_mesh *config)
{
    return strcmp(mesh->mesh_id, config->mesh_id) == 0 && strcmp(mesh->slug, config->slug) == 0 &&
           strcmp(mesh->pubkey, config->pubkey) == 0 && strcmp(mesh->broker_url, config->broker_url) == 0;
}

static bool is_joined(const struct daemon *daemon, const struct daemon_mesh *mesh, const struct config_file *file)
{
    for (size_t i = 0; i < file->mesh_count; i++)
        if (is_chosen(daemon, file->meshes[i].slug) && is_same(mesh, &file->meshes[i]))
            return true;
    return false;
}

static bool has_another_key(const struct daemon *daemon, const struct daemon_mesh *mesh, const struct config_file *file)
{
    for (size_t i = 0; i < file->mesh_count && i < LIMIT_MESHES; i++)
        if (is_chosen(daemon, file->meshes[i].slug) && strcmp(file->meshes[i].mesh_id, mesh->mesh_id) == 0)
            return strcmp(file->meshes[i].slug, mesh->slug) == 0 && strcmp(file->meshes[i].pubkey, mesh->pubkey) != 0;
    return false;
}

static bool is_served(const struct daemon *daemon, const struct config_mesh *config)
{
    for (const struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (!mesh->leaving && is_same(mesh, config))
            return true;
    return false;
}

static int update(struct daemon *daemon, const struct config_file *file, struct error *error)
{
    int status = 0;
    for (struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (!mesh->leaving && !is_joined(daemon, mesh, file)) {
            if (mesh->delivery != NULL && has_another_key(daemon, mesh, file))
                replace(mesh);
            else
                drop(mesh);
        }
    for (size_t i = 0; status == 0 && i < file->mesh_count && i < LIMIT_MESHES; i++)
        if (is_chosen(daemon, file->meshes[i].slug) && !is_served(daemon, &file->meshes[i]))
            status = daemon_take_up(daemon, file, &file->meshes[i], error);
    if (file->mesh_count > LIMIT_MESHES)
        log_event(LOG_LEVEL_ERROR, "too_many_meshes", LOG_NUMBER("joined", file->mesh_count), LOG_NUMBER("served", LIMIT_MESHES), LOG_END);
    return status;
}

/* What waits under a key that this host has no more was the former member's to send, and is in its own outbox elsewhere. */
static int end_former_rows(struct daemon *daemon, const struct config_file *file, struct error *error)
{
    const struct config_paths *paths = daemon->options->paths;
    int status = 0;
    for (size_t i = 0; i < file->mesh_count && status == 0; i++) {
        const struct config_mesh *mesh = &file->meshes[i];
        bool pending = false;
        int64_t given_up = 0;
        status = reminted_look(paths, mesh->mesh_id, mesh->pubkey, &pending, error);
        if (status != 0 || !pending)
            continue;
        status = outbox_give_up(daemon->outbox, mesh->mesh_id, "member_reminted", &given_up, error);
        if (status == 0)
            status = reminted_clear(paths, mesh->mesh_id, error);
        log_event(LOG_LEVEL_WARN, "former_rows_ended", LOG_TEXT("mesh", mesh->slug), LOG_NUMBER("rows", given_up), LOG_END);
    }
    return status;
}

int daemon_open_meshes(struct daemon *daemon, struct error *error)
{
    struct config_file file;
    int status = config_file_read(daemon->options->paths->config_json, &file, error);
    if (status != 0)
        return status;
    const char *wanted = daemon->options->mesh;
    if (wanted != NULL && config_file_mesh(&file, wanted) == NULL)
        status = error_set(error, ERROR_NOT_FOUND, "Mesh '%s' is not joined; see `claudemesh mesh list`.", wanted);
    else
        status = end_former_rows(daemon, &file, error);
    if (status == 0)
        status = update(daemon, &file, error);
    config_file_release(&file);
    return status;
}

void daemon_update_meshes(struct daemon *daemon)
{
    struct config_file file;
    struct error error;
    if (config_file_read(daemon->options->paths->config_json, &file, &error) != 0) {
        log_event(LOG_LEVEL_ERROR, "config_json_unreadable", LOG_TEXT("error", error.message), LOG_END);
        return;
    }
    (void)update(daemon, &file, &error); /* one that cannot be made was logged */
    config_file_release(&file);
}

void daemon_start_links(struct daemon *daemon)
{
    daemon->serving = true;
    for (struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (mesh->delivery != NULL)
            delivery_start(mesh->delivery);
}

void daemon_stop_links(struct daemon *daemon, int64_t grace_ms)
{
    for (struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (!mesh->leaving)
            stop_mesh(mesh, grace_ms);
}

bool daemon_links_are_stopped(const struct daemon *daemon)
{
    for (const struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (!mesh->stopped)
            return false;
    return true;
}

void daemon_free_meshes(struct daemon *daemon)
{
    if (daemon->loop != NULL) {
        loop_defer_cancel(daemon->loop, free_left, daemon);
        loop_defer_cancel(daemon->loop, stop_when_refused, daemon);
    }
    while (daemon->meshes != NULL) {
        struct daemon_mesh *mesh = daemon->meshes;
        daemon->meshes = mesh->next;
        if (!mesh->leaving)
            ipc_remove_mesh(daemon->ipc, mesh->mesh_id);
        mesh_free(mesh);
    }
}

struct delivery *daemon_delivery_of_row(const struct daemon *daemon, const char *row_mesh)
{
    for (const struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (!mesh->leaving && strcmp(mesh->mesh_id, row_mesh) == 0)
            return mesh->delivery;
    return NULL;
}
