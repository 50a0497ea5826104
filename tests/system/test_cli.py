"""10-cli: the command line, driven as a person or a script would."""

import base64
import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import (BINARY, FEATURES, SLOW, Broker, Key, Node, Stub, create_mesh, deadline, fake_mesh, free_port, join, stub_answer,
                     stub_handshake, wait_for)

RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
EXAMPLE = re.compile(r"^Example\n  (claudemesh .*)$", re.M)


def commands(world):
    """The names of all commands, from the bare help."""
    text = world.run(BINARY, check=0).stdout.decode()
    return [match.group(1) for match in re.finditer(r"^  ([a-z]+(?: [a-z]+)*)  +\S", text, re.M)]


class Follower:
    """A streaming command; its lines come through a pipe."""

    def __init__(self, node, *arguments):
        self.process = subprocess.Popen([BINARY, "--config-dir", str(node.config), *arguments], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=node.world.environment(), text=True)
        node.world.processes.append(self.process)
        self.lines, self.condition = [], threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self.condition:
                self.lines.append(line.rstrip("\n"))
                self.condition.notify_all()

    def wait(self, predicate, seconds=20):
        end = deadline(seconds)
        with self.condition:
            while not predicate(self.lines):
                left = end - time.monotonic()
                assert left > 0, f"timed out; got {self.lines[-5:]}"
                self.condition.wait(left)
        return self.lines

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10 * SLOW)


# ---- help, usage, global flags ---------------------------------------------------------------------------------------------


def test_alone_it_prints_grouped_help_and_every_command_has_an_example(world):
    text = world.run(BINARY, check=0).stdout.decode()
    for group in ("Using a mesh", "Meshes", "The daemon", "The broker"):
        assert group in text
    names = commands(world)
    assert {"send", "inbox", "peer list", "profile", "events", "verify", "join", "mesh create", "mesh invite", "mesh list", "mesh leave",
            "member list", "daemon up", "daemon outbox requeue", "broker serve"} <= set(names)
    for name in names:
        done = world.run(BINARY, *name.split(), "--help", check=0)
        assert done.stderr == b""
        example = EXAMPLE.search(done.stdout.decode())
        assert example, name
        assert example.group(1).startswith(f"claudemesh {name}")
    assert world.run(BINARY, "--version", check=0).stdout.decode().startswith("claudemesh ")
    assert b"outbox" in world.run(BINARY, "daemon", "outbox", "--help", check=0).stdout


@pytest.mark.parametrize("arguments, says", [
    (["sned", "bob", "hi"], "did you mean 'send'"),
    (["topic", "list"], "no command 'topic'"),
    (["daemon"], "needs a further word"),
    (["send", "bob"], "missing"),
    (["send", "bob", "hi", "there"], "too many"),
    (["send", "bob", "hi", "--priority", "urgent"], "now, next or low"),
    (["send", "bob", "hi", "--prioirty", "now"], "did you mean '--priority'"),
    (["send", "bob", "hi", "--wait=0"], "--wait"),
    (["send", "bob", "hi", "--idempotency-key", "two words"], "--idempotency-key"),
    (["send", "bob", "hi", "--meta", "novalue"], "KEY=VALUE"),
    (["send", "bob", ""], "empty"),
    (["inbox", "--since", "yesterday"], "--since"),
    (["inbox", "--limit", "0"], "--limit"),
    (["inbox", "--mesh", "Not A Slug"], "--mesh"),
    (["profile", "set"], "nothing to set"),
    (["profile", "--status", "idle"], "profile set"),
    (["mesh", "invite", "--expires", "soon"], "--expires"),
    (["mesh", "create", "acme"], "--broker"),
    (["join", "https://example.org/"], "no invite"),
    (["daemon", "up", "--tcp-port", "70000"], "--tcp-port"),
    (["daemon", "outbox", "list", "--failed", "--done"], "at a time"),
    (["broker", "serve", "--tls-cert", "x"], "--tls-key"),
])
def test_wrong_usage_exits_2_with_one_line_that_says_what_to_do(world, arguments, says):
    done = world.run(BINARY, "--config-dir", world.directory / "none", *arguments)
    assert done.returncode == 2, done
    assert done.stdout == b""
    assert says in done.stderr.decode() and done.stderr.count(b"\n") == 1


