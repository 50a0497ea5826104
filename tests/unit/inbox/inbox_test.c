/* The inbox on a real database: stored once, paged without a gap, pruned with its keys kept. */
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
};

static void open_all(struct fixture *fixture)
{
    struct error error;
    struct db_options options = { .path = fixture->path,
                                  .migrations = INBOX_MIGRATIONS,
                                  .migration_count = INBOX_MIGRATION_COUNT,
                                  .completions = &fixture->completions,
                                  .background_check_above = 64 << 20 };
    if (db_open(&options, &fixture->db, &error) != 0 || inbox_open(fixture->db, &(struct inbox_options){ .search = true }, &fixture->inbox, &error) != 0)
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
    db_close(fixture->db);
    run_completions(fixture);
    inbox_free(fixture->inbox);
}

static int setup(void **state)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    string_copy(fixture->directory, sizeof(fixture->directory), "/tmp/cm-inbox-XXXXXX") == 0 ? (void)0 : abort();
    if (mkdtemp(fixture->directory) == NULL)
        return -1;
    fixture->path = memory_printf("%s/inbox.db", fixture->directory);
    mailbox_init(&fixture->completions, NULL, NULL);
    open_all(fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    close_all(fixture);
    mailbox_release(&fixture->completions);
    static const char *const SUFFIXES[] = { "", "-wal", "-shm" };
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

/* Runs the loop's part until `waiting` falls to 0. */
static int waiting;

static void wait_all(struct fixture *fixture)
{
    while (waiting > 0) {
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

static struct inbox_row *make_row(const char *sender, const char *id, const char *body)
{
    struct inbox_row *row = memory_zalloc(sizeof(*row));
    row->client_message_id = memory_strdup(id);
    row->mesh = memory_strdup(MESH);
    row->broker_message_id = memory_strdup("01BROKER");
    row->kind = memory_strdup("dm");
    row->sender_pubkey = memory_strdup(sender);
    row->sender_name = memory_strdup("Alice");
    row->body = memory_strdup(body);
    row->body_size = strlen(body);
    row->priority = memory_strdup("next");
    row->verified = INBOX_VERIFIED;
    row->history_id = 1;
    row->sent_at = row->received_at = clock_wall_ms();
    row->seen_at = -1;
    sha256_of(body, strlen(body), &row->content);
    return row;
}

struct outcome {
    int status;
    bool is_new, replay;
    int64_t seq;
};

static void inserted(struct inbox_insert *insert)
{
    struct outcome *outcome = insert->argument;
    *outcome = (struct outcome){ insert->status, insert->is_new, insert->replay_suspected, insert->row->seq };
    inbox_insert_free(insert);
    waiting--;
}

static void submit(struct fixture *fixture, struct inbox_row *row, bool legacy, struct outcome *outcome)
{
    struct inbox_insert *insert = memory_zalloc(sizeof(*insert));
    insert->row = row;
    insert->legacy_once = legacy;
    insert->argument = outcome;
    waiting++;
    inbox_insert(fixture->inbox, insert, inserted);
}

static struct outcome insert_now(struct fixture *fixture, struct inbox_row *row, bool legacy)
{
    struct outcome outcome;
    submit(fixture, row, legacy, &outcome);
    wait_all(fixture);
    assert_int_equal(outcome.status, 0);
    return outcome;
}

static struct inbox_row **page_rows;
static size_t page_count;
static bool page_more;

static void listed(void *argument, int status, struct inbox_row **rows, size_t count, bool more)
{
    (void)argument;
    assert_int_equal(status, 0);
    page_rows = rows;
    page_count = count;
    page_more = more;
    waiting--;
}

static void page_free(void)
{
    for (size_t index = 0; index < page_count; index++)
        inbox_row_free(page_rows[index]);
    free(page_rows);
}

static void list_now(struct fixture *fixture, struct inbox_query query)
{
    if (query.limit == 0)
        query.limit = 100;
    waiting++;
    inbox_list(fixture->inbox, &query, listed, NULL);
    wait_all(fixture);
}

static void a_message_is_stored_once_for_each_sender_and_id(void **state)
{
    struct fixture *fixture = *state;
    struct outcome outcomes[4];
    submit(fixture, make_row("aa", "one", "x"), false, &outcomes[0]);
    submit(fixture, make_row("aa", "one", "x"), false, &outcomes[1]); /* in the same batch */
    submit(fixture, make_row("bb", "one", "y"), false, &outcomes[2]); /* another sender's id */
    wait_all(fixture);
    outcomes[3] = insert_now(fixture, make_row("aa", "one", "other"), false);
    assert_true(outcomes[0].is_new);
    assert_false(outcomes[1].is_new);
    assert_true(outcomes[2].is_new);
    assert_false(outcomes[3].is_new);
    assert_int_equal(inbox_newest_seq(fixture->inbox), outcomes[2].seq);
    list_now(fixture, (struct inbox_query){ .since_ms = -1, .ascending = true, .after_seq = -1 });
    assert_int_equal(page_count, 2);
    assert_string_equal(page_rows[0]->body, "x");
    assert_string_equal(page_rows[1]->body, "y");
    page_free();
}

static void a_body_with_a_nul_comes_back_whole(void **state)
{
    struct fixture *fixture = *state;
    struct inbox_row *row = make_row("aa", "nul", "ab");
    free(row->body);
    row->body = memory_dup("a\0b", 4);
    row->body_size = 3;
    (void)insert_now(fixture, row, false);
    list_now(fixture, (struct inbox_query){ .since_ms = -1, .after_seq = -1 });
    assert_int_equal(page_rows[0]->body_size, 3);
    assert_memory_equal(page_rows[0]->body, "a\0b", 3);
    page_free();
}

static void a_legacy_message_is_known_by_its_content_for_ever(void **state)
{
    struct fixture *fixture = *state;
    assert_true(insert_now(fixture, make_row("aa", "l1", "same"), true).is_new);
    assert_false(insert_now(fixture, make_row("aa", "l2", "same"), true).is_new);
    assert_true(insert_now(fixture, make_row("aa", "l3", "other"), true).is_new);
}

/* Who chooses its id is the broker: it must not make us say `stored` of what we did not store. */
static void an_id_that_nobody_signed_swallows_no_message(void **state)
{
    struct fixture *fixture = *state;
    struct inbox_row *legacy = make_row("aa", "id", "legacy");
    legacy->verified = INBOX_LEGACY;
    assert_true(insert_now(fixture, legacy, true).is_new);
    for (int round = 0; round < 2; round++) {
        struct outcome sealed = insert_now(fixture, make_row("aa", "id", "sealed"), false);
        assert_false(sealed.is_new);
        assert_true(sealed.replay);
        struct outcome other = insert_now(fixture, make_row("aa", "id", "another legacy"), true);
        assert_false(other.is_new);
        assert_true(other.replay);
        assert_false(insert_now(fixture, make_row("aa", "id", "legacy"), true).replay);
    }
}

static void paging_neither_repeats_nor_skips_while_messages_arrive(void **state)
{
    struct fixture *fixture = *state;
    char id[32];
    for (int number = 0; number < 50; number++) {
        snprintf(id, sizeof(id), "id-%d", number);
        (void)insert_now(fixture, make_row("aa", id, id), false);
    }
    int64_t after = -1, expected = 50;
    size_t seen = 0;
    do {
        list_now(fixture, (struct inbox_query){ .since_ms = -1, .after_seq = after, .limit = 7 });
        for (size_t index = 0; index < page_count; index++, expected--, seen++)
            assert_int_equal(page_rows[index]->seq, expected);
        after = page_rows[page_count - 1]->seq;
        page_free();
        snprintf(id, sizeof(id), "more-%zu", seen);
        (void)insert_now(fixture, make_row("aa", id, id), false);
    } while (page_more);
    assert_int_equal(seen, 50);
}

static void a_page_stops_before_its_maximum_of_bytes_but_holds_one_row(void **state)
{
    struct fixture *fixture = *state;
    (void)insert_now(fixture, make_row("aa", "1", "0123456789"), false);
    (void)insert_now(fixture, make_row("aa", "2", "0123456789"), false);
    list_now(fixture, (struct inbox_query){ .since_ms = -1, .after_seq = -1, .maximum_bytes = 15 });
    assert_int_equal(page_count, 1);
    assert_true(page_more);
    page_free();
    list_now(fixture, (struct inbox_query){ .since_ms = -1, .after_seq = -1, .maximum_bytes = 5 });
    assert_int_equal(page_count, 1);
    page_free();
}

static void filters_narrow_a_page(void **state)
{
    struct fixture *fixture = *state;
    (void)insert_now(fixture, make_row("aa", "1", "x"), false);
    (void)insert_now(fixture, make_row("bb", "2", "y"), false);
    const struct {
        struct inbox_query query;
        size_t count;
    } cases[] = {
        { { .since_ms = -1, .after_seq = -1, .sender_pubkey = "aa" }, 1 },
        { { .since_ms = -1, .after_seq = -1, .sender_pubkey = "aa", .ascending = true }, 1 },
        { { .since_ms = -1, .after_seq = -1, .sender_name = "alice" }, 2 },
        { { .since_ms = -1, .after_seq = -1, .sender_name = "bob" }, 0 },
        { { .since_ms = -1, .after_seq = -1, .mesh = MESH }, 2 },
        { { .since_ms = -1, .after_seq = -1, .mesh = "other" }, 0 },
        { { .since_ms = -1, .after_seq = -1, .topic = "t" }, 0 },
        { { .since_ms = clock_wall_ms() + 1000, .after_seq = -1 }, 0 },
        { { .since_ms = -1, .after_seq = -1, .unread = true, .sender_pubkey = "bb" }, 1 },
    };
    for (size_t index = 0; index < ARRAY_LENGTH(cases); index++) {
        list_now(fixture, cases[index].query);
        assert_int_equal(page_count, cases[index].count);
        page_free();
    }
}

static struct inbox_row **marked_rows;
static size_t marked_total;

static void marked(void *argument, int status, struct inbox_row **rows, size_t count, bool final)
{
    (void)argument;
    assert_int_equal(status, 0);
    marked_total += count;
    for (size_t index = 0; index < count; index++)
        inbox_row_free(rows[index]);
    free(rows);
    marked_rows = NULL;
    if (final)
        waiting--;
}

static void marking_seen_says_which_rows_it_newly_marked(void **state)
{
    struct fixture *fixture = *state;
    char id[32];
    for (int number = 0; number < 1200; number++) {
        snprintf(id, sizeof(id), "id-%d", number);
        static struct outcome outcome;
        submit(fixture, make_row("aa", id, "x"), false, &outcome);
    }
    wait_all(fixture);
    list_now(fixture, (struct inbox_query){ .since_ms = -1, .after_seq = -1, .limit = 1 });
    const char *ids[] = { page_rows[0]->id, page_rows[0]->id, "no such row" };
    marked_total = 0;
    waiting++;
    inbox_mark_seen(fixture->inbox, ids, ARRAY_LENGTH(ids), NULL, marked, NULL);
    wait_all(fixture);
    assert_int_equal(marked_total, 1);
    page_free();
    marked_total = 0;
    waiting++;
    inbox_mark_seen(fixture->inbox, NULL, 0, MESH, marked, NULL); /* in steps */
    wait_all(fixture);
    assert_int_equal(marked_total, 1199);
    list_now(fixture, (struct inbox_query){ .since_ms = -1, .after_seq = -1, .unread = true });
    assert_int_equal(page_count, 0);
    page_free();
}

static void pruned_rows_are_still_known_and_below_the_floor_nothing_new_is_believed(void **state)
{
    struct fixture *fixture = *state;
    int64_t now = clock_wall_ms();
    struct inbox_row *old = make_row("aa", "old", "x");
    old->received_at = old->sent_at = now - 1000000;
    (void)insert_now(fixture, old, false);
    struct inbox_row *ancient = make_row("aa", "ancient", "x");
    ancient->received_at = ancient->sent_at = now - 5000000;
    (void)insert_now(fixture, ancient, false);
    int64_t newest = inbox_newest_seq(fixture->inbox);
    inbox_prune(fixture->inbox, now - 1000, now - 4000000);
    struct outcome outcome =
        insert_now(fixture, make_row("aa", "fresh", "x"), false); /* behind the pruning in the queue, or between its steps */
    assert_true(outcome.is_new);
    assert_true(outcome.seq > newest);
    /* the pruning goes on in steps: wait until it has nothing to do */
    for (;;) {
        list_now(fixture, (struct inbox_query){ .since_ms = -1, .after_seq = -1 });
        size_t count = page_count;
        page_free();
        if (count == 1)
            break;
    }
    old = make_row("aa", "old", "x");
    old->sent_at = now - 1000000;
    outcome = insert_now(fixture, old, false);
    assert_false(outcome.is_new);
    assert_false(outcome.replay);
    /* the ancient one's key went, and raised the floor to its sent_at */
    ancient = make_row("aa", "ancient", "x");
    ancient->sent_at = now - 5000000;
    do {
        outcome = insert_now(fixture, ancient, false);
        ancient = make_row("aa", "ancient", "x");
        ancient->sent_at = now - 5000000;
    } while (!outcome.replay && !outcome.is_new);
    inbox_row_free(ancient);
    assert_true(outcome.replay);
    assert_false(outcome.is_new);
    struct inbox_row *above = make_row("aa", "above", "x");
    above->sent_at = now - 4999999;
    assert_true(insert_now(fixture, above, false).is_new);
}

static bool quarantine_new;

static void quarantined(void *argument, int status, bool is_new)
{
    (void)argument;
    assert_int_equal(status, 0);
    quarantine_new = is_new;
    waiting--;
}

static void quarantine(struct fixture *fixture, const char *push)
{
    struct quarantine_row *row = memory_zalloc(sizeof(*row));
    row->mesh = memory_strdup(MESH);
    row->sender_pubkey = memory_strdup("aa");
    row->client_message_id = memory_strdup("q");
    row->broker_message_id = memory_strdup("B");
    row->reason = memory_strdup("bad_signature");
    row->push = memory_strdup(push);
    row->received_at = clock_wall_ms();
    waiting++;
    inbox_quarantine(fixture->inbox, row, quarantined, NULL);
}

static bool quarantine_now(struct fixture *fixture, const char *push)
{
    quarantine(fixture, push);
    wait_all(fixture);
    return quarantine_new;
}

static void quarantine_listed(void *argument, int status, struct quarantine_row **rows, size_t count)
{
    assert_int_equal(status, 0);
    *(int64_t *)argument = count > 0 ? rows[0]->seq : -1;
    for (size_t index = 0; index < count; index++)
        quarantine_row_free(rows[index]);
    free(rows);
    waiting--;
}

static void the_quarantine_keeps_each_push_once_and_counts_across_a_restart(void **state)
{
    struct fixture *fixture = *state;
    assert_true(quarantine_now(fixture, "{\"type\":\"push\"}"));
    assert_false(quarantine_now(fixture, "{\"type\":\"push\"}"));
    assert_true(quarantine_now(fixture, "{\"type\":\"push\",\"x\":1}"));
    assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), 2);
    char epoch[32];
    assert_int_equal(string_copy(epoch, sizeof(epoch), inbox_epoch(fixture->inbox)), 0);
    close_all(fixture);
    open_all(fixture);
    assert_string_equal(inbox_epoch(fixture->inbox), epoch);
    assert_int_equal(inbox_quarantine_count(fixture->inbox, NULL), 2);
    int64_t seq = -1;
    waiting++;
    inbox_quarantine_list(fixture->inbox, MESH, 0, 10, quarantine_listed, &seq);
    wait_all(fixture);
    inbox_quarantine_remove(fixture->inbox, seq);
    waiting++;
    inbox_quarantine_list(fixture->inbox, MESH, seq, 10, quarantine_listed, &seq);
    wait_all(fixture);
    (void)insert_now(fixture, make_row("aa", "after", "x"), false);
    assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), 1);
}

