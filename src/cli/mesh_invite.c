/* `claudemesh mesh invite`: a link that makes its reader a member. Made here, signed by the owner; the broker sees it at the join, without its secrets. */
#include <qrencode.h>

#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/own_invite.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "proto/invite.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

enum { QR_MARGIN = 2, USES_LONGEST = 1000000 };
static const int64_t DAY_MS = 86400000;
static const int64_t EXPIRES_LONGEST_MS = 366LL * 86400000LL;

static const struct cli_option OPTIONS[] = {
    { "role", 0, OPTION_VALUE, "member|admin", "what the reader becomes (member)" },
    { "expires", 0, OPTION_VALUE, "D", "how long it holds, as 30m, 24h, 7d (24h)" },
    { "max-uses", 0, OPTION_VALUE, "N", "how many may join with it (1)" },
    { "qr", 0, OPTION_FLAG, NULL, "draw it in the terminal too" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

static bool is_dark(const QRcode *code, int x, int y)
{
    return x >= 0 && y >= 0 && x < code->width && y < code->width && (code->data[y * code->width + x] & 1) != 0;
}

/* Two rows of modules a line, in half blocks, light on dark terminals and dark on light ones alike: drawn inverted, with a margin. */
static void print_qr(const QRcode *code)
{
    static const char *const BLOCKS[] = { "\u2588", "\u2580", "\u2584", " " }; /* full, upper, lower, none */
    for (int y = -QR_MARGIN; y < code->width + QR_MARGIN; y += 2) {
        for (int x = -QR_MARGIN; x < code->width + QR_MARGIN; x++) {
            int upper = is_dark(code, x, y) ? 1 : 0, lower = is_dark(code, x, y + 1) || y + 1 >= code->width + QR_MARGIN ? 1 : 0;
            fputs(BLOCKS[upper * 2 + lower], stderr);
        }
        fputc('\n', stderr);
    }
}

static int draw_qr(struct cli *cli, const char *link)
{
    QRcode *code = QRcode_encodeString8bit(link, 0, QR_ECLEVEL_L);
    if (code == NULL) {
        return cli_fail(cli, EXIT_FAILED, "the link is too long for a QR code");
    }
    (void)fflush(stdout);
    print_qr(code);
    QRcode_free(code);
    return EXIT_DONE;
}

static int read_options(struct cli *cli, struct invite *invite)
{
    struct error error = { 0 };
    const char *role = cli_has(cli, "role") ? cli_value(cli, "role") : "member";
    int64_t lifetime_ms = DAY_MS;
    if (!string_equal(role, "member") && !string_equal(role, "admin")) {
        return cli_fail_usage(cli, "--role is member or admin");
    }
    if (cli_has(cli, "expires") &&
        (duration_parse(cli_value(cli, "expires"), &lifetime_ms) != 0 || lifetime_ms < 1000 || lifetime_ms > EXPIRES_LONGEST_MS)) {
        return cli_fail_usage(cli, "--expires takes a time like 30m, 24h or 7d, a second to a year");
    }
    if (cli_integer(cli, "max-uses", 1, USES_LONGEST, 1, &invite->max_uses, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    invite->role = memory_strdup(role);
    invite->expires_at_s = (clock_wall_ms() + lifetime_ms) / 1000;
    return EXIT_DONE;
}

/* keys are the owner's. */
static int print_link(struct cli *cli, const struct invite *invite, const struct keypair *keys)
{
    int status = EXIT_DONE;
    char owner_number[SAFETY_NUMBER_SIZE];
    char expires_at[RFC3339_SIZE], times[32] = "once";
    char *link = invite_format_link(invite);
    time_format_rfc3339(invite->expires_at_s * 1000, expires_at);
    safety_number(keypair_public(keys), keypair_public(keys), owner_number);
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_string(document, "link", link);
        json_put_string(document, "invite_id", invite->invite_id);
        json_put_string(document, "mesh", invite->mesh_slug);
        json_put_string(document, "role", invite->role);
        json_put_string(document, "expires_at", expires_at);
        json_put_integer(document, "max_uses", invite->max_uses);
        json_put_string(document, "owner_pubkey", invite->owner_pubkey);
        json_put_string(document, "owner_number", owner_number);
        cli_print_json(document);
        json_decref(document);
    } else {
        puts(link);
    }
    if (cli_has(cli, "qr")) {
        status = draw_qr(cli, link);
    }
    if (!cli->json) {
        if (invite->max_uses > 1) {
            (void)snprintf(times, sizeof times, "%" PRId64 " times", invite->max_uses);
        }
        cli_note(cli, "whoever has this link can join '%s' as %s, %s, until %s", invite->mesh_slug, invite->role, times, expires_at);
        cli_note(cli, "the owner's number, to tell them another way: %s", owner_number);
    }
    secret_wipe(link, strlen(link));
    free(link);
    return status;
}

static int run(struct cli *cli)
{
    struct config_file file = { 0 };
    struct invite invite = { 0 };
    struct keypair *keys = NULL;
    struct error error = { 0 };
    int status = read_options(cli, &invite);
    const struct config_mesh *mesh = NULL;

    if (status == EXIT_DONE) {
        status = meshes_read(cli, &file);
    }
    if (status == EXIT_DONE) {
        mesh = meshes_choose(cli, &file, &status);
    }
    if (status == EXIT_DONE) {
        status = meshes_statement_keys(cli, mesh, &keys);
    }
    if (status == EXIT_DONE) {
        status = own_invite_fill(cli, mesh, &invite);
    }
    if (status == EXIT_DONE && invite_sign(&invite, keys, &error) != 0) {
        status = cli_fail_error(cli, &error);
    }
    if (status == EXIT_DONE) {
        status = print_link(cli, &invite, keys);
    }
    invite_release(&invite);
    keypair_free(keys);
    config_file_release(&file);
    return status;
}

const struct cli_command COMMAND_MESH_INVITE = {
    .name = "mesh invite",
    .group = GROUP_MESHES,
    .arguments = "",
    .summary = "Print an invite link",
    .example = "claudemesh mesh invite --expires 2h --qr",
    .options = OPTIONS,
    .run = run,
};
