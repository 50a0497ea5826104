/* Owns capabilities: made for one run, compared in constant time, good for exactly their scopes. Must not read bodies: send.c and ipc.c say what is asked. */
#include "ipc/capability.h"

#include "crypto/crypto.h"
#include "ipc/internal.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"

enum { TOKEN_BYTES = 32, TOKEN_LENGTH = CAPABILITY_TOKEN_SIZE - 1, REFUSALS_TOLD = 8 };

/* ---- scopes ------------------------------------------------------------------------------------------------------------ */

/* "topic:<name>:post", and the event came from that topic. */
static bool is_topic_scope(const char *scope, const char *topic)
{
    static const char START[] = "topic:", END[] = ":post";
    size_t length = strlen(scope), name = topic == NULL ? 0 : strlen(topic);
    return name > 0 && length == sizeof(START) - 1 + name + sizeof(END) - 1 && string_has_prefix(scope, START) &&
           strncmp(scope + sizeof(START) - 1, topic, name) == 0 && strcmp(scope + sizeof(START) - 1 + name, END) == 0;
}

static unsigned scope_of(const char *scope, const struct ipc_capability_facts *facts)
{
    if (facts->sender_pubkey != NULL && strcmp(scope, "reply:event") == 0)
        return CAPABILITY_REPLY;
    if (facts->sender_pubkey != NULL && strcmp(scope, "dm:send:sender") == 0)
        return CAPABILITY_DM_SENDER;
    return is_topic_scope(scope, facts->topic) ? CAPABILITY_TOPIC_POST : 0;
}

static bool answers_event(const struct ipc_capability *capability, const struct capability_send *send)
{
    return capability->broker_message_id != NULL && send->reply_to_id != NULL &&
           strcmp(capability->broker_message_id, send->reply_to_id) == 0;
}

bool capability_allows_send(const struct ipc_capability *capability, const struct capability_send *send, bool *ret_uses_reply)
{
    bool to_sender =
        capability->sender_pubkey != NULL && strcmp(send->kind, "dm") == 0 && strcmp(send->ref, capability->sender_pubkey) == 0;
    bool to_topic = capability->topic != NULL && strcmp(send->kind, "topic") == 0 && strcmp(send->ref, capability->topic) == 0;
    bool unused = capability->reply_id == NULL || strcmp(capability->reply_id, send->client_message_id) == 0;
    *ret_uses_reply = false;
    /* 45-trust: an automatic reply gets no automatic reply. */
    if (capability->depth > 0 || capability->mesh_slug == NULL || strcmp(send->mesh_slug, capability->mesh_slug) != 0)
        return false;
    if ((capability->scopes & CAPABILITY_REPLY) != 0 && (to_sender || to_topic) && answers_event(capability, send) && unused) {
        *ret_uses_reply = true;
        return true;
    }
    return (to_sender && (capability->scopes & CAPABILITY_DM_SENDER) != 0) ||
           (to_topic && (capability->scopes & CAPABILITY_TOPIC_POST) != 0);
}

bool capability_allows_topic(const struct ipc_capability *capability, const char *topic)
{
    return capability->depth == 0 && (capability->scopes & CAPABILITY_TOPIC_POST) != 0 && strcmp(capability->topic, topic) == 0;
}

/* ---- once -------------------------------------------------------------------------------------------------------------- */

void capability_take_reply(struct ipc_capability *capability, const char *client_message_id)
{
    if (capability->reply_id == NULL)
        capability->reply_id = memory_strdup(client_message_id);
    capability->replies_under_way++;
}

void capability_reply_ended(struct ipc_capability *capability, bool accepted)
{
    capability->replies_under_way--;
    capability->reply_stands = capability->reply_stands || accepted;
    if (!capability->reply_stands && capability->replies_under_way == 0) {
        free(capability->reply_id);
        capability->reply_id = NULL;
    }
}

/* ---- life -------------------------------------------------------------------------------------------------------------- */

struct ipc_capability *capability_hold(struct ipc_capability *capability)
{
    if (capability != NULL)
        capability->references++;
    return capability;
}

void capability_let_go(struct ipc_capability *capability)
{
    if (capability == NULL || --capability->references > 0)
        return;
    secret_wipe(capability->token, sizeof(capability->token));
    free(capability->hook);
    free(capability->event_id);
    free(capability->mesh_slug);
    free(capability->sender_pubkey);
    free(capability->topic);
    free(capability->broker_message_id);
    free(capability->reply_id);
    free(capability);
}

