"""90-quality, hostile input: a member that means harm. Another's id, another's name, too much of everything: the broker and the other members' daemons go on as if it were not there."""

import base64
import json
import os
import threading
import time

import pytest

from harness import Broker, Key, Node, WebSocket, World, WireClient, create_mesh, deadline, join, sha256, statement, wait_for
from test_broker_more import Mesh, answer_to, closed, post, rows, settings, settle


# ---- towards the broker ---------------------------------------------------------------------------------------------------


def test_what_nobody_signed_in_a_certificate_reaches_nobody(world):
    """A certificate goes out in every list: a large one would make all lists too large for a frame."""
    mesh = Mesh(world)
    owner = mesh.client(mesh.owner_entry)
    for place in (lambda cert: cert, lambda cert: cert["join"], lambda cert: cert["invite"]):
        for size in (20000, 50000, 900000):
            body = mesh.join_body(mesh.invite(), Key(), "eve")
            place(body["cert"])["junk"] = "x" * size
            body["invite"] = body["cert"]["invite"] if size < 50000 else body["invite"]
            assert post(mesh.broker, "/join", body)[0] in (400, 413)
    for number in range(30):
        body = mesh.join_body(mesh.invite(), Key(), f"eve {number}")
        body["cert"]["junk"] = "x" * 12000  # passes, and is bounded
        assert post(mesh.broker, "/join", body)[0] == 200
    listed = answer_to(owner, {"type": "list_members"})
    assert listed["type"] == "members_list" and len(listed["members"]) == 31
    assert len(rows(mesh.broker, "SELECT * FROM member")) == 31


def answer(client, frame, kind, request="rq"):
    client.ws.send({**frame, "_reqId": request})
    return client.ws.receive_until(kind, _reqId=request)


def test_groups_carry_their_names_and_roles_and_nothing_else(world):
    mesh = Mesh(world)
    eve = mesh.join("eve")
    owner = mesh.client(mesh.owner_entry)
    groups = [{"name": f"g{n}", "role": "r", "junk": "x" * 900, "more": {"a": [1] * 20}} for n in range(50)]
    mesh.client(eve, hello={"groups": groups})
    peers = answer(owner, {"type": "list_peers"}, "peers_list")["peers"]
    seen = next(peer for peer in peers if peer["memberPubkey"] == eve["pubkey"])
    assert seen["groups"] == [{"name": f"g{n}", "role": "r"} for n in range(50)]
    assert "xxxx" not in json.dumps(peers)


def test_a_stranger_makes_the_broker_keep_64_kib_and_a_member_1_mib(world):
    mesh = Mesh(world)
    for size, whole in ((65537, True), (1048576, True), (2**40, False), (65537, False)):
        ws = WebSocket.connect(mesh.broker.port)
        frame = ws._frame(1, b" " * min(size, 1048576))
        ws.send_raw(frame if whole else b"\x81\xff" + size.to_bytes(8, "big") + b"mask" + b"x" * 100)
        assert ws.receive_text() is None and ws.close_code == 1009
    ws = WebSocket.connect(mesh.broker.port)  # fragments together
    for number in range(20):
        try:
            ws.send_raw(ws._frame(0 if number else 1, b" " * 5000, fin=False))
        except OSError:
            break
    assert ws.receive_text() is None and ws.close_code == 1009
    owner = mesh.client(mesh.owner_entry)
    owner.ws.send_text(b" " * (1048576 - 100) + json.dumps({"type": "list_peers", "_reqId": "big"}).encode())
    assert owner.ws.receive_until("peers_list")["_reqId"] == "big"


def test_nobody_becomes_another_by_saying_so(world):
    mesh = Mesh(world)
    alice, eve = mesh.join("alice"), mesh.join("eve")
    strange = Key()
    for hello in ({"memberId": alice["memberId"]}, {"pubkey": alice["pubkey"]}, {"memberId": alice["memberId"], "pubkey": alice["pubkey"]},
                  {"pubkey": strange.hex}, {"memberId": "nobody"}, {"meshId": "7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11"}, {"memberId": mesh.owner_id}):
        ws = WebSocket.connect(mesh.broker.port)
        client = WireClient.__new__(WireClient)
        client.mesh, client.key, client.url, client.ws, client.session = eve, eve["key"], mesh.broker.url, ws, "s"
        ws.send(client.hello_frame(**hello))
        refused = ws.receive()
        assert refused["type"] == "error" and refused["code"] in ("unauthorized", "bad_signature"), (hello, refused)
        assert ws.receive() is None and ws.close_code == 1008
    # whatever a send says about its sender, the push says who it was
    evil, good = mesh.client(eve), mesh.client(alice)
    evil.ws.send(evil.send_frame(alice["pubkey"], "forged-1", senderPubkey=mesh.owner.hex, senderMemberPubkey=mesh.owner.hex, senderMemberId=mesh.owner_id,
                                 senderName="owner", from_=mesh.owner.hex, meshId="other", history_id=1, messageId="01AAAAAAAAAAAAAAAAAAAAAAAA", createdAt=1, type="send"))
    assert evil.ws.receive_until("ack")["status"] == 201
    push = good.push()
    assert (push["senderPubkey"], push["senderMemberPubkey"], push["senderMemberId"], push["senderName"]) == (eve["pubkey"], eve["pubkey"], eve["memberId"], "eve")
    assert push["messageId"] != "01AAAAAAAAAAAAAAAAAAAAAAAA" and push["history_id"] > 1 or push["history_id"] == 1


