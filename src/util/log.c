/* Owns the log: its lines, where they go, and the rotation of the file. Must not be given secrets; it knows nothing
 * about what fields mean. */
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/buffer.h"
#include "util/clock.h"
#include "util/log_writer.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    LINE_MAXIMUM = 32 * 1024, /* a longer line is replaced by a short one that says so */
    KEPT_FILES = 5,
    MS_A_DAY = 86400000,
    MS_A_HOUR = 3600000,
    MS_A_SECOND = 1000,
    FLUSH_MS = 1000 /* for what still waits when the process ends */
};

static const char *const LEVEL_NAMES[] = {
    [LOG_LEVEL_DEBUG] = "debug",
    [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_WARN] = "warn",
    [LOG_LEVEL_ERROR] = "error",
};

static _Atomic int log_level = LOG_LEVEL_INFO;

/* Below this mutex: everything else. */
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = STDERR_FILENO;
static char *file_path; /* NULL: log_fd is somebody else's */
static uint64_t file_size, file_size_maximum;
static int64_t file_age_maximum_ms; /* how long a line is kept */
static int64_t file_checked_at;     /* when it was last looked whether the name still means this file */
static int64_t file_begun_at;       /* of its first line */
static int64_t file_swept_at;       /* when old files were last looked for */
static bool line_is_torn;           /* the disk took only the beginning of the newest line */
static uint64_t lines_lost;         /* since the newest that the disk took */
static bool to_journal;             /* log_fd is stderr, and that is systemd's journal */
static bool to_writer;              /* log_fd is stderr, and a write to it may wait: a thread does it */

/* ---- lines ------------------------------------------------------------------------------------------------------ */

static void append_head(struct buffer *line, enum log_level level, const char *event_name)
{
    char now[RFC3339_SIZE];
    time_format_rfc3339(clock_wall_ms(), now);
    (void)buffer_printf(line, "{\"ts\":\"%s\",\"level\":\"%s\",\"msg\":", now, LEVEL_NAMES[level]);
    (void)buffer_append_json_string(line, event_name, strlen(event_name));
}

static void append_field(struct buffer *line, const struct log_field *field)
{
    (void)buffer_append_byte(line, ',');
    (void)buffer_append_json_string(line, field->name, strlen(field->name));
    (void)buffer_append_byte(line, ':');
    switch (field->kind) {
    case LOG_KIND_TEXT:
        if (field->text == NULL) {
            (void)buffer_append_text(line, "null");
        } else {
            (void)buffer_append_json_string(line, field->text, strlen(field->text));
        }
        break;
    case LOG_KIND_NUMBER:
        (void)buffer_printf(line, "%" PRId64, field->number);
        break;
    case LOG_KIND_BOOL:
    case LOG_KIND_END:
    default:
        (void)buffer_append_text(line, field->number != 0 ? "true" : "false");
        break;
    }
}

static void build_line(struct buffer *line, enum log_level level, const char *event_name, const struct log_field *fields)
{
    append_head(line, level, event_name);
    for (const struct log_field *field = fields; field != NULL && field->kind != LOG_KIND_END; field++) {
        append_field(line, field);
    }
    (void)buffer_append_text(line, "}\n");
    if (line->overflow) {
        buffer_reset(line);
        append_head(line, level, event_name);
        (void)buffer_append_text(line, ",\"truncated\":true}\n");
    }
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static char *rotated_path(int number)
{
    return memory_printf("%s.%d", file_path, number);
}

static void remove_old_files(int64_t now)
{
    file_swept_at = now;
    for (int number = 1; number <= KEPT_FILES && file_age_maximum_ms > 0; number++) {
        char *path = rotated_path(number);
        struct stat status;
        if (stat(path, &status) == 0 && now - (int64_t)status.st_mtime * 1000 > file_age_maximum_ms) {
            unlink(path);
        }
        free(path);
    }
}

/* A file that was begun by an earlier process says when in its first line. */
static int64_t begin_of_file(int fd, int64_t otherwise)
{
    static const char START[] = "{\"ts\":\"";
    char head[sizeof(START) - 1 + RFC3339_SIZE];
    int64_t begun_at = 0;
    ssize_t got = pread(fd, head, sizeof(head) - 1, 0);
    if (got != (ssize_t)sizeof(head) - 1 || memcmp(head, START, sizeof(START) - 1) != 0) {
        return otherwise;
    }
    head[sizeof(head) - 1] = '\0';
    return time_parse_rfc3339(head + sizeof(START) - 1, &begun_at) == 0 ? begun_at : otherwise;
}

static int open_current(const char *path, uint64_t *ret_size, int64_t *ret_begun_at)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -1;
    }
    struct stat status;
    bool known = fstat(fd, &status) == 0;
    if (!known || S_ISFIFO(status.st_mode)) { /* a pipe would wait for who reads it */
        int saved = known ? EINVAL : errno;
        close(fd);
        errno = saved;
        return -1;
    }
    *ret_size = status.st_size > 0 ? (uint64_t)status.st_size : 0;
    *ret_begun_at = begin_of_file(fd, clock_wall_ms());
    return fd;
}