def run_on_terminal(world, arguments, environment):
    """Runs a command on a pseudo-terminal; returns what it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen([BINARY, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=world.directory)
    world.processes.append(process)
    os.close(slave)
    shown = b""
    end = deadline(20)
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if select.select([master], [], [], 0.05)[0]:
                shown += os.read(master, 65536)
                continue
        if process.poll() is not None:
            break
    os.close(master)
    return process.wait(10), shown.decode()


def test_an_inherited_variable_that_names_no_directory_warns_once_and_falls_back(world):
    environment = world.environment(CLAUDEMESH_CONFIG_DIR="/nonexistent/claudemesh")
    done = world.run(BINARY, "config", "path", environment=environment, check=0)
    assert done.stdout.decode().strip() == str(world.directory / ".claudemesh")
    assert done.stderr == b"", "only on a terminal"
    status, shown = run_on_terminal(world, ["config", "path"], environment)
    assert status == 0 and shown.count("CLAUDEMESH_CONFIG_DIR") == 1
    other = world.directory / "other"
    other.mkdir()
    assert world.run(BINARY, "config", "path", environment=world.environment(CLAUDEMESH_CONFIG_DIR=str(other))).stdout.decode().strip() == str(other)
    assert world.run(BINARY, "--config-dir", "/x", "config", "path", environment=environment).stdout.decode().strip() == "/x"


def test_a_misspelled_setting_in_the_environment_is_told_by_every_part(world):
    slip = {"CLAUDEMESH_OUTBOX_MAX_ROW": "the-value"}
    broker, alice = Broker(world, environment=slip), Node(world, "alice", environment=slip)
    create_mesh(broker, alice)
    alice.up()
    shown = alice.cli("config", "show")
    assert b"CLAUDEMESH_OUTBOX_MAX_ROW; did you mean CLAUDEMESH_OUTBOX_MAX_ROWS?" in shown.stderr
    for log in (broker.log.read_text(), alice.path("daemon.log").read_text() if alice.path("daemon.log").exists() else alice.log.read_text()):
        assert "environment_unknown" in log and "CLAUDEMESH_OUTBOX_MAX_ROWS" in log and "the-value" not in log


def test_colours_only_on_a_terminal_that_does_not_object(world):
    environment = {name: value for name, value in world.environment(TERM="xterm").items() if name != "NO_COLOR"}
    assert "\033[" in run_on_terminal(world, [], environment)[1]
    assert "\033[" not in run_on_terminal(world, ["--no-color"], environment)[1]
    assert "\033[" not in run_on_terminal(world, [], {**environment, "NO_COLOR": "1"})[1]
    assert b"\033[" not in world.run(BINARY, environment=environment).stdout


def test_without_a_daemon_what_needs_one_exits_5_and_status_1(world):
    node = Node(world, "host")
    for arguments in (["inbox"], ["inbox", "--follow"], ["peers"], ["profile"], ["events"], ["daemon", "version"], ["daemon", "outbox", "list"],
                      ["daemon", "metrics"], ["daemon", "reload"], ["verify", "bob"]):
        done = node.cli(*arguments, check=5)
        assert b"daemon" in done.stderr and done.stdout == b""
    assert node.cli("daemon", "status", check=1)
    assert json.loads(node.cli("--json", "daemon", "status", check=1).stdout) == {"running": False}
    document = json.loads(node.cli("--json", "inbox", check=5).stdout)
    assert document["error"] == "unreachable" and "daemon up" in document["detail"]
    assert b"no mesh is joined" in node.cli("send", "bob", "hi", check=1).stderr


def test_a_closed_pipe_ends_it_quietly(world):
    node = Node(world, "host")
    done = subprocess.run(["bash", "-c", f"'{BINARY}' send --help | true; exit ${{PIPESTATUS[0]}}"], env=world.environment(), capture_output=True, timeout=20)
    assert done.returncode in (0, 141) and done.stderr == b""
    full = subprocess.run(["bash", "-c", f"'{BINARY}' --config-dir '{node.config}' config path > /dev/full"], env=world.environment(), capture_output=True, timeout=20)
    assert full.returncode == 1 and b"cannot write" in full.stderr


# ---- send ------------------------------------------------------------------------------------------------------------------


def test_send_through_the_daemon(pair):
    _, alice, bob = pair
    sent = alice.json("send", "bob", "by name")
    assert sent["via"] == "daemon" and sent["status"] == "queued" and sent["duplicate"] is False and sent["client_message_id"]
    assert alice.json("send", bob.pubkey, "by key", "--wait=20")["status"] == "done"
    assert "accepted by the broker" in alice.cli("send", bob.pubkey[:10], "by prefix", "--wait").stdout.decode()
    alice.cli("send", "BOB", "two lines\nwith a last line feed\n", check=0)
    alice.cli("send", "bob", "-", input="raw \u00e4 \U0001f600\n".encode(), check=0)
    alice.cli("send", "bob", "--", "--json", check=0)
    items = {item["body"]: item for item in bob.wait_inbox(6)}
    assert set(items) == {"by name", "by key", "by prefix", "two lines\nwith a last line feed\n", "raw \u00e4 \U0001f600\n", "--json"}
    answer = alice.json("send", "bob", "an answer", "--meta", "job=nightly", "--meta", "equals=a=b", "--priority", "now", "--reply-to",
                        items["by name"]["broker_message_id"])
    item = bob.wait_inbox(7)[-1]
    assert item["client_message_id"] == answer["client_message_id"]
    assert item["meta"] == {"job": "nightly", "equals": "a=b"} and item["priority"] == "now"
    assert item["reply_to_id"] == items["by name"]["broker_message_id"]
    assert alice.cli("send", "bob", "quiet", "--quiet").stdout == b""


def test_send_refuses_what_it_must_with_its_exit_code(pair):
    _, alice, bob = pair
    alice.cli("send", "bob", "one", "--idempotency-key", "k-1")
    alice.cli("send", "bob", "one", "--idempotency-key", "k-1")
    used = alice.cli("send", "bob", "two", "--idempotency-key", "k-1", check=6)
    assert b"idempotency_key_reused" in used.stderr
    assert json.loads(alice.cli("--json", "send", "bob", "two", "--idempotency-key", "k-1", check=6).stdout)["conflict"].startswith("outbox_")
    assert b"destination_not_found" in alice.cli("send", "nobody", "hi", check=1).stderr
    assert alice.cli("send", "bob", "-", input=b"\xff\xfe", check=2).stdout == b""
    assert alice.cli("send", "bob", "-", input=b"", check=2)
    assert alice.cli("send", "bob", "-", input=b"x" * 70000, check=1)
    assert alice.cli("send", "bob", "-", input=b"x" * (2 << 20), check=1)
    for own in (alice.pubkey, alice.pubkey.upper(), alice.pubkey[:12], "alice", "ALICE"):
        assert b"--self" in alice.cli("send", own, "hi", check=1).stderr
    assert alice.json("send", "alice", "to myself", "--self", "--wait=20")["status"] == "done"
    bob.wait_inbox(1)
    assert [item["body"] for item in bob.inbox()] == ["one"]


def test_an_ambiguous_name_lists_the_candidates(pair):
    _, alice, _ = pair
    first, second = Node(alice.world, "first"), Node(alice.world, "second")
    join(alice, first, "twin")
    join(alice, second, "TWIN")
    wait_for(lambda: len(alice.json("member", "list")["members"]) == 4, 15, "the members")
    done = alice.cli("send", "twin", "hi", check=1)
    assert first.pubkey[:16] in done.stderr.decode() and second.pubkey[:16] in done.stderr.decode()
    cold = alice.cli("send", "--cold", "twin", "hi", check=1)
    assert first.pubkey[:16] in cold.stderr.decode() and second.pubkey[:16] in cold.stderr.decode()


def test_output_claims_no_more_than_is_known(world):
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_BROKER_PRESENCE_GRACE_S": "1"})
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.up()
        node.wait_connected()
    assert "offline" not in alice.cli("send", "bob", "online").stdout.decode()
    bob.wait_inbox(1)
    bob.down()
    wait_for(lambda: not [peer for peer in alice.json("peers")["peers"] if peer["name"] == "bob" and peer["online"]], 20, "bob to be known as offline")
    text = alice.cli("send", "bob", "later").stdout.decode()
    assert "queued for bob, who is offline" in text and "via: daemon" in text
    broker.stop()
    wait_for(lambda: not alice.health()["connected"], 20)
    text = alice.cli("send", "bob", "broker away").stdout.decode()
    assert text.startswith("queued for bob") and "accepted" not in text and "offline" not in text
    waited = alice.cli("send", "bob", "waited for", "--wait=1", check=7)
    assert b"queued for bob" in waited.stdout and b"not accepted" in waited.stderr


def test_without_a_daemon_send_goes_to_the_broker_itself(pair):
    _, alice, bob = pair
    alice.down()
    flags = ["--meta", "a=1", "--priority", "now", "--reply-to", "01EARLIER", "--idempotency-key", "cold-1"]
    sent = alice.json("send", "bob", "cold \u00e4", *flags)
    assert sent["via"] == "cold" and sent["status"] == "done" and sent["duplicate"] is False and sent["broker_message_id"]
    assert "accepted by the broker (id " in alice.cli("send", bob.pubkey[:16], "two").stdout.decode()
    items = bob.wait_inbox(2)
    assert items[0]["body"] == "cold \u00e4" and items[0]["meta"] == {"a": "1"} and items[0]["priority"] == "now"
    assert items[0]["reply_to_id"] == "01EARLIER" and items[0]["verified"] is True and items[0]["sender_name"] == "alice"
    assert alice.json("send", "bob", "cold \u00e4", *flags)["duplicate"] is True
    alice.cli("send", "bob", "another", "--idempotency-key", "cold-1", check=6)
    assert b"nobody" in alice.cli("send", "carol", "hi", check=1).stderr
    for own in (alice.pubkey, "alice", alice.pubkey[:9]):
        assert b"--self" in alice.cli("send", own, "hi", check=1).stderr
    # the daemon computes the same fingerprints: the same request is the same message whichever way it goes
    alice.up()
    alice.wait_connected()
    again = alice.json("send", "bob", "cold \u00e4", *flags, "--wait=20")
    assert again["via"] == "daemon" and again["broker_message_id"] == sent["broker_message_id"]
    assert alice.json("send", "--cold", "bob", "three")["via"] == "cold", "also beside a running daemon"
    assert alice.health()["connected"] is True
    assert [item["body"] for item in bob.wait_inbox(3)] == ["cold \u00e4", "two", "three"]


def test_the_cold_path_without_a_broker_exits_5(pair):
    broker, alice, _ = pair
    alice.down()
    broker.stop()
    done = alice.cli("send", "bob", "hi", check=5)
    assert b"broker" in done.stderr


def cold_stub(world, features, members=(), on_send=None):
    """A broker of the test's own, and a node that has joined there."""
    def serve(connection, _index):
        stub_handshake(connection, features)
        while (frame := connection.receive()) is not None:
            if not stub_answer(connection, frame, members=members) and frame["type"] == "send":
                on_send(connection, frame)
    stub, node = Stub(world, serve), Node(world, "host")
    fake_mesh(node, stub.url)
    return node