def test_anothers_ids_acknowledgements_and_receipts_are_out_of_reach(world):
    mesh = Mesh(world)
    alice, bob, eve = mesh.join("alice"), mesh.join("bob"), mesh.join("eve")
    a, b, e = mesh.client(alice), mesh.client(bob), mesh.client(eve)
    assert e.send(bob["pubkey"], "the-id")["status"] == 201, "eve is first with an id that alice will use"
    sent = a.send(bob["pubkey"], "the-id")
    assert sent["status"] == 201 and sent["duplicate"] is False
    pushes = sorted((b.push() for _ in range(2)), key=lambda p: p["history_id"])
    assert [p["senderMemberPubkey"] for p in pushes] == [eve["pubkey"], alice["pubkey"]]
    # eve acknowledges, marks seen and settles what is not hers
    e.ws.send({"type": "client_ack", "clientMessageId": "the-id", "brokerMessageId": sent["messageId"]})
    e.ws.send({"type": "seen", "ids": [sent["messageId"]]})
    e.ws.send({"type": "receipt_ack", "receipts": [{"messageId": sent["messageId"], "by": bob["pubkey"], "state": "stored"}]})
    assert answer(e, {"type": "message_status", "messageId": sent["messageId"]}, "error")["code"] == "not_found"
    assert all(item["senderMemberPubkey"] == eve["pubkey"] for item in answer(e, {"type": "history"}, "history_result")["items"])
    b.close()
    again = mesh.client(bob)
    assert sorted(again.push()["messageId"] for _ in range(2)) == sorted(p["messageId"] for p in pushes), "both are still to be acknowledged"
    again.ws.send({"type": "client_ack", "clientMessageId": "the-id", "brokerMessageId": sent["messageId"]})
    assert a.ws.receive_until("receipt")["by"] == bob["pubkey"]


def test_statements_about_others_need_their_or_an_admins_word(world):
    mesh = Mesh(world)
    alice, eve = mesh.join("alice"), mesh.join("eve")
    e, a = mesh.client(eve), mesh.client(alice)
    at = int(time.time() * 1000)
    key = eve["key"]

    def named(by, name, subject):
        return {"type": "member_rename", "pubkey": subject, "name": name, "seq": 9, "sig": by.sign(statement("claudemesh-name-v1", mesh.id, subject, name, 9))}

    frames = [
        mesh.revoke_frame(alice["pubkey"], key), mesh.revoke_frame(mesh.owner.hex, key), {**mesh.revoke_frame(alice["pubkey"], key), "by": mesh.owner.hex},
        {"type": "member_grant", **mesh.grant(eve["pubkey"], "admin", by=key)}, {"type": "member_grant", **{**mesh.grant(eve["pubkey"], "admin", by=key), "by": mesh.owner.hex}},
        named(key, "mallory", alice["pubkey"]), {**named(key, "alice", eve["pubkey"]), "pubkey": alice["pubkey"]},
        {"type": "member_leave", "pubkey": alice["pubkey"], "memberId": alice["memberId"], "timestamp": at,
         "signature": key.sign(statement("claudemesh-leave-v1", mesh.id, alice["memberId"], alice["pubkey"], at))},
    ]
    for number, frame in enumerate(frames):
        answered = answer(e, frame, "error", f"r{number}")
        assert answered["code"] in ("forbidden", "bad_signature", "invalid_request", "unknown_member"), (frame, answered)
    members = {m["pubkey"]: m for m in answer(a, {"type": "list_members"}, "members_list")["members"]}
    assert members[alice["pubkey"]]["displayName"] == "alice" and members[eve["pubkey"]]["role"] == "member" and not any(m["revoked"] for m in members.values())


