/* The backup file: what goes in comes out, and every other file is refused. */
#include "support.h"

#include "backup/format_head.h"

static const struct text SECRET = { "correct horse", 13 };

/* Parts of the given sizes, bytes that differ. */
static int write_parts(const char *path, const size_t *sizes, size_t count, bool replace, struct error *error)
{
    struct backup_writer *writer = NULL;
    int result = backup_writer_open(path, SECRET, CHEAP, &writer, error);
    assert_int_equal(result, 0);
    for (size_t i = 0; i < count; i++) {
        char name[32];
        char *data = memory_alloc(sizes[i] + 1);
        for (size_t at = 0; at < sizes[i]; at++) {
            data[at] = (char)(at * 7 + i + (at >> 8));
        }
        (void)snprintf(name, sizeof(name), "part-%zu", i);
        assert_int_equal(backup_writer_begin_part(writer, name, error), 0);
        assert_int_equal(backup_writer_put(writer, data, sizes[i], error), 0);
        assert_int_equal(backup_writer_end_part(writer, error), 0);
        free(data);
    }
    return backup_writer_finish(writer, replace, error);
}

/* 0: a whole backup, with so many parts and bytes. */
static int read_all(const char *path, struct text passphrase, size_t *ret_parts, size_t *ret_bytes, struct error *error)
{
    char name[BACKUP_PART_NAME_MAXIMUM + 1];
    char data[1000];
    struct backup_reader *reader = NULL;
    int result = backup_reader_open(path, passphrase, &reader, error);
    *ret_parts = *ret_bytes = 0;
    while (result == 0 && (result = backup_reader_next(reader, name, error)) == 1) {
        int64_t got;
        (*ret_parts)++;
        while ((got = backup_reader_get(reader, data, sizeof(data), error)) > 0) {
            *ret_bytes += (size_t)got;
        }
        result = (int)got;
    }
    backup_reader_free(reader);
    return result;
}

