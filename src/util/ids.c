/* Owns identifiers and the kernel's random bytes. Must not be asked for keys: crypto/ draws those into memory of its own. */
#include "util/ids.h"

#include <errno.h>
#include <pthread.h>
#include <sys/random.h>
#include <unistd.h>

#include "util/attributes.h"
#include "util/clock.h"

enum { ULID_RANDOM_BYTES = 10, ENTROPY_MAXIMUM = 256 };

static pthread_mutex_t ulid_mutex = PTHREAD_MUTEX_INITIALIZER;
static int64_t ulid_last_ms = -1;
static uint8_t ulid_last_random[ULID_RANDOM_BYTES];

/* Without randomness ids repeat, and repeated ids lose messages. */
static NO_RETURN void end_without_randomness(void)
{
    (void)fprintf(stderr,
                  "claudemesh: the system gives no random bytes (getentropy: %s), and nothing is safe without; does a sandbox forbid it?\n",
                  strerror(errno));
    _exit(70);
}

void random_bytes(void *ret_bytes, size_t size)
{
    uint8_t *position = ret_bytes;
    while (size > 0) {
        size_t part = size < ENTROPY_MAXIMUM ? size : ENTROPY_MAXIMUM;
        if (getentropy(position, part) != 0) {
            end_without_randomness();
        }
        position += part;
        size -= part;
    }
}

uint32_t random_uniform(uint32_t bound)
{
    if (bound < 2) {
        return 0;
    }
    /* Values below the remainder of 2^32 would come up once too often. */
    uint32_t minimum = (uint32_t)(-bound) % bound;
    for (;;) {
        uint32_t value = 0;
        random_bytes(&value, sizeof(value));
        if (value >= minimum) {
            return value % bound;
        }
    }
}

/* Adds one to the big-endian number; false when it ran over. */
static int increment(uint8_t *number, size_t size)
{
    for (size_t index = size; index > 0; index--) {
        number[index - 1] = (uint8_t)(number[index - 1] + 1);
        if (number[index - 1] != 0) {
            return 1;
        }
    }
    return 0;
}

/* 48 bits of time and 80 of randomness are 128 bits: 26 digits of 5 bits, the first holding 3. */
static void ulid_encode(int64_t time_ms, const uint8_t random[static ULID_RANDOM_BYTES], char ret_ulid[ULID_SIZE])
{
    static const char DIGITS[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    uint64_t time = (uint64_t)time_ms;
    for (int index = 9; index >= 0; index--) {
        ret_ulid[index] = DIGITS[time & 31];
        time >>= 5;
    }
    uint32_t bits = 0;
    unsigned held = 0;
    size_t out = 10;
    for (size_t index = 0; index < ULID_RANDOM_BYTES; index++) {
        bits = (bits << 8) | random[index];
        held += 8;
        while (held >= 5) {
            held -= 5;
            ret_ulid[out++] = DIGITS[(bits >> held) & 31];
        }
    }
    ret_ulid[out] = '\0';
}

void ulid_generate(char ret_ulid[ULID_SIZE])
{
    int64_t now = clock_wall_ms();
    uint8_t random[ULID_RANDOM_BYTES];
    pthread_mutex_lock(&ulid_mutex);
    /* A clock that stepped back must not make ids that sort before older ones: count on from the last. */
    if (now > ulid_last_ms) {
        random_bytes(ulid_last_random, sizeof(ulid_last_random));
        ulid_last_ms = now;
    } else if (!increment(ulid_last_random, sizeof(ulid_last_random))) {
        random_bytes(ulid_last_random, sizeof(ulid_last_random));
        ulid_last_ms++;
    }
    now = ulid_last_ms;
    memcpy(random, ulid_last_random, sizeof(random));
    pthread_mutex_unlock(&ulid_mutex);
    ulid_encode(now, random, ret_ulid);
}

void uuid_generate(char ret_uuid[UUID_SIZE])
{
    static const char HEX[] = "0123456789abcdef";
    uint8_t bytes[16];
    random_bytes(bytes, sizeof(bytes));
    bytes[6] = (uint8_t)((bytes[6] & 0x0F) | 0x40);
    bytes[8] = (uint8_t)((bytes[8] & 0x3F) | 0x80);
    size_t out = 0;
    for (size_t index = 0; index < sizeof(bytes); index++) {
        if (index == 4 || index == 6 || index == 8 || index == 10) {
            ret_uuid[out++] = '-';
        }
        ret_uuid[out++] = HEX[bytes[index] >> 4];
        ret_uuid[out++] = HEX[bytes[index] & 15];
    }
    ret_uuid[out] = '\0';
}
