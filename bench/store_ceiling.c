/* How many sends a second the store itself can accept: the outbox's own accept, the same rows and durability as behind POST /v1/send, with nothing before it
 * (90-quality, Speed and size). Prints one JSON object. A new request follows each answer, so `--outstanding` of them wait at any time, as with as many
 * connections. */
#include <dirent.h>
#include <getopt.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/crypto.h"
#include "outbox/outbox.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/memory.h"

enum {
    BODY_BYTES = 256,
    PREFILL_OUTSTANDING = 1000,
    PREFILL_MOVES = 500,
    LATENCY_STEP_US = 20,
    LATENCY_STEPS = 50000, /* up to a second */
};

struct options {
    int64_t seconds, outstanding, rows_done;
    const char *directory;
};

struct bench {
    struct options options;
    char *directory, *path;
    struct mailbox completions;
    struct db *db;
    struct outbox *outbox;
    uint64_t random[2];

    bool prefilling;
    int64_t submitted, wanted; /* prefilling: how many in all */
    int64_t open, accepted, failed;
    int64_t ends_us;
    struct outbox_move *moves;
    size_t move_count;
    int64_t open_batches;

    atomic_llong commits, committed;
    uint32_t *latencies; /* count by step */
};

struct request {
    struct outbox_accept *accept;
    struct bench *bench;
    int64_t started_us;
};

/* xorshift128+: ids and fingerprints that no index can order, at no cost worth measuring. */
static uint64_t next_random(struct bench *bench)
{
    uint64_t a = bench->random[0];
    const uint64_t b = bench->random[1];
    bench->random[0] = b;
    a ^= a << 23;
    bench->random[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
    return bench->random[1] + b;
}

static void fill_random(struct bench *bench, uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i + sizeof(uint64_t) <= size; i += sizeof(uint64_t)) {
        uint64_t value = next_random(bench);
        memcpy(bytes + i, &value, sizeof(value));
    }
}

