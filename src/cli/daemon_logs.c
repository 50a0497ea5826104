/* `claudemesh daemon logs`: the log file, made readable; with -f what is added, across rotation. Reads the file, not the API: it works when the daemon does not. */
#include "cli/output.h"
#include "cli/stream.h"
#include "json/json.h"
#include "net/loop.h"
#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

#include <errno.h>
#include <sys/stat.h>

enum { ROTATED_FILES = 5 }; /* util/log.h */

static const struct cli_option OPTIONS[] = {
    { "follow", 'f', OPTION_FLAG, NULL, "then print lines as they are added, until interrupted" },
    { "lines", 'n', OPTION_VALUE, "N", "only the last N" },
    { NULL, 0, OPTION_FLAG, NULL, NULL },
};

struct follower {
    struct cli *cli;
    struct loop *loop;
    FILE *file;
    char *line; /* getline's; a line without its end waits here */
    size_t size, length;
    int status;
};

static enum cli_style level_style(const char *level)
{
    return string_equal(level, "error") ? STYLE_RED : string_equal(level, "warn") ? STYLE_YELLOW : STYLE_PLAIN;
}

/* One line of the log. What is not JSON is shown as it is. */
static void print_line(const struct cli *cli, const char *line, size_t length)
{
    json_t *entry = NULL;
    if (cli->json || json_parse_strict(line, length, &entry, NULL) != 0 || !json_is_object(entry)) {
        char *printable = text_printable(line, length);
        puts(printable);
        free(printable);
        json_decref(entry);
        return;
    }
    const char *name;
    json_t *value;
    char *when = local_time(answer_text(entry, "ts"));
    const char *level = answer_text(entry, "level");
    printf("%s%s%s  %s%-5s%s  %s%s%s", style_start(cli, STYLE_DIM), when, style_end(cli), style_start(cli, level_style(level)), level,
           style_end(cli), style_start(cli, STYLE_BOLD), answer_text(entry, "msg"), style_end(cli));
    json_object_foreach(entry, name, value)
    {
        if (string_equal(name, "ts") || string_equal(name, "level") || string_equal(name, "msg")) {
            continue;
        }
        size_t text_length;
        char *text = json_is_string(value) ? memory_strdup(json_string_value(value)) : json_to_string(value, &text_length);
        char *printable = text_printable(text, strlen(text));
        printf(" %s=%s", name, printable);
        free(printable);
        free(text);
    }
    (void)putchar('\n');
    free(when);
    json_decref(entry);
}

/* Where the last `lines` lines begin. */
static void seek_to_last(FILE *file, int64_t lines)
{
    char block[4096];
    if (fseeko(file, 0, SEEK_END) != 0) {
        return;
    }
    off_t end = ftello(file), at = end;
    int64_t found = 0;
    while (at > 0) {
        off_t size = at < (off_t)sizeof block ? at : (off_t)sizeof block;
        at -= size;
        if (fseeko(file, at, SEEK_SET) != 0 || fread(block, 1, (size_t)size, file) != (size_t)size) {
            return;
        }
        for (off_t i = size; i-- > 0;) {
            bool last_byte = at + i + 1 == end;
            if (block[i] == '\n' && !last_byte && ++found == lines) {
                (void)fseeko(file, at + i + 1, SEEK_SET);
                return;
            }
        }
    }
    (void)fseeko(file, 0, SEEK_SET);
}

/* Whole lines that are there now; one that is still being written waits. */
static void print_new(struct follower *follower)
{
    char *part = NULL;
    size_t size = 0;
    ssize_t count;
    while (follower->file != NULL && (count = getline(&part, &size, follower->file)) > 0) {
        follower->line = memory_realloc(follower->line, follower->length + (size_t)count + 1);
        memcpy(follower->line + follower->length, part, (size_t)count);
        follower->length += (size_t)count;
        if (follower->line[follower->length - 1] == '\n') {
            print_line(follower->cli, follower->line, follower->length - 1);
            follower->length = 0;
        }
    }
    if (follower->file != NULL) {
        clearerr(follower->file);
    }
    free(part);
}

