/* Owns the finding and killing of descendants. Must not touch a process that is not one. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hooks/internal.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- the tree --------------------------------------------------------------------------------------------------------- */

struct process {
    pid_t pid, parent;
    bool ours;
};
struct process_list {
    struct process *items;
    size_t count, capacity;
};

/* The parent stands behind the name, which may hold anything, parentheses too. -1: it is gone. */
static pid_t parent_of(int proc, const char *name)
{
    char path[32], text[512];
    (void)snprintf(path, sizeof(path), "%.16s/stat", name);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t length = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    if (length <= 0) {
        return -1;
    }
    text[length] = '\0';
    const char *end = strrchr(text, ')');
    int parent = -1;
    if (end == NULL || sscanf(end + 1, " %*c %d", &parent) != 1) {
        return -1;
    }
    return parent;
}

static int compare_pids(const void *a, const void *b)
{
    const struct process *left = a, *right = b;
    return (left->pid > right->pid) - (left->pid < right->pid);
}

static void list_processes(struct process_list *list)
{
    DIR *proc = opendir("/proc");
    list->count = 0;
    if (proc == NULL) {
        return;
    }
    for (const struct dirent *entry = readdir(proc); entry != NULL; entry = readdir(proc)) {
        uint64_t pid = 0;
        if (parse_uint64(entry->d_name, &pid) != 0 || pid == 0 || pid > INT_MAX) {
            continue;
        }
        pid_t parent = parent_of(dirfd(proc), entry->d_name);
        if (parent < 0) {
            continue;
        }
        if (list->count == list->capacity) {
            list->capacity = list->capacity == 0 ? 256 : list->capacity * 2;
            list->items = memory_realloc(list->items, list->capacity * sizeof(*list->items));
        }
        list->items[list->count++] = (struct process){ (pid_t)pid, parent, false };
    }
    (void)closedir(proc);
    if (list->count > 0) {
        qsort(list->items, list->count, sizeof(*list->items), compare_pids);
    }
}

static bool is_spared(pid_t pid, const pid_t *spare, size_t spare_count)
{
    for (size_t index = 0; index < spare_count; index++) {
        if (spare[index] == pid) {
            return true;
        }
    }
    return false;
}

static bool is_ours(const struct process_list *list, pid_t pid)
{
    const struct process sought = { .pid = pid };
    const struct process *found = list->count == 0 ? NULL : bsearch(&sought, list->items, list->count, sizeof(sought), compare_pids);
    return found != NULL && found->ours;
}

/* Marks what descends from this process: until nothing new is found. */
static void mark_descendants(struct process_list *list, const pid_t *spare, size_t spare_count)
{
    pid_t self = getpid();
    bool found = true;
    while (found) {
        found = false;
        for (size_t index = 0; index < list->count; index++) {
            struct process *process = &list->items[index];
            if (process->ours || is_spared(process->pid, spare, spare_count)) {
                continue;
            }
            if (process->parent == self || is_ours(list, process->parent)) {
                process->ours = true;
                found = true;
            }
        }
    }
}

/* A subreaper without children has no descendants at all. */
static bool has_children(void)
{
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid == 0) {
            return true;
        }
        if (pid < 0 && errno != EINTR) {
            return false;
        }
    }
}

void processes_kill_descendants(const pid_t *spare, size_t spare_count)
{
    struct process_list list = { .items = NULL };
    bool found = true;
    while (found && (spare_count > 0 || has_children())) { /* those that are spared are their parent's to wait for */
        list_processes(&list);
        mark_descendants(&list, spare, spare_count);
        found = false;
        for (size_t index = 0; index < list.count; index++) {
            if (list.items[index].ours) {
                found = true;
                (void)kill(list.items[index].pid, SIGKILL);
            }
        }
        for (size_t index = 0; index < list.count; index++) {
            if (list.items[index].parent == getpid() && list.items[index].ours) {
                (void)waitpid(list.items[index].pid, NULL, 0); /* it was killed: this ends */
            }
        }
    }
    free(list.items);
}

/* ---- children ----------------------------------------------------------------------------------------------------------- */

static int child_pipe[2] = { -1, -1 };

static void on_child(int signal_number)
{
    int kept = errno;
    (void)signal_number;
    ssize_t written = write(child_pipe[1], "", 1); /* a full pipe says it already */
    (void)written;
    errno = kept;
}

int processes_watch_children(void)
{
    struct sigaction action = { .sa_handler = on_child, .sa_flags = SA_NOCLDSTOP };
    if (child_pipe[0] >= 0) { /* those of the process that forked this one */
        (void)close(child_pipe[0]);
        (void)close(child_pipe[1]);
    }
    if (pipe2(child_pipe, O_CLOEXEC | O_NONBLOCK) != 0 || sigaction(SIGCHLD, &action, NULL) != 0) {
        return -1;
    }
    return child_pipe[0];
}

void processes_drain(int watch)
{
    char bytes[64];
    while (read(watch, bytes, sizeof(bytes)) > 0) {
        continue;
    }
}
