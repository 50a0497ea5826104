/* Owns a rotation of a mesh's key in a running daemon, from the files to the new connection (50-identity, Key rotation; docs/decisions/0012). One a mesh at a time. Everything that blocks runs on a
 * database's reader. Must not lose a message: sends wait while it goes on, and go out under whichever key it ends with.
 *
 *   files:   the old key into the archive, the new one beside the old one in config.json      a failure: nothing happened
 *   quiet:   no more sends; every answer is awaited                                           a failure: called off
 *   asked:   member_rotate                                                                    refused: called off. No answer: whoever connects next learns which key is current
 *   done:    config.json names the new key; the mesh is taken up anew with it */
#include "daemon/internal.h"
#include "delivery/delivery.h"
#include "identity/rotation.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { QUIET_MS = 20000, LIST_WAIT_MS = 100, LIST_WAITS = 100, FILES_AGAIN_MS = 5000 };

enum rotate_stage {
    ROTATE_FILES,     /* a step of the files is under way */
    ROTATE_QUIET,     /* for the drain, then for the list of members */
    ROTATE_ASKED,     /* the broker */
    ROTATE_UNSETTLED, /* either key may be current: the next connection tells */
    ROTATE_STUCK      /* what must be read or written could not be: again soon */
};

struct daemon_rotation {
    struct daemon_mesh *mesh; /* NULL: it was left meanwhile */
    struct daemon *daemon;
    char *slug; /* the mesh's */
    enum rotate_stage stage;
    bool resumed; /* begun before this start: nobody waits, and it is not called off for want of a link */
    int list_waits;
    struct rotation_prepared prepared;
    struct loop_timer *timer;
    char code[64], sentence[256]; /* why it is called off */
    ipc_answered *answered;       /* NULL: nobody waits any more */
    void *answer_argument;
};

/* A step of the files, on its way. */
struct files_task {
    struct db_task task;
    struct daemon_rotation *rotation;
    struct rotation_files files;
    char *mesh_id, *pubkey;
    int (*step)(struct files_task *task, struct error *error);
    void (*then)(struct daemon_rotation *rotation, int status, const struct error *error);
    struct rotation_prepared prepared;
};

static int step_finish(struct files_task *task, struct error *error);
static void settle(struct daemon_rotation *rotation);
static void call_off(struct daemon_rotation *rotation, const char *code, const char *sentence);

/* ---- answering --------------------------------------------------------------------------------------------------------- */

static void answer(struct daemon_rotation *rotation, int status, json_t *body)
{
    if (rotation->answered == NULL) {
        json_decref(body);
        return;
    }
    ipc_answered *answered = rotation->answered;
    rotation->answered = NULL;
    answered(rotation->answer_argument, status, body);
}

static void fail(struct daemon_rotation *rotation, int status, const char *code, const char *sentence)
{
    json_t *body = json_new_object();
    json_put_string(body, "error", code);
    json_put_string(body, "detail", sentence);
    answer(rotation, status, body);
}

/* The new key stands in config.json. */
static void tell_rotated(struct daemon_rotation *rotation)
{
    const char *old_key = keypair_public_hex(rotation->prepared.current), *new_key = keypair_public_hex(rotation->prepared.next);
    log_event(LOG_LEVEL_INFO, "keypair_rotated", LOG_SECURITY, LOG_TEXT("mesh", rotation->slug), LOG_TEXT("old", old_key),
              LOG_TEXT("new", new_key), LOG_END);
    json_t *body = json_new_object();
    json_put_string(body, "mesh", rotation->slug);
    json_put_string(body, "old_pubkey", old_key);
    json_put_string(body, "new_pubkey", new_key);
    answer(rotation, 200, body);
}

