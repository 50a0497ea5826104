/* The body of POST /v1/send: what is accepted fits the limits of 20-ipc and is read the same from its own print; what is refused says why and touches nothing. */
#include "fuzz_json.h"
#include "ipc/send_request.h"

static json_t *print_request(const struct send_request *request)
{
    json_t *body = json_new_object();
    json_put_string(body, "to", request->to);
    json_put_text(body, "message", request->message);
    json_put_string(body, "client_message_id", request->client_message_id);
    json_put_string(body, "priority", priority_name(request->priority));
    if (request->reply_to_id != NULL)
        json_put_string(body, "replyToId", request->reply_to_id);
    if (request->meta.length > 0)
        json_put(body, "meta", fuzz_reparse(&request->meta));
    return body;
}

static void check_accepted(const struct send_request *request, bool has_key)
{
    struct send_request again;
    const char *code;
    struct error error;

    REQUIRE(client_message_id_is_valid(request->client_message_id, strlen(request->client_message_id)));
    REQUIRE(request->to[0] != '\0' && request->message.length > 0 && request->meta.length <= LIMIT_META &&
            (!has_key || request->id_was_given));
    REQUIRE(utf8_is_valid(request->message.data, request->message.length));
    json_t *body = print_request(request);
    REQUIRE(send_request_read(body, NULL, &again, &code, &error) == 0);
    REQUIRE(string_equal(again.client_message_id, request->client_message_id) && string_equal(again.to, request->to));
    REQUIRE(text_equal(again.message, request->message) && again.priority == request->priority);
    REQUIRE(string_equal(again.reply_to_id, request->reply_to_id) && again.meta.length == request->meta.length);
    REQUIRE(memcmp(again.meta.data, request->meta.data, again.meta.length) == 0);
    send_request_release(&again);
    json_decref(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    const bool has_key = (fuzz_take_byte(&input) & 1) != 0;
    char *key = has_key ? fuzz_take_string(&input, '\n') : NULL;
    json_t *body = fuzz_parse_json(input.at, input.left);
    struct send_request request;
    struct error error = { .code = ERROR_NONE };
    const char *code = NULL;

    memset(&request, 0xA5, sizeof(request));
    if (json_is_object(body)) {
        if (send_request_read(body, key, &request, &code, &error) == 0) {
            check_accepted(&request, has_key);
            send_request_release(&request);
        } else {
            REQUIRE(error.message[0] != '\0' && (string_equal(code, "invalid_request") || string_equal(code, "invalid_client_message_id")));
            for (size_t i = 0; i < sizeof(request); i++)
                REQUIRE(((const unsigned char *)(const void *)&request)[i] == 0xA5);
        }
    }
    json_decref(body);
    free(key);
    return 0;
}
