/* A live event stream from the daemon (20-ipc, GET /v1/events) that survives restarts of the daemon: reconnects and resumes by the id of the last event. Blocking. */
#ifndef CLI_STREAM_H
#define CLI_STREAM_H

#include "cli/api.h"
#include "util/buffer.h"

struct stream_event {
    const char *id; /* "" none */
    const char *type;
    json_t *data; /* borrowed */
};

struct stream {
    struct cli *cli;
    char *target; /* /v1/events?… */
    struct api api;
    char last_id[160]; /* of the last event handed out */
    char read_id[160]; /* of the one being read: counts once it is whole */
    struct buffer line, data;
    char type[64];
    json_t *document; /* of the event handed out last */
    bool lost_noted;
};

/* Connects and waits for the server's first line, so that what happens after this returns is seen. Prints and returns an exit code on failure. */
int stream_open(struct cli *cli, const char *target, struct stream *ret_stream) MUST_CHECK;
void stream_close(struct stream *stream);
/* The next event; waits for a daemon that went away, and resumes. *ret_gap: the connection was lost before any event had an id, so something may have passed unseen.
 * EXIT_DONE, or an exit code after printing (an answer that refuses). */
int stream_next(struct stream *stream, struct stream_event *ret_event, bool *ret_gap) MUST_CHECK;
/* From now on SIGINT and SIGTERM end the process with status 0: a stream runs until it is interrupted, and stdout is flushed line by line. */
void stream_end_on_interrupt(void);

#endif
