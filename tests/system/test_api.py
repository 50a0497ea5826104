"""20-ipc and 10-cli: the names and types of what is answered, where no other file looks."""

import json
import re
import select
import signal
import subprocess

from harness import BINARY, SLOW, Broker, Node, Stub, acknowledge, create_mesh, fake_mesh, join, stub_answer, stub_handshake, wait_for

RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


def peer_of(node, name):
    return next(peer for peer in node.api.get("/v1/peers").json["peers"] if peer["name"] == name)


def test_a_peer_has_every_field_and_its_times_are_rfc_3339(pair):
    broker, alice, bob = pair
    peer = wait_for(lambda: peer_of(alice, "bob")["online"] and peer_of(alice, "bob"), 10, "bob to be seen")
    assert set(peer) == {"pubkey", "name", "verified", "role", "online", "status", "summary", "groups", "visible", "last_seen", "sessions", "profile"}
    assert RFC3339.match(peer["last_seen"]), "who is online was seen"
    member = next(member for member in alice.api.get("/v1/members").json["members"] if member["name"] == "bob")
    assert RFC3339.match(member["last_seen_at"])
    (session,) = peer["sessions"]
    assert RFC3339.match(session["connected_at"])
    broker.stop()
    alice.wait_connected(False)
    answer = alice.api.get("/v1/peers").json
    assert answer["stale"] is True and RFC3339.match(next(p for p in answer["peers"] if p["name"] == "bob")["last_seen"])


def test_port_0_on_the_command_line_takes_any_free_port(world):
    node = Node(world, "alice").up("--tcp-port", "0")
    port = int(node.path("http.port").read_text())
    assert port != 47823 and node.tcp_api().get("/v1/health").status == 200
    node.down()
    assert not node.path("http.port").exists()


def test_status_of_a_daemon_that_does_not_answer_goes_by_the_lock(world):
    node = Node(world, "alice").up()
    node.process.send_signal(signal.SIGSTOP)
    try:
        answer = node.json("daemon", "status", check=5)
        assert answer.pop("detail")
        assert answer == {"running": True, "pid": node.process.pid, "answers": False}
    finally:
        node.process.send_signal(signal.SIGCONT)
    assert node.json("daemon", "status")["running"] is True


def test_a_route_that_is_not_built_yet_says_so(world):
    node = Node(world, "alice").up()
    for path in ("/v1/topic/list", "/v1/file/list"):
        answer = node.api.get(path)
        assert answer.status == 501 and answer.json["error"] == "not_implemented"
    for path in ("/v1/topic/post", "/v1/group/join", "/v1/file/share"):
        assert node.api.post(path, {}).status == 501


def test_the_cold_path_names_its_failures_as_the_daemon_does(world):
    broker, alice, bob, twin = Broker(world), Node(world, "alice"), Node(world, "bob"), Node(world, "twin")
    create_mesh(broker, alice)
    join(alice, bob)
    join(alice, twin, "Bob")
    cases = [("nobody", "hi", 1, "destination_not_found"), ("bob", "hi", 1, "destination_ambiguous"), ("alice", "hi", 1, "destination_is_self"),
             ("#topic", "hi", 1, "not_implemented"), (bob.pubkey, "x" * 70000, 1, "payload_too_large")]
    for daemon in (False, True):
        if daemon:
            alice.up()
            alice.wait_connected()
        for to, message, status, code in cases:
            assert alice.json("send", to, "-", input=message.encode(), check=status)["error"] == code, (daemon, to)
        assert alice.json("send", bob.pubkey, "one", "--idempotency-key", f"key-{daemon}", "--wait")["via"] == ("daemon" if daemon else "cold")
        assert alice.json("send", bob.pubkey, "two", "--idempotency-key", f"key-{daemon}", check=6)["error"] == "idempotency_key_reused"


