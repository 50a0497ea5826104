/* doctor: whom this host talks to: its daemon, on the socket and on TCP, and each mesh's broker. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "cli/api.h"
#include "cli/broker_link.h"
#include "cli/doctor.h"
#include "cli/output.h"
#include "crypto/crypto.h"
#include "identity/identity.h"
#include "json/json.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

enum { ANSWER_MS = 3000, PORT_FILE_MAXIMUM = 32, TOKEN_FILE_MAXIMUM = 1024, SKEW_TOLERATED_MS = 5000 };

/* ---- proof: who holds the token can answer (45-trust, Against the local side) ------------------------------------------- */

/* hex HMAC(token, "claudemesh-local-v1" 00 "server" 00 nonce 00 port) */
static void proof_of(const struct buffer *token, const char *nonce, const char *port, char ret_hex[static SHA256_HEX_SIZE])
{
    static const char DOMAIN[] = "claudemesh-local-v1\0server";
    struct buffer text;
    struct sha256 mac;
    buffer_init(&text, BUFFER_UNLIMITED);
    (void)buffer_append(&text, DOMAIN, sizeof DOMAIN);
    (void)buffer_append(&text, nonce, strlen(nonce) + 1);
    (void)buffer_append_text(&text, port);
    hmac_sha256((const uint8_t *)token->data, token->length, text.data, text.length, &mac);
    hex_encode(mac.bytes, sizeof mac.bytes, ret_hex);
    buffer_release(&text);
}

static bool read_word(const char *path, size_t maximum, struct buffer *ret_word)
{
    struct error error;
    buffer_init(ret_word, maximum);
    if (file_read(path, ret_word, &error) != 0) {
        return false;
    }
    while (ret_word->length > 0 && strchr("\r\n \t", ret_word->data[ret_word->length - 1]) != NULL) {
        ret_word->data[--ret_word->length] = '\0';
    }
    return ret_word->length > 0;
}

/* Whether what answers holds the token that lies here. *ret_status: its HTTP status, 0 none. */
static bool proves_itself(struct http_client *client, const struct buffer *token, const char *port, int *ret_status)
{
    char nonce[ULID_SIZE], expected[SHA256_HEX_SIZE];
    struct http_response response = { 0 };
    struct error error;
    json_t *answer = NULL;
    ulid_generate(nonce);
    proof_of(token, nonce, port, expected);
    char *header = memory_printf("X-Claudemesh-Nonce: %s\r\n", nonce);
    *ret_status = 0;
    bool proved = false;
    if (http_client_request(client, "GET", "/v1/prove", header, NULL, 0, &response, &error) == 0) {
        *ret_status = response.status;
        proved = json_parse_strict(response.body.data, response.body.length, &answer, NULL) == 0 &&
                 string_equal(answer_text(answer, "proof"), expected);
        json_decref(answer);
        http_response_release(&response);
    }
    free(header);
    return proved;
}

/* ---- the daemon ------------------------------------------------------------------------------------------------------------ */

