/* What a connection reads in each of its states, and where to: heads into its input, bodies behind them or into memory of their own, the
 * rest to nowhere. Decides nothing but where a chunked body is refused. */
#include "net/http_internal.h"
#include "util/memory.h"

enum { READ_LEAST = 1024 };

/* Room behind input_end. While a request is awaited the input must not move. */
static size_t input_room(struct http_connection *connection)
{
    const size_t kept = connection_buffered(connection);

    if (connection->state == HTTP_STATE_WAIT || connection->input_capacity - connection->input_end >= READ_LEAST)
        return connection->input_capacity - connection->input_end;
    if (connection->input_start > 0 && kept > 0)
        memmove(connection->input, connection->input + connection->input_start, kept);
    connection->input_start = 0;
    connection->input_end = kept;
    if (connection->input_capacity - kept < READ_LEAST) {
        connection->input_capacity = connection->input_capacity == 0 ? HTTP_INPUT_SIZE : connection->input_capacity * 2;
        connection->input = memory_realloc(connection->input, connection->input_capacity);
    }
    return connection->input_capacity - connection->input_end;
}

static ssize_t read_input(struct http_connection *connection)
{
    const size_t room = input_room(connection);
    ssize_t count;

    if (room == 0)
        return CHANNEL_AGAIN;
    count = channel_read(connection->channel, connection->input + connection->input_end, room);
    if (count > 0) {
        connection->input_end += (size_t)count;
        connection->fresh = false;
    }
    return count;
}

void connection_put_back(struct http_connection *connection, const void *data, size_t size)
{
    channel_unread(connection->channel, data, size);
    if (size > 0)
        connection->ended = false; /* it comes again, behind these */
}

static void reserve_body(struct http_request *request, size_t size)
{
    while (request->body_capacity - request->body_length < size)
        request->body_capacity *= 2;
    request->body = memory_realloc(request->body, request->body_capacity);
}

static ssize_t read_sized_body(struct http_connection *connection)
{
    struct http_request *request = &connection->request;
    const size_t missing = (size_t)request->head.length - request->body_length;
    size_t room;
    ssize_t count;

    if (request->body_length == request->body_capacity)
        reserve_body(request, 1);
    room = request->body_capacity - request->body_length;
    count = channel_read(connection->channel, request->body + request->body_length, room < missing ? room : missing);
    if (count > 0)
        request->body_length += (size_t)count;
    return count;
}

/* Of a chunked body, kept or dropped. What follows the body goes back to the channel. */
static ssize_t read_chunked_body(struct http_connection *connection, bool keep)
{
    struct http_request *request = &connection->request;
    struct http_server *server = connection->server;
    const size_t already = keep ? request->body_length : connection->discarded;
    char *scratch = loop_scratch(server->loop);
    char *output = scratch;
    size_t consumed = 0, produced = 0;
    bool too_large = false;
    const ssize_t count = channel_read(connection->channel, scratch, LOOP_SCRATCH_SIZE);

    if (count <= 0)
        return count;
    if (keep) {
        reserve_body(request, (size_t)count);
        output = request->body + request->body_length;
    }
    if (http_chunked_decode(&request->chunked, scratch, (size_t)count, output, already, server->max_body, &consumed, &produced,
                            &too_large) != 0) {
        if (!keep)
            connection_destroy(connection);
        else if (too_large)
            connection_refuse(connection, 413, "body_too_large", "The request body is larger than this server takes.");
        else
            connection_refuse(connection, 400, "bad_request", "The chunked body is malformed.");
        return count;
    }
    if (keep)
        request->body_length += produced;
    else
        connection->discarded += produced;
    connection_put_back(connection, scratch + consumed, (size_t)count - consumed);
    return count;
}

static ssize_t read_dropped_body(struct http_connection *connection)
{
    struct http_request *request = &connection->request;
    const size_t missing = (size_t)request->head.length - request->body_length;
    const ssize_t count = channel_read(connection->channel, loop_scratch(connection->server->loop),
                                       missing < LOOP_SCRATCH_SIZE ? missing : LOOP_SCRATCH_SIZE);

    if (count > 0)
        request->body_length += (size_t)count;
    return count;
}

static ssize_t read_nothing_of_interest(struct http_connection *connection)
{
    const ssize_t count = channel_read(connection->channel, loop_scratch(connection->server->loop), LOOP_SCRATCH_SIZE);

    if (count > 0)
        connection->discarded += (size_t)count;
    if (connection->state == HTTP_STATE_LINGER && connection->discarded > HTTP_LINGER_BYTES)
        return CHANNEL_FAILED;
    return count;
}

ssize_t connection_read(struct http_connection *connection)
{
    switch (connection->state) {
    case HTTP_STATE_HEAD:
    case HTTP_STATE_WAIT:
        return read_input(connection);
    case HTTP_STATE_BODY:
        return connection->request.head.chunked ? read_chunked_body(connection, true) : read_sized_body(connection);
    case HTTP_STATE_DROP:
        return connection->request.head.chunked ? read_chunked_body(connection, false) : read_dropped_body(connection);
    case HTTP_STATE_STREAM:
    case HTTP_STATE_FLUSH:
    case HTTP_STATE_LINGER:
    case HTTP_STATE_DEAD:
        break;
    }
    return read_nothing_of_interest(connection);
}
