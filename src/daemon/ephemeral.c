/* Owns the member that lives as long as its process (50-identity, Modes): keys in memory alone, enrolled with an invite at the start, gone from the mesh at the end. Its databases
 * lie in a directory of their own, which goes with it; that of one that was killed goes at the next start. */
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <unistd.h>

#include "daemon/internal.h"
#include "delivery/delivery.h"
#include "json/json.h"
#include "link/broker_http.h"
#include "proto/member_leave.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

#define SCRATCH_PREFIX "ephemeral-"

enum { EXIT_STATUS_NOT_AUTHORISED = 3, EXIT_STATUS_UNREACHABLE = 5, EXIT_STATUS_TIMED_OUT = 7 }; /* 10-cli, Exit codes */
enum { SHORT_KEY = 6, DESCRIPTORS = 8 };

/* ---- where its files lie --------------------------------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *position)
{
    (void)status;
    (void)kind;
    (void)position;
    return remove(path) != 0 && errno != ENOENT ? -1 : 0;
}

static void remove_tree(const char *path)
{
    if (nftw(path, remove_entry, DESCRIPTORS, FTW_DEPTH | FTW_PHYS) != 0)
        log_event(LOG_LEVEL_WARN, "ephemeral_files_left", LOG_NUMBER("errno", errno), LOG_END);
}

void daemon_sweep_scratch(const struct daemon *daemon)
{
    const char *where = daemon->options->paths->daemon;
    DIR *entries = opendir(where);
    if (entries == NULL)
        return;
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (!string_has_prefix(entry->d_name, SCRATCH_PREFIX))
            continue;
        char *path = path_join(where, entry->d_name);
        remove_tree(path);
        free(path);
    }
    closedir(entries);
}

/* What a member keeps in files that are its own. config.json is among them: the joined meshes of this directory are another identity's. */
static char **own_files(struct config_paths *paths, size_t index)
{
    char **const files[] = { &paths->config_json, &paths->outbox_db,       &paths->inbox_db,
                             &paths->session_id,  &paths->keypair_archive, &paths->host_fingerprint,
                             &paths->topic_keys,  &paths->inbox_rebuild,   &paths->outbox_recovery };
    return index < ARRAY_LENGTH(files) ? files[index] : NULL;
}

int daemon_make_scratch(struct daemon *daemon, struct error *error)
{
    char *directory = path_join(daemon->options->paths->daemon, SCRATCH_PREFIX "XXXXXX");
    if (mkdtemp(directory) == NULL) { /* 0700 */
        int status = error_set_errno(error, "Cannot make a directory in %s", daemon->options->paths->daemon);
        free(directory);
        return status;
    }
    daemon->scratch = directory;
    daemon->scratch_paths = *daemon->options->paths;
    daemon->scratch_options = *daemon->options;
    daemon->scratch_options.paths = &daemon->scratch_paths;
    char **file;
    for (size_t i = 0; (file = own_files(&daemon->scratch_paths, i)) != NULL; i++) {
        const char *name = strrchr(*file, '/') + 1;
        *file = path_join(directory, name);
    }
    daemon->options = &daemon->scratch_options;
    return 0;
}

void daemon_remove_scratch(struct daemon *daemon)
{
    char **file;
    if (daemon->scratch == NULL)
        return;
    remove_tree(daemon->scratch);
    for (size_t i = 0; (file = own_files(&daemon->scratch_paths, i)) != NULL; i++)
        free(*file);
    free(daemon->scratch);
    daemon->scratch = NULL;
}

/* ---- coming ----------------------------------------------------------------------------------------------------------------- */

static char *choose_name(const struct daemon *daemon, const struct keypair *keys)
{
    const char *configured = settings_text(daemon->settings, "daemon.display_name"); /* --name, too */
    return *configured != '\0' ? memory_strdup(configured)
                               : memory_printf("%s-%.*s", daemon->options->member_name, SHORT_KEY, keypair_public_hex(keys));
}

static int judge_answer(struct daemon *daemon, int http_status, const json_t *answer, struct error *error)
{
    const char *member_id = json_string_value(json_object_get(answer, "memberId"));
    if (http_status >= 200 && http_status <= 299 && member_id != NULL && id_is_valid(member_id))
        return 0;
    const char *code = json_string_value(json_object_get(answer, "error"));
    char *printable = text_printable(code == NULL ? "" : code, code == NULL ? 0 : strlen(code));
    daemon->failure_status = http_status == 401 || http_status == 403 ? EXIT_STATUS_NOT_AUTHORISED : DAEMON_EXIT_FAILED;
    int status = error_set(error, ERROR_DENIED, "The broker did not take the invite (HTTP %d%s%.100s); ask for a new one.", http_status,
                           printable[0] == '\0' ? "" : ", ", printable);
    free(printable);
    return status;
}

static int enrol(struct daemon *daemon, const struct keypair *keys, const char *name, json_t **ret_answer, struct error *error)
{
    const struct broker_http broker = { .broker_url = daemon->options->invite->broker_url,
                                        .ca_file = settings_text(daemon->settings, "broker.ca_file"),
                                        .allow_insecure = settings_bool(daemon->settings, "broker.allow_insecure") };
    int http_status = 0;
    int status = broker_http_join(&broker, daemon->options->invite, keys, name, clock_wall_ms(), &http_status, ret_answer, error);
    if (status != 0) {
        daemon->failure_status = status == -(int)ERROR_TIMEOUT ? EXIT_STATUS_TIMED_OUT : EXIT_STATUS_UNREACHABLE;
        return error_prefix(error, "Cannot enrol with the invite");
    }
    return judge_answer(daemon, http_status, *ret_answer, error);
}