static struct outbox_row *make_row(struct bench *bench)
{
    struct outbox_row *row = memory_zalloc(sizeof(*row));
    ulid_generate(row->id);
    row->client_message_id = memory_printf("%016" PRIx64 "%016" PRIx64, next_random(bench), next_random(bench));
    row->mesh = memory_strdup("7d6a0c52-5a29-4c53-9f4e-0d0f7d3c1b11");
    row->destination_kind = memory_strdup("dm");
    row->destination_ref = memory_strdup("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    row->priority = PRIORITY_NEXT;
    fill_random(bench, row->request_fingerprint.bytes, sizeof(row->request_fingerprint.bytes));
    fill_random(bench, row->broker_fingerprint.bytes, sizeof(row->broker_fingerprint.bytes));
    row->payload = memory_alloc(BODY_BYTES + 1);
    memset(row->payload, 'x', BODY_BYTES);
    row->payload[BODY_BYTES] = '\0';
    row->payload_size = BODY_BYTES;
    row->enqueued_at = clock_wall_ms();
    row->delivered_at = row->aborted_at = row->history_id = -1;
    return row;
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void moved(void *argument, struct outbox_move *moves, size_t count)
{
    (void)moves;
    (void)count;
    ((struct bench *)argument)->open_batches--;
}

static void flush_moves(struct bench *bench)
{
    if (bench->move_count > 0) {
        bench->open_batches++;
        outbox_move_batch(bench->outbox, bench->moves, bench->move_count, false, moved, bench);
        bench->moves = NULL;
        bench->move_count = 0;
    }
}

static void finish_row(struct bench *bench, int64_t seq)
{
    if (bench->moves == NULL) {
        bench->moves = memory_calloc(PREFILL_MOVES, sizeof(*bench->moves));
    }
    struct outbox_move *move = &bench->moves[bench->move_count++];
    *move = (struct outbox_move){ .seq = seq, .event = OUTBOX_EVENT_ACCEPTED, .history_id = seq };
    char id[ULID_SIZE];
    ulid_generate(id);
    move->broker_message_id = memory_strdup(id);
    if (bench->move_count == PREFILL_MOVES) {
        flush_moves(bench);
    }
}

static void note_latency(struct bench *bench, int64_t elapsed_us)
{
    int64_t step = elapsed_us / LATENCY_STEP_US;
    bench->latencies[step < LATENCY_STEPS ? step : LATENCY_STEPS - 1]++;
}

static void submit(struct request *request);

static void answered(struct outbox_accept *accept)
{
    struct request *request = accept->argument;
    struct bench *bench = request->bench;
    int64_t now_us = clock_monotonic_us();
    bool stored = accept->status == 0 && accept->outcome == ACCEPT_STORED;
    if (!stored) {
        bench->failed++;
    } else if (bench->prefilling) {
        finish_row(bench, accept->row->seq);
    } else {
        bench->accepted++;
        note_latency(bench, now_us - request->started_us);
    }
    outbox_accept_free(accept);
    bool again = stored && (bench->prefilling ? bench->submitted < bench->wanted : now_us < bench->ends_us);
    if (again) {
        submit(request);
        return;
    }
    bench->open--;
    free(request);
}

static void submit(struct request *request)
{
    struct bench *bench = request->bench;
    bench->submitted++;
    request->accept = outbox_accept_new(bench->outbox);
    request->accept->row = make_row(bench);
    request->accept->done = answered;
    request->accept->argument = request;
    request->started_us = clock_monotonic_us();
    outbox_accept(request->accept);
}

static void start_requests(struct bench *bench, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        struct request *request = memory_zalloc(sizeof(*request));
        request->bench = bench;
        bench->open++;
        submit(request);
    }
}

static void run_completions(struct bench *bench, int64_t timeout_ms)
{
    bool closed = false;
    for (struct message *message = mailbox_wait_all(&bench->completions, timeout_ms, &closed), *next; message != NULL; message = next) {
        next = message->next;
        message->handle(message);
    }
}

/* ---- the store --------------------------------------------------------------------------------------------------- */

static void note_commit(void *argument, int64_t commit_us, size_t batch)
{
    struct bench *bench = argument;
    (void)commit_us;
    atomic_fetch_add(&bench->commits, 1);
    atomic_fetch_add(&bench->committed, (long long)batch);
}

static int store_open(struct bench *bench, enum db_durability durability, struct error *error)
{
    const struct db_options options = {
        .path = bench->path,
        .migrations = OUTBOX_MIGRATIONS,
        .migration_count = OUTBOX_MIGRATION_COUNT,
        .durability = durability,
        .completions = &bench->completions,
        .background_check_above = UINT64_C(64) << 20,
        .measured = note_commit,
        .argument = bench,
    };
    int status = db_open(&options, &bench->db, error);
    const struct outbox_limits limits = { .max_rows = INT64_C(1) << 40, .max_bytes = INT64_C(1) << 50 };
    return status == 0 ? outbox_open(bench->db, &limits, &bench->outbox, error) : status;
}

static void store_close(struct bench *bench)
{
    db_close(bench->db);
    run_completions(bench, 0);
    outbox_free(bench->outbox);
    bench->db = NULL;
    bench->outbox = NULL;
}

/* Accepted and moved to `done`, as in life but without waiting for the disk. */
static int prefill(struct bench *bench, struct error *error)
{
    if (bench->options.rows_done == 0) {
        return 0;
    }
    int status = store_open(bench, DB_BATCHED, error);
    if (status == 0) {
        bench->prefilling = true;
        bench->wanted = bench->options.rows_done;
        start_requests(bench, bench->wanted < PREFILL_OUTSTANDING ? bench->wanted : PREFILL_OUTSTANDING);
        while (bench->open > 0) {
            run_completions(bench, -1);
        }
        flush_moves(bench);
        while (bench->open_batches > 0) {
            run_completions(bench, -1);
        }
        bench->prefilling = false;
    }
    store_close(bench);
    return status;
}

static double percentile_ms(const struct bench *bench, double share)
{
    int64_t wanted = (int64_t)((double)bench->accepted * share);
    int64_t seen = 0;
    for (size_t step = 0; step < LATENCY_STEPS; step++) {
        seen += bench->latencies[step];
        if (seen > wanted) {
            return (double)(step + 1) * LATENCY_STEP_US / 1000.0;
        }
    }
    return 0;
}

static int measure(struct bench *bench, struct error *error)
{
    int status = store_open(bench, DB_STRICT, error);
    if (status == 0) {
        atomic_store(&bench->commits, 0);
        atomic_store(&bench->committed, 0);
        int64_t started_us = clock_monotonic_us();
        bench->ends_us = started_us + bench->options.seconds * 1000000;
        start_requests(bench, bench->options.outstanding);
        while (bench->open > 0) {
            run_completions(bench, -1);
        }
        double seconds = (double)(clock_monotonic_us() - started_us) / 1e6;
        long long commits = atomic_load(&bench->commits);
        printf("{\"per_second\": %.0f, \"accepts\": %" PRId64 ", \"failed\": %" PRId64 ", \"seconds\": %.3f, \"outstanding\": %" PRId64
               ", \"rows_done\": %" PRId64 ", \"batch_mean\": %.1f, \"p50_ms\": %.2f, \"p99_ms\": %.2f}\n",
               (double)bench->accepted / seconds, bench->accepted, bench->failed, seconds, bench->options.outstanding,
               bench->options.rows_done, commits == 0 ? 0.0 : (double)atomic_load(&bench->committed) / (double)commits,
               percentile_ms(bench, 0.5), percentile_ms(bench, 0.99));
    }
    store_close(bench);
    return status == 0 && bench->failed > 0 ? error_set(error, ERROR_INTERNAL, "%" PRId64 " accepts failed", bench->failed) : status;
}

/* ---- the program --------------------------------------------------------------------------------------------------- */

static void remove_directory(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL) {
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && unlinkat(dirfd(directory), entry->d_name, 0) != 0) {
            (void)fprintf(stderr, "store_ceiling: cannot remove %s\n", entry->d_name);
        }
    }
    if (closedir(directory) != 0 || rmdir(path) != 0) {
        (void)fprintf(stderr, "store_ceiling: cannot remove %s\n", path);
    }
}

