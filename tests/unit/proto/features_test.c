/* Features: every row of the table judged, close reasons that fit, the broker's answer, maximum ages. */
#include "fixture.h"

#include "proto/features.h"

static json_t *vectors;
static const char *const REQUIRED[] = { "client_message_id_dedupe", "concurrent_connection_policy" };

static const struct feature_offer OFFER = {
    .dedupe_retention_days = 365,
    .inline_bytes = 65536,
    .blob_bytes = 536870912,
    .max_concurrent_epochs = 4,
    .default_policy = "prefer_newest",
};

static json_t *full_response(void)
{
    json_t *request = parse_json("{\"require\":[],\"optional\":[],\"_reqId\":\"q1\"}");
    json_t *response = features_response(request, &OFFER);
    json_decref(request);
    return response;
}

static json_t *params_of(json_t *response, const char *feature)
{
    return vector_at(vector_at(vector_at(response, "supported"), feature), "params");
}

static void a_full_answer_is_accepted_and_fills_the_set(void **state)
{
    (void)state;
    struct feature_set features;
    struct feature_verdict verdict;
    json_t *response = full_response();
    features_judge(response, REQUIRED, 2, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_OK);
    assert_false(verdict.optional_ignored);
    assert_true(features.negotiated && features.dedupe && features.concurrent_connection_policy && features.keypair_rotated_event &&
                features.key_epoch && features.sealed_envelope && features.delivery_ack && features.files && features.history);
    assert_false(features.dedupe_permanent);
    assert_int_equal(features.dedupe_retention_days, 365);
    assert_int_equal(features.max_concurrent_epochs, 4);
    assert_int_equal(features.inline_bytes, 65536);
    assert_int_equal(features.blob_bytes, 536870912);
    json_decref(response);
}

static const struct required_case {
    const char *what, *feature, *parameter, *value; /* value NULL: removed; parameter NULL: the whole feature */
    enum feature_failure failure;
} REQUIRED_CASES[] = {
    { "absent", "client_message_id_dedupe", NULL, NULL, FEATURE_UNAVAILABLE },
    { "null", "client_message_id_dedupe", NULL, "null", FEATURE_UNAVAILABLE },
    { "no params", "client_message_id_dedupe", NULL, "{}", FEATURE_UNAVAILABLE },
    { "params of another type", "client_message_id_dedupe", NULL, "{\"params\":[]}", FEATURE_UNAVAILABLE },
    { "an entry of another type", "client_message_id_dedupe", NULL, "true", FEATURE_UNAVAILABLE },
    { "no version", "client_message_id_dedupe", "version", NULL, FEATURE_UNAVAILABLE },
    { "version 2", "client_message_id_dedupe", "version", "2", FEATURE_UNAVAILABLE },
    { "version 0", "client_message_id_dedupe", "version", "0", FEATURE_UNAVAILABLE },
    { "version as text", "client_message_id_dedupe", "version", "\"1\"", FEATURE_UNAVAILABLE },
    { "no mode", "client_message_id_dedupe", "mode", NULL, FEATURE_PARAM_INVALID },
    { "mode null", "client_message_id_dedupe", "mode", "null", FEATURE_PARAM_INVALID },
    { "unknown mode", "client_message_id_dedupe", "mode", "\"sometimes\"", FEATURE_PARAM_INVALID },
    { "mode of another type", "client_message_id_dedupe", "mode", "1", FEATURE_PARAM_INVALID },
    { "no retention", "client_message_id_dedupe", "dedupe_retention_days", NULL, FEATURE_PARAM_INVALID },
    { "retention as text", "client_message_id_dedupe", "dedupe_retention_days", "\"365\"", FEATURE_PARAM_INVALID },
    { "retention not whole", "client_message_id_dedupe", "dedupe_retention_days", "3.5", FEATURE_PARAM_INVALID },
    { "retention beyond all", "client_message_id_dedupe", "dedupe_retention_days", "1e300", FEATURE_PARAM_INVALID },
    { "retention 2", "client_message_id_dedupe", "dedupe_retention_days", "2", FEATURE_PARAM_BELOW_FLOOR },
    { "retention -1", "client_message_id_dedupe", "dedupe_retention_days", "-1", FEATURE_PARAM_BELOW_FLOOR },
    { "no fingerprint", "client_message_id_dedupe", "request_fingerprint", NULL, FEATURE_PARAM_INVALID },
    { "fingerprint false", "client_message_id_dedupe", "request_fingerprint", "false", FEATURE_PARAM_INVALID },
    { "fingerprint 1", "client_message_id_dedupe", "request_fingerprint", "1", FEATURE_PARAM_INVALID },
    { "epochs 0", "key_epoch", "max_concurrent_epochs", "0", FEATURE_PARAM_BELOW_FLOOR },
    { "no epochs", "key_epoch", "max_concurrent_epochs", NULL, FEATURE_PARAM_INVALID },
    { "small inline", "max_payload", "inline_bytes", "1023", FEATURE_PARAM_BELOW_FLOOR },
    { "small blob", "max_payload", "blob_bytes", "0", FEATURE_PARAM_BELOW_FLOOR },
    { "inline true", "max_payload", "inline_bytes", "true", FEATURE_PARAM_INVALID },
    { "sealed envelope 2", "sealed_envelope", "version", "2", FEATURE_UNAVAILABLE },
    { "no history", "history", NULL, NULL, FEATURE_UNAVAILABLE },
};

