/* `claudemesh doctor`: looks at everything that an installation stands on, and says for each thing that is wrong what to do. Must not change anything, and opens no database: a daemon
 * may have it open, and its WAL is the daemon's. */
#include "cli/doctor.h"

#include <jansson.h>
#include <stdarg.h>

#include "cli/output.h"
#include "crypto/crypto.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static const char *const STATE_NAMES[] = { [DOCTOR_OK] = "ok", [DOCTOR_NOTE] = "note", [DOCTOR_PROBLEM] = "problem" };

ATTRIBUTE_PRINTF(1, 0) static char *printed(const char *format, va_list arguments)
{
    char text[2048];
    (void)vsnprintf(text, sizeof text, format, arguments);
    return memory_strdup(text);
}

void doctor_tell(struct doctor *doctor, enum doctor_state state, const char *check, const char *remedy, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *detail = printed(format, arguments);
    va_end(arguments);
    char *printable = text_printable(detail, strlen(detail));
    json_t *entry = json_new_object();
    json_put_string(entry, "check", check);
    json_put_string(entry, "state", STATE_NAMES[state]);
    json_put_string(entry, "detail", printable);
    json_put_string(entry, "remedy", remedy);
    (void)json_array_append_new(doctor->checks, entry);
    doctor->problems += state == DOCTOR_PROBLEM ? 1 : 0;
    free(printable);
    free(detail);
}

char *doctor_command(const struct doctor *doctor, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *rest = printed(format, arguments);
    va_end(arguments);
    char *command = memory_printf("%s %s", doctor->program, rest);
    free(rest);
    return command;
}

char *doctor_quote(const char *text)
{
    struct buffer quoted;
    bool plain = *text != '\0';
    for (const char *at = text; *at != '\0'; at++) {
        plain = plain && (strchr("/._-+:@%,", *at) != NULL || (*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'z') ||
                          (*at >= 'A' && *at <= 'Z'));
    }
    if (plain) {
        return memory_strdup(text);
    }
    buffer_init(&quoted, BUFFER_UNLIMITED);
    (void)buffer_append_byte(&quoted, '\'');
    for (const char *at = text; *at != '\0'; at++) {
        (void)(*at == '\'' ? buffer_append_text(&quoted, "'\\''") : buffer_append_byte(&quoted, *at));
    }
    (void)buffer_append_byte(&quoted, '\'');
    return buffer_take(&quoted, NULL);
}

static char *program_of(const struct cli *cli)
{
    struct config_paths standard = { 0 };
    struct error error;
    bool is_default = config_paths_init(NULL, &standard, NULL, &error) == 0 && strcmp(standard.root, cli->paths.root) == 0;
    config_paths_release(&standard);
    if (is_default) {
        return memory_strdup("claudemesh");
    }
    char *quoted = doctor_quote(cli->paths.root);
    char *program = memory_printf("claudemesh --config-dir %s", quoted);
    free(quoted);
    return program;
}

static void print(const struct doctor *doctor)
{
    static const struct {
        const char *mark;
        enum cli_style style;
    } LOOKS[] = {
        [DOCTOR_OK] = { "ok", STYLE_GREEN }, [DOCTOR_NOTE] = { "note", STYLE_YELLOW }, [DOCTOR_PROBLEM] = { "PROBLEM", STYLE_RED }
    };
    const struct cli *cli = doctor->cli;
    size_t index;
    const json_t *entry;
    json_array_foreach(doctor->checks, index, entry)
    {
        enum doctor_state state = DOCTOR_OK;
        while (!string_equal(STATE_NAMES[state], answer_text(entry, "state"))) {
            state++;
        }
        if (cli->quiet && state != DOCTOR_PROBLEM) {
            continue;
        }
        printf("%s%-7s%s  %s\n", style_start(cli, LOOKS[state].style), LOOKS[state].mark, style_end(cli), answer_text(entry, "detail"));
        const char *remedy = answer_text(entry, "remedy");
        if (remedy[0] != '\0') {
            char *printable = text_printable(remedy, strlen(remedy));
            printf("         %s%s%s\n", style_start(cli, STYLE_BOLD), printable, style_end(cli));
            free(printable);
        }
    }
    if (doctor->problems == 0) {
        cli_say(cli, "nothing is wrong");
    } else {
        cli_say(cli, "%zu problem%s; the line below each is what to do", doctor->problems, doctor->problems == 1 ? "" : "s");
    }
}

static int run(struct cli *cli)
{
    static void (*const CHECKS[])(struct doctor * doctor) = {
        doctor_check_settings,  doctor_check_meshes,    doctor_check_permissions, doctor_check_host,
        doctor_check_databases, doctor_check_leftovers, doctor_check_disk,        doctor_check_limits,
        doctor_check_hooks,     doctor_check_service,   doctor_check_daemon,      doctor_check_brokers,
    };
    struct error error;
    if (crypto_start(&error) != 0) {
        return cli_fail_error(cli, &error);
    }
    struct doctor doctor = { .cli = cli, .checks = json_new_array(), .program = program_of(cli) };
    for (size_t i = 0; i < ARRAY_LENGTH(CHECKS); i++) {
        CHECKS[i](&doctor);
    }
    if (cli->json) {
        json_t *document = json_new_object();
        json_put_bool(document, "ok", doctor.problems == 0);
        json_put(document, "checks", json_incref(doctor.checks));
        cli_print_json(document);
        json_decref(document);
    } else {
        print(&doctor);
    }
    int status = doctor.problems == 0 ? EXIT_DONE : EXIT_FAILED;
    json_decref(doctor.checks);
    free(doctor.program);
    settings_free(doctor.settings);
    if (doctor.file != NULL) {
        config_file_release(doctor.file);
        free(doctor.file);
    }
    return status;
}

const struct cli_command COMMAND_DOCTOR = {
    .name = "doctor",
    .group = GROUP_SETTINGS,
    .arguments = "",
    .summary = "Check configuration, files, daemon and brokers; says how to fix what is wrong (exit 1)",
    .example = "claudemesh doctor",
    .run = run,
};
