/* A push at its recipient (45-trust, Messages): the whole table of checks, over frames as they come, and over plaintexts in a box that a member truly made. One envelope was ever signed for this recipient: whatever
 * is accepted as sealed is that one, whole. */
#include "delivery/checks.h"
#include "fuzz_json.h"
#include "trust_world.h"
#include "util/text.h"

static const int64_t NOW_MS = INT64_C(1790000000000);
static struct box_cache *boxes;
static struct trust *trust;

/* Of the seeds. */
static void check_sealed(const struct envelope *envelope)
{
    REQUIRE(string_equal(envelope->id, "01J0000000000000000000TEST") && text_equal_c(envelope->body, "hello"));
    REQUIRE(string_equal(envelope->from, keypair_public_hex(fuzz_keys(FUZZ_MEMBER))) && string_equal(envelope->priority, "next"));
    REQUIRE(string_equal(envelope->reply_to, "r1") && envelope->sent_at == NOW_MS && json_object_size(envelope->meta) == 2);
}

static void judge(const json_t *frame)
{
    struct frame_push push;
    struct error error;
    struct received received;

    if (frame_push_parse(frame, &push, &error) != 0)
        return;
    received_init(&received);
    received.mesh_id = FUZZ_MESH;
    received.keys = fuzz_keys(FUZZ_OWNER);
    received.boxes = boxes;
    received.trust = trust;
    received.now_ms = NOW_MS;
    received.frame = frame;
    received.push = &push;
    const char *reason = checks_judge(&received);
    if (reason == NULL) {
        REQUIRE(client_message_id_is_valid(received.client_message_id, strlen(received.client_message_id)));
        if (received.is_envelope)
            check_sealed(&received.envelope);
        else
            REQUIRE(push.body_version == 1 && utf8_is_valid(received.plaintext.data, received.plaintext.length));
    }
    REQUIRE(received.is_envelope == (received.document != NULL) || reason != NULL);
    received_release(&received);
}

static json_t *push_of(const void *plaintext, size_t size, int64_t body_version)
{
    struct buffer sealed, text;
    struct nonce nonce = { { 7 } };
    struct error error;
    const struct keypair *sender = fuzz_keys(FUZZ_MEMBER);

    buffer_init(&sealed, BUFFER_UNLIMITED);
    buffer_init(&text, BUFFER_UNLIMITED);
    REQUIRE(box_seal(boxes, sender, keypair_public(fuzz_keys(FUZZ_OWNER)), &nonce, plaintext, size, &sealed, &error) == 0);
    json_t *frame = json_new_object();
    json_put_string(frame, "messageId", "01J0000000000000000000PUSH");
    json_put_string(frame, "meshId", FUZZ_MESH);
    json_put_string(frame, "senderPubkey", keypair_public_hex(sender));
    json_put_integer(frame, "bodyVersion", body_version);
    REQUIRE(base64_encode(nonce.bytes, sizeof(nonce.bytes), &text) == 0);
    json_put_string(frame, "nonce", text.data);
    buffer_reset(&text);
    REQUIRE(base64_encode(sealed.data, sealed.length, &text) == 0);
    json_put_string(frame, "ciphertext", text.data);
    buffer_release(&sealed);
    buffer_release(&text);
    return frame;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    const uint8_t mode = fuzz_take_byte(&input) % 3;
    json_t *frame;

    if (boxes == NULL) {
        (void)fuzz_keys(FUZZ_OWNER);
        boxes = box_cache_new(16);
        trust = trust_world_open(FUZZ_OWNER);
    }
    if (mode == 2) {
        frame = fuzz_parse_json(input.at, input.left);
    } else {
        struct buffer plaintext;
        struct error error;
        buffer_init(&plaintext, BUFFER_UNLIMITED);
        (void)buffer_append(&plaintext, input.at, input.left);
        if (mode == 0)
            REQUIRE(envelope_pad(&plaintext, &error) == 0);
        frame = push_of(plaintext.data, plaintext.length, mode == 0 ? 3 : 1);
        buffer_release(&plaintext);
    }
    if (frame != NULL)
        judge(frame);
    json_decref(frame);
    return 0;
}
