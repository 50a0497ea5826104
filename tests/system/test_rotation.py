"""A member's key is replaced (50-identity, Key rotation; 45-trust): by its daemon or without one, under traffic, across deaths, and as its peers see it."""

import http.client
import json
import os
import select
import socket
import sqlite3
import struct
import threading
import time

import pytest

import front
import harness
from harness import Broker, Key, Node, WireClient, create_mesh, join, statement, wait_for


def bodies(count):
    texts = [message["body"] for message in harness.messages(count)]
    return [texts[index % len(texts)] if texts else f"message {index}" for index in range(count)]


class Gate(front.Front):
    """A relay that sees the daemon's frames: it stops at the first one that has `word` in it, before or after passing it on, and holds back everything that follows in both directions."""

    def __init__(self, world, broker):
        super().__init__(world)
        self.target, self.word, self.pass_it_on = broker.port, None, False
        self.reached = threading.Event()

    @staticmethod
    def _frames(data):
        """The masked frames that are whole at the front of `data`: (text, length with its head)."""
        at = 0
        while len(data) - at >= 6:
            length, head = data[at + 1] & 0x7F, 2
            if length == 126:
                length, head = struct.unpack(">H", data[at + 2:at + 4])[0], 4
            elif length == 127:
                length, head = struct.unpack(">Q", data[at + 2:at + 10])[0], 10
            if len(data) - at < head + 4 + length:
                return
            mask, payload = data[at + head:at + head + 4], data[at + head + 4:at + head + 4 + length]
            yield bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)), at + head + 4 + length
            at += head + 4 + length

    def _relay(self, sock):
        far = socket.create_connection(("127.0.0.1", self.target), timeout=20)
        with self.lock:
            self.sockets.append(far)
        pending, upgraded = b"", False
        try:
            while True:
                for source in select.select([sock, far], [], [])[0]:
                    data = source.recv(262144)
                    if not data:
                        return
                    if source is far:
                        sock.sendall(data)
                        continue
                    if not upgraded:
                        upgraded = True  # the head of the handshake, in one piece
                        far.sendall(data)
                        continue
                    pending += data
                    sent = 0
                    for text, end in self._frames(pending):
                        if self.word is not None and self.word in text:
                            far.sendall(pending[sent:end] if self.pass_it_on else b"")
                            self.reached.set()
                            while not self.stopping and self.word is not None:
                                time.sleep(0.01)
                            return
                        far.sendall(pending[sent:end])
                        sent = end
                    pending = pending[sent:]
        finally:
            far.close()


@pytest.fixture
def pair(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    alice.up()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    wait_for(lambda: any(member["name"] == "bob" for member in alice.json("member", "list")["members"]), 15, "alice to know bob")
    return broker, alice, bob


def archive(node):
    with open(node.path("keypair-archive.json")) as file:
        return json.load(file)


def rotate(node, *arguments, **more):
    return node.json("daemon", "rotate-keypair", *arguments, **more)


def received(node):
    return [item["body"] for item in node.inbox()]


def test_a_key_is_replaced_and_both_sides_go_on(pair):
    broker, alice, bob = pair
    old = bob.pubkey
    alice.send("bob", "before")
    bob.wait_inbox(1)
    answer = rotate(bob)
    assert answer["old_pubkey"] == old and answer["new_pubkey"] == bob.pubkey != old
    bob.wait_connected()
    kept = archive(bob)
    assert kept["schema_version"] == 1 and kept["max_archived_keys"] == 8 and [key["ed25519_pubkey"] for key in kept["keys"]] == [old]
    assert oct(os.stat(bob.path("keypair-archive.json")).st_mode & 0o777) == "0o600"
    wait_for(lambda: any(member["name"] == "bob" and member["pubkey"] == bob.pubkey and member["verified"] for member in alice.json("member", "list")["members"]),
             15, "alice to know the new key")
    alice.send("bob", "by name, after")
    alice.send(old, "to the old key, after")
    bob.wait_inbox(3)
    bob.send("alice", "from the new key")
    alice.wait_inbox(1)
    item = alice.inbox()[0]
    assert item["sender_pubkey"] == bob.pubkey and item["sender_name"] == "bob" and item["verified"] is True
    assert received(bob) == ["before", "by name, after", "to the old key, after"]
    assert "nextSecretKey" not in bob.mesh() and "spareSecretKey" not in bob.mesh()


def refused(node, *arguments):
    done = node.world.run(harness.BINARY, "--config-dir", node.config, *arguments, environment=node.world.environment())
    assert done.returncode != 0
    return done.returncode, done.stderr.decode()


def knows(node, name, pubkey):
    return any(member["name"] == name and member["pubkey"] == pubkey and member["verified"] for member in node.json("member", "list")["members"])


def log_has(node, event):
    return [line for line in map(json.loads, node.log.read_text().splitlines()) if line["msg"] == event]


def test_nothing_is_lost_and_nothing_comes_twice_under_traffic(pair):
    broker, alice, bob = pair
    texts, failures, stop = bodies(300), [], threading.Event()

    def talk(sender, to, prefix):
        api = sender.new_api()
        for index, text in enumerate(texts):
            answer = api.post("/v1/send", {"to": to, "message": f"{prefix} {index} {text}", "client_message_id": f"{prefix}-{index}"})
            if answer.status != 202:
                failures.append((answer.status, answer.json))
            time.sleep(0.003)

    threads = [threading.Thread(target=talk, args=arguments) for arguments in ((alice, "bob", "a"), (bob, "alice", "b"))]
    for thread in threads:
        thread.start()
    rotated = []
    for node in (bob, alice, bob, bob):
        node.wait_connected()  # one key after another is replaced over an open link
        rotated.append(rotate(node, timeout=90))
    for thread in threads:
        thread.join()
    stop.set()
    assert not failures, failures[:3]
    assert len({answer["new_pubkey"] for answer in rotated}) == 4
    for node, prefix in ((bob, "a"), (alice, "b")):
        items = node.wait_inbox(len(texts))
        assert [item["body"] for item in items] == [f"{prefix} {index} {text}" for index, text in enumerate(texts)]
        assert all(item["verified"] is True for item in items)
    assert [node.health()["meshes"][0]["quarantined"] for node in (alice, bob)] == [0, 0]
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0) and bob.outbox_counts() == (0, 0, 0), 30)
    broker.stop()
    assert broker.world.run(harness.BINARY, "broker", "check", "--store", f"sqlite:{broker.store}").returncode == 0


