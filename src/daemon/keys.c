/* Owns what the daemon does with its own secrets beside a rotation of a mesh's key: the token (50-identity, Token), and the archive of former keys with its daily pass. What blocks runs on a
 * database's reader. */
#include "daemon/internal.h"
#include "identity/rotation.h"
#include "ipc/metrics.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"

static const int64_t DAY_MS = INT64_C(24) * 3600 * 1000;

static json_t *error_body(const char *code, const struct error *error)
{
    json_t *body = json_new_object();
    json_put_string(body, "error", code);
    json_put_string(body, "detail", error->message);
    return body;
}

/* ---- the token --------------------------------------------------------------------------------------------------------- */

struct token_task {
    struct db_task task;
    struct daemon *daemon;
    char *token;
    ipc_answered *answered;
    void *argument;
};

static int run_token(struct db_connection *connection, struct db_task *base)
{
    (void)connection;
    struct token_task *task = CONTAINER_OF(base, struct token_task, task);
    return identity_rotate_token(task->daemon->options->paths, &task->token, &base->error);
}

static void done_token(struct db_task *base)
{
    struct token_task *task = CONTAINER_OF(base, struct token_task, task);
    struct daemon *daemon = task->daemon;
    if (base->status == 0) {
        ipc_set_token(daemon->ipc, task->token);
        secret_wipe(daemon->token, strlen(daemon->token));
        free(daemon->token);
        daemon->token = task->token;
        ipc_metrics_token_rotated(daemon->metrics);
        log_event(LOG_LEVEL_INFO, "local_token_rotated", LOG_SECURITY, LOG_END);
        json_t *body = json_new_object();
        json_put_bool(body, "ok", true);
        json_put_integer(body, "old_token_valid_s", IPC_OLD_TOKEN_MS / 1000);
        task->answered(task->argument, 200, body);
    } else {
        bool full = base->status == -(int)ERROR_FULL;
        log_event(LOG_LEVEL_ERROR, "local_token_not_rotated", LOG_TEXT("error", base->error.message), LOG_END);
        task->answered(task->argument, full ? 507 : 500, error_body(full ? "insufficient_storage" : "rotation_failed", &base->error));
    }
    free(task);
}

void daemon_rotate_token(void *argument, ipc_answered *answered, void *answer_argument)
{
    struct daemon *daemon = argument;
    struct token_task *task = memory_zalloc(sizeof(*task));
    task->task = (struct db_task){ .run = run_token, .done = done_token };
    task->daemon = daemon;
    task->answered = answered;
    task->argument = answer_argument;
    db_read(daemon->outbox_db, &task->task);
}

/* ---- the archive ------------------------------------------------------------------------------------------------------- */

void daemon_tell_archive(const struct archive_findings *findings)
{
    if (findings->moved_to[0] != '\0')
        log_event(LOG_LEVEL_ERROR, "keypair_archive_malformed", LOG_SECURITY, LOG_TEXT("moved_to", findings->moved_to),
                  LOG_TEXT("detail", findings->why), LOG_END);
    if (findings->wrong_mode)
        log_event(LOG_LEVEL_WARN, "keypair_archive_readable_by_others", LOG_SECURITY, LOG_TEXT("remedy", "chmod 600"), LOG_END);
    if (findings->dropped > 0)
        log_event(LOG_LEVEL_WARN, "archived_key_dropped_early", LOG_NUMBER("keys", findings->dropped),
                  LOG_NUMBER("maximum", ARCHIVE_KEYS_MAXIMUM), LOG_END);
}

void daemon_read_archive(const struct daemon *daemon, struct key_archive *ret_archive)
{
    struct archive_findings findings = { .wrong_mode = false };
    struct error error;
    *ret_archive = (struct key_archive){ 0 };
    if (key_archive_read(daemon->options->paths->keypair_archive, clock_wall_ms(), ret_archive, &findings, &error) == 0)
        daemon_tell_archive(&findings);
    else
        log_event(LOG_LEVEL_ERROR, "keypair_archive_unreadable", LOG_TEXT("error", error.message), LOG_END);
}

struct clean_task {
    struct db_task task;
    struct daemon *daemon;
    size_t removed, left;
    struct archive_findings findings;
    ipc_answered *answered; /* NULL: the daily pass */
    void *argument;
};

static int run_clean(struct db_connection *connection, struct db_task *base)
{
    (void)connection;
    struct clean_task *task = CONTAINER_OF(base, struct clean_task, task);
    return rotation_clean_archive(task->daemon->options->paths, clock_wall_ms(), &task->removed, &task->left, &task->findings,
                                  &base->error);
}

static void done_clean(struct db_task *base)
{
    struct clean_task *task = CONTAINER_OF(base, struct clean_task, task);
    if (base->status == 0) {
        daemon_tell_archive(&task->findings);
        if (task->removed > 0)
            log_event(LOG_LEVEL_INFO, "archived_keys_expired", LOG_NUMBER("keys", task->removed), LOG_NUMBER("left", task->left), LOG_END);
    } else {
        log_event(LOG_LEVEL_ERROR, "keypair_archive_not_cleaned", LOG_TEXT("error", base->error.message), LOG_END);
    }
    if (task->answered != NULL && base->status == 0) {
        json_t *body = json_new_object();
        json_put_integer(body, "removed", (int64_t)task->removed);
        json_put_integer(body, "left", (int64_t)task->left);
        json_put_string(body, "moved_to", task->findings.moved_to[0] == '\0' ? NULL : task->findings.moved_to);
        task->answered(task->argument, 200, body);
    } else if (task->answered != NULL) {
        task->answered(task->argument, base->status == -(int)ERROR_FULL ? 507 : 500, error_body("archive_cleanup_failed", &base->error));
    }
    free(task);
}

void daemon_clean_archive(void *argument, ipc_answered *answered, void *answer_argument)
{
    struct daemon *daemon = argument;
    struct clean_task *task = memory_zalloc(sizeof(*task));
    task->task = (struct db_task){ .run = run_clean, .done = done_clean };
    task->daemon = daemon;
    task->answered = answered;
    task->argument = answer_argument;
    db_read(daemon->outbox_db, &task->task);
}

/* Called with every upkeep; a day apart by a clock that does not step. What has expired opens nothing meanwhile. */
void daemon_clean_archive_daily(struct daemon *daemon)
{
    int64_t now_ms = clock_boot_ms();
    if (daemon->archive_cleaned_ms != 0 && now_ms - daemon->archive_cleaned_ms < DAY_MS)
        return;
    daemon->archive_cleaned_ms = now_ms;
    daemon_clean_archive(daemon, NULL, NULL);
}
