/* Owns reading and judging an invite before anything is done with it. */
#include "cli/invite_argument.h"

#include <errno.h>
#include <unistd.h>

#include "cli/output.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

int invite_argument_read(struct cli *cli, const char *given, struct invite *ret_invite)
{
    struct buffer text;
    struct error error = { 0 };
    int status = EXIT_DONE;

    buffer_init_secret(&text, LIMIT_INVITE_LINK + 2);
    if (string_equal(given, "-")) {
        char *place;
        ssize_t count = 1;
        while (count != 0 && (place = buffer_reserve(&text, 1024)) != NULL) {
            count = read(STDIN_FILENO, place, 1024);
            if (count < 0 && errno != EINTR) {
                status = cli_fail(cli, EXIT_FAILED, "cannot read the invite from standard input: %s", strerror(errno));
                break;
            }
            buffer_commit(&text, count > 0 ? (size_t)count : 0);
        }
    } else {
        (void)buffer_append_text(&text, given);
    }
    if (status != EXIT_DONE) {
        buffer_release(&text);
        return status;
    }
    text.data[strcspn(text.data, "\r\n")] = '\0';
    if (text.overflow) {
        status = cli_fail_usage(cli, "that is no invite: it is too long");
    } else if (invite_parse_link(text.data, ret_invite, &error) != 0) {
        status = cli_fail_usage(cli, "that is no invite: %s", error.message);
    } else if (ret_invite->version != 3) {
        status = cli_fail(
            cli, EXIT_FAILED,
            "this invite is of the older form, in which nothing can be checked; ask the owner for one made with 'claudemesh mesh invite'");
    } else if (invite_verify(ret_invite, &error) != 0) {
        status = cli_fail(cli, EXIT_NOT_AUTHORISED, "the invite's signature is wrong, so it was changed or damaged: %s", error.message);
    } else if (!ret_invite->has_root_key || !ret_invite->has_invite_seed) {
        status = cli_fail_usage(cli, "that is no invite: its secrets are missing");
    } else if (ret_invite->expires_at_s * 1000 <= clock_wall_ms()) {
        char expired_at[RFC3339_SIZE];
        time_format_rfc3339(ret_invite->expires_at_s * 1000, expired_at);
        status = cli_fail(cli, EXIT_FAILED, "the invite has expired (at %s); ask for a new one", expired_at);
    }
    buffer_release(&text);
    return status;
}

static bool root_key_is(const struct config_mesh *mesh, const struct invite *invite)
{
    struct buffer root;
    buffer_init_secret(&root, sizeof invite->root_key);
    bool same = mesh->root_key == NULL ||
                (base64url_decode(mesh->root_key, strlen(mesh->root_key), &root) == 0 && root.length == sizeof invite->root_key &&
                 secret_equal(root.data, invite->root_key, sizeof invite->root_key));
    buffer_release(&root);
    return same;
}

const char *invite_argument_differs(const struct invite *invite, const struct config_mesh *mesh)
{
    return mesh->owner_pubkey != NULL && !string_equal(mesh->owner_pubkey, invite->owner_pubkey) ? "owner"
           : !string_equal(mesh->broker_url, invite->broker_url)                                 ? "broker"
           : !root_key_is(mesh, invite)                                                          ? "root key"
                                                                                                 : NULL;
}

void invite_argument_hide(const char *given)
{
    union {
        const char *constant;
        char *variable; /* argv's and environ's strings are the process's own (C11 5.1.2.2.1) */
    } text = { .constant = given };
    memory_wipe(text.variable, strlen(given));
}