/* A config.json that is never written. */
static int serve(struct daemon *daemon, const struct keypair *keys, char *name, const json_t *answer, struct error *error)
{
    const struct invite *invite = daemon->options->invite;
    char secret[SECRET_HEX_SIZE], joined_at[RFC3339_SIZE], pubkey[KEY_HEX_SIZE];
    char *member_id = memory_strdup(json_string_value(json_object_get(answer, "memberId")));
    struct config_file file = { .display_name = name };
    keypair_secret_hex(keys, secret);
    memcpy(pubkey, keypair_public_hex(keys), sizeof(pubkey));
    time_format_rfc3339(clock_wall_ms(), joined_at);
    const struct config_mesh mesh = {
        .mesh_id = invite->mesh_id,
        .member_id = member_id,
        .slug = invite->mesh_slug,
        .name = invite->mesh_name,
        .pubkey = pubkey,
        .secret_key = secret,
        .broker_url = invite->broker_url,
        .joined_at = joined_at,
        .role = invite->role,
        .owner_pubkey = invite->owner_pubkey,
    };
    int status = daemon_take_up(daemon, &file, &mesh, error);
    secret_wipe(secret, sizeof(secret));
    daemon->ephemeral_member_id = member_id;
    return status;
}

static void on_ttl(void *argument)
{
    struct daemon *daemon = argument;
    log_event(LOG_LEVEL_INFO, "ephemeral_time_is_over", LOG_NUMBER("ttl_ms", daemon->options->ttl_ms), LOG_END);
    daemon_stop(daemon, DAEMON_EXIT_DONE);
}

int daemon_join_ephemeral(struct daemon *daemon, struct error *error)
{
    struct keypair *keys = NULL;
    json_t *answer = NULL;
    char *name = NULL, session_id[UUID_SIZE];
    int status = keypair_generate(&keys, error);
    if (status != 0)
        return status;
    uuid_generate(session_id);
    daemon->session_id = memory_strdup(session_id);
    name = choose_name(daemon, keys);
    status = enrol(daemon, keys, name, &answer, error);
    if (status == 0)
        status = serve(daemon, keys, name, answer, error);
    if (status == 0) {
        log_event(LOG_LEVEL_INFO, "ephemeral_joined", LOG_TEXT("mesh", daemon->options->invite->mesh_slug),
                  LOG_TEXT("member_id", daemon->ephemeral_member_id), LOG_END);
        if (daemon->options->ttl_ms > 0) {
            daemon->ttl = loop_timer_new(daemon->loop, on_ttl, daemon);
            loop_timer_start(daemon->ttl, daemon->options->ttl_ms);
        }
    }
    invite_release(daemon->options->invite); /* used up: its secrets stay no longer than they must */
    keypair_free(keys);
    json_decref(answer);
    free(name);
    return status;
}

/* ---- going ------------------------------------------------------------------------------------------------------------------- */

static struct daemon_mesh *own_mesh(const struct daemon *daemon)
{
    return daemon->meshes != NULL && daemon->meshes->delivery != NULL ? daemon->meshes : NULL;
}

static void tell_left_behind(const struct daemon *daemon, const char *why)
{
    log_event(LOG_LEVEL_WARN, "ephemeral_member_left_behind", LOG_TEXT("member_id", daemon->ephemeral_member_id), LOG_TEXT("error", why),
              LOG_TEXT("remedy", "the owner or an admin removes it: claudemesh member revoke"), LOG_END);
}

static void on_left(void *argument, const json_t *answer)
{
    struct daemon *daemon = argument;
    if (string_equal(json_string_value(json_object_get(answer, "type")), "member_ok"))
        log_event(LOG_LEVEL_INFO, "ephemeral_left", LOG_TEXT("member_id", daemon->ephemeral_member_id), LOG_END);
    else
        tell_left_behind(daemon, answer == NULL ? "the broker did not answer" : "the broker refused it");
    daemon->leave = LEAVE_OVER;
}

static void ask_leave(struct daemon *daemon, const struct daemon_mesh *mesh)
{
    json_t *request = NULL;
    struct error error = { 0 };
    daemon->leave = LEAVE_ASKED;
    if (member_leave_make(mesh->mesh_id, daemon->ephemeral_member_id, mesh->keys, link_now_ms(delivery_link(mesh->delivery)), &request,
                          &error) != 0 ||
        link_request(delivery_link(mesh->delivery), request, on_left, daemon) != 0) {
        tell_left_behind(daemon, request == NULL ? error.message : "the link is not open");
        daemon->leave = LEAVE_OVER;
    }
    json_decref(request);
}

bool daemon_has_left(struct daemon *daemon, bool late)
{
    const struct daemon_mesh *mesh = own_mesh(daemon);
    struct outbox_counts counts;
    if (!daemon->modes.ephemeral || mesh == NULL || daemon->leave == LEAVE_OVER)
        return true;
    if (daemon->leave == LEAVE_ASKED)
        return late;
    outbox_counts(daemon->outbox, mesh->mesh_id, &counts);
    enum link_state state = link_state(delivery_link(mesh->delivery));
    /* What is queued goes nowhere once the databases are gone: as long as the broker takes it, it goes first. A link that is on its way up, right after the start, can say it in a moment. */
    if (!late && (state == LINK_CONNECTING || (state == LINK_OPEN && counts.pending + counts.inflight > 0)))
        return false;
    ask_leave(daemon, mesh);
    return daemon->leave == LEAVE_OVER;
}
