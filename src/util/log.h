/* JSON lines: ts, level, msg (a stable snake_case event name), then fields (80-operations, Logs).
 * Never pass a body, key, token or invite link. Any thread; each line is one write(2), or waits for one (log_start_writer). */
#ifndef UTIL_LOG_H
#define UTIL_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

enum log_kind { LOG_KIND_END, LOG_KIND_TEXT, LOG_KIND_NUMBER, LOG_KIND_BOOL };
struct log_field {
    enum log_kind kind;
    const char *name;
    const char *text; /* NULL prints null */
    int64_t number;
};
#define LOG_TEXT(name, value) ((struct log_field){ LOG_KIND_TEXT, (name), (value), 0 })
#define LOG_NUMBER(name, value) ((struct log_field){ LOG_KIND_NUMBER, (name), 0, (int64_t)(value) })
#define LOG_BOOL(name, value) ((struct log_field){ LOG_KIND_BOOL, (name), 0, (value) ? 1 : 0 })
#define LOG_SECURITY LOG_BOOL("security", true)
#define LOG_END ((struct log_field){ LOG_KIND_END, 0, 0, 0 })

/* log_event(LOG_LEVEL_INFO, "link_open", LOG_TEXT("mesh", slug), LOG_END); */
#define log_event(level, event_name, ...) log_write((level), (event_name), (const struct log_field[]){ __VA_ARGS__ })

void log_write(enum log_level level, const char *event_name, const struct log_field *fields);

/* Where lines go; the descriptor stays the caller's. Default: stderr, level info. */
void log_set_fd(int fd);
void log_set_level(enum log_level level);
int log_level_parse(const char *name, enum log_level *ret_level);
/* When stderr is systemd's journal (JOURNAL_STREAM names its device and inode): each line begins with <N>, its priority, which the journal takes away; `journalctl -o cat`
 * shows the JSON. True when it is. */
bool log_detect_journal(void);
/* From now on no line waits for who reads stderr: where that is no file, a thread of the log's own writes, 256 KiB are kept for it, and what does not fit is
 * lost, counted and told like what a disk does not take. To be called once, by a process that serves, when it forks no more and has given up what it gives up. -1 with errno:
 * lines are written as before. */
int log_start_writer(void);
/* Waits for that thread, a second at most. */
void log_flush(void);
/* Opens (O_APPEND, 0600) and keeps a file, rotated to <path>.1 … .5 past max_bytes, or when it was begun a fifth of max_age_days ago (a day at least), while writing; rotated
 * files older than max_age_days are removed. When somebody takes the file away it is made anew. Lines that the disk does not take are lost, counted, and told when there
 * is room again (log_lines_lost). Replaces what log_set_fd said. -1 with errno. */
int log_open_file(const char *path, uint64_t max_bytes, int max_age_days);
/* Now and then: rotates a log in which nothing is written. */
void log_poke(void);

/* Logs at error level, flushes, and exits with `status`: for states in which going on
 * would lose data (an fsync that failed). */
__attribute__((noreturn)) void log_fatal(int status, const char *event_name, const struct log_field *fields);

#endif
