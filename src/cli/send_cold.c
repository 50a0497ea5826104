/* Sending without a daemon: one short connection to the broker. The frame is the one that the daemon would send, with the same fingerprints. */
#include "cli/broker_link.h"
#include "cli/cold_members.h"
#include "cli/meshes.h"
#include "cli/output.h"
#include "cli/send.h"
#include "crypto/box.h"
#include "crypto/fingerprint.h"
#include "delivery/delivery.h"
#include "json/json.h"
#include "proto/frames.h"
#include "util/clock.h"
#include "util/limits.h"
#include "util/memory.h"

static int list_members(struct broker_link *link, const struct config_mesh *mesh, struct cold_members *ret_members, struct error *error)
{
    json_t *list = NULL;
    int status = broker_link_list_members(link, &list, error);
    if (status == 0) {
        status = cold_members_read(list, mesh, ret_members, error);
    }
    json_decref(list);
    return status;
}

/* The limits that the daemon would hold the message to. */
static int check_limits(const struct send_request *request, const struct feature_set *features, const struct cold_member *member,
                        const struct buffer *meta, struct error *error)
{
    if ((int64_t)request->message.length > features->inline_bytes) {
        return error_set(error, ERROR_TOO_LARGE, "the message has %zu bytes; this broker takes %" PRId64, request->message.length,
                         features->inline_bytes);
    }
    if (meta->length > LIMIT_META) {
        return error_set(error, ERROR_TOO_LARGE, "--meta is over %d bytes in all", (int)LIMIT_META);
    }
    if (!features->sealed_envelope && (member->verified || request->meta != NULL)) {
        return error_set(error, ERROR_DENIED, "this broker does not carry sealed envelopes, and nothing less is sent %s",
                         member->verified ? "to a verified member" : "with --meta");
    }
    return 0;
}

static int seal(const struct send_request *request, const struct config_mesh *mesh, const struct keypair *keys,
                const struct cold_members *members, const struct cold_member *member, const struct feature_set *features,
                struct buffer *ret_frame, struct error *error)
{
    struct buffer meta;
    struct box_cache *boxes = box_cache_new(1);
    struct blinding_key *blinding = blinding_key_of(keys);
    struct sha256 content;
    int status = 0;

    buffer_init(&meta, LIMIT_HTTP_BODY);
    if (request->meta != NULL) {
        status = json_print_canonical(request->meta, &meta) == 0 ? 0 : error_set(error, ERROR_TOO_LARGE, "--meta is too large");
    }
    if (status == 0) {
        status = check_limits(request, features, member, &meta, error);
    }
    if (status == 0) {
        struct fingerprint plain, blinded;
        const struct fingerprint_request fingerprint = {
            .destination_kind = "dm",
            .destination_ref = member->pubkey,
            .reply_to_id = request->reply_to_id,
            .priority = request->priority,
            .meta_canonical = { meta.data, meta.length },
            .body = request->message,
        };
        fingerprint_of(&fingerprint, &plain);
        fingerprint_blind(blinding, &plain, request->client_message_id, &blinded);
        const struct seal_request sealing = {
            .mesh_id = mesh->mesh_id,
            .client_message_id = request->client_message_id,
            .destination_kind = "dm",
            .destination_ref = member->pubkey,
            .priority = request->priority,
            .reply_to_id = request->reply_to_id,
            .rv = members->rv,
            .meta_canonical = { meta.data, meta.length },
            .body = request->message,
            .sent_at = clock_wall_ms(),
            .broker_fingerprint = blinded,
            .sealed = features->sealed_envelope,
        };
        status = delivery_seal(&sealing, keys, boxes, ret_frame, &content, error);
    }
    buffer_wipe_release(&meta);
    blinding_key_free(blinding);
    box_cache_free(boxes);
    return status;
}