def test_a_flood_of_messages_is_bounded_and_slows_nobody_else(world):
    mesh = Mesh(world, environment=settings(max_waiting_per_recipient=500, rate_limit_per_minute=60000, rate_limit_burst=2000))
    alice, bob, eve = mesh.join("alice"), mesh.join("bob"), mesh.join("eve")
    e = mesh.client(eve)
    counts = {}

    def read():
        for _ in range(5000):
            status = e.ws.receive_until("ack")["status"]
            counts[status] = counts.get(status, 0) + 1

    reader = threading.Thread(target=read)
    reader.start()
    frames = b"".join(e.ws._frame(1, json.dumps(e.send_frame(bob["pubkey"], f"flood-{n}")).encode()) for n in range(5000))
    sender = threading.Thread(target=e.ws.send_raw, args=(frames,))
    sender.start()
    a = mesh.client(alice)
    slowest = 0
    for number in range(50):
        started = time.monotonic()
        assert a.send(mesh.owner.hex, f"good-{number}")["status"] == 201
        slowest = max(slowest, time.monotonic() - started)
    reader.join(60)
    sender.join(60)
    assert sum(counts.values()) == 5000 and set(counts) <= {201, 429, 503, 507} and counts[201] == 500, counts
    assert slowest < 5
    # bob comes: what waits is delivered, and alice's message behind it too
    assert a.send(bob["pubkey"], "behind-the-flood")["status"] == 507
    b = mesh.client(bob)
    for _ in range(500):
        push = b.push()
        b.ws.send({"type": "client_ack", "clientMessageId": push["client_message_id"], "brokerMessageId": push["messageId"]})
    wait_for(lambda: a.send(bob["pubkey"], "behind-the-flood")["status"] == 201, 15, "room again")
    assert b.push()["client_message_id"] == "behind-the-flood"


# ---- towards another member's daemon ------------------------------------------------------------------------------------------


class Victim:
    """A daemon, a friend's keys and an enemy's, all members of one mesh."""

    def __init__(self, world):
        self.broker = Broker(world)
        self.node, self.friend_node, self.enemy_node = (Node(world, name) for name in ("victim", "friend", "enemy"))
        create_mesh(self.broker, self.node)
        join(self.node, self.friend_node)
        join(self.node, self.enemy_node)
        self.node.up()
        self.node.wait_connected()
        self.friend = WireClient(self.broker, self.friend_node.mesh(), hello={"receive": False})
        self.enemy = WireClient(self.broker, self.enemy_node.mesh(), hello={"receive": False})
        self.number = 0

    def send(self, client, sealed, identifier, **more):
        nonce, ciphertext = sealed
        client.ws.send({**client.send_frame(self.node.pubkey, identifier, ciphertext=ciphertext), "nonce": base64.b64encode(nonce).decode(), **more})
        return client.ws.receive_until("ack", client_message_id=identifier)["status"]

    def attack(self, body="attack", **more):
        self.number += 1
        identifier = more.pop("identifier", f"attack-{self.number}")
        outside = more.pop("outside", {})
        return self.send(self.enemy, self.enemy.seal(self.node.pubkey, body, identifier, **more), identifier, **outside)

    def settle(self):
        """The friend's message that follows arrives; returns what is in the inbox then."""
        self.number += 1
        text = f"a friend's word {self.number}"
        assert self.send(self.friend, self.friend.seal(self.node.pubkey, text, f"friend-{self.number}"), f"friend-{self.number}") == 201
        wait_for(lambda: any(item["body"] == text for item in self.node.inbox()), 20, "the friend's message")
        return [item for item in self.node.inbox() if not item["body"].startswith("a friend's word")]


@pytest.fixture(scope="module")
def victim():
    world = World()
    try:
        yield Victim(world)
    finally:
        world.close()


def changed(**fields):
    return lambda envelope: envelope.update(fields)


def test_an_envelope_that_lies_is_quarantined_and_the_next_one_arrives(victim):
    friend, enemy = victim.friend.key, victim.enemy.key
    lies = [
        {"tamper": changed(**{"from": friend.hex})}, {"sender": enemy, "tamper": changed(**{"from": friend.hex}), "signer": enemy}, {"tamper": changed(id="another")},
        {"tamper": changed(to=friend.hex)}, {"tamper": changed(mesh="7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11")}, {"tamper": changed(kind="topic")}, {"tamper": changed(kind="queue", to="*")},
        {"tamper": changed(body="another")}, {"tamper": changed(priority="now")}, {"tamper": changed(meta={"a": 1})}, {"tamper": changed(reply_to="01JD4Q4T6N1V9W3KX3ZP5Y2M7A")},
        {"tamper": changed(sig="00" * 64)}, {"tamper": changed(sent_at=1)}, {"sent_at": int(time.time() * 1000) + 700000}, {"signer": friend}, {"tamper": changed(mentions=["a"])}, {"tamper": changed(v=2)},
    ]
    for lie in lies:
        assert victim.attack("a lie", **lie) == 201, "the broker cannot know"
    assert victim.settle() == []


