/* Owns the table of what a message is an event for. Must not know how hooks run. */
#include "daemon/hook_match.h"

#include <strings.h>

#include "trust/trust.h"
#include "util/memory.h"
#include "util/text.h"

static void add(const struct hook_match *match, const char *hook, char **hooks, size_t *count)
{
    if (match->runs(match->argument, hook, match->verified))
        hooks[(*count)++] = memory_strdup(hook);
}

size_t hook_match(const struct hook_match *match, char *ret_hooks[static INBOX_HOOKS_MAXIMUM])
{
    size_t count = 0;
    add(match, "on-message", ret_hooks, &count);
    if (strcmp(match->kind, "dm") == 0) {
        add(match, "on-dm", ret_hooks, &count);
    } else if (strcmp(match->kind, "topic") == 0 && match->topic != NULL) {
        char *hook = memory_printf("on-topic-%s", match->topic);
        add(match, hook, ret_hooks, &count);
        free(hook);
    }
    if (match->mentions_us)
        add(match, "on-mention", ret_hooks, &count);
    /* A file is only what a verified member says is one. */
    if (match->says_file && match->verified == INBOX_VERIFIED)
        add(match, "on-file-share", ret_hooks, &count);
    return count;
}

static bool is_us(const char *mention, const char *pubkey, const char *folded_name)
{
    const char *name = *mention == '@' ? mention + 1 : mention;
    if (strcasecmp(name, pubkey) == 0)
        return true;
    if (folded_name == NULL || *folded_name == '\0')
        return false;
    char *folded = trust_fold_name(name);
    bool same = strcmp(folded, folded_name) == 0;
    free(folded);
    return same;
}

bool hook_mentions(const json_t *mentions, const char *pubkey, const char *folded_name)
{
    size_t index;
    const json_t *mention;
    json_array_foreach(mentions, index, mention)
    {
        if (json_is_string(mention) && is_us(json_string_value(mention), pubkey, folded_name))
            return true;
    }
    return false;
}
