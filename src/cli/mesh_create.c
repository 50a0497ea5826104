/* `claudemesh mesh create`: an owner key and a root key made on this host, the mesh registered at its broker, joined here. */
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/pending_key.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "proto/statement.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { ROOT_KEY_BYTES = 32, TOKEN_FILE_LIMIT = 4096 };

static const struct cli_option OPTIONS[] = {
    { "broker", 0, OPTION_VALUE, "URL", "where the mesh lives, as in wss://broker.example.org/ws" },
    { "slug", 0, OPTION_VALUE, "S", "its short name (else made from the name)" },
    { "admin-token-file", 0, OPTION_VALUE, "F", "the broker's admin token (else broker/admin-token in the configuration directory)" },
    { "name", 0, OPTION_VALUE, "N", "your display name in it (else displayName of config.json, else user@host)" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

struct creation {
    struct config_file file;
    struct settings *settings;
    struct keypair *owner;
    char *token, *broker_url, *display_name;
    char slug[LIMIT_NAME + 1], mesh_id[UUID_SIZE], pending_id[PENDING_ID_SIZE];
    struct pending_key pending;
    const char *name;
    json_t *answer;
};

static void creation_release(struct creation *creation)
{
    if (creation->token != NULL) {
        secret_wipe(creation->token, strlen(creation->token));
    }
    free(creation->token);
    free(creation->broker_url);
    free(creation->display_name);
    keypair_free(creation->owner);
    settings_free(creation->settings);
    config_file_release(&creation->file);
    json_decref(creation->answer);
}

/* "Acme Build Farm" to "acme-build-farm". -1 when nothing usable is in it. */
static int make_slug(const char *name, char ret_slug[LIMIT_NAME + 1])
{
    size_t length = 0;
    for (const char *at = name; *at != '\0' && length < LIMIT_NAME; at++) {
        char letter = (char)(*at >= 'A' && *at <= 'Z' ? *at - 'A' + 'a' : *at);
        bool plain = (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') || letter == '_' || letter == '.';
        if (plain) {
            ret_slug[length++] = letter;
        } else if (length > 0 && ret_slug[length - 1] != '-') {
            ret_slug[length++] = '-';
        }
    }
    while (length > 0 && ret_slug[length - 1] == '-') {
        length--;
    }
    ret_slug[length] = '\0';
    return name_is_valid(ret_slug) ? 0 : -1;
}

/* The token's first line. */
static int read_token(struct cli *cli, char **ret_token)
{
    const char *given = cli_value(cli, "admin-token-file");
    const char *path = given != NULL ? given : cli->paths.broker_admin_token;
    struct buffer text;
    struct error error = { 0 };
    int status = EXIT_DONE;
    buffer_init_secret(&text, TOKEN_FILE_LIMIT);
    if (file_read_given(path, &text, &error) != 0) {
        status = error.code == ERROR_NOT_FOUND
                     ? cli_fail(cli, EXIT_NOT_AUTHORISED,
                                "making a mesh takes the broker's admin token: there is no %s; name the file with --admin-token-file", path)
                     : cli_fail_error(cli, &error);
    } else {
        size_t length = strcspn(text.data, "\r\n");
        bool usable = length > 0 && client_message_id_is_valid(text.data, length); /* printable, no spaces: it goes into a header */
        if (usable) {
            *ret_token = memory_strndup(text.data, length);
        } else {
            status = cli_fail(cli, EXIT_FAILED, "%s holds no token", path);
        }
    }
    buffer_release(&text);
    return status;
}

/* Made of the owner's key, so that a making that is repeated names the same mesh: a UUID of version 8. */
static void make_mesh_id(struct creation *creation)
{
    static const char DOMAIN[] = "claudemesh-mesh-id ";
    char digest[SHA256_HEX_SIZE];
    char *text = memory_printf("%s%s", DOMAIN, keypair_public_hex(creation->owner));
    sha256_hex(text, strlen(text), digest);
    free(text);
    (void)snprintf(creation->mesh_id, sizeof creation->mesh_id, "%.8s-%.4s-8%.3s-8%.3s-%.12s", digest, digest + 8, digest + 12, digest + 15,
                   digest + 18);
}

static int prepare(struct cli *cli, struct creation *creation)
{
    struct error error = { 0 };
    const char *slug = cli_value(cli, "slug"), *broker = cli_value(cli, "broker");

    creation->name = cli->arguments[0];
    char *printable = text_printable(creation->name, strlen(creation->name));
    bool usable = printable[0] != '\0' && string_equal(printable, creation->name) &&
                  utf8_is_valid(creation->name, strlen(creation->name)) && strlen(creation->name) <= LIMIT_DISPLAY_NAME;
    free(printable);
    if (!usable) {
        return cli_fail_usage(cli, "a mesh's name has 1 to %d bytes of text without control characters", (int)LIMIT_DISPLAY_NAME);
    }
    if (slug != NULL ? !name_is_valid(slug) || string_copy(creation->slug, sizeof creation->slug, slug) != 0
                     : make_slug(creation->name, creation->slug) != 0) {
        return cli_fail_usage(cli, "a slug has 1 to 64 of a-z 0-9 _ . -; give one with --slug");
    }
    if (broker == NULL) {
        return cli_fail_usage(cli, "--broker URL is missing: where shall the mesh live?");
    }
    int status = meshes_read(cli, &creation->file);
    if (status == EXIT_DONE) {
        status = meshes_settings(cli, &creation->settings);
    }
    if (status != EXIT_DONE) {
        return status;
    }
    if (meshes_broker_url(broker, settings_bool(creation->settings, "broker.allow_insecure"), &creation->broker_url, &error) != 0 ||
        meshes_display_name(cli_value(cli, "name"), &creation->file, &creation->display_name, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    pending_key_name_mesh(creation->slug, creation->broker_url, creation->pending_id);
    creation->pending = (struct pending_key){ .kind = PENDING_KIND_MESH, .id = creation->pending_id };
    const struct config_mesh *joined = config_file_mesh(&creation->file, creation->slug);
    if (joined != NULL) {
        if (string_equal(joined->broker_url, creation->broker_url)) {
            pending_key_forget(&cli->paths, &creation->pending); /* of a making that ended between the two */
        }
        return cli_fail(cli, EXIT_CONFLICT, "a mesh '%s' is joined already; choose another with --slug", creation->slug);
    }
    return read_token(cli, &creation->token);
}

static json_t *name_statement(const struct creation *creation, struct error *error)
{
    char signature[SIGNATURE_HEX_SIZE];
    json_t *statement = json_new_object();
    json_put_string(statement, "mesh", creation->mesh_id);
    json_put_string(statement, "pubkey", keypair_public_hex(creation->owner));
    json_put_string(statement, "name", creation->display_name);
    json_put_integer(statement, "seq", 1);
    if (statement_sign_json(STATEMENT_NAME, statement, creation->owner, signature, error) != 0) {
        json_decref(statement);
        return NULL;
    }
    json_put_string(statement, "by", keypair_public_hex(creation->owner));
    json_put_string(statement, "sig", signature);
    return statement;
}

/* POST /mesh (70-broker, "Members, meshes and the web"). */
static int register_mesh(struct cli *cli, struct creation *creation)
{
    struct error error = { 0 };
    char signature[SIGNATURE_HEX_SIZE];
    const char *owner = keypair_public_hex(creation->owner);
    int64_t now = clock_wall_ms();
    int http_status = 0;
    json_t *statement = name_statement(creation, &error);

    if (statement == NULL) {
        return cli_fail_error(cli, &error);
    }
    char *text = memory_printf("mesh|%s|%s|%s|%" PRId64, creation->mesh_id, creation->slug, owner, now);
    keypair_sign_hex(creation->owner, text, strlen(text), signature);
    free(text);
    json_t *body = json_new_object();
    json_put_string(body, "mesh_id", creation->mesh_id);
    json_put_string(body, "slug", creation->slug);
    json_put_string(body, "name", creation->name);
    json_put_string(body, "owner_pubkey", owner);
    json_put_string(body, "display_name", creation->display_name);
    json_put_integer(body, "timestamp", now);
    json_put_string(body, "signature", signature);
    json_put(body, "name_statement", statement);
    const struct broker_http broker = meshes_broker_http(creation->settings, creation->broker_url);
    int status = broker_http_post(&broker, "mesh", creation->token, body, &http_status, &creation->answer, &error);
    json_decref(body);
    if (status != 0) {
        return cli_fail_error(cli, &error);
    }
    status = broker_answer_print(cli, http_status, creation->answer);
    if (status != EXIT_DONE) {
        pending_key_refused(&cli->paths, &creation->pending, http_status, answer_text(creation->answer, "error"));
    }
    return status;
}

static int save(struct cli *cli, struct creation *creation)
{
    uint8_t root_key[ROOT_KEY_BYTES];
    char secret[SECRET_HEX_SIZE], joined_at[RFC3339_SIZE];
    char pubkey[KEY_HEX_SIZE], role[] = "admin", *member_id = memory_strdup(answer_text(creation->answer, "memberId")),
                               *name = memory_strdup(creation->name);
    struct buffer root;
    struct error error = { 0 };

    random_bytes(root_key, sizeof root_key);
    buffer_init_secret(&root, 64);
    (void)base64url_encode(root_key, sizeof root_key, &root);
    secret_wipe(root_key, sizeof root_key);
    keypair_secret_hex(creation->owner, secret);
    memcpy(pubkey, keypair_public_hex(creation->owner), sizeof pubkey);
    time_format_rfc3339(clock_wall_ms(), joined_at);
    const struct config_mesh mesh = {
        .mesh_id = creation->mesh_id,
        .member_id = member_id,
        .slug = creation->slug,
        .name = name,
        .pubkey = pubkey,
        .secret_key = secret,
        .broker_url = creation->broker_url,
        .joined_at = joined_at,
        .root_key = root.data,
        .role = role,
        .owner_pubkey = pubkey,
    };
    int status = config_file_add_mesh(cli->paths.config_json, &mesh, &error);
    secret_wipe(secret, sizeof secret);
    buffer_release(&root);
    free(member_id);
    free(name);
    if (status != 0) {
        return cli_fail_error(cli, &error);
    }
    pending_key_forget(&cli->paths, &creation->pending);
    return EXIT_DONE;
}

static void print_created(struct cli *cli, const struct creation *creation)
{
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "mesh_id", creation->mesh_id);
        json_put_string(document, "slug", creation->slug);
        json_put_string(document, "name", creation->name);
        json_put_string(document, "broker_url", creation->broker_url);
        json_put_string(document, "member_id", answer_text(creation->answer, "memberId"));
        json_put_string(document, "pubkey", keypair_public_hex(creation->owner));
        cli_print_json(document);
        json_decref(document);
    }
    cli_say(cli, "made the mesh '%s' at %s; you are its owner, %s", creation->slug, creation->broker_url, creation->display_name);
    cli_say(cli, "its keys are in %s and nowhere else: keep a copy in a safe place", cli->paths.config_json);
    cli_say(cli, "invite others with: claudemesh --mesh %s mesh invite", creation->slug);
}

static int run(struct cli *cli)
{
    struct creation creation = { 0 };
    struct error error = { 0 };
    int status = crypto_start(&error) == 0 ? prepare(cli, &creation) : cli_fail_error(cli, &error);

    if (status == EXIT_DONE &&
        (config_paths_make(&cli->paths, &error) != 0 || pending_key_make(&cli->paths, &creation.pending, &creation.owner, &error) != 0)) {
        status = cli_fail_error(cli, &error);
    }
    if (status == EXIT_DONE) {
        make_mesh_id(&creation);
        status = register_mesh(cli, &creation);
    }
    if (status == EXIT_DONE) {
        status = save(cli, &creation);
    }
    if (status == EXIT_DONE) {
        print_created(cli, &creation);
    }
    creation_release(&creation);
    return status;
}

const struct cli_command COMMAND_MESH_CREATE = {
    .name = "mesh create",
    .group = GROUP_MESHES,
    .arguments = "<name>",
    .minimum = 1,
    .maximum = 1,
    .summary = "Make a mesh at a broker, with its keys on this host, and join it",
    .example = "claudemesh mesh create acme --broker ws://127.0.0.1:7900",
    .options = OPTIONS,
    .run = run,
};
