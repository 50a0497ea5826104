/* Linked into the programs that script/coverage builds, in the place of _exit: a process that ends by _exit (a detached daemon, one whose fsync
   failed, a command that an interrupt ended) would otherwise leave its counters behind. */
#include <unistd.h>

void __gcov_dump(void);
__attribute__((noreturn)) void __real__exit(int status);
__attribute__((noreturn)) void __wrap__exit(int status);

__attribute__((noreturn)) void __wrap__exit(int status)
{
    __gcov_dump();
    __real__exit(status);
}
