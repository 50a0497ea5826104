/* Who is in the mesh and who is there: the member list goes to trust, which believes what is signed; presence is the broker's word, kept in memory and shown as last known when the link is
 * down (20-ipc, peers). */
#include "delivery/delivery_internal.h"

#include "json/json.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum {
    PAGES_MAXIMUM = 1000,
    /* Of who is there, as the broker says it: a mesh of a thousand takes some MiB. */
    PRESENCE_BYTES = 32 * 1024 * 1024
};

static const char *string_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

/* A presence's member; a session's own routing key stands beside it. */
static const char *member_of(const json_t *presence)
{
    const char *member = string_of(presence, "memberPubkey");
    return member != NULL ? member : string_of(presence, "pubkey");
}

/* ---- members -------------------------------------------------------------------------------------------------- */

static void tell_changes(struct delivery *delivery, const struct trust_changes *changes)
{
    if (changes->refused > 0 || changes->key_swaps > 0 || changes->rotation_forks > 0) {
        log_event(LOG_LEVEL_WARN, "membership_suspicious", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug),
                  LOG_NUMBER("refused", changes->refused), LOG_NUMBER("key_swaps", changes->key_swaps),
                  LOG_NUMBER("rotation_forks", changes->rotation_forks), LOG_END);
    }
    if (changes->newly_revoked > 0) {
        log_event(LOG_LEVEL_WARN, "member_revoked", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug),
                  LOG_NUMBER("members", changes->newly_revoked), LOG_END);
    }
    if (changes->rotation_forks > 0) {
        delivery_publish_system(delivery, "rotation_fork", NULL);
    }
    if (changes->key_swaps > 0) {
        delivery_publish_system(delivery, "destination_key_changed", NULL);
    }
    bool fork = trust_membership_fork(delivery->trust);
    if (fork && !delivery->fork_told) {
        log_event(LOG_LEVEL_ERROR, "membership_fork", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug), LOG_END);
        delivery_publish_system(delivery, "membership_fork", NULL);
    }
    delivery->fork_told = fork;
    if (trust_self_revoked(delivery->trust) && !link_is_revoked(delivery->link)) {
        link_revoke(delivery->link, "revoked: the mesh's owner or an admin signed it");
    }
}

/* A later page says where it begins: so trust knows that it ends no list. */
static json_t *copy_of_page(const json_t *answer, int64_t after)
{
    json_t *kept = delivery_keep_json(answer);
    json_t *page = json_copy(kept);
    json_decref(kept);
    if (after > 0) {
        json_put_integer(page, "after", after);
    } else {
        (void)json_object_del(page, "after");
    }
    return page;
}

static int merge(struct delivery *delivery, const json_t *answer)
{
    struct trust_changes changes = { 0 };
    struct error error;
    json_t *page = copy_of_page(answer, delivery->directory.after);
    int result = trust_merge_members(delivery->trust, page, &changes, &error);
    json_decref(page);
    if (result < 0) {
        log_event(LOG_LEVEL_WARN, "members_list_refused", LOG_SECURITY, LOG_TEXT("mesh", delivery->slug), LOG_TEXT("detail", error.message),
                  LOG_END);
        return result;
    }
    tell_changes(delivery, &changes);
    return 0;
}

static void members_listed(void *argument, const json_t *answer);

static bool ask_for_page(struct delivery *delivery)
{
    struct directory *directory = &delivery->directory;
    json_t *request = json_new_object();
    json_put_string(request, "type", "list_members");
    if (directory->after > 0) {
        json_put_integer(request, "after", directory->after);
    }
    directory->listing = link_request(delivery->link, request, members_listed, delivery) == 0;
    json_decref(request);
    return directory->listing;
}

/* Pages ascend, so even a broker that lies about them comes to an end. */
static bool has_next_page(struct directory *directory, const json_t *answer)
{
    int64_t next = 0;
    struct error error;
    if (json_read_integer(answer, "next", JSON_OPTIONAL, 0, INT64_C(1) << 53, &next, &error) < 0 || next <= directory->after ||
        ++directory->pages >= PAGES_MAXIMUM) {
        return false;
    }
    directory->after = next;
    return true;
}

