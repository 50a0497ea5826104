/* Owns what the daemon knows of where it runs: container, CI (50-identity, Modes). Reads, decides nothing. */
#include "daemon/internal.h"
#include "util/file.h"
#include "util/memory.h"

enum { CGROUP_FILE_MAX = 64 * 1024 };

static bool any_is_set(const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *value = getenv(names[i]);
        if (value != NULL && *value != '\0')
            return true;
    }
    return false;
}

/* As for the host's fingerprint, tests put another root before it. */
static char *path_of(const char *path)
{
    const char *root = getenv("CLAUDEMESH_HOST_ROOT");
    return memory_printf("%s%s", root == NULL ? "" : root, path);
}

static bool has_docker_mark(void)
{
    char *path = path_of("/.dockerenv");
    bool found = file_exists(path);
    free(path);
    return found;
}

static bool cgroup_is_containers(void)
{
    static const char *const WORDS[] = { "docker", "kubepods", "containerd", "libpod", "lxc" };
    struct buffer text;
    struct error ignored;
    buffer_init(&text, CGROUP_FILE_MAX);
    bool found = false;
    char *path = path_of("/proc/1/cgroup");
    if (file_read(path, &text, &ignored) == 0)
        for (size_t i = 0; i < ARRAY_LENGTH(WORDS); i++)
            found = found || strstr(text.data, WORDS[i]) != NULL;
    buffer_release(&text);
    free(path);
    return found;
}

bool environment_is_container(void)
{
    static const char *const NAMES[] = { "KUBERNETES_SERVICE_HOST", "RUNPOD_POD_ID" };
    return any_is_set(NAMES, ARRAY_LENGTH(NAMES)) || has_docker_mark() || cgroup_is_containers();
}

bool environment_is_ci(void)
{
    static const char *const NAMES[] = { "CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL" };
    return any_is_set(NAMES, ARRAY_LENGTH(NAMES));
}
