/* An inbox row as GET /v1/inbox and the `message` event show it (20-ipc). Pure. */
#include "delivery/delivery.h"
#include "json/json.h"
#include "util/text.h"

json_t *inbox_row_to_json(const struct inbox_row *row, const char *mesh_slug)
{
    json_t *object = json_new_object();
    json_put_string(object, "id", row->id);
    json_put_integer(object, "seq", row->seq);
    json_put_string(object, "client_message_id", row->client_message_id);
    json_put_string(object, "broker_message_id", row->broker_message_id);
    if (row->history_id >= 0) {
        json_put_integer(object, "history_id", row->history_id);
    } else {
        json_put_null(object, "history_id");
    }
    json_put_string(object, "mesh", mesh_slug);
    json_put_string(object, "kind", row->kind);
    json_put_string(object, "topic", row->topic);
    json_put_string(object, "sender_pubkey", row->sender_pubkey);
    json_put_string(object, "sender_name", row->sender_name);
    if (row->verified == INBOX_LEGACY) {
        json_put_string(object, "verified", "legacy");
    } else {
        json_put_bool(object, "verified", row->verified == INBOX_VERIFIED);
    }
    json_put_text(object, "body", (struct text){ row->body, row->body_size });
    json_t *meta = NULL;
    struct error error;
    if (row->meta != NULL && json_parse_strict(row->meta, strlen(row->meta), &meta, &error) == 0) {
        json_put(object, "meta", meta);
    } else {
        json_put_null(object, "meta");
    }
    json_put_string(object, "priority", row->priority);
    json_put_string(object, "reply_to_id", row->reply_to_id);
    json_put_time(object, "sent_at", row->sent_at);
    json_put_time(object, "received_at", row->received_at);
    json_put_time(object, "seen_at", row->seen_at);
    return object;
}