static int parse_options(int argc, char **argv, struct options *ret_options)
{
    static const struct option LONG[] = {
        { "seconds", required_argument, NULL, 's' },
        { "outstanding", required_argument, NULL, 'o' },
        { "rows-done", required_argument, NULL, 'r' },
        { "directory", required_argument, NULL, 'd' },
        { NULL, 0, NULL, 0 },
    };
    const char *temporary = getenv("TMPDIR");
    *ret_options = (struct options){ .seconds = 5, .outstanding = 64, .directory = temporary == NULL ? "/tmp" : temporary };
    bool good = true;
    for (int option; (option = getopt_long(argc, argv, "", LONG, NULL)) != -1;) {
        switch (option) {
        case 's':
            good = good && parse_int64(optarg, &ret_options->seconds) == 0 && ret_options->seconds > 0;
            break;
        case 'o':
            good = good && parse_int64(optarg, &ret_options->outstanding) == 0 && ret_options->outstanding > 0;
            break;
        case 'r':
            good = good && parse_int64(optarg, &ret_options->rows_done) == 0 && ret_options->rows_done >= 0;
            break;
        case 'd':
            ret_options->directory = optarg;
            break;
        default:
            good = false;
            break;
        }
    }
    if (!good || optind != argc) {
        (void)fprintf(stderr, "usage: store_ceiling [--seconds N] [--outstanding N] [--rows-done N] [--directory DIR]\n");
        return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct bench bench = { .random = { UINT64_C(88172645463325252), UINT64_C(362436069) } };
    if (parse_options(argc, argv, &bench.options) != 0) {
        return 2;
    }
    struct error error;
    int status = crypto_start(&error);
    bench.directory = path_join(bench.options.directory, "store-ceiling-XXXXXX");
    bench.latencies = memory_calloc(LATENCY_STEPS, sizeof(*bench.latencies));
    mailbox_init(&bench.completions, NULL, NULL);
    if (status == 0 && mkdtemp(bench.directory) == NULL) {
        status = error_set_errno(&error, "cannot make a directory in %s", bench.options.directory);
    } else if (status == 0) {
        bench.path = path_join(bench.directory, "outbox.db");
        status = prefill(&bench, &error);
        if (status == 0) {
            status = measure(&bench, &error);
        }
        remove_directory(bench.directory);
    }
    if (status < 0) {
        (void)fprintf(stderr, "store_ceiling: %s\n", error.message);
    }
    mailbox_release(&bench.completions);
    free(bench.latencies);
    free(bench.path);
    free(bench.directory);
    return status < 0 ? 1 : 0;
}
