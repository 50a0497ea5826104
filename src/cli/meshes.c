/* Joined meshes and their brokers, for commands. Must not know what a command does with them. */
#include "cli/meshes.h"

#include <limits.h>
#include <pwd.h>
#include <unistd.h>

#include "cli/output.h"
#include "crypto/crypto.h"
#include "identity/identity.h"
#include "json/json.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

int meshes_read(struct cli *cli, struct config_file *ret_file)
{
    struct error error = { 0 };
    return config_file_read(cli->paths.config_json, ret_file, &error) == 0 ? EXIT_DONE : cli_fail_error(cli, &error);
}

static void list_slugs(const struct config_file *file, char *ret_list, size_t size)
{
    size_t used = 0;
    ret_list[0] = '\0';
    for (size_t i = 0; i < file->mesh_count && used < size; i++) {
        int written = snprintf(ret_list + used, size - used, "%s%s", i == 0 ? "" : ", ", file->meshes[i].slug);
        used += written > 0 ? (size_t)written : 0;
    }
}

const struct config_mesh *meshes_choose(struct cli *cli, const struct config_file *file, int *ret_status)
{
    char slugs[512];
    list_slugs(file, slugs, sizeof slugs);
    *ret_status = EXIT_DONE;
    if (file->mesh_count == 0) {
        *ret_status = cli_fail(cli, EXIT_FAILED, "no mesh is joined yet; use 'claudemesh join <invite>' or 'claudemesh mesh create'");
        return NULL;
    }
    if (cli->mesh != NULL) {
        const struct config_mesh *mesh = config_file_mesh(file, cli->mesh);
        if (mesh == NULL) {
            *ret_status = cli_fail(cli, EXIT_FAILED, "the mesh '%s' is not joined here (joined: %s)", cli->mesh, slugs);
        }
        return mesh;
    }
    if (file->mesh_count > 1) {
        *ret_status = cli_fail_usage(cli, "which mesh? add --mesh SLUG (joined: %s)", slugs);
        return NULL;
    }
    return &file->meshes[0];
}