static void make_token(char token[static CAPABILITY_TOKEN_SIZE])
{
    uint8_t random[TOKEN_BYTES];
    struct buffer text;
    buffer_init_secret(&text, CAPABILITY_TOKEN_SIZE);
    random_bytes(random, sizeof(random));
    if (base64url_encode(random, sizeof(random), &text) == 0 && text.length == TOKEN_LENGTH)
        memcpy(token, text.data, CAPABILITY_TOKEN_SIZE);
    secret_wipe(random, sizeof(random));
    buffer_wipe_release(&text);
}

int ipc_capability_open(struct ipc *ipc, const struct ipc_capability_facts *facts, const char *socket_path,
                        char ret_token[static CAPABILITY_TOKEN_SIZE], struct ipc_capability **ret_capability, struct error *error)
{
    struct ipc_capability *capability = memory_zalloc(sizeof(*capability));
    int status = http_server_listen_narrow(ipc->server, socket_path, capability, &capability->socket, error);
    if (status != 0) {
        free(capability);
        return status;
    }
    capability->references = 1;
    capability->hook = memory_strdup(facts->hook);
    capability->event_id = memory_strdup(facts->event_id);
    capability->mesh_slug = memory_strdup(facts->mesh_slug);
    capability->sender_pubkey = memory_strdup(facts->sender_pubkey);
    capability->topic = memory_strdup(facts->topic);
    capability->broker_message_id = memory_strdup(facts->broker_message_id);
    capability->depth = facts->depth;
    capability->expires_at_ms = clock_monotonic_ms() + CAPABILITY_LIFE_MS;
    for (size_t i = 0; i < facts->scope_count; i++)
        capability->scopes |= scope_of(facts->scopes[i], facts);
    if (facts->scope_count > 0)
        make_token(capability->token);
    capability->next = ipc->capabilities;
    ipc->capabilities = capability;
    memcpy(ret_token, capability->token, CAPABILITY_TOKEN_SIZE);
    *ret_capability = capability;
    return 0;
}

void ipc_capability_close(struct ipc *ipc, struct ipc_capability *capability, struct ipc_capability_use *ret_use)
{
    *ret_use = (struct ipc_capability_use){ 0 };
    if (capability == NULL)
        return;
    for (struct ipc_capability **link = &ipc->capabilities; *link != NULL; link = &(*link)->next) {
        if (*link == capability) {
            *link = capability->next;
            break;
        }
    }
    http_narrow_close(capability->socket); /* what it still asked goes unanswered */
    capability->socket = NULL;
    *ret_use = (struct ipc_capability_use){ capability->calls, capability->reply_id != NULL };
    capability_let_go(capability);
}

bool capability_may_tell(struct ipc_capability *capability)
{
    if (capability->refusals_told == REFUSALS_TOLD)
        return false;
    capability->refusals_told++;
    return true;
}

/* ---- a request --------------------------------------------------------------------------------------------------------- */

/* The token after "Capability", or NULL when the header is of another scheme or absent. */
static const char *token_of(const char *authorization)
{
    static const char SCHEME[] = "Capability";
    if (authorization == NULL || strncasecmp(authorization, SCHEME, sizeof(SCHEME) - 1) != 0)
        return NULL;
    const char *token = authorization + sizeof(SCHEME) - 1;
    if (*token != ' ' && *token != '\0')
        return NULL;
    return token + strspn(token, " ");
}

/* All of them are compared, each in constant time: how long it takes says nothing about which. */
static struct ipc_capability *find(const struct ipc *ipc, const char *token)
{
    struct ipc_capability *found = NULL;
    int64_t now_ms = clock_monotonic_ms();
    if (strlen(token) != TOKEN_LENGTH)
        return NULL;
    for (struct ipc_capability *capability = ipc->capabilities; capability != NULL; capability = capability->next)
        if (secret_equal(token, capability->token, TOKEN_LENGTH) && now_ms < capability->expires_at_ms)
            found = capability;
    return found;
}

enum capability_presented capability_of_request(const struct ipc *ipc, const struct http_request *request,
                                                struct ipc_capability **ret_capability)
{
    const struct ipc_capability *own = http_narrow_owner(request);
    const char *token = token_of(http_header(request, "Authorization"));
    if (token == NULL)
        return CAPABILITY_ABSENT;
    struct ipc_capability *capability = find(ipc, token);
    if (capability == NULL || (own != NULL && own != capability))
        return CAPABILITY_BAD;
    *ret_capability = capability;
    return CAPABILITY_GOOD;
}
