/* Owns what is said in the opening handshake. permessage-deflate is used without context takeover only: a window kept for each connection
 * would cost 32 KiB of each. */
#include "net/websocket_handshake.h"

#include <openssl/evp.h>

#include "net/http_head.h"
#include "util/ids.h"
#include "util/memory.h"
#include "util/text.h"

/* ---- keys -------------------------------------------------------------------------------------------------------- */

void websocket_make_key(char ret_key[static WEBSOCKET_KEY_SIZE])
{
    unsigned char bytes[16];

    random_bytes(bytes, sizeof(bytes));
    (void)EVP_EncodeBlock((unsigned char *)ret_key, bytes, sizeof(bytes));
}

bool websocket_key_is_valid(const char *key)
{
    unsigned char bytes[18];
    char again[WEBSOCKET_KEY_SIZE];

    if (strlen(key) != WEBSOCKET_KEY_SIZE - 1 || EVP_DecodeBlock(bytes, (const unsigned char *)key, WEBSOCKET_KEY_SIZE - 1) != 18)
        return false;
    (void)EVP_EncodeBlock((unsigned char *)again, bytes, 16);
    return string_equal(again, key);
}

void websocket_accept_value(const char *key, char ret_accept[static WEBSOCKET_ACCEPT_SIZE])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    char *text = memory_printf("%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);

    if (EVP_Digest(text, strlen(text), digest, &size, EVP_sha1(), NULL) != 1 || size != 20)
        memory_exhausted();
    free(text);
    (void)EVP_EncodeBlock((unsigned char *)ret_accept, digest, 20);
}

bool websocket_challenge_is_valid(const char *challenge)
{
    return strlen(challenge) == WEBSOCKET_CHALLENGE_LENGTH && strspn(challenge, "0123456789abcdef") == WEBSOCKET_CHALLENGE_LENGTH;
}

/* ---- extensions -------------------------------------------------------------------------------------------------- */

const char websocket_offer[] = "permessage-deflate; client_no_context_takeover; server_no_context_takeover";

/* One element of Sec-WebSocket-Extensions. */
struct extension {
    bool valid;
    bool is_deflate;
    bool server_no_context, client_no_context;
    bool has_server_bits, has_client_bits;
    int server_bits;
};

static const char *skip_spaces(const char *at)
{
    return at + strspn(at, " \t");
}

static size_t token_length(const char *at)
{
    return strcspn(at, " \t;,=\"");
}

static bool token_is(const char *at, size_t length, const char *word)
{
    return strlen(word) == length && strncasecmp(at, word, length) == 0;
}

/* 8 to 15, bare or quoted. -1: anything else. */
static int parse_bits(const char *at, size_t length)
{
    static const char *const values[] = { "8", "9", "10", "11", "12", "13", "14", "15" };

    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        if (token_is(at, length, values[i]))
            return (int)i + 8;
    }
    return -1;
}

static bool set_once(bool *flag)
{
    const bool was_set = *flag;

    *flag = true;
    return !was_set;
}

static bool take_parameter(struct extension *extension, const char *name, size_t name_length, const char *value, size_t value_length)
{
    if (token_is(name, name_length, "server_no_context_takeover"))
        return value == NULL && set_once(&extension->server_no_context);
    if (token_is(name, name_length, "client_no_context_takeover"))
        return value == NULL && set_once(&extension->client_no_context);
    if (token_is(name, name_length, "client_max_window_bits"))
        return (value == NULL || parse_bits(value, value_length) > 0) && set_once(&extension->has_client_bits);
    if (token_is(name, name_length, "server_max_window_bits") && value != NULL) {
        extension->server_bits = parse_bits(value, value_length);
        return extension->server_bits > 0 && set_once(&extension->has_server_bits);
    }
    return false;
}

/* Parses "; name[=value]" at *at; false: there is none. */
static bool parse_parameter(const char **at, struct extension *extension)
{
    const char *name, *value = NULL;
    size_t name_length, value_length = 0;

    if (**at != ';')
        return false;
    name = skip_spaces(*at + 1);
    name_length = token_length(name);
    *at = skip_spaces(name + name_length);
    if (**at == '=') {
        value = skip_spaces(*at + 1);
        const bool quoted = *value == '"';
        value += quoted ? 1 : 0;
        value_length = quoted ? strcspn(value, "\"") : token_length(value);
        *at = value + value_length;
        if (quoted && **at == '"')
            ++*at;
        *at = skip_spaces(*at);
    }
    if (!take_parameter(extension, name, name_length, value, value_length))
        extension->valid = false;
    return true;
}

/* The element at *at, which then stands behind its comma, or at the end. */
static struct extension parse_extension(const char **at)
{
    struct extension extension = { .valid = true };
    const char *name = skip_spaces(*at);
    const size_t length = token_length(name);

    extension.is_deflate = token_is(name, length, "permessage-deflate");
    *at = skip_spaces(name + length);
    while (parse_parameter(at, &extension))
        continue;
    if (**at != ',' && **at != '\0')
        extension.valid = false;
    *at += strcspn(*at, ",");
    if (**at == ',')
        ++*at;
    return extension;
}

bool websocket_answer_offer(const char *offers, char ret_answer[static WEBSOCKET_EXTENSION_SIZE])
{
    while (offers != NULL && *offers != '\0') {
        const struct extension offer = parse_extension(&offers);
        if (!offer.valid || !offer.is_deflate)
            continue;
        if (offer.has_server_bits)
            (void)snprintf(ret_answer, WEBSOCKET_EXTENSION_SIZE, "%s; server_max_window_bits=%d", websocket_offer, offer.server_bits);
        else
            (void)snprintf(ret_answer, WEBSOCKET_EXTENSION_SIZE, "%s", websocket_offer);
        return true;
    }
    return false;
}

int websocket_check_answer(const char *answer, bool *ret_deflate)
{
    struct extension extension;

    if (answer == NULL) {
        *ret_deflate = false;
        return 0;
    }
    extension = parse_extension(&answer);
    /* A server that keeps its context after we asked it not to would send what we cannot read. */
    if (*answer != '\0' || !extension.valid || !extension.is_deflate || !extension.server_no_context || extension.has_client_bits)
        return -1;
    *ret_deflate = true;
    return 0;
}
