/* One message sealed for a member: envelope, box, send frame (40-wire, Encryption; decision 0005 for the nonce). Pure but for the box cache; delivery and the command line's cold
 * path send what comes out of here. */
#include "delivery/delivery.h"
#include "json/json.h"
#include "proto/envelope.h"
#include "proto/frames.h"
#include "util/limits.h"
#include "util/text.h"

enum { BODY_VERSION_BARE = 1, BODY_VERSION_SEALED = 3 };

static int build_envelope(const struct seal_request *request, const struct keypair *keys, struct buffer *ret_plaintext, struct error *error)
{
    json_t *meta = NULL;
    if (request->meta_canonical.length > 0) {
        int result = json_parse_strict(request->meta_canonical.data, request->meta_canonical.length, &meta, error);
        if (result < 0) {
            return result;
        }
    }
    struct envelope envelope = {
        .id = request->client_message_id,
        .mesh = request->mesh_id,
        .from = keypair_public_hex(keys),
        .kind = request->destination_kind,
        .to = request->destination_ref,
        .sent_at = request->sent_at,
        .reply_to = request->reply_to_id,
        .meta = meta,
        .priority = request->priority,
        .rv = request->rv,
        .body = request->body,
    };
    int result = envelope_build(&envelope, keys, ret_plaintext, error);
    json_decref(meta);
    return result;
}

static int build_plaintext(const struct seal_request *request, const struct keypair *keys, struct buffer *ret_plaintext,
                           struct error *error)
{
    if (request->sealed) {
        return build_envelope(request, keys, ret_plaintext, error);
    }
    if (request->meta_canonical.length > 0) {
        return error_set(error, ERROR_DENIED,
                         "sealed_envelope_required: without it meta would be lost, and this broker and recipient do not have it");
    }
    if (buffer_append(ret_plaintext, request->body.data, request->body.length) < 0) {
        return error_set(error, ERROR_TOO_LARGE, "payload_too_large: the message does not fit a frame");
    }
    return 0;
}

static int print_frame(const struct seal_request *request, const struct nonce *nonce, const struct buffer *sealed, struct buffer *ret_frame,
                       struct error *error)
{
    struct buffer nonce_text;
    struct buffer sealed_text;
    buffer_init(&nonce_text, LIMIT_FRAME);
    buffer_init(&sealed_text, LIMIT_FRAME);
    char fingerprint[SHA256_HEX_SIZE];
    hex_encode(request->broker_fingerprint.bytes, SHA256_BYTES, fingerprint);
    int result = base64_encode(nonce->bytes, NONCE_BYTES, &nonce_text);
    if (result == 0) {
        result = base64_encode(sealed->data, sealed->length, &sealed_text);
    }
    if (result == 0) {
        struct frame_send send = {
            .id = request->client_message_id,
            .request_fingerprint = fingerprint,
            .target_spec = request->destination_ref,
            .priority = request->priority,
            .nonce = nonce_text.data,
            .ciphertext = sealed_text.data,
            .ciphertext_length = sealed_text.length,
            .body_version = request->sealed ? BODY_VERSION_SEALED : BODY_VERSION_BARE,
            .key_epoch = -1,
            /* The envelope has it, where the broker does not see it. */
            .reply_to_id = request->sealed ? NULL : request->reply_to_id,
            .destination_kind = request->destination_kind,
            .destination_ref = request->destination_ref,
        };
        result = frame_send_build(&send, ret_frame);
    }
    if (result < 0) {
        result = error_set(error, ERROR_TOO_LARGE, "payload_too_large: the message does not fit a frame");
    }
    buffer_release(&nonce_text);
    buffer_release(&sealed_text);
    return result;
}

int delivery_seal(const struct seal_request *request, const struct keypair *keys, struct box_cache *boxes, struct buffer *ret_frame,
                  struct sha256 *ret_content, struct error *error)
{
    if (!string_equal(request->destination_kind, "dm")) {
        return error_set(error, ERROR_INVALID, "only direct messages are sealed for one member");
    }
    struct public_key recipient;
    int result = public_key_parse(request->recipient_key != NULL ? request->recipient_key : request->destination_ref, &recipient, error);
    if (result < 0) {
        return error_prefix(error, "invalid_recipient_key");
    }
    struct buffer plaintext;
    struct buffer sealed;
    buffer_init(&plaintext, LIMIT_FRAME);
    buffer_init(&sealed, LIMIT_FRAME);
    struct nonce nonce;
    result = build_plaintext(request, keys, &plaintext, error);
    if (result == 0) {
        nonce_derive(keys, &recipient, plaintext.data, plaintext.length, &nonce);
        result = box_seal(boxes, keys, &recipient, &nonce, plaintext.data, plaintext.length, &sealed, error);
    }
    if (result == 0) {
        result = print_frame(request, &nonce, &sealed, ret_frame, error);
    }
    if (result == 0) {
        const struct text parts[] = { { (const char *)nonce.bytes, NONCE_BYTES }, { sealed.data, sealed.length } };
        sha256_of_parts(parts, ARRAY_LENGTH(parts), ret_content);
    }
    buffer_wipe_release(&plaintext);
    buffer_release(&sealed);
    return result;
}
