/* What the installation is: the lock, the local token, the session id, the members' keys (50-identity; more of it in later issues). Blocking; start-up. */
#ifndef IDENTITY_IDENTITY_H
#define IDENTITY_IDENTITY_H

#include "config/config.h"
#include "crypto/keys.h"

/* The daemon's singleton: flock on daemon.pid, which holds the pid's decimal digits. ERROR_BUSY with *ret_holder (0 unknown). */
int identity_lock(const struct config_paths *paths, int *ret_fd, int64_t *ret_holder, struct error *error) MUST_CHECK;
int identity_lock_write_pid(int fd, int64_t pid, struct error *error) MUST_CHECK;
/* Truncates daemon.pid, then releases the lock: last thing at shutdown. The file stays. */
void identity_unlock(int fd);
/* pid of the process that holds the lock now; -ERROR_NOT_FOUND when nobody does. */
int identity_running_pid(const struct config_paths *paths, int64_t *ret_pid, struct error *error) MUST_CHECK;

/* local-token: 32 random bytes, base64url; made (0600) when absent; refused when others can read it. token is heap; wipe it. */
int identity_local_token(const struct config_paths *paths, char **ret_token, struct error *error) MUST_CHECK;
/* A new one in its place, atomically: whoever reads the file has the old or the new one, whole. Made where there is none. token is heap; wipe it. */
int identity_rotate_token(const struct config_paths *paths, char **ret_token, struct error *error) MUST_CHECK;
/* A stable id for this installation (daemon/session-id, 0600): sessionId of hello. Heap. */
int identity_session_id(const struct config_paths *paths, char **ret_session_id, struct error *error) MUST_CHECK;
/* The mesh's member keys; checks that they belong together. */
int identity_mesh_keys(const struct config_mesh *mesh, struct keypair **ret_keys, struct error *error) MUST_CHECK;

#endif