static bool says_there_is_more(const json_t *answer)
{
    int64_t next = 0;
    struct error error;
    return json_read_integer(answer, "next", JSON_OPTIONAL, INT64_MIN, INT64_MAX, &next, &error) == 0 && next > 0;
}

static void members_listed(void *argument, const json_t *answer)
{
    struct delivery *delivery = argument;
    struct directory *directory = &delivery->directory;
    directory->listing = false;
    bool awaited = trust_awaits_list(delivery->trust);
    bool is_page = string_equal(string_of(answer, "type"), "members_list") && merge(delivery, answer) == 0;
    if (!delivery->open) {
        return; /* lost, or closed by what the list said: we are revoked */
    }
    if (is_page && has_next_page(directory, answer) && ask_for_page(delivery)) {
        return;
    }
    if (!is_page || says_there_is_more(answer)) { /* also a list whose end never comes withholds what it was asked for */
        trust_list_failed(delivery->trust);
        tell_changes(delivery, &(struct trust_changes){ 0 });
    }
    if (directory->list_again) { /* whoever waits asked after this list was made */
        directory_list_members(delivery);
        return;
    }
    if (awaited && !trust_awaits_list(delivery->trust)) {
        log_event(LOG_LEVEL_INFO, "restored_members_merged", LOG_TEXT("mesh", delivery->slug), LOG_END);
        expiry_run_and_open(delivery);
    }
    receive_members_listed(delivery);
}

void directory_list_members(struct delivery *delivery)
{
    struct directory *directory = &delivery->directory;
    directory->list_again = directory->listing;
    if (!directory->listing) {
        directory->after = 0;
        directory->pages = 0;
        (void)ask_for_page(delivery);
    }
}

/* Who is there is seen now, or was when the link was lost; who left was seen until then. `listed` is what the member list says. */
static int64_t last_seen_at(const struct delivery *delivery, const char *pubkey, int64_t listed)
{
    const struct directory *directory = &delivery->directory;
    if (json_object_get(directory->of_member, pubkey) != NULL) {
        return delivery->open ? clock_wall_ms() : directory->lost_at;
    }
    const json_t *departure = json_object_get(directory->departures, pubkey);
    int64_t departed = departure != NULL ? (int64_t)json_integer_value(departure) : -1;
    return departed > listed ? departed : listed;
}

/* A key that was replaced is no member, and who left is none any more. */
static bool is_of_the_mesh(const struct trust_member *member)
{
    return !member->left && !member->superseded;
}

/* Those who were removed are shown, as such. */
json_t *delivery_members(const struct delivery *delivery)
{
    json_t *members = json_new_array();
    for (size_t i = 0; i < trust_member_count(delivery->trust); i++) {
        const struct trust_member *member = trust_member_at(delivery->trust, i);
        if (!is_of_the_mesh(member)) {
            continue;
        }
        json_t *object = json_new_object();
        json_put_string(object, "pubkey", member->pubkey);
        json_put_string(object, "name", member->name);
        json_put_bool(object, "verified", member->verified);
        json_put_string(object, "role", member->role == ROLE_ADMIN ? "admin" : "member");
        json_put_bool(object, "revoked", member->revoked);
        json_put_time(object, "joined_at", member->joined_at);
        json_put_time(object, "last_seen_at", last_seen_at(delivery, member->pubkey, member->last_seen_at));
        json_array_append_new(members, object);
    }
    return members;
}

bool delivery_members_are_fresh(const struct delivery *delivery)
{
    return delivery->open && trust_is_fresh(delivery->trust);
}

/* ---- presence ------------------------------------------------------------------------------------------------- */

/* A question about who is there: pages gathered, then kept; and told to who asked. */
struct peers_question {
    struct delivery *delivery;
    json_t *presences;
    size_t bytes, pages;
    void (*done)(void *argument, json_t *peers, bool stale); /* NULL: nobody waits */
    void *argument;
};

static size_t size_of(const json_t *presence)
{
    return json_dumpb(presence, NULL, 0, JSON_COMPACT);
}

