/* Runs a fuzz target over files, without libFuzzer: what was found once, and the seeds, are tests of every build. Arguments: the target's name, then files or directories; absent ones are passed over, but
 * something must have run. */
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "util/buffer.h"
#include "util/error.h"
#include "util/file.h"

static size_t inputs;
static char current[4096];

/* The last words of a target that aborts: which input it was. */
static void on_abort(int signal_number)
{
    (void)!write(STDERR_FILENO, current, strlen(current));
    (void)raise(signal_number); /* the handler is gone: this ends the process */
}

static void run_file(const char *path)
{
    struct buffer bytes;
    struct error error;
    buffer_init(&bytes, BUFFER_UNLIMITED);
    (void)snprintf(current, sizeof(current), "input: %s\n", path);
    if (file_read(path, &bytes, &error) != 0) {
        (void)fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    uint8_t *exact = memory_dup(bytes.data, bytes.length);
    (void)LLVMFuzzerTestOneInput(exact, bytes.length);
    free(exact);
    buffer_release(&bytes);
    inputs++;
}

static void run_path(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return;
    if (!S_ISDIR(status.st_mode)) {
        run_file(path);
        return;
    }
    struct dirent **entries = NULL;
    const int count = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] != '.') {
            char *name = path_join(path, entries[i]->d_name);
            run_path(name);
            free(name);
        }
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    const struct sigaction action = { .sa_handler = on_abort, .sa_flags = (int)SA_RESETHAND };

    (void)sigaction(SIGABRT, &action, NULL);
    for (int i = 2; i < argc; i++)
        run_path(argv[i]);
    (void)printf("%s: %zu inputs\n", argc > 1 ? argv[1] : "?", inputs);
    return inputs > 0 ? 0 : 1;
}