/* Any failure leaves the current file in use: a log that is too long is better than none. */
static void rotate(void)
{
    for (int number = KEPT_FILES - 1; number >= 0; number--) {
        char *from = number == 0 ? memory_strdup(file_path) : rotated_path(number);
        char *to = rotated_path(number + 1);
        (void)rename(from, to); /* not there yet: nothing to move */
        free(from);
        free(to);
    }
    uint64_t size = 0;
    int64_t begun_at = 0;
    int fd = open_current(file_path, &size, &begun_at);
    if (fd >= 0) {
        close(log_fd);
        log_fd = fd;
        file_begun_at = begun_at;
        file_size = size;
    } else {
        file_size = 0; /* tries again after as many bytes, not at each line */
    }
}

static void rotate_if_due(size_t line_size)
{
    int64_t now = clock_wall_ms();
    bool too_long = file_size > 0 && file_size_maximum > 0 && file_size + line_size > file_size_maximum;
    /* In as many pieces as are kept, so that a line goes when its time is over and not when the last of a long file is; a day at least. */
    int64_t piece_ms = file_age_maximum_ms / KEPT_FILES > MS_A_DAY ? file_age_maximum_ms / KEPT_FILES : MS_A_DAY;
    bool too_old = file_size > 0 && file_age_maximum_ms > 0 && now - file_begun_at > piece_ms;
    if (too_long || too_old) {
        rotate();
    }
    if (too_long || too_old || now - file_swept_at > MS_A_HOUR) {
        remove_old_files(now);
    }
}

/* Somebody took the file away (another program that rotates, a person), or a rotation could not open the next one: the name is made anew. */
static void reopen_if_gone(void)
{
    struct stat named, ours;
    int64_t now = clock_wall_ms();
    if (now >= file_checked_at && now - file_checked_at < MS_A_SECOND) {
        return;
    }
    file_checked_at = now;
    if (fstat(log_fd, &ours) == 0 && stat(file_path, &named) == 0 && named.st_ino == ours.st_ino && named.st_dev == ours.st_dev) {
        return;
    }
    uint64_t size = 0;
    int64_t begun_at = 0;
    int fd = open_current(file_path, &size, &begun_at);
    if (fd >= 0) {
        close(log_fd);
        log_fd = fd;
        file_size = size;
        file_begun_at = begun_at;
        line_is_torn = false;
    }
}

static void forget_file(void)
{
    if (file_path != NULL) {
        close(log_fd);
        free(file_path);
        file_path = NULL;
    }
}

/* ---- public ----------------------------------------------------------------------------------------------------- */

/* What the disk does not take is lost, and counted; what it took of a line must not be glued to the next one. Under the mutex. */
static bool write_bytes(const struct buffer *line, enum log_level level)
{
    static char end[] = "\n";
    /* As sd-daemon(3) has it: the journal takes the digit away, and the line is JSON again. */
    static const char *const PRIORITIES[] = {
        [LOG_LEVEL_DEBUG] = "<7>", [LOG_LEVEL_INFO] = "<6>", [LOG_LEVEL_WARN] = "<4>", [LOG_LEVEL_ERROR] = "<3>"
    };
    char priority[4];
    memcpy(priority, PRIORITIES[level], sizeof(priority));
    if (to_writer) {
        lines_lost += log_writer_take_lost();
        return log_writer_put(priority, to_journal ? sizeof(priority) - 1 : 0, line->data, line->length);
    }
    struct iovec parts[] = { { .iov_base = end, .iov_len = line_is_torn ? 1 : 0 },
                             { .iov_base = priority, .iov_len = to_journal ? sizeof(priority) - 1 : 0 },
                             { .iov_base = line->data, .iov_len = line->length } };
    size_t wanted = parts[0].iov_len + parts[1].iov_len + parts[2].iov_len;
    ssize_t written = 0;
    do {
        written = writev(log_fd, parts, (int)ARRAY_LENGTH(parts));
    } while (written < 0 && errno == EINTR);
    if (written > 0) {
        file_size += (uint64_t)written;
        line_is_torn = (size_t)written != parts[0].iov_len && (size_t)written != wanted;
    }
    return written >= 0 && (size_t)written == wanted;
}

