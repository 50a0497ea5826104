"""20-ipc and 10-cli: the names and types of what is answered, where no other file looks."""

import re
import signal

from harness import Broker, Node, create_mesh, join, wait_for

RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


def peer_of(node, name):
    return next(peer for peer in node.api.get("/v1/peers").json["peers"] if peer["name"] == name)


def test_a_peer_has_every_field_and_its_times_are_rfc_3339(pair):
    broker, alice, bob = pair
    peer = wait_for(lambda: peer_of(alice, "bob")["online"] and peer_of(alice, "bob"), 10, "bob to be seen")
    assert set(peer) == {"pubkey", "name", "verified", "role", "online", "status", "summary", "groups", "visible", "last_seen", "sessions", "profile"}
    assert RFC3339.match(peer["last_seen"]), "who is online was seen"
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
        assert node.json("daemon", "status", check=5) == {"running": True, "pid": node.process.pid, "answers": False}
    finally:
        node.process.send_signal(signal.SIGCONT)
    assert node.json("daemon", "status")["running"] is True


def test_a_route_that_is_not_built_yet_says_so(world):
    node = Node(world, "alice").up()
    for path in ("/v1/topic/list", "/v1/inbox/search?q=x", "/v1/file/list"):
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
