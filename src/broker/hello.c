/* Hello (40-wire, 45-trust): signatures, skew, the challenge, the store's word, the concurrency policy, the answer; then the negotiation of features. Refuses with a reason
 * and closes; a connection that passes is open. */
#include "broker/alarms.h"
#include "broker/handlers.h"
#include "broker/keeping.h"
#include "broker/session.h"
#include "json/json.h"
#include "proto/frames.h"
#include "proto/statement.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { CLOSE_POLICY = 1008, CLOSE_REVOKED = 4002, CLOSE_REPLACED = 4003, CLOSE_ALREADY_CONNECTED = 4004 };
enum { SKEW_MS = 60000 };

struct hello_request {
    struct store_hello store;
    struct broker *broker;
    json_t *frame; /* ours: what the strings point into */
    struct frame_hello hello;
    const char *routing_key;
    const char *host_fingerprint; /* NULL: none was given, or what is no hash */
};

static void refuse(struct session *session, int close_code, const char *code, const char *message, json_t *extra)
{
    session->broker->metrics.hello_refused++;
    log_event(LOG_LEVEL_INFO, "hello_refused", LOG_TEXT("code", code), LOG_TEXT("peer", websocket_peer_address(session->socket)),
              LOG_SECURITY, LOG_END);
    session_refuse(session, close_code, code, message, extra);
}

/* ---- what can be judged without the store --------------------------------------------------------------------------------- */

static bool first_signature_is_valid(const struct frame_hello *hello)
{
    struct buffer text;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    bool valid = frame_hello_text(hello, &text) == 0 && signature_hex_is_valid(hello->pubkey, text.data, text.length, hello->signature);
    buffer_release(&text);
    return valid;
}

/* The client signed the URL that its invite names; it must be one of ours. */
static bool second_signature_is_valid(const struct session *session, const struct frame_hello *hello)
{
    char timestamp[24];
    (void)snprintf(timestamp, sizeof timestamp, "%" PRId64, hello->timestamp);
    struct text values[] = {
        { NULL, 0 },
        text_from(session->challenge),
        text_from(hello->mesh_id),
        text_from(hello->member_id),
        text_from(hello->pubkey),
        text_from(hello->session_id),
        text_from(hello->session_pubkey == NULL ? "" : hello->session_pubkey),
        text_from(timestamp),
    };
    struct buffer text;
    struct error error;
    bool valid = false;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    for (size_t i = 0; i < session->broker->public_url_count && !valid; i++) {
        values[0] = text_from(session->broker->public_urls[i]);
        buffer_reset(&text);
        valid = statement_text(STATEMENT_HELLO_V2, values, ARRAY_LENGTH(values), &text, &error) == 0 &&
                signature_hex_is_valid(hello->pubkey, text.data, text.length, hello->signature2);
    }
    buffer_release(&text);
    return valid;
}

static bool fields_are_usable(const struct frame_hello *hello)
{
    size_t session_length = strlen(hello->session_id);
    return session_length >= 1 && session_length <= BROKER_SESSION_UID && hex_is_key(hello->pubkey);
}

/* The other connection of this member that it must give way to, or take the place of. Two with one sessionId are one installation. */
static struct session *find_rival(const struct member *member, const struct session *session, const char *session_uid,
                                  const char *routing_key, bool *ret_same_session)
{
    struct session *rival = NULL, *other;
    *ret_same_session = false;
    LIST_FOREACH(other, &member->sessions, of_member)
    {
        if (other == session || other->presence == NULL)
            continue;
        if (string_equal(other->session_uid, session_uid)) {
            *ret_same_session = true;
            return other;
        }
        if (string_equal(other->routing_key, routing_key))
            rival = other;
    }
    return rival;
}

/* Everything that a wrong or stale hello can be refused for at once. */
static bool judge(struct session *session, const struct frame_hello *hello)
{
    if (!fields_are_usable(hello)) {
        refuse(session, CLOSE_POLICY, "invalid_request", "the hello's sessionId or pubkey is not of the right form", NULL);
        return false;
    }
    if (!first_signature_is_valid(hello) || (hello->signature2 != NULL && !second_signature_is_valid(session, hello))) {
        refuse(session, CLOSE_POLICY, "bad_signature", "the hello's signature does not fit", NULL);
        return false;
    }
    int64_t now = clock_wall_ms();
    if (hello->timestamp < now - SKEW_MS || hello->timestamp > now + SKEW_MS) {
        json_t *extra = json_new_object();
        json_put_integer(extra, "serverTime", now);
        refuse(session, CLOSE_POLICY, "timestamp_skew", "the hello's timestamp is more than 60 s off", extra);
        return false;
    }
    return true;
}

