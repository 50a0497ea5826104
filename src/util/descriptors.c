/* Owns the process's limit of descriptors. Must not lower it. */
#include "util/descriptors.h"

#include <sys/resource.h>

size_t descriptors_allow(size_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    if (limit.rlim_cur < wanted) {
        const struct rlimit raised = { limit.rlim_max < wanted ? limit.rlim_max : wanted, limit.rlim_max };
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
            limit.rlim_cur = raised.rlim_cur;
    }
    return limit.rlim_cur > SIZE_MAX ? SIZE_MAX : (size_t)limit.rlim_cur;
}
