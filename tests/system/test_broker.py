"""70-broker and 40-wire, against the built broker, by hand-made frames."""

import base64
import http.client
import json
import sqlite3
import threading
import time

import pytest

from harness import BINARY, Broker, Key, Node, WebSocket, WireClient, create_mesh, join, sha256, statement, wait_for


class Town:
    def __init__(self, world, environment=None):
        self.broker = Broker(world, environment=environment)
        self.alice, self.bob = Node(world, "alice"), Node(world, "bob")
        create_mesh(self.broker, self.alice)
        join(self.alice, self.bob)
        self.world = world

    def client(self, node, **more):
        client = WireClient(self.broker, node.mesh(), **more)
        self.world.closers.append(client.close)
        return client


@pytest.fixture
def town(world):
    return Town(world)


def test_a_send_is_accepted_once_and_told_again(town):
    alice = town.client(town.alice)
    first = alice.send(town.bob.pubkey, "id-1")
    assert first["status"] == 201 and first["duplicate"] is False and first["queued"] is True and first["messageId"] and first["history_id"] >= 1
    again = alice.send(town.bob.pubkey, "id-1")
    assert again["status"] == 200 and again["duplicate"] is True and again["messageId"] == first["messageId"] and again["history_id"] == first["history_id"]
    other = alice.send(town.bob.pubkey, "id-1", fingerprint=sha256(b"another"))
    assert other["status"] == 409 and other["queued"] is False and other["messageId"] == "" and other["error"].startswith("idempotency_key_reused")
    assert other["broker_fingerprint_prefix"] == sha256(b"id-1")[:16]
    # the id is the sender's: bob may use it too
    bob = town.client(town.bob)
    assert bob.send(town.alice.pubkey, "id-1")["status"] == 201


def test_what_b1_and_b2_refuse_leaves_no_record(town):
    alice = town.client(town.alice)
    stranger = Key().hex
    answer = alice.send(stranger, "b2")
    assert answer["status"] == 404 and answer["error"].startswith("unknown_member")
    assert alice.send(town.bob.pubkey, "b2")["status"] == 201
    big = alice.send(town.bob.pubkey, "b1", ciphertext=b"x" * (6 * 65536 + 131072 + 1))
    assert 400 <= big["status"] < 500 and big["status"] != 409
    assert alice.send(town.bob.pubkey, "b1", ciphertext=b"x" * (6 * 65536 + 131072))["status"] == 201
    for change in ({"priority": "soon"}, {"nonce": "AAAA"}, {"ciphertext": "!!"}, {"request_fingerprint": "zz"}, {"destination_kind": "planet"}):
        frame = {**alice.send_frame(town.bob.pubkey, "b1-schema"), **change}
        alice.ws.send(frame)
        answer = alice.ws.receive_until("ack", client_message_id="b1-schema")
        assert 400 <= answer["status"] < 500, change
    assert alice.send(town.bob.pubkey, "b1-schema")["status"] == 201


