/* Owns the table of features: names, versions, typed parameters and their floors; the request, the judgement of an answer, the close reason, the broker's answer (40-wire, Features).
 * Must not close or retry anything: that is the link's. */
#include "proto/features.h"

#include "json/json.h"
#include "util/limits.h"
#include "util/text.h"

enum { PARAMETERS_MAXIMUM = 3, NOT_KEPT = -1 };

enum parameter_type { PARAMETER_INTEGER, PARAMETER_TRUE, PARAMETER_MODE, PARAMETER_TEXT };

struct parameter_definition {
    const char *name;
    enum parameter_type type;
    bool is_required;
    bool unless_permanent; /* not looked at in permanent mode */
    int64_t minimum;       /* integers: the floor */
    ptrdiff_t kept_in;     /* offset in struct feature_set, or NOT_KEPT */
};

struct feature_definition {
    const char *name;
    int64_t version;
    ptrdiff_t flag; /* offset of its bool in struct feature_set, or NOT_KEPT */
    struct parameter_definition parameters[PARAMETERS_MAXIMUM];
};

#define KEPT(field) ((ptrdiff_t)offsetof(struct feature_set, field))

static const struct feature_definition FEATURES[] = {
    { "client_message_id_dedupe",
      1,
      KEPT(dedupe),
      { { "mode", PARAMETER_MODE, true, false, 0, KEPT(dedupe_permanent) },
        { "dedupe_retention_days", PARAMETER_INTEGER, true, true, 3, KEPT(dedupe_retention_days) },
        { "request_fingerprint", PARAMETER_TRUE, true, false, 0, NOT_KEPT } } },
    { "concurrent_connection_policy",
      1,
      KEPT(concurrent_connection_policy),
      { { "default_policy", PARAMETER_TEXT, false, false, 0, NOT_KEPT } } },
    { "member_keypair_rotated_event", 1, KEPT(keypair_rotated_event), { { 0 } } },
    { "key_epoch", 1, KEPT(key_epoch), { { "max_concurrent_epochs", PARAMETER_INTEGER, true, false, 1, KEPT(max_concurrent_epochs) } } },
    { "max_payload",
      1,
      NOT_KEPT,
      { { "inline_bytes", PARAMETER_INTEGER, true, false, 1024, KEPT(inline_bytes) },
        { "blob_bytes", PARAMETER_INTEGER, true, false, 1024, KEPT(blob_bytes) } } },
    { "sealed_envelope", 1, KEPT(sealed_envelope), { { 0 } } },
    { "delivery_ack", 1, KEPT(delivery_ack), { { 0 } } },
    { "files", 1, KEPT(files), { { 0 } } },
    { "history", 1, KEPT(history), { { 0 } } },
};

const char *feature_failure_name(enum feature_failure failure)
{
    static const char *const NAMES[] = {
        [FEATURE_OK] = "ok",
        [FEATURE_UNAVAILABLE] = "feature_unavailable",
        [FEATURE_PARAM_INVALID] = "feature_param_invalid",
        [FEATURE_PARAM_BELOW_FLOOR] = "feature_param_below_floor",
    };
    return NAMES[failure];
}

void feature_set_defaults(struct feature_set *ret_features)
{
    *ret_features = (struct feature_set){ .max_concurrent_epochs = 1, .inline_bytes = LIMIT_INLINE_DEFAULT };
}

static const struct feature_definition *feature_find(const char *name)
{
    for (size_t index = 0; index < ARRAY_LENGTH(FEATURES); index++) {
        if (string_equal(FEATURES[index].name, name)) {
            return &FEATURES[index];
        }
    }
    return NULL;
}

bool feature_is_known(const char *name)
{
    return feature_find(name) != NULL;
}

static bool is_listed(const char *name, const char *const *names, size_t count)
{
    for (size_t index = 0; index < count; index++) {
        if (string_equal(names[index], name)) {
            return true;
        }
    }
    return false;
}

/* ---- the request ------------------------------------------------------------------------------------------ */

static void append_name(struct buffer *frame, const char *name, const char **separator)
{
    (void)buffer_append_text(frame, *separator);
    (void)buffer_append_json_string(frame, name, strlen(name));
    *separator = ",";
}

