/* The words of the WebSocket opening handshake (RFC 6455, 7692): keys and extensions. Pure, but for the random key. Internal to net/. */
#ifndef NET_WEBSOCKET_HANDSHAKE_H
#define NET_WEBSOCKET_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>

#include "util/attributes.h"

enum {
    WEBSOCKET_KEY_SIZE = 25,    /* base64 of 16 bytes, and the NUL */
    WEBSOCKET_ACCEPT_SIZE = 29, /* of 20 */
    WEBSOCKET_CHALLENGE_LENGTH = 64
};

void websocket_make_key(char ret_key[static WEBSOCKET_KEY_SIZE]);
/* Base64 of 16 bytes in its one canonical spelling. */
bool websocket_key_is_valid(const char *key);
void websocket_accept_value(const char *key, char ret_accept[static WEBSOCKET_ACCEPT_SIZE]);
/* 64 lower-case hex digits. */
bool websocket_challenge_is_valid(const char *challenge);

/* What a client offers. */
extern const char websocket_offer[];

enum { WEBSOCKET_EXTENSION_SIZE = 128 };
/* Server: the client's Sec-WebSocket-Extensions (NULL: none) to the answer's; false: no extension is used. */
bool websocket_answer_offer(const char *offers, char ret_answer[static WEBSOCKET_EXTENSION_SIZE]);
/* Client: the server's answer to websocket_offer. -1: it is not one; else *ret_deflate. */
int websocket_check_answer(const char *answer, bool *ret_deflate) MUST_CHECK;

#endif