/* False: no more fits. */
static bool gather_presences(struct peers_question *question, const json_t *peers_list)
{
    size_t index = 0;
    json_t *presence = NULL;
    json_array_foreach(json_object_get(peers_list, "peers"), index, presence)
    {
        const char *member = member_of(presence);
        if (member == NULL || !hex_is_key(member)) {
            continue;
        }
        size_t size = size_of(presence);
        if (question->bytes + size > PRESENCE_BYTES) {
            return false;
        }
        question->bytes += size;
        json_array_append_new(question->presences, json_incref(presence));
    }
    return true;
}

static void index_presence(struct directory *directory, json_t *presence)
{
    const char *member = member_of(presence);
    json_t *own = json_object_get(directory->of_member, member);
    if (own == NULL) {
        own = json_new_array();
        json_put(directory->of_member, member, own);
    }
    json_array_append_new(own, json_incref(presence));
}

static void index_presences(struct directory *directory)
{
    json_object_clear(directory->of_member);
    size_t index = 0;
    json_t *presence = NULL;
    json_array_foreach(directory->presences, index, presence)
    {
        index_presence(directory, presence);
    }
}

static void keep_presences(struct delivery *delivery, json_t *presences /* given */, size_t bytes)
{
    bool stranger = false;
    size_t index = 0;
    const json_t *presence = NULL;
    json_array_foreach(presences, index, presence)
    {
        stranger = stranger || trust_member(delivery->trust, member_of(presence)) == NULL;
    }
    json_decref(delivery->directory.presences);
    delivery->directory.presences = presences;
    delivery->directory.presence_bytes = bytes;
    index_presences(&delivery->directory);
    if (stranger) {
        directory_list_members(delivery);
    }
}

static json_t *peers_json(const struct delivery *delivery);

static void peers_listed(void *argument, const json_t *answer);

static bool ask_for_peers(struct peers_question *question, const char *after)
{
    json_t *request = json_new_object();
    json_put_string(request, "type", "list_peers");
    if (after != NULL) {
        json_put_string(request, "after", after);
    }
    int result = link_request(question->delivery->link, request, peers_listed, question);
    json_decref(request);
    return result == 0;
}

static void finish_question(struct peers_question *question, bool fresh)
{
    if (fresh) {
        keep_presences(question->delivery, question->presences, question->bytes);
    } else {
        json_decref(question->presences);
    }
    if (question->done != NULL) {
        question->done(question->argument, peers_json(question->delivery), !fresh);
    }
    free(question);
}

static void peers_listed(void *argument, const json_t *answer)
{
    struct peers_question *question = argument;
    bool is_page = string_equal(string_of(answer, "type"), "peers_list");
    if (is_page) {
        bool more_fits = gather_presences(question, answer);
        const char *next = string_of(answer, "next");
        if (more_fits && next != NULL && ++question->pages < PAGES_MAXIMUM && ask_for_peers(question, next)) {
            return;
        }
    }
    finish_question(question, is_page);
}

static void ask_who_is_there(struct delivery *delivery, void (*done)(void *argument, json_t *peers, bool stale), void *argument)
{
    struct peers_question *question = memory_zalloc(sizeof(*question));
    question->delivery = delivery;
    question->presences = json_new_array();
    question->done = done;
    question->argument = argument;
    if (!ask_for_peers(question, NULL)) {
        finish_question(question, false);
    }
}

void delivery_peers(struct delivery *delivery, void (*done)(void *argument, json_t *peers, bool stale), void *argument)
{
    ask_who_is_there(delivery, done, argument);
}

/* The same connection of the same member: by session, else by routing key. */
static bool is_same_presence(const json_t *a, const json_t *b)
{
    const char *session = string_of(b, "sessionId");
    if (session != NULL && string_of(a, "sessionId") != NULL) {
        return string_equal(string_of(a, "sessionId"), session) && string_equal(member_of(a), member_of(b));
    }
    const char *key = string_of(b, "pubkey");
    return string_equal(string_of(a, "pubkey"), key == NULL ? member_of(b) : key);
}

