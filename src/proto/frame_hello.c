/* Owns the hello frame (40-wire, Hello; 45-trust, Hello): its two signed texts, printing, parsing. Must not judge it: timestamps, replays and membership are the broker's. */
#include "proto/frame_fields.h"
#include "proto/frames.h"
#include "proto/statement.h"

int frame_hello_text(const struct frame_hello *hello, struct buffer *ret_text)
{
    /* An id with a '|' in it could be read as two fields. */
    if (hello->mesh_id == NULL || !uuid_is_valid(hello->mesh_id) || hello->member_id == NULL || !id_is_valid(hello->member_id) ||
        hello->pubkey == NULL || !hex_is_key(hello->pubkey) || hello->timestamp < 0) {
        return -1;
    }
    return buffer_printf(ret_text, "%s|%s|%s|%" PRId64, hello->mesh_id, hello->member_id, hello->pubkey, hello->timestamp);
}

static int sign_first(const struct frame_hello *hello, const struct keypair *keys, char ret_signature[SIGNATURE_HEX_SIZE],
                      struct error *error)
{
    struct buffer text;
    int result = 0;
    buffer_init(&text, STATEMENT_TEXT_MAXIMUM);
    if (frame_hello_text(hello, &text) != 0) {
        result = error_set(error, ERROR_INVALID, "the mesh's or the member's id cannot stand in a hello");
    } else {
        keypair_sign_hex(keys, text.data, text.length, ret_signature);
    }
    buffer_release(&text);
    return result;
}

static int sign_second(const struct frame_hello *hello, const struct keypair *keys, const char *broker_url, const char *challenge,
                       char ret_signature[SIGNATURE_HEX_SIZE], struct error *error)
{
    json_t *fields = json_new_object();
    json_put_string(fields, "broker_url", broker_url);
    json_put_string(fields, "challenge", challenge);
    json_put_string(fields, "meshId", hello->mesh_id);
    json_put_string(fields, "memberId", hello->member_id);
    json_put_string(fields, "pubkey", hello->pubkey);
    json_put_string(fields, "sessionId", hello->session_id);
    json_put_string(fields, "sessionPubkey", hello->session_pubkey);
    json_put_integer(fields, "timestamp", hello->timestamp);
    int result = statement_sign_json(STATEMENT_HELLO_V2, fields, keys, ret_signature, error);
    json_decref(fields);
    return result;
}

static void print_capabilities(const struct frame_hello *hello, struct buffer *frame)
{
    const struct {
        bool is_set;
        const char *name;
    } capabilities[] = {
        { hello->client_ack, "\"client_ack\"" },
        { hello->feature_negotiation, "\"feature_negotiation\"" },
        { hello->sealed_envelope, "\"sealed_envelope\"" },
    };
    const char *separator = "";
    (void)buffer_append_text(frame, ",\"capabilities\":[");
    for (size_t index = 0; index < ARRAY_LENGTH(capabilities); index++) {
        if (capabilities[index].is_set) {
            (void)buffer_append_text(frame, separator);
            (void)buffer_append_text(frame, capabilities[index].name);
            separator = ",";
        }
    }
    (void)buffer_append_byte(frame, ']');
}

int frame_hello_build(struct frame_hello *hello, const struct keypair *keys, const char *broker_url, const char *challenge,
                      struct buffer *ret_frame, struct error *error)
{
    char signature[SIGNATURE_HEX_SIZE];
    char signature2[SIGNATURE_HEX_SIZE];
    bool has_challenge = broker_url != NULL && challenge != NULL;
    hello->pubkey = keypair_public_hex(keys);
    int result = sign_first(hello, keys, signature, error);
    if (result == 0 && has_challenge) {
        result = sign_second(hello, keys, broker_url, challenge, signature2, error);
    }
    if (result != 0) {
        return result;
    }
    (void)buffer_append_text(ret_frame, "{\"type\":\"hello\"");
    frame_put_integer(ret_frame, ",\"protocolVersion\":", hello->protocol_version);
    frame_put_string(ret_frame, ",\"meshId\":", hello->mesh_id);
    frame_put_string(ret_frame, ",\"memberId\":", hello->member_id);
    frame_put_string(ret_frame, ",\"pubkey\":", hello->pubkey);
    frame_put_string(ret_frame, ",\"sessionId\":", hello->session_id);
    frame_put_string(ret_frame, ",\"sessionPubkey\":", hello->session_pubkey);
    frame_put_integer(ret_frame, ",\"pid\":", hello->pid);
    frame_put_string(ret_frame, ",\"cwd\":", hello->cwd);
    frame_put_string(ret_frame, ",\"hostname\":", hello->hostname);
    frame_put_string(ret_frame, ",\"displayName\":", hello->display_name);
    frame_put_string(ret_frame, ",\"peerType\":", hello->peer_type);
    frame_put_string(ret_frame, ",\"channel\":", hello->channel);
    frame_put_json(ret_frame, ",\"groups\":", hello->groups);
    print_capabilities(hello, ret_frame);
    if (!hello->receive) {
        frame_put_bool(ret_frame, ",\"receive\":", false);
    }
    frame_put_string(ret_frame, ",\"hostFingerprint\":", hello->host_fingerprint);
    frame_put_integer(ret_frame, ",\"timestamp\":", hello->timestamp);
    frame_put_string(ret_frame, ",\"signature\":", signature);
    if (has_challenge) {
        frame_put_string(ret_frame, ",\"signature2\":", signature2);
    }
    if (frame_end(ret_frame) != 0) {
        return error_set(error, ERROR_TOO_LARGE, "the hello frame is too large");
    }
    return 0;
}

