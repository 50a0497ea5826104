/* The broker: sessions, accept, delivery, presence, limits (70-broker). Runs in the foreground of `broker serve`. */
#ifndef BROKER_BROKER_H
#define BROKER_BROKER_H

#include "config/config.h"
#include "util/error.h"

struct broker_options {
    const char *listen;             /* HOST:PORT; default 127.0.0.1:7900; port 0: any, written to the log and ready line */
    const char *store;              /* sqlite:PATH or postgresql://… ; NULL: broker/broker.db of the configuration directory */
    const char *tls_cert, *tls_key; /* NULL: no TLS */
    const char *admin_token_file;   /* NULL: `admin-token` in the store's directory */
    const struct config_paths *paths;
    const struct settings *settings; /* of BROKER_SETTINGS */
    const char *config_file;         /* which they were read from, to be read again at SIGHUP; NULL none */
};

/* Until SIGTERM or SIGINT. Returns an exit status. Prints one line "claudemesh broker listening on ws://HOST:PORT/ws" to stdout when ready. */
int broker_run(const struct broker_options *options);

/* The consistency check of 70-broker "Keeping house" on a store that no broker serves or that one serves (reading only). Prints findings through `found`. Returns their count, or a
 * negative error. */
int64_t broker_check(const char *store, void (*found)(void *argument, const char *finding), void *argument, struct error *error) MUST_CHECK;

#endif