int features_request_build(const char *const *require, size_t require_count, const char *request_id, struct buffer *ret_frame)
{
    const char *separator = "";
    (void)buffer_append_text(ret_frame, "{\"type\":\"feature_negotiation_request\",\"require\":[");
    for (size_t index = 0; index < require_count; index++) {
        append_name(ret_frame, require[index], &separator);
    }
    (void)buffer_append_text(ret_frame, "],\"optional\":[");
    separator = "";
    for (size_t index = 0; index < ARRAY_LENGTH(FEATURES); index++) {
        if (!is_listed(FEATURES[index].name, require, require_count)) {
            append_name(ret_frame, FEATURES[index].name, &separator);
        }
    }
    (void)buffer_append_text(ret_frame, "],\"_reqId\":");
    (void)buffer_append_json_string(ret_frame, request_id, strlen(request_id));
    (void)buffer_append_byte(ret_frame, '}');
    return ret_frame->overflow ? -1 : 0;
}

/* ---- judging an answer ------------------------------------------------------------------------------------ */

/* What is wrong with one feature's entry. `is_usable` stays true when only an optional parameter is bad. */
struct finding {
    enum feature_failure failure;
    bool is_usable;
    char detail[160];
};

static void finding_set(struct finding *finding, const struct parameter_definition *parameter, enum feature_failure failure,
                        const char *what)
{
    if (finding->failure != FEATURE_OK) {
        return; /* the first one is reported */
    }
    finding->failure = failure;
    finding->is_usable = !parameter->is_required;
    (void)snprintf(finding->detail, sizeof(finding->detail), "%s %s", parameter->name, what);
}

static bool is_permanent(const json_t *params)
{
    return string_equal(json_string_value(json_object_get(params, "mode")), "permanent");
}

static void keep_bool(struct feature_set *features, ptrdiff_t offset, bool value)
{
    if (offset != NOT_KEPT) {
        *(bool *)(void *)((char *)features + offset) = value;
    }
}

static void judge_integer(const struct parameter_definition *parameter, const json_t *params, struct feature_set *features,
                          struct finding *finding)
{
    char what[64];
    int64_t number = 0;
    int result = json_read_integer(params, parameter->name, JSON_REQUIRED, INT64_MIN, INT64_C(1) << 53, &number, NULL);
    if (result != 0) {
        finding_set(finding, parameter, FEATURE_PARAM_INVALID, "must be a whole number");
    } else if (number < parameter->minimum) {
        (void)snprintf(what, sizeof(what), "%" PRId64 " < %" PRId64, number, parameter->minimum);
        finding_set(finding, parameter, FEATURE_PARAM_BELOW_FLOOR, what);
    } else if (parameter->kept_in != NOT_KEPT) {
        *(int64_t *)(void *)((char *)features + parameter->kept_in) = number;
    }
}

static void judge_parameter(const struct parameter_definition *parameter, const json_t *params, struct feature_set *features,
                            struct finding *finding)
{
    const json_t *value = json_object_get(params, parameter->name);
    if ((value == NULL || json_is_null(value)) && !parameter->is_required) {
        return;
    }
    if (parameter->unless_permanent && is_permanent(params)) {
        return;
    }
    if (value == NULL || json_is_null(value)) {
        finding_set(finding, parameter, FEATURE_PARAM_INVALID, "is missing");
        return;
    }
    switch (parameter->type) {
    case PARAMETER_INTEGER:
        judge_integer(parameter, params, features, finding);
        break;
    case PARAMETER_TRUE:
        if (!json_is_true(value)) {
            finding_set(finding, parameter, FEATURE_PARAM_INVALID, "must be true");
        }
        break;
    case PARAMETER_MODE:
        if (!is_permanent(params) && !string_equal(json_string_value(value), "retention_scoped")) {
            finding_set(finding, parameter, FEATURE_PARAM_INVALID, "must be retention_scoped or permanent");
        }
        keep_bool(features, parameter->kept_in, is_permanent(params));
        break;
    case PARAMETER_TEXT:
        if (!json_is_string(value)) {
            finding_set(finding, parameter, FEATURE_PARAM_INVALID, "must be a string");
        }
        break;
    }
}

static bool is_declared_missing(const json_t *response, const char *name)
{
    const json_t *missing = json_object_get(response, "missing_required");
    for (size_t index = 0; index < json_array_size(missing); index++) {
        if (string_equal(json_string_value(json_array_get(missing, index)), name)) {
            return true;
        }
    }
    return false;
}