static void end(struct daemon_rotation *rotation)
{
    fail(rotation, 503, "shutting_down", "The daemon stopped, or left the mesh, before the rotation ended; it goes on at the next start.");
    if (rotation->mesh != NULL)
        rotation->mesh->rotation = NULL;
    rotation_prepared_release(&rotation->prepared);
    loop_timer_free(rotation->timer);
    free(rotation->slug);
    free(rotation);
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

static int run_files(struct db_connection *connection, struct db_task *base)
{
    (void)connection;
    struct files_task *task = CONTAINER_OF(base, struct files_task, task);
    return task->step(task, &base->error);
}

static void done_files(struct db_task *base)
{
    struct files_task *task = CONTAINER_OF(base, struct files_task, task);
    struct daemon_rotation *rotation = task->rotation;
    if (rotation->mesh == NULL) {
        rotation_prepared_release(&task->prepared);
        if (task->step == step_finish && base->status == 0) /* whoever watches config.json was quicker */
            tell_rotated(rotation);
        end(rotation);
    } else {
        if (task->prepared.next != NULL) {
            rotation_prepared_release(&rotation->prepared);
            rotation->prepared = task->prepared;
        }
        task->then(rotation, base->status, &base->error);
    }
    free(task->mesh_id);
    free(task->pubkey);
    free(task);
}

static void start_files(struct daemon_rotation *rotation, int (*step)(struct files_task *task, struct error *error),
                        void (*then)(struct daemon_rotation *rotation, int status, const struct error *error))
{
    struct daemon *daemon = rotation->daemon;
    struct files_task *task = memory_zalloc(sizeof(*task));
    task->task = (struct db_task){ .run = run_files, .done = done_files };
    task->rotation = rotation;
    task->mesh_id = memory_strdup(rotation->mesh->mesh_id);
    task->pubkey = memory_strdup(rotation->mesh->pubkey);
    task->files = (struct rotation_files){ .paths = daemon->options->paths,
                                           .mesh_id = task->mesh_id,
                                           .pubkey = task->pubkey,
                                           .now_ms = clock_wall_ms(),
                                           .grace_days = settings_integer(daemon->settings, "crypto.key_grace_period_days") };
    task->step = step;
    task->then = then;
    rotation->stage = ROTATE_FILES;
    db_read(daemon->outbox_db, &task->task);
}

static int step_prepare(struct files_task *task, struct error *error)
{
    return rotation_prepare(&task->files, &task->prepared, error);
}

static int step_finish(struct files_task *task, struct error *error)
{
    return rotation_finish(&task->files, task->rotation->prepared.next, error);
}

static int step_call_off(struct files_task *task, struct error *error)
{
    return rotation_call_off(&task->files, error);
}

/* ---- the new key ------------------------------------------------------------------------------------------------------- */

static void finish(struct daemon_rotation *rotation);
static void prepared(struct daemon_rotation *rotation, int status, const struct error *error);

static void timer_fired(void *argument)
{
    struct daemon_rotation *rotation = argument;
    if (rotation->stage == ROTATE_STUCK && rotation->prepared.next == NULL)
        start_files(rotation, step_prepare, prepared);
    else if (rotation->stage == ROTATE_STUCK)
        finish(rotation);
    else if (rotation->stage == ROTATE_QUIET)
        settle(rotation);
}

static void finished(struct daemon_rotation *rotation, int status, const struct error *error)
{
    struct daemon *daemon = rotation->daemon;
    if (status != 0) {
        log_event(LOG_LEVEL_ERROR, "keypair_rotation_unfinished", LOG_TEXT("mesh", rotation->mesh->slug), LOG_TEXT("error", error->message),
                  LOG_END);
        char *sentence = memory_printf(
            "The broker goes by the new key, and config.json could not be written yet (%s); the daemon tries again.", error->message);
        fail(rotation, 503, "rotation_unsettled", sentence);
        free(sentence);
        rotation->stage = ROTATE_STUCK;
        loop_timer_start(rotation->timer, FILES_AGAIN_MS);
        return;
    }
    rotation->mesh->rotation = NULL;
    rotation->mesh = NULL;
    daemon_update_meshes(daemon); /* the mesh's key is another one: it is taken up anew */
    tell_rotated(rotation);
    end(rotation);
}

static void finish(struct daemon_rotation *rotation)
{
    start_files(rotation, step_finish, finished);
}

/* ---- the old key stays ------------------------------------------------------------------------------------------------------ */

static void called_off(struct daemon_rotation *rotation, int status, const struct error *error)
{
    if (status != 0) /* the broker still has the old key, and so have we: the next start, or the next try, tidies up */
        log_event(LOG_LEVEL_WARN, "keypair_rotation_leftover", LOG_TEXT("mesh", rotation->mesh->slug), LOG_TEXT("error", error->message),
                  LOG_END);
    log_event(LOG_LEVEL_WARN, "keypair_rotation_called_off", LOG_TEXT("mesh", rotation->mesh->slug), LOG_TEXT("code", rotation->code),
              LOG_TEXT("detail", rotation->sentence), LOG_END);
    if (rotation->mesh->delivery != NULL)
        delivery_resume(rotation->mesh->delivery);
    fail(rotation, strcmp(rotation->code, "link_down") == 0 ? 503 : 502, rotation->code, rotation->sentence);
    end(rotation);
}

static void call_off(struct daemon_rotation *rotation, const char *code, const char *sentence)
{
    (void)snprintf(rotation->code, sizeof(rotation->code), "%.63s", code);
    (void)snprintf(rotation->sentence, sizeof(rotation->sentence), "%.255s", sentence);
    start_files(rotation, step_call_off, called_off);
}

/* ---- the broker ----------------------------------------------------------------------------------------------------------- */

static void on_answered(void *argument, enum delivery_rotation outcome, const char *code, const char *sentence)
{
    struct daemon_rotation *rotation = argument;
    switch (outcome) {
    case DELIVERY_ROTATED:
        finish(rotation);
        return;
    case DELIVERY_ROTATION_REFUSED: {
        char *detail = memory_printf("The broker refused the new key, and the old one stays: %s", sentence);
        call_off(rotation, code[0] == '\0' ? "refused" : code, detail);
        free(detail);
        return;
    }
    case DELIVERY_ROTATION_UNKNOWN:
        break;
    }
    rotation->stage = ROTATE_UNSETTLED;
    log_event(LOG_LEVEL_WARN, "keypair_rotation_unsettled", LOG_TEXT("mesh", rotation->mesh->slug), LOG_TEXT("detail", sentence), LOG_END);
    fail(rotation, 503, "rotation_unsettled",
         "The broker did not say whether it took the new key; sends wait, and the next connection settles it by itself.");
    if (rotation->mesh->delivery != NULL && delivery_is_open(rotation->mesh->delivery))
        link_reset(delivery_link(rotation->mesh->delivery), "a rotation of the key had no answer");
}

static void ask(struct daemon_rotation *rotation)
{
    rotation->stage = ROTATE_ASKED;
    if (delivery_ask_rotation(rotation->mesh->delivery, rotation->prepared.next, on_answered, rotation) == 0)
        return;
    rotation->stage = ROTATE_UNSETTLED; /* the link went this moment */
    if (!rotation->resumed)
        call_off(rotation, "link_down", "The link to the broker was lost before it was asked; nothing was changed. Try again.");
}

static void on_quiet(void *argument, bool idle)
{
    struct daemon_rotation *rotation = argument;
    struct delivery *delivery = rotation->mesh->delivery;
    if (!delivery_is_open(delivery)) {
        rotation->stage = ROTATE_UNSETTLED;
        if (!rotation->resumed)
            call_off(rotation, "link_down", "The link to the broker was lost before it was asked; nothing was changed. Try again.");
    } else if (!idle) {
        call_off(rotation, "busy", "The broker did not answer what was sent before; nothing was changed. Try again.");
    } else if (!delivery_members_are_fresh(delivery) && rotation->list_waits++ < LIST_WAITS) {
        loop_timer_start(rotation->timer, LIST_WAIT_MS); /* the list may have a step of ours that we do not know */
    } else {
        ask(rotation);
    }
}

static void settle(struct daemon_rotation *rotation)
{
    rotation->stage = ROTATE_QUIET;
    delivery_quiesce(rotation->mesh->delivery, QUIET_MS, on_quiet, rotation);
}

/* The broker does not know this key any more (or never did): then it is the other one. */
static bool old_key_is_refused(const struct link *link)
{
    const char *reason = link_reason(link);
    return link_state(link) != LINK_OPEN && (strstr(reason, "key_rotated") != NULL || strstr(reason, "unauthorized") != NULL);
}

static void look_at_link(void *argument)
{
    struct daemon *daemon = argument;
    for (struct daemon_mesh *mesh = daemon->meshes; mesh != NULL; mesh = mesh->next) {
        struct daemon_rotation *rotation = mesh->rotation;
        if (rotation == NULL || rotation->stage != ROTATE_UNSETTLED || mesh->delivery == NULL || mesh->leaving)
            continue;
        if (old_key_is_refused(delivery_link(mesh->delivery)))
            finish(rotation);
        else if (delivery_is_open(mesh->delivery))
            settle(rotation);
    }
}

void daemon_rotation_link_changed(struct daemon *daemon)
{
    loop_defer(daemon->loop, look_at_link, daemon); /* once the link has told everyone */
}

/* ---- beginning -------------------------------------------------------------------------------------------------------------- */

static void tell_findings(const struct daemon_rotation *rotation)
{
    const struct rotation_prepared *prepared = &rotation->prepared;
    daemon_tell_archive(&prepared->findings);
    if (prepared->dropped > 0)
        log_event(LOG_LEVEL_WARN, "archived_key_dropped_early", LOG_TEXT("mesh", rotation->mesh->slug),
                  LOG_NUMBER("keys", prepared->dropped), LOG_NUMBER("maximum", ARCHIVE_KEYS_MAXIMUM), LOG_END);
    if (prepared->not_archived)
        log_event(LOG_LEVEL_ERROR, "keypair_archive_not_written", LOG_TEXT("mesh", rotation->mesh->slug), LOG_END);
}

static void prepared(struct daemon_rotation *rotation, int status, const struct error *error)
{
    if (status == 0) {
        tell_findings(rotation);
        rotation->stage = ROTATE_UNSETTLED;
        if (!rotation->resumed)
            settle(rotation);
        else
            look_at_link(rotation->daemon);
        return;
    }
    log_event(LOG_LEVEL_ERROR, "keypair_rotation_failed", LOG_TEXT("mesh", rotation->mesh->slug), LOG_TEXT("error", error->message),
              LOG_END);
    char *sentence = memory_printf("Nothing was changed: %s", error->message);
    bool full = status == -(int)ERROR_FULL;
    fail(rotation, full ? 507 : 500, full ? "insufficient_storage" : "rotation_failed", sentence);
    free(sentence);
    if (rotation->resumed) { /* begun before this start: the broker may have the new key, so it is not given up */
        rotation->stage = ROTATE_STUCK;
        loop_timer_start(rotation->timer, FILES_AGAIN_MS);
        return;
    }
    end(rotation);
}

static struct daemon_rotation *begin(struct daemon_mesh *mesh)
{
    struct daemon_rotation *rotation = memory_zalloc(sizeof(*rotation));
    rotation->daemon = mesh->daemon;
    rotation->mesh = mesh;
    rotation->slug = memory_strdup(mesh->slug);
    rotation->timer = loop_timer_new(mesh->daemon->loop, timer_fired, rotation);
    mesh->rotation = rotation;
    return rotation;
}

void daemon_resume_rotation(struct daemon_mesh *mesh)
{
    struct daemon_rotation *rotation = begin(mesh);
    rotation->resumed = true;
    log_event(LOG_LEVEL_INFO, "keypair_rotation_resumed", LOG_TEXT("mesh", mesh->slug), LOG_END);
    delivery_quiesce(mesh->delivery, QUIET_MS, NULL, NULL); /* nothing is sent before it is known with which key */
    start_files(rotation, step_prepare, prepared);
}

static void refuse(ipc_answered *answered, void *argument, int status, const char *code, const char *sentence)
{
    json_t *body = json_new_object();
    json_put_string(body, "error", code);
    json_put_string(body, "detail", sentence);
    answered(argument, status, body);
}

void daemon_rotate_keypair(void *argument, const char *mesh_id, ipc_answered *answered, void *answer_argument)
{
    const struct daemon *daemon = argument;
    struct daemon_mesh *mesh = daemon->meshes;
    while (mesh != NULL && (mesh->leaving || strcmp(mesh->mesh_id, mesh_id) != 0))
        mesh = mesh->next;
    if (mesh == NULL || mesh->delivery == NULL)
        refuse(answered, answer_argument, 404, "mesh_not_found", "This mesh is not served any more.");
    else if (mesh->rotation != NULL)
        refuse(answered, answer_argument, 409, "rotation_under_way", "A rotation of this mesh's key is under way already.");
    else if (daemon->modes.ephemeral)
        refuse(answered, answer_argument, 409, "ephemeral", "An ephemeral member's key lives as long as its daemon; it is not rotated.");
    else if (link_is_revoked(delivery_link(mesh->delivery)) || trust_self_revoked(delivery_trust(mesh->delivery)))
        refuse(answered, answer_argument, 403, "member_revoked", "This member was removed from the mesh; its key cannot be rotated.");
    else if (!delivery_is_open(mesh->delivery))
        refuse(answered, answer_argument, 503, "link_down",
               "The broker must take the new key, and there is no connection to it now; nothing was changed. Try again when `daemon "
               "status` shows the link open.");
    else if (!link_features(delivery_link(mesh->delivery))->keypair_rotated_event)
        refuse(answered, answer_argument, 409, "feature_unavailable",
               "This broker does not know rotations (member_keypair_rotated_event); nothing was changed.");
    else {
        struct daemon_rotation *rotation = begin(mesh);
        rotation->answered = answered;
        rotation->answer_argument = answer_argument;
        start_files(rotation, step_prepare, prepared);
    }
}

bool daemon_rotation_settles(const struct daemon_mesh *mesh)
{
    return mesh->rotation != NULL && mesh->delivery != NULL && old_key_is_refused(delivery_link(mesh->delivery));
}

void daemon_forget_rotation(struct daemon_mesh *mesh)
{
    struct daemon_rotation *rotation = mesh->rotation;
    if (rotation == NULL)
        return;
    mesh->rotation = NULL;
    rotation->mesh = NULL;
    if (rotation->stage != ROTATE_FILES) /* else its task comes back, and ends it */
        end(rotation);
}