/* ---- the store's word ------------------------------------------------------------------------------------------------------------ */

static void free_request(struct hello_request *request)
{
    free(request->store.mesh_slug);
    free(request->store.display_name);
    free(request->store.role);
    free(request->store.certificate);
    free(request->store.state);
    json_decref(request->frame);
    free(request);
}

static bool store_welcomed(struct session *session, const struct store_hello *hello)
{
    static const struct {
        int close_code;
        const char *code, *message;
    } REFUSALS[] = {
        [STORE_HELLO_UNKNOWN] = { CLOSE_POLICY, "unauthorized", "this key is no member of this mesh here" },
        [STORE_HELLO_REVOKED] = { CLOSE_REVOKED, "revoked", "this member was revoked" },
        [STORE_HELLO_REPLAYED] = { CLOSE_POLICY, "replay", "this hello was seen before: sign a new timestamp" },
        [STORE_HELLO_V2_REQUIRED] = { CLOSE_POLICY, "bad_signature", "this member signs the challenge: signature2 is missing" },
        [STORE_HELLO_KEY_ROTATED] = { CLOSE_POLICY, "key_rotated", "unauthorized: this key was rotated out, the member has another one" },
        [STORE_HELLO_KEY_TAKEN] = { CLOSE_POLICY, "unauthorized", "the sessionPubkey is another member's key" },
    };
    if (hello->request.status != 0) {
        log_event(LOG_LEVEL_ERROR, "store_failed", LOG_TEXT("op", "hello"), LOG_TEXT("detail", hello->request.error->message), LOG_END);
        refuse(session, CLOSE_POLICY, "capacity", "the store does not answer; try again", NULL);
        return false;
    }
    if (hello->outcome == STORE_WELCOME)
        return true;
    refuse(session, REFUSALS[hello->outcome].close_code, REFUSALS[hello->outcome].code, REFUSALS[hello->outcome].message, NULL);
    return false;
}

static void tell_concurrent(struct session *session, const char *what)
{
    const struct member *member = session->member;
    json_t *data = json_new_object();
    json_put_string(data, "policy", session->broker->figures.policy_name);
    json_put_string(data, "outcome", what);
    /* For who can do something about it: the member itself, and admins. */
    alarms_tell(member, true, "member_concurrent_connection", data);
    json_decref(data);
}

struct rivalry {           /* with another connection of the same member (50-identity, One member, two connections) */
    struct session *rival; /* NULL: none */
    bool same_session;
    enum connection_policy policy; /* that decides between the two */
};

static struct rivalry find_rivalry(const struct session *session, const struct hello_request *request)
{
    const struct broker *broker = session->broker;
    struct rivalry rivalry = { NULL, false, broker->figures.policy };
    const struct member *member = state_find_member_by_pubkey(broker, request->hello.mesh_id, request->hello.pubkey);
    if (member != NULL && request->hello.receive)
        rivalry.rival = find_rival(member, session, request->hello.session_id, request->routing_key, &rivalry.same_session);
    if (rivalry.same_session)
        rivalry.policy = POLICY_PREFER_NEWEST;
    return rivalry;
}

/* No other connection of the member will receive beside this one. */
static bool will_be_alone(const struct session *session, const struct hello_request *request)
{
    const struct member *member = state_find_member_by_pubkey(session->broker, request->hello.mesh_id, request->hello.pubkey);
    const struct rivalry rivalry = find_rivalry(session, request);
    if (member == NULL)
        return true;
    const struct session *other;
    LIST_FOREACH(other, &member->sessions, of_member)
    {
        bool goes = other == rivalry.rival && rivalry.policy == POLICY_PREFER_NEWEST;
        if (other->presence != NULL && !goes)
            return false;
    }
    return true;
}