def test_a_broker_that_lacks_what_is_required_refuses_the_link_exit_8(world):
    node = cold_stub(world, {name: value for name, value in FEATURES.items() if name != "client_message_id_dedupe"})
    assert b"client_message_id_dedupe" in node.cli("send", Key().hex, "hi", check=8).stderr


def test_the_cold_path_believes_no_name_that_is_not_signed(world):
    mallory, sent = Key(), []

    def on_send(connection, frame):
        sent.append(frame)
        connection.send({"type": "ack", "id": frame["id"], "client_message_id": frame["id"], "messageId": "01A", "queued": True, "status": 201, "duplicate": False,
                         "history_id": 1})
    members = [{"id": "m-1", "pubkey": mallory.hex, "displayName": "bob", "role": "member", "joinedAt": 1, "revoked": False}]
    node = cold_stub(world, FEATURES, members, on_send)
    assert b"nobody" in node.cli("send", "bob", "hi", check=1).stderr
    assert b"nobody" in node.cli("send", mallory.hex[:12], "hi", check=1).stderr
    assert not sent
    assert node.json("send", mallory.hex, "by key")["via"] == "cold"
    assert sent[0]["bodyVersion"] == 3 and sent[0]["targetSpec"] == mallory.hex and len(sent[0]["request_fingerprint"]) == 64


