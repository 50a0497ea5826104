/* Presence (70-broker): what others see of a member's sessions, its 90 seconds of grace, what survives a reconnect; list_peers, peer_joined, peer_left. In memory; what a client sets is kept in
 * the store beside its session, so that it is there after a restart. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

static const char *const STATUSES[] = { "idle", "working", "dnd" };

const char *presence_find_status(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(STATUSES); i++)
        if (string_equal(STATUSES[i], name))
            return STATUSES[i];
    return NULL;
}

bool presence_is_dnd(const struct presence *presence)
{
    return presence != NULL && string_equal(presence->status, "dnd");
}

/* ---- as others see it ------------------------------------------------------------------------------------------------------------- */

static json_t *describe(const struct presence *presence)
{
    json_t *peer = json_new_object();
    json_put_string(peer, "pubkey", presence->routing_key);
    json_put_string(peer, "memberPubkey", presence->member->pubkey);
    json_put_string(peer, "memberId", presence->member->member_id);
    json_put_string(peer, "displayName", presence->display_name != NULL ? presence->display_name : presence->member->name);
    json_put_string(peer, "status", presence->status);
    json_put_string(peer, "summary", presence->summary);
    json_put(peer, "groups", json_deep_copy(presence->groups));
    json_put_string(peer, "sessionId", presence->session_uid);
    json_put_integer(peer, "connectedAt", presence->connected_at);
    json_put_string(peer, "cwd", presence->cwd);
    json_put_string(peer, "hostname", presence->hostname);
    json_put_string(peer, "peerType", presence->peer_type);
    json_put_string(peer, "channel", presence->channel);
    json_put_bool(peer, "visible", presence->visible);
    json_put(peer, "profile", json_deep_copy(presence->profile));
    return peer;
}

static void tell(const struct presence *presence, const char *event)
{
    json_t *data = describe(presence);
    session_broadcast_event(presence->member->mesh, presence->session, event, data);
    json_decref(data);
}

void presence_announce(struct session *session)
{
    struct presence *presence = session->presence;
    if (presence == NULL || presence->announced || !presence->visible)
        return;
    presence->announced = true;
    tell(presence, "peer_joined");
}

void presence_withdraw(struct presence *presence)
{
    if (!presence->announced)
        return;
    presence->announced = false;
    tell(presence, "peer_left");
}

/* The member's certificate, so that its name and key can be checked without another question. */
static void put_certificate(struct buffer *text, const struct member *member)
{
    if (member->certificate == NULL)
        return;
    text->length--; /* the closing brace comes again */
    text->data[text->length] = '\0';
    buffer_append_text(text, ",\"cert\":");
    buffer_append_text(text, member->certificate);
    buffer_append_byte(text, '}');
}

/* Pages end below a frame's maximum; `after` is the presenceId that the last page ended with. */
void presence_handle_list_peers(struct session *session, const json_t *frame)
{
    const json_t *request_id = session_request_id(frame);
    struct buffer text;
    bool first = true;
    buffer_init(&text, LIMIT_FRAME);
    buffer_append_text(&text, "{\"type\":\"peers_list\",\"peers\":[");
    const struct presence *presence, *last = NULL;
    const char *after = json_string_value(json_object_get(frame, "after")), *next = NULL;
    LIST_FOREACH(presence, &session->member->mesh->presences, of_mesh)
    {
        if (after != NULL) {
            if (string_equal(after, presence->presence_id))
                after = NULL;
            continue;
        }
        if (!presence->visible && presence->member != session->member)
            continue;
        if (text.length >= BROKER_LIST_BYTES) {
            next = last->presence_id;
            break;
        }
        json_t *peer = describe(presence);
        if (!first)
            buffer_append_byte(&text, ',');
        first = false;
        (void)json_print(peer, &text);
        put_certificate(&text, presence->member);
        json_decref(peer);
        last = presence;
    }
    buffer_append_byte(&text, ']');
    if (next != NULL)
        buffer_printf(&text, ",\"next\":\"%s\"", next);
    if (request_id != NULL) {
        buffer_append_text(&text, ",\"_reqId\":");
        (void)json_print(request_id, &text);
    }
    buffer_append_byte(&text, '}');
    if (!text.overflow)
        session_send(session, text.data, text.length);
    else
        session_error(session, request_id, "too_large", "the list does not fit a frame", NULL);
    buffer_release(&text);
}

/* ---- what is kept ------------------------------------------------------------------------------------------------------------------------ */

struct save_request {
    struct store_save_session store;
    struct broker *broker;
    char *state;
};

