/* Rows that are damaged and tables that are gone: each question is answered with an error, nothing is made up, and what is whole is served. */
#include "outbox/support.h"

static struct rows_wait fetch_all(struct test_outbox *test)
{
    struct rows_wait wait = { .finished = false };
    const struct outbox_fetch fetch = { .mesh = "mesh-a", .priority = PRIORITY_NEXT, .up_to_seq = INT64_MAX, .limit = 100 };
    outbox_fetch_pending(test->outbox, &fetch, rows_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    return wait;
}

static struct rows_wait list_all(struct test_outbox *test)
{
    struct rows_wait wait = { .finished = false };
    const struct outbox_list list = { .limit = 100, .before_seq = INT64_MAX };
    outbox_list(test->outbox, &list, rows_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    return wait;
}

static void assert_refused(struct rows_wait wait, int status)
{
    assert_int_equal(wait.status, status);
    assert_int_equal(wait.count, 0);
    rows_free(&wait);
}

static void a_damaged_row_is_an_error_wherever_it_is_read_and_hides_no_other(void **state)
{
    struct test_outbox *test = *state;
    accept_new(test, "whole", "body");
    accept_new(test, "damaged", "body");
    write_sql(test->db, "UPDATE outbox SET request_fingerprint = x'0102' WHERE client_message_id = 'damaged'");
    assert_refused(fetch_all(test), -ERROR_CORRUPT);
    assert_refused(list_all(test), -ERROR_CORRUPT);
    struct found_wait found = find_row(test, "damaged", true);
    assert_int_equal(found.status, -ERROR_CORRUPT);
    outbox_found_release(&found.found);
    struct outbox_accept *again = accept_row(test, make_row("damaged", "body"));
    assert_int_equal(again->status, -ERROR_CORRUPT); /* neither a duplicate nor a new row: what stands there is not known */
    outbox_accept_free(again);
    found = find_row(test, "whole", true);
    assert_int_equal(found.status, 0);
    assert_string_equal(found.found.row->payload, "body");
    outbox_found_release(&found.found);
    assert_int_equal(accept_outcome_of(test, "whole", "body"), ACCEPT_DUPLICATE_QUEUED);
    assert_int_equal(accept_outcome_of(test, "new", "body"), ACCEPT_STORED);
}

static void a_damaged_row_in_a_chain_is_an_error(void **state)
{
    struct test_outbox *test = *state;
    accept_new(test, "first", "body");
    accept_new(test, "second", "body");
    write_sql(test->db, "UPDATE outbox SET status = 'aborted', superseded_by = (SELECT id FROM outbox WHERE client_message_id = 'second') "
                        "WHERE client_message_id = 'first'");
    struct found_wait found = find_row(test, "first", false);
    assert_int_equal(found.status, 0);
    assert_int_equal(found.found.chain_count, 1);
    outbox_found_release(&found.found);
    write_sql(test->db, "UPDATE outbox SET broker_fingerprint = x'' WHERE client_message_id = 'second'");
    found = find_row(test, "first", false);
    assert_int_equal(found.status, -ERROR_CORRUPT);
    outbox_found_release(&found.found);
}

struct receipt_wait {
    bool finished;
    int status;
};
static void receipt_finished(void *argument, struct outbox_receipt *receipt, const struct outbox_receipt_result *result)
{
    (void)receipt;
    *(struct receipt_wait *)argument = (struct receipt_wait){ true, result->status };
}

static int add_receipt(struct test_outbox *test, const char *client_message_id)
{
    struct outbox_receipt *receipt = memory_zalloc(sizeof(*receipt));
    receipt->client_message_id = memory_strdup(client_message_id);
    receipt->mesh = memory_strdup("mesh-a");
    receipt->broker_message_id = memory_strdup("b-1");
    receipt->by = memory_strdup("bob");
    (void)snprintf(receipt->state, sizeof(receipt->state), "stored");
    struct receipt_wait wait = { .finished = false };
    outbox_receipt_add(test->outbox, receipt, receipt_finished, &wait);
    place_run_until(&test->place, &wait.finished);
    return wait.status;
}

static void retire_finished(struct outbox_retire *retire)
{
    *(bool *)retire->argument = true;
}

static int drop(struct test_outbox *test, const char *id)
{
    bool finished = false;
    struct outbox_retire *retire = memory_zalloc(sizeof(*retire));
    retire->outbox = test->outbox;
    retire->id = memory_strdup(id);
    retire->done = retire_finished;
    retire->argument = &finished;
    outbox_retire(retire);
    place_run_until(&test->place, &finished);
    int status = retire->status;
    outbox_retire_free(retire);
    return status;
}

static void expire_finished(void *argument, int64_t expired, int64_t oldest_enqueued_at)
{
    assert_int_equal(expired, 0);
    assert_true(oldest_enqueued_at >= 0); /* what is too old is there still, as far as anybody knows */
    *(bool *)argument = true;
}

static void without_its_tables_every_question_is_answered_with_an_error_and_the_rest_of_a_batch_stands(void **state)
{
    struct test_outbox *test = *state;
    (void)row_in_state(test, "told", "body", OUTBOX_DONE);
    accept_new(test, "row", "body");
    outbox_again(test); /* no statement is prepared yet */
    write_sql(test->db, "ALTER TABLE receipt RENAME TO receipt_away");
    assert_true(add_receipt(test, "told") < 0);
    struct found_wait found = find_row(test, "told", false);
    assert_true(found.status < 0);
    outbox_found_release(&found.found);
    write_sql(test->db, "ALTER TABLE receipt_away RENAME TO receipt");
    assert_int_equal(add_receipt(test, "told"), 0);
    found = find_row(test, "told", false);
    assert_int_equal(found.status, 0);
    outbox_found_release(&found.found);
    outbox_again(test);
    write_sql(test->db, "ALTER TABLE outbox RENAME TO outbox_away");
    struct outbox_accept *accept = accept_row(test, make_row("row", "body"));
    assert_true(accept->status < 0);
    outbox_accept_free(accept);
    accept = accept_row(test, make_row("another", "body"));
    assert_true(accept->status < 0);
    outbox_accept_free(accept);
    struct rows_wait rows = fetch_all(test);
    assert_refused(rows, rows.status);
    assert_true(rows.status < 0);
    rows = list_all(test);
    assert_refused(rows, rows.status);
    assert_true(rows.status < 0);
    assert_true(drop(test, "row") < 0);
    bool expired = false;
    outbox_expire(test->outbox, "mesh-a", INT64_MAX, expire_finished, &expired);
    place_run_until(&test->place, &expired);
    outbox_prune(test->outbox, INT64_MAX);
    write_sql(test->db, "ALTER TABLE outbox_away RENAME TO outbox");
    assert_int_equal(accept_outcome_of(test, "row", "body"), ACCEPT_DUPLICATE_QUEUED);
    assert_int_equal(accept_outcome_of(test, "another", "body"), ACCEPT_STORED);
    assert_counts_exact(test);
}

static void assert_does_not_open(struct test_outbox *test, const char *damage)
{
    write_sql(test->db, damage);
    outbox_down(test);
    test->db = place_open(&test->place, OUTBOX_MIGRATIONS, OUTBOX_MIGRATION_COUNT);
    const struct outbox_limits limits = { 1000, 1 << 20 };
    struct error error = { .message = "" };
    struct outbox *outbox = NULL;
    assert_true(outbox_open(test->db, &limits, &outbox, &error) < 0);
    assert_null(outbox);
    assert_true(error.message[0] != '\0');
}

static void an_outbox_whose_own_tables_are_damaged_does_not_open_and_says_why(void **state)
{
    struct test_outbox *test = *state;
    accept_new(test, "row", "body");
    assert_does_not_open(test, "ALTER TABLE outbox_progress RENAME TO outbox_progress_away");
    place_close(&test->place, test->db);
    test->db = place_open(&test->place, OUTBOX_MIGRATIONS, OUTBOX_MIGRATION_COUNT);
    write_sql(test->db, "ALTER TABLE outbox_progress_away RENAME TO outbox_progress");
    place_close(&test->place, test->db);
    outbox_up(test);
    assert_does_not_open(test, "DELETE FROM outbox_progress");
    place_close(&test->place, test->db);
    test->db = NULL;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_damaged_row_is_an_error_wherever_it_is_read_and_hides_no_other),
        TEST(a_damaged_row_in_a_chain_is_an_error),
        TEST(without_its_tables_every_question_is_answered_with_an_error_and_the_rest_of_a_batch_stands),
        TEST(an_outbox_whose_own_tables_are_damaged_does_not_open_and_says_why),
    };
    return cmocka_run_group_tests_name("outbox damage", tests, NULL, NULL);
}
