/* Owns allocation that cannot fail (docs/decisions/0003). Must not log through util/log.h: that allocates. */
#include "util/memory.h"

#include <stdarg.h>
#include <unistd.h>

void memory_exhausted(void)
{
    static const char line[] = "claudemesh: out of memory\n";
    /* Nothing is left to be done about a failing stderr. */
    if (write(STDERR_FILENO, line, sizeof(line) - 1) < 0) {
        _exit(70);
    }
    _exit(70);
}

void *memory_alloc(size_t size)
{
    void *memory = malloc(size == 0 ? 1 : size);
    if (memory == NULL) {
        memory_exhausted();
    }
    return memory;
}

void *memory_zalloc(size_t size)
{
    return memory_calloc(1, size);
}

void *memory_calloc(size_t count, size_t size)
{
    void *memory = count == 0 || size == 0 ? calloc(1, 1) : calloc(count, size);
    if (memory == NULL) {
        memory_exhausted();
    }
    return memory;
}

void *memory_realloc(void *pointer, size_t size)
{
    void *memory = realloc(pointer, size == 0 ? 1 : size);
    if (memory == NULL) {
        memory_exhausted();
    }
    return memory;
}

void *memory_dup(const void *data, size_t size)
{
    void *copy = memory_alloc(size);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    return copy;
}

char *memory_strdup(const char *text)
{
    if (text == NULL) {
        return NULL;
    }
    return memory_dup(text, strlen(text) + 1);
}

char *memory_strndup(const char *text, size_t size)
{
    if (text == NULL) {
        return NULL;
    }
    size_t length = strnlen(text, size);
    char *copy = memory_alloc(length + 1);
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *memory_printf(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0) {
        memory_exhausted();
    }
    return text;
}

void memory_wipe(void *data, size_t size)
{
    if (size > 0) {
#ifdef __APPLE__
        (void)memset_s(data, size, 0, size);
#else
        explicit_bzero(data, size);
#endif
    }
}