int meshes_settings(struct cli *cli, struct settings **ret_settings)
{
    struct error error = { 0 };
    if (settings_load(SETTINGS, SETTING_COUNT, "CLAUDEMESH_", cli->paths.config_toml, ret_settings, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    return EXIT_DONE;
}

int meshes_keys(struct cli *cli, const struct config_mesh *mesh, struct keypair **ret_keys)
{
    struct error error = { 0 };
    if (crypto_start(&error) != 0 || identity_mesh_keys(mesh, ret_keys, &error) != 0) {
        return cli_fail_error(cli, &error);
    }
    return EXIT_DONE;
}

bool meshes_is_owner(const struct config_mesh *mesh)
{
    return mesh->owner_pubkey != NULL && (mesh->owner_secret_key != NULL || string_equal(mesh->pubkey, mesh->owner_pubkey));
}

int meshes_statement_keys(struct cli *cli, const struct config_mesh *mesh, struct keypair **ret_keys)
{
    struct error error = { 0 };
    struct keypair *keys = NULL;
    if (mesh->owner_secret_key == NULL) {
        return meshes_keys(cli, mesh, ret_keys);
    }
    int result = crypto_start(&error);
    if (result == 0) {
        result = keypair_from_secret_hex(mesh->owner_secret_key, &keys, &error);
    }
    if (result == 0 && !string_equal(keypair_public_hex(keys), mesh->owner_pubkey)) {
        result = error_set(&error, ERROR_INVALID, "ownerSecretKey and ownerPubkey of mesh '%s' do not belong together", mesh->slug);
    }
    if (result != 0) {
        keypair_free(keys);
        return cli_fail_error(cli, &error);
    }
    *ret_keys = keys;
    return EXIT_DONE;
}

int meshes_broker_url(const char *given, bool allow_insecure, char **ret_url, struct error *error)
{
    const char *rest = strstr(given, "://");
    char *scheme;
    char *url;
    if (rest == NULL) {
        return error_set(error, ERROR_INVALID, "'%.100s' is no URL; a broker's is like wss://broker.example.org/ws", given);
    }
    rest += strlen("://");
    scheme = memory_strndup(given, (size_t)(rest - given) - strlen("://"));
    if (string_equal(scheme, "http") || string_equal(scheme, "https")) { /* the same server, as people know it */
        scheme[0] = 'w';
        scheme[1] = 's';
        memmove(scheme + 2, scheme + 4, strlen(scheme + 4) + 1);
    }
    const char *slash = strchr(rest, '/');
    url = memory_printf("%s://%s%s", scheme, rest, slash == NULL ? "/ws" : slash[1] == '\0' ? "ws" : "");
    free(scheme);
    if (broker_url_check(url, allow_insecure, error) != 0) {
        free(url);
        return -(int)(error->code == ERROR_NONE ? ERROR_INVALID : error->code);
    }
    *ret_url = url;
    return 0;
}

static char *user_at_host(void)
{
    char host[HOST_NAME_MAX + 1] = "host";
    const struct passwd *user = getpwuid(getuid());
    (void)gethostname(host, sizeof host);
    host[HOST_NAME_MAX] = '\0';
    host[strcspn(host, ".")] = '\0';
    return memory_printf("%.60s@%.60s", user == NULL || user->pw_name[0] == '\0' ? "user" : user->pw_name, host);
}

int meshes_display_name(const char *given, const struct config_file *file, char **ret_name, struct error *error)
{
    char *name = given != NULL ? memory_strdup(given) : file->display_name != NULL ? memory_strdup(file->display_name) : user_at_host();
    char *printable = text_printable(name, strlen(name));
    int status = 0;
    if (name[0] == '\0' || strlen(name) > LIMIT_DISPLAY_NAME || !utf8_is_valid(name, strlen(name)) || !string_equal(name, printable) ||
        name[strspn(name, " ")] == '\0') {
        status =
            error_set(error, ERROR_INVALID, "a display name has 1 to %d bytes of text without control characters; give one with --name",
                      (int)LIMIT_DISPLAY_NAME);
        free(name);
    } else {
        *ret_name = name;
    }
    free(printable);
    return status;
}

struct broker_http meshes_broker_http(const struct settings *settings, const char *broker_url)
{
    return (struct broker_http){ .broker_url = broker_url,
                                 .ca_file = settings_text(settings, "broker.ca_file"),
                                 .allow_insecure = settings_bool(settings, "broker.allow_insecure") };
}

static const struct {
    const char *code, *sentence;
} BROKER_REFUSALS[] = {
    { "malformed", "the broker cannot read the request" },
    { "bad_signature", "the broker finds a wrong signature" },
    { "expired", "the invite has expired; ask for a new one" },
    { "revoked", "the invite was revoked; ask for a new one" },
    { "exhausted", "the invite was used as often as it may be; ask for a new one" },
    { "unauthorized", "the broker does not know this admin token" },
    { "invalid_token", "the broker does not know this admin token" },
};

int broker_answer_print(struct cli *cli, int http_status, const json_t *answer)
{
    const char *code = answer_text(answer, "error"), *detail = answer_text(answer, "detail");
    if (http_status >= 200 && http_status <= 299 && json_is_object(answer)) {
        return EXIT_DONE;
    }
    enum exit_code exit = http_status == 400 ? EXIT_FAILED : exit_code_of_answer(http_status, code);
    if (cli->json && json_is_object(answer)) {
        cli_print_json(answer);
        cli->error_printed = true;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(BROKER_REFUSALS); i++) {
        if (string_equal(BROKER_REFUSALS[i].code, code)) {
            return cli_fail(cli, exit, "%s (%s)", BROKER_REFUSALS[i].sentence, code);
        }
    }
    if (code[0] == '\0') {
        return cli_fail(cli, exit, "what answers there is no claudemesh broker (HTTP %d)", http_status);
    }
    return cli_fail(cli, exit, "the broker refused it: %s (%s)", detail[0] == '\0' ? "no reason given" : detail, code);
}

bool meshes_can_ask(void)
{
    return isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
}

bool meshes_confirm(const char *question)
{
    char answer[16] = "";
    if (!meshes_can_ask()) {
        return false;
    }
    (void)fflush(stdout);
    fprintf(stderr, "%s [y/N] ", question);
    if (fgets(answer, sizeof answer, stdin) == NULL) {
        return false;
    }
    answer[strcspn(answer, "\n")] = '\0';
    return strcasecmp(answer, "y") == 0 || strcasecmp(answer, "yes") == 0;
}