@pytest.mark.parametrize("ack, status, says", [
    ({"status": 409, "error": "idempotency_key_reused: another message"}, 6, "idempotency"),
    ({"status": 404, "error": "unknown_member: nobody"}, 1, "unknown_member"),
    ({"status": 403, "error": "unauthorized: no"}, 3, "unauthorized"),
    ({"status": 503, "error": "unavailable: later"}, 1, "--idempotency-key"),
    (None, 7, "--idempotency-key"),
], ids=["used", "unknown", "unauthorised", "busy", "silent"])
def test_each_answer_of_a_broker_on_the_cold_path_has_its_exit_code(world, ack, status, says):
    bob = Key()

    def on_send(connection, frame):
        if ack:
            connection.send({"type": "ack", "id": frame["id"], "client_message_id": frame["id"], "messageId": "", "queued": False, **ack})
    members = [{"id": "m-1", "pubkey": bob.hex, "displayName": "bob", "role": "member", "joinedAt": 1, "revoked": False}]
    node = cold_stub(world, FEATURES, members, on_send)
    done = node.cli("send", bob.hex, "hi", "--wait=1", check=status)
    assert says in done.stderr.decode() and done.stdout == b""


class FakeDaemon:
    """Something at the daemon's socket that a test scripts: answer(method, target) gives (status, body) or None for silence."""

    def __init__(self, node, answer):
        node.path("").mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(node.socket_path)
        self.answer, self.requests = answer, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(node.socket_path)
        self.listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()
        node.world.closers.append(self.listener.close)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with contextlib.suppress(OSError, ValueError):
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = sock.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.I)
                length = int(length.group(1)) if length else 0
                while len(data) < length:
                    data += sock.recv(65536)
                data = data[length:]
                method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
                self.requests.append((method, target))
                answer = self.answer(method, target)
                if answer is None:
                    continue
                status, body = answer
                body = json.dumps(body).encode()
                sock.sendall(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                if status == 0:
                    sock.close()
                    return


VERSION = {"daemon_version": "0", "ipc_api": "v1", "meshes": ["acme"], "schema_version": 1, "ipc_features": [], "broker_features_negotiated": {}}


def only_version(method, target):
    return (200, VERSION) if target == "/v1/version" else (500, {"error": "internal", "detail": "It broke."})


def test_an_error_from_a_daemon_is_the_answer(pair):
    _, alice, bob = pair
    alice.down()
    fake = FakeDaemon(alice, only_version)
    done = alice.cli("send", bob.pubkey, "hi", check=1)
    assert b"It broke." in done.stderr
    assert ("POST", "/v1/send") in fake.requests
    time.sleep(0)
    bob.cli("send", "--self", "bob", "marker", "--wait=20")
    assert [item["body"] for item in bob.wait_inbox(1)] == ["marker"], "nothing went another way"


@pytest.mark.parametrize("answer", [
    lambda method, target: None,
    lambda method, target: (200, {**VERSION, "ipc_api": "v9"}),
    lambda method, target: (200, {**VERSION, "meshes": ["other"]}),
    lambda method, target: (200, {**VERSION, "meshes": []}),
], ids=["silent", "another API", "another mesh", "no mesh"])
def test_what_is_no_daemon_for_this_mesh_is_passed_by(pair, answer):
    _, alice, bob = pair
    alice.down()
    FakeDaemon(alice, answer)
    started = time.monotonic()
    assert alice.json("--mesh", "acme", "send", "bob", "passed by")["via"] == "cold"
    assert time.monotonic() - started < 5 * SLOW
    bob.wait_inbox(1)


class Bridge:
    """An agent session's bridge socket (40-wire)."""

    def __init__(self, node, slug="acme", answers=True):
        directory = node.config / "sockets"
        directory.mkdir(mode=0o700, exist_ok=True)
        self.requests, self.answers = [], answers
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / f"{slug}.sock"))
        self.listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()
        node.world.closers.append(self.listener.close)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with contextlib.suppress(OSError, ValueError):
            for line in sock.makefile("r"):
                request = json.loads(line)
                self.requests.append(request)
                if not self.answers:
                    continue
                answer = {"id": request["id"], "ok": True, "result": {}}
                if request["verb"] == "send":
                    answer["result"] = {"messageId": "01BRIDGE"}
                    if request["args"]["to"] == "refused":
                        answer = {"id": request["id"], "ok": False, "error": "nobody of that name"}
                sock.sendall(json.dumps(answer).encode() + b"\n")


def test_a_bridge_socket_is_used_when_no_daemon_runs(pair):
    _, alice, bob = pair
    alice.down()
    bridge = Bridge(alice)
    assert alice.json("send", "bob", "over the bridge", "--priority", "low") == {"status": "done", "broker_message_id": "01BRIDGE", "via": "bridge"}
    assert bridge.requests[-1]["args"] == {"to": "bob", "message": "over the bridge", "priority": "low"}
    assert b"nobody of that name" in alice.cli("send", "refused", "hi", check=1).stderr
    seen = len(bridge.requests)
    for flags in (["--idempotency-key", "b-1"], ["--meta", "a=1"], ["--reply-to", "01X"], ["--wait"], ["--cold"]):
        assert alice.json("send", "bob", "not over the bridge", *flags)["via"] == "cold"
    assert len(bridge.requests) == seen


def test_a_bridge_that_does_not_answer_is_passed_by(pair):
    _, alice, _ = pair
    alice.down()
    Bridge(alice, answers=False)
    assert alice.json("send", "bob", "hi")["via"] == "cold"


# ---- reading -----------------------------------------------------------------------------------------------------------------


