/* The recipient's checks: the table, and each of its rows. */
#include "delivery/checks.h"

#include "json/json.h"
#include "outbox/states.h"
#include "util/limits.h"
#include "util/text.h"

enum { BODY_VERSION_BARE = 1, BODY_VERSION_SEALED = 3 };
static const int64_t AHEAD_MAXIMUM_MS = 600000;

const char CHECK_REPLAY_SUSPECTED[] = "replay_suspected";

/* ---- the push itself ------------------------------------------------------------------------------------------ */

static bool is_well_formed(struct received *received)
{
    const struct frame_push *push = received->push;
    struct buffer nonce;
    buffer_init(&nonce, LIMIT_FRAME);
    bool good = hex_is_key(push->sender_member_pubkey) &&
                client_message_id_is_valid(push->client_message_id, strlen(push->client_message_id)) &&
                base64_decode(push->nonce, strlen(push->nonce), &nonce) == 0 && nonce.length == NONCE_BYTES &&
                base64_decode(push->ciphertext, push->ciphertext_length, &received->sealed) == 0 && received->sealed.length >= BOX_OVERHEAD;
    if (good) {
        memcpy(received->nonce.bytes, nonce.data, NONCE_BYTES);
        const struct text parts[] = { { nonce.data, nonce.length }, { received->sealed.data, received->sealed.length } };
        sha256_of_parts(parts, ARRAY_LENGTH(parts), &received->content);
    }
    buffer_release(&nonce);
    return good;
}

static bool mesh_is_ours(struct received *received)
{
    return string_equal(received->push->mesh_id, received->mesh_id);
}

/* What is for a topic, a group or everybody needs a key that this daemon does not hold (yet): it waits in the quarantine. */
static bool is_direct(struct received *received)
{
    const char *target = received->push->target_spec;
    return received->push->topic == NULL && (target == NULL || (target[0] != '#' && target[0] != '@' && !string_equal(target, "*")));
}

static struct opener opener_of(const struct received *received)
{
    return (struct opener){ .mesh_id = received->mesh_id,
                            .keys = received->keys,
                            .archive = received->archive,
                            .boxes = received->boxes,
                            .trust = received->trust,
                            .now_ms = received->now_ms };
}

static bool target_is_us(struct received *received)
{
    const struct opener opener = opener_of(received);
    const char *target = received->push->target_spec; /* an existing broker does not say */
    return target == NULL || opener_is_ours(&opener, target);
}

static bool sender_key_is_valid(struct received *received)
{
    struct error error;
    return public_key_parse(received->push->sender_member_pubkey, &received->sender_key, &error) == 0;
}

static bool sender_is_not_revoked(struct received *received)
{
    return !trust_is_revoked(received->trust, received->push->sender_member_pubkey);
}

/* ---- opening -------------------------------------------------------------------------------------------------- */

static bool box_opens(struct received *received)
{
    const struct opener opener = opener_of(received);
    received->opened = opener_open(&opener, received->push->target_spec, &received->sender_key, &received->nonce, &received->sealed,
                                   &received->plaintext, &received->opened_with);
    return received->opened == OPENED_CURRENT || received->opened == OPENED_ARCHIVED;
}

/* Finds out what it is: an envelope is one whatever was declared; what was declared sealed and is no envelope is nothing. */
static bool is_readable(struct received *received)
{
    struct error error;
    int result = envelope_parse(received->plaintext.data, received->plaintext.length, &received->envelope, &received->document,
                                &received->is_envelope, &error);
    if (received->is_envelope) {
        return result == 0;
    }
    return received->push->body_version == BODY_VERSION_BARE && received->plaintext.length > 0 &&
           utf8_is_valid(received->plaintext.data, received->plaintext.length);
}

/* ---- a sealed envelope ---------------------------------------------------------------------------------------- */

/* A push without client_message_id (an existing broker) says nothing that the signed one could contradict. */
static bool id_agrees(struct received *received)
{
    const json_t *outside = json_object_get(received->frame, "client_message_id");
    bool absent = outside == NULL || json_is_null(outside);
    if (!absent && !string_equal(received->envelope.id, received->push->client_message_id)) {
        return false;
    }
    received->client_message_id = received->envelope.id;
    return client_message_id_is_valid(received->envelope.id, strlen(received->envelope.id));
}

/* What the push says; where it says nothing, any key that is or was ours: the sender leaves the one that it was asked for (50-identity). */
static bool names_us(const struct received *received, const char *to)
{
    const struct opener opener = opener_of(received);
    const char *target = received->push->target_spec;
    return opener_is_ours(&opener, to) && (target == NULL || string_equal(to, target));
}

static bool envelope_agrees(struct received *received)
{
    const struct envelope *envelope = &received->envelope;
    return string_equal(envelope->mesh, received->mesh_id) && string_equal(envelope->from, received->push->sender_member_pubkey) &&
           string_equal(envelope->kind, "dm") && names_us(received, envelope->to) &&
           (envelope->key_id == NULL || envelope->key_id[0] == '\0');
}

static bool signatures_hold(struct received *received)
{
    struct error error;
    return envelope_verify(&received->envelope, received->document, &error) == 0;
}

