/* Files: whole reads with a maximum, atomic durable writes, directories, locks. Blocking. */
#ifndef UTIL_FILE_H
#define UTIL_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "util/attributes.h"
#include "util/buffer.h"
#include "util/error.h"

/* Appends the file's bytes. Waits for nobody. ERROR_NOT_FOUND, ERROR_TOO_LARGE (over the buffer's maximum), ERROR_INVALID (a pipe), ERROR_SYSTEM. */
int file_read(const char *path, struct buffer *ret_bytes, struct error *error) MUST_CHECK;
/* The same for a path that the user named on the command line: a pipe too (/dev/stdin, what a shell makes of <(…)), to its end. */
int file_read_given(const char *path, struct buffer *ret_bytes, struct error *error) MUST_CHECK;
/* Temporary file in the same directory made with `mode`, write, fsync, rename, fsync of the
 * directory (10-cli, Files). On failure the old file is untouched and the temporary one gone. Temporary files of this
 * path whose writers died are removed. */
int file_write_atomic(const char *path, mode_t mode, const void *data, size_t size, struct error *error) MUST_CHECK;
/* The same, piece by piece, for what is too large for memory. A writer that was not opened, was finished or abandoned is zeroed but for fd. */
struct file_writer {
    char *path, *temporary; /* heap */
    int fd;
};
int file_writer_open(struct file_writer *writer, const char *path, mode_t mode, struct error *error) MUST_CHECK;
int file_writer_write(struct file_writer *writer, const void *data, size_t size, struct error *error) MUST_CHECK;
/* The file gets its name, or nothing is left of it. Without `replace`: ERROR_CONFLICT when there is a file of that name. */
int file_writer_finish(struct file_writer *writer, bool replace, struct error *error) MUST_CHECK;
void file_writer_abandon(struct file_writer *writer); /* takes one that was not opened */
/* mkdir with `mode` if absent (parents too, 0700). An existing directory is left as it is. */
int directory_ensure(const char *path, mode_t mode, struct error *error) MUST_CHECK;
int directory_fsync(const char *path, struct error *error) MUST_CHECK;
/* What bytes were written through this descriptor are on stable storage. -1 with errno. */
int file_sync(int fd) MUST_CHECK;
/* Removes a file, or a directory with everything in it; links are removed, never followed. Absent: 0. What can be removed is, and the first failure is told. */
int tree_remove(const char *path, struct error *error) MUST_CHECK;
bool file_exists(const char *path);
/* Whether there is something of that name, a link counted as itself; for decisions that must not take "cannot be looked at" for "is not there". */
int file_look(const char *path, bool *ret_there, struct error *error) MUST_CHECK;
/* ERROR_DENIED when group or others may read or write it, or another user owns it. Absent: 0. */
int file_check_private(const char *path, struct error *error) MUST_CHECK;
/* path = directory + "/" + name; heap. */
char *path_join(const char *directory, const char *name) MUST_CHECK;
/* The directory that holds it; "." for a bare name. Heap. */
char *path_parent(const char *path) MUST_CHECK;

/* Opens (O_CREAT, mode) and flocks exclusively without waiting. ERROR_BUSY when another process holds
 * it. What is locked is what stands at the path then, also when it was replaced meanwhile. The lock lasts until the descriptor is closed. */
int file_lock(const char *path, mode_t mode, int *ret_fd, struct error *error) MUST_CHECK;
/* Whether somebody holds that lock now; an absent file is not locked. */
bool file_is_locked(const char *path);

#endif