def test_inbox_lists_filters_and_never_marks_seen(pair):
    _, alice, bob = pair
    for number in range(5):
        alice.cli("send", "bob", f"m-{number}\nsecond line \033[31mred", "--wait=20")
    bob.wait_inbox(5)
    document = bob.json("inbox")
    assert [item["body"][:3] for item in document["items"]] == ["m-4", "m-3", "m-2", "m-1", "m-0"] and document["next_cursor"] is None
    assert all(RFC3339.match(item["received_at"]) for item in document["items"])
    assert len(bob.json("inbox", "--limit", "2")["items"]) == 2
    assert len(bob.json("inbox", "--from", "alice", "--since", "10m")["items"]) == 5
    assert len(bob.json("inbox", "--from", alice.pubkey, "--since=2020-01-01T00:00:00+02:00")["items"]) == 5
    assert bob.json("inbox", "--from", "carol")["items"] == []
    text = bob.cli("inbox", "--limit", "3").stdout.decode()
    assert text.index("m-2") < text.index("m-3") < text.index("m-4"), "the newest at the bottom"
    assert "m-1" not in text and "\033" not in text and "second line" in text and "alice" in text and "new" in text
    bob.api.post("/v1/inbox/seen", {"ids": [document["items"][0]["id"]]})
    assert len(bob.json("inbox", "--unread")["items"]) == 4
    assert bob.cli("inbox", "--topic", "empty").stdout == b""


def test_inbox_over_more_than_a_page(pair):
    _, alice, bob = pair
    api = alice.new_api()
    for number in range(1100):
        assert api.post("/v1/send", {"to": "bob", "message": f"p-{number}"}).status == 202
    bob.wait_inbox(1100)
    items = bob.json("inbox", "--limit", "1050")["items"]
    assert [item["body"] for item in items] == [f"p-{number}" for number in range(1099, 49, -1)]


def test_inbox_follow_misses_and_repeats_nothing_when_the_daemon_restarts(pair):
    _, alice, bob = pair
    alice.cli("send", "bob", "f-0", "--wait=20")
    bob.wait_inbox(1)
    follower = Follower(bob, "--json", "inbox", "--follow")
    follower.wait(lambda lines: len(lines) == 1)
    alice.cli("send", "bob", "f-1", "--wait=20")
    follower.wait(lambda lines: len(lines) == 2)
    for step, stop in enumerate((bob.kill, bob.down, bob.kill)):
        stop()
        for number in range(5):
            alice.cli("send", "bob", f"f-{2 + step * 5 + number}", "--wait=20")
        bob.up()
        follower.wait(lambda lines: len(lines) >= 2 + (step + 1) * 5, 40)
    assert [json.loads(line)["body"] for line in follower.lines] == [f"f-{number}" for number in range(17)]
    assert follower.interrupt() == 0


def test_inbox_follow_filters(pair):
    _, alice, bob = pair
    follower = Follower(bob, "--json", "inbox", "-f", "--from", "alice")
    wait_for(lambda: bob.api.get("/v1/health").status == 200)
    bob.cli("send", "bob", "from bob", "--self", "--wait=20")
    alice.cli("send", "bob", "from alice", "--wait=20")
    follower.wait(lambda lines: len(lines) >= 1)
    assert [json.loads(line)["body"] for line in follower.lines] == ["from alice"]
    assert follower.interrupt() == 0


def test_events_one_a_line_until_interrupted(pair):
    _, alice, bob = pair
    follower = Follower(bob, "events", "--json", "--types", "message,broker_status")
    plain = Follower(bob, "events")

    def sent_and_shown(lines):
        return any('"message"' in line for line in lines)
    end = deadline(20)
    number = 0
    while not sent_and_shown(follower.lines) or not any("ev-" in line for line in plain.lines):
        assert time.monotonic() < end
        alice.cli("send", "bob", f"ev-{number}\nsecond", "--wait=20")
        number += 1
    event = json.loads([line for line in follower.lines if '"message"' in line][0])
    assert event["event"] == "message" and event["id"] and event["data"]["body"].startswith("ev-") and RFC3339.match(event["data"]["ts"])
    bob.down()
    alice.cli("send", "bob", "while away", "--wait=20")
    bob.up()
    follower.wait(lambda lines: any("while away" in line for line in lines), 30)
    assert not any("second" in line for line in plain.lines), "one line an event"
    assert follower.interrupt() == 0 and plain.interrupt() == 0
    assert bob.cli("events", "--types", "nonsense", check=2)


def test_peers_members_profile_and_verify(pair):
    _, alice, bob = pair
    assert bob.json("profile", "set", "--summary", "reading \u00e4", "--status", "working", "--visible", "true", "--title", "t", "--bio", "b", "--avatar", "a",
                    "--capability", "c", "--capability", "review")["ok"] is True
    shown = bob.json("profile")
    assert shown["summary"] == "reading \u00e4" and shown["status"] == "working" and shown["capabilities"] == ["c", "review"]
    assert "reading" in bob.cli("profile", "show").stdout.decode()
    assert b"status" in bob.cli("profile", "set", "--status", "asleep", check=2).stderr
    peer = wait_for(lambda: [p for p in alice.json("peers")["peers"] if p["name"] == "bob" and p["summary"] == "reading \u00e4"], 15)[0]
    assert peer["online"] is True and peer["pubkey"] == bob.pubkey
    text = alice.cli("peer", "list").stdout.decode()
    assert "NAME" in text and re.search(r"^bob +yes +working", text, re.M)
    members = {member["name"]: member for member in alice.json("member", "list")["members"]}
    assert members["bob"]["verified"] is True and members["bob"]["pubkey"] == bob.pubkey and members["alice"]["role"] == "admin"
    assert bob.pubkey in alice.cli("member", "list").stdout.decode()
    numbers = alice.json("verify", "bob")["safety_number"], bob.json("verify", "alice")["safety_number"]
    assert numbers[0] == numbers[1] and len(numbers[0].replace(" ", "")) == 60
    assert numbers[0] in alice.cli("verify", bob.pubkey[:12]).stdout.decode()
    assert alice.cli("verify", "nobody", check=1)
    assert alice.json("verify", "bob", "--accept")["key_changed"] is False
    alice.down()
    assert alice.json("verify", bob.pubkey)["safety_number"] == numbers[0], "a whole key needs no daemon"


