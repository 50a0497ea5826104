"""Logs (80-operations): JSON lines wherever they go, rotated while they are written, followed across rotation, and never with a secret in them."""

import base64
import json
import re
import signal
import socket
import time
import urllib.parse

import pytest

import harness
from harness import BINARY, Broker, Node, create_mesh, join, wait_for
from test_cli import Follower
from test_hostile_broker import Hostile


@pytest.fixture
def host(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    return broker, alice


def lines_of(text):
    entries = []
    for line in text.splitlines():
        if line.startswith("claudemesh broker listening on "):
            continue  # for a person, on stdout; the log is on stderr
        entry = json.loads(line)
        assert list(entry)[:3] == ["ts", "level", "msg"] and entry["level"] in ("debug", "info", "warn", "error"), line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["ts"]) and re.fullmatch(r"[a-z0-9_]+", entry["msg"]), line
        entries.append(entry)
    return entries


def test_every_line_is_json_with_ts_level_and_a_stable_name_wherever_it_goes(host):
    broker, alice = host
    alice.up()
    alice.wait_connected()
    alice.down()
    broker.stop()
    assert lines_of(alice.log.read_text()) and lines_of(broker.log.read_text())
    assert not alice.path("daemon.log").exists()  # in the foreground: stderr alone
    detached = alice.cli("daemon", "up", "--no-tcp")
    alice.cli("daemon", "down")
    entries = lines_of(alice.path("daemon.log").read_text())
    assert {"daemon_ready", "daemon_stopped"} <= {entry["msg"] for entry in entries}
    assert any(entry.get("mesh") == "acme" for entry in entries) and b'"ts"' not in detached.stdout + detached.stderr
    assert alice.path("daemon.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("part", ["daemon", "broker"])
def test_under_systemd_each_line_says_its_priority_to_the_journal(host, part):
    broker, alice = host
    broker.stop()
    log = alice.world.directory / "journal"
    log.touch()
    status = log.stat()
    right = f"{status.st_dev}:{status.st_ino}"
    arguments = ["daemon", "up", "--foreground", "--no-tcp"] if part == "daemon" else [
        "broker", "serve", "--listen", f"127.0.0.1:{broker.port}", "--store", f"sqlite:{broker.store}"]
    for stream, prefixed in ((right, True), ("1:2", False)):
        log.write_text("")
        process = alice.world.start([BINARY, "--config-dir", alice.config, *arguments], log, alice.world.environment(JOURNAL_STREAM=stream))
        wait_for(lambda: "_ready" in log.read_text(), what="the start")
        process.terminate()
        assert process.wait(20) == 0
        text = log.read_text()
        if prefixed:
            priorities = {"debug": "7", "info": "6", "warn": "4", "error": "3"}
            for line in text.splitlines():
                if line.startswith("claudemesh broker listening on "):
                    continue
                assert re.match(r"<\d>\{", line) and line[1] == priorities[json.loads(line[3:])["level"]], line
        else:
            lines_of(text)


def test_a_log_that_is_rotated_while_it_is_written_is_followed_without_a_gap(host):
    _, alice = host
    alice.settings('[log]\nmax_size = "2KB"\n')
    alice.cli("daemon", "up", "--no-tcp")
    try:
        follower = Follower(alice, "--json", "daemon", "logs", "-f", "--lines", "0")
        time.sleep(0.3)  # the watch begins; what comes before it is printed all the same
        for n in range(120):
            alice.api.get(f"/v1/version?token=x{n}")
            if n % 20 == 19:  # two or three files at once; faster than five nobody could follow
                follower.wait(lambda shown: sum('"token_in_query"' in line for line in shown) == n + 1)
        assert alice.path("daemon.log.5").exists() and not alice.path("daemon.log.6").exists()
        for number in range(1, 6):
            path = alice.path(f"daemon.log.{number}")
            assert path.stat().st_size <= 2048 and path.stat().st_mode & 0o777 == 0o600
            lines_of(path.read_text())
        assert follower.interrupt() == 0
    finally:
        alice.cli("daemon", "down")


def test_a_log_file_that_was_taken_away_is_made_anew(host):
    _, alice = host
    alice.cli("daemon", "up", "--no-tcp")
    try:
        alice.path("daemon.log").unlink()

        def said():
            alice.api.get("/v1/version?token=x")
            return alice.path("daemon.log").exists() and "token_in_query" in alice.path("daemon.log").read_text()
        wait_for(said, what="a new file")
    finally:
        alice.cli("daemon", "down")


# ---- security events ------------------------------------------------------------------------------------------------------------


def security_events(text):
    return {entry["msg"] for entry in lines_of(text) if entry.get("security") is True}


def test_what_attacks_the_local_api_is_marked_as_security(host):
    _, alice = host
    alice.up("--tcp-port", "0")
    tcp = alice.tcp_api(token=False)
    tcp.get("/v1/version?token=abc")
    tcp.get("/v1/version", headers={"Host": "evil.example"})
    tcp.get("/v1/version", headers={"Origin": "https://evil.example"})
    tcp.get("/v1/version", headers={"Authorization": "Bearer wrong"})
    assert {"token_in_query", "forbidden_host", "forbidden_origin", "invalid_token"} <= security_events(alice.log.read_text())


def test_what_attacks_the_broker_is_marked_as_security(host):
    broker, alice = host
    broker.get("/health?token=abc")
    broker.get("/health", headers={"Host": "evil.example"})
    broker.get("/health", headers={"Origin": "https://evil.example"})
    broker.get("/", headers={"Authorization": "Bearer wrong"})
    assert {"token_in_query", "forbidden_host", "forbidden_origin", "invalid_token"} <= security_events(broker.log.read_text())


def test_what_a_broker_forges_is_marked_as_security(world):
    hostile = Hostile(world)
    hostile.acknowledgement(hostile.push(hostile.carol, "f1", hostile.seal(hostile.stranger, "forged", "f1")))
    hostile.connection.send({"type": "push", "messageId": 7})
    wait_for(lambda: {"message_quarantined", "push_malformed"} <= security_events(hostile.node.log.read_text()), what="both events")


# ---- canaries -------------------------------------------------------------------------------------------------------------------


def spellings(secret):
    """As it is, and as a careless program would print it."""
    data = secret.encode() if isinstance(secret, str) else secret
    text = data.decode("latin-1")
    forms = {data, data.hex().encode(), data.hex().upper().encode(), urllib.parse.quote(text, safe="").encode(),
             json.dumps(text)[1:-1].encode(), repr(data)[2:-1].encode()}
    for shift in range(3):  # whatever stands before it in a base64 text
        for encoded in (base64.b64encode(b"\0" * shift + data), base64.urlsafe_b64encode(b"\0" * shift + data)):
            forms.add(encoded.rstrip(b"=")[4 if shift else 0: -2])
    return {form for form in forms if len(form) >= 10}


def secrets_of(broker, nodes, links, more):
    found = dict(more)
    found["admin token"] = broker.admin_token_file.read_text().strip()
    for node in nodes:
        for mesh in json.loads((node.config / "config.json").read_text())["meshes"]:
            key = bytes.fromhex(mesh["secretKey"])
            found[f"{node.name}: secret key"], found[f"{node.name}: seed"] = key, key[:32]
            if "rootKey" in mesh:
                root = base64.urlsafe_b64decode(mesh["rootKey"] + "==")
                found[f"{node.name}: root key"], found[f"{node.name}: root key as text"] = root, mesh["rootKey"]
        if node.path("local-token").exists():
            found[f"{node.name}: local token"] = node.path("local-token").read_text().strip()
    for number, link in enumerate(links):
        payload = link.rsplit("/", 1)[-1]
        invite = json.loads(base64.urlsafe_b64decode(payload + "=="))
        found[f"invite {number}"], found[f"invite {number}: seed"] = payload[40:120], invite["invite_seed"]
    return found


def memory_maps_are_closed(pid):
    """No other process of this user may read the memory, and no core will hold it."""
    limits = open(f"/proc/{pid}/limits").read()
    assert re.search(r"Max core file size +0 ", limits)


def walk_through_everything(broker, alice, bob, body, meta, words):
    """Every route and every command, as they should be and as they should not, with canaries in each place that takes a text."""
    token = alice.path("local-token").read_text().strip()
    tcp, unix = alice.tcp_api(), alice.api
    assert tcp.post("/v1/send?wait=30", {"to": "bob", "message": body, "meta": meta, "client_message_id": "canary-1"}).status == 200
    assert tcp.post("/v1/send", {"to": "bob", "message": body + " another", "meta": meta, "client_message_id": "canary-1"}).status == 409
    row = unix.get("/v1/outbox?limit=1").json["items"][0]["id"]
    shared = {"message": body, "meta": meta, "to": "nobody at all", "password": words, "patch": {"message": body}}
    source = (harness.ROOT / "src/ipc/routes.c").read_text()
    routes = re.findall(r'\{ "(GET|POST)", "(/v1/[^"]+)"', source)
    assert len(routes) > 30
    for method, path in routes:
        path = path.replace("{id}", row)
        if path == "/v1/events":
            continue
        for api in (tcp, unix):
            for extra in ("", f"?token={token}", f"?access_token={urllib.parse.quote(words)}", f"?q={urllib.parse.quote(words)}&mesh={urllib.parse.quote(words)}"):
                api.call(method, path + extra, shared if method == "POST" else None)
            api.call(method, path, raw=json.dumps({"message": body}).encode()[:-3])
            api.call(method, path, {"message": [body], "meta": body, "to": {body: 1}, "id": words, "peer": words, "group": words, "topic": words})
        for headers in ({"Authorization": f"Bearer {token}x"}, {"Authorization": f"Basic {words}"}, {"Authorization": f"Capability {words}"},
                        {"Idempotency-Key": words}, {"Last-Event-ID": words}, {"Origin": f"https://{words}"}, {"Host": words},
                        {"X-Claudemesh-Nonce": words}, {"Content-Type": words}):
            tcp.call(method, path, None, headers=headers)
        tcp.call(method, path + "/" + urllib.parse.quote(words))
    for head in (f"GET /{token} HTTP/1.1\r\nHost: {token}\r\n\r\n", f"BAD {token}\r\n\r\n", f"GET / HTTP/1.1\r\n{token}\r\n\r\n"):
        for port in (int(alice.path("http.port").read_text()), broker.port):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
                raw.sendall(head.encode())
                raw.recv(65536)
    for path in ("/", "/metrics", "/health", f"/{words}", f"/mesh?token={words}"):
        broker.get(path, headers={"Authorization": f"Bearer {broker.admin_token_file.read_text().strip()}x"})
        broker.get(f"{path}?token={broker.admin_token_file.read_text().strip()}")


def test_no_secret_reaches_a_log_or_a_terminal_that_did_not_ask_for_it(world):
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_LOG_LEVEL": "debug"})
    alice, bob, carol = (Node(world, name, {"CLAUDEMESH_DAEMON_LOG_LEVEL": "debug"}) for name in ("alice", "bob", "carol"))
    create_mesh(broker, alice)
    links = [join(alice, bob)]
    alice.up("--tcp-port", "0"), bob.up("--tcp-port", "0")
    alice.wait_connected(), bob.wait_connected()
    body, words = "body-canary «5c1f9e» \"quoted\" and\nmore", "passphrase-canary-hunter2-77aa"
    meta = {"password": "meta-canary-31c7-value", "api_key": words}
    walk_through_everything(broker, alice, bob, body, meta, words)
    bob.wait_inbox(1)
    printed = []

    def run(node, *arguments, input=None):
        printed.append(node.cli(*arguments, input=input, check=None))

    links.append(alice.cli("mesh", "invite", "--max-uses", "1").stdout.decode().strip())
    damaged = links[1][:-12] + "AAAAAAAAAAAA"
    for arguments in (("join", damaged, "--yes"), ("join", links[0], "--yes"), ("join", links[1] + words, "--yes")):
        run(carol, *arguments)
    for node in (alice, bob):
        for arguments in (("daemon", "status"), ("--json", "daemon", "status"), ("daemon", "metrics"), ("config", "show"), ("doctor",), ("--json", "doctor"),
                          ("daemon", "reload"), ("peer", "list"), ("member", "list"), ("mesh", "list"), ("daemon", "outbox", "list"), ("verify", "bob"),
                          ("daemon", "version"), ("send", "bob", body, "--meta", f"key={words}", "--idempotency-key", "canary-1"), ("send", "nobody", body),
                          ("send", "--cold", "bob", body), ("send", "--cold", "nobody", body), ("daemon", "logs")):
            run(node, *arguments)
    for signal_number in (signal.SIGUSR1, signal.SIGHUP):
        alice.process.send_signal(signal_number)
        bob.process.send_signal(signal_number)
    memory_maps_are_closed(alice.process.pid)
    bob.kill()  # and an unclean start
    bob.up()
    wait_for(lambda: '"msg":"state"' in alice.log.read_text(), what="the dump")
    # Nothing of it is in an argument list or an environment, while it runs either.
    seen = b"".join(open(f"/proc/{node.process.pid}/{name}", "rb").read() for node in (alice, bob) for name in ("cmdline", "environ"))
    found = secrets_of(broker, [alice, bob], links, {"body": "body-canary «5c1f9e»", "passphrase": words, "meta": "meta-canary-31c7-value"})
    alice.down(), bob.down(), broker.stop()
    logs = {str(path): path.read_bytes() for path in [alice.log, bob.log, broker.log, *world.directory.rglob("daemon.log*")]}
    assert sum(len(text) for text in logs.values()) > 20000
    for arguments_and_output in printed:
        logs[f"printed by {arguments_and_output.args[3:]}"] = arguments_and_output.stdout + arguments_and_output.stderr
    logs["argument lists and environments"] = seen
    for name, secret in found.items():
        for form in spellings(secret):
            for where, text in logs.items():
                assert form not in text, f"{name} ({form!r}) is in {where}: {[line for line in text.splitlines() if form in line][:1]}"


def test_every_security_event_of_the_source_is_in_the_operators_list():
    """Whoever watches a host must find in the documentation what a marked line means."""
    listed = (harness.ROOT / "docs/operations.md").read_text()
    listed = listed[listed.index('Lines with `"security":true`'):]
    listed = set(re.findall(r"`([a-z_]+)`", listed[:listed.index("`kill -USR1`")]))
    found = set()
    for path in sorted((harness.ROOT / "src").rglob("*.c")):
        for call in re.findall(r"\b(?:log_event|log_security|tell|refuse_for_security)\((?:[^;]|\n)*?;", path.read_text()):
            if "LOG_SECURITY" in call or '"security"' in call or call.startswith("log_security("):
                found |= set(re.findall(r'(?:LOG_LEVEL_[A-Z]+,|log_security\(|\?|:)\s*"([a-z_]+)"', call))
            if call.startswith("refuse_for_security("):
                found |= set(re.findall(r'\d{3}, "([a-z_]+)"', call))
            if path.name == "host.c" and call.startswith("tell("):
                found |= set(re.findall(r'"(host_[a-z_]+)"', call))
    assert {"token_in_query", "message_quarantined", "host_differs", "invalid_token"} <= found
    found -= {"tcp", "unix", "other"}  # values, not names
    assert not found - listed, f"not in docs/operations.md: {sorted(found - listed)}"
