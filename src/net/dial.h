/* Finds a host's addresses and connects to the first that answers, without ever blocking. Internal to net/. Loop thread. */
#ifndef NET_DIAL_H
#define NET_DIAL_H

#include "net/loop.h"

struct dial;

/* fd: connected, non-blocking, given to the callee, with the peer's address; or -1 and a sentence. The dial is freed after it. */
typedef void dial_done(void *argument, int fd, const char *peer_address, const char *failure);

/* host: a name, or an address without brackets. Never calls back from here. timeout_ms is for everything. */
struct dial *dial_new(struct loop *loop, const char *host, uint16_t port, int64_t timeout_ms, dial_done *done, void *argument) MUST_CHECK;
void dial_cancel(struct dial *dial); /* frees; done is not called. Takes NULL */

#endif
