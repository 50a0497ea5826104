"""20-ipc "Before any route": every check, in order, on both transports; and the daemon serves on."""

import concurrent.futures
import http.client
import json
import os
import socket
import threading

import pytest

from harness import Events, Key, Node, UnixConnection, fake_mesh, wait_for


@pytest.fixture
def node(world):
    node = Node(world, "host")
    fake_mesh(node, "ws://127.0.0.1:1/ws")  # nobody there: the link stays down
    node.up("--tcp-port", "0")
    node.port = int(node.path("http.port").read_text())
    node.token = node.path("local-token").read_text().strip()
    return node


def raw(node, data, transport="tcp", timeout=20, keep=False):
    """Sends bytes, returns (status, headers, body) of the first answer, or None when closed without one."""
    if transport == "tcp":
        sock = socket.create_connection(("127.0.0.1", node.port), timeout=timeout)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(node.socket_path)
    try:
        try:
            sock.sendall(data)
        except OSError:
            pass
        answer = http.client.HTTPResponse(sock)
        try:
            answer.begin()
        except (http.client.BadStatusLine, OSError):
            return None
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        if not keep:
            sock.close()


def request(node, method="GET", target="/v1/version", headers=None, body=b"", transport="tcp", token=True):
    merged = {"Host": f"127.0.0.1:{node.port}"}
    if transport == "tcp" and token:
        merged["Authorization"] = f"Bearer {node.token}"
    if body:
        merged["Content-Length"] = str(len(body))
    merged.update(headers or {})
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in merged.items() if v is not None) + "\r\n"
    return raw(node, head.encode("latin-1") + body, transport)