static void tell_link(struct doctor *doctor, const json_t *mesh)
{
    const char *slug = answer_text(mesh, "slug"), *status = answer_text(mesh, "status"), *reason = answer_text(mesh, "reason");
    char *remedy = NULL;
    if (answer_bool(mesh, "revoked")) {
        remedy = doctor_command(doctor, "mesh leave --mesh %s --force", slug);
        doctor_tell(doctor, DOCTOR_PROBLEM, "link", remedy,
                    "Mesh '%s': this member was removed. What is stored can be read; leave the mesh, and join again with a new invite.",
                    slug);
    } else if (string_equal(status, "refused") && strstr(reason, "key_rotated") != NULL) {
        remedy = doctor_command(doctor, "mesh leave --mesh %s --force", slug);
        doctor_tell(doctor, DOCTOR_PROBLEM, "link", remedy,
                    "Mesh '%s': another installation of this member replaced the key. Restore a backup that has the new one; or leave the "
                    "mesh, and join again with a new invite.",
                    slug);
    } else if (string_equal(status, "refused")) {
        remedy = doctor_command(doctor, "daemon logs --lines 50");
        doctor_tell(doctor, DOCTOR_PROBLEM, "link", remedy,
                    "Mesh '%s': the broker does not offer what this daemon requires (%s). Its operator has to update it.", slug,
                    reason[0] == '\0' ? "no reason given" : reason);
    } else if (!answer_bool(mesh, "connected")) {
        remedy = doctor_command(doctor, "daemon logs --lines 50");
        doctor_tell(doctor, DOCTOR_PROBLEM, "link", remedy, "Mesh '%s' is not connected (%s): %s.", slug, status,
                    reason[0] == '\0' ? answer_text(mesh, "detail") : reason);
    }
    free(remedy);
    int64_t dead = answer_integer(mesh, "dead", 0);
    if (dead > 0) {
        remedy = doctor_command(doctor, "daemon outbox list --failed");
        doctor_tell(doctor, DOCTOR_NOTE, "outbox", remedy, "Mesh '%s': %" PRId64 " message%s could not be delivered; requeue or drop them.",
                    slug, dead, dead == 1 ? "" : "s");
        free(remedy);
    }
    if (answer_bool(mesh, "membership_fork")) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "link", NULL,
                    "Mesh '%s': the broker withholds revocations that others know of. Ask the mesh's owner.", slug);
    }
    if (answer_text(mesh, "dedupe")[0] != '\0' && !string_equal(answer_text(mesh, "dedupe"), "broker")) {
        doctor_tell(doctor, DOCTOR_NOTE, "link", NULL, "Mesh '%s': its broker does not deduplicate; that rests on the recipients.", slug);
    }
}

static void check_health(struct doctor *doctor, struct api *api)
{
    json_t *health = NULL;
    struct error error;
    int http_status = 0;
    if (api_request(api, "GET", "/v1/health", NULL, ANSWER_MS, &http_status, &health, &error) != 0 || http_status != 200) {
        char *remedy = doctor_command(doctor, "daemon restart");
        doctor_tell(doctor, DOCTOR_PROBLEM, "daemon", remedy, "The daemon does not say how it is.");
        free(remedy);
        json_decref(health);
        return;
    }
    int64_t pressure = answer_integer(health, "outbox_pressure_pct", 0);
    enum { PRESSED = 80 };
    if (pressure >= PRESSED) {
        char *remedy = doctor_command(doctor, "daemon outbox list");
        doctor_tell(doctor, DOCTOR_PROBLEM, "outbox", remedy, "The outbox is at %" PRId64 " %% of its limits.", pressure);
        free(remedy);
    }
    size_t index;
    const json_t *mesh;
    json_array_foreach(json_object_get(health, "meshes"), index, mesh)
    {
        tell_link(doctor, mesh);
    }
    json_decref(health);
}

static void check_version(struct doctor *doctor, const struct api *api)
{
    const char *version = answer_text(api->version, "daemon_version");
    if (!string_equal(version, CLAUDEMESH_VERSION)) {
        char *remedy = doctor_command(doctor, "daemon restart");
        doctor_tell(doctor, DOCTOR_PROBLEM, "daemon", remedy, "The daemon that runs is version %s, the command is %s.", version,
                    CLAUDEMESH_VERSION);
        free(remedy);
    }
}

