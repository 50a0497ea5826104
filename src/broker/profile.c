/* What a client says about itself (40-wire: set_status, set_summary, set_visible, set_profile, join_group, leave_group): checked, shown, kept. No answer but an error. */
#include "broker/handlers.h"
#include "broker/session.h"
#include "json/json.h"
#include "util/memory.h"
#include "util/text.h"

static const char *const PROFILE_FIELDS[] = { "avatar", "title", "bio", "capabilities" };

/* A send-only connection has no presence to change. */
static bool has_presence(struct session *session, const json_t *frame)
{
    if (session->presence != NULL)
        return true;
    session_error(session, session_request_id(frame), "no_presence", "a send-only connection has no presence", NULL);
    return false;
}

static void refuse(struct session *session, const json_t *frame, const char *message)
{
    session_error(session, session_request_id(frame), "invalid_request", message, NULL);
}

void profile_handle_status(struct session *session, const json_t *frame)
{
    const char *status = presence_find_status(json_string_value(json_object_get(frame, "status")));
    if (!has_presence(session, frame))
        return;
    if (status == NULL) {
        refuse(session, frame, "field 'status' must be idle, working or dnd");
        return;
    }
    session->presence->status = status;
    presence_save(session);
    deliver_pump(session); /* what waited for the end of dnd */
}

void profile_handle_summary(struct session *session, const json_t *frame)
{
    const json_t *summary = json_object_get(frame, "summary");
    if (!has_presence(session, frame))
        return;
    if ((!json_is_string(summary) && !json_is_null(summary)) || json_string_length(summary) > BROKER_SUMMARY) {
        refuse(session, frame, "field 'summary' must be a string of at most 4096 bytes, or null");
        return;
    }
    presence_set_text(&session->presence->summary, json_string_value(summary), BROKER_SUMMARY);
    presence_save(session);
}

void profile_handle_visible(struct session *session, const json_t *frame)
{
    const json_t *visible = json_object_get(frame, "visible");
    if (!has_presence(session, frame))
        return;
    if (!json_is_boolean(visible)) {
        refuse(session, frame, "field 'visible' must be true or false");
        return;
    }
    session->presence->visible = json_is_true(visible);
    /* Who hides has left, as far as the others are told. */
    if (session->presence->visible)
        presence_announce(session);
    else
        presence_withdraw(session->presence);
    presence_save(session);
}

static bool field_is_usable(const char *name, const json_t *value)
{
    if (!string_equal(name, "capabilities"))
        return json_is_string(value) || json_is_null(value);
    if (!json_is_array(value))
        return json_is_null(value);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!json_is_string(json_array_get(value, i)))
            return false;
    return true;
}

void profile_handle_profile(struct session *session, const json_t *frame)
{
    if (!has_presence(session, frame))
        return;
    const json_t *given = json_is_object(json_object_get(frame, "profile")) ? json_object_get(frame, "profile") : frame;
    json_t *profile = json_deep_copy(session->presence->profile);
    struct buffer text;
    buffer_init(&text, BROKER_PROFILE);
    for (size_t i = 0; i < ARRAY_LENGTH(PROFILE_FIELDS); i++) {
        const json_t *value = json_object_get(given, PROFILE_FIELDS[i]);
        if (value == NULL)
            continue;
        if (!field_is_usable(PROFILE_FIELDS[i], value)) {
            refuse(session, frame, "avatar, title and bio must be strings, capabilities an array of strings");
            goto out;
        }
        json_put(profile, PROFILE_FIELDS[i], json_deep_copy(value));
    }
    if (json_print(profile, &text) != 0) {
        refuse(session, frame, "the profile is larger than 16 KiB");
        goto out;
    }
    json_decref(session->presence->profile);
    session->presence->profile = json_incref(profile);
    presence_save(session);
out:
    buffer_release(&text);
    json_decref(profile);
}

/* "name" or "group", both are said. NULL: refused. */
static const char *group_of(struct session *session, const json_t *frame)
{
    const char *name = json_string_value(json_object_get(frame, "name"));
    if (name == NULL)
        name = json_string_value(json_object_get(frame, "group"));
    if (name != NULL && name[0] == '@')
        name++;
    if (name != NULL && name_is_valid(name))
        return name;
    refuse(session, frame, "field 'name' must be a group's name");
    return NULL;
}

static json_t *without_group(const json_t *groups, const char *name)
{
    json_t *rest = json_new_array();
    for (size_t i = 0; i < json_array_size(groups); i++) {
        const json_t *group = json_array_get(groups, i);
        if (!string_equal(json_string_value(json_object_get(group, "name")), name) &&
            json_array_append_new(rest, json_deep_copy(group)) != 0)
            memory_exhausted();
    }
    return rest;
}

static void set_groups(struct session *session, json_t *groups)
{
    json_decref(session->presence->groups);
    session->presence->groups = groups;
    presence_save(session);
}

void profile_handle_join_group(struct session *session, const json_t *frame)
{
    const char *name;
    if (!has_presence(session, frame) || (name = group_of(session, frame)) == NULL)
        return;
    json_t *groups = without_group(session->presence->groups, name);
    json_t *group = json_new_object();
    json_put_string(group, "name", name);
    if (json_is_string(json_object_get(frame, "role")))
        json_put_string(group, "role", json_string_value(json_object_get(frame, "role")));
    if (json_array_append_new(groups, group) != 0)
        memory_exhausted();
    if (!presence_groups_are_usable(groups)) {
        refuse(session, frame, "too many groups, or too long a role");
        json_decref(groups);
        return;
    }
    set_groups(session, groups);
}

void profile_handle_leave_group(struct session *session, const json_t *frame)
{
    const char *name;
    if (!has_presence(session, frame) || (name = group_of(session, frame)) == NULL)
        return;
    set_groups(session, without_group(session->presence->groups, name));
}
