/* Hook runs on a real database: written with their row, claimed once, never twice, whatever ends in between; and a file of the first schema. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above first */
#include <cmocka.h>
#include <unistd.h>

#include "inbox/hook_runs.h"
#include "util/clock.h"
#include "util/file.h"
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
    if (db_open(&options, &fixture->db, &error) != 0 ||
        inbox_open(fixture->db, &(struct inbox_options){ .search = true }, &fixture->inbox, &error) != 0)
        fail_msg("%s", error.message);
}

static void run_messages(struct message *message)
{
    for (struct message *next; message != NULL; message = next) {
        next = message->next;
        message->handle(message);
    }
}

static void close_all(struct fixture *fixture)
{
    db_close(fixture->db);
    run_messages(mailbox_take_all(&fixture->completions));
    inbox_free(fixture->inbox);
}

static void start_again(struct fixture *fixture)
{
    close_all(fixture);
    open_all(fixture);
}

static struct fixture *fixture_new(void)
{
    struct fixture *fixture = memory_zalloc(sizeof(*fixture));
    assert_int_equal(string_copy(fixture->directory, sizeof(fixture->directory), "/tmp/cm-hook-runs-XXXXXX"), 0);
    assert_non_null(mkdtemp(fixture->directory));
    fixture->path = memory_printf("%s/inbox.db", fixture->directory);
    mailbox_init(&fixture->completions, NULL, NULL);
    return fixture;
}

static int setup(void **state)
{
    struct fixture *fixture = fixture_new();
    open_all(fixture);
    *state = fixture;
    return 0;
}

static int setup_closed(void **state)
{
    *state = fixture_new();
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

static int waiting;

static void wait_all(struct fixture *fixture)
{
    while (waiting > 0) {
        bool closed;
        struct message *messages = mailbox_wait_all(&fixture->completions, 10000, &closed);
        if (messages == NULL)
            fail_msg("no completion in 10 s");
        run_messages(messages);
    }
}

static bool was_new;

static void inserted(struct inbox_insert *insert)
{
    assert_int_equal(insert->status, 0);
    was_new = insert->is_new;
    inbox_insert_free(insert);
    waiting--;
}

static void submit(struct fixture *fixture, const char *id, size_t count, const char *const *hooks)
{
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
    row->verified = INBOX_VERIFIED;
    row->history_id = 1;
    row->sent_at = row->received_at = clock_wall_ms();
    row->seen_at = -1;
    struct inbox_insert *insert = memory_zalloc(sizeof(*insert));
    insert->row = row;
    for (size_t i = 0; i < count; i++)
        insert->hooks[insert->hook_count++] = memory_strdup(hooks[i]);
    waiting++;
    inbox_insert(fixture->inbox, insert, inserted);
}

static void insert_now(struct fixture *fixture, const char *id, size_t count, const char *const *hooks)
{
    submit(fixture, id, count, hooks);
    wait_all(fixture);
}

static struct hook_run *claimed;
static size_t claimed_count;

static void on_claimed(void *argument, int status, struct hook_run *runs, size_t count)
{
    (void)argument;
    assert_int_equal(status, 0);
    claimed = runs;
    claimed_count = count;
    waiting--;
}

static void claim_now(struct fixture *fixture, size_t limit)
{
    waiting++;
    inbox_hook_runs_claim(fixture->inbox, limit, on_claimed, NULL);
    wait_all(fixture);
}

static void claimed_free(void)
{
    for (size_t i = 0; i < claimed_count; i++)
        hook_run_free(&claimed[i]);
    free(claimed);
}

static const char *const TWO[] = { "on-message", "on-dm" };

static void each_hook_of_a_new_message_is_claimed_once_in_order(void **state)
{
    struct fixture *fixture = *state;
    insert_now(fixture, "m-1", 2, TWO);
    insert_now(fixture, "m-2", 1, TWO);
    insert_now(fixture, "m-3", 0, NULL);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 3);
    claim_now(fixture, 2);
    assert_int_equal(claimed_count, 2);
    assert_string_equal(claimed[0].hook, "on-message");
    assert_string_equal(claimed[0].row->body, "m-1");
    assert_string_equal(claimed[1].hook, "on-dm");
    assert_string_equal(claimed[1].row->client_message_id, "m-1");
    claimed_free();
    claim_now(fixture, 8);
    assert_int_equal(claimed_count, 1);
    assert_string_equal(claimed[0].row->body, "m-2");
    claimed_free();
    claim_now(fixture, 8);
    assert_int_equal(claimed_count, 0);
    claimed_free();
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 0);
}