/* The port file, who listens there, and whether the token opens it. */
static void check_tcp(struct doctor *doctor, bool running)
{
    const struct config_paths *paths = &doctor->cli->paths;
    struct buffer port, token;
    struct http_client *client = NULL;
    struct error error;
    int http_status = 0;
    bool has_port = read_word(paths->http_port, PORT_FILE_MAXIMUM, &port),
         has_token = read_word(paths->local_token, TOKEN_FILE_MAXIMUM, &token);
    char *url = has_port ? memory_printf("http://127.0.0.1:%s", port.data) : NULL;
    char *restart = doctor_command(doctor, "daemon restart");
    if (!has_port || !has_token) {
        goto out; /* TCP is off, or no daemon ever ran */
    }
    if (!running) {
        char *quoted = doctor_quote(paths->http_port), *remedy = memory_printf("rm -f %s", quoted);
        doctor_tell(doctor, DOCTOR_NOTE, "tcp", remedy, "%s names a port, and no daemon runs (one was killed).", paths->http_port);
        free(remedy);
        free(quoted);
        goto out;
    }
    if (http_client_open_url(url, NULL, ANSWER_MS, &client, &error) != 0) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "tcp", restart, "Nothing answers at 127.0.0.1:%s, which http.port names: %s.", port.data,
                    error.message);
        goto out;
    }
    char *bearer = memory_printf("Authorization: Bearer %s\r\n", token.data);
    struct http_response response = { 0 };
    if (!proves_itself(client, &token, port.data, &http_status)) {
        /* The token is not shown to what cannot prove that it has it. */
        doctor_tell(doctor, DOCTOR_PROBLEM, "tcp", restart,
                    "What listens at 127.0.0.1:%s does not hold the token of %s: another program, or a daemon with an older token.",
                    port.data, paths->local_token);
    } else if (http_client_request(client, "GET", "/v1/version", bearer, NULL, 0, &response, &error) != 0 || response.status != 200) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "tcp", restart, "The daemon at 127.0.0.1:%s does not take the token of %s.", port.data,
                    paths->local_token);
    } else {
        doctor_tell(doctor, DOCTOR_OK, "tcp", NULL, "The daemon answers at 127.0.0.1:%s and takes the token.", port.data);
    }
    http_response_release(&response);
    secret_wipe(bearer, strlen(bearer));
    free(bearer);
out:
    http_client_free(client);
    free(restart);
    free(url);
    buffer_release(&port);
    buffer_wipe_release(&token);
}

static void check_socket(struct doctor *doctor, struct api *api)
{
    const struct config_paths *paths = &doctor->cli->paths;
    struct buffer port, token;
    int http_status = 0;
    bool has_port = read_word(paths->http_port, PORT_FILE_MAXIMUM, &port);
    bool proved = read_word(paths->local_token, TOKEN_FILE_MAXIMUM, &token) &&
                  proves_itself(api->client, &token, has_port ? port.data : "0", &http_status);
    if (proved) {
        doctor_tell(doctor, DOCTOR_OK, "daemon", NULL, "The daemon answers at its socket and holds the token.");
    } else {
        char *remedy = doctor_command(doctor, "daemon restart");
        doctor_tell(doctor, DOCTOR_PROBLEM, "daemon", remedy,
                    "The daemon at %s does not hold the token of %s: clients on TCP cannot get in.", paths->socket, paths->local_token);
        free(remedy);
    }
    buffer_release(&port);
    buffer_wipe_release(&token);
}

void doctor_check_daemon(struct doctor *doctor)
{
    const struct config_paths *paths = &doctor->cli->paths;
    struct api api;
    struct error error, lock_error;
    int64_t pid = 0;
    struct sockaddr_un address;
    char *up = doctor_command(doctor, "daemon up"), *restart = doctor_command(doctor, "daemon restart");
    bool locked = identity_running_pid(paths, &pid, &lock_error) == 0;
    if (strlen(paths->socket) >= sizeof address.sun_path) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "daemon", NULL,
                    "The path of the socket, %s, is longer than this system allows: choose a shorter directory with --config-dir.",
                    paths->socket);
    } else if (!locked) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "daemon", up, "No daemon is running.");
    } else if (api_open(doctor->cli, ANSWER_MS, &api, &error) != 0) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "daemon", restart, "A daemon (pid %" PRId64 ") runs, but does not answer at %s: %s.", pid,
                    paths->socket, error.message);
    } else {
        check_socket(doctor, &api);
        check_version(doctor, &api);
        check_health(doctor, &api);
        api_close(&api);
    }
    check_tcp(doctor, locked);
    free(up);
    free(restart);
}

/* ---- brokers ----------------------------------------------------------------------------------------------------------------- */

