/* Owns those marks. Must not know what becomes of the rows. */
#include "identity/reminted.h"

#include <errno.h>
#include <unistd.h>

#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

enum { KEY_TEXT_MAXIMUM = 256 };

static char *file_of(const struct config_paths *paths, const char *mesh_id)
{
    return memory_printf("%s/reminted-%s", paths->daemon, mesh_id);
}

int reminted_mark(const struct config_paths *paths, const char *mesh_id, const char *former_pubkey, struct error *error)
{
    if (!id_is_valid(mesh_id))
        return error_set(error, ERROR_INVALID, "the mesh's id is malformed");
    char *path = file_of(paths, mesh_id);
    int status = file_write_atomic(path, 0600, former_pubkey, strlen(former_pubkey), error);
    free(path);
    return status;
}

int reminted_clear(const struct config_paths *paths, const char *mesh_id, struct error *error)
{
    char *path = file_of(paths, mesh_id);
    int status = 0;
    if (unlink(path) == 0)
        status = directory_fsync(paths->daemon, error);
    else if (errno != ENOENT)
        status = error_set_errno(error, "cannot remove %s", path);
    free(path);
    return status;
}

int reminted_look(const struct config_paths *paths, const char *mesh_id, const char *pubkey, bool *ret_pending, struct error *error)
{
    struct buffer former;
    *ret_pending = false;
    if (!id_is_valid(mesh_id))
        return 0; /* never marked */
    char *path = file_of(paths, mesh_id);
    buffer_init(&former, KEY_TEXT_MAXIMUM);
    int status = file_read(path, &former, error);
    if (status == 0 && string_equal(former.data, pubkey))
        status = reminted_clear(paths, mesh_id, error);
    else if (status == 0)
        *ret_pending = true;
    else if (status == -(int)ERROR_NOT_FOUND)
        status = 0;
    buffer_release(&former);
    free(path);
    return status;
}