/* Judges one feature, and fills what it says into *features when it can be used. */
static void judge_feature(const struct feature_definition *feature, const json_t *response, struct feature_set *features,
                          struct finding *finding)
{
    struct feature_set filled = *features;
    int64_t version = 0;
    *finding = (struct finding){ .is_usable = true };
    const json_t *entry = json_object_get(json_object_get(response, "supported"), feature->name);
    const json_t *params = json_object_get(entry, "params");
    if (entry == NULL || json_is_null(entry) || is_declared_missing(response, feature->name)) {
        *finding = (struct finding){ FEATURE_UNAVAILABLE, false, "the broker does not have it" };
        return;
    }
    if (json_read_integer(params, "version", JSON_REQUIRED, feature->version, feature->version, &version, NULL) != 0) {
        *finding = (struct finding){ FEATURE_UNAVAILABLE, false, "its version is not one that is known here" };
        return;
    }
    for (size_t index = 0; index < PARAMETERS_MAXIMUM && feature->parameters[index].name != NULL; index++) {
        judge_parameter(&feature->parameters[index], params, &filled, finding);
    }
    if (finding->is_usable) {
        keep_bool(&filled, feature->flag, true);
        *features = filled;
    }
}

static void verdict_fail(struct feature_verdict *verdict, const char *feature, const struct finding *finding)
{
    if (verdict->failure != FEATURE_OK) {
        return; /* the first one is reported */
    }
    verdict->failure = finding->failure;
    (void)snprintf(verdict->feature, sizeof(verdict->feature), "%s", feature);
    (void)snprintf(verdict->detail, sizeof(verdict->detail), "%s", finding->detail);
}

static void verdict_warn(struct feature_verdict *verdict, const char *feature, const struct finding *finding)
{
    if (verdict->optional_ignored) {
        return;
    }
    verdict->optional_ignored = true;
    (void)snprintf(verdict->warning, sizeof(verdict->warning), "%.60s: %.90s", feature, finding->detail);
}

void features_judge(const json_t *response, const char *const *require, size_t require_count, struct feature_set *ret_features,
                    struct feature_verdict *ret_verdict)
{
    *ret_verdict = (struct feature_verdict){ .failure = FEATURE_OK };
    feature_set_defaults(ret_features);
    ret_features->negotiated = json_is_object(response);
    struct finding findings[ARRAY_LENGTH(FEATURES)];
    for (size_t index = 0; index < ARRAY_LENGTH(FEATURES); index++) {
        judge_feature(&FEATURES[index], response, ret_features, &findings[index]);
    }
    for (size_t index = 0; index < require_count; index++) {
        const struct feature_definition *feature = feature_find(require[index]);
        const struct finding *finding = feature == NULL
                                            ? &(const struct finding){ FEATURE_UNAVAILABLE, false, "no feature of this name is known here" }
                                            : &findings[feature - FEATURES];
        if (!finding->is_usable) {
            verdict_fail(ret_verdict, require[index], finding);
        }
    }
    for (size_t index = 0; index < ARRAY_LENGTH(FEATURES); index++) {
        bool is_bad = findings[index].failure == FEATURE_PARAM_INVALID || findings[index].failure == FEATURE_PARAM_BELOW_FLOOR;
        bool is_required = is_listed(FEATURES[index].name, require, require_count);
        if (is_bad && (findings[index].is_usable || !is_required)) {
            verdict_warn(ret_verdict, FEATURES[index].name, &findings[index]);
        }
    }
}

/* ---- the close reason ------------------------------------------------------------------------------------- */

/* The longest front of the text, in whole characters, that has at most `limit` bytes. */
static size_t cut_length(const char *text, size_t limit)
{
    size_t length = strnlen(text, limit);
    if (text[length] == '\0') {
        return length;
    }
    while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) {
        length--;
    }
    return length;
}

static void print_reason(const struct feature_verdict *verdict, size_t feature_limit, size_t detail_limit, struct buffer *reason)
{
    (void)buffer_append_text(reason, "{\"close_reason\":{\"kind\":\"");
    (void)buffer_append_text(reason, feature_failure_name(verdict->failure));
    (void)buffer_append_text(reason, "\",\"feature\":");
    (void)buffer_append_json_string(reason, verdict->feature, cut_length(verdict->feature, feature_limit));
    (void)buffer_append_text(reason, ",\"detail\":");
    (void)buffer_append_json_string(reason, verdict->detail, cut_length(verdict->detail, detail_limit));
    (void)buffer_append_text(reason, "}}");
}