static void saved(struct store_request *base)
{
    struct save_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_save_session, request), struct save_request, store);
    struct session *session = session_find_key(request->broker, request->store.session);
    if (base->status != 0)
        log_event(LOG_LEVEL_WARN, "store_failed", LOG_TEXT("op", "save_session"), LOG_TEXT("detail", base->error->message), LOG_END);
    if (session != NULL) {
        session->saving = false;
        if (session->save_again)
            presence_save(session);
    }
    free(request->state);
    free(request);
}

static void submit_save(struct broker *broker, int64_t session_key, int64_t member, char *state)
{
    struct save_request *request = memory_zalloc(sizeof(*request));
    request->broker = broker;
    request->state = state;
    request->store.request.done = saved;
    request->store.session = session_key;
    request->store.member = member;
    request->store.now_ms = clock_wall_ms();
    request->store.state = state;
    broker->store->operations->save_session(broker->store, &request->store);
}

static char *print_state(const struct presence *presence)
{
    json_t *state = json_new_object();
    json_put_string(state, "status", presence->status);
    json_put_string(state, "summary", presence->summary);
    json_put_bool(state, "visible", presence->visible);
    json_put(state, "groups", json_deep_copy(presence->groups));
    json_put(state, "profile", json_deep_copy(presence->profile));
    char *text = json_to_string(state, NULL);
    json_decref(state);
    return text;
}

/* One write at a time: a client that changes its mind a thousand times a second costs one write after another, not a thousand. */
void presence_save(struct session *session)
{
    if (session->saving) {
        session->save_again = true;
        return;
    }
    session->saving = true;
    session->save_again = false;
    submit_save(session->broker, session->key, session->member->key, print_state(session->presence));
}

/* ---- coming and going ------------------------------------------------------------------------------------------------------------------------ */

/* A client's word about its host: cut, never refused. */
void presence_set_text(char **field, const char *text, size_t maximum)
{
    free(*field);
    if (text == NULL) {
        *field = NULL;
        return;
    }
    size_t length = strlen(text);
    if (length > maximum)
        for (length = maximum; length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80; length--)
            continue;
    *field = memory_strndup(text, length);
}

bool presence_groups_are_usable(const json_t *groups)
{
    if (!json_is_array(groups) || json_array_size(groups) > BROKER_GROUPS)
        return false;
    for (size_t i = 0; i < json_array_size(groups); i++) {
        const json_t *group = json_array_get(groups, i), *role = json_object_get(group, "role");
        const char *name = json_string_value(json_object_get(group, "name"));
        if (name == NULL || !name_is_valid(name) || (role != NULL && (!json_is_string(role) || json_string_length(role) > LIMIT_NAME)))
            return false;
    }
    return true;
}

/* What is understood of them and nothing else: whatever stood beside it would go out to everybody. */
static void set_groups(struct presence *presence, const json_t *groups)
{
    json_t *kept = json_new_array();
    for (size_t i = 0; i < json_array_size(groups); i++) {
        const json_t *group = json_array_get(groups, i);
        const char *role = json_string_value(json_object_get(group, "role"));
        json_t *copy = json_new_object();
        json_put_string(copy, "name", json_string_value(json_object_get(group, "name")));
        if (role != NULL)
            json_put_string(copy, "role", role);
        if (json_array_append_new(kept, copy) != 0)
            memory_exhausted();
    }
    json_decref(presence->groups);
    presence->groups = kept;
}

static void restore(struct presence *presence, const json_t *state)
{
    const char *status = presence_find_status(json_string_value(json_object_get(state, "status")));
    const json_t *groups = json_object_get(state, "groups"), *profile = json_object_get(state, "profile");
    if (status != NULL)
        presence->status = status;
    presence_set_text(&presence->summary, json_string_value(json_object_get(state, "summary")), BROKER_SUMMARY);
    presence->visible = !json_is_false(json_object_get(state, "visible"));
    if (presence_groups_are_usable(groups))
        set_groups(presence, groups);
    if (json_is_object(profile)) {
        json_decref(presence->profile);
        presence->profile = json_deep_copy(profile);
    }
}

static struct presence *make(struct session *session, const json_t *state)
{
    struct presence *presence = memory_zalloc(sizeof(*presence));
    ulid_generate(presence->presence_id);
    presence->member = session->member;
    session->member->references++;
    presence->connected_at = clock_wall_ms();
    presence->status = STATUSES[0];
    presence->visible = true;
    presence->groups = json_new_array();
    presence->profile = json_new_object();
    restore(presence, state);
    LIST_INSERT_HEAD(&session->member->mesh->presences, presence, of_mesh);
    return presence;
}

