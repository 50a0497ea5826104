/* Owns the filling of struct error. Must not log or print. */
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>

static const char *const CODE_NAMES[] = {
    [ERROR_NONE] = "none",         [ERROR_INVALID] = "invalid",         [ERROR_TOO_LARGE] = "too_large", [ERROR_NOT_FOUND] = "not_found",
    [ERROR_CONFLICT] = "conflict", [ERROR_AMBIGUOUS] = "ambiguous",     [ERROR_DENIED] = "denied",       [ERROR_FULL] = "full",
    [ERROR_BUSY] = "busy",         [ERROR_UNREACHABLE] = "unreachable", [ERROR_TIMEOUT] = "timeout",     [ERROR_CORRUPT] = "corrupt",
    [ERROR_NEWER] = "newer",       [ERROR_SYSTEM] = "system",           [ERROR_INTERNAL] = "internal",
};

/* A message is formatted beside the error first, because an argument may be the error's own old message. */
struct draft {
    char text[ERROR_MESSAGE_SIZE];
    size_t length;
};

/* Backs up over a UTF-8 sequence that a cut at `length` would leave incomplete. */
static size_t whole_characters(const char *text, size_t length)
{
    size_t start = length;
    while (start > 0 && length - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) {
        start--;
    }
    if (start == 0 || (unsigned char)text[start - 1] < 0xC0) {
        return length;
    }
    unsigned char lead = (unsigned char)text[start - 1];
    size_t needed = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    return length - (start - 1) < needed ? start - 1 : length;
}

static void draft_append(struct draft *draft, const char *format, va_list arguments) ATTRIBUTE_PRINTF(2, 0);
static void draft_append(struct draft *draft, const char *format, va_list arguments)
{
    size_t room = sizeof(draft->text) - draft->length;
    int written = vsnprintf(draft->text + draft->length, room, format, arguments);
    if (written < 0) {
        draft->text[draft->length] = '\0';
    } else if ((size_t)written >= room) {
        draft->length = whole_characters(draft->text, sizeof(draft->text) - 1);
        draft->text[draft->length] = '\0';
    } else {
        draft->length += (size_t)written;
    }
}

static void draft_append_text(struct draft *draft, const char *format, ...) ATTRIBUTE_PRINTF(2, 3);
static void draft_append_text(struct draft *draft, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    draft_append(draft, format, arguments);
    va_end(arguments);
}

static void draft_store(const struct draft *draft, struct error *error)
{
    memcpy(error->message, draft->text, draft->length + 1);
}

int error_set(struct error *error, enum error_code code, const char *format, ...)
{
    if (error != NULL) {
        struct draft draft = { .length = 0 };
        va_list arguments;
        va_start(arguments, format);
        draft_append(&draft, format, arguments);
        va_end(arguments);
        error->code = code;
        error->sys_errno = 0;
        draft_store(&draft, error);
    }
    return -(int)code;
}

static enum error_code code_of_errno(int sys_errno)
{
    switch (sys_errno) {
    case ENOSPC:
    case EDQUOT:
        return ERROR_FULL;
    case ENOENT:
        return ERROR_NOT_FOUND;
    case EACCES:
    case EPERM:
        return ERROR_DENIED;
    default:
        return ERROR_SYSTEM;
    }
}

static const char *describe_errno(int sys_errno, char *space, size_t size)
{
#ifdef __GLIBC__
    return strerror_r(sys_errno, space, size);
#else
    return strerror_r(sys_errno, space, size) == 0 ? space : "unknown error";
#endif
}

int error_set_errno(struct error *error, const char *format, ...)
{
    int sys_errno = errno;
    enum error_code code = code_of_errno(sys_errno);
    if (error != NULL) {
        struct draft draft = { .length = 0 };
        char space[128];
        va_list arguments;
        va_start(arguments, format);
        draft_append(&draft, format, arguments);
        va_end(arguments);
        draft_append_text(&draft, ": %s", describe_errno(sys_errno, space, sizeof(space)));
        error->code = code;
        error->sys_errno = sys_errno;
        draft_store(&draft, error);
    }
    errno = sys_errno;
    return -(int)code;
}

int error_prefix(struct error *error, const char *format, ...)
{
    if (error == NULL) {
        return -(int)ERROR_INTERNAL;
    }
    struct draft draft = { .length = 0 };
    va_list arguments;
    va_start(arguments, format);
    draft_append(&draft, format, arguments);
    va_end(arguments);
    draft_append_text(&draft, ": %s", error->message);
    draft_store(&draft, error);
    return -(int)error->code;
}

const char *error_code_name(enum error_code code)
{
    if ((size_t)code >= ARRAY_LENGTH(CODE_NAMES)) {
        return "unknown";
    }
    return CODE_NAMES[code];
}
