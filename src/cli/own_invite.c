/* Owns what an invite takes from the joined mesh; its role, times and signature are the caller's. */
#include "cli/own_invite.h"

#include "cli/meshes.h"
#include "cli/output.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

int own_invite_fill(struct cli *cli, const struct config_mesh *mesh, struct invite *invite)
{
    struct buffer root;
    if (!meshes_is_owner(mesh)) {
        return cli_fail(cli, EXIT_NOT_AUTHORISED, "only the owner of '%s' can invite (the owner's key begins with %.16s)", mesh->slug,
                        mesh->owner_pubkey == NULL ? "?" : mesh->owner_pubkey);
    }
    buffer_init_secret(&root, sizeof invite->root_key);
    bool usable = mesh->root_key != NULL && base64url_decode(mesh->root_key, strlen(mesh->root_key), &root) == 0 &&
                  root.length == sizeof invite->root_key;
    if (usable) {
        memcpy(invite->root_key, root.data, sizeof invite->root_key);
    }
    buffer_release(&root);
    if (!usable) {
        return cli_fail(cli, EXIT_FAILED, "config.json has no root key for '%s', so nobody can be invited from here", mesh->slug);
    }
    invite->version = 3;
    invite->mesh_id = memory_strdup(mesh->mesh_id);
    invite->mesh_slug = memory_strdup(mesh->slug);
    invite->mesh_name = memory_strdup(mesh->name);
    invite->broker_url = memory_strdup(mesh->broker_url);
    invite->owner_pubkey = memory_strdup(mesh->owner_pubkey);
    invite->has_root_key = true;
    random_bytes(invite->invite_seed, sizeof invite->invite_seed);
    invite->has_invite_seed = true;
    return EXIT_DONE;
}
