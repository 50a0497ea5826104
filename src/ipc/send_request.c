/* Owns the shape of a send. Must not look at meshes, members or the outbox. */
#include "ipc/send_request.h"

#include "json/json.h"
#include "proto/own_meta.h"
#include "util/ids.h"

int idempotency_key_parse(const char *header, char ret_id[static LIMIT_CLIENT_MESSAGE_ID + 1])
{
    char id[LIMIT_CLIENT_MESSAGE_ID + 1];
    size_t length = 0;
    bool quoted = *header == '"', closed = !quoted;
    for (const char *at = quoted ? header + 1 : header; *at != '\0'; at++) {
        char byte = *at;
        if (quoted && byte == '"') {
            closed = at[1] == '\0';
            break;
        }
        if (quoted && byte == '\\') {
            byte = *++at;
            if (byte != '"' && byte != '\\')
                return -1;
        }
        if (length == LIMIT_CLIENT_MESSAGE_ID)
            return -1;
        id[length++] = byte;
    }
    if (!closed || !client_message_id_is_valid(id, length))
        return -1;
    memcpy(ret_id, id, length);
    ret_id[length] = '\0';
    return 0;
}

int meta_read(const json_t *meta, struct buffer *ret_canonical, struct error *error)
{
    if (json_object_size(meta) == 0)
        return 0;
    if (meta_own_key(meta) != NULL)
        return error_set(error, ERROR_INVALID, "Field 'meta': names that begin with 'claudemesh.' are claudemesh's own.");
    if (json_print_canonical(meta, ret_canonical) != 0)
        return error_set(error, ERROR_TOO_LARGE, "Field 'meta' must be at most %d bytes in canonical form.", LIMIT_META);
    return 0;
}

static int read_id(const json_t *body, const char *idempotency_key, struct send_request *request, const char **ret_code,
                   struct error *error)
{
    struct text id = { NULL, 0 };
    int status = json_read_text(body, "client_message_id", JSON_OPTIONAL, &id, error);
    if (status != 0)
        return status;
    bool valid = true;
    if (idempotency_key != NULL) {
        valid = idempotency_key_parse(idempotency_key, request->client_message_id) == 0;
    } else if (id.data != NULL) {
        valid = client_message_id_is_valid(id.data, id.length);
        if (valid) {
            memcpy(request->client_message_id, id.data, id.length);
            request->client_message_id[id.length] = '\0';
        }
    } else {
        ulid_generate(request->client_message_id);
    }
    request->id_was_given = idempotency_key != NULL || id.data != NULL;
    if (valid)
        return 0;
    *ret_code = "invalid_client_message_id";
    return error_set(error, ERROR_INVALID, "An idempotency key is 1 to %d printable ASCII characters without spaces.",
                     LIMIT_CLIENT_MESSAGE_ID);
}

static int read_reply(const json_t *body, struct send_request *request, struct error *error)
{
    const char *snake = NULL, *camel = NULL;
    if (json_read_string(body, "reply_to_id", JSON_OPTIONAL, &snake, error) != 0 ||
        json_read_string(body, "replyToId", JSON_OPTIONAL, &camel, error) != 0)
        return -(int)error->code;
    if (snake != NULL && camel != NULL && strcmp(snake, camel) != 0)
        return error_set(error, ERROR_INVALID, "Fields 'reply_to_id' and 'replyToId' name two messages; give one.");
    const char *reply = snake != NULL ? snake : camel;
    if (reply == NULL || *reply == '\0')
        return 0;
    if (!client_message_id_is_valid(reply, strlen(reply)))
        return error_set(error, ERROR_INVALID, "Field 'reply_to_id' must be the broker_message_id of a message.");
    request->reply_to_id = reply;
    return 0;
}

static int read_content(const json_t *body, struct send_request *request, struct error *error)
{
    const char *priority = "next";
    if (json_read_string(body, "to", JSON_REQUIRED, &request->to, error) != 0 ||
        json_read_text(body, "message", JSON_REQUIRED, &request->message, error) != 0 ||
        json_read_string(body, "priority", JSON_OPTIONAL, &priority, error) != 0)
        return -(int)error->code;
    if (*request->to == '\0')
        return error_set(error, ERROR_INVALID, "Field 'to' must not be empty.");
    if (request->message.length == 0)
        return error_set(error, ERROR_INVALID, "Field 'message' must not be empty.");
    if (!priority_parse(priority, &request->priority))
        return error_set(error, ERROR_INVALID, "Field 'priority' must be now, next or low.");
    return 0;
}

int send_request_read(const json_t *body, const char *idempotency_key, struct send_request *ret_request, const char **ret_code,
                      struct error *error)
{
    struct send_request request = { 0 };
    const json_t *meta = NULL;
    *ret_code = "invalid_request";
    if (read_id(body, idempotency_key, &request, ret_code, error) != 0 || read_content(body, &request, error) != 0 ||
        read_reply(body, &request, error) != 0 || json_read_object(body, "meta", JSON_OPTIONAL, &meta, error) != 0)
        return -(int)error->code;
    buffer_init(&request.meta, LIMIT_META);
    if (meta != NULL && meta_read(meta, &request.meta, error) != 0) {
        buffer_release(&request.meta);
        return -(int)error->code;
    }
    *ret_request = request;
    return 0;
}

void send_request_release(struct send_request *request)
{
    buffer_release(&request->meta);
}
