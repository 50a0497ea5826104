/* Owns the form of those requests. Judges no answer. */
#include "link/broker_http.h"

#include "json/json.h"
#include "net/http_client.h"
#include "net/websocket.h"
#include "util/limits.h"
#include "util/memory.h"
#include "util/text.h"

enum { BROKER_TIMEOUT_MS = 15000 };

int broker_url_check(const char *url, bool allow_insecure, struct error *error)
{
    struct url_parts parts = { 0 };
    if (!string_has_prefix(url, "ws://") && !string_has_prefix(url, "wss://")) {
        return error_set(error, ERROR_INVALID, "the broker's URL must begin with wss:// (or ws:// on this host)");
    }
    if (url_parse(url, &parts, error) != 0) {
        return -ERROR_INVALID;
    }
    bool insecure = !parts.tls && !host_is_loopback(parts.host) && !allow_insecure;
    url_parts_release(&parts);
    if (insecure) {
        return error_set(error, ERROR_DENIED,
                         "ws:// to another host is not encrypted; use wss://, or set broker.allow_insecure = true in config.toml");
    }
    return 0;
}

int broker_http_post(const struct broker_http *broker, const char *route, const char *bearer, const json_t *body, int *ret_status,
                     json_t **ret_answer, struct error *error)
{
    struct http_client *client = NULL;
    struct http_response response = { 0 };
    struct url_parts parts = { 0 };
    struct buffer text, headers;
    char *target = NULL;
    int status;

    buffer_init(&text, LIMIT_HTTP_BODY);
    buffer_init(&headers, LIMIT_HTTP_HEAD);
    status = broker_url_check(broker->broker_url, broker->allow_insecure, error);
    if (status != 0) {
        goto out;
    }
    status = url_parse(broker->broker_url, &parts, error);
    if (status != 0) {
        goto out;
    }
    char *last = strrchr(parts.path, '/');
    target = memory_printf("%.*s/%s", last == NULL ? 0 : (int)(last - parts.path), parts.path, route);
    (void)json_print(body, &text);
    (void)buffer_append_text(&headers, "Content-Type: application/json\r\n");
    if (bearer != NULL) {
        (void)buffer_printf(&headers, "Authorization: Bearer %s\r\n", bearer);
    }
    status = http_client_open_url(broker->broker_url, broker->ca_file, BROKER_TIMEOUT_MS, &client, error);
    if (status != 0) {
        goto out;
    }
    status = http_client_request(client, "POST", target, headers.data, text.data, text.length, &response, error);
    if (status != 0) {
        goto out;
    }
    *ret_status = response.status;
    if (json_parse_strict(response.body.data, response.body.length, ret_answer, NULL) != 0) {
        *ret_answer = NULL;
    }
out:
    http_response_release(&response);
    http_client_free(client);
    url_parts_release(&parts);
    free(target);
    buffer_wipe_release(&headers);
    buffer_wipe_release(&text);
    return status;
}

int broker_http_join(const struct broker_http *broker, const struct invite *invite, const struct keypair *keys, const char *name,
                     int64_t now_ms, int *ret_status, json_t **ret_answer, struct error *error)
{
    json_t *certificate = NULL;
    int status = certificate_make(invite, keys, name, now_ms, &certificate, error);
    if (status != 0) {
        return status;
    }
    json_t *body = json_new_object();
    json_put(body, "invite", json_incref(json_object_get(certificate, "invite")));
    json_put(body, "cert", certificate);
    json_put_string(body, "name", name);
    json_put_integer(body, "timestamp", now_ms);
    status = broker_http_post(broker, "join", NULL, body, ret_status, ret_answer, error);
    json_decref(body);
    return status;
}
