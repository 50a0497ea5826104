/* The full-text index beside its rows: through inserts, pruning, replacement and a restart it agrees with the table; old rows come into it in steps; a query is understood or refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above first */
#include <cmocka.h>
#include <unistd.h>

#include "inbox/inbox.h"
#include "util/clock.h"
#include "util/memory.h"

static const char MESH[] = "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11";

struct fixture {
    char directory[64];
    char *path;
    struct mailbox completions;
    struct db *db;
    struct inbox *inbox;
    int waiting;
    size_t found;
    bool complete;
    int status;
    size_t news;      /* inserts that were new */
    int64_t news_seq; /* the lowest seq among them */
};

static void open_all(struct fixture *fixture, bool search, bool rebuild)
{
    struct error error;
    struct db_options options = { .path = fixture->path,
                                  .migrations = INBOX_MIGRATIONS,
                                  .migration_count = INBOX_MIGRATION_COUNT,
                                  .completions = &fixture->completions,
                                  .background_check_above = 64 << 20 };
    const struct inbox_options inbox_options = { .search = search, .rebuild = rebuild };
    if (db_open(&options, &fixture->db, &error) != 0 || inbox_open(fixture->db, &inbox_options, &fixture->inbox, &error) != 0)
        fail_msg("%s", error.message);
}

static void run_completions(struct fixture *fixture)
{
    for (struct message *message = mailbox_take_all(&fixture->completions), *next; message != NULL; message = next) {
        next = message->next;
        message->handle(message);
    }
}

static void close_all(struct fixture *fixture)
{
    db_stop(fixture->db);
    run_completions(fixture);
    db_close(fixture->db);
    inbox_free(fixture->inbox);
}

