/* Owns the thread that writes log lines where a write may wait, and the lines that wait for it (a bounded number of bytes). Must not build lines, or know what is in them.
 * O_NONBLOCK is no way out: it belongs to the open file that we share with whoever started us. */
#include "util/log_writer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util/memory.h"

enum { KEPT_MAXIMUM = 256 * 1024, NS_A_MS = 1000000, NS_A_SECOND = 1000000000, MS_A_SECOND = 1000 };

struct waiting {
    struct waiting *next;
    size_t length;
    char bytes[];
};

/* Below this mutex: everything but torn. */
static pthread_mutex_t writer_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t something_came = PTHREAD_COND_INITIALIZER, all_is_written = PTHREAD_COND_INITIALIZER;
static struct waiting *first, **last = &first;
static size_t kept; /* bytes, with the line that is being written */
static uint64_t lost;
static int writer_fd = -1;

static bool torn; /* the thread's: only the beginning of the newest line was taken */

/* All of it, however long that takes. Whoever shares the open file may have made it non-blocking. */
static bool write_all(const char *bytes, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t count = write(writer_fd, bytes + done, length - done);
        if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd wait = { .fd = writer_fd, .events = POLLOUT };
            (void)poll(&wait, 1, MS_A_SECOND);
        } else if (count < 0 && errno != EINTR) {
            torn = torn || done > 0;
            return false;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    torn = false;
    return true;
}

static void *writer_main(void *argument)
{
    (void)argument;
    (void)pthread_mutex_lock(&writer_mutex);
    for (;;) {
        while (first == NULL) {
            (void)pthread_cond_wait(&something_came, &writer_mutex);
        }
        struct waiting *line = first;
        first = line->next;
        last = first == NULL ? &first : last;
        (void)pthread_mutex_unlock(&writer_mutex);
        bool written = (!torn || write_all("\n", 1)) && write_all(line->bytes, line->length);
        (void)pthread_mutex_lock(&writer_mutex);
        lost += written ? 0 : 1;
        kept -= line->length;
        free(line);
        if (kept == 0) {
            (void)pthread_cond_broadcast(&all_is_written);
        }
    }
    return NULL;
}

int log_writer_start(int fd)
{
    pthread_t thread;
    sigset_t all, before; /* signals are the loop's: a thread starts with what its maker blocks */
    (void)sigfillset(&all);
    writer_fd = fd;
    int result = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (result == 0) {
        result = pthread_create(&thread, NULL, writer_main, NULL);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (result == 0) {
        (void)pthread_detach(thread); /* it may hang in a write for ever, and ends with the process */
    }
    errno = result;
    return result == 0 ? 0 : -1;
}

bool log_writer_put(const char *head, size_t head_length, const char *line, size_t length)
{
    struct waiting *copy = memory_alloc(sizeof(*copy) + head_length + length);
    copy->next = NULL;
    copy->length = head_length + length;
    memcpy(copy->bytes, head, head_length);
    memcpy(copy->bytes + head_length, line, length);
    (void)pthread_mutex_lock(&writer_mutex);
    bool fits = kept + copy->length <= KEPT_MAXIMUM;
    if (fits) {
        kept += copy->length;
        *last = copy;
        last = &copy->next;
        (void)pthread_cond_signal(&something_came);
    }
    (void)pthread_mutex_unlock(&writer_mutex);
    if (!fits) {
        free(copy);
    }
    return fits;
}

uint64_t log_writer_take_lost(void)
{
    (void)pthread_mutex_lock(&writer_mutex);
    uint64_t count = lost;
    lost = 0;
    (void)pthread_mutex_unlock(&writer_mutex);
    return count;
}

void log_writer_flush(int timeout_ms)
{
    struct timespec end;
    if (clock_gettime(CLOCK_REALTIME, &end) != 0) {
        return;
    }
    end.tv_sec += timeout_ms / MS_A_SECOND;
    end.tv_nsec += (long)(timeout_ms % MS_A_SECOND) * NS_A_MS;
    if (end.tv_nsec >= NS_A_SECOND) {
        end.tv_sec++;
        end.tv_nsec -= NS_A_SECOND;
    }
    (void)pthread_mutex_lock(&writer_mutex);
    while (kept > 0 && pthread_cond_timedwait(&all_is_written, &writer_mutex, &end) == 0) {
    }
    (void)pthread_mutex_unlock(&writer_mutex);
}