def test_receipts_of_what_was_sent_to_the_old_key_count_when_the_new_one_signs_them(pair):
    broker, alice, bob = pair
    old = bob.pubkey
    bob.down()
    events = alice.events("?types=receipt")
    alice.send(old, "while bob is away")
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), 20)
    rotate(bob)
    bob.up()
    bob.wait_inbox(1)
    receipt = events.wait(lambda event: event["event"] == "receipt", 20)
    assert receipt["data"]["verified"] is True and receipt["data"]["by"] == bob.pubkey
    bob.api.post("/v1/inbox/seen", {"all": True})
    seen = events.wait(lambda event: event["data"].get("state") == "seen", 20)
    assert seen["data"]["verified"] is True


def test_messages_that_waited_for_the_old_key_open_after_a_rotation_without_a_daemon(pair):
    broker, alice, bob = pair
    old = bob.pubkey
    bob.down()
    for text in bodies(20):
        assert alice.send("bob", text).status == 202
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), 20)
    answer = rotate(bob)
    assert answer["old_pubkey"] == old
    wait_for(lambda: knows(alice, "bob", bob.pubkey), 20)
    bob.up()
    bob.wait_inbox(20)
    assert received(bob) == bodies(20)
    metrics = bob.api.get("/v1/metrics").body.decode()
    assert "cm_daemon_decrypt_archived_total 20" in metrics
    # and a command without a daemon goes by the new key, to a peer that it finds by name across the rotation
    bob.down()
    bob.cli("send", "alice", "cold, under the new key")
    alice.wait_inbox(1)
    alice.down()
    alice.cli("send", "bob", "cold, to the new key")
    alice.cli("send", old, "cold, to the old key")
    bob.up()
    bob.wait_inbox(22)


