/* An inbox whose rows are damaged or whose tables are gone answers each question with an error and stores nothing it would acknowledge; and the
 * quarantine's maximum, which a hostile broker reaches. */
#include "../db/support.h"
#include "inbox/internal.h"

static const char MESH[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11";

struct fixture {
    struct test_place place;
    struct db *db;
    struct inbox *inbox;
};

static void up(struct fixture *fixture)
{
    struct error error = { .message = "" };
    fixture->db = place_open(&fixture->place, INBOX_MIGRATIONS, INBOX_MIGRATION_COUNT);
    if (inbox_open(fixture->db, &(struct inbox_options){ .search = true }, &fixture->inbox, &error) != 0)
        fail_msg("%s", error.message);
}

static void down(struct fixture *fixture)
{
    place_close(&fixture->place, fixture->db);
    inbox_free(fixture->inbox);
    fixture->db = NULL;
    fixture->inbox = NULL;
}

static int setup(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    struct error error;
    assert_int_equal(crypto_start(&error), 0);
    place_init(&fixture->place);
    up(fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->db != NULL)
        down(fixture);
    place_release(&fixture->place);
    free(fixture);
    return 0;
}

struct answer {
    bool finished, is_new;
    int status;
    size_t count;
};

static void inserted(struct inbox_insert *insert)
{
    *(struct answer *)insert->argument = (struct answer){ true, insert->is_new, insert->status, 0 };
    inbox_insert_free(insert);
}

static int insert(struct fixture *fixture, const char *id, bool legacy)
{
    struct answer answer = { .finished = false };
    struct inbox_insert *request = memory_zalloc(sizeof(*request));
    struct inbox_row *row = memory_zalloc(sizeof(*row));
    row->client_message_id = memory_strdup(id);
    row->mesh = memory_strdup(MESH);
    row->broker_message_id = memory_strdup("01BROKER");
    row->kind = memory_strdup("dm");
    row->sender_pubkey = memory_strdup("aa");
    row->sender_name = memory_strdup("Alice");
    row->body = memory_strdup(id);
    row->body_size = strlen(id);
    row->priority = memory_strdup("next");
    row->verified = legacy ? INBOX_LEGACY : INBOX_VERIFIED;
    row->sent_at = row->received_at = clock_wall_ms();
    row->history_id = row->seen_at = -1;
    sha256_of(id, strlen(id), &row->content);
    request->row = row;
    request->legacy_once = legacy;
    request->argument = &answer;
    inbox_insert(fixture->inbox, request, inserted);
    place_run_until(&fixture->place, &answer.finished);
    assert_true(answer.status == 0 || !answer.is_new); /* what is not stored is told as new to nobody */
    return answer.status;
}

static void listed(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    (void)more;
    *(struct answer *)argument = (struct answer){ true, false, status, count };
    for (size_t index = 0; index < count; index++)
        inbox_row_free(rows[index]);
    free(rows);
}

static struct answer list(struct fixture *fixture)
{
    struct answer answer = { .finished = false };
    inbox_list(fixture->inbox, &(struct inbox_query){ .since_ms = -1, .after_seq = -1, .limit = 100 }, listed, &answer);
    place_run_until(&fixture->place, &answer.finished);
    return answer;
}

static void marked(void *argument, int status, struct inbox_row **rows, size_t count, bool final)
{
    struct answer *answer = argument;
    answer->status = status;
    answer->count += count;
    answer->finished = final;
    for (size_t index = 0; index < count; index++)
        inbox_row_free(rows[index]);
    free(rows);
}

static struct answer mark(struct fixture *fixture, const char *id)
{
    struct answer answer = { .finished = false };
    inbox_mark_seen(fixture->inbox, id == NULL ? NULL : &id, id == NULL ? 0 : 1, NULL, marked, &answer);
    place_run_until(&fixture->place, &answer.finished);
    return answer;
}

static void put_away(void *argument, int status, bool is_new)
{
    *(struct answer *)argument = (struct answer){ true, is_new, status, 0 };
}

static struct answer quarantine(struct fixture *fixture, const char *broker_message_id)
{
    struct answer answer = { .finished = false };
    struct quarantine_row *row = memory_zalloc(sizeof(*row));
    row->mesh = memory_strdup(MESH);
    row->sender_pubkey = memory_strdup("aa");
    row->client_message_id = memory_strdup("id");
    row->broker_message_id = memory_strdup(broker_message_id);
    row->reason = memory_strdup("unknown_key");
    row->push = memory_strdup("{}");
    row->received_at = clock_wall_ms();
    inbox_quarantine(fixture->inbox, row, put_away, &answer);
    place_run_until(&fixture->place, &answer.finished);
    return answer;
}

static void quarantine_listed(void *argument, int status, struct quarantine_row **rows, size_t count)
{
    *(struct answer *)argument = (struct answer){ true, false, status, count };
    for (size_t index = 0; index < count; index++)
        quarantine_row_free(rows[index]);
    free(rows);
}

static struct answer list_quarantine(struct fixture *fixture)
{
    struct answer answer = { .finished = false };
    inbox_quarantine_list(fixture->inbox, MESH, 0, 10, quarantine_listed, &answer);
    place_run_until(&fixture->place, &answer.finished);
    return answer;
}

static void a_damaged_row_is_an_error_when_it_is_read_and_is_not_marked(void **state)
{
    static const char *const DAMAGES[] = { "UPDATE inbox SET content = x'00' WHERE client_message_id = 'damaged'",
                                           "UPDATE inbox SET id = id || id WHERE client_message_id = 'damaged'" };
    struct fixture *fixture = *state;
    assert_int_equal(insert(fixture, "whole", false), 0);
    assert_int_equal(insert(fixture, "damaged", false), 0);
    assert_int_equal(list(fixture).count, 2);
    for (size_t index = 0; index < ARRAY_LENGTH(DAMAGES); index++) {
        write_sql(fixture->db, DAMAGES[index]);
        struct answer answer = list(fixture);
        assert_int_equal(answer.status, -ERROR_CORRUPT);
        assert_int_equal(answer.count, 0);
        answer = mark(fixture, NULL);
        assert_int_equal(answer.status, -ERROR_CORRUPT);
        assert_int_equal(answer.count, 0);
        assert_int_equal(read_number(fixture->db, "SELECT count(*) FROM inbox WHERE seen_at IS NOT NULL"), 0);
    }
    assert_int_equal(insert(fixture, "new", false), 0); /* receiving goes on */
}

static void without_its_tables_nothing_is_stored_and_every_question_answered_with_an_error(void **state)
{
    static const char *const TABLES[] = { "inbox", "inbox_pruned", "inbox_floor", "inbox_legacy", "quarantine" };
    struct fixture *fixture = *state;
    assert_int_equal(insert(fixture, "row", true), 0);
    for (size_t index = 0; index < ARRAY_LENGTH(TABLES); index++) {
        down(fixture);
        up(fixture); /* no statement is prepared yet */
        char *away = memory_printf("ALTER TABLE %s RENAME TO away", TABLES[index]);
        char *back = memory_printf("ALTER TABLE away RENAME TO %s", TABLES[index]);
        write_sql(fixture->db, away);
        if (string_equal(TABLES[index], "quarantine")) {
            assert_true(quarantine(fixture, "01").status < 0);
            assert_true(list_quarantine(fixture).status < 0);
            inbox_quarantine_remove(fixture->inbox, 1);
            assert_int_equal(inbox_quarantine_count(fixture->inbox, NULL), 0);
        } else {
            assert_true(insert(fixture, "another", true) < 0);
        }
        if (index == 0) {
            assert_true(list(fixture).status < 0);
            assert_true(mark(fixture, NULL).status < 0);
            assert_true(mark(fixture, "id").status < 0);
            inbox_prune(fixture->inbox, INT64_MAX, INT64_MAX);
            inbox_prune(fixture->inbox, INT64_MAX, INT64_MAX); /* one at a time */
        }
        write_sql(fixture->db, back);
        free(away);
        free(back);
        assert_int_equal(list(fixture).count, 1);
    }
    assert_int_equal(quarantine(fixture, "01").status, 0);
    assert_int_equal(insert(fixture, "another", true), 0);
    assert_int_equal(list(fixture).count, 2);
}

static void a_full_quarantine_gives_up_its_oldest_for_the_newest(void **state)
{
    struct fixture *fixture = *state;
    char *fill = memory_printf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
                               "INSERT INTO quarantine (mesh, sender_pubkey, client_message_id, broker_message_id, reason, push, push_hash, received_at) "
                               "SELECT '%s', 'aa', 'id', i, 'unknown_key', '{}', x'00', 1 FROM n",
                               QUARANTINE_MAXIMUM, MESH);
    write_sql(fixture->db, fill);
    free(fill);
    down(fixture);
    up(fixture);
    assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), QUARANTINE_MAXIMUM);
    struct answer answer = quarantine(fixture, "newest");
    assert_int_equal(answer.status, 0);
    assert_true(answer.is_new);
    assert_false(quarantine(fixture, "newest").is_new); /* and takes nobody's place */
    assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), QUARANTINE_MAXIMUM);
    assert_int_equal(read_number(fixture->db, "SELECT count(*) FROM quarantine"), QUARANTINE_MAXIMUM);
    assert_int_equal(read_number(fixture->db, "SELECT min(seq) FROM quarantine"), 2);
    assert_int_equal(read_number(fixture->db, "SELECT count(*) FROM quarantine WHERE broker_message_id = 'newest'"), 1);
}

