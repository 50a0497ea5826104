/* Owns the hooks as a whole: opened, told what happens, stopped; and the events that are no message. Must not know how a run goes (hook_jobs.c). */
#include "daemon/hooks_internal.h"
#include "delivery/delivery.h"
#include "inbox/hook_runs.h"
#include "ipc/hook_access.h"
#include "ipc/metrics.h"
#include "json/json.h"
#include "proto/own_meta.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { STOP_GRACE_MS = 3000 /* less than what is in flight gets when the daemon stops */ };

bool hooks_are_held(const struct daemon_hooks *hooks)
{
    for (const struct daemon_mesh *mesh = hooks->daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (!mesh->leaving && mesh->delivery != NULL && trust_awaits_list(delivery_trust(mesh->delivery)))
            return true;
    return false;
}

/* ---- events that are no message ------------------------------------------------------------------------------------------- */

static void run(struct daemon_hooks *hooks, const char *hook, const char *mesh_slug, json_t *payload)
{
    if (!hooks_wants(hooks->engine, hook)) {
        json_decref(payload);
        return;
    }
    hook_job_run(hook_job_new(hooks, hook, NULL, mesh_slug), payload);
}

static void run_startup(struct daemon_hooks *hooks)
{
    hooks->startup_due = false;
    json_t *slugs = json_new_array(), *payload = json_new_object();
    for (const struct daemon_mesh *mesh = hooks->daemon->meshes; mesh != NULL; mesh = mesh->next)
        if (!mesh->leaving && json_array_append_new(slugs, json_string(mesh->slug)) != 0)
            memory_exhausted();
    json_put_string(payload, "daemon_version", CLAUDEMESH_VERSION);
    json_put(payload, "meshes", slugs);
    run(hooks, "on-startup", "", payload);
}

/* Opened again, or lost; not the first time, and not by our own will. */
static void link_changed(struct daemon_hooks *hooks, struct daemon_mesh *mesh, const json_t *data)
{
    const char *status = json_string_value(json_object_get(data, "status"));
    bool open = string_equal(status, link_state_name(LINK_OPEN)), was_open = mesh->link_open;
    const char *hook = open && !was_open && mesh->link_was_open ? "on-reconnect" : !open && was_open ? "on-disconnect" : NULL;
    mesh->link_open = open;
    mesh->link_was_open = mesh->link_was_open || open;
    if (hook == NULL || hooks->stopping || hooks_are_held(hooks))
        return;
    json_t *payload = json_new_object();
    json_put_string(payload, "status", status);
    json_put_string(payload, "reason", json_string_value(json_object_get(data, "reason")));
    run(hooks, hook, mesh->slug, payload);
}

/* What a verified message says is a file is an event of its own, for programs that wait for files (20-ipc, file_shared). The key to it stays in the message. */
static void publish_file(const struct daemon *daemon, const char *mesh_slug, const json_t *data)
{
    struct meta_file file;
    if (!json_is_true(json_object_get(data, "verified")) || !meta_read_file(json_object_get(data, "meta"), &file))
        return;
    json_t *told = json_new_object(), *facts = json_new_object();
    json_put_string(facts, "id", file.id);
    json_put_string(facts, "name", file.name);
    json_put_integer(facts, "size", file.size);
    json_put_string(facts, "sha256", file.sha256);
    static const char *const FIELDS[] = { "id", "kind", "topic", "sender_pubkey", "sender_name" };
    for (size_t i = 0; i < ARRAY_LENGTH(FIELDS); i++)
        json_put(told, i == 0 ? "message_id" : FIELDS[i], json_incref(json_object_get(data, FIELDS[i])));
    json_put(told, "file", facts);
    ipc_publish(daemon->ipc, "file_shared", mesh_slug, told, -1);
}

static struct daemon_mesh *mesh_of(const struct daemon *daemon, const char *slug)
{
    struct daemon_mesh *mesh = daemon->meshes;
    while (mesh != NULL && (mesh->leaving || strcmp(mesh->slug, slug) != 0))
        mesh = mesh->next;
    return mesh;
}

void daemon_hooks_published(struct daemon *daemon, const char *type, const char *mesh_slug, const json_t *data)
{
    if (strcmp(type, "message") == 0) {
        publish_file(daemon, mesh_slug, data);
        if (daemon->hooks != NULL)
            hook_queue_pump(daemon->hooks);
    } else if (strcmp(type, "broker_status") == 0 && daemon->hooks != NULL) {
        struct daemon_mesh *mesh = mesh_of(daemon, mesh_slug);
        if (mesh != NULL)
            link_changed(daemon->hooks, mesh, data);
    }
}

void daemon_hooks_arriving(void *argument, struct delivery *delivery, const json_t *mentions, const json_t *meta,
                           struct inbox_insert *insert)
{
    const struct daemon *daemon = argument;
    if (daemon->hooks != NULL)
        hook_queue_arriving(daemon->hooks, delivery, mentions, meta, insert);
}

/* ---- life ---------------------------------------------------------------------------------------------------------------- */

int daemon_hooks_open(struct daemon *daemon, struct hooks_spawner *spawner, struct error *error)
{
    struct daemon_hooks *hooks = memory_zalloc(sizeof(*hooks));
    hooks->daemon = daemon;
    hooks->concurrency = (unsigned)settings_integer(daemon->settings, "hooks.concurrency");
    struct hooks_options options = {
        .loop = daemon->loop,
        .paths = daemon->options->paths,
        .spawner = spawner,
        .concurrency = hooks->concurrency,
        .enabled = daemon->modes.hooks,
    };
    hook_jobs_set_callbacks(hooks, &options.callbacks);
    int status = hooks_new(&options, &hooks->engine, error);
    if (status != 0) {
        free(hooks);
        return status;
    }
    hook_guard_install(hooks);
    daemon->hooks = hooks;
    return 0;
}

void daemon_hooks_start(struct daemon *daemon)
{
    struct daemon_hooks *hooks = daemon->hooks;
    int64_t lost = inbox_hook_runs_lost(daemon->inbox);
    if (lost > 0) /* said once: they do not run again */
        log_event(LOG_LEVEL_WARN, "hook_runs_lost", LOG_NUMBER("runs", lost), LOG_END);
    hooks->started = hooks->startup_due = true;
    daemon_hooks_poke(daemon);
}

static void tell_dropped(struct daemon_hooks *hooks)
{
    uint64_t dropped = hooks_dropped(hooks->engine) + (uint64_t)inbox_hook_runs_dropped(hooks->daemon->inbox);
    if (dropped == hooks->told_dropped)
        return;
    ipc_metrics_hook_dropped(hooks->daemon->metrics, dropped - hooks->told_dropped);
    log_event(LOG_LEVEL_WARN, "hook_events_dropped", LOG_NUMBER("events", dropped - hooks->told_dropped), LOG_END);
    hooks->told_dropped = dropped;
}

void daemon_hooks_poke(struct daemon *daemon)
{
    struct daemon_hooks *hooks = daemon->hooks;
    if (hooks == NULL || !hooks->started || hooks->stopping)
        return;
    tell_dropped(hooks);
    if (hooks->startup_due && !hooks_are_held(hooks))
        run_startup(hooks);
    hook_queue_pump(hooks); /* a claim that failed is tried again */
}

void daemon_hooks_reload(struct daemon *daemon)
{
    struct daemon_hooks *hooks = daemon->hooks;
    if (hooks == NULL)
        return;
    struct daemon_modes modes;
    daemon_decide_modes(daemon->options, daemon->settings, &modes);
    hooks->concurrency = (unsigned)settings_integer(daemon->settings, "hooks.concurrency");
    if (daemon->modes.hooks && modes.hooks)
        hooks_reload(hooks->engine);
    hooks_set(hooks->engine, modes.hooks, hooks->concurrency); /* reads hooks.toml when they are turned on */
    daemon->modes.hooks = modes.hooks;
}

void daemon_hooks_stop(struct daemon *daemon)
{
    if (daemon->hooks == NULL)
        return;
    daemon->hooks->stopping = true;
    hooks_stop(daemon->hooks->engine, STOP_GRACE_MS);
}

bool daemon_hooks_are_stopped(const struct daemon *daemon)
{
    return daemon->hooks == NULL || (daemon->hooks->jobs == NULL && !daemon->hooks->claiming);
}

void daemon_hooks_close(struct daemon *daemon)
{
    if (daemon->hooks == NULL)
        return;
    daemon->hooks->stopping = true;
    hooks_free(daemon->hooks->engine); /* each run is told its end, and asks for nothing any more */
    daemon->hooks->engine = NULL;
    while (mailbox_count(loop_mailbox(daemon->loop)) > 0)
        loop_run_mailbox(daemon->loop); /* replies that were on their way are refused by the databases, which have stopped */
    free(daemon->hooks);
    daemon->hooks = NULL;
    ipc_set_guard(daemon->ipc, &(struct send_guard){ .wanted = NULL });
}