/* There is room again: how much is missing. */
static void tell_lost(void)
{
    struct buffer line;
    const struct log_field fields[] = { LOG_NUMBER("lines", lines_lost), LOG_END };
    buffer_init(&line, LINE_MAXIMUM);
    build_line(&line, LOG_LEVEL_WARN, "log_lines_lost", fields);
    if (write_bytes(&line, LOG_LEVEL_WARN)) {
        lines_lost = 0;
    }
    buffer_release(&line);
}

static void write_line(enum log_level level, const char *event_name, const struct log_field *fields)
{
    struct buffer line;
    buffer_init(&line, LINE_MAXIMUM);
    build_line(&line, level, event_name, fields);
    pthread_mutex_lock(&log_mutex);
    if (file_path != NULL) {
        reopen_if_gone();
        rotate_if_due(line.length);
    }
    if (!write_bytes(&line, level)) {
        lines_lost++;
    } else if (lines_lost > 0) {
        tell_lost();
    }
    pthread_mutex_unlock(&log_mutex);
    buffer_release(&line);
}

void log_write(enum log_level level, const char *event_name, const struct log_field *fields)
{
    if ((int)level >= atomic_load_explicit(&log_level, memory_order_relaxed)) {
        int saved = errno; /* logging between a failed call and its report must not change the reason */
        write_line(level, event_name, fields);
        errno = saved;
    }
}

void log_set_fd(int fd)
{
    pthread_mutex_lock(&log_mutex);
    forget_file();
    log_fd = fd;
    to_journal = false;
    to_writer = false;
    pthread_mutex_unlock(&log_mutex);
}

bool log_detect_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    char ours[64];
    if (stream == NULL || fstat(STDERR_FILENO, &status) != 0) {
        return false;
    }
    (void)snprintf(ours, sizeof(ours), "%ju:%ju", (uintmax_t)status.st_dev, (uintmax_t)status.st_ino);
    pthread_mutex_lock(&log_mutex);
    to_journal = file_path == NULL && log_fd == STDERR_FILENO && strcmp(stream, ours) == 0;
    bool detected = to_journal;
    pthread_mutex_unlock(&log_mutex);
    return detected;
}

int log_start_writer(void)
{
    struct stat status;
    int result = 0;
    pthread_mutex_lock(&log_mutex);
    bool may_wait = file_path == NULL && log_fd == STDERR_FILENO && (fstat(log_fd, &status) != 0 || !S_ISREG(status.st_mode));
    if (may_wait && !to_writer) {
        result = log_writer_start(log_fd);
        to_writer = result == 0;
    }
    pthread_mutex_unlock(&log_mutex);
    return result;
}

void log_flush(void)
{
    pthread_mutex_lock(&log_mutex);
    bool waits = to_writer;
    pthread_mutex_unlock(&log_mutex);
    if (waits) {
        log_writer_flush(FLUSH_MS);
    }
}

void log_poke(void)
{
    pthread_mutex_lock(&log_mutex);
    if (file_path != NULL) {
        reopen_if_gone();
        rotate_if_due(0);
    }
    pthread_mutex_unlock(&log_mutex);
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
    for (size_t index = 0; index < ARRAY_LENGTH(LEVEL_NAMES); index++) {
        if (string_equal(name, LEVEL_NAMES[index])) {
            *ret_level = (enum log_level)index;
            return 0;
        }
    }
    return -1;
}

int log_open_file(const char *path, uint64_t max_bytes, int max_age_days)
{
    uint64_t size = 0;
    int64_t begun_at = 0;
    int fd = open_current(path, &size, &begun_at);
    if (fd < 0) {
        return -1;
    }
    char *copy = memory_strdup(path); /* before the old one goes: it may be the same string */
    pthread_mutex_lock(&log_mutex);
    forget_file();
    log_fd = fd;
    file_path = copy;
    line_is_torn = false;
    to_journal = false;
    to_writer = false;
    file_checked_at = clock_wall_ms();
    file_size = size;
    file_begun_at = begun_at;
    file_size_maximum = max_bytes;
    file_age_maximum_ms = (int64_t)max_age_days * MS_A_DAY;
    remove_old_files(clock_wall_ms());
    pthread_mutex_unlock(&log_mutex);
    return 0;
}

void log_fatal(int status, const char *event_name, const struct log_field *fields)
{
    write_line(LOG_LEVEL_ERROR, event_name, fields);
    log_flush();
    pthread_mutex_lock(&log_mutex);
    (void)fsync(log_fd); /* a terminal or a pipe cannot be synced, and need not be */
    /* Not exit(): other threads go on while handlers run, and one of them could answer a promise that is lost. */
    _exit(status);
}