static json_t *response_with(const struct required_case *row)
{
    json_t *response = full_response();
    json_t *object = row->parameter == NULL ? vector_at(response, "supported") : params_of(response, row->feature);
    const char *name = row->parameter == NULL ? row->feature : row->parameter;
    if (row->value == NULL) {
        assert_int_equal(json_object_del(object, name), 0);
    } else {
        json_put(object, name, parse_json(row->value));
    }
    return response;
}

static void a_required_feature_that_is_missing_or_bad_is_refused_with_its_kind(void **state)
{
    (void)state;
    for (size_t index = 0; index < ARRAY_LENGTH(REQUIRED_CASES); index++) {
        struct feature_set features;
        struct feature_verdict verdict;
        json_t *response = response_with(&REQUIRED_CASES[index]);
        features_judge(response, &REQUIRED_CASES[index].feature, 1, &features, &verdict);
        if (verdict.failure != REQUIRED_CASES[index].failure) {
            fail_msg("%s: %s", REQUIRED_CASES[index].what, feature_failure_name(verdict.failure));
        }
        assert_string_equal(verdict.feature, REQUIRED_CASES[index].feature);
        assert_true(verdict.detail[0] != '\0');
        assert_false(verdict.optional_ignored);
        json_decref(response);
    }
}

static void the_same_in_an_optional_feature_leaves_our_defaults(void **state)
{
    (void)state;
    struct feature_set defaults;
    feature_set_defaults(&defaults);
    for (size_t index = 0; index < ARRAY_LENGTH(REQUIRED_CASES); index++) {
        struct feature_set features;
        struct feature_verdict verdict;
        json_t *response = response_with(&REQUIRED_CASES[index]);
        features_judge(response, NULL, 0, &features, &verdict);
        assert_int_equal(verdict.failure, FEATURE_OK);
        bool is_bad = REQUIRED_CASES[index].failure != FEATURE_UNAVAILABLE;
        assert_int_equal(verdict.optional_ignored, is_bad);
        if (is_bad) {
            assert_non_null(strstr(verdict.warning, REQUIRED_CASES[index].feature));
        }
        if (string_equal(REQUIRED_CASES[index].feature, "max_payload")) {
            assert_int_equal(features.inline_bytes, defaults.inline_bytes);
            assert_int_equal(features.blob_bytes, defaults.blob_bytes);
        }
        if (string_equal(REQUIRED_CASES[index].feature, "client_message_id_dedupe")) {
            assert_false(features.dedupe);
            assert_int_equal(features.dedupe_retention_days, 0);
        }
        if (string_equal(REQUIRED_CASES[index].feature, "key_epoch")) {
            assert_int_equal(features.max_concurrent_epochs, 1);
        }
        json_decref(response);
    }
}

static void an_optional_parameter_that_is_bad_is_ignored_with_a_warning(void **state)
{
    (void)state;
    struct feature_set features;
    struct feature_verdict verdict;
    json_t *response = full_response();
    json_put_integer(params_of(response, "concurrent_connection_policy"), "default_policy", 5);
    features_judge(response, REQUIRED, 2, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_OK);
    assert_true(verdict.optional_ignored);
    assert_true(features.concurrent_connection_policy);
    assert_non_null(strstr(verdict.warning, "default_policy"));
    assert_int_equal(json_object_del(params_of(response, "concurrent_connection_policy"), "default_policy"), 0);
    features_judge(response, REQUIRED, 2, &features, &verdict);
    assert_false(verdict.optional_ignored);
    json_decref(response);
}