static void remove_presence(struct delivery *delivery, const json_t *data)
{
    json_t *presences = delivery->directory.presences;
    size_t before = json_array_size(presences);
    for (size_t i = before; i > 0; i--) {
        if (is_same_presence(json_array_get(presences, i - 1), data)) {
            delivery->directory.presence_bytes -= size_of(json_array_get(presences, i - 1));
            json_array_remove(presences, i - 1);
        }
    }
    if (json_array_size(presences) < before) {
        index_presences(&delivery->directory);
    }
}

static void presence_changed(struct delivery *delivery, bool joined, const json_t *data)
{
    const char *pubkey = member_of(data);
    if (pubkey == NULL || !hex_is_key(pubkey)) {
        return;
    }
    struct directory *directory = &delivery->directory;
    remove_presence(delivery, data);
    size_t size = joined ? size_of(data) : 0;
    if (joined && directory->presence_bytes + size <= PRESENCE_BYTES) {
        directory->presence_bytes += size;
        json_t *presence = json_deep_copy(data);
        json_array_append_new(directory->presences, presence);
        index_presence(directory, presence);
    }
    const struct trust_member *member = trust_member(delivery->trust, pubkey);
    if (!joined && member != NULL) {
        json_put_integer(delivery->directory.departures, pubkey, clock_wall_ms());
    }
    json_t *event = json_new_object();
    json_put_string(event, "pubkey", pubkey);
    json_put_string(event, "name", member == NULL ? string_of(data, "displayName") : member->name);
    json_put_bool(event, "verified", member != NULL && member->verified);
    delivery_publish(delivery, joined ? "peer_join" : "peer_leave", event, -1);
    if (member == NULL) {
        directory_list_members(delivery);
    }
}

bool delivery_peer_is_online(const struct delivery *delivery, const char *pubkey_hex)
{
    return delivery->open && json_object_get(delivery->directory.of_member, pubkey_hex) != NULL;
}

/* ---- GET /v1/peers -------------------------------------------------------------------------------------------- */

/* What the broker says is of any type; what a client of the API reads is not. */
static void put_text_or_null(json_t *object, const char *name, const json_t *presence, const char *field)
{
    const json_t *value = json_object_get(presence, field);
    json_put_text(object, name, (struct text){ json_string_value(value), json_string_length(value) });
}

static json_t *session_json(const json_t *presence)
{
    int64_t connected_at = -1;
    struct error error;
    if (json_read_integer(presence, "connectedAt", JSON_OPTIONAL, 0, INT64_C(1) << 53, &connected_at, &error) < 0) {
        connected_at = -1;
    }
    json_t *session = json_new_object();
    put_text_or_null(session, "session_id", presence, "sessionId");
    json_put_time(session, "connected_at", connected_at);
    put_text_or_null(session, "peer_type", presence, "peerType");
    put_text_or_null(session, "channel", presence, "channel");
    put_text_or_null(session, "hostname", presence, "hostname");
    put_text_or_null(session, "cwd", presence, "cwd");
    put_text_or_null(session, "status", presence, "status");
    return session;
}

/* What the member's newest presence says of it; nothing of somebody who is away. */
static void put_presence(json_t *peer, const json_t *presence)
{
    bool online = presence != NULL;
    json_put_bool(peer, "online", online);
    if (online) {
        put_text_or_null(peer, "status", presence, "status");
    } else {
        json_put_string(peer, "status", "offline");
    }
    put_text_or_null(peer, "summary", presence, "summary");
    const json_t *groups = json_object_get(presence, "groups");
    json_put(peer, "groups", json_is_array(groups) ? json_deep_copy(groups) : json_new_array());
    const json_t *visible = json_object_get(presence, "visible");
    json_put_bool(peer, "visible", online && !json_is_false(visible));
    const json_t *profile = json_object_get(presence, "profile");
    json_put(peer, "profile", json_is_object(profile) ? json_deep_copy(profile) : json_new_object());
}

