/* The maxima, together, each with its reason (STYLE 8). Bytes unless the name says otherwise. */
#ifndef UTIL_LIMITS_H
#define UTIL_LIMITS_H

enum {
    /* 20-ipc: one head (request line and all headers). */
    LIMIT_HTTP_HEAD = 16 * 1024,
    LIMIT_HTTP_HEADERS = 100, /* count; a head of 16 KiB holds few more that mean anything */
    /* 20-ipc: a request body. */
    LIMIT_HTTP_BODY = 1024 * 1024,
    /* 20-ipc: a response is cut to a page below this. */
    LIMIT_HTTP_RESPONSE = 10 * 1024 * 1024,
    /* 20-ipc: what an event stream may be behind before it is cut off. */
    LIMIT_STREAM_BACKLOG = 1024 * 1024,
    LIMIT_JSON_DEPTH = 64, /* levels */
    /* 40-wire: one WebSocket message. */
    LIMIT_FRAME = 1024 * 1024,
    /* 20-ipc: meta in canonical form. */
    LIMIT_META = 16 * 1024,
    /* 20-ipc: a body when the broker has not said max_payload. */
    LIMIT_INLINE_DEFAULT = 65536,
    LIMIT_CLIENT_MESSAGE_ID = 128,
    LIMIT_NAME = 64, /* topics, groups, slugs */
    LIMIT_DISPLAY_NAME = 128,
    LIMIT_DISPLAY_NAME_SIZE = 129, /* with the NUL */
    /* An invite link; ours are under 1,200. */
    LIMIT_INVITE_LINK = 16 * 1024,
    /* config.json, config.toml and the like. */
    LIMIT_CONFIG_FILE = 1024 * 1024,
    LIMIT_MESHES = 64, /* joined by one host */
    /* What one WebSocket connection may have queued outward before it is dropped (70-broker). */
    LIMIT_WS_BACKLOG = 8 * 1024 * 1024,
    /* Unacknowledged pushes of a connection (70-broker). */
    LIMIT_PUSH_WINDOW = 256
};

#endif