static int setup(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    (void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/cm-search-XXXXXX");
    if (mkdtemp(fixture->directory) == NULL)
        return -1;
    fixture->path = memory_printf("%s/inbox.db", fixture->directory);
    mailbox_init(&fixture->completions, NULL, NULL);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    static const char *const SUFFIXES[] = { "", "-wal", "-shm" };
    mailbox_release(&fixture->completions);
    for (size_t index = 0; index < ARRAY_LENGTH(SUFFIXES); index++) {
        char *path = memory_printf("%s%s", fixture->path, SUFFIXES[index]);
        unlink(path);
        free(path);
    }
    rmdir(fixture->directory);
    free(fixture->path);
    free(fixture);
    return 0;
}

static void wait_all(struct fixture *fixture)
{
    while (fixture->waiting > 0) {
        bool closed;
        struct message *message = mailbox_wait_all(&fixture->completions, 10000, &closed);
        if (message == NULL)
            fail_msg("no completion in 10 s");
        for (struct message *next; message != NULL; message = next) {
            next = message->next;
            message->handle(message);
        }
    }
}

static void inserted(struct inbox_insert *insert)
{
    struct fixture *fixture = insert->argument;
    assert_int_equal(insert->status, 0);
    fixture->waiting--;
    if (insert->is_new) {
        fixture->news++;
        fixture->news_seq = insert->row->seq < fixture->news_seq ? insert->row->seq : fixture->news_seq;
    }
    inbox_insert_free(insert);
}

static void insert(struct fixture *fixture, int number, const char *body, int64_t received_at, bool from_history)
{
    struct inbox_insert *insert = memory_zalloc(sizeof(*insert));
    struct inbox_row *row = insert->row = memory_zalloc(sizeof(*row));
    row->client_message_id = memory_printf("id-%d", number);
    row->mesh = memory_strdup(MESH);
    row->broker_message_id = memory_printf("01%d", number);
    row->kind = memory_strdup("dm");
    row->sender_pubkey = memory_strdup("aa");
    row->sender_name = memory_strdup("Alice");
    row->body = memory_printf("%s number%d", body, number);
    row->body_size = strlen(row->body);
    row->priority = memory_strdup("next");
    row->verified = INBOX_VERIFIED;
    row->history_id = number;
    row->sent_at = row->received_at = received_at;
    row->seen_at = -1;
    insert->from_history = from_history;
    insert->argument = fixture;
    fixture->waiting++;
    inbox_insert(fixture->inbox, insert, inserted);
}

static void on_found(void *argument, struct inbox_found *found)
{
    struct fixture *fixture = argument;
    fixture->waiting--;
    fixture->status = found->status;
    fixture->found = found->count;
    fixture->complete = found->complete;
    for (size_t index = 1; index < found->count; index++)
        assert_true(found->rows[index]->seq < found->rows[index - 1]->seq);
    inbox_found_release(found);
}

static size_t search(struct fixture *fixture, const char *query)
{
    const struct inbox_search asked = { .query = query, .before_seq = INT64_MAX, .limit = 5000, .maximum_bytes = 10 << 20 };
    fixture->waiting++;
    inbox_search(fixture->inbox, &asked, on_found, fixture);
    wait_all(fixture);
    return fixture->found;
}

static int run_check(struct db_connection *connection, struct db_task *task)
{
    return db_execute(connection, &task->error, NULL, "INSERT INTO inbox_search (inbox_search, rank) VALUES ('integrity-check', 1)", "");
}

/* SQLite compares every word of the table with the index. */
static void index_agrees(struct fixture *fixture)
{
    struct db_task task = { .run = run_check };
    if (db_write_wait(fixture->db, &task) != 0)
        fail_msg("%s", task.error.message);
}

static int run_nothing(struct db_connection *connection, struct db_task *task)
{
    (void)connection;
    (void)task;
    return 0;
}

/* What was submitted before is done, and what that submitted in turn. */
static void settle(struct fixture *fixture)
{
    for (int round = 0; round < 200; round++) {
        struct db_task task = { .run = run_nothing };
        assert_int_equal(db_write_wait(fixture->db, &task), 0);
        run_completions(fixture);
    }
}

static void the_index_agrees_with_its_rows_through_everything(void **state)
{
    struct fixture *fixture = *state;
    open_all(fixture, true, true);
    for (int number = 0; number < 300; number++)
        insert(fixture, number, number % 2 == 0 ? "even" : "odd", number < 120 ? 1000 : 5000, number >= 200);
    wait_all(fixture);
    assert_int_equal(search(fixture, "even"), 150);
    index_agrees(fixture);
    inbox_prune(fixture->inbox, 2000, 0);
    settle(fixture);
    assert_int_equal(search(fixture, "even"), 90);
    index_agrees(fixture);
    int64_t before = inbox_newest_seq(fixture->inbox);
    fixture->news = 0;
    fixture->news_seq = INT64_MAX;
    for (int number = 250; number < 300; number++) /* pushed after history had brought them */
        insert(fixture, number, number % 2 == 0 ? "even" : "odd", 6000, false);
    for (int number = 0; number < 120; number++) /* pruned: known by their keys */
        insert(fixture, number, "even", 6000, false);
    wait_all(fixture);
    assert_int_equal(fixture->news, 50);     /* they are published, */
    assert_true(fixture->news_seq > before); /* after all that was */
    assert_int_equal(search(fixture, "even"), 90);
    assert_int_equal(search(fixture, "number250"), 1);
    assert_int_equal(search(fixture, "number3"), 0);
    index_agrees(fixture);
    close_all(fixture);
}

static void rows_from_before_the_index_come_into_it_in_steps_across_restarts(void **state)
{
    struct fixture *fixture = *state;
    open_all(fixture, false, false);
    for (int number = 0; number < 1000; number++)
        insert(fixture, number, "old", 1000, false);
    wait_all(fixture);
    assert_int_equal(search(fixture, "old"), 0);
    assert_int_equal(fixture->status, -ERROR_DENIED);
    close_all(fixture);

    open_all(fixture, true, false);
    insert(fixture, 1000, "new old", 1000, false);
    wait_all(fixture);
    assert_int_equal(search(fixture, "old"), 1);
    assert_false(fixture->complete);
    inbox_poke(fixture->inbox);
    for (size_t before = 1; before < 300;) { /* in the middle of it */
        bool closed;
        for (struct message *message = mailbox_wait_all(&fixture->completions, 1000, &closed), *next; message != NULL; message = next) {
            next = message->next;
            message->handle(message);
        }
        before = search(fixture, "old");
    }
    inbox_prune(fixture->inbox, INT64_MAX, 0); /* rows that are in it, and such that are not */
    close_all(fixture);

    open_all(fixture, true, false);
    inbox_poke(fixture->inbox);
    settle(fixture);
    (void)search(fixture, "old");
    assert_true(fixture->complete);
    index_agrees(fixture);
    close_all(fixture);
}

static void a_query_is_understood_or_refused(void **state)
{
    struct fixture *fixture = *state;
    open_all(fixture, true, false);
    insert(fixture, 1, "the quick brown fox", 1000, false);
    insert(fixture, 2, "a quick \"quoted\" thing (really)", 1000, false);
    wait_all(fixture);
    static const struct {
        const char *query;
        int status;
        size_t found;
    } CASES[] = { { "quick", 0, 2 },
                  { "QUICK brown", 0, 1 },
                  { "\"quick brown\"", 0, 1 },
                  { "\"brown quick\"", 0, 0 },
                  { "qui*", 0, 2 },
                  { "quick NOT brown", 0, 1 },
                  { "fox OR thing", 0, 2 },
                  { "(fox OR thing) AND brown", 0, 1 },
                  { "alice", 0, 2 },
                  { "body:quick", 0, 0 },
                  { "quick ?", 0, 2 },
                  { "?", 0, 0 },
                  { "fox OR", -1, 0 },
                  { "AND", -1, 0 },
                  { "(fox", -1, 0 },
                  { "fox)", -1, 0 },
                  { "\"open", -1, 0 },
                  { "", -1, 0 },
                  { " \t", -1, 0 },
                  { "\xff", -1, 0 },
                  { "and or not", 0, 0 },
                  { "number1 OR number2", 0, 2 } };
    for (size_t index = 0; index < ARRAY_LENGTH(CASES); index++) {
        size_t found = search(fixture, CASES[index].query);
        if (fixture->status != (CASES[index].status == 0 ? 0 : -ERROR_INVALID) || found != CASES[index].found)
            fail_msg("%s: %d, %zu found", CASES[index].query, fixture->status, found);
    }
    close_all(fixture);
}

int main(void)
{
    struct error error;
    if (crypto_start(&error) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_index_agrees_with_its_rows_through_everything, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_from_before_the_index_come_into_it_in_steps_across_restarts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_query_is_understood_or_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
