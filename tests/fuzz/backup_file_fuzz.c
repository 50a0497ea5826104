/* The reader of backups. The first byte says what the rest is: a file as it lies there; plaintext, sealed as only who knows the passphrase can; the copy of a database. What is accepted is read to its end, and what is
 * refused is refused with an error; nothing is left on the disk. Keys are derived cheaply here: the cost is what a head says, and these heads are ours. */
#include <sys/stat.h>
#include <unistd.h>

#include "backup/format_head.h"
#include "backup/outbox_steps.h"
#include "db/dump.h"
#include "fuzz.h"
#include "memory_file.h"
#include "util/text.h"

static const struct passphrase_cost CHEAP = { 1, 8192 };
static const struct text SECRET = { "fuzz", 4 };
static char *database;

static void remove_database(void)
{
    if (database != NULL)
        REQUIRE(unlink(database) != 0); /* whatever became of it, it was removed */
}

static const char *database_path(void)
{
    if (database == NULL) {
        const char *directory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        database = memory_printf("%s/claudemesh-fuzz-%d.db", directory, (int)getpid());
        REQUIRE(atexit(remove_database) == 0);
    }
    return database;
}

static void read_file(const char *path)
{
    char name[BACKUP_PART_NAME_MAXIMUM + 1];
    uint8_t bytes[333];
    struct backup_reader *reader = NULL;
    struct error error = { .code = ERROR_NONE };
    int result = backup_reader_open(path, SECRET, &reader, &error);
    while (result == 0 && (result = backup_reader_next(reader, name, &error)) == 1) {
        int64_t got;
        REQUIRE(strlen(name) > 0 && strlen(name) <= BACKUP_PART_NAME_MAXIMUM);
        while ((got = backup_reader_get(reader, bytes, sizeof(bytes), &error)) > 0)
            REQUIRE(got <= (int64_t)sizeof(bytes));
        result = (int)got;
    }
    REQUIRE(result == 0 || (result == -(int)error.code && error.message[0] != '\0'));
    backup_reader_free(reader);
}

static void read_plaintext(const uint8_t *data, size_t size)
{
    struct backup_head_fields fields = { .cost = CHEAP };
    struct backup_head head;
    struct sealed_stream *stream = NULL;
    struct buffer file;
    struct error error;
    REQUIRE(sealed_stream_new(SECRET, fields.salt, CHEAP, &stream, &error) == 0);
    sealed_stream_begin(stream, fields.stream_header);
    backup_head_make(&fields, stream, &head);
    buffer_init(&file, BUFFER_UNLIMITED);
    REQUIRE(buffer_append(&file, head.bytes, sizeof(head.bytes)) == 0);
    uint8_t *sealed = (uint8_t *)buffer_reserve(&file, size + SEALED_STREAM_OVERHEAD);
    sealed_stream_seal(stream, (struct text){ (const char *)data, size }, backup_head_bound(&head), true, sealed);
    buffer_commit(&file, size + SEALED_STREAM_OVERHEAD);
    read_file(memory_file_write(file.data, file.length));
    buffer_release(&file);
    sealed_stream_free(stream);
}

static int take(void *argument, void *data, size_t size, struct error *error)
{
    struct fuzz_input *input = argument;
    if (size > input->left)
        return error_set(error, ERROR_CORRUPT, "cut off");
    if (size > 0)
        memcpy(data, input->at, size);
    input->at += size;
    input->left -= size;
    return 0;
}

static void load_database(const uint8_t *data, size_t size)
{
    struct db_migration steps[OUTBOX_STEPS_MAXIMUM];
    struct fuzz_input input = { data, size };
    const struct db_source source = { &input, take };
    struct error error = { .code = ERROR_NONE };
    struct stat status;
    const char *path = database_path();
    int result = db_load(path, steps, outbox_steps(steps), &source, NULL, NULL, &error);
    REQUIRE((stat(path, &status) == 0) == (result == 0));
    REQUIRE(result == 0 || (result == -(int)error.code && error.message[0] != '\0'));
    if (result == 0) {
        REQUIRE(db_check_file(path, &error) == 0);
        REQUIRE(unlink(path) == 0);
        char *more = memory_printf("%s-wal", path);
        (void)unlink(more);
        free(more);
        more = memory_printf("%s-shm", path);
        (void)unlink(more);
        free(more);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error error;
    REQUIRE(crypto_start(&error) == 0);
    if (size == 0)
        return 0;
    switch (data[0] % 3) {
    case 0:
        read_file(memory_file_write(data + 1, size - 1));
        break;
    case 1:
        if (size - 1 <= BACKUP_CHUNK)
            read_plaintext(data + 1, size - 1);
        break;
    default:
        load_database(data + 1, size - 1);
        break;
    }
    return 0;
}