# ---- meshes --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    return broker, alice


def change(link, **fields):
    document = json.loads(base64.urlsafe_b64decode(link.split("/")[-1] + "==="))
    document.update(fields)
    return "claudemesh://join/" + base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def test_mesh_create_makes_keys_and_joins(world):
    broker, alice = Broker(world), Node(world, "alice")
    assert b"--admin-token-file" in alice.cli("mesh", "create", "Acme Build Farm", "--broker", broker.url, check=3).stderr
    wrong = world.directory / "wrong"
    wrong.write_text("0123456789abcdef\n")
    alice.cli("mesh", "create", "Acme", "--broker", broker.url, "--admin-token-file", wrong, check=3)
    made = alice.json("mesh", "create", "Acme Build Farm!", "--broker", f"http://127.0.0.1:{broker.port}", "--admin-token-file", broker.admin_token_file,
                      "--name", "Alice \u00e4")
    assert made["slug"] == "acme-build-farm" and made["broker_url"] == broker.url and made["member_id"]
    entry = alice.mesh()
    assert entry["ownerPubkey"] == entry["pubkey"] == made["pubkey"] and entry["role"] == "admin" and entry["name"] == "Acme Build Farm!"
    assert len(base64.urlsafe_b64decode(entry["rootKey"] + "=")) == 32 and len(entry["secretKey"]) == 128
    assert (alice.config / "config.json").stat().st_mode & 0o777 == 0o600 and alice.config.stat().st_mode & 0o777 == 0o700
    assert alice.json("mesh", "list")["meshes"][0]["owner"] is True
    assert b"acme-build-farm" in alice.cli("mesh", "list").stdout and entry["secretKey"].encode() not in alice.cli("--json", "mesh", "list").stdout
    alice.cli("mesh", "create", "Acme Build Farm", "--broker", broker.url, "--admin-token-file", broker.admin_token_file, check=6)
    alice.cli("mesh", "create", "far", "--broker", "ws://192.0.2.1/ws", "--admin-token-file", broker.admin_token_file, check=2)
    alice.cli("mesh", "create", "gone", "--broker", f"ws://127.0.0.1:{free_port()}/ws", "--admin-token-file", broker.admin_token_file, check=5)


def test_the_admin_token_is_found_in_the_configuration_directory(world):
    alice = Node(world, "alice")
    port = free_port()
    process = world.start([BINARY, "--config-dir", alice.config, "broker", "serve", "--listen", f"127.0.0.1:{port}"], alice.log, stdout=subprocess.PIPE)
    assert process.stdout.readline().decode().startswith(f"claudemesh broker listening on ws://127.0.0.1:{port}/ws")
    alice.cli("mesh", "create", "acme", "--broker", f"ws://127.0.0.1:{port}")
    assert alice.mesh()["brokerUrl"] == f"ws://127.0.0.1:{port}/ws"
    process.stdout.close()


def test_an_invite_is_a_link_alone_on_stdout(host):
    _, alice = host
    done = alice.cli("mesh", "invite", "--role", "admin", "--expires", "2h", "--max-uses", "3", "--qr")
    link = done.stdout.decode()
    assert link.startswith("claudemesh://join/") and link.count("\n") == 1
    assert "\u2588" in done.stderr.decode()
    document = alice.json("mesh", "invite", "--expires", "2h", "--max-uses", "3")
    assert document["link"].startswith("claudemesh://join/") and document["max_uses"] == 3 and RFC3339.match(document["expires_at"])
    fields = json.loads(base64.urlsafe_b64decode(document["link"].split("/")[-1] + "==="))
    assert abs(fields["expires_at"] - time.time() - 7200) < 60 and fields["role"] == "member" and fields["v"] == 3
    bob = Node(alice.world, "bob")
    join(alice, bob)
    assert b"only the owner" in bob.cli("mesh", "invite", check=3).stderr


def test_join_checks_shows_and_asks(host):
    broker, alice = host
    bob = Node(alice.world, "bob")
    link = alice.cli("mesh", "invite").stdout.decode().strip()
    nobody = bob.cli("join", link, check=2)
    assert b"--owner" in nobody.stderr and link.encode() not in nobody.stderr
    assert bob.cli("join", change(link, role="admin"), "--yes", check=3)
    assert bob.cli("join", change(link, mesh_slug="other"), "--yes", check=3)
    assert bob.cli("join", change(link, expires_at=int(time.time()) - 60), "--yes", check=3), "signed: it cannot be made to expire either"
    assert bob.cli("join", link[:60], "--yes", check=2)
    assert bob.cli("join", link, "--owner", "ff" * 8, check=3)
    assert bob.cli("join", link, "--owner", alice.pubkey[:8], check=2)
    assert not (bob.config / "config.json").exists()
    done = bob.cli("join", "-", "--owner", alice.pubkey[:16].upper(), "--name", "bob", input=link.encode() + b"\n")
    shown = done.stderr.decode()
    assert alice.pubkey in shown and broker.url in shown and re.search(r"(\d{5} ){11}\d{5}", shown)
    assert b"joined 'acme' as bob" in done.stdout
    entry = bob.mesh()
    assert entry["ownerPubkey"] == alice.pubkey and entry["rootKey"] == alice.mesh()["rootKey"] and entry["role"] == "member"
    assert not list(bob.config.glob("join-*")), "the key has its place now"
    again = bob.cli("join", link, "--yes")
    assert b"joined already" in again.stdout and bob.mesh() == entry
    carol = Node(alice.world, "carol")
    assert b"as often as it may be" in carol.cli("join", link, "--yes", check=1).stderr
    assert not (carol.config / "config.json").exists() and not list(carol.config.glob("join-*"))


