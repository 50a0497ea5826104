/* The words of the WebSocket handshake: keys, offers and answers of extensions, lists in headers. What the server answers, the client accepts as an answer. */
#include "fuzz.h"
#include "net/http_head.h"
#include "net/websocket_handshake.h"
#include "util/text.h"

static void check_offer(const char *offers)
{
    char answer[WEBSOCKET_EXTENSION_SIZE] = "untouched";
    bool deflate = false;

    if (!websocket_answer_offer(offers, answer)) {
        REQUIRE(string_equal(answer, "untouched"));
        return;
    }
    REQUIRE(strlen(answer) < sizeof(answer) && strcasestr(offers, "permessage-deflate") != NULL);
    REQUIRE(websocket_check_answer(answer, &deflate) == 0 && deflate);
}

static void check_answer(const char *answer)
{
    bool deflate = false;

    if (websocket_check_answer(answer, &deflate) != 0) {
        REQUIRE(!deflate);
        return;
    }
    REQUIRE(deflate && strcasestr(answer, "server_no_context_takeover") != NULL && strcasestr(answer, "client_max_window_bits") == NULL);
}

/* A splitter of another make: elements between commas, up to a semicolon or a blank. */
static bool naive_list_has(const char *value, const char *token)
{
    char *copy = memory_strdup(value);
    bool found = false;
    for (char *at = copy, *next; at != NULL; at = next) {
        next = strchr(at, ',');
        if (next != NULL)
            *next++ = '\0';
        at += strspn(at, " \t");
        at[strcspn(at, " \t;")] = '\0';
        found = found || strcasecmp(at, token) == 0;
    }
    free(copy);
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    char *text = fuzz_take_string(&input, '\0');
    char accept[WEBSOCKET_ACCEPT_SIZE];

    check_offer(text);
    check_answer(text);
    REQUIRE(http_list_has(text, "close") == naive_list_has(text, "close"));
    REQUIRE(http_list_has(text, "upgrade") == naive_list_has(text, "upgrade"));
    if (websocket_key_is_valid(text)) {
        REQUIRE(strlen(text) == WEBSOCKET_KEY_SIZE - 1 && string_equal(text + 22, "=="));
        websocket_accept_value(text, accept);
        REQUIRE(strlen(accept) == WEBSOCKET_ACCEPT_SIZE - 1);
    }
    if (websocket_challenge_is_valid(text))
        REQUIRE(strlen(text) == WEBSOCKET_CHALLENGE_LENGTH);
    free(text);
    return 0;
}