static void audit_rivalry(struct session *session, const struct rivalry *rivalry)
{
    const struct member *member = rivalry->rival->member;
    const char *detail = rivalry->same_session ? "same_session_replaced" : session->broker->figures.policy_name;
    members_audit(session->broker, member->mesh->key, member->key, "concurrent_connection", detail);
    log_event(LOG_LEVEL_WARN, "concurrent_connection", LOG_SECURITY, LOG_TEXT("mesh", member->mesh->slug), LOG_TEXT("policy", detail),
              LOG_END);
}

/* True: the older one stays, and this one was refused. */
static bool refuse_newer(struct session *session, const struct hello_request *request, const struct rivalry *rivalry)
{
    if (rivalry->rival == NULL || rivalry->policy != POLICY_PREFER_OLDEST)
        return false;
    audit_rivalry(session, rivalry);
    tell_concurrent(rivalry->rival, "newer_refused");
    alarms_note_refused(session->broker, rivalry->rival->member, request->host_fingerprint);
    refuse(session, CLOSE_ALREADY_CONNECTED, "member_already_connected", "this member is connected from elsewhere", NULL);
    return true;
}

/* The presence that the new connection takes over; NULL none. *ret_told: the outcome to tell, NULL none: a reconnect is no news. */
static struct presence *settle_rivalry(struct session *session, const struct rivalry *rivalry, const char **ret_told)
{
    *ret_told = NULL;
    if (rivalry->rival == NULL)
        return NULL;
    audit_rivalry(session, rivalry);
    if (rivalry->policy == POLICY_ALLOW_CONCURRENT) {
        *ret_told = "both_kept";
        return NULL;
    }
    *ret_told = rivalry->same_session ? NULL : "older_closed";
    struct presence *presence = presence_take(rivalry->rival);
    session_close(rivalry->rival, CLOSE_REPLACED, "replaced_by_newer_connection");
    return presence;
}

static json_t *parse_state(const char *state)
{
    json_t *parsed = NULL;
    struct error error;
    if (state == NULL || json_parse_strict(state, strlen(state), &parsed, &error) != 0)
        return NULL;
    return parsed;
}

static void send_hello_ack(struct session *session, const json_t *frame, bool restored)
{
    const struct presence *presence = session->presence;
    char presence_id[ULID_SIZE];
    ulid_generate(presence_id);
    json_t *ack = json_new_object();
    json_put_string(ack, "type", "hello_ack");
    json_put_string(ack, "presenceId", presence == NULL ? presence_id : presence->presence_id);
    json_put_string(ack, "memberDisplayName", session->member->name);
    json_put_string(ack, "brokerVersion", CLAUDEMESH_VERSION);
    json_put_bool(ack, "restored", restored);
    if (presence != NULL && presence->summary != NULL)
        json_put_string(ack, "lastSummary", presence->summary);
    session_answer(session, session_request_id(frame), ack);
}

static void welcome(struct session *session, struct hello_request *request, struct presence *replaced, const char *told)
{
    session_open(session, &request->store, request->routing_key);
    session->acknowledges = request->hello.client_ack;
    free(session->challenge);
    session->challenge = NULL;
    loop_timer_free(session->timer);
    session->timer = NULL;
    bool restored = false;
    if (request->hello.receive) {
        json_t *state = parse_state(request->store.state);
        restored = presence_enter(session, state, &request->hello, replaced);
        json_decref(state);
    }
    send_hello_ack(session, request->frame, restored);
    if (told != NULL)
        tell_concurrent(session, told);
    if (request->store.other_host)
        alarms_tell_clone(session->member);
    if (request->hello.feature_negotiation)
        negotiation_expect(session);
    else
        negotiation_skip(session);
    session_run_early(session);
}

static bool mesh_has_room(const struct broker *broker, int64_t key, const struct rivalry *rivalry)
{
    const struct mesh *mesh = state_find_mesh(broker, key);
    size_t goes = rivalry->rival != NULL && rivalry->policy == POLICY_PREFER_NEWEST ? 1 : 0;
    return mesh == NULL || mesh->session_count - goes < broker->figures.max_connections_per_mesh;
}

