/* Identifiers and random bytes (getrandom). Any thread. */
#ifndef UTIL_IDS_H
#define UTIL_IDS_H

#include <stddef.h>
#include <stdint.h>

enum { ULID_SIZE = 27, UUID_SIZE = 37 }; /* with the NUL */

/* 26 Crockford base32 digits; within a process and millisecond, strictly ascending. */
void ulid_generate(char ret_ulid[ULID_SIZE]);
void uuid_generate(char ret_uuid[UUID_SIZE]); /* version 4, lower case */
void random_bytes(void *ret_bytes, size_t size);
/* Uniform in [0, bound); bound > 0. Not for keys. */
uint32_t random_uniform(uint32_t bound);

#endif
