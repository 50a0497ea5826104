/* Who may send now (70-broker): the rate of each member, charged at most once for an id and window, and the destinations of a connection that are held after a passing
 * refusal, so that nothing overtakes. Lives on the store's thread: decided there, in the order of arrival. */
#ifndef BROKER_ADMISSION_H
#define BROKER_ADMISSION_H

#include "broker/store/store.h"

struct admission;
struct admission_options {
    int64_t rate_per_minute, burst; /* 0: no limit */
    int64_t (*now_ms)(void);        /* monotonic */
};
struct admission *admission_new(const struct admission_options *options) MUST_CHECK;
void admission_free(struct admission *admission); /* takes NULL; after the store is closed */
/* What the store asks. */
struct store_admission admission_for_store(struct admission *admission);

#endif
