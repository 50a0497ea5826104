/* Owns the rules for outbox rows (docs/decisions/0014): an id that was taken stays taken; what cannot be sent as it was accepted is not sent. */
#include <stdio.h>
#include <string.h>

#include "crypto/fingerprint.h"
#include "rescue/plans.h"
#include "util/clock.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

/* As OUTBOX_MIGRATIONS has them. */
enum {
    SEQ,
    ID,
    CLIENT_MESSAGE_ID,
    REQUEST_FINGERPRINT,
    BROKER_FINGERPRINT,
    MESH,
    DESTINATION_KIND,
    DESTINATION_REF,
    PRIORITY,
    REPLY_TO_ID,
    META,
    MENTIONS,
    ENQUEUED_AT,
    ATTEMPTS,
    NEXT_ATTEMPT_AT,
    STATUS,
    LAST_ERROR,
    DELIVERED_AT,
    BROKER_MESSAGE_ID,
    HISTORY_ID,
    ABORTED_AT,
    ABORTED_BY,
    SUPERSEDED_BY,
    PAYLOAD,
    COLUMNS
};

static const struct salvage_shape SHAPES[] = {
    { "outbox", "nttbbttttTTTiiitTITIITTp" }, { "outbox_attempt", "ibi" }, { "receipt", "tttttiiTi" }, { "trust_statement", "tttt" },
    { "trust_member", "tkttiiii" },           { "trust_pin", "ttkii" },    { "trust_sender", "tki" },  { "trust_mesh", "tiiT" },
};
/* Made anew from the rows, or by the migrations. */
static const char *const SKIP[] = { "schema", "outbox_key", "outbox_count", "outbox_progress", NULL };

static const char PAYLOAD_UNREADABLE[] = "payload_unreadable: what was to be sent could not be read from the damaged database";
static const char CONTENT_DIFFERS[] = "content_differs: what could be read is not what was accepted; look at it before sending it again";

bool plan_is_trust_table(const char *table)
{
    return strncmp(table, "trust_", 6) == 0;
}

static void set_text(struct rescue_value *value, const char *text)
{
    *value = (struct rescue_value){ .type = RESCUE_TEXT, .bytes = (const uint8_t *)text, .size = strlen(text) };
}

static void set_integer(struct rescue_value *value, int64_t integer)
{
    *value = (struct rescue_value){ .type = RESCUE_INTEGER, .integer = integer };
}

static struct text text_of(const struct rescue_value *value)
{
    bool is_null = value->type == RESCUE_NULL;
    return (struct text){ is_null ? NULL : value->bytes == NULL ? "" : (const char *)value->bytes, is_null ? 0 : value->size };
}

/* The columns that a row must have to be one: its ids and fingerprints come first in it, and are the last to be cut. */
static bool has_identity(const struct rescue_record *row)
{
    for (size_t i = ID; i <= BROKER_FINGERPRINT; i++) {
        if (row->values[i].type == RESCUE_LOST)
            return false;
    }
    struct text client_id = text_of(&row->values[CLIENT_MESSAGE_ID]);
    return row->rowid > 0 && client_message_id_is_valid(client_id.data, client_id.length);
}

/* Only operators see it: a damaged one is replaced. */
static void mend_id(struct rescue_record *row)
{
    enum { ULID_LENGTH = 26 };
    static char fresh[ULID_LENGTH + 1]; /* until the row is stored: one at a time */
    struct text id = text_of(&row->values[ID]);
    size_t good = 0;
    while (good < id.length && ((id.data[good] >= '0' && id.data[good] <= '9') || (id.data[good] >= 'A' && id.data[good] <= 'Z')))
        good++;
    if (good == id.length && id.length == ULID_LENGTH)
        return;
    ulid_generate(fresh);
    set_text(&row->values[ID], fresh);
}

static bool find_state(const struct rescue_record *row, enum outbox_state *ret_state)
{
    for (enum outbox_state state = 0; state < OUTBOX_STATES; state++) {
        if (salvage_text_is(&row->values[STATUS], outbox_state_name(state))) {
            *ret_state = state;
            return true;
        }
    }
    return false;
}

static bool has_priority(const struct rescue_record *row)
{
    for (enum outbox_priority priority = 0; priority < PRIORITIES; priority++) {
        if (salvage_text_is(&row->values[PRIORITY], priority_name(priority)))
            return true;
    }
    return false;
}

/* Placeholders, so that the row can stand with its id taken. */
static void fill_lost(struct rescue_record *row)
{
    static const char *const TEXTS[COLUMNS] = {
        [MESH] = "", [DESTINATION_KIND] = "dm", [DESTINATION_REF] = "", [PRIORITY] = "next", [STATUS] = "aborted"
    };
    for (size_t i = MESH; i < PAYLOAD; i++) {
        struct rescue_value *value = &row->values[i];
        if (value->type != RESCUE_LOST)
            continue;
        if (TEXTS[i] != NULL)
            set_text(value, TEXTS[i]);
        else if (i == ENQUEUED_AT || i == ATTEMPTS || i == NEXT_ATTEMPT_AT)
            set_integer(value, 0);
        else
            *value = (struct rescue_value){ .type = RESCUE_NULL };
    }
    if (row->values[PAYLOAD].type == RESCUE_LOST)
        row->values[PAYLOAD] = (struct rescue_value){ .type = RESCUE_BLOB };
}

