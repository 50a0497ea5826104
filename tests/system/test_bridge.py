"""The bridge socket's client (10-cli "How send finds its way"; 40-wire "Bridge socket"): used when no daemon is there, after a pong, and bounded whatever is behind it."""

import contextlib
import json
import os
import socket
import threading
import time

import pytest

from harness import SLOW, Broker, Node, create_mesh, join


@pytest.fixture
def alice(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    return alice


class Bridge:
    """serve(sock, lines) is a thread's, for each connection."""

    def __init__(self, node, serve, backlog=8, accept=True):
        directory = node.config / "sockets"
        directory.mkdir(mode=0o700, exist_ok=True)
        self.path, self.serve, self.requests = str(directory / "acme.sock"), serve, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(backlog)
        node.world.closers.append(self.listener.close)
        if accept:
            threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._guarded, args=(sock,), daemon=True).start()

    def _guarded(self, sock):
        with contextlib.suppress(OSError, ValueError), sock:
            self.serve(self, sock)

    def lines(self, sock):
        for line in sock.makefile("r"):
            request = json.loads(line)
            self.requests.append(request)
            yield request


def pong(sock, request):
    sock.sendall(json.dumps({"id": request["id"], "ok": True, "result": {}}).encode() + b"\n")


def after_the_pong(act):
    def serve(bridge, sock):
        for request in bridge.lines(sock):
            if request["verb"] == "ping":
                pong(sock, request)
            else:
                act(sock, request)
    return serve


def answered(sock, request):
    sock.sendall(json.dumps({"id": request["id"], "ok": True, "result": {"messageId": "01BRIDGE"}}).encode() + b"\n")


def sent(alice, message="hi", check=0, **more):
    started = time.monotonic()
    done = alice.cli("--json", "send", "bob", message, check=check, **more)
    return json.loads(done.stdout), time.monotonic() - started, done


def test_the_requests_are_lines_of_json_as_the_wire_has_them(alice):
    bridge = Bridge(alice, after_the_pong(answered))
    assert sent(alice, "two\nlines «x»")[0]["via"] == "bridge"
    ping, send = bridge.requests
    assert set(ping) == {"id", "verb"} and ping["verb"] == "ping"
    assert set(send) == {"id", "verb", "args"} and send["verb"] == "send" and send["id"] != ping["id"]
    assert send["args"] == {"to": "bob", "message": "two\nlines «x»", "priority": "next"}


def test_a_running_daemon_is_always_first(alice):
    bridge = Bridge(alice, after_the_pong(answered))
    alice.up()
    alice.wait_connected()
    assert sent(alice)[0]["via"] == "daemon" and not bridge.requests
    assert alice.cli("send", "nobody", "hi", check=None).returncode != 0 and not bridge.requests  # an error from a daemon is the answer


@pytest.mark.parametrize("flags", [["--idempotency-key", "k"], ["--meta", "a=1"], ["--reply-to", "01X"], ["--wait"], ["--wait=5"], ["--cold"]])
def test_what_the_bridge_cannot_carry_goes_another_way(alice, flags):
    bridge = Bridge(alice, after_the_pong(answered))
    assert json.loads(alice.cli("--json", "send", "bob", "hi", *flags).stdout)["via"] == "cold"
    assert not bridge.requests


@pytest.mark.parametrize("says", [
    b"", b"garbage\n", b"{}\n", b'{"id":"wrong","ok":true}\n', b'{"id":"1","ok":false,"error":"busy"}\n', b'{"id":"1"}\n', b'["1"]\n', b'{"id":1,"ok":true}\n',
    b'{"id":"1","ok":true', b"\0\n", b"\n" * 1000,
])
def test_what_gives_no_pong_is_passed_by_within_its_budget(alice, says):
    def serve(bridge, sock):
        for _ in bridge.lines(sock):
            sock.sendall(says)
    bridge = Bridge(alice, serve)
    answer, seconds, _ = sent(alice)
    assert answer["via"] == "cold" and seconds < 10 * SLOW
    assert [request["verb"] for request in bridge.requests] == ["ping"]


def flood(data):
    def act(sock, _):
        for _ in range(200):
            sock.sendall(data)
    return act


@pytest.mark.parametrize("act, says", [
    (lambda sock, request: sock.sendall(b"x" * 4_000_000), "did not answer"),  # a line without an end
    (flood(b'{"id":"another","ok":true,"result":{"messageId":"no"}}\n' * 1000), None),  # and then an answer that never comes
    (lambda sock, request: sock.shutdown(socket.SHUT_RDWR), "did not answer"),
], ids=["huge", "wrong-ids", "gone"])
def test_a_hostile_answer_is_bounded_and_the_message_is_not_sent_twice(alice, act, says):
    def then(sock, request):
        act(sock, request)
        if says is None:
            sock.shutdown(socket.SHUT_RDWR)
    bridge = Bridge(alice, after_the_pong(then))
    answer, seconds, done = sent(alice, check=7)
    assert b"may have sent" in done.stderr and "error" in answer and seconds < 20 * SLOW
    assert [request["verb"] for request in bridge.requests] == ["ping", "send"]


def test_a_bridge_that_reads_nothing_does_not_hold_us(alice):
    def serve(bridge, sock):
        pong(sock, next(bridge.lines(sock)))
        stop.wait(60)
    stop = threading.Event()
    Bridge(alice, serve)
    try:
        _, seconds, done = sent(alice, message="-", input=b"x" * 900_000, check=7)
        assert b"may have sent" in done.stderr and seconds < 40 * SLOW
    finally:
        stop.set()


def test_a_socket_that_nobody_accepts_from_is_passed_by(alice):
    bridge = Bridge(alice, None, backlog=0, accept=False)
    held = []
    with contextlib.suppress(BlockingIOError):
        for _ in range(8):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            held.append(sock)
            sock.connect(bridge.path)
    answer, seconds, _ = sent(alice)
    assert answer["via"] == "cold" and seconds < 10 * SLOW
    for sock in held:
        sock.close()


def test_a_socket_file_that_nobody_serves_is_passed_by(alice):
    bridge = Bridge(alice, None, accept=False)
    bridge.listener.close()
    assert os.path.exists(bridge.path) and sent(alice)[0]["via"] == "cold"


def test_a_refusal_is_the_answer_and_shown_harmlessly(alice):
    def refuse(sock, request):
        sock.sendall(json.dumps({"id": request["id"], "ok": False, "error": "no \x1b[31msuch\nmember"}).encode() + b"\n")
    Bridge(alice, after_the_pong(refuse))
    _, _, done = sent(alice, check=1)
    assert b"such" in done.stderr and b"\x1b" not in done.stderr
