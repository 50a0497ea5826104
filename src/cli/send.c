/* `claudemesh send`: reads what was asked, refuses one's own key, and takes the first way that is there. Must not know how a way works. */
#include "cli/send.h"

#include <errno.h>
#include <unistd.h>

#include "cli/meshes.h"
#include "cli/output.h"
#include "json/json.h"
#include "proto/own_meta.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/limits.h"
#include "util/memory.h"

enum { WAIT_DEFAULT_S = 15, WAIT_LONGEST_S = 60 };

static const struct cli_option OPTIONS[] = {
    { "priority", 0, OPTION_VALUE, "now|next|low", "how urgent it is (default next)" },
    { "idempotency-key", 0, OPTION_VALUE, "K", "the same key with the same message is sent once, however often it is tried" },
    { "meta", 0, OPTION_REPEATED, "KEY=VALUE", "a field for the recipient's programs, encrypted like the message" },
    { "reply-to", 0, OPTION_VALUE, "ID", "the broker_message_id that this answers" },
    { "wait", 0, OPTION_OPTIONAL_VALUE, "SECONDS", "until the broker accepted it (15, at most 60)" },
    { "self", 0, OPTION_FLAG, NULL, "allow your own key as the recipient" },
    { "cold", 0, OPTION_FLAG, NULL, "do not use the daemon: connect to the broker for this message" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static int read_standard_input(struct buffer *ret_text, struct error *error)
{
    for (;;) {
        char *place = buffer_reserve(ret_text, 16384);
        if (place == NULL) {
            return error_set(error, ERROR_TOO_LARGE, "the message on standard input is over %d bytes", (int)LIMIT_HTTP_BODY);
        }
        ssize_t count = read(STDIN_FILENO, place, 16384);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return error_set_errno(error, "cannot read the message from standard input");
        }
        if (count == 0) {
            return 0;
        }
        buffer_commit(ret_text, (size_t)count);
    }
}

static int read_meta(const struct cli *cli, json_t **ret_meta, struct error *error)
{
    const char *pair;
    json_t *meta = NULL;
    for (size_t i = 0; (pair = cli_value_at(cli, "meta", i)) != NULL; i++) {
        const char *equals = strchr(pair, '=');
        char *name = equals == NULL ? NULL : memory_strndup(pair, (size_t)(equals - pair));
        bool usable = name != NULL && name[0] != '\0' && utf8_is_valid(pair, strlen(pair));
        bool own = usable && meta_key_is_own(name);
        if (meta == NULL) {
            meta = json_new_object();
        }
        if (!usable || own || json_object_get(meta, name) != NULL) {
            int status = own ? error_set(error, ERROR_INVALID, "--meta %s: names that begin with 'claudemesh.' are claudemesh's own", name)
                         : usable ? error_set(error, ERROR_INVALID, "--meta %s is given twice", name)
                                  : error_set(error, ERROR_INVALID, "--meta takes KEY=VALUE (text), as in --meta job=nightly");
            free(name);
            json_decref(meta);
            return status;
        }
        json_put_string(meta, name, equals + 1);
        free(name);
    }
    *ret_meta = meta;
    return 0;
}

static int read_message(struct cli *cli, struct buffer *ret_text, struct error *error)
{
    const char *message = cli->arguments[1];
    if (string_equal(message, "-")) {
        if (read_standard_input(ret_text, error) != 0) {
            return -(int)error->code;
        }
    } else if (buffer_append_text(ret_text, message) != 0) {
        return error_set(error, ERROR_TOO_LARGE, "the message is over %d bytes", (int)LIMIT_HTTP_BODY);
    }
    if (ret_text->length == 0) {
        return error_set(error, ERROR_INVALID, "the message is empty");
    }
    if (!utf8_is_valid(ret_text->data, ret_text->length)) {
        return error_set(error, ERROR_INVALID, "the message is not valid UTF-8 text");
    }
    return 0;
}

static int read_options(struct cli *cli, struct send_request *request, char fresh_id[ULID_SIZE], struct error *error)
{
    const char *key = cli_value(cli, "idempotency-key");
    request->to = cli->arguments[0];
    request->priority = cli_has(cli, "priority") ? cli_value(cli, "priority") : "next";
    request->reply_to_id = cli_value(cli, "reply-to");
    request->allow_self = cli_has(cli, "self");
    request->id_was_given = key != NULL;
    request->client_message_id = key != NULL ? key : fresh_id;
    if (request->to[0] == '\0' || !utf8_is_valid(request->to, strlen(request->to))) {
        return error_set(error, ERROR_INVALID, "the recipient is empty or no text; give a name, a key, or 8 or more digits of one");
    }
    if (!string_equal(request->priority, "now") && !string_equal(request->priority, "next") && !string_equal(request->priority, "low")) {
        return error_set(error, ERROR_INVALID, "--priority is now, next or low");
    }
    if (key != NULL && !client_message_id_is_valid(key, strlen(key))) {
        return error_set(error, ERROR_INVALID, "--idempotency-key takes 1 to %d printable ASCII characters without spaces",
                         (int)LIMIT_CLIENT_MESSAGE_ID);
    }
    if (request->reply_to_id != NULL &&
        (request->reply_to_id[0] == '\0' || !utf8_is_valid(request->reply_to_id, strlen(request->reply_to_id)))) {
        return error_set(error, ERROR_INVALID, "--reply-to takes the broker_message_id of a message");
    }
    if (cli_integer(cli, "wait", 1, WAIT_LONGEST_S, cli_has(cli, "wait") ? WAIT_DEFAULT_S : -1, &request->wait_s, error) != 0) {
        return -ERROR_INVALID;
    }
    ulid_generate(fresh_id);
    return 0;
}

bool send_is_own_key(const char *to, const char *own_pubkey)
{
    size_t length = strlen(to);
    return own_pubkey != NULL && length >= 8 && length <= strlen(own_pubkey) && strncasecmp(to, own_pubkey, length) == 0;
}

int send_refuse_self(struct cli *cli)
{
    return cli_fail_named(cli, EXIT_FAILED, "destination_is_self", "that is your own key; add --self if you mean it");
}

static int find_way(struct cli *cli, const struct send_request *request, const struct config_file *file)
{
    int status = SEND_NO_WAY;
    if (!cli_has(cli, "cold")) {
        status = send_by_daemon(cli, request, file);
    }
    if (status != SEND_NO_WAY) {
        return status;
    }
    const struct config_mesh *mesh = meshes_choose(cli, file, &status);
    if (mesh == NULL) {
        return status;
    }
    status = send_check_guard(cli);
    if (status != EXIT_DONE) {
        return status;
    }
    bool plain = !request->id_was_given && request->meta == NULL && request->reply_to_id == NULL && request->wait_s < 0;
    status = plain && !cli_has(cli, "cold") ? send_by_bridge(cli, request, mesh) : SEND_NO_WAY;
    return status != SEND_NO_WAY ? status : send_cold(cli, request, mesh);
}

static int run(struct cli *cli)
{
    struct send_request request = { 0 };
    struct config_file file = { 0 };
    struct buffer text;
    char fresh_id[ULID_SIZE];
    struct error error = { 0 };
    int status;

    buffer_init(&text, LIMIT_HTTP_BODY);
    if (read_options(cli, &request, fresh_id, &error) != 0 || read_meta(cli, &request.meta, &error) != 0 ||
        read_message(cli, &text, &error) != 0) {
        status = error.code == ERROR_INVALID ? cli_fail_usage(cli, "%s", error.message) : cli_fail_error(cli, &error);
        goto out;
    }
    request.message = (struct text){ text.data, text.length };
    status = meshes_read(cli, &file);
    if (status != EXIT_DONE) {
        goto out;
    }
    for (size_t i = 0; i < file.mesh_count && !request.allow_self; i++) {
        bool meant = cli->mesh == NULL || string_equal(cli->mesh, file.meshes[i].slug);
        if (meant && send_is_own_key(request.to, file.meshes[i].pubkey)) {
            status = send_refuse_self(cli);
            goto out;
        }
    }
    status = find_way(cli, &request, &file);
out:
    json_decref(request.meta);
    config_file_release(&file);
    buffer_wipe_release(&text);
    return status;
}

const struct cli_command COMMAND_SEND = {
    .name = "send",
    .group = GROUP_MESSAGES,
    .arguments = "<to> <message>",
    .minimum = 2,
    .maximum = 2,
    .summary = "Send a message; '-' reads it from standard input",
    .example = "claudemesh send bob \"the build is green\" --priority now",
    .options = OPTIONS,
    .run = run,
};