def code(answer):
    return answer[0], json.loads(answer[2])["error"]


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_each_check_answers_as_written_on_both_transports(node, transport):
    def ask(**more):
        return request(node, transport=transport, **more)

    assert ask()[0] == 200
    for name in ("token", "access_token", "api_key", "tok%65n"):
        answer = ask(target=f"/v1/version?{name}=abc")
        assert code(answer) == (400, "token_in_query")
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", f"127.0.0.1:{node.port + 1}", "[::2]", "localhost:1", "127.0.0.1:", "0.0.0.0"):
        answer = ask(headers={"Host": host})
        assert code(answer) == (403, "forbidden_host"), host
    for host in ("localhost", "127.0.0.1", "[::1]") + ((f"localhost:{node.port}", f"[::1]:{node.port}") if transport == "tcp" else ()):
        assert ask(headers={"Host": host})[0] == 200, host
    answer = ask(headers={"Host": None})
    assert answer[0] == (400 if transport == "tcp" else 200)
    for headers in ({"Origin": "http://evil.example"}, {"Origin": f"http://127.0.0.1:{node.port}"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-origin"},
                    {"Sec-Fetch-Site": "cross-site"}):
        assert code(ask(headers=headers)) == (403, "forbidden_origin"), headers
    assert ask(headers={"Sec-Fetch-Site": "none"})[0] == 200
    answer = ask(method="OPTIONS", target="/v1/send", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"})
    assert answer[0] == 403 and "access-control-allow-origin" not in answer[1]
    assert ask(method="OPTIONS", target="/v1/send")[0] == 403
    assert code(ask(method="POST", target="/v1/send", headers={"Content-Type": "text/plain"}, body=b"{}")) == (415, "unsupported_media_type")
    assert ask(method="POST", target="/v1/heartbeat", headers={"Content-Type": "application/json; charset=utf-8"}, body=b"{}")[0] == 200
    for body in (b"{", b"", b"{} {}", b'{"a":1,"a":2}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"\\u0000":1}', b'{"a":1e999}', b"[" * 65 + b"]" * 65, b"\xef\xbb\xbf{}", b"{'a':1}", b'{"a":01}', b"\0{}"):
        if body:
            assert code(ask(method="POST", target="/v1/send", body=body)) == (400, "invalid_json"), body
    assert ask(method="POST", target="/v1/send", body=b"[1]")[0] == 400
    assert code(ask(target="/v1/nothing")) == (404, "not_found")
    answer = ask(method="DELETE", target="/v1/send")
    assert code(answer) == (405, "method_not_allowed") and "POST" in answer[1]["allow"]
    assert code(ask(method="POST", target="/v1/topic/create", body=b'{"topic":"x"}')) == (501, "not_implemented")
    assert ask()[0] == 200


def test_the_checks_come_in_their_order(node):
    everything = {"Host": "evil.example", "Origin": "http://evil.example", "Authorization": "Bearer wrong", "Content-Type": "text/plain"}
    big = {"Content-Length": "2000000"}
    order = [
        ("?token=x", everything, (400, "token_in_query")),
        ("", everything, (403, "forbidden_host")),
        ("", {**everything, "Host": "localhost"}, (403, "forbidden_origin")),
        ("", {**everything, "Host": "localhost", "Origin": None}, (401, "invalid_token")),
        ("", {"Host": "localhost", "Authorization": None, "Content-Type": "text/plain"}, (401, "missing_token")),
        ("", {"Content-Type": "text/plain", **big}, (413, "body_too_large")),
        ("", {"Content-Type": "text/plain"}, (415, "unsupported_media_type")),
        ("", {}, (400, "invalid_json")),
    ]
    for query, headers, expected in order:
        body = b"" if "Content-Length" in headers else b"{"
        answer = request(node, "POST", "/v1/nowhere" + query, headers, body)
        assert code(answer) == expected, (headers, answer)
    assert code(request(node, "POST", "/v1/nowhere", body=b"{}")) == (404, "not_found")


def test_tcp_wants_the_token_and_the_socket_does_not(node):
    assert code(request(node, token=False)) == (401, "missing_token")
    assert code(request(node, headers={"Authorization": "Bearer " + node.token[:-1]})) == (401, "invalid_token")
    assert code(request(node, headers={"Authorization": "Basic abc"}))[0] == 401
    assert code(request(node, target="/v1/health", token=False)) == (401, "missing_token")
    assert request(node, transport="unix", token=False)[0] == 200
    assert request(node, target="/v1/prove", token=False, headers={"X-Claudemesh-Nonce": "n1"})[0] == 200


def test_prove_shows_who_holds_the_token(node):
    import hashlib
    import hmac
    answer = request(node, target="/v1/prove", token=False, headers={"X-Claudemesh-Nonce": "some-nonce"})
    text = b"\0".join([b"claudemesh-local-v1", b"server", b"some-nonce", str(node.port).encode()])
    assert json.loads(answer[2])["proof"] == hmac.new(node.token.encode(), text, hashlib.sha256).hexdigest()
    assert request(node, target="/v1/prove", token=False)[0] == 400


def test_public_health_opens_health_alone(world):
    node = Node(world, "public")
    node.up("--tcp-port", "0", "--public-health")
    node.port, node.token = int(node.path("http.port").read_text()), ""
    assert request(node, target="/v1/health", token=False)[0] == 200
    assert request(node, target="/v1/version", token=False)[0] == 401


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_malformed_heads_get_400_and_the_connection_closes(node, transport):
    host = f"Host: localhost\r\nAuthorization: Bearer {node.token}\r\n"
    bad = [
        "GET /v1/version\r\n\r\n", "GET  /v1/version HTTP/1.1\r\n" + host + "\r\n", "GET /v1/version HTTP/2.0\r\n" + host + "\r\n",
        "GET /v1/version HTTP/1.1\r\n" + host + "Bad Header: x\r\n\r\n", "GET /v1/version HTTP/1.1\r\n" + host + "X : y\r\n\r\n",
        "GET /v1/version HTTP/1.1\r\n" + host + " folded\r\n\r\n", "GET /v1/version HTTP/1.1\n" + host + "\r\n", "G@T /v1/version HTTP/1.1\r\n" + host + "\r\n",
        "POST /v1/send HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "POST /v1/send HTTP/1.1\r\n" + host + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/send HTTP/1.1\r\n" + host + "Content-Length: +2\r\n\r\n{}", "POST /v1/send HTTP/1.1\r\n" + host + "Content-Length: 2, 2\r\n\r\n{}",
        "POST /v1/send HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "POST /v1/send HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "GET /v1/version HTTP/1.1\r\n" + host + "X: " + "y" * 17000 + "\r\n\r\n", "GET /" + "a" * 17000 + " HTTP/1.1\r\n" + host + "\r\n",
        "GET /v1/version HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n", "GET http://evil/ HTTP/1.1\r\n" + host + "\r\n", "GET /%zz HTTP/1.1\r\n" + host + "\r\n",
        "GET /v1/version HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    ]
    for data in bad:
        answer = raw(node, data.encode("latin-1"), transport)
        assert answer is not None and answer[0] == 400, (data[:80], answer)
        assert json.loads(answer[2])["error"] == "bad_request", data[:80]
        assert answer[1].get("connection", "").lower() == "close"
    assert request(node, transport=transport)[0] == 200


def test_a_body_over_one_mebibyte_is_413_without_being_read(node):
    for transport in ("tcp", "unix"):
        answer = request(node, "POST", "/v1/send", {"Content-Length": str(1024 * 1024 + 1)}, transport=transport)
        assert code(answer) == (413, "body_too_large")
        body = b'{"to":"x","message":"' + b"y" * (1024 * 1024 - 23) + b'"}'
        assert len(body) == 1024 * 1024
        answer = request(node, "POST", "/v1/send", body=body, transport=transport)
        assert answer[0] in (404, 413) and json.loads(answer[2])["error"] != "body_too_large"
        chunks = b"".join(b"10000\r\n" + b"z" * 0x10000 + b"\r\n" for _ in range(17)) + b"0\r\n\r\n"
        head = f"POST /v1/send HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {node.token}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        answer = raw(node, head + chunks, transport)
        assert answer is None or code(answer) == (413, "body_too_large")
    assert request(node)[0] == 200


def test_sixty_five_requests_in_flight_and_thirty_three_streams(node):
    peer = Key().hex
    connections = []
    for number in range(64):
        connection = UnixConnection(node.socket_path, 120)
        connection.request("POST", "/v1/send?wait=60", json.dumps({"to": peer, "message": f"held {number}"}), {"Content-Type": "application/json"})
        connections.append(connection)
    wait_for(lambda: node.path("outbox.db") and request(node, transport="unix")[0] == 429, 20, "64 in flight")
    answer = request(node, transport="unix")
    assert code(answer) == (429, "daemon_busy") and int(answer[1]["retry-after"]) >= 1
    for connection in connections:
        connection.close()
    wait_for(lambda: request(node, transport="unix")[0] == 200, 20, "room again")

    streams = [Events(UnixConnection(node.socket_path, 120)) for _ in range(32)]
    assert all(stream.status == 200 for stream in streams)
    answer = request(node, target="/v1/events", transport="unix")
    assert code(answer) == (429, "too_many_streams") and "retry-after" in answer[1]
    assert request(node, transport="unix")[0] == 200, "streams do not count among the requests in flight"
    for stream in streams:
        stream.close()
    wait_for(lambda: Events(UnixConnection(node.socket_path, 120)).status == 200, 20, "a stream's place")


def test_the_tokens_rate(world):
    node = Node(world, "rate")
    node.settings("[ipc]\nrate_limit_rps = 1\nrate_limit_burst = 5\n")
    node.up("--tcp-port", "0")
    api = node.tcp_api()
    answers = [api.get("/v1/version") for _ in range(8)]
    assert [answer.status for answer in answers[:5]] == [200] * 5
    assert answers[7].status == 429 and answers[7].json["error"] == "rate_limited" and int(answers[7].headers["Retry-After"]) >= 1
    assert [node.api.get("/v1/version").status for _ in range(10)] == [200] * 10  # the socket has none


def test_a_slow_head_is_closed_and_disturbs_nobody(node):
    sock = socket.create_connection(("127.0.0.1", node.port), timeout=60)
    sock.sendall(b"GET /v1/version HTTP/1.1\r\nHost: local")
    assert request(node)[0] == 200
    data = b""
    while chunk := sock.recv(4096):  # closes by itself
        data += chunk
    assert data == b"" or b" 408 " in data.split(b"\r\n")[0] or b" 400 " in data.split(b"\r\n")[0]
    assert request(node)[0] == 200


def test_pipelined_requests_are_answered_in_order(node):
    one = f"GET /v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    two = f"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(node.socket_path)
    sock.sendall((one + two + one).encode())
    statuses = []
    for _ in range(3):
        answer = http.client.HTTPResponse(sock)
        # one buffer for all: read by hand
        break
    data = b""
    while data.count(b"HTTP/1.1 ") < 3 or not data.rstrip().endswith(b"}"):
        chunk = sock.recv(65536)
        assert chunk
        data += chunk
    statuses = [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200"]


def test_an_allowlisted_origin_gets_its_preflight_and_nobody_else(world):
    node = Node(world, "origin")
    node.settings('[ipc]\nallowed_origins = ["http://localhost:3000"]\n')
    node.up("--tcp-port", "0")
    node.port, node.token = int(node.path("http.port").read_text()), node.path("local-token").read_text().strip()
    answer = request(node, "OPTIONS", "/v1/send", {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}, token=False)
    assert answer[0] in (200, 204) and answer[1]["access-control-allow-origin"] == "http://localhost:3000"
    answer = request(node, headers={"Origin": "http://localhost:3000"})
    assert answer[0] == 200 and answer[1]["access-control-allow-origin"] == "http://localhost:3000"
    assert request(node, headers={"Origin": "http://localhost:3001"})[0] == 403


def test_another_user_may_not_use_the_socket(node):
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    mode = os.stat(node.socket_path).st_mode & 0o777
    assert mode == 0o600
    read, write = os.pipe()
    # open the way for the file mode, so that only the credentials stand between
    os.chmod(node.socket_path, 0o666)
    for directory in (node.config, node.config / "daemon", node.world.directory):
        os.chmod(directory, 0o755)
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(10)
            sock.connect(node.socket_path)
            try:
                sock.sendall(b"GET /v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
                data = sock.recv(4096)
            except OSError:
                data = b""
            os.write(write, b"closed" if not data or b" 403 " in data[:20] else b"SERVED " + data[:100])
        except BaseException as error:  # noqa: BLE001
            os.write(write, repr(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 4096) == b"closed"
    assert request(node, transport="unix")[0] == 200


def test_whoever_is_refused_again_and_again_does_not_fill_the_log(node):
    for _ in range(1200):
        assert code(request(node, headers={"Authorization": "Bearer wrong"})) == (401, "invalid_token")
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    assert sum(line["msg"] == "invalid_token" for line in lines) <= 1000  # 500 a minute, and a minute may begin on the way
    metrics = request(node)[0] == 200 and node.api.get("/v1/metrics").body.decode()
    assert 'cm_daemon_ipc_requests_total{route="none",status="401",transport="tcp"} 1200' in metrics
