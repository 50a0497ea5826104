#include "world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/broker.h"
#include "json/json.h"
#include "proto/frames.h"
#include "proto/invite.h"
#include "util/clock.h"
#include "util/file.h"
#include "util/ids.h"
#include "util/log.h"
#include "util/memory.h"
#include "util/text.h"

enum { PATIENCE_MS = 20000 };

/* ---- the broker ----------------------------------------------------------------------------------------------------------- */

static NO_RETURN void serve(const struct world *world, int ready_fd)
{
    struct settings *settings = NULL;
    struct error error;
    char store[96], listen[32];
    (void)snprintf(store, sizeof store, "sqlite:%s/broker.db", world->directory);
    (void)snprintf(listen, sizeof listen, "127.0.0.1:%u", (unsigned)world->port);
    if (dup2(ready_fd, STDOUT_FILENO) < 0 ||
        settings_load(BROKER_SETTINGS, BROKER_SETTING_COUNT, "CLAUDEMESH_BROKER_", "/nonexistent", &settings, &error) != 0)
        _exit(90);
    if (settings_override(settings, "log.level", "error", &error) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        _exit(92);
    for (size_t i = 0; world->overrides != NULL && world->overrides[i] != NULL; i += 2)
        if (settings_override(settings, world->overrides[i], world->overrides[i + 1], &error) != 0)
            _exit(91);
    const struct broker_options options = { .listen = listen, .store = store, .settings = settings };
    int status = broker_run(&options);
    settings_free(settings);
    exit(status); /* so that a leak is found */
}

void world_start(struct world *world)
{
    int pipe_fds[2];
    char line[256];
    size_t length = 0;
    assert_int_equal(pipe(pipe_fds), 0);
    world->process = fork();
    assert_true(world->process >= 0);
    if (world->process == 0) {
        (void)close(pipe_fds[0]);
        serve(world, pipe_fds[1]);
    }
    (void)close(pipe_fds[1]);
    while (length < sizeof line - 1 && read(pipe_fds[0], line + length, 1) == 1 && line[length] != '\n')
        length++;
    line[length] = '\0';
    (void)close(pipe_fds[0]);
    const char *colon = strstr(line, "127.0.0.1:");
    uint64_t port = 0;
    if (colon == NULL)
        fail_msg("the broker did not start: %s", line);
    char *digits = memory_strndup(colon + 10, strspn(colon + 10, "0123456789"));
    assert_int_equal(parse_uint64(digits, &port), 0);
    free(digits);
    world->port = (uint16_t)port;
    (void)snprintf(world->url, sizeof world->url, "ws://127.0.0.1:%u/ws", (unsigned)world->port);
}

void world_stop(struct world *world, int signal_number)
{
    int status;
    assert_int_equal(kill(world->process, signal_number), 0);
    assert_int_equal(waitpid(world->process, &status, 0), world->process);
    world->process = 0;
    if (signal_number == SIGTERM)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- HTTP ------------------------------------------------------------------------------------------------------------------- */

static int dial(uint16_t port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void write_all(int fd, const void *data, size_t size)
{
    const char *bytes = data;
    while (size > 0) {
        ssize_t count = send(fd, bytes, size, MSG_NOSIGNAL);
        if (count <= 0)
            return; /* the other side has closed: what it said before is still to be read */
        bytes += count;
        size -= (size_t)count;
    }
}

/* 0: the end. */
static size_t read_some(int fd, struct buffer *input)
{
    struct pollfd wanted = { .fd = fd, .events = POLLIN };
    char bytes[65536];
    if (poll(&wanted, 1, PATIENCE_MS) != 1)
        fail_msg("nothing came in %d ms", PATIENCE_MS);
    ssize_t count = recv(fd, bytes, sizeof bytes, 0);
    if (count <= 0)
        return 0;
    buffer_append(input, bytes, (size_t)count);
    return (size_t)count;
}

int http_ask(uint16_t port, const char *method, const char *path, const char *headers, const char *body, struct buffer *ret_body)
{
    struct buffer head, answer;
    int fd = dial(port);
    buffer_init(&head, BUFFER_UNLIMITED);
    buffer_init(&answer, BUFFER_UNLIMITED);
    buffer_printf(&head, "%s %s HTTP/1.1\r\nConnection: close\r\n%s", method, path, headers == NULL ? "" : headers);
    if (headers == NULL || strstr(headers, "Host:") == NULL)
        buffer_printf(&head, "Host: 127.0.0.1:%u\r\n", (unsigned)port);
    if (body != NULL)
        buffer_printf(&head, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    buffer_append_text(&head, "\r\n");
    buffer_append_text(&head, body == NULL ? "" : body);
    write_all(fd, head.data, head.length);
    while (read_some(fd, &answer) > 0)
        continue;
    (void)close(fd);
    const char *end = strstr(answer.data, "\r\n\r\n");
    if (ret_body != NULL && end != NULL)
        buffer_append_text(ret_body, end + 4);
    int status = end == NULL ? 0 : (answer.data[9] - '0') * 100 + (answer.data[10] - '0') * 10 + (answer.data[11] - '0');
    buffer_release(&head);
    buffer_release(&answer);
    return status;
}

int64_t world_metric(const struct world *world, const char *line_start)
{
    struct buffer body;
    buffer_init(&body, BUFFER_UNLIMITED);
    assert_int_equal(http_ask(world->port, "GET", "/metrics", NULL, NULL, &body), 200);
    char *wanted = memory_printf("\n%s ", line_start), *line = strstr(body.data, wanted);
    assert_non_null(line);
    line += strlen(wanted);
    free(wanted);
    line[strcspn(line, "\n")] = '\0';
    int64_t value;
    assert_int_equal(parse_int64(line, &value), 0);
    buffer_release(&body);
    return value;
}

/* ---- the mesh ----------------------------------------------------------------------------------------------------------------- */

static json_t *parse(const char *text)
{
    json_t *value = NULL;
    struct error error;
    if (json_parse_strict(text, strlen(text), &value, &error) != 0)
        fail_msg("%s: %s", error.message, text);
    return value;
}

static void keep_member_id(struct member_keys *member, const struct buffer *answer)
{
    json_t *body = parse(answer->data);
    const char *id = json_string_value(json_object_get(body, "memberId"));
    if (id == NULL)
        fail_msg("no memberId: %s", answer->data);
    assert_int_equal(string_copy(member->member_id, sizeof member->member_id, id), 0);
    json_decref(body);
}

static void make_mesh(struct world *world)
{
    char headers[160], signature[SIGNATURE_HEX_SIZE];
    const char *owner = keypair_public_hex(world->members[0].keys);
    struct buffer answer;
    char *text = memory_printf("mesh|%s|acme|%s|1", world->mesh_id, owner);
    keypair_sign_hex(world->members[0].keys, text, strlen(text), signature);
    char *body = memory_printf("{\"mesh_id\":\"%s\",\"slug\":\"acme\",\"name\":\"Acme\",\"owner_pubkey\":\"%s\",\"display_name\":\"m0\","
                               "\"timestamp\":1,\"signature\":\"%s\"}",
                               world->mesh_id, owner, signature);
    (void)snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", world->admin_token);
    buffer_init(&answer, BUFFER_UNLIMITED);
    assert_int_equal(http_ask(world->port, "POST", "/mesh", headers, body, &answer), 200);
    keep_member_id(&world->members[0], &answer);
    buffer_release(&answer);
    free(text);
    free(body);
}

static void make_invite(const struct world *world, struct invite *ret_invite)
{
    struct error error;
    *ret_invite = (struct invite){
        .version = 3,
        .mesh_id = memory_strdup(world->mesh_id),
        .mesh_slug = memory_strdup("acme"),
        .mesh_name = memory_strdup("Acme"),
        .broker_url = memory_strdup(world->url),
        .role = memory_strdup("member"),
        .expires_at_s = clock_wall_ms() / 1000 + 3600,
        .max_uses = WORLD_MEMBERS,
        .owner_pubkey = memory_strdup(keypair_public_hex(world->members[0].keys)),
        .has_root_key = true,
        .has_invite_seed = true,
    };
    random_bytes(ret_invite->root_key, sizeof ret_invite->root_key);
    random_bytes(ret_invite->invite_seed, sizeof ret_invite->invite_seed);
    if (invite_sign(ret_invite, world->members[0].keys, &error) != 0)
        fail_msg("%s", error.message);
}

static void join(struct world *world, const struct invite *invite, int index)
{
    struct error error;
    struct buffer answer;
    json_t *certificate = NULL, *body = json_new_object();
    char name[8];
    (void)snprintf(name, sizeof name, "m%d", index);
    int64_t now = clock_wall_ms();
    if (certificate_make(invite, world->members[index].keys, name, now, &certificate, &error) != 0)
        fail_msg("%s", error.message);
    json_put(body, "cert", certificate);
    json_put_string(body, "name", name);
    json_put_integer(body, "timestamp", now);
    char *text = json_to_string(body, NULL);
    buffer_init(&answer, BUFFER_UNLIMITED);
    assert_int_equal(http_ask(world->port, "POST", "/join", NULL, text, &answer), 200);
    keep_member_id(&world->members[index], &answer);
    buffer_release(&answer);
    free(text);
    json_decref(body);
}

void world_begin(struct world *world, const char *const *overrides)
{
    struct error error;
    struct buffer token;
    struct invite invite;
    *world = (struct world){ .overrides = overrides };
    assert_int_equal(crypto_start(&error), 0);
    (void)snprintf(world->directory, sizeof world->directory, "/tmp/broker-world-XXXXXX");
    assert_non_null(mkdtemp(world->directory));
    uuid_generate(world->mesh_id);
    world_start(world);
    char *path = path_join(world->directory, "admin-token");
    buffer_init(&token, 64);
    assert_int_equal(file_read(path, &token, &error), 0);
    token.data[strcspn(token.data, "\n")] = '\0';
    assert_int_equal(string_copy(world->admin_token, sizeof world->admin_token, token.data), 0);
    buffer_release(&token);
    free(path);
    for (int i = 0; i < WORLD_MEMBERS; i++)
        assert_int_equal(keypair_generate(&world->members[i].keys, &error), 0);
    make_mesh(world);
    make_invite(world, &invite);
    for (int i = 1; i < WORLD_MEMBERS; i++)
        join(world, &invite, i);
    invite_release(&invite);
}

void world_end(struct world *world)
{
    if (world->process != 0)
        world_stop(world, SIGTERM);
    for (int i = 0; i < WORLD_MEMBERS; i++)
        keypair_free(world->members[i].keys);
    DIR *directory = opendir(world->directory);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.') {
            char *path = path_join(world->directory, entry->d_name);
            (void)unlink(path);
            free(path);
        }
    if (directory != NULL)
        (void)closedir(directory);
    (void)rmdir(world->directory);
}

void world_sign(const struct world *world, int member, const char *const *fields, size_t count, char ret_signature[SIGNATURE_HEX_SIZE])
{
    struct buffer text;
    buffer_init(&text, BUFFER_UNLIMITED);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            buffer_append_byte(&text, '\0');
        buffer_append_text(&text, fields[i]);
    }
    keypair_sign_hex(world->members[member].keys, text.data, text.length, ret_signature);
    buffer_release(&text);
}

/* ---- the client ----------------------------------------------------------------------------------------------------------------- */

void client_open(struct client *client, const struct world *world)
{
    *client = (struct client){ .fd = dial(world->port) };
    char *head = memory_printf("GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                               (unsigned)world->port);
    buffer_init(&client->input, BUFFER_UNLIMITED);
    write_all(client->fd, head, strlen(head));
    free(head);
    const char *end;
    while ((end = strstr(client->input.data, "\r\n\r\n")) == NULL)
        assert_true(read_some(client->fd, &client->input) > 0);
    assert_int_equal(strncmp(client->input.data, "HTTP/1.1 101", 12), 0);
    const char *challenge = strcasestr(client->input.data, "X-Claudemesh-Challenge: ");
    assert_non_null(challenge);
    memcpy(client->challenge, challenge + 24, 64);
    buffer_consume(&client->input, (size_t)(end + 4 - client->input.data));
}

void client_close(struct client *client)
{
    (void)close(client->fd);
    buffer_release(&client->input);
}

void client_send_text(struct client *client, const char *text)
{
    struct buffer frame;
    size_t size = strlen(text);
    buffer_init(&frame, BUFFER_UNLIMITED);
    buffer_append_byte(&frame, (char)0x81);
    if (size < 126) {
        buffer_append_byte(&frame, (char)(0x80 | size));
    } else if (size < 65536) {
        buffer_append_byte(&frame, (char)(0x80 | 126));
        buffer_append_byte(&frame, (char)(size >> 8));
        buffer_append_byte(&frame, (char)size);
    } else {
        buffer_append_byte(&frame, (char)(0x80 | 127));
        for (int shift = 56; shift >= 0; shift -= 8)
            buffer_append_byte(&frame, (char)((uint64_t)size >> shift));
    }
    buffer_append(&frame, "\0\0\0\0", 4); /* a mask that changes nothing */
    buffer_append(&frame, text, size);
    write_all(client->fd, frame.data, frame.length);
    buffer_release(&frame);
}

void client_send(struct client *client, json_t *frame)
{
    char *text = json_to_string(frame, NULL);
    client_send_text(client, text);
    free(text);
    json_decref(frame);
}

static bool need(struct client *client, size_t size)
{
    while (client->input.length < size)
        if (read_some(client->fd, &client->input) == 0)
            return false;
    return true;
}

json_t *client_receive(struct client *client)
{
    while (client->close_code == 0) {
        size_t head = 2, size;
        if (!need(client, head))
            break;
        const uint8_t *bytes = (const uint8_t *)client->input.data;
        int opcode = bytes[0] & 15;
        size = bytes[1] & 127;
        if (size >= 126) {
            size_t extra = size == 126 ? 2 : 8;
            if (!need(client, head + extra))
                break;
            bytes = (const uint8_t *)client->input.data;
            for (size = 0; extra > 0; extra--)
                size = size << 8 | bytes[head++];
        }
        if (!need(client, head + size))
            break;
        char *payload = memory_strndup(client->input.data + head, size);
        if (opcode == 8) {
            client->close_code = size >= 2 ? (uint8_t)client->input.data[head] << 8 | (uint8_t)client->input.data[head + 1] : 1005;
            (void)snprintf(client->close_reason, sizeof client->close_reason, "%.*s", size >= 2 ? (int)size - 2 : 0,
                           client->input.data + head + 2);
        }
        buffer_consume(&client->input, head + size);
        json_t *frame = opcode == 1 ? parse(payload) : NULL;
        free(payload);
        if (frame != NULL)
            return frame;
    }
    if (client->close_code == 0)
        client->close_code = 1006;
    return NULL;
}

bool json_has(const json_t *object, const char *name, const char *value)
{
    return string_equal(json_string_value(json_object_get(object, name)), value);
}

json_t *client_expect(struct client *client, const char *type, const char *event)
{
    for (;;) {
        json_t *frame = client_receive(client);
        if (frame == NULL)
            fail_msg("closed with %d '%s' before %s", client->close_code, client->close_reason, type);
        if (json_has(frame, "type", type) && (event == NULL || json_has(frame, "event", event)))
            return frame;
        json_decref(frame);
    }
}

json_t *client_drain(struct client *client)
{
    json_t *frames = json_new_array();
    client_send_text(client, "{\"type\":\"message_status\",\"messageId\":\"none\",\"_reqId\":\"drain\"}");
    for (;;) {
        json_t *frame = client_receive(client);
        if (frame == NULL)
            fail_msg("closed with %d '%s'", client->close_code, client->close_reason);
        if (json_has(frame, "_reqId", "drain")) {
            json_decref(frame);
            return frames;
        }
        assert_int_equal(json_array_append_new(frames, frame), 0);
    }
}

void client_expect_close(struct client *client, int code, const char *reason)
{
    json_t *frame;
    while ((frame = client_receive(client)) != NULL)
        json_decref(frame);
    assert_int_equal(client->close_code, code);
    if (reason != NULL)
        assert_string_equal(client->close_reason, reason);
}

void client_hello(struct client *client, struct world *world, int member, const struct hello_options *options)
{
    static const struct hello_options NONE = { 0 };
    char session[32];
    struct buffer frame;
    struct error error;
    if (options == NULL)
        options = &NONE;
    (void)snprintf(session, sizeof session, "session-%d", member);
    int64_t timestamp = options->timestamp != 0 ? options->timestamp : clock_wall_ms();
    if (options->timestamp == 0 && timestamp <= world->newest_timestamp)
        timestamp = world->newest_timestamp + 1;
    if (options->timestamp == 0)
        world->newest_timestamp = timestamp;
    struct frame_hello hello = {
        .protocol_version = 1,
        .mesh_id = world->mesh_id,
        .member_id = world->members[member].member_id,
        .session_id = options->session != NULL ? options->session : session,
        .session_pubkey = options->session_pubkey,
        .host_fingerprint = options->host_fingerprint,
        .hostname = "",
        .cwd = "",
        .peer_type = "connector",
        .channel = "test",
        .receive = !options->send_only,
        .client_ack = !options->no_ack,
        .feature_negotiation = !options->no_negotiation,
        .timestamp = timestamp,
    };
    const char *url = options->url == NULL ? NULL : options->url[0] == '\0' ? world->url : options->url;
    buffer_init(&frame, BUFFER_UNLIMITED);
    if (frame_hello_build(&hello, world->members[member].keys, url, url == NULL ? NULL : client->challenge, &frame, &error) != 0)
        fail_msg("%s", error.message);
    if (options->bad_signature) {
        char *signature = strstr(frame.data, "\"signature\":\"") + 13;
        signature[0] = signature[0] == '0' ? '1' : '0';
    }
    client_send_text(client, frame.data);
    buffer_release(&frame);
}

void client_connect(struct client *client, struct world *world, int member, const struct hello_options *options)
{
    client_open(client, world);
    client_hello(client, world, member, options);
    json_decref(client_expect(client, "hello_ack", NULL));
    if (options != NULL && options->no_negotiation)
        return;
    client_send_text(
        client, "{\"type\":\"feature_negotiation_request\",\"require\":[\"client_message_id_dedupe\"],\"optional\":[\"delivery_ack\"]}");
    json_decref(client_expect(client, "feature_negotiation_response", NULL));
}

void client_message(struct client *client, const struct world *world, int to, const char *id, const char *priority)
{
    char fingerprint[SHA256_HEX_SIZE];
    struct buffer frame;
    const char *key = keypair_public_hex(world->members[to].keys);
    sha256_hex(id, strlen(id), fingerprint);
    const struct frame_send send = {
        .id = id,
        .request_fingerprint = fingerprint,
        .target_spec = key,
        .priority = priority,
        .nonce = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        .ciphertext = "c2VjcmV0",
        .ciphertext_length = 8,
        .body_version = 3,
        .key_epoch = -1,
        .destination_kind = "dm",
        .destination_ref = key,
    };
    buffer_init(&frame, BUFFER_UNLIMITED);
    assert_int_equal(frame_send_build(&send, &frame), 0);
    client_send_text(client, frame.data);
    buffer_release(&frame);
}

void client_message_ok(struct client *client, const struct world *world, int to, const char *id, int status)
{
    client_message(client, world, to, id, "next");
    json_t *ack = client_expect(client, "ack", NULL);
    assert_true(json_has(ack, "client_message_id", id));
    assert_int_equal((int)json_number_value(json_object_get(ack, "status")), status);
    json_decref(ack);
}

void client_expect_message(struct client *client, const char *id, bool acknowledge)
{
    json_t *push;
    do {
        push = client_expect(client, "push", NULL);
        if (!json_has(push, "subtype", "system"))
            break;
        json_decref(push);
    } while (true);
    assert_string_equal(json_string_value(json_object_get(push, "client_message_id")), id);
    if (acknowledge) {
        json_t *ack = json_new_object();
        json_put_string(ack, "type", "client_ack");
        json_put_string(ack, "clientMessageId", id);
        json_put_string(ack, "brokerMessageId", json_string_value(json_object_get(push, "messageId")));
        client_send(client, ack);
    }
    json_decref(push);
}
