/* Heads of requests and responses, chunked bodies, and the small grammars of headers: whatever comes, no byte beyond, and what is accepted holds together. */
#include "net/http_chunked.h"
#include "net/http_head.h"
#include "net/http_server.h"
#include "net/websocket_handshake.h"
#include "util/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_accepted(const struct http_head *head, const char *bytes)
{
    require(!(head->chunked && head->length >= 0));
    for (size_t i = 0; i < head->field_count; i++) {
        require(strlen(bytes + head->fields[i].name) == head->fields[i].name_length);
        require(strlen(bytes + head->fields[i].value) == head->fields[i].value_length);
    }
}

static void fuzz_head(const uint8_t *data, size_t size, bool response)
{
    char *bytes = memory_dup(data, size);
    const char *problem = NULL;
    size_t scanned = 0, head_size = 0;
    struct http_head head;
    int result;

    if (http_head_find_end(bytes, size, &scanned, &head_size, &problem) == HTTP_SCAN_DONE) {
        require(head_size <= size && head_size <= LIMIT_HTTP_HEAD);
        result = response ? http_head_parse_response(bytes, head_size, &head, &problem)
                          : http_head_parse_request(bytes, head_size, &head, &problem);
        require(result == 0 || problem != NULL);
        if (result == 0)
            check_accepted(&head, bytes);
        if (result == 0 && !response)
            require(bytes[head.path] == '/' || bytes[head.path] == '*');
    }
    free(bytes);
}

/* In pieces as long as the first byte says. */
static void fuzz_chunked(const uint8_t *data, size_t size)
{
    struct http_chunked chunked = { 0 };
    const size_t step = size == 0 ? 1 : data[0] % 16 + 1u;
    char *output = memory_alloc(size + 1);
    size_t at = 0, already = 0;

    while (at < size && chunked.state != CHUNKED_DONE) {
        const size_t piece = size - at < step ? size - at : step;
        char *input = memory_dup(data + at, piece);
        size_t consumed = 0, produced = 0;
        bool too_large = false;
        const int result = http_chunked_decode(&chunked, input, piece, output + already, already, 100000, &consumed, &produced, &too_large);
        free(input);
        if (result != 0)
            break;
        require(consumed > 0 && produced <= consumed);
        at += consumed;
        already += produced;
    }
    free(output);
}

static void fuzz_values(const uint8_t *data, size_t size)
{
    char answer[WEBSOCKET_EXTENSION_SIZE];
    char *text = memory_alloc(size + 1);
    bool flag;

    memcpy(text, data, size);
    text[size] = '\0';
    (void)websocket_answer_offer(text, answer);
    if (websocket_check_answer(text, &flag) == 0)
        require(flag);
    (void)websocket_key_is_valid(text);
    (void)http_host_is_allowed(text, 80, NULL, 0);
    (void)http_origin_is_allowed(text, NULL, NULL, 0, &flag);
    (void)http_list_has(text, "close");
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_head(data, size, false);
    fuzz_head(data, size, true);
    fuzz_chunked(data, size);
    fuzz_values(data, size);
    return 0;
}
