/* hooks.toml: a file that is accepted gives sections whose values are in range, or say what is wrong and where; one that is not says line and column. */
#include "fuzz.h"
#include "hooks/hook_config.h"
#include "util/text.h"

static void check_hook(const struct hooks_file *file, const struct hook_config *hook)
{
    REQUIRE(hooks_file_find(file, hook->name) != NULL);
    if (hook->problem != NULL) {
        REQUIRE(string_has_prefix(hook->problem, "file:"));
    } else {
        REQUIRE(hook_name_is_valid(hook->name) && hooks_file_find(file, hook->name) == hook);
    }
    REQUIRE(hook->timeout_ms >= 1000 && hook->timeout_ms <= 3600 * 1000 && hook->timeout_ms % 1000 == 0);
    REQUIRE(hook->output_size_limit <= 1024 * 1024);
    for (size_t i = 0; i < hook->redact_count; i++)
        REQUIRE(hook->redact_payload[i][0] != '\0' && hook->redact_payload[i][0] != '.');
    for (size_t i = 0; i < hook->scope_count; i++) {
        const char *scope = hook->capability_token_scope[i];
        REQUIRE(string_equal(scope, "reply:event") || string_equal(scope, "dm:send:sender") || string_has_prefix(scope, "topic:"));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hooks_file file = { .hooks = NULL };
    struct error error = { .code = ERROR_NONE };
    char *bytes = memory_dup(data, size); /* its end is watched */
    if (hooks_file_parse("file", bytes, size, &file, &error) == 0) {
        for (size_t i = 0; i < file.count; i++)
            check_hook(&file, &file.hooks[i]);
    } else {
        REQUIRE(file.hooks == NULL && error.code == ERROR_INVALID && string_has_prefix(error.message, "file:"));
    }
    hooks_file_release(&file);
    free(bytes);
    return 0;
}
