/* TLS contexts and what they must check: at least 1.2, certificates always verified by a client, the name or address of the host
 * compared. */
#ifndef NET_TLS_H
#define NET_TLS_H

#include <openssl/ssl.h>

#include "util/attributes.h"
#include "util/error.h"

/* PEM files: the chain, leaf first, and its key. Free with SSL_CTX_free. */
int tls_server_context_new(const char *certificate_file, const char *key_file, SSL_CTX **ret_context, struct error *error) MUST_CHECK;
/* ca_file NULL or "": the system store. */
int tls_client_context_new(const char *ca_file, SSL_CTX **ret_context, struct error *error) MUST_CHECK;
/* A client's SSL for that host (a name, or an address without brackets): sends the name, will accept only a certificate for it. */
int tls_client_new(SSL_CTX *context, const char *host, SSL **ret_tls, struct error *error) MUST_CHECK;

/* A sentence, heap, about the failure that SSL_get_error just reported for tls; empties OpenSSL's error queue. */
char *tls_failure(const SSL *tls) MUST_CHECK;

#endif