/* What can be done from here about a broker that does not answer: start it when it is this host's, else see how far one gets. */
static char *remedy_for_broker(const struct doctor *doctor, const char *url)
{
    const char *host = strstr(url, "://");
    host = host == NULL ? url : host + 3;
    size_t length = strcspn(host, "/");
    bool here = strncmp(host, "127.", 4) == 0 || strncmp(host, "localhost", 9) == 0 || strncmp(host, "[::1]", 5) == 0;
    if (here) {
        return doctor_command(doctor, "broker serve --listen %.*s", (int)length, host);
    }
    char *target = memory_printf("%s://%.*s/health", string_has_prefix(url, "wss:") ? "https" : "http", (int)length, host);
    char *quoted = doctor_quote(target), *remedy = memory_printf("curl -sv %s", quoted);
    free(quoted);
    free(target);
    return remedy;
}

static bool check_reachable(struct doctor *doctor, const struct config_mesh *mesh)
{
    struct http_client *client = NULL;
    struct http_response response = { 0 };
    struct error error = { 0 };
    bool good =
        http_client_open_url(mesh->broker_url, settings_text(doctor->settings, "broker.ca_file"), ANSWER_MS, &client, &error) == 0 &&
        http_client_request(client, "GET", "/health", NULL, NULL, 0, &response, &error) == 0;
    if (good && response.status != 200) {
        (void)error_set(&error, ERROR_INVALID, "it answers GET /health with %d", response.status);
        good = false;
    }
    if (!good) {
        char *remedy = remedy_for_broker(doctor, mesh->broker_url);
        doctor_tell(doctor, DOCTOR_PROBLEM, "broker", remedy, "Mesh '%s': its broker, %s, cannot be reached: %s.", mesh->slug,
                    mesh->broker_url, error.message);
        free(remedy);
    }
    http_response_release(&response);
    http_client_free(client);
    return good;
}

static void tell_skew(struct doctor *doctor, const struct config_mesh *mesh, int64_t skew_ms)
{
    if (skew_ms > -SKEW_TOLERATED_MS && skew_ms < SKEW_TOLERATED_MS) {
        doctor_tell(doctor, DOCTOR_OK, "broker", NULL, "Mesh '%s': its broker takes our hello, and its clock agrees.", mesh->slug);
        return;
    }
    doctor_tell(doctor, DOCTOR_PROBLEM, "clock", "sudo timedatectl set-ntp true",
                "The clock of this host is %" PRId64 " s %s that of the broker of mesh '%s'.", (skew_ms < 0 ? -skew_ms : skew_ms) / 1000,
                skew_ms < 0 ? "ahead of" : "behind", mesh->slug);
}

static void check_hello(struct doctor *doctor, const struct config_mesh *mesh)
{
    struct keypair *keys = NULL;
    struct broker_link *link = NULL;
    struct error error;
    char *remedy = NULL;
    if (identity_mesh_keys(mesh, &keys, &error) != 0) {
        doctor_tell(doctor, DOCTOR_PROBLEM, "broker", NULL, "Mesh '%s': its keys in config.json cannot be used: %s.", mesh->slug,
                    error.message);
    } else if (broker_link_open(mesh, keys, doctor->settings, BROKER_LINK_OPEN_MS, &link, &error) != 0) {
        remedy = doctor_command(doctor, error.code == ERROR_DENIED ? "mesh leave --mesh %s --force" : "daemon logs --lines 50", mesh->slug);
        doctor_tell(doctor, DOCTOR_PROBLEM, "broker", remedy, "Mesh '%s': its broker is there and does not let this member in: %s.%s",
                    mesh->slug, error.message, error.code == ERROR_DENIED ? " Ask for a new invite, leave, and join again." : "");
    } else {
        tell_skew(doctor, mesh, broker_link_clock_skew_ms(link));
    }
    free(remedy);
    broker_link_close(link);
    keypair_free(keys);
}

void doctor_check_brokers(struct doctor *doctor)
{
    if (doctor->file == NULL || doctor->settings == NULL) {
        return; /* told */
    }
    for (size_t i = 0; i < doctor->file->mesh_count; i++) {
        const struct config_mesh *mesh = &doctor->file->meshes[i];
        if (check_reachable(doctor, mesh)) {
            check_hello(doctor, mesh);
        }
    }
}
