/* Whether a pre-send hook guards what this host sends: only the daemon runs it, so no other way may be taken then (docs/decisions/0016). Must not run a hook. */
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/send.h"
#include "hooks/hook_config.h"
#include "util/file.h"
#include "util/limits.h"
#include "util/memory.h"

/* A file that cannot be read or understood may name the hook: then it does. */
static bool file_enables(const char *path)
{
    struct buffer bytes;
    struct hooks_file file = { 0 };
    struct error error;
    buffer_init(&bytes, LIMIT_CONFIG_FILE);
    int status = file_read(path, &bytes, &error);
    bool absent = status == -ERROR_NOT_FOUND;
    if (status == 0) {
        status = hooks_file_parse(path, bytes.data, bytes.length, &file, &error);
    }
    const struct hook_config *guard = status == 0 ? hooks_file_find(&file, "pre-send") : NULL;
    bool enables = !absent && (status != 0 || (guard != NULL && (guard->enabled || guard->problem != NULL)));
    hooks_file_release(&file);
    buffer_release(&bytes);
    return enables;
}

int send_check_guard(struct cli *cli)
{
    struct settings *settings = NULL;
    int status = meshes_settings(cli, &settings);
    if (status != EXIT_DONE) {
        return status;
    }
    char *path = path_join(cli->paths.hooks, "hooks.toml");
    if (settings_bool(settings, "hooks.enabled") && file_enables(path)) {
        status = cli_fail_named(cli, EXIT_FAILED, "denied_by_hook",
                                "a pre-send hook guards what is sent from here, and only the daemon runs it: start it with "
                                "`claudemesh daemon up`, and send again without --cold");
    }
    free(path);
    settings_free(settings);
    return status;
}