static void permanent_dedupe_needs_no_retention(void **state)
{
    (void)state;
    struct feature_set features;
    struct feature_verdict verdict;
    json_t *response = full_response();
    json_put_string(params_of(response, "client_message_id_dedupe"), "mode", "permanent");
    json_put_integer(params_of(response, "client_message_id_dedupe"), "dedupe_retention_days", 0);
    features_judge(response, REQUIRED, 2, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_OK);
    assert_true(features.dedupe && features.dedupe_permanent);
    assert_int_equal(features.dedupe_retention_days, 0);
    json_decref(response);
}

static void no_answer_fails_what_is_required_and_nothing_else(void **state)
{
    (void)state;
    struct feature_set features;
    struct feature_verdict verdict;
    features_judge(NULL, NULL, 0, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_OK);
    assert_false(features.negotiated || features.dedupe);
    features_judge(NULL, REQUIRED, 2, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_UNAVAILABLE);
    assert_string_equal(verdict.feature, REQUIRED[0]);
    json_t *empty = json_new_object();
    features_judge(empty, REQUIRED, 2, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_UNAVAILABLE);
    json_decref(empty);
}

static void a_feature_that_nobody_knows_or_the_broker_denies_is_unavailable(void **state)
{
    (void)state;
    static const char *const UNKNOWN[] = { "teleportation" };
    struct feature_set features;
    struct feature_verdict verdict;
    json_t *response = full_response();
    features_judge(response, UNKNOWN, 1, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_UNAVAILABLE);
    assert_string_equal(verdict.feature, "teleportation");
    json_put(response, "missing_required", parse_json("[5,\"concurrent_connection_policy\"]"));
    features_judge(response, REQUIRED, 2, &features, &verdict);
    assert_int_equal(verdict.failure, FEATURE_UNAVAILABLE);
    assert_string_equal(verdict.feature, "concurrent_connection_policy");
    json_decref(response);
    assert_true(feature_is_known("files"));
    assert_false(feature_is_known("teleportation"));
}

static void the_request_names_what_is_required_and_the_rest_as_optional(void **state)
{
    (void)state;
    struct buffer frame;
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(features_request_build(REQUIRED, 2, "q\"1", &frame), 0);
    json_t *request = parse_json(frame.data);
    assert_string_equal(vector_string(request, "type"), "feature_negotiation_request");
    assert_string_equal(vector_string(request, "_reqId"), "q\"1");
    json_t *expected = parse_json("[\"client_message_id_dedupe\",\"concurrent_connection_policy\"]");
    assert_true(json_equal(json_object_get(request, "require"), expected));
    json_decref(expected);
    expected = parse_json(
        "[\"member_keypair_rotated_event\",\"key_epoch\",\"max_payload\",\"sealed_envelope\",\"delivery_ack\",\"files\",\"history\"]");
    assert_true(json_equal(json_object_get(request, "optional"), expected));
    json_decref(expected);
    json_decref(request);
    buffer_reset(&frame);
    assert_int_equal(features_request_build(NULL, 0, "q", &frame), 0);
    request = parse_json(frame.data);
    assert_int_equal(json_array_size(json_object_get(request, "require")), 0);
    assert_int_equal(json_array_size(json_object_get(request, "optional")), 9);
    json_decref(request);
    buffer_release(&frame);
}

static void close_reasons_fit_and_stay_json(void **state)
{
    (void)state;
    static const char *const DETAILS[] = {
        "", "dedupe_retention_days 2 < 3",
        ("\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe6\x97\xa5\xe6\x9c"
        "\xac"),
        "\"\"\"\"\"\"\"\"\"\"\\\\\\\\\\\\\\\\\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01",
        "a detail that is a good deal longer than any close frame could ever carry, whatever its sender had hoped for it"
    };
    static const char *const FEATURES[] = { "files", "member_keypair_rotated_event",
                                            "a_feature_whose_name_is_longer_than_any_that_ever_was_agreed_on" };
    for (int failure = FEATURE_UNAVAILABLE; failure <= FEATURE_PARAM_BELOW_FLOOR; failure++) {
        for (size_t index = 0; index < ARRAY_LENGTH(DETAILS) * ARRAY_LENGTH(FEATURES); index++) {
            struct feature_verdict verdict = { .failure = (enum feature_failure)failure };
            struct buffer reason;
            const char *feature = FEATURES[index / ARRAY_LENGTH(DETAILS)];
            (void)snprintf(verdict.feature, sizeof(verdict.feature), "%s", feature);
            (void)snprintf(verdict.detail, sizeof(verdict.detail), "%s", DETAILS[index % ARRAY_LENGTH(DETAILS)]);
            buffer_init(&reason, BUFFER_UNLIMITED);
            assert_int_equal(features_close_reason(&verdict, &reason), 0);
            assert_true(reason.length <= 123);
            json_t *document = parse_json(reason.data);
            assert_string_equal(vector_string(document, "close_reason.kind"), feature_failure_name(verdict.failure));
            assert_non_null(json_object_get(json_object_get(document, "close_reason"), "detail"));
            if (strlen(feature) < 30) {
                assert_string_equal(vector_string(document, "close_reason.feature"), feature);
            }
            json_decref(document);
            buffer_release(&reason);
        }
    }
}