def test_join_asks_on_a_terminal(host):
    _, alice = host
    link = alice.cli("mesh", "invite", "--max-uses", "2").stdout.decode().strip()
    for answer, status in ((b"n\n", 1), (b"y\n", 0)):
        node = Node(alice.world, "asked-" + answer.decode().strip())
        master, slave = pty.openpty()
        process = subprocess.Popen([BINARY, "--config-dir", str(node.config), "join", link], stdin=slave, stdout=slave, stderr=slave,
                                   env=alice.world.environment())
        alice.world.processes.append(process)
        os.close(slave)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(master, 4096)
        os.write(master, answer)
        assert process.wait(20 * SLOW) == status
        assert (node.config / "config.json").exists() == (status == 0)
        os.close(master)


def test_an_expired_invite_is_said_to_be(host):
    _, alice = host
    link = alice.cli("mesh", "invite", "--expires", "1s").stdout.decode().strip()
    bob = Node(alice.world, "bob")
    expires = json.loads(base64.urlsafe_b64decode(link.split("/")[-1] + "==="))["expires_at"]
    wait_for(lambda: time.time() > expires, 5)
    assert b"expired" in bob.cli("join", link, "--yes", check=1).stderr


def test_a_join_whose_answer_is_lost_can_be_repeated(host):
    """The broker took the member, the answer did not come: the same invite, of one use, still leads in."""
    broker, alice = host
    bob = Node(alice.world, "bob")
    link = alice.cli("mesh", "invite", "--max-uses", "1").stdout.decode().strip()
    bob.cli("join", link, "--yes", "--name", "bob")
    config = json.loads((bob.config / "config.json").read_text())
    key = bob.config / f"join-{json.loads(base64.urlsafe_b64decode(link.split('/')[-1] + '==='))['invite_id']}.key"
    key.write_text(config["meshes"][0]["secretKey"])
    key.chmod(0o600)
    (bob.config / "config.json").unlink()
    bob.cli("join", link, "--yes", "--name", "bob")
    assert bob.mesh()["memberId"] == config["meshes"][0]["memberId"] and not key.exists()
    assert broker.process.poll() is None


def test_an_invite_that_contradicts_a_joined_mesh_is_a_conflict(host):
    broker, alice = host
    bob = Node(alice.world, "bob")
    join(alice, bob)
    mallory = Node(alice.world, "mallory")
    mallory.cli("mesh", "create", "acme2", "--slug", "acme2", "--broker", broker.url, "--admin-token-file", broker.admin_token_file)
    path = mallory.config / "config.json"
    config = json.loads(path.read_text())
    config["meshes"][0].update(meshId=alice.mesh()["meshId"], slug="acme")
    path.write_text(json.dumps(config))
    link = mallory.cli("mesh", "invite").stdout.decode().strip()
    done = bob.cli("join", link, "--yes", check=6)
    assert b"mesh_conflict" in done.stderr and b"owner" in done.stderr
    config["meshes"][0].update(meshId="7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11")
    path.write_text(json.dumps(config))
    other = mallory.cli("mesh", "invite").stdout.decode().strip()
    assert b"mesh_conflict" in bob.cli("join", other, "--yes", check=6).stderr, "another mesh of the same slug"


def test_leave_tells_the_broker_and_forgets(host):
    broker, alice = host
    bob = Node(alice.world, "bob")
    join(alice, bob)
    broker.stop()
    refused = bob.cli("mesh", "leave", check=5)
    assert b"--force" in refused.stderr and bob.mesh()["slug"] == "acme"
    broker.start()
    assert b"left 'acme'" in bob.cli("mesh", "leave").stdout
    assert bob.json("mesh", "list") == {"meshes": []}
    alice.up()
    alice.wait_connected()
    wait_for(lambda: all(member["name"] != "bob" or member.get("revoked") or member.get("left") for member in alice.json("member", "list")["members"]), 15, "bob to be gone")
    alice.down()
    broker.stop()
    assert alice.json("mesh", "leave", "acme", "--force") == {"slug": "acme", "broker_told": False}
    assert alice.json("mesh", "list") == {"meshes": []}


def test_revoke_removes_a_member_for_ever(pair):
    _, alice, bob = pair
    assert b"owner" in bob.cli("member", "revoke", "alice", "--yes", check=3).stderr
    assert b"no member of 'acme' any more" in alice.cli("member", "revoke", bob.pubkey[:12], "--yes").stdout
    wait_for(lambda: bob.send(alice.pubkey, "still here?").status == 403, 15, "bob's daemon to know")
    assert bob.cli("send", "alice", "hello", check=3)
    bob.down()
    assert bob.cli("send", "alice", "hello", check=3), "nor on the cold path"
    wait_for(lambda: [m for m in alice.json("member", "list")["members"] if m["name"] == "bob" and m["revoked"]], 15)


