/* Owns asking for a passphrase. Must not keep a copy. */
#include "cli/passphrase.h"

#include <errno.h>
#include <sys/stat.h>
#ifdef __APPLE__
#include <readpassphrase.h>
#else
#include <bsd/readpassphrase.h>
#endif

#include "backup/format.h"
#include "cli/output.h"
#include "crypto/crypto.h"
#include "util/file.h"

enum { ROOM = BACKUP_PASSPHRASE_MAXIMUM + 2 };

static int too_long(struct cli *cli)
{
    return cli_fail(cli, EXIT_FAILED, "a passphrase has %d bytes at most", (int)BACKUP_PASSPHRASE_MAXIMUM);
}

static int read_file(struct cli *cli, const char *path, struct buffer *passphrase)
{
    struct error error = { 0 };
    struct stat status;
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & (S_IRGRP | S_IROTH)) != 0) {
        cli_note(cli, "others can read %s; chmod 600 %s", path, path);
    }
    if (file_read_given(path, passphrase, &error) != 0) {
        return error.code == ERROR_TOO_LARGE ? too_long(cli) : cli_fail_error(cli, &error);
    }
    size_t length = strcspn(passphrase->data, "\r\n"); /* or a zero byte */
    size_t end = length + strspn(passphrase->data + length, "\r\n");
    if (end < passphrase->length) {
        return cli_fail(
            cli, EXIT_FAILED,
            "%s is more than one line of text, and of a random file only a beginning would count; put the passphrase alone into it", path);
    }
    secret_wipe(passphrase->data + length, passphrase->length - length);
    passphrase->length = length;
    return length == 0 ? cli_fail(cli, EXIT_FAILED, "%s begins with an empty line, and an empty passphrase protects nothing", path)
                       : EXIT_DONE;
}

/* 0, or -1 with errno. */
static int ask(const char *prompt, char *answer)
{
    return readpassphrase(prompt, answer, ROOM, RPP_REQUIRE_TTY) == NULL ? -1 : 0;
}

static int judge(struct cli *cli, bool confirm, const char *answer, struct buffer *passphrase)
{
    char again[ROOM] = "";
    int status = EXIT_DONE;
    size_t length = strlen(answer);
    if (length == 0) {
        return cli_fail(cli, EXIT_FAILED, "an empty passphrase protects nothing");
    }
    if (length > BACKUP_PASSPHRASE_MAXIMUM) {
        return too_long(cli);
    }
    if (confirm && (ask("The same again: ", again) != 0 || strcmp(answer, again) != 0)) {
        status = cli_fail(cli, EXIT_FAILED, "the two are not the same");
    } else {
        (void)buffer_append(passphrase, answer, length); /* it fits */
    }
    secret_wipe(again, sizeof again);
    return status;
}

int passphrase_get(struct cli *cli, bool confirm, struct buffer *ret_passphrase)
{
    char answer[ROOM] = "";
    const char *path = cli_value(cli, "passphrase-file");
    buffer_init_secret(ret_passphrase, BACKUP_PASSPHRASE_MAXIMUM + 2);
    if (path != NULL) {
        int status = read_file(cli, path, ret_passphrase);
        return status == EXIT_DONE && ret_passphrase->length > BACKUP_PASSPHRASE_MAXIMUM ? too_long(cli) : status;
    }
    if (ask(confirm ? "A passphrase for the backup: " : "The backup's passphrase: ", answer) != 0) {
        return errno == ENOTTY || errno == ENXIO || errno == ENOENT
                   ? cli_fail_usage(cli, "there is no terminal to ask for the passphrase on; use --passphrase-file F")
                   : cli_fail(cli, EXIT_FAILED, "no passphrase was given");
    }
    int status = judge(cli, confirm, answer, ret_passphrase);
    secret_wipe(answer, sizeof answer);
    return status;
}