/* A push of 1 MiB that is unlike every other. */
static char *large_push(int number)
{
    enum { SIZE = 1024 * 1024 };
    char *push = memory_alloc(SIZE + 1);
    memset(push, 'p', SIZE);
    push[SIZE] = '\0';
    (void)snprintf(push, 16, "%015d", number);
    push[15] = 'p';
    return push;
}

static void the_quarantine_holds_64_mib_of_a_mesh_whether_they_come_at_once_or_one_by_one(void **state)
{
    enum { KEPT = 64 };
    static const int pushes[] = { 70, 5, 5 };
    struct fixture *fixture = *state;
    int number = 0;
    assert_true(quarantine_now(fixture, "{\"type\":\"push\"}"));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < pushes[round]; i++) {
            char *push = large_push(number++);
            quarantine(fixture, push);
            free(push);
            if (round == 1)
                wait_all(fixture);
        }
        wait_all(fixture);
        assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), KEPT);
        char *push = large_push(number - 1); /* one that is there takes nobody's place */
        assert_false(quarantine_now(fixture, push));
        free(push);
        assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), KEPT);
        close_all(fixture);
        open_all(fixture);
        assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), KEPT);
    }
    assert_true(quarantine_now(fixture, "a small one takes the place of a large one"));
    assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), KEPT);
    assert_true(quarantine_now(fixture, "and another has room beside it"));
    assert_int_equal(inbox_quarantine_count(fixture->inbox, MESH), KEPT + 1);
}

