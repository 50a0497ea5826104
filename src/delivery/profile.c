/* The profile that others see: kept with trust's tables, told to the broker when it is set and on each connection; a heartbeat makes the status `working` for five minutes. */
#include "delivery/delivery_internal.h"

#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

enum { HEARTBEAT_MS = 300000 };

/* Which frame carries a field, in the order of 20-ipc. */
static const struct profile_field {
    const char *name, *frame;
} FIELDS[] = {
    { "summary", "set_summary" }, { "status", "set_status" }, { "visible", "set_visible" },      { "avatar", "set_profile" },
    { "title", "set_profile" },   { "bio", "set_profile" },   { "capabilities", "set_profile" },
};

/* ---- telling the broker --------------------------------------------------------------------------------------- */

static const char *effective_status(const struct profile *profile)
{
    const char *set = json_string_value(json_object_get(profile->fields, "status"));
    if (string_equal(set, "dnd")) {
        return "dnd"; /* a wish, which a sign of life does not undo */
    }
    if (profile->working || string_equal(set, "working")) {
        return "working";
    }
    return "idle";
}

static void tell_status(struct delivery *delivery)
{
    struct profile *profile = &delivery->profile;
    const char *status = effective_status(profile);
    if (!delivery->open || string_equal(profile->sent_status, status)) {
        return;
    }
    json_t *frame = json_new_object();
    json_put_string(frame, "type", "set_status");
    json_put_string(frame, "status", status);
    if (delivery_send_json(delivery, frame) == 0) {
        profile->sent_status = status;
    }
}

/* One frame of the fields that it carries, as far as they are set. */
static void tell_fields(struct delivery *delivery, const char *type)
{
    json_t *frame = json_new_object();
    bool any = false;
    json_put_string(frame, "type", type);
    for (size_t i = 0; i < ARRAY_LENGTH(FIELDS); i++) {
        json_t *value = json_object_get(delivery->profile.fields, FIELDS[i].name);
        if (value != NULL && string_equal(FIELDS[i].frame, type)) {
            json_put(frame, FIELDS[i].name, json_incref(value));
            any = true;
        }
    }
    if (any) {
        (void)delivery_send_json(delivery, frame);
    } else {
        json_decref(frame);
    }
}

static bool names_field_of(const json_t *fields, const char *frame)
{
    for (size_t i = 0; i < ARRAY_LENGTH(FIELDS); i++) {
        if (string_equal(FIELDS[i].frame, frame) && json_object_get(fields, FIELDS[i].name) != NULL) {
            return true;
        }
    }
    return false;
}

static void tell(struct delivery *delivery, const json_t *changed)
{
    static const char *const FRAMES[] = { "set_summary", "set_visible", "set_profile" };
    for (size_t i = 0; i < ARRAY_LENGTH(FRAMES); i++) {
        if (names_field_of(changed, FRAMES[i])) {
            tell_fields(delivery, FRAMES[i]);
        }
    }
    tell_status(delivery);
}

/* ---- the profile ---------------------------------------------------------------------------------------------- */

json_t *delivery_profile(const struct delivery *delivery)
{
    const json_t *fields = delivery->profile.fields;
    json_t *object = json_new_object();
    for (size_t i = 0; i < ARRAY_LENGTH(FIELDS); i++) {
        json_t *value = json_object_get(fields, FIELDS[i].name);
        json_put(object, FIELDS[i].name, value == NULL ? json_null() : json_incref(value));
    }
    if (json_object_get(fields, "visible") == NULL) {
        json_put_bool(object, "visible", true);
    }
    json_put_string(object, "status", effective_status(&delivery->profile));
    return object;
}

json_t *delivery_set_profile(struct delivery *delivery, const json_t *fields, bool *ret_deferred)
{
    json_t *applied = json_new_array();
    for (size_t i = 0; i < ARRAY_LENGTH(FIELDS); i++) {
        json_t *value = json_object_get(fields, FIELDS[i].name);
        if (value != NULL) {
            json_put(delivery->profile.fields, FIELDS[i].name, json_deep_copy(value));
            json_array_append_new(applied, json_string(FIELDS[i].name));
        }
    }
    char *text = json_to_string(delivery->profile.fields, NULL);
    trust_set_profile(delivery->trust, text);
    free(text);
    if (delivery->open) {
        tell(delivery, fields);
    }
    *ret_deferred = !delivery->open;
    return applied;
}

static void heartbeat_over(void *argument)
{
    struct delivery *delivery = argument;
    delivery->profile.working = false;
    tell_status(delivery);
}

void delivery_heartbeat(struct delivery *delivery)
{
    delivery->profile.working = true;
    loop_timer_start(delivery->profile.heartbeat_timer, HEARTBEAT_MS);
    tell_status(delivery);
}

void profile_opened(struct delivery *delivery)
{
    delivery->profile.sent_status = NULL;
    if (json_object_size(delivery->profile.fields) > 0 || delivery->profile.working) {
        tell(delivery, delivery->profile.fields);
    }
}

void profile_lost(struct delivery *delivery)
{
    delivery->profile.sent_status = NULL;
}

void profile_init(struct delivery *delivery)
{
    struct profile *profile = &delivery->profile;
    const char *stored = trust_profile(delivery->trust);
    struct error error;
    if (stored == NULL || json_parse_strict(stored, strlen(stored), &profile->fields, &error) < 0 || !json_is_object(profile->fields)) {
        json_decref(profile->fields);
        profile->fields = json_new_object();
    }
    profile->heartbeat_timer = loop_timer_new(delivery->loop, heartbeat_over, delivery);
}

void profile_release(struct delivery *delivery)
{
    json_decref(delivery->profile.fields);
    delivery->profile.fields = NULL;
    loop_timer_free(delivery->profile.heartbeat_timer);
    delivery->profile.heartbeat_timer = NULL;
}
