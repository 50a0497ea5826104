/* Owns who hears of what may be a copied key. Decides nothing about the connection. */
#include "broker/alarms.h"

#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "util/log.h"
#include "util/text.h"

#define CLONE_EVENT "member_clone_suspected"

void alarms_tell(const struct member *member, bool itself, const char *event, json_t *data)
{
    struct buffer frame;
    json_put_string(data, "pubkey", member->pubkey);
    json_put_string(data, "memberPubkey", member->pubkey);
    json_put_string(data, "memberId", member->member_id);
    json_put_string(data, "displayName", member->name);
    buffer_init(&frame, LIMIT_FRAME);
    if (session_event_frame(member->mesh, event, data, &frame) == 0) {
        struct session *other, *next;
        for (other = LIST_FIRST(&member->mesh->sessions); other != NULL; other = next) {
            next = LIST_NEXT(other, of_mesh);
            if (other->presence != NULL && (other->member->admin || (itself && other->member == member)))
                session_send(other, frame.data, frame.length);
        }
    }
    buffer_release(&frame);
}

void alarms_tell_clone(const struct member *member)
{
    json_t *data = json_new_object();
    log_event(LOG_LEVEL_WARN, CLONE_EVENT, LOG_SECURITY, LOG_TEXT("mesh", member->mesh->slug), LOG_TEXT("member_id", member->member_id),
              LOG_END);
    alarms_tell(member, false, CLONE_EVENT, data);
    json_decref(data);
}

void alarms_note_refused(struct broker *broker, struct member *member, const char *host_fingerprint)
{
    if (host_fingerprint == NULL || member->host_fingerprint[0] == '\0' || string_equal(member->host_fingerprint, host_fingerprint) ||
        string_equal(member->refused_host, host_fingerprint) ||
        string_copy(member->refused_host, sizeof member->refused_host, host_fingerprint) != 0)
        return;
    members_audit(broker, member->mesh->key, member->key, CLONE_EVENT, "refused: connected from elsewhere");
    alarms_tell_clone(member);
}
