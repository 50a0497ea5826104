/* What the broker keeps when it is set up (privilege/privilege.h). */
#ifndef BROKER_CONFINE_H
#define BROKER_CONFINE_H

#include <stdint.h>

#include "broker/broker.h"
#include "privilege/privilege.h"

/* Before the store's threads. `store_directory` NULL: the store is no file. Blocking. */
void broker_confine(const struct broker_options *options, const char *store_directory, const char *token_path, uint16_t port,
                    struct privilege_state *ret_state);
/* One line about it, once it serves: a start that fails says one thing. */
void broker_confine_log(const struct broker_options *options, const struct privilege_state *state);

#endif