/* The store knows so many sessions of a member: what is connected must be among them, or it would get nothing and not know it. */
static bool member_has_room(const struct session *session, const struct hello_request *request, const struct rivalry *rivalry)
{
    const struct member *member = state_find_member_by_pubkey(session->broker, request->hello.mesh_id, request->hello.pubkey);
    const struct session *other;
    size_t count = 0;
    if (member == NULL || !request->hello.receive)
        return true;
    LIST_FOREACH(other, &member->sessions, of_member)
    {
        bool goes = other == rivalry->rival && rivalry->policy == POLICY_PREFER_NEWEST;
        count += other->presence != NULL && !goes;
    }
    return count < STORE_SESSIONS_MAXIMUM;
}

/* The store forgets the session that was not seen for longest when there are too many: those that are connected are seen now. */
static void touch_others(const struct session *session, const struct hello_request *request)
{
    const struct member *member = state_find_member_by_pubkey(session->broker, request->hello.mesh_id, request->hello.pubkey);
    const struct session *other;
    if (member == NULL || !request->hello.receive)
        return;
    LIST_FOREACH(other, &member->sessions, of_member)
    {
        if (other->presence != NULL)
            keeping_touch(other);
    }
}

static void refuse_member_full(struct session *session)
{
    refuse(session, CLOSE_POLICY, "capacity", "this member has as many connections as it may", NULL);
}

static void hello_decided(struct store_request *base)
{
    struct hello_request *request = CONTAINER_OF(CONTAINER_OF(base, struct store_hello, request), struct hello_request, store);
    struct broker *broker = request->broker;
    broker->metrics.deliveries_waiting += base->status == 0 ? request->store.deliveries_change : 0;
    struct session *session = session_find(broker, request->store.connection);
    if (session == NULL || !store_welcomed(session, &request->store))
        goto out;
    const struct rivalry rivalry = find_rivalry(session, request); /* anew: others came and went meanwhile */
    if (refuse_newer(session, request, &rivalry))
        goto out;
    if (!mesh_has_room(broker, request->store.mesh, &rivalry)) {
        refuse(session, CLOSE_POLICY, "capacity", "this mesh has as many connections as it may", NULL);
        goto out;
    }
    if (!member_has_room(session, request, &rivalry)) {
        refuse_member_full(session);
        goto out;
    }
    const char *told;
    struct presence *replaced = settle_rivalry(session, &rivalry, &told);
    welcome(session, request, replaced, told);
out:
    free_request(request);
}

void hello_handle(struct session *session, const json_t *frame)
{
    struct broker *broker = session->broker;
    struct hello_request *request = memory_zalloc(sizeof(*request));
    struct error error;
    request->frame = json_deep_copy(frame);
    if (request->frame == NULL)
        memory_exhausted();
    if (frame_hello_parse(request->frame, &request->hello, &error) != 0) {
        refuse(session, CLOSE_POLICY, "invalid_request", error.message, NULL);
        free_request(request);
        return;
    }
    const struct frame_hello *hello = &request->hello;
    request->broker = broker;
    request->routing_key = hello->session_pubkey == NULL ? hello->pubkey : hello->session_pubkey;
    request->host_fingerprint = hello->host_fingerprint != NULL && hex_is_key(hello->host_fingerprint) ? hello->host_fingerprint : NULL;
    /* A newer connection that will be refused must not become known to the store as a session. */
    const struct rivalry rivalry = find_rivalry(session, request);
    if (!judge(session, hello) || refuse_newer(session, request, &rivalry)) {
        free_request(request);
        return;
    }
    if (!member_has_room(session, request, &rivalry)) {
        refuse_member_full(session);
        free_request(request);
        return;
    }
    touch_others(session, request);
    loop_timer_stop(session->timer);
    session->state = SESSION_ADMITTING;
    request->store.request.done = hello_decided;
    request->store.connection = session->connection;
    request->store.mesh_id = hello->mesh_id;
    request->store.member_id = hello->member_id;
    request->store.pubkey = hello->pubkey;
    request->store.session_uid = hello->session_id;
    request->store.session_pubkey = hello->session_pubkey;
    request->store.host_fingerprint = request->host_fingerprint;
    request->store.timestamp = hello->timestamp;
    request->store.now_ms = clock_wall_ms();
    request->store.v2 = hello->signature2 != NULL;
    request->store.receive = hello->receive;
    request->store.alone = will_be_alone(session, request);
    broker->store->operations->hello(broker->store, &request->store);
}