static int report(struct cli *cli, const struct send_request *request, const struct frame_ack *ack)
{
    enum ack_verdict verdict = frame_ack_verdict(ack);
    const char *reason = ack->error == NULL ? "no reason given" : ack->error;
    if (verdict == ACK_KEY_REUSED) {
        return cli_fail_named(cli, EXIT_CONFLICT, "idempotency_key_reused", "the idempotency key was used for another message (%s)",
                              reason);
    }
    if (verdict == ACK_RETRY) {
        return cli_fail(cli, EXIT_FAILED, "the broker cannot take it now (%s); try again with --idempotency-key %s", reason,
                        request->client_message_id);
    }
    if (verdict == ACK_REFUSED) {
        bool denied = ack->status == 401 || ack->status == 403;
        return cli_fail(cli, denied ? EXIT_NOT_AUTHORISED : EXIT_FAILED, "the broker refused it (%s)", reason);
    }
    if (cli->json) {
        json_t *result = json_new_object();
        json_put_string(result, "client_message_id", request->client_message_id);
        json_put_string(result, "status", "done");
        json_put_bool(result, "duplicate", verdict == ACK_DUPLICATE);
        json_put_string(result, "broker_message_id", ack->message_id);
        if (ack->history_id >= 0) {
            json_put_integer(result, "history_id", ack->history_id);
        }
        json_put_string(result, "via", "cold");
        cli_print_json(result);
        json_decref(result);
    }
    cli_say(cli, "accepted by the broker (id %s)%s, via: cold", ack->message_id,
            verdict == ACK_DUPLICATE ? " (it was accepted before; nothing was sent twice)" : "");
    return EXIT_DONE;
}

/* On an open link: resolves, seals, sends, waits. */
static int send_over(struct cli *cli, const struct send_request *request, const struct config_mesh *mesh, const struct keypair *keys,
                     struct broker_link *link)
{
    struct cold_members members = { 0 };
    const struct cold_member *member = NULL;
    struct buffer frame;
    struct frame_ack ack;
    struct error error = { 0 };
    json_t *answer = NULL;
    int status;
    int64_t wait_ms = request->wait_s > 0 ? request->wait_s * 1000 : BROKER_LINK_ANSWER_MS;

    buffer_init(&frame, LIMIT_FRAME);
    if (list_members(link, mesh, &members, &error) != 0) {
        status = cli_fail_error(cli, &error);
        goto out;
    }
    if (cold_members_resolve(&members, request->to, &member, &error) != 0) {
        const char *name = error.code == ERROR_AMBIGUOUS ? "destination_ambiguous" : "destination_not_found";
        status = cli_fail_named(cli, EXIT_FAILED, name, "%s", error.message);
        goto out;
    }
    if (!request->allow_self && string_equal(member->pubkey, mesh->pubkey)) {
        status = send_refuse_self(cli);
        goto out;
    }
    if (seal(request, mesh, keys, &members, member, broker_link_features(link), &frame, &error) != 0) {
        status = error.code == ERROR_TOO_LARGE ? cli_fail_named(cli, EXIT_FAILED, "payload_too_large", "%s", error.message)
                                               : cli_fail_error(cli, &error);
        goto out;
    }
    if (broker_link_send(link, frame.data, frame.length, request->client_message_id, wait_ms, &answer, &error) != 0) {
        status = cli_fail(cli, exit_code_of_error(error.code),
                          "%s; the broker may have the message: try again with --idempotency-key %s, which sends it once", error.message,
                          request->client_message_id);
        goto out;
    }
    if (broker_answer_check(answer, &error) != 0 || frame_ack_parse(answer, &ack, &error) != 0) {
        status = cli_fail_error(cli, &error);
        goto out;
    }
    status = report(cli, request, &ack);
out:
    json_decref(answer);
    cold_members_release(&members);
    buffer_wipe_release(&frame);
    return status;
}

int send_cold(struct cli *cli, const struct send_request *request, const struct config_mesh *mesh)
{
    struct settings *settings = NULL;
    struct keypair *keys = NULL;
    struct broker_link *link = NULL;
    int status;

    if (strchr("#@*", request->to[0]) != NULL) {
        return cli_fail_named(cli, EXIT_FAILED, "not_implemented", "topics, groups and broadcasts are not there yet; send to a member");
    }
    status = meshes_settings(cli, &settings);
    if (status == EXIT_DONE) {
        status = meshes_keys(cli, mesh, &keys);
    }
    if (status == EXIT_DONE) {
        status = broker_link_need(cli, mesh, keys, settings, &link);
    }
    if (status == EXIT_DONE) {
        status = send_over(cli, request, mesh, keys, link);
    }
    broker_link_close(link);
    keypair_free(keys);
    settings_free(settings);
    return status;
}