@pytest.mark.parametrize("passed_on", [False, True], ids=["before the broker has it", "after the broker has it"])
def test_a_death_while_the_broker_is_asked_leaves_one_key_whole(world, passed_on):
    broker = Broker(world)
    gate = Gate(world, broker)
    broker.stop()
    broker.more_environment["CLAUDEMESH_BROKER_BROKER_PUBLIC_URLS"] = f"{gate.url},{broker.url}"
    broker.start()
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    link = alice.cli("mesh", "invite").stdout.decode().strip()
    bob.cli("join", link, "--yes", "--name", "bob")
    through_the_gate(bob, gate.url)
    alice.up()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    old = bob.pubkey
    wait_for(lambda: knows(alice, "bob", old), 20)
    gate.word, gate.pass_it_on = b'"member_rotate"', passed_on
    asking = threading.Thread(target=lambda: bob.world.run(harness.BINARY, "--config-dir", bob.config, "daemon", "rotate-keypair",
                                                          environment=bob.world.environment(), timeout=100))
    asking.start()
    assert gate.reached.wait(30)
    if passed_on:
        wait_for(lambda: rotations(broker) == 1, 20, "the broker to take it")
    assert bob.send("alice", "accepted while it hangs", client_message_id="hanging").status == 202
    for _ in range(20):  # nothing is sent under a key that may be the old one by now
        assert bob.api.get("/v1/outbox/hanging").json["status"] == "pending"
        time.sleep(0.01)
    bob.kill()
    asking.join()
    assert bob.mesh()["pubkey"] == old and bob.mesh()["nextSecretKey"]
    gate.word = None
    alice.send(old, "sent while bob is dead")
    bob.up()
    bob.wait_connected()
    wait_for(lambda: "nextSecretKey" not in bob.mesh(), 30, "the rotation to be settled")
    assert bob.pubkey != old and rotations(broker) == 1
    bob.wait_connected()
    alice.wait_inbox(1)
    bob.wait_inbox(1)
    wait_for(lambda: knows(alice, "bob", bob.pubkey), 20)
    bob.send("alice", "and on")
    alice.send("bob", "and back")
    assert [item["body"] for item in alice.wait_inbox(2)] == ["accepted while it hangs", "and on"]
    assert [item["body"] for item in bob.wait_inbox(2)] == ["sent while bob is dead", "and back"]


def through_the_gate(node, url):
    path = node.config / "config.json"
    document = json.loads(path.read_text())
    document["meshes"][0]["brokerUrl"] = url
    path.write_text(json.dumps(document))


def rotations(broker):
    store = sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True)
    try:
        return store.execute("SELECT count(*) FROM rotation").fetchone()[0]
    finally:
        store.close()


def test_deaths_at_any_moment_leave_one_key_that_works(pair):
    broker, alice, bob = pair
    for round_ in range(10):
        before = bob.pubkey
        asking = threading.Thread(target=lambda: bob.world.run(harness.BINARY, "--config-dir", bob.config, "daemon", "rotate-keypair",
                                                              environment=bob.world.environment(), timeout=100))
        asking.start()
        time.sleep(0.004 + 0.003 * round_)
        bob.kill()
        asking.join()
        alice.send(before, f"to what bob was, {round_}")
        bob.up()
        bob.wait_connected()
        wait_for(lambda: "nextSecretKey" not in bob.mesh(), 30, "the rotation to be settled")
        bob.wait_connected()
        bob.send("alice", f"from bob, {round_}")
        bob.wait_inbox(round_ + 1)
        alice.wait_inbox(round_ + 1)
    assert len(received(bob)) == len(received(alice)) == 10
    assert alice.health()["meshes"][0]["quarantined"] == bob.health()["meshes"][0]["quarantined"] == 0


def test_the_owners_key_is_replaced_and_the_mesh_still_rests_on_the_first(world):
    broker = Broker(world)
    alice, bob, carol = Node(world, "alice"), Node(world, "bob"), Node(world, "carol")
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    alice.up()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    first = alice.pubkey
    rotate(alice)
    assert alice.pubkey != first and alice.mesh()["ownerPubkey"] == first
    alice.wait_connected()
    wait_for(lambda: knows(bob, "alice", alice.pubkey), 20)
    bob.send("alice", "to the owner")
    alice.wait_inbox(1)
    rotate(alice)
    join(alice, carol, "carol")  # the invite is signed by the pinned key
    carol.up()
    carol.wait_connected()
    wait_for(lambda: knows(carol, "alice", alice.pubkey) and knows(carol, "bob", bob.pubkey), 20)
    alice.wait_connected()
    wait_for(lambda: knows(alice, "carol", carol.pubkey), 20)
    carol.send("alice", "hello owner")
    alice.wait_inbox(2)
    alice.cli("member", "revoke", "carol", "--yes")
    wait_for(lambda: carol.health()["meshes"][0]["revoked"], 20)
    wait_for(lambda: [m for m in bob.json("member", "list")["members"] if m["name"] == "carol" and m["revoked"]], 20)


def test_a_removed_member_keeps_its_data_and_sends_nothing_also_after_a_restart(pair):
    broker, alice, bob = pair
    alice.send("bob", "kept")
    bob.wait_inbox(1)
    alice.cli("member", "revoke", "bob", "--yes")
    wait_for(lambda: bob.health()["meshes"][0]["revoked"], 20)
    for _ in range(2):
        answer = bob.send("alice", "not any more")
        assert (answer.status, answer.json["error"]) == (403, "member_revoked")
        assert received(bob) == ["kept"]
        health = bob.health()
        assert health["ok"] is False and health["meshes"][0]["connected"] is False
        assert "revoked" in bob.cli("daemon", "status").stdout.decode().lower()
        code, said = refused(bob, "daemon", "rotate-keypair")
        assert code == 3 and "removed" in said
        bob.down()
        bob.up()
        wait_for(lambda: bob.health()["meshes"][0]["revoked"], 20)


