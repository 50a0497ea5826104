/* What the files of privilege/ share. */
#ifndef PRIVILEGE_INTERNAL_H
#define PRIVILEGE_INTERNAL_H

#include "privilege/privilege.h"
#include "util/attributes.h"

/* Each: 1 it holds, 0 this system has not got it, -1 with errno. */
int privilege_forbid_system_calls(void) MUST_CHECK;
int privilege_restrict_files(const struct privilege_rules *rules, int *ret_version) MUST_CHECK;

/* The sanitizers' run-time starts a process that looks at this one when it ends. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PRIVILEGE_HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define PRIVILEGE_HAS_SANITIZER 1
#endif
#endif

#endif