/* ---- no room ------------------------------------------------------------------------------------------------------- */

struct limit_task {
    struct db_task task;
    bool tight;
};

static int run_limit(struct db_connection *connection, struct db_task *task)
{
    const char *sql = CONTAINER_OF(task, struct limit_task, task)->tight ? "PRAGMA max_page_count = 1" : "PRAGMA max_page_count = 1000000";
    return sqlite3_exec(db_handle(connection), sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : -(int)ERROR_INTERNAL;
}

/* tight: the file may not grow any more. */
static void limit_pages(struct fixture *fixture, bool tight)
{
    struct limit_task limit = { .task = { .run = run_limit }, .tight = tight };
    assert_int_equal(db_write_wait(fixture->db, &limit.task), 0);
}

static struct inbox_row *make_large_row(const char *id)
{
    struct buffer body;
    buffer_init(&body, BUFFER_UNLIMITED);
    for (size_t i = 0; i < 8192; i++)
        buffer_append_byte(&body, 'x');
    struct inbox_row *row = make_row("aa", id, body.data);
    buffer_release(&body);
    return row;
}

static void what_follows_a_message_that_found_no_room_does_not_come_before_it(void **state)
{
    struct fixture *fixture = *state;
    struct outcome outcomes[4];
    (void)insert_now(fixture, make_row("aa", "m-0", "first"), false);
    limit_pages(fixture, true);
    submit(fixture, make_row("aa", "m-1", "small"), false, &outcomes[0]);
    submit(fixture, make_large_row("m-2"), false, &outcomes[1]);
    submit(fixture, make_row("aa", "m-3", "small"), false, &outcomes[2]); /* there would be room for it */
    submit(fixture, make_row("aa", "m-4", "small"), false, &outcomes[3]);
    wait_all(fixture);
    assert_int_equal(outcomes[0].status, 0);
    assert_int_equal(outcomes[1].status, -ERROR_FULL);
    assert_true(outcomes[2].status < 0);
    assert_true(outcomes[3].status < 0);
    assert_true(inbox_is_degraded(fixture->inbox));
    /* What comes again after the failure is known is taken, from the first that is missing on. */
    limit_pages(fixture, false);
    submit(fixture, make_large_row("m-2"), false, &outcomes[1]);
    submit(fixture, make_row("aa", "m-3", "small"), false, &outcomes[2]);
    wait_all(fixture);
    assert_int_equal(outcomes[1].status, 0);
    assert_int_equal(outcomes[2].status, 0);
    assert_true(outcomes[1].seq < outcomes[2].seq);
    assert_false(inbox_is_degraded(fixture->inbox));
}

static void a_message_that_fails_again_and_again_keeps_those_behind_it_back(void **state)
{
    struct fixture *fixture = *state;
    struct outcome outcomes[3];
    (void)insert_now(fixture, make_row("aa", "m-0", "first"), false);
    limit_pages(fixture, true);
    for (int attempt = 0; attempt < 3;
         attempt++) { /* each time the broker sends all of them again before it is known what became of the first */
        submit(fixture, make_large_row("m-1"), false, &outcomes[0]);
        submit(fixture, make_row("aa", "m-2", "small"), false, &outcomes[1]); /* there would be room for it */
        submit(fixture, make_row("aa", "m-3", "small"), false, &outcomes[2]);
        wait_all(fixture);
        assert_int_equal(outcomes[0].status, -ERROR_FULL);
        assert_true(outcomes[1].status < 0);
        assert_true(outcomes[2].status < 0);
    }
    limit_pages(fixture, false);
    submit(fixture, make_large_row("m-1"), false, &outcomes[0]);
    submit(fixture, make_row("aa", "m-2", "small"), false, &outcomes[1]);
    wait_all(fixture);
    assert_int_equal(outcomes[0].status, 0);
    assert_int_equal(outcomes[1].status, 0);
    assert_true(outcomes[0].seq < outcomes[1].seq);
}

static void room_is_noticed_although_nothing_comes(void **state)
{
    struct fixture *fixture = *state;
    struct outcome outcome;
    limit_pages(fixture, true);
    submit(fixture, make_large_row("m-1"), false, &outcome);
    wait_all(fixture);
    assert_int_equal(outcome.status, -ERROR_FULL);
    limit_pages(fixture, false);
    inbox_poke(fixture->inbox);
    int64_t deadline_ms = clock_monotonic_ms() + 30000;
    while (inbox_is_degraded(fixture->inbox)) {
        run_completions(fixture);
        assert_true(clock_monotonic_ms() < deadline_ms);
    }
}

int main(void)
{
    struct error error;
    if (crypto_start(&error) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_message_is_stored_once_for_each_sender_and_id, setup, teardown),
        cmocka_unit_test_setup_teardown(a_body_with_a_nul_comes_back_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(an_id_that_nobody_signed_swallows_no_message, setup, teardown),
        cmocka_unit_test_setup_teardown(a_legacy_message_is_known_by_its_content_for_ever, setup, teardown),
        cmocka_unit_test_setup_teardown(paging_neither_repeats_nor_skips_while_messages_arrive, setup, teardown),
        cmocka_unit_test_setup_teardown(a_page_stops_before_its_maximum_of_bytes_but_holds_one_row, setup, teardown),
        cmocka_unit_test_setup_teardown(filters_narrow_a_page, setup, teardown),
        cmocka_unit_test_setup_teardown(marking_seen_says_which_rows_it_newly_marked, setup, teardown),
        cmocka_unit_test_setup_teardown(pruned_rows_are_still_known_and_below_the_floor_nothing_new_is_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(the_quarantine_keeps_each_push_once_and_counts_across_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(the_quarantine_holds_64_mib_of_a_mesh_whether_they_come_at_once_or_one_by_one, setup, teardown),
        cmocka_unit_test_setup_teardown(what_follows_a_message_that_found_no_room_does_not_come_before_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_message_that_fails_again_and_again_keeps_those_behind_it_back, setup, teardown),
        cmocka_unit_test_setup_teardown(room_is_noticed_although_nothing_comes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