static int read_capabilities(const json_t *frame, struct frame_hello *hello, struct error *error)
{
    const json_t *capabilities = NULL;
    int result = json_read_array(frame, "capabilities", JSON_OPTIONAL, &capabilities, error);
    for (size_t index = 0; result == 0 && index < json_array_size(capabilities); index++) {
        const char *name = json_string_value(json_array_get(capabilities, index));
        if (name == NULL) {
            return error_set(error, ERROR_INVALID, "field 'capabilities' must be an array of strings");
        }
        hello->client_ack = hello->client_ack || string_equal(name, "client_ack");
        hello->feature_negotiation = hello->feature_negotiation || string_equal(name, "feature_negotiation");
        hello->sealed_envelope = hello->sealed_envelope || string_equal(name, "sealed_envelope");
    }
    return result;
}

int frame_hello_parse(const json_t *frame, struct frame_hello *ret_hello, struct error *error)
{
    struct frame_hello hello = { .protocol_version = 1, .pid = -1, .receive = true };
    const struct frame_string strings[] = {
        { "meshId", JSON_REQUIRED, &hello.mesh_id },
        { "memberId", JSON_REQUIRED, &hello.member_id },
        { "pubkey", JSON_REQUIRED, &hello.pubkey },
        { "sessionId", JSON_REQUIRED, &hello.session_id },
        { "sessionPubkey", JSON_OPTIONAL, &hello.session_pubkey },
        { "hostname", JSON_OPTIONAL, &hello.hostname },
        { "cwd", JSON_OPTIONAL, &hello.cwd },
        { "displayName", JSON_OPTIONAL, &hello.display_name },
        { "peerType", JSON_OPTIONAL, &hello.peer_type },
        { "channel", JSON_OPTIONAL, &hello.channel },
        { "hostFingerprint", JSON_OPTIONAL, &hello.host_fingerprint },
        { "signature", JSON_REQUIRED, &hello.signature },
        { "signature2", JSON_OPTIONAL, &hello.signature2 },
    };
    int result = frame_read_strings(frame, strings, ARRAY_LENGTH(strings), error);
    if (result == 0) {
        result = json_read_integer(frame, "protocolVersion", JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, &hello.protocol_version, error);
    }
    if (result == 0) {
        result = json_read_integer(frame, "pid", JSON_OPTIONAL, 0, FRAME_INTEGER_MAXIMUM, &hello.pid, error);
    }
    if (result == 0) {
        result = json_read_integer(frame, "timestamp", JSON_REQUIRED, 0, FRAME_INTEGER_MAXIMUM, &hello.timestamp, error);
    }
    if (result == 0) {
        result = json_read_bool(frame, "receive", JSON_OPTIONAL, &hello.receive, error);
    }
    if (result == 0) {
        result = json_read_array(frame, "groups", JSON_OPTIONAL, &hello.groups, error);
    }
    if (result == 0) {
        result = read_capabilities(frame, &hello, error);
    }
    if (result == 0 && hello.session_pubkey != NULL && !hex_is_key(hello.session_pubkey)) {
        result = error_set(error, ERROR_INVALID, "field 'sessionPubkey' must be 64 lower-case hex digits");
    }
    if (result == 0) {
        *ret_hello = hello;
    }
    return result;
}
