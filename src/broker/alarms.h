/* What the admins of a mesh are told about one of its members (50-identity): two connections with one key, another host. Loop thread. */
#ifndef BROKER_ALARMS_H
#define BROKER_ALARMS_H

#include "broker/state.h"

/* A system event to every connection of the mesh's admins that receives, and, when `itself`, to the member's own. data is borrowed; pubkey, memberPubkey,
 * memberId and displayName are added. */
void alarms_tell(const struct member *member, bool itself, const char *event, json_t *data);
/* member_clone_suspected: the member appeared with another host's fingerprint; the store has kept and audited it. */
void alarms_tell_clone(const struct member *member);
/* The same of a connection that is refused, because the member is connected from elsewhere: audited here, and once for each host while the member is here. */
void alarms_note_refused(struct broker *broker, struct member *member, const char *host_fingerprint);

#endif