static void a_detail_that_fits_is_not_cut(void **state)
{
    (void)state;
    struct feature_verdict verdict = { .failure = FEATURE_PARAM_BELOW_FLOOR, .feature = "max_payload", .detail = "blob_bytes 0 < 1024" };
    struct buffer reason;
    buffer_init(&reason, BUFFER_UNLIMITED);
    assert_int_equal(features_close_reason(&verdict, &reason), 0);
    assert_string_equal(
        reason.data,
        "{\"close_reason\":{\"kind\":\"feature_param_below_floor\",\"feature\":\"max_payload\",\"detail\":\"blob_bytes 0 < 1024\"}}");
    buffer_release(&reason);
}

static void the_brokers_answer_leaves_out_and_replaces_what_it_is_told(void **state)
{
    (void)state;
    json_t *override = parse_json("{\"files\":null,\"max_payload\":{\"version\":7}}");
    json_t *request = parse_json("{\"require\":[\"files\",\"sealed_envelope\",\"teleportation\",5],\"optional\":[],\"_reqId\":\"q9\"}");
    struct feature_offer offer = OFFER;
    offer.override = override;
    offer.permanent = true;
    json_t *response = features_response(request, &offer);
    json_t *expected = parse_json("[\"files\",\"teleportation\"]");
    assert_string_equal(vector_string(response, "type"), "feature_negotiation_response");
    assert_string_equal(vector_string(response, "_reqId"), "q9");
    assert_true(json_equal(json_object_get(response, "missing_required"), expected));
    assert_null(json_object_get(json_object_get(response, "supported"), "files"));
    assert_int_equal(json_object_size(params_of(response, "max_payload")), 1);
    assert_string_equal(vector_string(params_of(response, "client_message_id_dedupe"), "mode"), "permanent");
    assert_null(json_object_get(params_of(response, "client_message_id_dedupe"), "dedupe_retention_days"));
    assert_string_equal(vector_string(params_of(response, "concurrent_connection_policy"), "default_policy"), "prefer_newest");
    json_decref(expected);
    json_decref(response);
    json_decref(request);
    json_decref(override);
}

static void the_maximum_age_is_that_of_the_vectors(void **state)
{
    (void)state;
    size_t index;
    json_t *row;
    json_array_foreach(vector_at(vectors, "max_age_hours"), index, row)
    {
        int64_t days = (int64_t)json_number_value(vector_at(row, "dedupe_retention_days"));
        int64_t hours = (int64_t)json_number_value(vector_at(row, "max_age_hours"));
        assert_int_equal(maximum_age_hours(days), hours);
    }
    assert_int_equal(index, 10);
    /* What a broker may announce must stay a time in milliseconds. */
    assert_true(maximum_age_hours(INT64_C(1) << 53) == maximum_age_hours(36525));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_answer_is_accepted_and_fills_the_set),
        cmocka_unit_test(a_required_feature_that_is_missing_or_bad_is_refused_with_its_kind),
        cmocka_unit_test(the_same_in_an_optional_feature_leaves_our_defaults),
        cmocka_unit_test(an_optional_parameter_that_is_bad_is_ignored_with_a_warning),
        cmocka_unit_test(permanent_dedupe_needs_no_retention),
        cmocka_unit_test(no_answer_fails_what_is_required_and_nothing_else),
        cmocka_unit_test(a_feature_that_nobody_knows_or_the_broker_denies_is_unavailable),
        cmocka_unit_test(the_request_names_what_is_required_and_the_rest_as_optional),
        cmocka_unit_test(close_reasons_fit_and_stay_json),
        cmocka_unit_test(a_detail_that_fits_is_not_cut),
        cmocka_unit_test(the_brokers_answer_leaves_out_and_replaces_what_it_is_told),
        cmocka_unit_test(the_maximum_age_is_that_of_the_vectors),
    };
    assert_ok(crypto_start(error));
    vectors = load_vectors();
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(vectors);
    return failures;
}
