"""A rotation that was begun and not ended (50-identity, Key rotation): only the broker's word that the key is another one ends it forward; no start, no refusal and no second command loses a key."""

import json
import os
import threading
import time

import pytest

import harness
from harness import Broker, Key, Node, Stub, create_mesh, fake_mesh, join, wait_for
from test_rotation import Gate, through_the_gate


def change_config(node, index=0, **fields):
    path = node.config / "config.json"
    document = json.loads(path.read_text())
    for name, value in fields.items():
        if value is None:
            document["meshes"][index].pop(name, None)
        else:
            document["meshes"][index][name] = value
    path.write_text(json.dumps(document))


def refusal(code, close_code):
    def serve(connection, _index):
        connection.receive()
        connection.send({"type": "error", "code": code, "message": "this broker has its reasons"})
        connection.close(close_code, code)
        connection.receive()
    return serve


@pytest.mark.parametrize("code, close_code", [("timestamp_skew", 1008), ("bad_signature", 1008), ("revoked", 4002), ("member_already_connected", 4004),
                                              ("feature_unavailable", 4010), ("capacity", 1008)])
def test_a_refusal_that_is_not_about_the_key_does_not_end_a_rotation(world, code, close_code):
    stub = Stub(world, refusal(code, close_code))
    node, next_key = Node(world, "node"), Key()
    mesh = fake_mesh(node, stub.url)
    change_config(node, nextSecretKey=next_key.secret.hex())
    done = node.cli("daemon", "rotate-keypair", check=None, timeout=90)
    assert done.returncode != 0
    assert (node.mesh()["pubkey"], node.mesh()["secretKey"]) == (mesh["pubkey"], mesh["secretKey"]), done.stderr
    assert node.mesh()["nextSecretKey"] == next_key.secret.hex()


def unended(node, rotate):
    """What a death between the broker's answer and config.json leaves; returns the old key and the new one."""
    before = dict(node.mesh())
    rotate()
    after = dict(node.mesh())
    change_config(node, pubkey=before["pubkey"], secretKey=before["secretKey"], nextSecretKey=after["secretKey"], ownerSecretKey=before.get("ownerSecretKey"))
    return before["pubkey"], after["pubkey"]


@pytest.mark.parametrize("arguments", [(), ("--exit-on-refused",)], ids=["alone", "under a supervisor"])
@pytest.mark.parametrize("archive", ["as it was", "of a newer program"])
def test_a_start_ends_a_rotation_forward_whatever_became_of_the_archive(world, arguments, archive):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    old, new = unended(bob, lambda: bob.cli("daemon", "rotate-keypair"))
    bob.path("").mkdir(exist_ok=True, mode=0o700)
    if archive == "of a newer program":
        bob.path("keypair-archive.json").write_text('{"schema_version":2,"keys":[]}')
    bob.up(*arguments)
    wait_for(lambda: bob.pubkey == new and "nextSecretKey" not in bob.mesh(), 30, "the rotation to be settled")
    bob.wait_connected()
    alice.up()
    alice.wait_connected()
    bob.send("alice", "under the new key")
    alice.wait_inbox(1)


def store_key(broker, name):
    import sqlite3
    store = sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True)
    try:
        return store.execute("SELECT pubkey FROM member WHERE display_name = ?", (name,)).fetchone()[0]
    finally:
        store.close()


def test_two_commands_at_once_beside_a_daemon_of_another_mesh_leave_the_key_that_the_broker_has(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    fake_mesh(bob, "ws://127.0.0.1:1/ws", slug="other")
    bob.up("--mesh", "other")
    for _ in range(6):
        commands = [threading.Thread(target=lambda: bob.cli("--mesh", bob.mesh()["slug"], "daemon", "rotate-keypair", check=None)) for _ in range(4)]
        for command in commands:
            command.start()
        for command in commands:
            command.join()
        bob.cli("--mesh", bob.mesh()["slug"], "daemon", "rotate-keypair")
        assert bob.pubkey == store_key(broker, "bob")


@pytest.mark.parametrize("passed_on", [False, True], ids=["before the broker has it", "after the broker has it"])
def test_a_stop_while_the_broker_is_asked_ends_in_time_and_the_next_start_settles_it(world, passed_on):
    broker = Broker(world)
    gate = Gate(world, broker)
    broker.stop()
    broker.more_environment["CLAUDEMESH_BROKER_BROKER_PUBLIC_URLS"] = f"{gate.url},{broker.url}"
    broker.start()
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    through_the_gate(bob, gate.url)
    bob.up()
    bob.wait_connected()
    gate.word, gate.pass_it_on = b'"member_rotate"', passed_on
    answers = []
    asking = threading.Thread(target=lambda: answers.append(bob.cli("daemon", "rotate-keypair", check=None, timeout=100)))
    asking.start()
    assert gate.reached.wait(30)
    old = bob.pubkey
    begun = time.monotonic()
    bob.down()
    assert time.monotonic() - begun < 12 * harness.SLOW
    asking.join()
    assert answers[0].returncode not in (0, 2) and bob.pubkey == old and bob.mesh()["nextSecretKey"]
    gate.word = None
    bob.up()
    wait_for(lambda: "nextSecretKey" not in bob.mesh(), 30, "the rotation to be settled")
    bob.wait_connected()
    assert bob.pubkey == store_key(broker, "bob") != old


def test_a_copy_whose_key_was_replaced_elsewhere_is_told_so(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    before = dict(bob.mesh())
    bob.cli("daemon", "rotate-keypair")
    after = dict(bob.mesh())
    change_config(bob, pubkey=before["pubkey"], secretKey=before["secretKey"])
    for command in (("send", "alice", "cold"), ("daemon", "rotate-keypair")):
        done = bob.cli(*command, check=3)
        assert b"key_rotated" in done.stderr
    assert bob.pubkey == before["pubkey"] and "nextSecretKey" not in bob.mesh()
    bob.up()
    wait_for(lambda: bob.health()["meshes"][0]["status"] == "refused", 20)
    assert b"another installation of this member replaced the key" in bob.cli("daemon", "status", check=None).stdout
    assert b"another installation of this member replaced the key" in bob.cli("doctor", check=None).stdout
    bob.down()
    change_config(bob, spareSecretKey=after["secretKey"])  # it was this one, and the broker had said no to it
    bob.cli("daemon", "rotate-keypair")
    assert bob.pubkey == after["pubkey"]
    bob.cli("send", "alice", "and on")
