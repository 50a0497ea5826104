"""What an operator sees (10-cli, `daemon status`; 80-operations, Signals) and the broker's own reload."""

import json
import signal
import ssl
import subprocess

import pytest

from harness import Broker, Node, Stub, WireClient, create_mesh, fake_mesh, join, stub_handshake, wait_for


@pytest.fixture
def host(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    return broker, alice


def status(node):
    return node.cli("daemon", "status").stdout.decode()


def test_a_healthy_daemon_is_told_in_a_table_and_nothing_to_do(host):
    _, alice = host
    alice.up()
    alice.wait_connected()
    text = status(alice)
    assert text.startswith(f"running, pid {alice.process.pid}, up ") and "degraded" not in text
    assert "acme" in text and "yes" in text and "doctor" not in text
    document = alice.json("daemon", "status")
    assert document["running"] is True and {"slug", "connected", "status", "lag_ms", "pending", "inflight", "dead", "broker_version"} <= set(document["meshes"][0])


def test_a_link_that_is_down_says_that_it_tries_again_and_what_waits(host):
    broker, alice = host
    alice.up()
    alice.wait_connected()
    broker.stop()
    alice.wait_connected(False)
    alice.send(alice.pubkey, "later")
    text = status(alice)
    assert "tries again by itself" in text and "claudemesh doctor" in text
    assert alice.json("daemon", "status")["meshes"][0]["pending"] == 1


def test_a_refused_link_says_whose_turn_it_is_and_why_it_is_degraded(world):
    node = Node(world, "node")

    def serve(connection, _):
        stub_handshake(connection, features={})
    stub = Stub(world, serve)
    fake_mesh(node, stub.url)
    node.up()
    wait_for(lambda: node.health()["meshes"][0]["status"] == "refused", what="the refusal")
    text = status(node)
    assert ", degraded: link_refused" in text.splitlines()[0]
    assert "its operator has to update it" in text and "[features]" in text


def test_a_removed_member_is_told_what_remains(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    bob.wait_connected()
    alice.cli("member", "revoke", bob.pubkey, "--yes")
    wait_for(lambda: bob.health()["meshes"][0]["revoked"], what="bob to know")
    assert "this member was removed" in status(bob) and "mesh leave" in status(bob)


def test_sigusr1_dumps_the_state_to_the_log(host):
    _, alice = host
    alice.up()
    alice.wait_connected()
    alice.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: '"msg":"state"' in alice.log.read_text(), what="the dump")
    entry = [json.loads(line) for line in alice.log.read_text().splitlines() if '"msg":"state"' in line][0]
    assert {"in_flight", "outbox_tasks", "inbox_tasks", "health"} <= set(entry)
    health = json.loads(entry["health"])
    assert health["pid"] == alice.process.pid and health["meshes"][0]["slug"] == "acme"
    assert alice.api.get("/v1/health").status == 200  # and it serves on


# ---- the broker ------------------------------------------------------------------------------------------------------------------


def configured(world, text, **more):
    path = world.directory / "broker.toml"
    path.write_text(text)
    broker = Broker(world, arguments=["--config", path, *more.pop("arguments", [])])
    return broker, path


def said(broker, event):
    return [json.loads(line) for line in broker.log.read_text().splitlines() if f'"msg":"{event}"' in line]


def hangup(broker, event="reloaded"):
    before = len(said(broker, event))
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(said(broker, event)) > before, what=event)


def test_the_broker_applies_what_can_change_and_says_what_cannot(world):
    broker, path = configured(world, "[broker]\nmax_connections_per_mesh = 1\n")
    alice = Node(world, "alice")
    create_mesh(broker, alice)
    first = WireClient(broker, alice.mesh())
    with pytest.raises((ConnectionError, OSError)):
        WireClient(broker, alice.mesh(), session="second", hello={"sessionPubkey": "ab" * 32})
    path.write_text('[broker]\nmax_connections_per_mesh = 5\ninline_bytes = 2048\nallowed_origins = ["https://tool.example"]\nconnection_policy = "allow_concurrent"\n')
    assert broker.get("/health", headers={"Origin": "https://tool.example"}).status == 403
    hangup(broker)
    assert {entry["setting"] for entry in said(broker, "setting_applied")} == {"broker.max_connections_per_mesh", "broker.allowed_origins", "broker.connection_policy"}
    assert {entry["setting"] for entry in said(broker, "setting_needs_restart")} == {"broker.inline_bytes"}
    second = WireClient(broker, alice.mesh(), session="second")
    assert broker.get("/health", headers={"Origin": "https://tool.example"}).status == 200
    for client in (first, second):  # neither was dropped
        client.ws.send({"type": "list_peers", "_reqId": "1"})
        client.ws.receive_until("peers_list")
    hangup(broker)
    assert len(said(broker, "setting_needs_restart")) == 2 and len(said(broker, "setting_applied")) == 3


def test_a_broken_file_changes_nothing_at_the_broker(world):
    broker, path = configured(world, '[broker]\nallowed_origins = ["https://tool.example"]\n')
    path.write_text("[broker]\nmax_conections = 5\n")
    hangup(broker, "reload_failed")
    error = said(broker, "reload_failed")[0]["error"]
    assert "broker.toml:2:1" in error and "broker.max_connections" in error
    assert broker.get("/health", headers={"Origin": "https://tool.example"}).status == 200


def certificate(directory, name):
    key, cert = directory / "key.pem", directory / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
                    "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    key.chmod(0o600)
    return key, cert


def test_a_renewed_certificate_is_taken_up_without_a_restart(world, monkeypatch):
    key, cert = certificate(world.directory, "old")
    monkeypatch.setattr(Broker, "wait_ready", lambda self: wait_for(lambda: said(self, "broker_ready"), 20, "the broker"))
    broker = Broker(world, arguments=["--tls-cert", cert, "--tls-key", key])
    before = ssl.get_server_certificate(("127.0.0.1", broker.port))
    assert before.strip() == cert.read_text().strip()
    certificate(world.directory, "new")
    hangup(broker, "certificate_reloaded")
    after = ssl.get_server_certificate(("127.0.0.1", broker.port))
    assert after != before and after.strip() == cert.read_text().strip()
    cert.write_text("garbage")
    hangup(broker, "certificate_reload_failed")
    assert ssl.get_server_certificate(("127.0.0.1", broker.port)) == after