/* From the envelope alone: what stands outside may be absent, but not another value. */
static bool outside_agrees(struct received *received)
{
    const struct frame_push *push = received->push;
    const struct envelope *envelope = &received->envelope;
    const json_t *priority = json_object_get(received->frame, "priority");
    bool priority_absent = priority == NULL || json_is_null(priority);
    return (priority_absent || string_equal(push->priority, envelope->priority)) &&
           (push->reply_to_id == NULL || string_equal(push->reply_to_id, envelope->reply_to)) &&
           (json_array_size(push->mentions) == 0 || json_equal(push->mentions, envelope->mentions));
}

static bool fields_are_sane(struct received *received)
{
    const struct envelope *envelope = &received->envelope;
    enum outbox_priority priority = PRIORITY_NEXT;
    struct buffer meta;
    buffer_init(&meta, LIMIT_META);
    bool good = envelope->priority != NULL && priority_parse(envelope->priority, &priority) && envelope->body.length > 0 &&
                (envelope->meta == NULL || json_print_canonical(envelope->meta, &meta) == 0);
    buffer_release(&meta);
    return good;
}

static bool is_not_from_the_future(struct received *received)
{
    return received->envelope.sent_at <= received->now_ms + AHEAD_MAXIMUM_MS;
}

/* An old key speaks for what was said before its rotation, and that must arrive within the grace. */
static bool key_was_good(const struct received *received, int64_t sent_at)
{
    int64_t rotated_at = 0;
    return !trust_rotated_out(received->trust, received->push->sender_member_pubkey, &rotated_at) ||
           (sent_at <= rotated_at && received->now_ms - rotated_at <= received->key_grace_ms);
}

static bool key_was_good_when_sealed(struct received *received)
{
    return key_was_good(received, received->envelope.sent_at);
}

/* ---- the bare text of an older client ------------------------------------------------------------------------- */

static bool is_no_downgrade(struct received *received)
{
    return trust_sender_body_version(received->trust, received->push->sender_member_pubkey) <= BODY_VERSION_BARE;
}

/* A box opens at both ends, so a broker can hand us our own back, also under the other's name. Our nonces are a keyed hash of recipient and plaintext (decision 0005): that shows whose
 * box it is. */
static bool is_not_our_own(struct received *received)
{
    if (trust_same_member(received->trust, received->push->sender_member_pubkey, keypair_public_hex(received->keys))) {
        return false;
    }
    struct nonce ours;
    nonce_derive(received->opened_with, &received->sender_key, received->plaintext.data, received->plaintext.length, &ours);
    return memcmp(ours.bytes, received->nonce.bytes, NONCE_BYTES) != 0;
}

/* Nothing in it says when it was sent: the broker's word has to do. */
static bool key_is_good(struct received *received)
{
    return key_was_good(received, received->push->created_at >= 0 ? received->push->created_at : received->now_ms);
}

static bool priority_is_known(struct received *received)
{
    enum outbox_priority priority = PRIORITY_NEXT;
    return priority_parse(received->push->priority, &priority);
}

/* ---- the table ------------------------------------------------------------------------------------------------ */

const struct check CHECKS[] = {
    { CHECK_EVERY, "malformed", is_well_formed },
    { CHECK_EVERY, "envelope_mismatch", mesh_is_ours },
    { CHECK_EVERY, "no_key", is_direct },
    { CHECK_EVERY, "envelope_mismatch", target_is_us },
    { CHECK_EVERY, "invalid_key", sender_key_is_valid },
    { CHECK_EVERY, "sender_revoked", sender_is_not_revoked },
    { CHECK_EVERY, "decrypt_failed", box_opens },
    { CHECK_EVERY, "malformed", is_readable },
    { CHECK_ENVELOPE, "envelope_mismatch", id_agrees },
    { CHECK_ENVELOPE, "envelope_mismatch", envelope_agrees },
    { CHECK_ENVELOPE, "bad_signature", signatures_hold },
    { CHECK_ENVELOPE, "envelope_mismatch", outside_agrees },
    { CHECK_ENVELOPE, "malformed", fields_are_sane },
    { CHECK_ENVELOPE, CHECK_REPLAY_SUSPECTED, is_not_from_the_future },
    { CHECK_ENVELOPE, "key_rotated_out", key_was_good_when_sealed },
    { CHECK_LEGACY, "body_downgrade", is_no_downgrade },
    { CHECK_LEGACY, "reflected", is_not_our_own },
    { CHECK_LEGACY, "key_rotated_out", key_is_good },
    { CHECK_LEGACY, "malformed", priority_is_known },
};
const size_t CHECK_COUNT = ARRAY_LENGTH(CHECKS);

static bool applies(const struct check *check, const struct received *received)
{
    switch (check->scope) {
    case CHECK_EVERY:
        return true;
    case CHECK_ENVELOPE:
        return received->is_envelope;
    case CHECK_LEGACY:
        return !received->is_envelope;
    }
    return true;
}

const char *checks_judge(struct received *received)
{
    received->client_message_id = received->push->client_message_id;
    for (size_t i = 0; i < CHECK_COUNT; i++) {
        if (applies(&CHECKS[i], received) && !CHECKS[i].holds(received)) {
            return CHECKS[i].reason;
        }
    }
    return NULL;
}

void received_init(struct received *received)
{
    *received = (struct received){ 0 };
    buffer_init(&received->sealed, LIMIT_FRAME);
    buffer_init(&received->plaintext, LIMIT_FRAME);
}

void received_release(struct received *received)
{
    buffer_release(&received->sealed);
    buffer_wipe_release(&received->plaintext);
    json_decref(received->document);
    received->document = NULL;
}
