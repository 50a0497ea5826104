/* Compiler attributes, spelled once. */
#ifndef UTIL_ATTRIBUTES_H
#define UTIL_ATTRIBUTES_H

#define ATTRIBUTE_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#define MUST_CHECK __attribute__((warn_unused_result))
#define NO_RETURN __attribute__((noreturn))
#define UNUSED __attribute__((unused))

#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* The struct that holds `member`, from a pointer to that member. */
#define CONTAINER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#endif