def test_the_token_is_replaced_at_once_and_the_old_one_works_on_for_a_minute(pair):
    broker, alice, bob = pair
    bob.down()
    bob.up("--tcp-port", "0")
    old_api = bob.tcp_api()
    old = bob.path("local-token").read_text().strip()
    assert old_api.get("/v1/health").status == 200
    bob.cli("daemon", "rotate-token")
    new = bob.path("local-token").read_text().strip()
    assert new != old and oct(bob.path("local-token").stat().st_mode & 0o777) == "0o600"
    assert bob.tcp_api().get("/v1/health").status == 200
    assert old_api.get("/v1/health").status == 200
    third = bob.tcp_api(token=False)
    answer = third.get("/v1/health", headers={"Authorization": "Bearer " + "A" * 43})
    assert (answer.status, answer.json["error"]) == (401, "invalid_token")
    assert "cm_daemon_local_token_rotations_total 1" in bob.api.get("/v1/metrics").body.decode()
    answer = bob.tcp_api().post("/v1/daemon/rotate-token", {})
    assert (answer.status, answer.json["error"]) == (403, "unix_socket_only")
    assert bob.tcp_api().post("/v1/daemon/rotate-keypair", {}).status == 403
    bob.down()
    bob.cli("daemon", "rotate-token")  # and without a daemon
    assert bob.path("local-token").read_text().strip() not in (old, new)
    bob.up()
    assert bob.tcp_api().get("/v1/health").status == 200
    for gone in (old, new):
        answer = bob.tcp_api(token=False).get("/v1/health", headers={"Authorization": "Bearer " + gone})
        assert (answer.status, answer.json["error"]) == (401, "invalid_token")


def test_what_cannot_be_asked_now_changes_nothing(pair):
    broker, alice, bob = pair
    before = json.loads((bob.config / "config.json").read_text())
    broker.stop()
    bob.wait_connected(False)
    code, said = refused(bob, "daemon", "rotate-keypair")
    assert code == 5 and "nothing was changed" in said
    bob.down()
    code, said = refused(bob, "daemon", "rotate-keypair")
    assert code == 5 and "nothing was changed" in said
    assert json.loads((bob.config / "config.json").read_text()) == before
    assert not bob.path("keypair-archive.json").exists()


def test_an_archive_that_cannot_be_used_is_put_aside_and_expired_keys_go(pair):
    broker, alice, bob = pair
    rotate(bob)
    kept = archive(bob)
    kept["keys"][0]["expires_at"] = "2026-01-01T00:00:00.000Z"
    bob.path("keypair-archive.json").write_text(json.dumps(kept))
    assert bob.json("daemon", "archive-cleanup") == {"removed": 1, "left": 0, "moved_to": None}
    assert archive(bob)["keys"] == []
    bob.path("keypair-archive.json").write_text("{")
    answer = bob.json("daemon", "archive-cleanup")
    assert ".malformed-" in answer["moved_to"] and os.path.exists(answer["moved_to"])
    bob.down()
    bob.path("keypair-archive.json").write_text("not json either")
    bob.path("keypair-archive.json").chmod(0o644)
    bob.up()
    assert log_has(bob, "keypair_archive_malformed") and log_has(bob, "keypair_archive_readable_by_others")
    for _ in range(9):
        bob.wait_connected()
        rotate(bob)
    assert len(archive(bob)["keys"]) == 8
    assert len({key["key_id"] for key in archive(bob)["keys"]}) == 8
    assert log_has(bob, "archived_key_dropped_early")


def test_a_client_that_counts_no_rotations_takes_the_next_step(pair):
    """The frame as 40-wire has it: no seq, which both signatures still cover."""
    broker, alice, bob = pair
    mesh, key = bob.mesh(), Key.from_secret_hex(bob.mesh()["secretKey"])
    for seq, new in ((1, Key()), (2, Key())):
        client = WireClient(broker, {**mesh, "pubkey": key.hex}, key=key)
        at = int(time.time() * 1000)
        text = statement("claudemesh-rotate-v1", mesh["meshId"], mesh["memberId"], seq, key.hex, new.hex, at)
        client.ws.send({"type": "member_rotate", "_reqId": "r", "old_pubkey": key.hex, "new_pubkey": new.hex, "timestamp": at,
                        "sig_old": key.sign(text), "sig_new": new.sign(text)})
        assert client.ws.receive_until("member_ok")["_reqId"] == "r"
        client.close()
        key = new
    wait_for(lambda: knows(alice, "bob", key.hex), 30, "the third key")