static void copy_string(char *to, size_t size, const struct rescue_value *value)
{
    struct text text = text_of(value);
    size_t length = text.length < size - 1 ? text.length : size - 1;
    if (length > 0)
        memcpy(to, text.data, length);
    to[length] = '\0';
}

static bool matches_fingerprint(const struct rescue_record *row)
{
    enum { REFERENCE_SIZE = 512 };
    char kind[16], ref[REFERENCE_SIZE], reply_to[REFERENCE_SIZE], priority[8];
    copy_string(kind, sizeof(kind), &row->values[DESTINATION_KIND]);
    copy_string(ref, sizeof(ref), &row->values[DESTINATION_REF]);
    copy_string(reply_to, sizeof(reply_to), &row->values[REPLY_TO_ID]);
    copy_string(priority, sizeof(priority), &row->values[PRIORITY]);
    struct text meta = text_of(&row->values[META]);
    bool no_meta = meta.data == NULL || (meta.length == 2 && memcmp(meta.data, "{}", 2) == 0);
    struct text body = text_of(&row->values[PAYLOAD]);
    const struct fingerprint_request request = {
        .destination_kind = kind,
        .destination_ref = ref,
        .reply_to_id = row->values[REPLY_TO_ID].type == RESCUE_NULL ? NULL : reply_to,
        .priority = priority,
        .meta_canonical = no_meta ? (struct text){ "", 0 } : meta,
        .mentions_canonical = text_of(&row->values[MENTIONS]),
        .body = body.data == NULL ? (struct text){ "", 0 } : body,
    };
    struct fingerprint fingerprint;
    fingerprint_of(&request, &fingerprint);
    return memcmp(fingerprint.bytes, row->values[REQUEST_FINGERPRINT].bytes, sizeof(fingerprint.bytes)) == 0;
}

static void abort_row(struct rescue_record *row)
{
    set_text(&row->values[STATUS], "aborted");
    set_integer(&row->values[ABORTED_AT], clock_wall_ms());
    set_text(&row->values[ABORTED_BY], "recover");
    set_text(&row->values[LAST_ERROR], PAYLOAD_UNREADABLE);
}

static bool judge(void *argument, struct rescue_record *row, bool orphan)
{
    (void)orphan;
    struct rescue_report *report = argument;
    enum outbox_state state = OUTBOX_ABORTED;
    if (row->count != COLUMNS || !has_identity(row))
        return false;
    bool payload_lost = row->values[PAYLOAD].type == RESCUE_LOST, columns_lost = false;
    for (size_t i = MESH; i < PAYLOAD; i++)
        columns_lost = columns_lost || row->values[i].type == RESCUE_LOST;
    mend_id(row);
    fill_lost(row);
    bool known = find_state(row, &state) && has_priority(row);
    if (!known) {
        set_text(&row->values[PRIORITY], "next");
        state = OUTBOX_ABORTED;
    }
    bool unfinished = state == OUTBOX_PENDING || state == OUTBOX_INFLIGHT || state == OUTBOX_DEAD;
    report->outbox_rows[state]++;
    if (!known || columns_lost || (payload_lost && unfinished)) {
        report->without_payload++;
        abort_row(row);
    } else if ((state == OUTBOX_PENDING || state == OUTBOX_INFLIGHT) && !matches_fingerprint(row)) {
        report->content_differs++;
        set_text(&row->values[STATUS], "dead");
        set_text(&row->values[LAST_ERROR], CONTENT_DIFFERS);
    }
    return true;
}

static void lost(void *argument, const char *id, int64_t rowid)
{
    (void)rowid;
    struct rescue_report *report = argument;
    if (report->lost_id_count == RESCUE_IDS_MAXIMUM)
        return;
    if (report->lost_ids == NULL)
        report->lost_ids = memory_calloc(RESCUE_IDS_MAXIMUM, sizeof(*report->lost_ids));
    (void)snprintf(report->lost_ids[report->lost_id_count++], sizeof(*report->lost_ids), "%s", id);
}

void plan_outbox(struct rescue_report *report, struct salvage_plan *ret_plan)
{
    *ret_plan = (struct salvage_plan){ .shapes = SHAPES,
                                       .shape_count = ARRAY_LENGTH(SHAPES),
                                       .main_table = "outbox",
                                       .main_index = "sqlite_autoindex_outbox_1",
                                       .skip = SKIP,
                                       .judge = judge,
                                       .lost = lost,
                                       .argument = report };
}
