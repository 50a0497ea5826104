"""70-broker, 40-wire and 45-trust at the broker, clause by clause: members made by hand over raw HTTP, frames made by hand."""

import http.client
import json
import os
import random
import socket
import sqlite3
import threading
import time
import uuid

import pytest

from harness import BINARY, Broker, Key, WebSocket, WireClient, deadline, free_port, sha256, statement, wait_for

ENVIRONMENT = "CLAUDEMESH_BROKER_BROKER_"


def settings(**values):
    return {ENVIRONMENT + name.upper(): str(value) for name, value in values.items()}


def post(broker, path, body, token=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", broker.port, timeout=20)
    head = {"Content-Type": "application/json", **(headers or {})}
    if token:
        head["Authorization"] = "Bearer " + token
    try:
        connection.request("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), head)
        answer = connection.getresponse()
        data = json.loads(answer.read())
        return answer.status, data.get("error"), data
    finally:
        connection.close()


class Mesh:
    """A mesh whose owner, invites and members are made here."""

    def __init__(self, world, environment=None, arguments=(), slug="acme"):
        self.world = world
        self.broker = Broker(world, environment=environment, arguments=arguments)
        self.owner, self.id, self.slug = Key(), str(uuid.uuid4()), slug
        status, _, answer = post(self.broker, "/mesh", self.mesh_body(), self.token)
        assert status == 200, answer
        self.owner_id = answer["memberId"]

    @property
    def token(self):
        return self.broker.admin_token_file.read_text().strip()

    def mesh_body(self, **change):
        body = {"mesh_id": self.id, "slug": self.slug, "name": "Acme", "owner_pubkey": self.owner.hex, "display_name": "owner",
                "timestamp": int(time.time() * 1000)}
        body.update(change)
        if "signature" not in body:
            body["signature"] = self.owner.sign(f"mesh|{body['mesh_id']}|{body['slug']}|{body['owner_pubkey']}|{body['timestamp']}".encode())
        return body

    def invite(self, role="member", max_uses=1, expires=4102444800, signer=None, grant=None, seed=None):
        invite_key = Key(seed)
        invite_id = "k" + sha256(b"claudemesh-invite-key-v1\0" + invite_key.hex.encode())[:40]
        root_hash = sha256(b"r" * 32)
        text = f"v=3|{self.id}|{self.slug}|{self.broker.url}|{invite_id}|{role}|{expires}|{max_uses}|{self.owner.hex}|{root_hash}"
        fields = {"v": 3, "mesh_id": self.id, "mesh_slug": self.slug, "mesh_name": "Acme", "broker_url": self.broker.url, "invite_id": invite_id,
                  "role": role, "expires_at": expires, "max_uses": max_uses, "owner_pubkey": self.owner.hex, "root_key_sha256": root_hash,
                  "signature": (signer or self.owner).sign(text.encode())}
        if grant:
            fields.update(signer_pubkey=signer.hex, signer_grant=grant)
        return invite_key, fields

    def join_body(self, invite, key, name="member", at=None):
        invite_key, fields = invite
        at = at or int(time.time() * 1000)
        text = statement("claudemesh-join-v1", self.id, fields["invite_id"], fields["role"], key.hex, name, at)
        cert = {"invite": fields, "invite_pubkey": invite_key.hex,
                "join": {"mesh": self.id, "invite_id": fields["invite_id"], "role": fields["role"], "pubkey": key.hex, "name": name, "at": at},
                "invite_sig": invite_key.sign(text), "self_sig": key.sign(text)}
        return {"invite": fields, "cert": cert, "name": name, "timestamp": at}

    def join(self, name="member", role="member", key=None, invite=None):
        key = key or Key()
        status, _, answer = post(self.broker, "/join", self.join_body(invite or self.invite(role), key, name))
        assert status == 200, answer
        return {"meshId": self.id, "memberId": answer["memberId"], "pubkey": key.hex, "secretKey": key.secret.hex(), "brokerUrl": self.broker.url, "key": key}

    @property
    def owner_entry(self):
        return {"meshId": self.id, "memberId": self.owner_id, "pubkey": self.owner.hex, "secretKey": self.owner.secret.hex(),
                "brokerUrl": self.broker.url, "key": self.owner}

    def client(self, entry, **more):
        client = WireClient(self.broker, entry, **more)
        self.world.closers.append(client.close)
        return client

    def grant(self, subject, role, seq=1, by=None):
        by, at = by or self.owner, int(time.time() * 1000)
        text = statement("claudemesh-member-v1", self.id, subject, role, seq, at, by.hex)
        return {"mesh": self.id, "pubkey": subject, "role": role, "seq": seq, "at": at, "by": by.hex, "sig": by.sign(text)}

    def revoke_frame(self, subject, by, member_id=""):
        at = int(time.time() * 1000)
        text = statement("claudemesh-revoke-v1", self.id, subject, member_id, at, by.hex)
        return {"type": "member_revoke", "pubkey": subject, "memberId": member_id, "timestamp": at, "by": by.hex, "signature": by.sign(text), "_reqId": "rv"}


def answer_to(client, frame, request="rv"):
    client.ws.send({**frame, "_reqId": request})
    while True:
        got = client.ws.receive()
        assert got is not None, (client.ws.close_code, client.ws.close_reason)
        if got.get("_reqId") == request:
            return got


def settle(client, request="settled"):
    """What was sent before has been read."""
    client.ws.send({"type": "list_peers", "_reqId": request})
    return client.ws.receive_until("peers_list", _reqId=request)["peers"]


def closed(client):
    frames = []
    while (frame := client.ws.receive()) is not None:
        frames.append(frame)
    return client.ws.close_code, frames


def silent(client, seconds=1.0):
    """No message is pushed for a while."""
    client.ws.sock.settimeout(seconds)
    try:
        push = client.push()
        raise AssertionError(f"pushed {push}")
    except TimeoutError:
        pass
    finally:
        client.ws.sock.settimeout(20)


def ack(client, *pushes, **more):
    client.ws.send({"type": "client_ack", "acks": [{"clientMessageId": p["client_message_id"], "brokerMessageId": p["messageId"], **more} for p in pushes]})


def rows(broker, sql, *arguments):
    connection = sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True)
    try:
        return connection.execute(sql, arguments).fetchall()
    finally:
        connection.close()


def check(mesh):
    return mesh.world.run(BINARY, "broker", "check", "--store", f"sqlite:{mesh.broker.store}")


def metric(broker, name):
    for line in broker.get("/metrics").body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {name}")


# ---- sending ---------------------------------------------------------------------------------------------------------------


def test_a_duplicate_is_known_before_anything_else_is_looked_at(world):
    mesh = Mesh(world, settings(rate_limit_per_minute=60, rate_limit_burst=2))
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    assert alice.send(bob["pubkey"], "one")["status"] == 201
    for change in ({"targetSpec": Key().hex, "destination_ref": None}, {"ciphertext": "!!"}, {"nonce": "AAAA"}, {"targetSpec": "#x"}, {"priority": "soon"}):
        frame = {name: value for name, value in {**alice.send_frame(bob["pubkey"], "one"), **change}.items() if value is not None}
        alice.ws.send(frame)
        assert alice.ws.receive_until("ack", client_message_id="one")["status"] == 200, change
        alice.ws.send({**frame, "request_fingerprint": sha256(b"other")})
        assert alice.ws.receive_until("ack", client_message_id="one")["status"] == 409, change
    assert alice.send(bob["pubkey"], "two")["status"] == 201, "none of them was charged"
    assert alice.send(bob["pubkey"], "three")["status"] == 429
    assert rows(mesh.broker, "SELECT count(*) FROM client_message_dedupe") == rows(mesh.broker, "SELECT count(*) FROM message") == [(2,)]


def test_what_is_pipelined_behind_a_429_is_held_and_only_there(world):
    mesh = Mesh(world, settings(rate_limit_per_minute=30, rate_limit_burst=2))
    bob, carol = mesh.join("bob"), mesh.join("carol")
    alice = mesh.client(mesh.owner_entry)
    for number in range(10):
        alice.ws.send(alice.send_frame(bob["pubkey"], f"p-{number}"))
    answers = [alice.ws.receive_until("ack") for _ in range(10)]
    assert [a["client_message_id"] for a in answers] == [f"p-{n}" for n in range(10)], "answers in the order of arrival"
    assert [a["status"] for a in answers] == [201, 201, 429] + [503] * 7
    assert all(a["error"].startswith("held") for a in answers[3:])
    # another way is limited by the rate, not held by this one
    assert alice.send(carol["pubkey"], "c")["status"] == 429
    assert alice.send(bob["pubkey"], "low", priority="low")["status"] == 429
    # a new connection is held by nothing
    alice.close()
    alice = mesh.client(mesh.owner_entry)
    wait_for(lambda: alice.send(bob["pubkey"], "p-9")["status"] == 201, 15, "a token")


def test_an_id_that_is_decided_elsewhere_or_otherwise_holds_nothing_any_more(world):
    mesh = Mesh(world, settings(rate_limit_per_minute=60, rate_limit_burst=1))
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    other = mesh.client(mesh.owner_entry, hello={"receive": False})
    assert alice.send(bob["pubkey"], "first")["status"] == 201
    assert alice.send(bob["pubkey"], "x")["status"] == 429
    wait_for(lambda: other.send(bob["pubkey"], "x")["status"] in (200, 201), 10, "x on another connection")
    wait_for(lambda: alice.send(bob["pubkey"], "y")["status"] == 201, 5, "y, which nothing holds")
    # refused for good: decided too
    assert alice.send(bob["pubkey"], "z")["status"] == 429
    assert alice.send(bob["pubkey"], "z", ciphertext=b"x" * (6 * 65536 + 131073))["status"] == 413
    wait_for(lambda: alice.send(bob["pubkey"], "after-z")["status"] == 201, 5, "what z held")


def test_507_at_the_maximum_of_waiting_and_again_room_after_an_acknowledgement(world):
    mesh = Mesh(world, settings(max_waiting_per_recipient=3))
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    assert [alice.send(bob["pubkey"], f"n-{n}")["status"] for n in range(3)] == [201] * 3
    full = alice.send(bob["pubkey"], "n-3")
    assert full["status"] == 507 and full["queued"] is False
    assert rows(mesh.broker, "SELECT count(*) FROM client_message_dedupe") == [(3,)]
    client = mesh.client(bob)
    ack(client, *[client.push() for _ in range(3)])
    wait_for(lambda: rows(mesh.broker, "SELECT count(*) FROM delivery_queue") == [(0,)], 5, "the deliveries to go")
    assert alice.send(bob["pubkey"], "n-3")["status"] == 201
    assert client.push()["client_message_id"] == "n-3"


def test_a_key_that_is_no_member_any_more_is_unknown(world):
    mesh = Mesh(world)
    bob, carol = mesh.join("bob"), mesh.join("carol")
    owner = mesh.client(mesh.owner_entry)
    bob_client, carol_client = mesh.client(bob), mesh.client(carol)
    assert answer_to(owner, mesh.revoke_frame(bob["pubkey"], mesh.owner, bob["memberId"]))["type"] == "member_ok"
    assert closed(bob_client)[0] == 4002
    at = int(time.time() * 1000)
    leave = statement("claudemesh-leave-v1", mesh.id, carol["memberId"], carol["pubkey"], at)
    carol_client.ws.send({"type": "member_leave", "timestamp": at, "signature": carol["key"].sign(leave), "_reqId": "leave"})
    assert [f for f in closed(carol_client)[1] if f.get("_reqId") == "leave"][0]["type"] == "member_ok"
    for number, gone in enumerate((bob, carol)):
        refused = owner.send(gone["pubkey"], f"gone-{number}")
        assert refused["status"] == 404 and refused["error"].startswith("unknown_member"), refused
        client = WireClient(mesh.broker, gone, auto=False)
        client.ws.send(client.hello_frame())
        assert closed(client)[0] == (4002, 1008)[number]
    assert rows(mesh.broker, "SELECT count(*) FROM client_message_dedupe") == [(0,)]


# ---- delivering ------------------------------------------------------------------------------------------------------------


def test_each_session_has_its_own_delivery_and_the_first_takes_what_waited(world):
    mesh = Mesh(world, settings(connection_policy="allow_concurrent"))
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    for number in range(3):
        alice.send(bob["pubkey"], f"early-{number}")
    one = mesh.client(bob, session="one")
    early = [one.push() for _ in range(3)]
    assert [p["client_message_id"] for p in early] == [f"early-{n}" for n in range(3)]
    ack(one, *early)
    settle(one)
    two = mesh.client(bob, session="two")
    alice.send(bob["pubkey"], "both")
    assert one.push()["client_message_id"] == "both" and (push := two.push())["client_message_id"] == "both"
    ack(two, push)
    settle(two)
    two.close()
    two = mesh.client(bob, session="two")
    silent(two)
    one.close()
    one = mesh.client(bob, session="one")
    assert one.push()["client_message_id"] == "both", "two's acknowledgement is not one's"
    alice.send(bob["pubkey"], "to-all")
    assert two.push()["client_message_id"] == "to-all"


def test_a_session_replaced_with_pushes_unacknowledged_loses_none_and_reorders_none(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    stop = threading.Event()
    sent = []

    def sender():
        while not stop.is_set():
            identifier = f"s-{len(sent)}"
            assert alice.send(bob["pubkey"], identifier)["status"] == 201
            sent.append(identifier)

    thread = threading.Thread(target=sender)
    thread.start()
    acknowledged, last = [], None
    for _ in range(8):
        before, client = last, mesh.client(bob, session="same")
        if before is not None:
            assert closed(before)[0] == 4003
        pushes = [client.push() for _ in range(20)]
        ids = [int(p["client_message_id"][2:]) for p in pushes]
        assert ids == list(range(len(acknowledged), len(acknowledged) + 20)), "from the lowest unacknowledged on, in order"
        ack(client, *pushes[:12])
        acknowledged += ids[:12]
        settle(client)
        last = client
    stop.set()
    thread.join()
    client = mesh.client(bob, session="same")
    rest = [int(client.push()["client_message_id"][2:]) for _ in range(min(200, len(sent) - len(acknowledged)))]
    assert rest == list(range(len(acknowledged), len(acknowledged) + len(rest)))


def test_order_holds_for_each_sender_and_priority_under_load(world):
    mesh = Mesh(world)
    bob, carol = mesh.join("bob"), mesh.join("carol")
    senders = [mesh.client(mesh.owner_entry), mesh.client(carol)]
    each = 400

    def work(index, client):
        for number in range(each):
            client.ws.send(client.send_frame(bob["pubkey"], f"{index}-{number}", priority=("now", "next", "low")[number % 3]))
        for _ in range(each):
            assert client.ws.receive_until("ack")["status"] == 201

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(senders)]
    [thread.start() for thread in threads]
    receiver = mesh.client(bob)
    seen, unacknowledged = {}, []
    for _ in range(2 * each):
        push = receiver.push()
        seen.setdefault((push["senderMemberPubkey"], push["priority"]), []).append((push["history_id"], int(push["client_message_id"].split("-")[1])))
        unacknowledged.append(push)
        if len(unacknowledged) == 50:
            ack(receiver, *unacknowledged)
            unacknowledged = []
    [thread.join() for thread in threads]
    assert sum(map(len, seen.values())) == 2 * each
    for lane, items in seen.items():
        assert items == sorted(items) and [n for _, n in items] == sorted(n for _, n in items), lane


def test_dnd_stops_at_once_what_is_being_read_from_the_store(world):
    mesh = Mesh(world, settings(window=50))
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    for number in range(100):
        alice.send(bob["pubkey"], f"n-{number}")
    for _ in range(10):
        receiver = mesh.client(bob, session="bob")
        first = [receiver.push() for _ in range(50)]
        # in one segment: room for more, and no wish for it
        frames = [{"type": "client_ack", "acks": [{"clientMessageId": p["client_message_id"], "brokerMessageId": p["messageId"], "state": "quarantined"} for p in first[:1]]},
                  {"type": "set_status", "status": "dnd"}]
        receiver.ws.send_raw(b"".join(receiver.ws._frame(1, json.dumps(frame).encode()) for frame in frames))
        receiver.ws.send({"type": "list_peers", "_reqId": "dnd"})
        while (frame := receiver.ws.receive()).get("_reqId") != "dnd":
            assert frame.get("subtype") == "system", f"pushed in spite of dnd: {frame['client_message_id']}"
        peers = frame["peers"]
        assert [peer["status"] for peer in peers if peer["memberPubkey"] == bob["pubkey"]] == ["dnd"]
        silent(receiver, 0.1)
        receiver.ws.send({"type": "set_status", "status": "idle"})
        assert receiver.push()["client_message_id"] == "n-" + str(int(first[-1]["client_message_id"][2:]) + 1)
        receiver.close()


def test_a_client_without_client_ack_gets_each_once_and_makes_no_receipt(world):
    mesh = Mesh(world, settings(lease_s=1))
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    receiver = mesh.client(bob, session="old", hello={"capabilities": ["sealed_envelope"]}, negotiate=False)
    sent = [alice.send(bob["pubkey"], f"i-{n}") for n in range(5)]
    assert [receiver.push()["client_message_id"] for _ in range(5)] == [f"i-{n}" for n in range(5)]
    wait_for(lambda: rows(mesh.broker, "SELECT count(*) FROM delivery_queue") == [(0,)], 5, "the deliveries to be done")
    silent(receiver, 1.5)
    assert rows(mesh.broker, "SELECT count(*) FROM receipt WHERE pending = 1") == [(0,)]
    alice.ws.send({"type": "message_status", "messageId": sent[0]["messageId"], "_reqId": "st"})
    assert alice.ws.receive_until("message_status_result", _reqId="st")["delivered"] is True
    # and one that says so explicitly makes it after all
    receiver.ws.send({"type": "client_ack", "clientMessageId": "i-0", "brokerMessageId": sent[0]["messageId"]})
    assert alice.ws.receive_until("receipt")["client_message_id"] == "i-0"


def test_quarantined_makes_no_receipt_until_it_is_stored(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    alice, receiver = mesh.client(mesh.owner_entry), mesh.client(bob)
    for name in ("q", "marker"):
        alice.send(bob["pubkey"], name)
    first, marker = receiver.push(), receiver.push()
    ack(receiver, first, state="quarantined")
    ack(receiver, marker)
    assert alice.ws.receive_until("receipt")["client_message_id"] == "marker"
    status = answer_to(alice, {"type": "message_status", "messageId": first["messageId"]}, "s")
    assert status["delivered"] is False and status["deliveredAt"] is None and status["recipients"][0]["status"] in ("held", "delivered")
    ack(receiver, first)
    receipt = alice.ws.receive_until("receipt")
    assert (receipt["client_message_id"], receipt["state"], receipt["by"]) == ("q", "stored", bob["pubkey"])
    status = answer_to(alice, {"type": "message_status", "messageId": first["messageId"]}, "s2")
    assert status["delivered"] is True and status["deliveredAt"] > 0
    assert status["recipients"] == [{"name": "bob", "pubkey": bob["pubkey"], "status": "delivered"}]
    ack(receiver, first)  # again: not a second one
    receiver.ws.send({"type": "seen", "ids": [first["messageId"]]})
    assert alice.ws.receive_until("receipt")["state"] == "seen"


def test_nothing_is_sent_again_while_it_sits_in_a_buffer_here(world):
    mesh = Mesh(world, settings(lease_s=1))
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    sock_size = 400000
    for number in range(40):
        alice.ws.send(alice.send_frame(bob["pubkey"], f"b-{number}", ciphertext=os.urandom(sock_size)))
    for _ in range(40):
        assert alice.ws.receive_until("ack")["status"] == 201
    receiver = WireClient(mesh.broker, bob, auto=False)
    receiver.ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    receiver.ws.send(receiver.hello_frame(capabilities=["client_ack"]))
    before = metric(mesh.broker, "cm_broker_redeliveries_total")
    time.sleep(3)
    assert metric(mesh.broker, "cm_broker_redeliveries_total") == before
    assert metric(mesh.broker, 'cm_broker_deliveries{state="leased"}') < 40, "the rest waits in the store"
    got = []
    while len(got) < 40:
        push = receiver.push()
        got.append(push["client_message_id"])
        ack(receiver, push)
    assert got == [f"b-{n}" for n in range(40)]
    receiver.close()


def test_history_is_paged_and_only_ones_own(world):
    mesh = Mesh(world)
    bob, carol = mesh.join("bob"), mesh.join("carol")
    alice, other = mesh.client(mesh.owner_entry), mesh.client(carol)
    for number in range(7):
        alice.send(bob["pubkey"], f"h-{number}")
        other.send(mesh.owner.hex, f"o-{number}")
    reader = mesh.client(bob, hello={"receive": False})
    items, after = [], 0
    while after is not None:
        page = answer_to(reader, {"type": "history", "after_history_id": after, "limit": 3}, "h")
        assert page["type"] == "history_result" and len(page["items"]) <= 3
        items += page["items"]
        after = page["next"]
    assert [item["client_message_id"] for item in items] == [f"h-{n}" for n in range(7)]
    assert [item["history_id"] for item in items] == sorted(item["history_id"] for item in items)


# ---- presence --------------------------------------------------------------------------------------------------------------


def test_the_lists_have_exactly_the_fields_of_the_wire(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry, session="a-session", hello={"cwd": "/x", "hostname": "host", "groups": [{"name": "red", "role": "lead"}]})
    alice.ws.send({"type": "set_summary", "summary": "at work"})
    alice.ws.send({"type": "set_profile", "profile": {"title": "T"}})
    alice.ws.send({"type": "set_status", "status": "working"})
    peers = settle(alice)
    fields = {"pubkey", "memberPubkey", "displayName", "status", "summary", "groups", "sessionId", "connectedAt", "cwd", "hostname", "peerType", "channel", "visible", "profile"}
    assert len(peers) == 1 and fields <= set(peers[0])
    peer = peers[0]
    assert (peer["pubkey"], peer["memberPubkey"], peer["displayName"], peer["status"], peer["summary"]) == (mesh.owner.hex, mesh.owner.hex, "owner", "working", "at work")
    assert (peer["groups"], peer["sessionId"], peer["cwd"], peer["hostname"], peer["visible"]) == ([{"name": "red", "role": "lead"}], "a-session", "/x", "host", True)
    assert (peer["peerType"], peer["channel"], peer["profile"]) == ("connector", "claudemesh-daemon", {"title": "T"})
    assert abs(peer["connectedAt"] - time.time() * 1000) < 20000
    members = answer_to(alice, {"type": "list_members"})["members"]
    by = {member["pubkey"]: member for member in members}
    assert {"id", "pubkey", "displayName", "role", "joinedAt", "lastSeenAt", "revoked"} <= set(by[bob["pubkey"]])
    assert by[mesh.owner.hex]["role"] == "admin" and by[bob["pubkey"]]["role"] == "member" and by[bob["pubkey"]]["lastSeenAt"] is None
    assert by[mesh.owner.hex]["lastSeenAt"] > 0 and by[bob["pubkey"]]["revoked"] is False and by[bob["pubkey"]]["id"] == bob["memberId"]
    answer_to(alice, mesh.revoke_frame(bob["pubkey"], mesh.owner, bob["memberId"]))
    listed = answer_to(alice, {"type": "list_members"}, "m2")
    assert {m["pubkey"]: m["revoked"] for m in listed["members"]}[bob["pubkey"]] is True
    assert [r["subject_pubkey"] for r in listed["revocations"]] == [bob["pubkey"]]


def events(client, until):
    """The system events up to the answer of a request."""
    client.ws.send({"type": "list_peers", "_reqId": until})
    found = []
    while (frame := client.ws.receive()).get("_reqId") != until:
        if frame.get("subtype") == "system":
            found.append((frame["event"], frame["eventData"].get("memberPubkey") or frame["eventData"].get("subject_pubkey") or frame["eventData"].get("pubkey")))
    return found


def test_presence_survives_its_grace_and_then_leaves_once(world):
    mesh = Mesh(world, settings(presence_grace_s=2))
    bob = mesh.join("bob")
    watcher = mesh.client(mesh.owner_entry)
    settle(watcher)
    client = mesh.client(bob, session="b")
    assert events(watcher, "e1") == [("peer_joined", bob["pubkey"])]
    client.ws.send({"type": "set_summary", "summary": "still me"})
    client.ws.send({"type": "set_status", "status": "working"})
    client.ws.send({"type": "join_group", "name": "red"})
    settle(client)
    client.ws.abort()
    time.sleep(0.5)
    assert bob["pubkey"] in {p["memberPubkey"] for p in settle(watcher)}
    client = mesh.client(bob, session="b")
    assert client.hello_ack["restored"] is True and client.hello_ack["lastSummary"] == "still me"
    assert events(watcher, "e2") == [], "it was away for less than its grace"
    peer = [p for p in settle(client) if p["memberPubkey"] == bob["pubkey"]][0]
    assert (peer["summary"], peer["status"], [g["name"] for g in peer["groups"]]) == ("still me", "working", ["red"])
    client.ws.abort()
    time.sleep(3)
    assert events(watcher, "e3") == [("peer_left", bob["pubkey"])]
    assert bob["pubkey"] not in {p["memberPubkey"] for p in settle(watcher)}
    # past the grace, and past a restart of the broker, what it said of itself is there again
    client = mesh.client(bob, session="b")
    assert client.hello_ack["restored"] is True and client.hello_ack["lastSummary"] == "still me"
    settle(client)
    mesh.broker.kill()
    mesh.broker.start()
    client = mesh.client(bob, session="b")
    assert client.hello_ack["restored"] is True and client.hello_ack["lastSummary"] == "still me"
    fresh = mesh.client(mesh.join("carol"), session="c")
    assert not fresh.hello_ack.get("restored") and "lastSummary" not in fresh.hello_ack


def test_hidden_means_gone_for_the_others(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    watcher, client = mesh.client(mesh.owner_entry), mesh.client(bob)
    events(watcher, "begin")
    client.ws.send({"type": "set_visible", "visible": False})
    settle(client)
    assert bob["pubkey"] not in {p["memberPubkey"] for p in settle(watcher)} or pytest.fail("listed")
    assert watcher.send(bob["pubkey"], "direct")["status"] == 201 and client.push()["client_message_id"] == "direct"


def test_a_send_only_connection_is_outside_everything(world):
    mesh = Mesh(world, settings(connection_policy="prefer_oldest"))
    bob = mesh.join("bob")
    watcher = mesh.client(mesh.owner_entry)
    settle(watcher)
    line = mesh.client(bob, session="b", hello={"receive": False})
    assert events(watcher, "e") == [] and bob["pubkey"] not in {p["memberPubkey"] for p in settle(watcher, "p")}
    assert watcher.send(bob["pubkey"], "m")["status"] == 201
    silent(line, 0.5)
    daemon = mesh.client(bob, session="b")
    assert daemon.push()["client_message_id"] == "m"
    assert events(watcher, "e2") == [("peer_joined", bob["pubkey"])]
    assert line.send(mesh.owner.hex, "from-the-line")["status"] == 201
    assert watcher.push()["client_message_id"] == "from-the-line"
    another = mesh.client(bob, session="b", hello={"receive": False})
    another.close()
    assert line.send(bob["pubkey"], "to-myself")["status"] == 201 and daemon.push()["client_message_id"] == "to-myself"
    silent(line, 0.5)
    line.close()
    assert events(watcher, "e3") == []


# ---- hello -----------------------------------------------------------------------------------------------------------------


def refusal(mesh, entry, **hello):
    client = WireClient(mesh.broker, entry, auto=False)
    client.ws.send(client.hello_frame(**hello))
    code, frames = closed(client)
    assert not any(f["type"] == "hello_ack" for f in frames)
    return code, client.ws.close_reason


def test_hellos_are_judged_by_the_public_urls_and_replays_outlive_a_restart(world):
    mesh = Mesh(world, settings(public_urls="wss://mesh.example/ws"))
    entry = mesh.owner_entry
    assert refusal(mesh, entry) == (1008, "bad_signature"), "127.0.0.1 is no public URL of this broker"
    entry["brokerUrl"] = "wss://mesh.example/ws"
    client = WireClient(mesh.broker, entry, auto=False)
    frame = client.hello_frame(v2=False)
    client.ws.send(frame)
    client.ws.receive_until("hello_ack")
    client.close()
    mesh.broker.kill()
    mesh.broker.start()
    replay = WireClient(mesh.broker, entry, auto=False)
    replay.ws.send(frame)
    assert closed(replay)[0] == 1008
    again = WireClient(mesh.broker, entry, auto=False)
    again.ws.send(again.hello_frame(timestamp=frame["timestamp"] + 1))
    again.ws.receive_until("hello_ack")
    again.close()
    assert refusal(mesh, entry, v2=False)[0] == 1008, "who used signature2 must use it always"
    for host, status in (("mesh.example", 200), ("mesh.example:443", 200), ("mesh.example:80", 403), (f"localhost:{mesh.broker.port}", 200), ("localhost:1", 403),
                         ("127.0.0.1", 200), ("mesh.example.evil", 403), ("[::1]", 200)):
        assert mesh.broker.get("/health", {"Host": host}).status == status, host
        ws = WebSocket.connect(mesh.broker.port, headers={"Host": host})
        assert ws.status == (101 if status == 200 else 403), host
        ws.abort()
    plain = Broker(world, name="plain")
    for host, status in (("localhost:1", 403), ("127.0.0.1:1", 403), ("localhost", 200), (f"127.0.0.1:{plain.port}", 200), ("mesh.example", 403)):
        assert plain.get("/health", {"Host": host}).status == status, host
    for headers in ({"Origin": "https://mesh.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-origin"}):
        ws = WebSocket.connect(mesh.broker.port, headers=headers)
        assert ws.status == 403, headers


def test_a_session_key_of_another_member_cannot_be_taken(world):
    mesh = Mesh(world)
    bob, eve = mesh.join("bob"), mesh.join("eve")
    eve_first = mesh.client(eve, session="old")  # her session is older than his
    session_key = Key().hex
    client = mesh.client(bob, hello={"sessionPubkey": session_key})
    eve_first.close()
    assert refusal(mesh, eve, sessionPubkey=session_key, sessionId="old")[0] == 1008
    assert refusal(mesh, eve, sessionPubkey=bob["pubkey"])[0] == 1008
    alice = mesh.client(mesh.owner_entry)
    assert alice.send(session_key, "to-the-session")["status"] == 201
    assert client.push()["client_message_id"] == "to-the-session"


def test_connections_with_keys_of_their_own_are_no_rivals(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    one, two = (mesh.client(bob, session=name, hello={"sessionPubkey": Key().hex}) for name in ("one", "two"))
    alice = mesh.client(mesh.owner_entry)
    assert alice.send(bob["pubkey"], "to-both")["status"] == 201
    assert one.push()["client_message_id"] == two.push()["client_message_id"] == "to-both"
    assert alice.send([p["pubkey"] for p in settle(two) if p["sessionId"] == "two"][0], "to-two")["status"] == 201
    assert two.push()["targetSpec"] != bob["pubkey"]
    silent(one, 0.3)
    three = mesh.client(bob, session="three")  # under the member's own key: nobody's rival either
    settle(one), settle(two), settle(three)
    assert rows(mesh.broker, "SELECT count(*) FROM audit WHERE event = 'concurrent_connection'") == [(0,)]
    four = mesh.client(bob, session="four")
    assert closed(three)[0] == 4003
    settle(four)
    wait_for(lambda: rows(mesh.broker, "SELECT count(*) FROM audit WHERE event = 'concurrent_connection'") == [(1,)], 5, "the audit line")


def test_a_connected_session_is_never_forgotten_for_newer_ones(world):
    mesh = Mesh(world, settings(connection_policy="allow_concurrent"))
    bob = mesh.join("bob")
    daemon = mesh.client(bob, session="daemon")
    for number in range(20):
        time.sleep(0.002)
        mesh.client(bob, session=f"passing-{number}").close()
    alice = mesh.client(mesh.owner_entry)
    assert alice.send(bob["pubkey"], "still-there")["status"] == 201
    assert daemon.push()["client_message_id"] == "still-there"
    held = [daemon]
    while len(held) < 16:
        held.append(mesh.client(bob, session=f"held-{len(held)}"))
    assert refusal(mesh, bob, sessionId="one-more") == (1008, "capacity")
    again = mesh.client(bob, session="held-3")
    assert closed(held[3])[0] == 4003
    held[3] = again
    assert alice.send(bob["pubkey"], "to-all-16")["status"] == 201
    for client in held:
        while client.push()["client_message_id"] != "to-all-16":
            pass


def test_a_send_to_oneself_goes_to_the_others_or_else_to_itself(world):
    mesh = Mesh(world, settings(connection_policy="allow_concurrent"))
    one, two = (mesh.client(mesh.owner_entry, session=name) for name in ("one", "two"))
    assert one.send(mesh.owner.hex, "to-the-other")["status"] == 201
    assert two.push()["client_message_id"] == "to-the-other"
    silent(one, 0.3)
    two.close()
    time.sleep(0.2)
    assert one.send(mesh.owner.hex, "to-itself")["status"] == 201
    assert one.push()["client_message_id"] == "to-itself"


# ---- members and the web ---------------------------------------------------------------------------------------------------


def test_every_refusal_of_post_mesh(world):
    mesh = Mesh(world)
    token = mesh.token
    assert oct(mesh.broker.admin_token_file.stat().st_mode & 0o777) == "0o600" and len(token) >= 32
    fresh = {"mesh_id": str(uuid.uuid4()), "slug": "other"}
    body = mesh.mesh_body(**fresh)
    assert post(mesh.broker, "/mesh", body)[:2] == (401, "missing_token")
    assert post(mesh.broker, "/mesh", body, "wrong")[:2] == (401, "invalid_token")
    for change in ({"mesh_id": fresh["mesh_id"].upper()}, {"mesh_id": "x"}, {"slug": "Has Space"}, {"slug": "a|b"}, {"slug": ""}, {"slug": 5}, {"owner_pubkey": mesh.owner.hex.upper()},
                   {"owner_pubkey": "00" * 32}, {"timestamp": "5"}, {"display_name": ""}, {"name": None}):
        status, code, _ = post(mesh.broker, "/mesh", mesh.mesh_body(**{**fresh, **change}), token)
        assert (status, code) == (400, "malformed"), change
    for raw in ("", "nonsense", "[]", '{"a":1,"a":2}'):
        assert post(mesh.broker, "/mesh", raw, token)[:2] == (400, "malformed"), raw
    assert post(mesh.broker, "/mesh", mesh.mesh_body(**fresh, signature="00" * 64), token)[:2] == (403, "bad_signature")
    assert post(mesh.broker, "/mesh", {**body, "slug": "third"}, token)[:2] == (403, "bad_signature")
    assert post(mesh.broker, "/mesh", mesh.mesh_body(mesh_id=str(uuid.uuid4())), token)[0] == 409, "the slug is taken"
    assert post(mesh.broker, "/mesh", mesh.mesh_body(), token)[2]["memberId"] == mesh.owner_id, "the same again is the same"
    assert rows(mesh.broker, "SELECT count(*) FROM mesh") == [(1,)]


def test_the_admin_token_stands_where_it_is_said(world):
    place = world.directory / "secrets"
    place.mkdir(mode=0o700)
    broker = Broker(world, arguments=["--admin-token-file", place / "token"])
    assert oct((place / "token").stat().st_mode & 0o777) == "0o600" and not broker.admin_token_file.exists()
    token = (place / "token").read_text().strip()
    assert broker.get("/", {"Authorization": f"Bearer {token}"}).status == 200
    broker.stop()
    broker.start()
    assert (place / "token").read_text().strip() == token and broker.get("/", {"Authorization": f"Bearer {token}"}).status == 200


def test_every_refusal_of_post_join_and_what_a_place_is(world):
    mesh = Mesh(world)
    invite, key = mesh.invite(max_uses=2), Key()
    good = mesh.join_body(invite, key, "bob")
    for raw in ("", "nonsense", "[]", "{}", '{"cert":5,"timestamp":1}', json.dumps({**good, "root_key": "x"}), json.dumps({**good, "invite_seed": "x"}),
                json.dumps({**good, "timestamp": "x"}), json.dumps({"invite": good["invite"]})):
        assert post(mesh.broker, "/join", raw)[:2] == (400, "malformed"), raw[:60]

    def changed(*path, value):
        body = json.loads(json.dumps(good))
        at = body["cert"]
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        del body["invite"]
        return body

    for body in (changed("invite", "signature", value="00" * 64), changed("invite_sig", value="00" * 64), changed("self_sig", value="00" * 64),
                 changed("invite", "max_uses", value=99), changed("join", "name", value="bob"[::-1] + "x") | {"name": "bobx"[::-1][1:] + "x"}):
        body.pop("name")
        assert post(mesh.broker, "/join", body)[:2] == (403, "bad_signature"), body
    stranger = Mesh.__new__(Mesh)
    stranger.__dict__.update(mesh.__dict__, owner=Key())
    assert post(mesh.broker, "/join", stranger.join_body(stranger.invite(), Key()))[:2] == (403, "bad_signature")
    assert post(mesh.broker, "/join", mesh.join_body(mesh.invite(expires=int(time.time()) - 10), Key()))[:2] == (410, "expired")
    late = mesh.invite(expires=int(time.time()) - 10)
    assert post(mesh.broker, "/join", mesh.join_body(late, Key(), at=int(time.time() * 1000) - 60000))[:2] == (410, "expired"), "back-dated"
    first = post(mesh.broker, "/join", good)
    assert first[0] == 200 and first[2]["ok"] is True and first[2]["alreadyMember"] is False
    for _ in range(3):
        again = post(mesh.broker, "/join", mesh.join_body(invite, key, "bob"))
        assert again[0] == 200 and again[2]["alreadyMember"] is True and again[2]["memberId"] == first[2]["memberId"]
    assert post(mesh.broker, "/join", mesh.join_body(invite, Key()))[0] == 200, "the second place is still there"
    assert post(mesh.broker, "/join", mesh.join_body(invite, Key()))[:2] == (410, "exhausted")
    assert post(mesh.broker, "/join", mesh.join_body(invite, key, "bob"))[2]["alreadyMember"] is True, "also when it is used up"
    # an invite that is revoked, and a member that is
    other = mesh.invite(max_uses=9)
    at = int(time.time() * 1000)
    invite_id = other[1]["invite_id"]
    owner = mesh.client(mesh.owner_entry)
    text = statement("claudemesh-invite-revoke-v1", mesh.id, invite_id, at, mesh.owner.hex)
    assert answer_to(owner, {"type": "invite_revoke", "invite_id": invite_id, "at": at, "by": mesh.owner.hex, "sig": mesh.owner.sign(text)})["type"] == "member_ok"
    assert post(mesh.broker, "/join", mesh.join_body(other, Key()))[:2] == (410, "revoked")
    assert answer_to(owner, mesh.revoke_frame(key.hex, mesh.owner, first[2]["memberId"]))["type"] == "member_ok"
    assert post(mesh.broker, "/join", mesh.join_body(mesh.invite(), key, "bob"))[:2] == (410, "revoked")


def test_places_are_counted_once_under_concurrent_joins(world):
    mesh = Mesh(world)
    invite = mesh.invite(max_uses=5)
    results, barrier = [], threading.Barrier(16)
    same = Key()

    def one(index):
        body = mesh.join_body(invite, same if index < 4 else Key(), f"m{index}")
        barrier.wait()
        results.append(post(mesh.broker, "/join", body))

    threads = [threading.Thread(target=one, args=(index,)) for index in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    joined = [r for r in results if r[0] == 200 and not r[2]["alreadyMember"]]
    assert len(joined) == 5 and all(r[:2] == (410, "exhausted") for r in results if r[0] != 200)
    assert rows(mesh.broker, "SELECT uses FROM invite") == [(5,)]
    assert rows(mesh.broker, "SELECT count(*) FROM member") == [(6,)]


def test_an_admins_invite_is_void_once_the_admin_is(world):
    mesh = Mesh(world)
    admin = mesh.join("admin", role="admin")
    owner = mesh.client(mesh.owner_entry)
    grant = mesh.grant(admin["pubkey"], "admin")
    assert answer_to(owner, {"type": "member_grant", **grant})["type"] == "member_ok"
    by_admin = lambda role="member": mesh.invite(role=role, max_uses=3, signer=admin["key"], grant=grant)
    invite = by_admin()
    mesh.join("bob", invite=invite)
    assert post(mesh.broker, "/join", mesh.join_body(by_admin("admin"), Key()))[:2] == (403, "bad_signature"), "the role admin takes the owner's signature"
    assert answer_to(owner, mesh.revoke_frame(admin["pubkey"], mesh.owner, admin["memberId"]))["type"] == "member_ok"
    assert post(mesh.broker, "/join", mesh.join_body(invite, Key()))[:2] == (410, "revoked")
    assert post(mesh.broker, "/join", mesh.join_body(by_admin(), Key()))[:2] == (410, "revoked")


def test_who_may_revoke_whom_and_who_is_told(world):
    mesh = Mesh(world)
    admin, other_admin, bob, carol = mesh.join("admin", "admin"), mesh.join("other", "admin"), mesh.join("bob"), mesh.join("carol")
    owner, admin_client, bob_client, carol_client = (mesh.client(entry) for entry in (mesh.owner_entry, admin, bob, carol))
    refused = lambda client, frame: answer_to(client, frame)["code"]
    assert refused(bob_client, mesh.revoke_frame(carol["pubkey"], bob["key"], carol["memberId"])) == "forbidden"
    assert refused(admin_client, mesh.revoke_frame(other_admin["pubkey"], admin["key"], other_admin["memberId"])) == "forbidden"
    assert refused(admin_client, mesh.revoke_frame(mesh.owner.hex, admin["key"], mesh.owner_id)) == "forbidden"
    assert refused(owner, mesh.revoke_frame(mesh.owner.hex, mesh.owner, mesh.owner_id)) == "forbidden"
    forged = mesh.revoke_frame(carol["pubkey"], mesh.owner, carol["memberId"])
    forged["signature"] = bob["key"].sign(b"x")
    assert refused(bob_client, forged) == "bad_signature"
    assert refused(owner, mesh.revoke_frame(Key().hex, mesh.owner)) == "unknown_member"
    events(carol_client, "begin")
    assert answer_to(admin_client, mesh.revoke_frame(bob["pubkey"], admin["key"], bob["memberId"]))["type"] == "member_ok"
    assert closed(bob_client)[0] == 4002
    seen = [event for event in events(carol_client, "end") if event[0] == "member_revoked"]
    assert seen == [("member_revoked", bob["pubkey"])]
    assert answer_to(owner, mesh.revoke_frame(admin["pubkey"], mesh.owner, admin["memberId"]))["type"] == "member_ok"
    assert closed(admin_client)[0] == 4002
    # what a revoked admin says afterwards, relayed by somebody else, counts for nothing
    assert refused(carol_client, mesh.revoke_frame(other_admin["pubkey"], admin["key"])) == "forbidden"
    assert refused(carol_client, mesh.revoke_frame(carol["pubkey"], admin["key"])) == "forbidden"
    # a newcomer is told of
    events(carol_client, "again")
    dave = mesh.join("dave")
    wait_for(lambda: ("member_joined", dave["pubkey"]) in events(carol_client, os.urandom(4).hex()), 5, "member_joined")


# ---- limits ----------------------------------------------------------------------------------------------------------------


def test_limits_of_connections(world):
    mesh = Mesh(world, settings(max_connections=6, max_connections_per_mesh=3, connection_policy="allow_concurrent"))
    bob = mesh.join("bob")
    held = [mesh.client(bob, session=f"s{n}") for n in range(3)]
    assert refusal(mesh, bob, sessionId="s9") == (1008, "capacity")
    same = mesh.client(bob, session="s0")  # takes the place of its predecessor
    assert closed(held[0])[0] == 4003
    idle = [WebSocket.connect(mesh.broker.port) for _ in range(3)]
    over = WebSocket.connect(mesh.broker.port)
    while over.receive() is not None:
        pass
    assert (over.close_code, over.close_reason) == (1008, "capacity")
    [ws.abort() for ws in idle]
    settle(same)


def test_new_connections_a_second_from_one_address(world):
    mesh = Mesh(world, settings(max_new_connections_per_second=5))
    time.sleep(1.1)
    outcomes = []
    for _ in range(30):
        try:
            ws = WebSocket.connect(mesh.broker.port)
            outcomes.append(ws.status)
            ws.abort()
        except OSError:
            outcomes.append("refused")
    assert "refused" in outcomes or 429 in outcomes
    assert outcomes.count(101) <= 10


def test_behind_a_trusted_proxy_the_forwarded_address_is_what_counts(world):
    broker = Broker(world, environment=settings(max_new_connections_per_second=5, trusted_proxies="127.0.0.1"))

    def connect(forwarded):
        ws = WebSocket.connect(broker.port, headers={"X-Forwarded-For": forwarded} if forwarded else None)
        ws.abort()
        return ws.status, ws.headers.get("retry-after")

    assert [connect(f"10.9.9.9, 10.0.0.{number}") for number in range(30)] == [(101, None)] * 30  # the last one is the proxy's own word
    answers = [connect("10.0.0.1") for _ in range(30)]
    assert (429, "1") in answers and answers.count((101, None)) <= 20, answers  # a second may end in between
    assert [connect(None) for _ in range(30)] == [(101, None)] * 30  # the proxy itself is not limited


def test_an_allowlisted_web_origin_gets_its_preflight_and_nobody_else(world):
    broker = Broker(world, environment=settings(allowed_origins="https://app.example"))

    def ask(method, origin):
        connection = http.client.HTTPConnection("127.0.0.1", broker.port, timeout=20)
        connection.request(method, "/health", headers={"Origin": origin} if origin else {})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.getheader("Access-Control-Allow-Origin"), answer.getheader("Vary"), answer.getheader("Access-Control-Allow-Methods")

    assert ask("GET", "https://app.example") == (200, "https://app.example", "Origin", None)
    assert ask("OPTIONS", "https://app.example") == (204, "https://app.example", "Origin", "GET, POST")
    assert ask("GET", "https://evil.example") == (403, None, None, None)
    assert ask("OPTIONS", "https://evil.example") == (403, None, None, None)
    assert ask("OPTIONS", None) == (403, None, None, None)
    assert ask("GET", None) == (200, None, None, None)


def test_the_offer_can_be_overridden_in_parts(world):
    override = {"max_payload": {"version": 1, "inline_bytes": 1000, "blob_bytes": 0}, "delivery_ack": None}
    mesh = Mesh(world, settings(offer_override=json.dumps(override)))
    supported = mesh.client(mesh.owner_entry).features["supported"]
    assert supported["max_payload"]["params"]["inline_bytes"] == 1000
    assert "delivery_ack" not in supported and "client_message_id_dedupe" in supported and "key_epoch" not in supported


def test_a_frame_over_1_mib_closes_with_1009(world):
    mesh = Mesh(world)
    for fragments in (1, 4):
        client = mesh.client(mesh.owner_entry)
        size = (1024 * 1024 + fragments) // fragments
        try:
            for number in range(fragments):
                client.ws.send_raw(client.ws._frame(1 if number == 0 else 0, b" " * size, fin=number == fragments - 1))
        except OSError:
            pass
        assert closed(client)[0] == 1009
    client = mesh.client(mesh.owner_entry)
    text = json.dumps({"type": "list_peers", "_reqId": "big"})
    client.ws.send_text(text + " " * (1024 * 1024 - len(text)))
    client.ws.receive_until("peers_list", _reqId="big")


def test_health_ready_and_metrics_say_what_is_so(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    line = mesh.client(bob, hello={"receive": False})
    for number in range(4):
        alice.send(bob["pubkey"], f"m-{number}")
    alice.send(bob["pubkey"], "m-0")
    alice.send(bob["pubkey"], "m-0", fingerprint=sha256(b"x"))
    alice.send(Key().hex, "u")
    health, ready = mesh.broker.get("/health"), mesh.broker.get("/health/ready")
    assert health.status == 200 and health.json["version"] and health.json["meshes"] == 1 and health.json["connections"] == 2
    assert ready.status == 200 and ready.json["version"] == health.json["version"] and ready.json["members"] == 2 and ready.json["deliveries"] == 4
    value = lambda name: metric(mesh.broker, name)
    assert value('cm_broker_connections{mesh="acme"}') == 2
    assert value('cm_broker_accept_total{outcome="accepted"}') == 4 and value('cm_broker_accept_total{outcome="duplicate"}') == 1
    assert value("cm_broker_dedupe_fingerprint_mismatch_total") == 1 and value('cm_broker_accept_total{outcome="unknown_member"}') == 1
    assert value("cm_broker_atomicity_violation_total") == 0 and value("cm_broker_accept_seconds_count") == 7
    assert value('cm_broker_deliveries{state="waiting"}') == 4 and value('cm_broker_deliveries{state="leased"}') == 0
    receiver = mesh.client(bob)
    pushes = [receiver.push() for _ in range(4)]
    assert value('cm_broker_deliveries{state="waiting"}') == 0 and value('cm_broker_deliveries{state="leased"}') == 4
    ack(receiver, *pushes)
    wait_for(lambda: value("cm_broker_deliveries_done_total") == 4, 5, "deliveries to be done")
    assert value('cm_broker_deliveries{state="waiting"}') == 0 and value('cm_broker_deliveries{state="leased"}') == 0
    line.close()
    answer = mesh.broker.get("/", {"Authorization": "Bearer " + mesh.token})
    assert answer.status == 200
    assert mesh.broker.get("/", {"Authorization": "Bearer nonsense"}).status == 401


# ---- starting, stopping, dying ---------------------------------------------------------------------------------------------


def serve(world, *arguments, environment=None, home="s"):
    done = world.run(BINARY, "--config-dir", world.directory / "cfg", "broker", "serve", *arguments, environment=world.environment(**(environment or {})), timeout=20)
    return done.returncode, done.stderr.decode(), done.stdout.decode()


def test_what_keeps_it_from_starting_is_said_in_one_line_for_a_person(world):
    directory = world.directory
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    store = lambda name: f"sqlite:{directory / name / 'broker.db'}"
    (directory / "garbage").mkdir(mode=0o700)
    (directory / "garbage" / "broker.db").write_bytes(b"this is no database at all, but it is long enough to look at\n" * 100)
    (directory / "broker.toml").write_text("[broker]\nno_such_thing = 1\n")
    (directory / "broker.toml").chmod(0o600)
    broker = Broker(world)
    broker.stop()
    connection = sqlite3.connect(broker.store)
    connection.execute("UPDATE schema SET version = 999")
    connection.commit()
    connection.close()
    cases = [
        (("--listen", "nonsense", "--store", store("a")), None, "HOST:PORT"),
        (("--listen", "127.0.0.1:99999", "--store", store("a")), None, "HOST:PORT"),
        (("--listen", "192.0.2.77:7901", "--store", store("a")), None, "192.0.2.77"),
        (("--listen", f"127.0.0.1:{port}", "--store", store("b")), None, str(port)),
        (("--listen", "127.0.0.1:0", "--store", "mysql://x"), None, "sqlite"),
        (("--listen", "127.0.0.1:0", "--store", store("garbage")), None, "broker.db"),
        (("--listen", "127.0.0.1:0", "--store", f"sqlite:{broker.store}"), None, "newer"),
        (("--listen", "127.0.0.1:0", "--store", store("c"), "--config", str(directory / "broker.toml")), None, "no_such_thing"),
        (("--listen", "127.0.0.1:0", "--store", store("c")), settings(lease_s="soon"), "LEASE_S"),
        (("--listen", "127.0.0.1:0", "--store", store("c")), settings(offer_override="{"), "offer_override"),
        (("--listen", "127.0.0.1:0", "--store", store("c")), settings(offer_override="[]"), "must be a JSON object"),
        (("--listen", "127.0.0.1:0", "--store", store("c")), settings(public_urls="http://x"), "public_urls"),
        (("--listen", "[::1:0", "--store", store("c")), None, "[ADDRESS]:PORT"),
        (("--listen", "127.0.0.1:0", "--store", store("c"), "--tls-cert", str(directory / "none.pem"), "--tls-key", str(directory / "none.pem")), None, "none.pem"),
    ]
    for arguments, environment, word in cases:
        code, stderr, stdout = serve(world, *arguments, environment=environment)
        assert code not in (0, None) and code < 128, (arguments, code)
        lines = [line for line in stderr.splitlines() if line.strip()]
        people = [line for line in lines if not line.startswith("{")]
        assert len(people) == 1 == len(lines) and word in people[0], (arguments, environment, stderr)
        assert "listening" not in stdout
    taken.close()


def ledger_run(mesh, bob, rounds, end):
    """Two senders, a receiver that acknowledges, and `end` that ends the broker again and again. Returns what was answered 2xx and what arrived."""
    stop = threading.Event()
    accepted, arrived, errors = {0: [], 1: []}, [], []
    carol = mesh.join("carol")

    def sender(index, entry):
        number = 0
        while not stop.is_set():
            try:
                client = WireClient(mesh.broker, entry, session=f"sender-{index}")
                while not stop.is_set():
                    batch = [f"{index}-{n}" for n in range(number, number + 8)]
                    for identifier in batch:
                        client.ws.send(client.send_frame(bob["pubkey"], identifier))
                    for identifier in batch:
                        answer = client.ws.receive_until("ack")
                        if answer["client_message_id"] != identifier or answer["status"] not in (200, 201):
                            errors.append(answer)
                        accepted[index].append(identifier)
                        number += 1
            except (OSError, ConnectionError):
                time.sleep(0.02)

    def receiver():
        while not stop.is_set() or len(set(arrived)) < sum(map(len, accepted.values())):
            try:
                client = WireClient(mesh.broker, bob, session="bob")
                client.ws.sock.settimeout(5)
                while True:
                    push = client.push()
                    arrived.append(push["client_message_id"])
                    ack(client, push)
            except (OSError, ConnectionError):
                time.sleep(0.02)
            if time.monotonic() > limit:
                return

    limit = deadline(60)
    threads = [threading.Thread(target=sender, args=(0, mesh.owner_entry)), threading.Thread(target=sender, args=(1, carol)), threading.Thread(target=receiver)]
    [thread.start() for thread in threads]
    for _ in range(rounds):
        time.sleep(random.uniform(0.05, 0.6))
        end()
        mesh.broker.start()
    time.sleep(0.3)
    stop.set()
    threads[0].join()
    threads[1].join()
    threads[2].join(60)
    assert not errors, errors[:3]
    return accepted, arrived


def compare(mesh, accepted, arrived):
    for index, identifiers in accepted.items():
        first = list(dict.fromkeys(identifier for identifier in arrived if identifier.startswith(f"{index}-")))
        assert set(identifiers) <= set(first), f"lost {sorted(set(identifiers) - set(first))[:5]}"
        assert first == sorted(first, key=lambda identifier: int(identifier.split("-")[1])), "first arrivals are in order"
    assert sum(map(len, accepted.values())) > 50
    mesh.broker.stop()
    done = check(mesh)
    assert done.returncode == 0, done.stdout
    assert rows(mesh.broker, "SELECT count(*) FROM client_message_dedupe d LEFT JOIN message m USING (broker_message_id) WHERE m.id IS NULL") == [(0,)]
    assert rows(mesh.broker, "SELECT count(*) FROM message m LEFT JOIN client_message_dedupe d USING (broker_message_id) WHERE d.broker_message_id IS NULL") == [(0,)]
    assert rows(mesh.broker, "SELECT count(*), count(DISTINCT client_message_id || sender_member_id) FROM message")[0][0] == rows(
        mesh.broker, "SELECT count(DISTINCT client_message_id || sender_member_id) FROM message")[0][0]


def test_killed_at_random_moments_under_load_it_loses_nothing(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    accepted, arrived = ledger_run(mesh, bob, 6, lambda: mesh.broker.kill())
    compare(mesh, accepted, arrived)


def test_told_to_stop_under_load_it_exits_0_and_loses_nothing(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    accepted, arrived = ledger_run(mesh, bob, 4, lambda: mesh.broker.stop())
    compare(mesh, accepted, arrived)


def test_check_names_each_kind_of_damage(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    for number in range(4):
        alice.send(bob["pubkey"], f"c-{number}")
    mesh.broker.stop()
    whole = mesh.broker.store.read_bytes()
    damages = {
        "DELETE FROM message WHERE history_id = 2": ["c-1", "history_id 2"],  # its dedupe record, its delivery
        "UPDATE client_message_dedupe SET broker_message_id = 'nowhere' WHERE client_message_id = 'c-1'": ["nowhere", "no dedupe record"],
        "UPDATE client_message_dedupe SET history_available = 0 WHERE client_message_id = 'c-1'": ["history is gone"],
        "UPDATE delivery_queue SET message_id = 999 WHERE history_id = 3": ["history_id 3"],
        "UPDATE message SET history_id = 99 WHERE history_id = 1": ["c-0", "history_id 1", "out of the order"],
        "DELETE FROM client_message_dedupe WHERE client_message_id = 'c-1'": ["c-1"],
    }
    assert check(mesh).returncode == 0
    for damage, words in damages.items():
        mesh.broker.store.write_bytes(whole)
        connection = sqlite3.connect(mesh.broker.store)
        connection.execute(damage)
        connection.commit()
        connection.close()
        done = check(mesh)
        lines = done.stdout.decode().splitlines()
        assert done.returncode == 1 and len(lines) == len(words) and all(word in line for word, line in zip(words, lines)), (damage, lines)
        told = world.run(BINARY, "--json", "broker", "check", "--store", f"sqlite:{mesh.broker.store}")
        assert told.returncode == 1 and json.loads(told.stdout) == {"ok": False, "findings": lines}
    missing = world.run(BINARY, "broker", "check", "--store", f"sqlite:{world.directory / 'nothing.db'}")
    assert missing.returncode != 0 and missing.stderr and not (world.directory / "nothing.db").exists()
    config = world.directory / "other.db"
    other = sqlite3.connect(config)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    done = world.run(BINARY, "broker", "check", "--store", f"sqlite:{config}")
    assert done.returncode == 1 and b"no broker's store" in done.stderr


def test_a_running_broker_checks_itself_and_counts_what_it_finds(world):
    mesh = Mesh(world)
    bob = mesh.join("bob")
    alice = mesh.client(mesh.owner_entry)
    for number in range(3):
        alice.send(bob["pubkey"], f"c-{number}")
    mesh.broker.stop()
    connection = sqlite3.connect(mesh.broker.store)
    connection.execute("DELETE FROM message WHERE history_id = 2")
    connection.commit()
    connection.close()
    mesh.broker.more_environment = settings(check_interval_s=1)
    mesh.broker.start()
    wait_for(lambda: metric(mesh.broker, "cm_broker_atomicity_violation_total") >= 2, 30, "the broker to check itself")
    assert mesh.broker.log.read_text().count("atomicity_violation") >= 2
    assert check(mesh).returncode == 1  # beside it
    assert mesh.client(mesh.owner_entry).send(bob["pubkey"], "c-9")["status"] == 201