/* The name means another file now: the old one was rotated away. */
static bool was_rotated(const struct follower *follower)
{
    struct stat named, open_one;
    return stat(follower->cli->paths.log, &named) == 0 && (follower->file == NULL || fstat(fileno(follower->file), &open_one) != 0 ||
                                                           named.st_ino != open_one.st_ino || named.st_dev != open_one.st_dev);
}

/* Where the file that is open went: 0 it has its name still, N it is <log>.N now, -1 gone, or none is open. */
static int place_of(const struct follower *follower)
{
    struct stat open_one, named;
    if (follower->file == NULL || fstat(fileno(follower->file), &open_one) != 0) {
        return -1;
    }
    for (int number = 0; number <= ROTATED_FILES; number++) {
        char *path = number == 0 ? memory_strdup(follower->cli->paths.log) : memory_printf("%s.%d", follower->cli->paths.log, number);
        bool same = stat(path, &named) == 0 && named.st_ino == open_one.st_ino && named.st_dev == open_one.st_dev;
        free(path);
        if (same) {
            return number;
        }
    }
    return -1;
}

static void open_next(struct follower *follower, int number)
{
    char *path = number == 0 ? memory_strdup(follower->cli->paths.log) : memory_printf("%s.%d", follower->cli->paths.log, number);
    if (follower->file != NULL) {
        (void)fclose(follower->file);
    }
    follower->file = fopen(path, "re");
    follower->length = 0;
    free(path);
    print_new(follower);
}

/* What was rotated away is read to its end first: nothing is added to it any more. Several rotations may have come at once. */
static void on_changed(void *argument)
{
    struct follower *follower = argument;
    print_new(follower);
    if (was_rotated(follower)) {
        print_new(follower);
        int place = place_of(follower);
        for (int number = place > 0 ? place - 1 : 0; number >= 0; number--) {
            open_next(follower, number);
        }
    }
    follower->status = cli_flush(follower->cli);
    if (follower->status != EXIT_DONE) {
        loop_stop(follower->loop);
    }
}

static int follow(struct follower *follower)
{
    struct loop_watch *watch = NULL;
    struct error error = { 0 };
    if (loop_new(&follower->loop, &error) != 0 ||
        loop_watch_file(follower->loop, follower->cli->paths.log, on_changed, follower, &watch, &error) != 0) {
        loop_free(follower->loop);
        return cli_fail_error(follower->cli, &error);
    }
    stream_end_on_interrupt();
    on_changed(follower); /* what was added before the watch began */
    if (follower->status == EXIT_DONE) {
        loop_run(follower->loop);
    }
    loop_watch_free(watch);
    loop_free(follower->loop);
    return follower->status;
}

static int run(struct cli *cli)
{
    struct follower follower = { .cli = cli };
    struct error error = { 0 };
    int64_t lines;

    cli->streaming = true;
    if (cli_integer(cli, "lines", 0, 1000000000, -1, &lines, &error) != 0) {
        return cli_fail_usage(cli, "%s", error.message);
    }
    follower.file = fopen(cli->paths.log, "re");
    if (follower.file == NULL && (errno != ENOENT || !cli_has(cli, "follow"))) {
        return errno == ENOENT
                   ? cli_fail(cli, EXIT_FAILED, "there is no log yet (%s); a daemon in the foreground logs to its terminal", cli->paths.log)
                   : cli_fail(cli, EXIT_FAILED, "cannot read %s: %s", cli->paths.log, strerror(errno));
    }
    if (follower.file != NULL && lines >= 0) {
        if (lines == 0) {
            (void)fseeko(follower.file, 0, SEEK_END);
        } else {
            seek_to_last(follower.file, lines);
        }
    }
    print_new(&follower);
    int status = cli_has(cli, "follow") ? follow(&follower) : EXIT_DONE;
    if (follower.file != NULL) {
        (void)fclose(follower.file);
    }
    free(follower.line);
    return status;
}

const struct cli_command COMMAND_DAEMON_LOGS = {
    .name = "daemon logs",
    .group = GROUP_DAEMON,
    .arguments = "",
    .summary = "Its log",
    .example = "claudemesh daemon logs -f --lines 20",
    .options = OPTIONS,
    .run = run,
};