int features_close_reason(const struct feature_verdict *verdict, struct buffer *ret_reason)
{
    enum { CLOSE_REASON_MAXIMUM = 123 }; /* RFC 6455: a control frame has 125 bytes, two are the code */
    size_t feature_limit = sizeof(verdict->feature);
    size_t detail_limit = sizeof(verdict->detail);
    struct buffer reason;
    buffer_init(&reason, BUFFER_UNLIMITED);
    print_reason(verdict, feature_limit, detail_limit, &reason);
    /* The detail gives way first; escapes make lengths hard to foretell, so it is tried. */
    while (reason.length > CLOSE_REASON_MAXIMUM && (detail_limit > 0 || feature_limit > 0)) {
        size_t *limit = detail_limit > 0 ? &detail_limit : &feature_limit;
        (*limit)--;
        buffer_reset(&reason);
        print_reason(verdict, feature_limit, detail_limit, &reason);
    }
    int result = buffer_append(ret_reason, reason.data, reason.length);
    buffer_release(&reason);
    return result;
}

/* ---- the broker's side ------------------------------------------------------------------------------------ */

static json_t *offered_params(const struct feature_definition *feature, const struct feature_offer *offer)
{
    json_t *params = json_new_object();
    json_put_integer(params, "version", feature->version);
    if (string_equal(feature->name, "client_message_id_dedupe")) {
        json_put_string(params, "mode", offer->permanent ? "permanent" : "retention_scoped");
        if (!offer->permanent) {
            json_put_integer(params, "dedupe_retention_days", offer->dedupe_retention_days);
        }
        json_put_bool(params, "request_fingerprint", true);
    } else if (string_equal(feature->name, "concurrent_connection_policy")) {
        if (offer->default_policy != NULL) {
            json_put_string(params, "default_policy", offer->default_policy);
        }
    } else if (string_equal(feature->name, "key_epoch")) {
        json_put_integer(params, "max_concurrent_epochs", offer->max_concurrent_epochs);
    } else if (string_equal(feature->name, "max_payload")) {
        json_put_integer(params, "inline_bytes", offer->inline_bytes);
        json_put_integer(params, "blob_bytes", offer->blob_bytes);
    }
    return params;
}

static json_t *offered_features(const struct feature_offer *offer)
{
    json_t *supported = json_new_object();
    for (size_t index = 0; index < ARRAY_LENGTH(FEATURES); index++) {
        json_t *override = json_object_get(offer->override, FEATURES[index].name);
        if (json_is_null(override)) {
            continue;
        }
        json_t *entry = json_new_object();
        json_put(entry, "params", override != NULL ? json_incref(override) : offered_params(&FEATURES[index], offer));
        json_put(supported, FEATURES[index].name, entry);
    }
    return supported;
}

json_t *features_response(const json_t *request, const struct feature_offer *offer)
{
    json_t *response = json_new_object();
    json_t *supported = offered_features(offer);
    json_t *missing = json_new_array();
    const json_t *require = json_object_get(request, "require");
    for (size_t index = 0; index < json_array_size(require); index++) {
        json_t *name = json_array_get(require, index);
        if (json_is_string(name) && json_object_get(supported, json_string_value(name)) == NULL) {
            (void)json_array_append(missing, name);
        }
    }
    json_put_string(response, "type", "feature_negotiation_response");
    json_put(response, "supported", supported);
    json_put(response, "missing_required", missing);
    json_t *request_id = json_object_get(request, "_reqId");
    if (request_id != NULL) {
        json_put(response, "_reqId", json_incref(request_id));
    }
    return response;
}

/* ---- maximum age ------------------------------------------------------------------------------------------ */

int64_t maximum_age_hours(int64_t dedupe_retention_days)
{
    /* A broker may announce 2^53 days: their milliseconds are no int64_t, and rows would expire that are not old. */
    enum { DAYS_MAXIMUM = 36525 };
    int64_t days = dedupe_retention_days < DAYS_MAXIMUM ? dedupe_retention_days : DAYS_MAXIMUM;
    int64_t window = days * 24;
    int64_t margin = (days * 24 + 9) / 10; /* ceil(D × 2.4) */
    if (margin < 24) {
        margin = 24;
    }
    int64_t hours = window - margin < 72 ? 72 : window - margin;
    return hours < window - 1 ? hours : window - 1;
}