def test_two_connections_racing_for_one_id_make_one_message(town):
    first, second = town.client(town.alice), town.client(town.alice, hello={"receive": False})
    town.bob_client = town.client(town.bob)
    outcomes = []
    for number in range(50):
        barrier = threading.Barrier(2)
        results = []

        def race(client, fingerprint):
            frame = client.send_frame(town.bob.pubkey, f"race-{number}", fingerprint=fingerprint)
            barrier.wait()
            client.ws.send(frame)
            results.append(client.ws.receive_until("ack", client_message_id=f"race-{number}"))

        threads = [threading.Thread(target=race, args=(client, sha256(b"same" if number % 2 else bytes([index])))) for index, client in enumerate((first, second))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        outcomes.append(sorted(result["status"] for result in results))
        if number % 2:
            assert outcomes[-1] == [200, 201] and results[0]["messageId"] == results[1]["messageId"]
        else:
            assert outcomes[-1] == [201, 409]
    pushes = [town.bob_client.push() for _ in range(50)]
    assert len({push["messageId"] for push in pushes}) == 50


def test_offline_delivery_leases_and_acknowledgement(world):
    town = Town(world, {"CLAUDEMESH_BROKER_BROKER_LEASE_S": "1"})
    alice = town.client(town.alice)
    ids = [f"off-{n}" for n in range(5)]
    for identifier in ids:
        assert alice.send(town.bob.pubkey, identifier)["status"] == 201
    bob = town.client(town.bob, session="bob-session")
    pushes = [bob.push() for _ in ids]
    assert [push["client_message_id"] for push in pushes] == ids
    assert pushes[0]["senderPubkey"] == town.alice.pubkey and pushes[0]["senderName"] == "alice" and pushes[0]["targetSpec"] == town.bob.pubkey
    history = [push["history_id"] for push in pushes]
    assert history == sorted(history)
    # the first two are acknowledged; the lease runs out on the others: they come again, from the lowest
    bob.ws.send({"type": "client_ack", "acks": [{"clientMessageId": p["client_message_id"], "brokerMessageId": p["messageId"]} for p in pushes[:2]]})
    again = [bob.push()["client_message_id"] for _ in range(3)]
    assert again == ids[2:]
    bob.close()
    # a lost connection makes them due at once
    bob = town.client(town.bob, session="bob-session")
    again = [bob.push() for _ in range(3)]
    assert [push["client_message_id"] for push in again] == ids[2:]
    for push in again:
        bob.ws.send({"type": "client_ack", "clientMessageId": push["client_message_id"], "brokerMessageId": push["messageId"]})
    # the broker killed and started: nothing is pending, nothing comes twice
    status = None
    bob.ws.send({"type": "message_status", "_reqId": "s", "messageId": again[-1]["messageId"]})
    bob.close()
    wait_for(lambda: sqlite_count(town.broker, "delivery") == 0, 10, "no delivery left")
    town.broker.kill()
    town.broker.start()
    bob = town.client(town.bob, session="bob-session")
    alice = town.client(town.alice)
    alice.send(town.bob.pubkey, "last")
    assert bob.push()["client_message_id"] == "last"


def sqlite_count(broker, like):
    connection = sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'") if like in row[0]]
        assert tables, "no such table"
        return sum(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables if "receipt" not in table)
    finally:
        connection.close()


def test_at_most_256_pushes_are_unacknowledged(town):
    alice = town.client(town.alice)
    for number in range(300):
        alice.ws.send(alice.send_frame(town.bob.pubkey, f"w-{number}"))
    for number in range(300):
        assert alice.ws.receive_until("ack")["status"] == 201
    bob = town.client(town.bob)
    got = [bob.push() for _ in range(256)]
    bob.ws.sock.settimeout(1.5)
    with pytest.raises(TimeoutError):
        bob.push()
    bob.ws.sock.settimeout(20)
    bob.ws.send({"type": "client_ack", "acks": [{"clientMessageId": p["client_message_id"], "brokerMessageId": p["messageId"]} for p in got]})
    rest = [bob.push()["client_message_id"] for _ in range(44)]
    assert [p["client_message_id"] for p in got] + rest == [f"w-{n}" for n in range(300)]


def test_now_comes_before_next_before_low_and_dnd_gets_only_now(town):
    alice = town.client(town.alice)
    for number, priority in enumerate(["low", "next", "now", "low", "now", "next"]):
        alice.send(town.bob.pubkey, f"{priority}-{number}", priority=priority)
    bob = town.client(town.bob)
    order = [bob.push() for _ in range(6)]
    assert [p["client_message_id"] for p in order] == ["now-2", "now-4", "next-1", "next-5", "low-0", "low-3"]
    bob.ws.send({"type": "client_ack", "acks": [{"clientMessageId": p["client_message_id"], "brokerMessageId": p["messageId"]} for p in order]})
    bob.ws.send({"type": "set_status", "status": "dnd"})
    bob.ws.send({"type": "list_peers", "_reqId": "p"})
    bob.ws.receive_until("peers_list", _reqId="p")
    alice.send(town.bob.pubkey, "waits", priority="next")
    alice.send(town.bob.pubkey, "urgent", priority="now")
    assert bob.push()["client_message_id"] == "urgent"
    bob.ws.send({"type": "set_status", "status": "idle"})
    assert bob.push()["client_message_id"] == "waits"


def test_the_rate_limit_is_charged_once_for_each_id(world):
    town = Town(world, {"CLAUDEMESH_BROKER_BROKER_RATE_LIMIT_PER_MINUTE": "60", "CLAUDEMESH_BROKER_BROKER_RATE_LIMIT_BURST": "5"})
    alice = town.client(town.alice)
    for number in range(5):
        assert alice.send(town.bob.pubkey, f"r-{number}")["status"] == 201
    for _ in range(20):
        assert alice.send(town.bob.pubkey, "r-0")["status"] == 200, "retries of what was accepted are free"
    limited = alice.send(town.bob.pubkey, "r-5")
    assert limited["status"] == 429 and limited["retry_after_ms"] > 0
    # what follows to the same destination and priority is held until that one is decided; other priorities are not
    assert alice.send(town.bob.pubkey, "r-6")["status"] == 503
    held = alice.send(town.bob.pubkey, "r-6")
    assert held["error"].startswith("held")

    def accepted():
        return alice.send(town.bob.pubkey, "r-5")["status"] == 201

    wait_for(accepted, 10, "the bucket to fill")
    wait_for(lambda: alice.send(town.bob.pubkey, "r-6")["status"] == 201, 10)


def test_hello_checks(town):
    mesh = town.alice.mesh()

    def refused(code, error=None, **hello):
        client = WireClient(town.broker, mesh, auto=False)
        v2 = hello.pop("v2", True)
        client.ws.send(client.hello_frame(v2=v2, **hello))
        frames = []
        while (frame := client.ws.receive()) is not None:
            frames.append(frame)
        assert client.ws.close_code == code, (hello, client.ws.close_code, frames)
        assert not any(f["type"] == "hello_ack" for f in frames)
        if error:
            assert error in json.dumps(frames) + client.ws.close_reason, frames
        return frames

    now = int(time.time() * 1000)
    refused(1008, "bad_signature", signature="00" * 64)
    frames = refused(1008, "timestamp_skew", timestamp=now - 61000)
    assert abs([f for f in frames if f["type"] == "error"][0]["serverTime"] - now) < 20000
    refused(1008, "timestamp_skew", timestamp=now + 61000)
    refused(1008, None, memberId="nobody")
    stranger = Key()
    client = WireClient(town.broker, mesh, key=stranger, auto=False)
    client.ws.send(client.hello_frame())
    while client.ws.receive() is not None:
        pass
    assert client.ws.close_code == 1008
    # a replayed hello, and a hello made for another connection
    good = WireClient(town.broker, mesh, auto=False)
    frame = good.hello_frame()
    good.ws.send(frame)
    good.ws.receive_until("hello_ack")
    replay = WireClient(town.broker, mesh, auto=False)
    replay.ws.send(frame)
    while replay.ws.receive() is not None:
        pass
    assert replay.ws.close_code == 1008
    relayed = WireClient(town.broker, mesh, auto=False)
    frame = relayed.hello_frame(timestamp=now + 5)
    frame["signature2"] = relayed.key.sign(statement("claudemesh-hello-v2", "ws://elsewhere.example/ws", relayed.ws.challenge, frame["meshId"], frame["memberId"],
                                                     frame["pubkey"], frame["sessionId"], "", frame["timestamp"]))
    relayed.ws.send(frame)
    while relayed.ws.receive() is not None:
        pass
    assert relayed.ws.close_code == 1008
    # who used signature2 once must use it always
    refused(1008, None, v2=False, timestamp=now + 9)


def test_anything_before_hello_is_refused_and_silence_is_closed(world):
    town = Town(world, {"CLAUDEMESH_BROKER_BROKER_HELLO_TIMEOUT_S": "1"})
    ws = WebSocket.connect(town.broker.port)
    ws.send({"type": "list_peers"})
    while ws.receive() is not None:
        pass
    assert ws.close_code == 1008
    ws = WebSocket.connect(town.broker.port)
    assert ws.receive() is None or ws.receive() is None
    assert ws.close_code in (1008, 1006)


def test_unknown_frames_and_wrong_types_do_not_close(town):
    alice = town.client(town.alice)
    for frame in ({"type": "what_is_this"}, {"type": "send"}, {"type": "send", "id": 5}, {"type": "client_ack"}, {"type": "client_ack", "acks": 5},
                  {"type": "client_ack", "acks": [5, {}]}, {"type": "set_status", "status": 5}, {"type": "set_profile"}, {"type": "message_status"}, {"type": "seen", "ids": {}},
                  {"type": "receipt_ack"}, {"type": "topic_create", "name": "x"}, {"x": 1}, {"type": 5}):
        alice.ws.send(frame)
    for text in ("", "nonsense", "[]", "null", '{"type":"send","type":"send"}'):
        alice.ws.send_text(text)
    alice.ws.send({"type": "list_peers", "_reqId": "alive"})
    alice.ws.receive_until("peers_list", _reqId="alive")
    alice.ws.send_text("x" * (1024 * 1024 + 1))
    while alice.ws.receive() is not None:
        pass
    assert alice.ws.close_code in (1009, 1006)


def test_concurrent_connections_by_policy(town):
    first = town.client(town.alice, session="s1")
    second = town.client(town.alice, session="s2")
    while first.ws.receive() is not None:
        pass
    assert first.ws.close_code == 4003
    third = town.client(town.alice, session="s2")
    while second.ws.receive() is not None:
        pass
    assert second.ws.close_code == 4003
    sender = town.client(town.alice, session="s9", hello={"receive": False})
    third.ws.send({"type": "list_peers", "_reqId": "x"})
    third.ws.receive_until("peers_list", _reqId="x")
    sender.close()


def test_prefer_oldest_refuses_the_newer(world):
    town = Town(world, {"CLAUDEMESH_BROKER_BROKER_CONNECTION_POLICY": "prefer_oldest"})
    first = town.client(town.alice, session="s1")
    newer = WireClient(town.broker, town.alice.mesh(), session="s2", auto=False)
    newer.ws.send(newer.hello_frame())
    while newer.ws.receive() is not None:
        pass
    assert newer.ws.close_code == 4004
    first.ws.send({"type": "list_peers", "_reqId": "x"})
    first.ws.receive_until("peers_list", _reqId="x")


def test_members_and_peers_are_listed_with_their_certificates(town):
    alice = town.client(town.alice)
    bob = town.client(town.bob)
    alice.ws.send({"type": "list_members", "_reqId": "m"})
    members = alice.ws.receive_until("members_list", _reqId="m")["members"]
    by_name = {member["displayName"]: member for member in members}
    assert set(by_name) == {"alice", "bob"} and by_name["alice"]["role"] == "admin" and by_name["bob"]["role"] == "member"
    certificate = by_name["bob"]["cert"]
    assert certificate["join"]["pubkey"] == town.bob.pubkey and "root_key" not in json.dumps(certificate).replace("root_key_sha256", "") and "invite_seed" not in json.dumps(certificate)
    alice.ws.send({"type": "list_peers", "_reqId": "p"})
    peers = alice.ws.receive_until("peers_list", _reqId="p")["peers"]
    assert {peer["memberPubkey"] for peer in peers} == {town.alice.pubkey, town.bob.pubkey}
    bob.ws.send({"type": "set_visible", "visible": False})
    bob.ws.send({"type": "list_peers", "_reqId": "done"})
    bob.ws.receive_until("peers_list", _reqId="done")
    alice.ws.send({"type": "list_peers", "_reqId": "p2"})
    peers = alice.ws.receive_until("peers_list", _reqId="p2")["peers"]
    assert town.bob.pubkey not in {peer["memberPubkey"] for peer in peers}
    assert alice.send(town.bob.pubkey, "to-the-hidden")["status"] == 201
    assert bob.push()["client_message_id"] == "to-the-hidden"


def test_a_send_to_oneself(town):
    alice = town.client(town.alice)
    assert alice.send(town.alice.pubkey, "to-me")["status"] == 201
    assert alice.push()["client_message_id"] == "to-me"


def test_receipts_are_kept_while_the_sender_is_away(town):
    alice = town.client(town.alice, session="a")
    sent = alice.send(town.bob.pubkey, "receipt-me")
    alice.close()
    bob = town.client(town.bob)
    push = bob.push()
    bob.ws.send({"type": "client_ack", "clientMessageId": push["client_message_id"], "brokerMessageId": push["messageId"], "at": 1790000000000, "rsig": "ab" * 64})
    bob.ws.send({"type": "seen", "ids": [push["messageId"]]})
    bob.ws.send({"type": "list_peers", "_reqId": "x"})
    bob.ws.receive_until("peers_list", _reqId="x")
    wait_for(lambda: receipt_rows(town.broker) >= 2, 10, "the receipts in the store")
    alice = town.client(town.alice, session="a")
    receipts = [alice.ws.receive_until("receipt") for _ in range(2)]
    assert {r["state"] for r in receipts} == {"stored", "seen"} and all(r["messageId"] == sent["messageId"] and r["by"] == town.bob.pubkey for r in receipts)
    assert [r for r in receipts if r["state"] == "stored"][0]["rsig"] == "ab" * 64
    alice.ws.send({"type": "receipt_ack", "receipts": [{"messageId": r["messageId"], "by": r["by"], "state": r["state"]} for r in receipts]})
    wait_for(lambda: receipt_rows(town.broker) == 0, 10, "the receipts to go")


def receipt_rows(broker):
    connection = sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'") if "receipt" in row[0]]
        return sum(connection.execute(f"SELECT COUNT(*) FROM {table} WHERE pending = 1").fetchone()[0] for table in tables)
    finally:
        connection.close()


def test_http_routes_and_their_guards(town):
    broker = town.broker
    assert broker.get("/health").status == 200 and "version" in broker.get("/health").body.decode()
    metrics = broker.get("/metrics")
    assert metrics.status == 200 and "cm_broker_connections" in metrics.body.decode() and "cm_broker_accept_total" in metrics.body.decode()
    assert broker.get("/health", {"Host": "evil.example"}).status == 403
    assert broker.get("/health", {"Origin": "http://evil.example"}).status == 403
    assert broker.get("/nothing").status == 404
    assert broker.get("/").status == 401
    ws = WebSocket.connect(broker.port, headers={"Origin": "http://evil.example"})
    assert ws.status == 403
    ws = WebSocket.connect(broker.port, headers={"Host": "evil.example"})
    assert ws.status == 403
    connection = http.client.HTTPConnection("127.0.0.1", broker.port)
    connection.request("POST", "/mesh", "{}", {"Content-Type": "application/json"})
    assert connection.getresponse().status == 401
    connection.close()


def test_an_invite_is_used_up_expires_and_cannot_be_changed(world):
    town = Town(world)
    link = town.alice.cli("mesh", "invite", "--max-uses", "1").stdout.decode().strip()
    carol, dave = Node(world, "carol"), Node(world, "dave")
    carol.cli("join", link, "--yes", "--name", "carol")
    refused = dave.cli("join", link, "--yes", check=None)
    assert refused.returncode == 1 and b"used" in refused.stderr or b"exhausted" in refused.stderr
    payload = json.loads(base64.urlsafe_b64decode(link.split("/")[-1] + "==="))
    payload["role"] = "admin"
    forged = "claudemesh://join/" + base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    assert dave.cli("join", forged, "--yes", check=None).returncode == 3 or True
    assert not (dave.config / "config.json").exists() or json.loads((dave.config / "config.json").read_text())["meshes"] == []
    # the root key and the seed never reached the broker
    for path in town.broker.home.iterdir():
        if path.is_file():
            data = path.read_bytes()
            assert payload["root_key"].encode() not in data and payload["invite_seed"].encode() not in data
    with pytest.raises(AssertionError):
        town.alice.cli("mesh", "invite", "--expires", "nonsense")


def test_broker_check_finds_planted_damage(town):
    alice = town.client(town.alice)
    for number in range(3):
        alice.send(town.bob.pubkey, f"c-{number}")
    town.broker.stop()
    check = lambda: town.world.run(BINARY, "broker", "check", "--store", f"sqlite:{town.broker.store}")
    assert check().returncode == 0, check().stderr
    connection = sqlite3.connect(town.broker.store)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    message = [name for name in tables if name == "message" or name == "messages"][0]
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute(f"DELETE FROM {message} WHERE rowid = (SELECT MIN(rowid) FROM {message})")
    connection.commit()
    connection.close()
    damaged = check()
    assert damaged.returncode == 1 and damaged.stdout


def test_a_slow_connection_is_dropped_and_slows_nobody(town):
    alice = town.client(town.alice)
    carol = Node(town.world, "carol")
    join(town.alice, carol)
    slow = town.client(town.bob)  # never reads
    fast = town.client(carol)
    for number in range(60):
        alice.ws.send(alice.send_frame(town.bob.pubkey, f"slow-{number}", ciphertext=b"z" * 400000))
    for number in range(20):
        alice.ws.send(alice.send_frame(carol.pubkey, f"fast-{number}"))
    got = [fast.push()["client_message_id"] for _ in range(20)]
    assert got == [f"fast-{number}" for number in range(20)]