static json_t *peer_json(const struct delivery *delivery, const char *pubkey, const struct trust_member *member)
{
    json_t *sessions = json_new_array();
    const json_t *newest = NULL;
    size_t index = 0;
    const json_t *presence = NULL;
    json_array_foreach(json_object_get(delivery->directory.of_member, pubkey), index, presence)
    {
        json_array_append_new(sessions, session_json(presence));
        newest = presence;
    }
    json_t *peer = json_new_object();
    json_put_string(peer, "pubkey", pubkey);
    json_put_string(peer, "name", member != NULL ? member->name : string_of(newest, "displayName"));
    json_put_bool(peer, "verified", member != NULL && member->verified);
    json_put_string(peer, "role", member != NULL && member->role == ROLE_ADMIN ? "admin" : "member");
    put_presence(peer, newest);
    json_put_time(peer, "last_seen", last_seen_at(delivery, pubkey, member != NULL ? member->last_seen_at : -1));
    json_put(peer, "sessions", sessions);
    return peer;
}

static json_t *peers_json(const struct delivery *delivery)
{
    json_t *peers = json_new_array();
    for (size_t i = 0; i < trust_member_count(delivery->trust); i++) {
        const struct trust_member *member = trust_member_at(delivery->trust, i);
        if (is_of_the_mesh(member) && !member->revoked) {
            json_array_append_new(peers, peer_json(delivery, member->pubkey, member));
        }
    }
    const char *pubkey = NULL; /* and who is there without being a member that we know */
    json_t *own = NULL;
    json_object_foreach(delivery->directory.of_member, pubkey, own)
    {
        if (trust_member(delivery->trust, pubkey) == NULL) {
            json_array_append_new(peers, peer_json(delivery, pubkey, NULL));
        }
    }
    return peers;
}

/* ---- events and the link -------------------------------------------------------------------------------------- */

static bool is_membership_event(const char *event)
{
    static const char *const NAMES[] = { "member_joined", "member_revoked", "member_keypair_rotated", "member_renamed", "member_left" };
    for (size_t i = 0; i < ARRAY_LENGTH(NAMES); i++) {
        if (string_equal(event, NAMES[i])) {
            return true;
        }
    }
    return false;
}

static void membership_changed(struct delivery *delivery, const char *event, const json_t *data)
{
    struct trust_changes changes = { 0 };
    struct error error;
    if (trust_merge_event(delivery->trust, event, data, &changes, &error) < 0) {
        /* Nothing to believe in it by itself; the list may have what proves it. */
        log_event(LOG_LEVEL_INFO, "membership_event_refused", LOG_TEXT("mesh", delivery->slug), LOG_TEXT("event", event),
                  LOG_TEXT("detail", error.message), LOG_END);
        directory_list_members(delivery);
        return;
    }
    tell_changes(delivery, &changes);
    const char *pubkey = string_of(data, "pubkey");
    json_t *told = json_new_object();
    json_put_string(told, "pubkey", pubkey);
    delivery_publish_system(delivery, event, told);
}

bool directory_event(struct delivery *delivery, const char *event, const json_t *event_data)
{
    if (string_equal(event, "peer_joined") || string_equal(event, "peer_left")) {
        presence_changed(delivery, string_equal(event, "peer_joined"), event_data);
        return true;
    }
    if (is_membership_event(event)) {
        membership_changed(delivery, event, event_data);
        return true;
    }
    return false;
}

void directory_opened(struct delivery *delivery)
{
    directory_list_members(delivery);
    ask_who_is_there(delivery, NULL, NULL);
}

void directory_lost(struct delivery *delivery)
{
    trust_mark_stale(delivery->trust);
    delivery->directory.list_again = false;
    delivery->directory.lost_at = clock_wall_ms();
}

void directory_init(struct delivery *delivery)
{
    delivery->directory.presences = json_new_array();
    delivery->directory.of_member = json_new_object();
    delivery->directory.departures = json_new_object();
    delivery->directory.lost_at = -1;
}

void directory_release(struct delivery *delivery)
{
    json_decref(delivery->directory.presences);
    delivery->directory.presences = NULL;
    json_decref(delivery->directory.of_member);
    delivery->directory.of_member = NULL;
    json_decref(delivery->directory.departures);
    delivery->directory.departures = NULL;
}