static void an_inbox_whose_own_tables_are_damaged_does_not_open_and_says_why(void **state)
{
    static const char *const DAMAGES[] = { "UPDATE inbox_epoch SET epoch = 'much longer than an epoch can ever be'",
                                           "ALTER TABLE inbox_epoch RENAME TO away", "ALTER TABLE quarantine RENAME TO gone" };
    static const char *const MENDED[] = { "UPDATE inbox_epoch SET epoch = '0123456789abcdef'", "ALTER TABLE away RENAME TO inbox_epoch",
                                          "ALTER TABLE gone RENAME TO quarantine" };
    struct fixture *fixture = *state;
    for (size_t index = 0; index < ARRAY_LENGTH(DAMAGES); index++) {
        write_sql(fixture->db, DAMAGES[index]);
        down(fixture);
        fixture->db = place_open(&fixture->place, INBOX_MIGRATIONS, INBOX_MIGRATION_COUNT);
        struct error error = { .message = "" };
        struct inbox *inbox = NULL;
        assert_true(inbox_open(fixture->db, &(struct inbox_options){ .search = true }, &inbox, &error) < 0);
        assert_null(inbox);
        assert_true(error.message[0] != '\0');
        write_sql(fixture->db, MENDED[index]);
        place_close(&fixture->place, fixture->db);
        up(fixture);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_damaged_row_is_an_error_when_it_is_read_and_is_not_marked),
        TEST(without_its_tables_nothing_is_stored_and_every_question_answered_with_an_error),
        TEST(a_full_quarantine_gives_up_its_oldest_for_the_newest),
        TEST(an_inbox_whose_own_tables_are_damaged_does_not_open_and_says_why),
    };
    return cmocka_run_group_tests_name("inbox damage", tests, NULL, NULL);
}
