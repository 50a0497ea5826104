/* Makes OpenSSL contexts and puts OpenSSL's errors into words. Moves no bytes: channel.c and http_client.c do. */
#include "net/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "util/memory.h"
#include "util/text.h"

static const char *newest_reason(void)
{
    const unsigned long code = ERR_peek_last_error();
    const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);

    return reason == NULL ? "unknown error" : reason;
}

static int context_new(const SSL_METHOD *method, SSL_CTX **ret_context, struct error *error)
{
    SSL_CTX *context = SSL_CTX_new(method);

    if (context == NULL)
        return error_set(error, ERROR_SYSTEM, "Cannot make a TLS context: %s.", newest_reason());
    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1) {
        SSL_CTX_free(context);
        return error_set(error, ERROR_SYSTEM, "Cannot demand TLS 1.2: %s.", newest_reason());
    }
    /* Idle connections are many: no 34 KiB of buffers for each. Writes continue from a buffer that may have moved. */
    (void)SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    *ret_context = context;
    return 0;
}

int tls_server_context_new(const char *certificate_file, const char *key_file, SSL_CTX **ret_context, struct error *error)
{
    SSL_CTX *context;
    int result;

    ERR_clear_error();
    result = context_new(TLS_server_method(), &context, error);
    if (result != 0)
        return result;
    if (SSL_CTX_use_certificate_chain_file(context, certificate_file) != 1) {
        result = error_set(error, ERROR_INVALID, "Cannot read a certificate from '%s': %s.", certificate_file, newest_reason());
        goto fail;
    }
    if (SSL_CTX_use_PrivateKey_file(context, key_file, SSL_FILETYPE_PEM) != 1) {
        result = error_set(error, ERROR_INVALID, "Cannot read a private key from '%s': %s.", key_file, newest_reason());
        goto fail;
    }
    if (SSL_CTX_check_private_key(context) != 1) {
        result = error_set(error, ERROR_INVALID, "The key in '%s' is not the one of the certificate in '%s'.", key_file, certificate_file);
        goto fail;
    }
    *ret_context = context;
    return 0;

fail:
    SSL_CTX_free(context);
    return result;
}

int tls_client_context_new(const char *ca_file, SSL_CTX **ret_context, struct error *error)
{
    const bool own_file = ca_file != NULL && ca_file[0] != '\0';
    SSL_CTX *context;
    int result;

    ERR_clear_error();
    result = context_new(TLS_client_method(), &context, error);
    if (result != 0)
        return result;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (own_file && SSL_CTX_load_verify_locations(context, ca_file, NULL) != 1) {
        result = error_set(error, ERROR_INVALID, "Cannot read certificates from '%s': %s.", ca_file, newest_reason());
        goto fail;
    }
    if (!own_file && SSL_CTX_set_default_verify_paths(context) != 1) {
        result = error_set(error, ERROR_SYSTEM, "Cannot use the system's certificates: %s.", newest_reason());
        goto fail;
    }
    *ret_context = context;
    return 0;

fail:
    SSL_CTX_free(context);
    return result;
}

static bool is_address(const char *host)
{
    struct in6_addr address;

    return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

int tls_client_new(SSL_CTX *context, const char *host, SSL **ret_tls, struct error *error)
{
    SSL *tls;
    char *name = NULL; /* SSL_ctrl takes it as a void * */
    bool named;

    ERR_clear_error();
    tls = SSL_new(context);
    if (tls == NULL)
        return error_set(error, ERROR_SYSTEM, "Cannot begin TLS: %s.", newest_reason());
    SSL_set_connect_state(tls);
    SSL_set_hostflags(tls, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (is_address(host))
        named = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls), host) == 1;
    else
        named = SSL_set1_host(tls, host) == 1 &&
                SSL_ctrl(tls, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name = memory_strdup(host)) == 1;
    free(name);
    if (!named) {
        SSL_free(tls);
        return error_set(error, ERROR_INVALID, "'%s' cannot be compared with a certificate.", host);
    }
    *ret_tls = tls;
    return 0;
}

char *tls_failure(const SSL *tls)
{
    const long verified = SSL_get_verify_result(tls);
    char *text;

    if (ERR_peek_last_error() == 0)
        text = memory_strdup("The connection was lost.");
    else if (verified != X509_V_OK && SSL_get_verify_mode(tls) != SSL_VERIFY_NONE)
        text = memory_printf("The certificate is not accepted: %s.", X509_verify_cert_error_string(verified));
    else
        text = memory_printf("TLS failed: %s.", newest_reason());
    ERR_clear_error();
    return text;
}