def stub_of_answers(world, status, error):
    """A daemon whose broker answers every send so."""
    node = Node(world, "alice")

    def handler(connection, _):
        stub_handshake(connection)
        while (frame := connection.receive()) is not None:
            if not stub_answer(connection, frame) and frame["type"] == "send":
                connection.send(acknowledge(frame, status, error=error))
    stub = Stub(world, handler)
    fake_mesh(node, stub.url)
    node.up().wait_connected()
    return node


def test_a_wait_for_what_the_broker_refuses_for_good_is_502_with_the_reason(world):
    node = stub_of_answers(world, 403, "unauthorized: no")
    answer = node.api.post("/v1/send?wait=10", {"to": node.pubkey, "message": "hi", "client_message_id": "m1"})
    assert answer.status == 502 and answer.json["error"] == "delivery_failed"
    assert answer.json["client_message_id"] == "m1" and "unauthorized" in answer.json["reason"]
    again = node.api.post("/v1/send?wait=10", {"to": node.pubkey, "message": "hi", "client_message_id": "m1"})
    assert again.status == 409 and again.json["conflict"] == "outbox_dead_fingerprint_match" and again.json["reason"] == answer.json["reason"]
    assert node.json("send", node.pubkey, "hi", "--self", "--wait", check=1)["error"] == "delivery_failed"


def test_a_wait_ends_with_202_when_time_is_up_and_the_command_exits_7(world):
    node = stub_of_answers(world, 503, "unavailable: later")
    answer = node.api.post("/v1/send?wait=1", {"to": node.pubkey, "message": "hi"})
    assert answer.status == 202 and answer.json["status"] in ("queued", "inflight")
    assert node.json("send", node.pubkey, "hi", "--self", "--wait=1", check=7)["status"] in ("queued", "inflight")


def test_no_lag_is_claimed_of_a_link_that_is_down(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    alice.up().wait_connected()
    assert isinstance(alice.health()["meshes"][0]["lag_ms"], int)
    broker.stop()
    alice.wait_connected(False)
    assert alice.health()["meshes"][0]["lag_ms"] is None


def test_lists_end_where_the_rows_end(pair):
    _, alice, bob = pair
    for i in range(4):
        assert alice.api.post("/v1/send?wait=10", {"to": "bob", "message": f"m{i}"}).status == 200
    bob.wait_inbox(4)
    for api, path in ((alice.api, "/v1/outbox"), (bob.api, "/v1/inbox")):
        first = api.get(path + "?limit=2").json
        last = api.get(f"{path}?limit=2&cursor={first['next_cursor']}").json
        assert last["next_cursor"] is None, path
        assert len({row["id"] for row in first["items"] + last["items"]}) == 4
        assert api.get(path + "?limit=4").json["next_cursor"] is None


def test_a_row_is_shown_by_any_id_that_is_allowed(pair):
    _, alice, _ = pair
    for key in ("job/7", "50%25", "a?b#c+d", "..", "\"quoted\""):
        assert alice.api.post("/v1/send", {"to": "bob", "message": "m", "client_message_id": key}).status == 202
        assert alice.json("daemon", "outbox", "show", key)["client_message_id"] == key


def test_inbox_follow_goes_on_after_the_inbox_was_replaced(pair):
    _, alice, bob = pair
    follower = subprocess.Popen([BINARY, "--config-dir", str(bob.config), "--json", "inbox", "--follow"], stdout=subprocess.PIPE, text=True,
                                env=bob.world.environment())
    bob.world.processes.append(follower)
    for body in ("one", "two", "three"):
        assert alice.api.post("/v1/send?wait=10", {"to": "bob", "message": body}).status == 200
        assert json.loads(follower.stdout.readline())["body"] == body
    bob.down()
    for path in bob.path(".").glob("inbox.db*"):
        path.unlink()
    bob.up().wait_connected()
    alice.send("bob", "four")
    assert select.select([follower.stdout], [], [], 20 * SLOW)[0], "the new inbox counts from 1"
    assert json.loads(follower.stdout.readline())["body"] == "four"