/* The one whose connection was lost a moment ago: the same session's, or, where a member has one connection, its last one's. */
static struct presence *find_in_grace(const struct session *session)
{
    struct presence *presence, *other = NULL;
    LIST_FOREACH(presence, &session->member->mesh->presences, of_mesh)
    {
        if (presence->member != session->member || presence->session != NULL)
            continue;
        if (string_equal(presence->session_uid, session->session_uid))
            return presence;
        if (session->broker->figures.policy != POLICY_ALLOW_CONCURRENT && string_equal(presence->routing_key, session->routing_key))
            other = presence;
    }
    return other;
}

bool presence_enter(struct session *session, const json_t *state, const struct frame_hello *hello, struct presence *replaced)
{
    struct presence *presence = replaced;
    if (presence == NULL) {
        presence = find_in_grace(session);
        if (presence != NULL)
            TAILQ_REMOVE(&session->broker->leaving, presence, of_leaving);
    }
    bool survived = presence != NULL;
    if (!survived)
        presence = make(session, state);
    presence->session = session;
    session->presence = presence;
    presence_set_text(&presence->session_uid, session->session_uid, BROKER_SESSION_UID);
    memcpy(presence->routing_key, session->routing_key, sizeof presence->routing_key);
    presence_set_text(&presence->display_name, hello->display_name, LIMIT_DISPLAY_NAME);
    presence_set_text(&presence->cwd, hello->cwd, BROKER_HOST_TEXT);
    presence_set_text(&presence->hostname, hello->hostname, BROKER_HOST_TEXT);
    presence_set_text(&presence->peer_type, hello->peer_type, LIMIT_NAME);
    presence_set_text(&presence->channel, hello->channel, LIMIT_NAME);
    if (hello->groups != NULL && presence_groups_are_usable(hello->groups))
        set_groups(presence, hello->groups);
    if (survived && presence->session_key != session->key) {
        presence->session_key = session->key;
        presence_save(session);
    }
    presence->session_key = session->key;
    return survived || state != NULL;
}

struct presence *presence_take(struct session *session)
{
    struct presence *presence = session->presence;
    session->presence = NULL;
    if (presence != NULL)
        presence->session = NULL;
    return presence;
}

static void end(struct broker *broker, struct presence *presence)
{
    if (!broker->stopping)
        presence_withdraw(presence);
    LIST_REMOVE(presence, of_mesh);
    struct member *member = presence->member;
    free(presence->session_uid);
    free(presence->display_name);
    free(presence->cwd);
    free(presence->hostname);
    free(presence->peer_type);
    free(presence->channel);
    free(presence->summary);
    json_decref(presence->groups);
    json_decref(presence->profile);
    free(presence);
    state_release_member(broker, member);
}

void presence_leave(struct session *session)
{
    struct broker *broker = session->broker;
    struct presence *presence = presence_take(session);
    submit_save(broker, presence->session_key, presence->member->key, print_state(presence));
    if (broker->figures.presence_grace_ms == 0 || broker->stopping) {
        end(broker, presence);
        return;
    }
    presence->leaves_at_ms = clock_monotonic_ms() + broker->figures.presence_grace_ms;
    TAILQ_INSERT_TAIL(&broker->leaving, presence, of_leaving);
    if (!loop_timer_is_running(broker->grace_timer))
        loop_timer_start(broker->grace_timer, broker->figures.presence_grace_ms);
}

void presence_grace_over(void *argument)
{
    struct broker *broker = argument;
    int64_t now = clock_monotonic_ms();
    struct presence *presence;
    while ((presence = TAILQ_FIRST(&broker->leaving)) != NULL) {
        if (presence->leaves_at_ms > now) {
            loop_timer_start(broker->grace_timer, presence->leaves_at_ms - now);
            return;
        }
        TAILQ_REMOVE(&broker->leaving, presence, of_leaving);
        end(broker, presence);
    }
}

void presence_end_member(struct broker *broker, int64_t member)
{
    struct presence *presence, *next;
    for (presence = TAILQ_FIRST(&broker->leaving); presence != NULL; presence = next) {
        next = TAILQ_NEXT(presence, of_leaving);
        if (presence->member->key != member)
            continue;
        TAILQ_REMOVE(&broker->leaving, presence, of_leaving);
        end(broker, presence);
    }
}

void presence_end_all(struct broker *broker)
{
    struct presence *presence;
    while ((presence = TAILQ_FIRST(&broker->leaving)) != NULL) {
        TAILQ_REMOVE(&broker->leaving, presence, of_leaving);
        end(broker, presence);
    }
}
