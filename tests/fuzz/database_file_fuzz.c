/* The reader of damaged SQLite files. Whatever is there, walking it ends, and every record that it gives lies where it says. */
#include <string.h>

#include "fuzz.h"
#include "memory_file.h"
#include "rescue/tree.h"
#include "util/memory.h"

enum { RECORDS_PLENTY = 100000 };

struct seen {
    size_t records;
    uint64_t sum;
};

static void take(void *argument, const struct rescue_record *record)
{
    struct seen *seen = argument;
    REQUIRE(record->count > 0 && record->count <= RESCUE_COLUMNS_MAXIMUM);
    for (size_t i = 0; i < record->count; i++) {
        const struct rescue_value *value = &record->values[i];
        for (size_t at = 0; at < value->size; at++)
            seen->sum += value->bytes[at]; /* each byte may be read */
    }
    REQUIRE(++seen->records < RECORDS_PLENTY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rescue_pages pages;
    struct error error;
    struct seen seen = { .records = 0 };
    struct rescue_walk walk = { .pages = &pages, .callback = take, .argument = &seen };
    if (rescue_pages_open(memory_file_write(data, size), &pages, &error) != 0)
        return 0;
    for (uint32_t root = 1; root <= pages.count && root < 8; root++)
        rescue_walk_tree(&walk, root);
    rescue_pages_visit_free(&pages);
    rescue_walk_orphans(&walk);
    rescue_pages_close(&pages);
    return 0;
}