@pytest.mark.parametrize("value", [None, True, 5, -1, 1.5, 1e300, "", "x", [], [[]], {}, {"a": {}}, "x" * 100000], ids=lambda v: repr(v)[:20])
def test_any_type_in_any_field_of_an_envelope_is_survived(victim, value):
    for field in ("v", "id", "mesh", "from", "kind", "to", "sent_at", "body", "priority", "rv", "sig", "xsig", "meta", "mentions", "reply_to", "key_id"):
        same = field in ("meta", "mentions", "reply_to", "key_id") and value in (None, [], {}, "")
        if not same:
            assert victim.attack("typed", tamper=changed(**{field: value})) == 201
    assert victim.settle() == []


def test_plaintexts_that_are_no_envelope_are_survived(victim):
    enemy = victim.enemy.key
    for plain in (b"", b"\0" * 128, b"\x80" + b"\0" * 127, b"{}" + b"\x80" + b"\0" * 125, b"[" * 1000 + b"\x80" + b"\0" * 23, b"null\x80" + b"\0" * 123, b'{"v":1}\x80' + b"\0" * 120, b"\xff" * 127 + b"\x80",
                  b'{"v":1,"v":1}\x80' + b"\0" * 114, b"x" * 128, b'{"v":1,"mesh":1,"from":1,"id":1}'.ljust(127) + b"\x80"):
        identifier = "plain-" + os.urandom(4).hex()
        assert victim.send(victim.enemy, enemy.box_for(bytes.fromhex(victim.node.pubkey), plain), identifier) == 201
    assert victim.settle() == []


def test_meta_beyond_16_kib_is_no_message_and_below_it_is_one(victim):
    assert victim.attack("too much meta", meta={"m": "x" * 16384}) == 201
    assert victim.attack("very much meta", meta={f"k{n:05d}": [n] * 50 for n in range(1000)}) == 201
    deep = {}
    for _ in range(100):
        deep = {"d": deep}
    assert victim.attack("deep meta", meta=deep) == 201
    assert victim.settle() == []
    assert victim.attack("just enough meta", meta={"m": "x" * (16384 - 8)}) == 201
    assert [item["body"] for item in victim.settle()] == ["just enough meta"]


def test_names_of_others_do_not_make_another_of_a_member(victim, world):
    """A second holder of a name, a hello that claims one, look-alikes: who wrote stays who wrote, and a name that two hold goes nowhere by itself."""
    node, friend_key = victim.node, victim.friend.key.hex
    impostor = Node(world, "impostor")
    join(node, impostor, name="friend")
    wait_for(lambda: len(node.api.get("/v1/members").json["members"]) == 4, what="the impostor's joining")
    client = WireClient(victim.broker, impostor.mesh(), hello={"displayName": "victim"})
    world.closers.append(client.close)
    identifier = "from-the-impostor"
    assert victim.send(client, client.seal(node.pubkey, "an impostor's word", identifier), identifier) == 201
    item = wait_for(lambda: [i for i in node.inbox() if i["body"] == "an impostor's word"], 20, "it")[0]
    assert item["sender_pubkey"] == impostor.pubkey and item["sender_name"] == "friend"
    answered = node.send("friend", "for whom")
    assert answered.status == 409 and answered.json["error"] in ("destination_ambiguous", "destination_key_changed")
    assert {c["pubkey"] for c in answered.json["candidates"]} == {friend_key, impostor.pubkey}
    assert node.send(friend_key, "for the friend").status == 202
    peers = {p["pubkey"]: p for p in node.api.get("/v1/peers").json["peers"]}
    assert peers[impostor.pubkey]["name"] == "friend", "the certificate's name, not the hello's"
    assert not [p for p in peers.values() if p["name"] == "victim" and p["pubkey"] != node.pubkey]


def test_thousands_of_messages_that_do_not_open_leave_room_for_those_that_do(victim):
    enemy, end = victim.enemy, deadline(60)
    nonce = base64.b64encode(b"n" * 24).decode()
    frames = b"".join(enemy.ws._frame(1, json.dumps({**enemy.send_frame(victim.node.pubkey, f"junk-{n}", ciphertext=os.urandom(64)), "nonce": nonce}).encode()) for n in range(3000))
    thread = threading.Thread(target=enemy.ws.send_raw, args=(frames,))
    thread.start()
    statuses = [enemy.ws.receive_until("ack")["status"] for _ in range(3000)]
    thread.join(30)
    assert set(statuses) == {201}
    before = len(victim.node.inbox())
    victim.settle()
    assert len(victim.node.inbox()) == before + 1 and time.monotonic() < end
    assert victim.node.process.poll() is None and victim.node.api.get("/v1/health").json["quarantined"] >= 3000