def test_two_meshes_need_a_mesh_flag_where_nothing_else_decides(pair):
    broker, alice, _ = pair
    create_mesh(broker, alice, slug="second", name="alice")
    wait_for(lambda: len(alice.health()["meshes"]) == 2, 15)
    assert b"--mesh" in alice.cli("peers", check=2).stderr
    assert alice.json("peers", "--mesh", "second")["peers"] is not None
    alice.down()
    assert b"--mesh" in alice.cli("send", "bob", "hi", check=2).stderr
    assert alice.json("send", "bob", "hi", "--mesh", "acme")["via"] == "cold"
    assert b"not joined" in alice.cli("send", "bob", "hi", "--mesh", "third", check=1).stderr


# ---- the daemon's commands -------------------------------------------------------------------------------------------------------


def test_the_outbox_from_the_command_line(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.up()
    alice.wait_connected()
    broker.stop()
    wait_for(lambda: not alice.health()["connected"], 20)
    for number in range(3):
        alice.cli("send", "bob", f"row {number}", "--idempotency-key", f"row-{number}")
    rows = alice.json("daemon", "outbox", "list", "--pending")["items"]
    assert [row["client_message_id"] for row in rows] == ["row-2", "row-1", "row-0"] and rows[0]["payload_size"] == 5 and "payload" not in rows[0]
    assert len(alice.json("daemon", "outbox", "list", "--limit", "2")["items"]) == 2
    assert alice.json("daemon", "outbox", "list", "--failed")["items"] == []
    assert "row-1" in alice.cli("daemon", "outbox", "list").stdout.decode()
    assert alice.json("daemon", "outbox", "show", "row-0")["status"] == "pending"
    assert alice.json("daemon", "outbox", "show", rows[2]["id"])["client_message_id"] == "row-0"
    assert b"pending" in alice.cli("daemon", "outbox", "show", "row-0").stdout
    assert alice.cli("daemon", "outbox", "show", "nothing", check=1)
    patch = world.directory / "patch.txt"
    patch.write_text("patched")
    again = alice.json("daemon", "outbox", "requeue", "row-0", "--new-client-id", "row-0-again", "--patch-payload", patch)
    assert again["client_message_id"] == "row-0-again"
    shown = alice.json("daemon", "outbox", "show", "row-0")
    assert shown["status"] == "aborted" and shown["superseded_chain"]
    assert "superseded by" in alice.cli("daemon", "outbox", "show", "row-0").stdout.decode()
    assert alice.cli("daemon", "outbox", "requeue", "row-0", check=6)
    assert alice.cli("daemon", "outbox", "requeue", "row-1", "--new-client-id", "row-0", check=6)
    assert alice.cli("daemon", "outbox", "drop", "row-1")
    assert alice.cli("send", "bob", "row 1", "--idempotency-key", "row-1", check=6), "its id stays used"
    broker.start()
    bob.up()
    assert sorted(item["body"] for item in bob.wait_inbox(2, 90)) == ["patched", "row 2"]
    wait_for(lambda: len(alice.json("daemon", "outbox", "list", "--done")["items"]) == 2, 15)
    wait_for(lambda: re.search(r"^bob stored it \d{4}-", alice.cli("daemon", "outbox", "show", "row-2").stdout.decode(), re.M), 15, "the receipt")


def test_status_version_metrics_logs_reload_and_settings(pair):
    _, alice, _ = pair
    status = alice.json("daemon", "status")
    assert status["running"] is True and status["meshes"][0]["slug"] == "acme" and status["meshes"][0]["connected"] is True
    assert re.search(r"^acme +yes +open", alice.cli("daemon", "status").stdout.decode(), re.M)
    assert alice.json("daemon", "version")["ipc_api"] == "v1"
    assert "cm_daemon_connected" in alice.cli("daemon", "metrics").stdout.decode()
    shown = {entry["name"]: entry for entry in alice.json("config", "show")["settings"]}
    assert shown["drain.window"] == {"name": "drain.window", "value": 256, "from": "default"}
    alice.settings("[drain]\nwindow = 128\n")
    environment = {"CLAUDEMESH_DAEMON_LOG_LEVEL": "debug"}
    shown = {entry["name"]: entry for entry in alice.json("config", "show", environment=environment)["settings"]}
    assert shown["drain.window"]["value"] == 128 and shown["drain.window"]["from"] == "config.toml"
    assert shown["daemon.log_level"] == {"name": "daemon.log_level", "value": "debug", "from": "environment", "running": "info", "running_from": "default"}
    alice.cli("daemon", "reload")
    wait_for(lambda: "reload" in alice.log.read_text(), 10, "the log to say it")
    alice.settings("[drain]\nwindwo = 128\n")
    assert b"window" in alice.cli("daemon", "reload", check=1).stderr
    assert alice.health()["connected"] is True


def test_logs_of_a_detached_daemon(host):
    _, alice = host
    alice.cli("daemon", "up", "--no-tcp")
    try:
        lines = [json.loads(line) for line in alice.cli("--json", "daemon", "logs").stdout.decode().splitlines()]
        assert lines and all({"ts", "level", "msg"} <= set(line) for line in lines)
        assert lines[0]["msg"] in alice.cli("daemon", "logs").stdout.decode()
        assert len(alice.cli("daemon", "logs", "--lines", "1").stdout.decode().splitlines()) == 1
        follower = Follower(alice, "--json", "daemon", "logs", "-f", "--lines", "1")
        follower.wait(lambda shown: len(shown) == 1)
        os.rename(alice.path("daemon.log"), alice.path("daemon.log.1"))  # as a rotation does
        alice.path("daemon.log").write_text('{"ts":"2026-01-01T00:00:00.000Z","level":"info","msg":"after_rotation"}\n')
        follower.wait(lambda shown: any("after_rotation" in line for line in shown))
        assert follower.interrupt() == 0
    finally:
        alice.cli("daemon", "down")
    assert b"no daemon" in alice.cli("daemon", "down").stdout