static void parts_of_every_size_come_back(void **state)
{
    struct place *place = *state;
    struct error error = { .message = "" };
    /* Around the edges of blocks and chunks: with names and lengths, the last chunk is once full to the last byte. */
    for (size_t more = BACKUP_CHUNK - 80; more < BACKUP_CHUNK + 20; more++) {
        const size_t sizes[] = { 0, 1, more, 3 };
        size_t parts = 0, bytes = 0;
        assert_int_equal(write_parts(place->file, sizes, ARRAY_LENGTH(sizes), true, &error), 0);
        assert_int_equal(read_all(place->file, SECRET, &parts, &bytes, &error), 0);
        assert_int_equal(parts, 4);
        assert_int_equal(bytes, more + 4);
        struct buffer longer = bytes_of(place->file); /* also behind a last chunk that is full */
        assert_int_equal(buffer_append(&longer, "x", 1), 0);
        write_bytes(place->file, longer.data, longer.length);
        buffer_release(&longer);
        assert_int_equal(read_all(place->file, SECRET, &parts, &bytes, &error), -ERROR_CORRUPT);
    }
    const size_t large[] = { 5 * BACKUP_CHUNK + 17 };
    size_t parts = 0, bytes = 0;
    assert_int_equal(write_parts(place->file, large, 1, true, &error), 0);
    assert_int_equal(read_all(place->file, SECRET, &parts, &bytes, &error), 0);
    assert_int_equal(bytes, large[0]);
    struct stat status;
    assert_int_equal(stat(place->file, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
}

static void every_cut_and_every_flipped_bit_is_refused(void **state)
{
    struct place *place = *state;
    struct error error = { .message = "" };
    const size_t sizes[] = { 100, 20 };
    size_t parts = 0, bytes = 0;
    assert_int_equal(write_parts(place->file, sizes, ARRAY_LENGTH(sizes), true, &error), 0);
    struct buffer whole = bytes_of(place->file);
    char *changed = path_join(place->directory, "changed");
    for (size_t length = 0; length < whole.length; length++) {
        write_bytes(changed, whole.data, length);
        assert_true(read_all(changed, SECRET, &parts, &bytes, &error) < 0);
    }
    for (size_t at = 0; at < whole.length; at++) {
        whole.data[at] ^= (char)(1 << (at % 8));
        write_bytes(changed, whole.data, whole.length);
        int result = read_all(changed, SECRET, &parts, &bytes, &error);
        whole.data[at] ^= (char)(1 << (at % 8));
        assert_true(result == -ERROR_CORRUPT ||
                    (at < 24 && (result == -ERROR_INVALID || result == -ERROR_NEWER || result == -ERROR_TOO_LARGE)));
    }
    assert_int_equal(buffer_append(&whole, "x", 1), 0);
    write_bytes(changed, whole.data, whole.length);
    assert_int_equal(read_all(changed, SECRET, &parts, &bytes, &error), -ERROR_CORRUPT);
    free(changed);
    buffer_release(&whole);
}

static void another_passphrase_is_told_from_damage(void **state)
{
    struct place *place = *state;
    struct error error = { .message = "" };
    const size_t sizes[] = { 100 };
    size_t parts = 0, bytes = 0;
    assert_int_equal(write_parts(place->file, sizes, 1, true, &error), 0);
    assert_int_equal(read_all(place->file, TEXT("correct hors"), &parts, &bytes, &error), -ERROR_DENIED);
    assert_non_null(strstr(error.message, "passphrase"));
    assert_int_equal(read_all(place->file, TEXT("correct horse\0"), &parts, &bytes, &error), -ERROR_DENIED);
}

/* A file that only who knows the passphrase can make: anything as plaintext. */
static void write_sealed(const char *path, const char *plain, size_t length)
{
    struct backup_head_fields fields = { .cost = CHEAP };
    struct backup_head head;
    struct sealed_stream *stream = NULL;
    uint8_t sealed[1000 + SEALED_STREAM_OVERHEAD];
    struct buffer bytes;
    struct error error = { .message = "" };
    assert_int_equal(sealed_stream_new(SECRET, fields.salt, CHEAP, &stream, &error), 0);
    sealed_stream_begin(stream, fields.stream_header);
    backup_head_make(&fields, stream, &head);
    sealed_stream_seal(stream, (struct text){ plain, length }, backup_head_bound(&head), true, sealed);
    buffer_init(&bytes, BUFFER_UNLIMITED);
    (void)buffer_append(&bytes, head.bytes, sizeof(head.bytes));
    (void)buffer_append(&bytes, sealed, length + SEALED_STREAM_OVERHEAD);
    write_bytes(path, bytes.data, bytes.length);
    buffer_release(&bytes);
    sealed_stream_free(stream);
}

static void plaintext_that_is_no_archive_is_refused(void **state)
{
    struct place *place = *state;
    struct error error = { .message = "" };
    size_t parts = 0, bytes = 0;
#define CASE(literal)                  \
    {                                  \
        (literal), sizeof(literal) - 1 \
    }
    static const struct text REFUSED[] = {
        CASE(""),
        CASE("Q"),
        CASE("Zx"),
        CASE("ZZ"),
        CASE("P"),
        CASE("P\0Z"),
        CASE("P\1"),
        CASE("P\1aZ"),
        CASE("P\1 \0\0\0\0Z"),
        CASE("P\3a\0b\0\0\0\0Z"),
        CASE("P\1a\0\0\0\1x"),
        CASE("P\1a\0\0\0\2xZ"),
        CASE("P\1a\0\1\0\1xZ"),
        CASE("P\1a\377\377\377\377x"),
        CASE("P\1a\0\0\0\0"),
        CASE("P\7../../aZ"),
        CASE("P\200aaaa"),
    };
    write_sealed(place->file, "P\1a\0\0\0\2xy\0\0\0\1z\0\0\0\0Z", 19);
    assert_int_equal(read_all(place->file, SECRET, &parts, &bytes, &error), 0);
    assert_int_equal(bytes, 3);
    for (size_t i = 0; i < ARRAY_LENGTH(REFUSED); i++) {
        write_sealed(place->file, REFUSED[i].data, REFUSED[i].length);
        assert_int_equal(read_all(place->file, SECRET, &parts, &bytes, &error), -ERROR_CORRUPT);
    }
}

static void a_writer_that_gives_up_leaves_nothing_and_a_file_that_is_there_is_kept(void **state)
{
    struct place *place = *state;
    struct error error = { .message = "" };
    struct backup_writer *writer = NULL;
    const size_t sizes[] = { 100 };
    assert_int_equal(backup_writer_open(place->file, SECRET, CHEAP, &writer, &error), 0);
    assert_int_equal(backup_writer_begin_part(writer, "a", &error), 0);
    backup_writer_free(writer);
    assert_int_equal(rmdir(place->directory), 0); /* empty */
    assert_int_equal(mkdir(place->directory, 0700), 0);
    write_bytes(place->file, "mine", 4);
    assert_int_equal(write_parts(place->file, sizes, 1, false, &error), -ERROR_CONFLICT);
    struct buffer kept = bytes_of(place->file);
    assert_int_equal(kept.length, 4);
    buffer_release(&kept);
    assert_int_equal(unlink(place->file), 0);
    assert_int_equal(write_parts(place->file, sizes, 1, false, &error), 0);
    assert_int_equal(unlink(place->file), 0);
    assert_int_equal(rmdir(place->directory), 0);
    assert_int_equal(mkdir(place->directory, 0700), 0);
    backup_writer_free(NULL);
    backup_reader_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(parts_of_every_size_come_back, place_set_up, place_tear_down),
        cmocka_unit_test_setup_teardown(every_cut_and_every_flipped_bit_is_refused, place_set_up, place_tear_down),
        cmocka_unit_test_setup_teardown(another_passphrase_is_told_from_damage, place_set_up, place_tear_down),
        cmocka_unit_test_setup_teardown(plaintext_that_is_no_archive_is_refused, place_set_up, place_tear_down),
        cmocka_unit_test_setup_teardown(a_writer_that_gives_up_leaves_nothing_and_a_file_that_is_there_is_kept, place_set_up,
                                        place_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