static void a_message_that_was_stored_before_has_no_second_run(void **state)
{
    struct fixture *fixture = *state;
    insert_now(fixture, "m-1", 2, TWO);
    assert_true(was_new);
    insert_now(fixture, "m-1", 2, TWO);
    assert_false(was_new);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 2);
}

static void what_waits_survives_a_restart_and_what_was_claimed_never_runs_again(void **state)
{
    struct fixture *fixture = *state;
    insert_now(fixture, "m-1", 1, TWO);
    insert_now(fixture, "m-2", 1, TWO);
    insert_now(fixture, "m-3", 1, TWO);
    claim_now(fixture, 2);
    inbox_hook_runs_finish(fixture->inbox, claimed[0].id); /* the second one is running when the process ends */
    claimed_free();
    start_again(fixture);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 1);
    assert_int_equal(inbox_hook_runs_lost(fixture->inbox), 1);
    claim_now(fixture, 8);
    assert_int_equal(claimed_count, 1);
    assert_string_equal(claimed[0].row->body, "m-3");
    inbox_hook_runs_finish(fixture->inbox, claimed[0].id);
    claimed_free();
    start_again(fixture);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 0);
    assert_int_equal(inbox_hook_runs_lost(fixture->inbox), 0);
}

static void beyond_1024_the_message_is_stored_and_only_its_hooks_are_dropped(void **state)
{
    struct fixture *fixture = *state;
    for (int i = 0; i < HOOK_RUNS_MAXIMUM + 5; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "m-%d", i);
        submit(fixture, id, 1, TWO);
    }
    wait_all(fixture);
    assert_int_equal(inbox_newest_seq(fixture->inbox), HOOK_RUNS_MAXIMUM + 5);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), HOOK_RUNS_MAXIMUM);
    assert_int_equal(inbox_hook_runs_dropped(fixture->inbox), 5);
    start_again(fixture);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), HOOK_RUNS_MAXIMUM);
    claim_now(fixture, 3);
    claimed_free();
    insert_now(fixture, "again", 2, TWO);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), HOOK_RUNS_MAXIMUM - 1);
}

static void a_run_whose_message_was_pruned_is_removed(void **state)
{
    struct fixture *fixture = *state;
    insert_now(fixture, "m-1", 2, TWO);
    inbox_prune(fixture->inbox, clock_wall_ms() + 1000, 0);
    claim_now(fixture, 8);
    assert_int_equal(claimed_count, 0);
    claimed_free();
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 0);
    start_again(fixture);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 0);
    assert_int_equal(inbox_hook_runs_lost(fixture->inbox), 0);
}

/* Written by a daemon that knew no hooks. */
static void a_file_of_the_first_schema_opens_with_its_messages(void **state)
{
    struct fixture *fixture = *state;
    struct error error;
    struct buffer old;
    buffer_init(&old, BUFFER_UNLIMITED);
    char *source = memory_printf("%s/tests/fixtures/databases/inbox-v1.db", getenv("CLAUDEMESH_SOURCE_ROOT"));
    assert_int_equal(file_read(source, &old, &error), 0);
    assert_int_equal(file_write_atomic(fixture->path, 0600, old.data, old.length, &error), 0);
    buffer_release(&old);
    free(source);
    open_all(fixture);
    int64_t before = inbox_newest_seq(fixture->inbox);
    assert_true(before > 0);
    assert_int_equal(inbox_hook_runs_waiting(fixture->inbox), 0);
    insert_now(fixture, "new", 1, TWO);
    assert_int_equal(inbox_newest_seq(fixture->inbox), before + 1);
    claim_now(fixture, 8);
    assert_int_equal(claimed_count, 1);
    assert_string_equal(claimed[0].row->body, "new");
    claimed_free();
}

int main(void)
{
    struct error error;
    if (crypto_start(&error) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_hook_of_a_new_message_is_claimed_once_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_message_that_was_stored_before_has_no_second_run, setup, teardown),
        cmocka_unit_test_setup_teardown(what_waits_survives_a_restart_and_what_was_claimed_never_runs_again, setup, teardown),
        cmocka_unit_test_setup_teardown(beyond_1024_the_message_is_stored_and_only_its_hooks_are_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(a_run_whose_message_was_pruned_is_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_of_the_first_schema_opens_with_its_messages, setup_closed, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
