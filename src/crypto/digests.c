/* Owns start-up, digests, comparison and wiping. SHA-256 is OpenSSL's, which uses the processor's instructions; its
 * algorithm is fetched once and each thread keeps one context, because both cost more than hashing a short text. */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <unistd.h>

#include "crypto/internal.h"
#include "util/memory.h"

static EVP_MD *sha256_algorithm;
static pthread_key_t context_key;
static _Thread_local EVP_MD_CTX *thread_context;

void crypto_failed(const char *what)
{
    (void)fprintf(stderr, "claudemesh: cryptography failed: %s\n", what);
    abort();
}

static void context_free(void *context)
{
    EVP_MD_CTX_free(context);
}

static void *openssl_alloc(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return memory_alloc(size);
}

static void *openssl_realloc(void *memory, size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return memory_realloc(memory, size);
}

static void openssl_free(void *memory, const char *file, int line)
{
    (void)file;
    (void)line;
    free(memory);
}

int crypto_start(struct error *error)
{
    if (sha256_algorithm != NULL) {
        return 0;
    }
    /* OpenSSL 3.0 reads freed or absent memory when an allocation fails while it starts; decision 0003 holds for it, too. It refuses when it has
     * allocated before: then it goes on as it was. */
    (void)CRYPTO_set_mem_functions(openssl_alloc, openssl_realloc, openssl_free);
    if (sodium_init() < 0) {
        return error_set(error, ERROR_INTERNAL, "libsodium cannot start");
    }
    if (pthread_key_create(&context_key, context_free) != 0) {
        return error_set(error, ERROR_INTERNAL, "no more thread keys");
    }
    sha256_algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (sha256_algorithm == NULL) {
        return error_set(error, ERROR_INTERNAL, "OpenSSL has no SHA-256");
    }
    return 0;
}

static EVP_MD_CTX *sha256_begin(void)
{
    if (thread_context == NULL) {
        thread_context = EVP_MD_CTX_new();
        if (thread_context == NULL) {
            memory_exhausted();
        }
        /* Only so that it is freed when the thread ends. */
        if (pthread_setspecific(context_key, thread_context) != 0) {
            memory_exhausted();
        }
    }
    if (sha256_algorithm == NULL || EVP_DigestInit_ex2(thread_context, sha256_algorithm, NULL) != 1) {
        crypto_failed("SHA-256 cannot begin; crypto_start comes first");
    }
    return thread_context;
}

void sha256_of_parts(const struct text *parts, size_t count, struct sha256 *ret_digest)
{
    EVP_MD_CTX *context = sha256_begin();
    for (size_t index = 0; index < count; index++) {
        if (EVP_DigestUpdate(context, parts[index].data, parts[index].length) != 1) {
            crypto_failed("SHA-256");
        }
    }
    unsigned size = 0;
    if (EVP_DigestFinal_ex(context, ret_digest->bytes, &size) != 1 || size != SHA256_BYTES) {
        crypto_failed("SHA-256");
    }
}

void sha256_of(const void *data, size_t size, struct sha256 *ret_digest)
{
    sha256_of_parts(&(struct text){ data, size }, 1, ret_digest);
}

void sha256_hex(const void *data, size_t size, char ret_hex[SHA256_HEX_SIZE])
{
    struct sha256 digest;
    sha256_of(data, size, &digest);
    hex_encode(digest.bytes, sizeof(digest.bytes), ret_hex);
}

void hmac_sha256(const uint8_t *key, size_t key_size, const void *data, size_t size, struct sha256 *ret_mac)
{
    crypto_auth_hmacsha256_state state;
    if (crypto_auth_hmacsha256_init(&state, key, key_size) != 0 || crypto_auth_hmacsha256_update(&state, data, size) != 0 ||
        crypto_auth_hmacsha256_final(&state, ret_mac->bytes) != 0) {
        crypto_failed("HMAC");
    }
    sodium_memzero(&state, sizeof(state));
}

void generic_hash(const void *data, size_t size, uint8_t ret_digest[static 32])
{
    if (crypto_generichash(ret_digest, 32, data, size, NULL, 0) != 0) {
        crypto_failed("the generic hash");
    }
}

bool secret_equal(const void *a, const void *b, size_t size)
{
    return sodium_memcmp(a, b, size) == 0;
}

void secret_wipe(void *data, size_t size)
{
    sodium_memzero(data, size);
}

void *secret_alloc(size_t size)
{
    void *memory = sodium_malloc(size);
    if (memory == NULL) {
        memory_exhausted();
    }
    return memory;
}
