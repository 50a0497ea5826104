"""45-trust: a broker that lies. None of it becomes a message, a verified member or a false `stored`."""

import base64
import copy
import json
import queue
import threading
import time

import pytest

from harness import (Key, Node, Stub, WireClient, acknowledge, fake_mesh, sha256, statement, stub_answer, stub_handshake, verify, wait_for)

RV_NONE = "0:" + sha256(b"")


class Hostile:
    """A broker under the test's control, with an owner, a verified member (carol) and the victim (a daemon)."""

    def __init__(self, world, settings=None):
        self.world = world
        self.owner, self.carol, self.victim, self.stranger = Key(), Key(), Key(), Key()
        self.queue, self.received = queue.Queue(), []
        self.condition = threading.Condition()
        self.revocations = []
        self.hello = None
        self.acks = {}
        self.connection = None
        self.on_send = lambda connection, frame: connection.send(acknowledge(frame))
        self.stub = Stub(world, self.serve)
        self.node = Node(world, "victim")
        self.mesh = fake_mesh(self.node, self.stub.url, owner=self.owner, key=self.victim)
        self.mesh_id = self.mesh["meshId"]
        self.members = [self.member(self.owner, "owner", "admin"), self.member(self.victim, "victim", cert=self.certificate(self.victim, "victim")),
                        self.member(self.carol, "carol", cert=self.certificate(self.carol, "carol"))]
        if settings:
            self.node.settings(settings)
        self.node.up()
        self.node.wait_connected()
        wait_for(lambda: self.verified("carol"), what="carol to be verified")

    # -- what an honest owner would have made
    def certificate(self, key, name, owner=None, mesh_id=None, role="member", seed=None, at=None, expires=4102444800, max_uses=5, **change):
        owner, mesh_id = owner or self.owner, mesh_id or self.mesh["meshId"]
        invite_key = Key(seed)
        invite_id = "k" + sha256(b"claudemesh-invite-key-v1\0" + invite_key.hex.encode())[:40]
        root_hash = sha256(b"r" * 32)
        text = f"v=3|{mesh_id}|acme|{self.stub.url}|{invite_id}|{role}|{expires}|{max_uses}|{owner.hex}|{root_hash}"
        at = at or int(time.time() * 1000) - 60000
        join_text = statement("claudemesh-join-v1", mesh_id, invite_id, role, key.hex, name, at)
        certificate = {
            "invite": {"v": 3, "mesh_id": mesh_id, "mesh_slug": "acme", "mesh_name": "acme", "broker_url": self.stub.url, "invite_id": invite_id,
                       "role": role, "expires_at": expires, "max_uses": max_uses, "owner_pubkey": owner.hex, "root_key_sha256": root_hash,
                       "signature": owner.sign(text.encode())},
            "invite_pubkey": invite_key.hex,
            "join": {"mesh": mesh_id, "invite_id": invite_id, "role": role, "pubkey": key.hex, "name": name, "at": at},
            "invite_sig": invite_key.sign(join_text), "self_sig": key.sign(join_text)}
        certificate.update(change)
        return certificate

    def member(self, key, name, role="member", **more):
        return {"id": "m-" + key.hex[:12], "pubkey": key.hex, "displayName": name, "role": role, "joinedAt": 1790000000000, "lastSeenAt": None, "revoked": False, **more}

    # -- the stub
    def serve(self, connection, _index):
        self.hello = stub_handshake(connection)
        self.connection = connection
        while (frame := connection.receive()) is not None:
            with self.condition:
                self.received.append(frame)
                self.condition.notify_all()
            if frame["type"] == "list_members":
                connection.send({"type": "members_list", "_reqId": frame.get("_reqId"), "members": self.members, "revocations": self.revocations})
            elif not stub_answer(connection, frame) and frame["type"] == "send":
                self.on_send(connection, frame)

    def wait_frame(self, predicate, seconds=15):
        def found():
            with self.condition:
                return [frame for frame in self.received if predicate(frame)]
        return wait_for(found, seconds, "a frame from the daemon")[0]

    def acknowledgement(self, message_id):
        def acks(frame):
            if frame["type"] != "client_ack":
                return []
            return frame.get("acks") or [frame]
        def found():
            with self.condition:
                return [ack for frame in self.received for ack in acks(frame) if ack.get("brokerMessageId") == message_id]
        return wait_for(found, 15, f"the acknowledgement of {message_id}")[0]

    # -- messages
    def seal(self, sender, body, identifier, **more):
        client = WireClient.__new__(WireClient)
        client.mesh, client.key = self.mesh, sender
        return WireClient.seal(client, more.pop("to", self.victim).hex, body, identifier, **more)

    def push(self, sender, identifier, sealed, number=[0], **change):
        number[0] += 1
        nonce, ciphertext = sealed
        frame = {"type": "push", "messageId": f"B{number[0]:025d}", "meshId": self.mesh_id, "senderPubkey": sender.hex, "senderMemberPubkey": sender.hex,
                 "senderMemberId": "m-" + sender.hex[:12], "senderName": "whatever the broker says", "priority": "next",
                 "nonce": base64.b64encode(nonce).decode(), "ciphertext": base64.b64encode(ciphertext).decode(), "bodyVersion": 3,
                 "createdAt": int(time.time() * 1000), "client_message_id": identifier, "history_id": number[0], "targetSpec": self.victim.hex}
        frame.update(change)
        frame = {name: value for name, value in frame.items() if value is not None}
        self.connection.send(frame)
        return frame["messageId"]

    def honest(self, body="an honest word", identifier=None):
        identifier = identifier or "honest-" + sha256(body.encode())[:12]
        return self.push(self.carol, identifier, self.seal(self.carol, body, identifier))

    def verified(self, name):
        peers = self.node.api.get("/v1/members").json["members"]
        return any(member["name"] == name and member["verified"] is True for member in peers)

    def bodies(self):
        return [item["body"] for item in self.node.inbox()]


@pytest.fixture
def hostile(world):
    return Hostile(world)


def test_an_honest_message_arrives_verified_with_its_certified_name(hostile):
    message_id = hostile.honest("hello")
    ack = hostile.acknowledgement(message_id)
    item = hostile.node.wait_inbox(1)[0]
    assert item["sender_name"] == "carol" and item["verified"] is True and item["body"] == "hello"
    # and its receipt is signed as written
    text = statement("claudemesh-receipt-v1", hostile.mesh_id, item["client_message_id"], hostile.carol.hex, hostile.victim.hex, "stored", ack["at"],
                     sha256(b""))
    assert "rsig" in ack and not verify(hostile.victim.hex, text, ack["rsig"])


def seal_text(hostile, key, text, to=None):
    padded = text + b"\x80" + b"\0" * (-(len(text) + 1) % 128)
    return key.box_for((to or hostile.victim).public, padded)


def forged(h):
    return h.push(h.carol, "f1", h.seal(h.stranger, "forged", "f1"))  # a box that does not open under carol's key


def signed_by_another(h):
    return h.push(h.carol, "f2", h.seal(h.carol, "signed by another", "f2", signer=h.stranger))


def missing_xsig(h):
    return h.push(h.carol, "f3", h.seal(h.carol, "no xsig", "f3", tamper=lambda e: e.pop("xsig")))


def missing_sig(h):
    return h.push(h.carol, "f4", h.seal(h.carol, "no sig", "f4", tamper=lambda e: e.pop("sig")))


def changed_body(h):
    return h.push(h.carol, "f5", h.seal(h.carol, "changed", "f5", tamper=lambda e: e.update(body="changed by me")))


def reattributed(h):
    return h.push(h.stranger, "f6", h.seal(h.carol, "re-attributed", "f6"))


def reattributed_inside(h):
    """The stranger seals an envelope that says it is from carol."""
    return h.push(h.stranger, "f7", h.seal(h.stranger, "from carol, says the stranger", "f7", tamper=lambda e: e.update({"from": h.carol.hex})))


def another_id(h):
    return h.push(h.carol, "other-id", h.seal(h.carol, "another id", "f8"))


def another_mesh(h):
    return h.push(h.carol, "f9", h.seal(h.carol, "another mesh", "f9", tamper=lambda e: e.update(mesh="7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11")))


def another_target(h):
    return h.push(h.carol, "f10", h.seal(h.carol, "to somebody else", "f10"), targetSpec=h.stranger.hex)


def redirected(h):
    """Meant for the stranger, sealed for the victim."""
    return h.push(h.carol, "f11", h.seal(h.carol, "redirected", "f11", tamper=lambda e: e.update(to=h.stranger.hex)))


def relabelled_version(h):
    """An envelope with a broken signature, relabelled as an old plain box."""
    return h.push(h.carol, "f12", h.seal(h.carol, "relabelled", "f12", signer=h.stranger), bodyVersion=1)


def downgraded(h):
    h.honest("first a sealed one", "sealed-first")
    h.node.wait_inbox(1)
    return h.push(h.carol, "f13", h.carol.box_for(h.victim.public, b"downgraded"), bodyVersion=1)


def truncated(h):
    nonce, ciphertext = h.seal(h.carol, "truncated", "f14")
    return h.push(h.carol, "f14", (nonce, ciphertext[:-7]))


def empty(h):
    return h.push(h.carol, "f15", (b"n" * 24, b""))


def reprioritised(h):
    return h.push(h.carol, "f16", h.seal(h.carol, "re-prioritised", "f16", priority="low"), priority="now")


def reply_changed(h):
    return h.push(h.carol, "f17", h.seal(h.carol, "reply changed", "f17"), replyToId="01JD4Q4T6N1V9W3KX3ZP5Y2M7A")


def reflected(h):
    """The victim's own legacy box thrown back at it."""
    return h.push(h.victim, "f18", h.victim.box_for(h.carol.public, b"reflected"), bodyVersion=1)


def from_the_future(h):
    return h.push(h.carol, "f19", h.seal(h.carol, "future", "f19", sent_at=int(time.time() * 1000) + 11 * 60000))


def plain_text(h):
    return h.push(h.carol, "f20", (b"n" * 24, b"plain text in the open"), bodyVersion=1)


def broadcast_in_plain_text(h):
    return h.push(h.carol, "f21", (b"", b"plain broadcast"), targetSpec="*", bodyVersion=1)


def small_order_key(h):
    return h.push(h.carol, "f22", h.seal(h.carol, "x", "f22"), senderPubkey="01" + "00" * 31, senderMemberPubkey="01" + "00" * 31)


def system_in_disguise(h):
    return h.push(h.carol, "f23", h.seal(h.carol, "system", "f23"), subtype="system", event="message", eventData={"body": "system text"})


def replayed_as_another(h):
    sealed = h.seal(h.carol, "replayed", "f24")
    h.push(h.carol, "f24", sealed)
    h.node.wait_inbox(1)
    return h.push(h.carol, "f24-again", sealed)


ATTACKS = [forged, signed_by_another, missing_xsig, missing_sig, changed_body, reattributed, reattributed_inside, another_id, another_mesh, another_target,
           redirected, relabelled_version, downgraded, truncated, empty, reprioritised, reply_changed, reflected, from_the_future, plain_text,
           broadcast_in_plain_text, small_order_key, system_in_disguise, replayed_as_another]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_hostile_push_never_becomes_a_message(hostile, attack):
    message_id = attack(hostile)
    if attack is not system_in_disguise:
        ack = hostile.acknowledgement(message_id)
        assert ack.get("state") == "quarantined" and "rsig" not in ack, ack
    # the link lives on: what follows arrives
    final = "the end of " + attack.__name__
    hostile.honest(final)
    wait_for(lambda: final in hostile.bodies(), what="the honest message after it")
    allowed = {final, "first a sealed one", "replayed"}
    assert set(hostile.bodies()) <= allowed, hostile.bodies()
    assert hostile.stub.count == 1


def test_a_push_sent_again_is_stored_once_and_acknowledged_each_time(hostile):
    sealed = hostile.seal(hostile.carol, "once", "same")
    first = hostile.push(hostile.carol, "same", sealed)
    hostile.acknowledgement(first)
    for _ in range(5):
        hostile.acknowledgement(hostile.push(hostile.carol, "same", sealed))
    assert hostile.bodies() == ["once"]


def test_one_member_cannot_suppress_anothers_message_by_its_id(hostile):
    hostile.push(hostile.owner, "shared-id", hostile.seal(hostile.owner, "from the owner", "shared-id"))
    hostile.push(hostile.carol, "shared-id", hostile.seal(hostile.carol, "from carol", "shared-id"))
    hostile.node.wait_inbox(2)
    assert sorted(hostile.bodies()) == ["from carol", "from the owner"]


def test_wrong_types_in_every_field_of_a_push_are_survived(hostile):
    good = {"type": "push", "messageId": "X", "meshId": hostile.mesh_id, "senderPubkey": hostile.carol.hex, "senderMemberPubkey": hostile.carol.hex,
            "senderMemberId": "m", "senderName": "carol", "priority": "next", "nonce": "AAAA", "ciphertext": "AAAA", "bodyVersion": 3, "createdAt": 1,
            "client_message_id": "x", "history_id": 1, "targetSpec": hostile.victim.hex, "keyEpoch": 1, "topic": "t", "replyToId": "r", "mentions": [],
            "subtype": "system", "event": "peer_joined", "eventData": {}}
    for name in good:
        for value in (None, 5, -1, 1e300, "x" * 100000, "", [], {}, True, [[[]]], {"a": {"b": {}}}):
            frame = dict(good, **{name: value})
            if name != "subtype":
                frame.pop("subtype", None)
            hostile.connection.send(frame)
    for text in ("", "null", "[]", "5", "{", '{"type":5}', '{"type":"push"}', '{"type":"ack"}', '{"type":"ack","id":{}}', '{"type":"receipt"}', '{"type":"members_list","members":5}',
                 '{"type":"error"}', '{"type":"unheard_of","x":[1]}', '{"type":"redirect","url":5}', '{"type":"push","messageId":"' + "y" * 500000 + '"}'):
        hostile.connection.send_text(text)
    hostile.honest("still here")
    wait_for(lambda: "still here" in hostile.bodies(), what="life after nonsense")
    assert hostile.bodies() == ["still here"]


def invented(h):
    return h.member(h.stranger, "eve", cert=h.certificate(h.stranger, "eve", owner=h.stranger))


def invented_without_certificate(h):
    return h.member(h.stranger, "eve", "admin")


def certificate_of_another_mesh(h):
    return h.member(h.stranger, "eve", cert=h.certificate(h.stranger, "eve", mesh_id="7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11"))


def certificate_too_late(h):
    return h.member(h.stranger, "eve", cert=h.certificate(h.stranger, "eve", expires=int(time.time()) - 3600))


def admin_by_its_own_word(h):
    certificate = h.certificate(h.stranger, "eve")
    certificate["join"]["role"] = "admin"
    return h.member(h.stranger, "eve", "admin", cert=certificate)


def carols_certificate_with_another_key(h):
    certificate = copy.deepcopy(h.members[2]["cert"])
    certificate["join"]["pubkey"] = h.stranger.hex
    return h.member(h.stranger, "eve", cert=certificate)


@pytest.mark.parametrize("invent", [invented, invented_without_certificate, certificate_of_another_mesh, certificate_too_late, admin_by_its_own_word,
                                    carols_certificate_with_another_key], ids=lambda f: f.__name__)
def test_an_invented_member_is_never_verified(hostile, invent):
    hostile.members.append(invent(hostile))
    reconnect(hostile)
    wait_for(lambda: any(m["pubkey"] == hostile.stranger.hex for m in hostile.node.api.get("/v1/members").json["members"]), what="the new list")
    members = {m["pubkey"]: m for m in hostile.node.api.get("/v1/members").json["members"]}
    assert members[hostile.stranger.hex]["verified"] is False
    assert members[hostile.carol.hex]["verified"] is True
    hostile.push(hostile.stranger, "from-eve", hostile.seal(hostile.stranger, "eve's word", "from-eve"))
    item = hostile.node.wait_inbox(1)[0]
    assert item["verified"] is False, "a direct message with an unverified member is allowed, and marked"


def reconnect(hostile):
    before = hostile.stub.count
    hostile.connection.abort()
    wait_for(lambda: hostile.stub.count > before, 30, "the daemon to come back")
    hostile.node.wait_connected()


def test_a_renamed_member_keeps_its_certified_name(hostile):
    hostile.members[2]["displayName"] = "the boss"
    hostile.members[2]["name_statement"] = {"mesh": hostile.mesh_id, "pubkey": hostile.carol.hex, "name": "the boss", "seq": 1,
                                            "by": hostile.carol.hex, "sig": hostile.stranger.sign(b"whatever")}
    reconnect(hostile)
    hostile.honest("after the renaming")
    item = hostile.node.wait_inbox(1)[0]
    assert item["sender_name"] == "carol"
    assert hostile.node.send("the boss", "hello").status == 404


def test_a_name_statement_of_the_member_itself_renames_it(hostile):
    text = statement("claudemesh-name-v1", hostile.mesh_id, hostile.carol.hex, "caroline", 1)
    hostile.members[2]["name_statement"] = {"mesh": hostile.mesh_id, "pubkey": hostile.carol.hex, "name": "caroline", "seq": 1, "by": hostile.carol.hex,
                                            "sig": hostile.carol.sign(text)}
    reconnect(hostile)
    wait_for(lambda: hostile.verified("caroline"), what="the new name")


def test_a_swapped_key_under_a_known_name_is_refused_until_accepted(hostile):
    assert hostile.node.send("carol", "hello").status == 202  # pins
    eve = hostile.member(hostile.stranger, "carol")
    hostile.members[2] = eve
    reconnect(hostile)

    def swapped():
        answer = hostile.node.send("carol", "a secret for carol")
        return answer if answer.status == 409 else None

    answer = wait_for(swapped, 15, "the swap to be noticed")
    assert answer.json["error"] in ("destination_key_changed", "destination_ambiguous")
    sends = [frame for frame in hostile.received if frame["type"] == "send"]
    assert all(frame["targetSpec"] == hostile.carol.hex for frame in sends)


def test_a_revocation_counts_when_the_owner_signed_it_and_not_otherwise(hostile):
    def revocation(signer, subject):
        at = int(time.time() * 1000)
        text = statement("claudemesh-revoke-v1", hostile.mesh_id, subject.hex, "m-" + subject.hex[:12], at, signer.hex)
        return {"mesh": hostile.mesh_id, "subject_pubkey": subject.hex, "member_id": "m-" + subject.hex[:12], "at": at, "by": signer.hex, "sig": signer.sign(text)}

    hostile.revocations = [revocation(hostile.stranger, hostile.carol)]
    hostile.members[2]["revoked"] = True
    reconnect(hostile)
    hostile.honest("carol is no less a member", "still-1")
    hostile.node.wait_inbox(1)
    hostile.revocations = [revocation(hostile.owner, hostile.carol)]
    reconnect(hostile)
    wait_for(lambda: not hostile.verified("carol"), what="the revocation")
    ack = hostile.acknowledgement(hostile.honest("from the grave", "revoked-1"))
    assert ack.get("state") == "quarantined"
    # and it is kept for ever: a broker that forgets it changes nothing
    hostile.revocations, hostile.members[2]["revoked"] = [], False
    hostile.node.kill()
    hostile.node.up()
    hostile.node.wait_connected()
    ack = hostile.acknowledgement(hostile.honest("from the grave again", "revoked-2"))
    assert ack.get("state") == "quarantined"
    assert hostile.bodies() == ["carol is no less a member"]


def test_false_receipts_are_never_stored(hostile):
    hostile.on_send = lambda connection, frame: (hostile.acks.update({frame["id"]: frame}), connection.send(acknowledge(frame)))
    stream = hostile.node.events("?types=receipt")
    wait_for(lambda: stream.comments >= 1)
    answer = hostile.node.api.post("/v1/send?wait=20", {"to": hostile.carol.hex, "message": "did it arrive"})
    identifier, broker_id = answer.json["client_message_id"], answer.json["broker_message_id"]
    frame = hostile.acks[identifier]
    content = sha256(base64.b64decode(frame["nonce"]) + base64.b64decode(frame["ciphertext"]))
    at = int(time.time() * 1000)

    def receipt(signer, by=None, state="stored", content=content, identifier=identifier, message_id=broker_id, sender=hostile.victim):
        by = by or signer
        text = statement("claudemesh-receipt-v1", hostile.mesh_id, identifier, sender.hex, by.hex, state, at, content)
        return {"type": "receipt", "client_message_id": identifier, "messageId": message_id, "by": by.hex, "state": state, "at": at, "rsig": signer.sign(text)}

    false = [
        receipt(hostile.stranger), receipt(hostile.stranger, by=hostile.carol), receipt(hostile.carol, content=sha256(b"something else")),
        {**receipt(hostile.carol), "state": "seen"}, {**receipt(hostile.carol), "at": at + 1}, receipt(hostile.carol, sender=hostile.owner),
        {**receipt(hostile.carol), "rsig": "00" * 64}, {**receipt(hostile.carol), "rsig": 5}, {**receipt(hostile.carol), "by": "nonsense"},
        receipt(hostile.carol, identifier="never-sent"),
    ]
    for frame in false:
        hostile.connection.send(frame)
    hostile.honest("after the false receipts")
    hostile.node.wait_inbox(1)
    shown = hostile.node.api.get(f"/v1/outbox/{identifier}").json["receipts"]
    assert not any(r.get("verified") is not False and (r.get("stored_at") or r.get("seen_at")) for r in shown), shown
    assert not any(e["data"].get("verified") is True for e in stream.items)
    hostile.connection.send(receipt(hostile.carol))
    event = stream.wait(lambda e: e["data"].get("verified") is True, what="the true receipt")
    assert event["data"]["by"] == hostile.carol.hex and event["data"]["state"] == "stored"
    shown = hostile.node.api.get(f"/v1/outbox/{identifier}").json["receipts"]
    assert any(r["by"] == hostile.carol.hex and r["stored_at"] and r.get("verified") is True for r in shown)


def test_what_the_daemon_sends_is_a_sealed_envelope_that_says_nothing_to_the_broker(hostile):
    frames = []
    hostile.on_send = lambda connection, frame: (frames.append(frame), connection.send(acknowledge(frame)))
    hostile.node.api.post("/v1/send?wait=20", {"to": "carol", "message": "for carol's eyes", "meta": {"b": 2, "a": 1.5}, "priority": "now", "client_message_id": "look"})
    frame = frames[0]
    assert frame["bodyVersion"] == 3 and frame["targetSpec"] == hostile.carol.hex and frame["client_message_id"] == "look" and len(frame["request_fingerprint"]) == 64
    assert "carol's eyes" not in json.dumps(frame)
    plain = hostile.carol.open_box(hostile.victim.public, base64.b64decode(frame["nonce"]), base64.b64decode(frame["ciphertext"]))
    assert len(plain) % 128 == 0
    envelope = json.loads(plain.rstrip(b"\0")[:-1])
    assert envelope["body"] == "for carol's eyes" and envelope["meta"] == {"b": 2, "a": 1.5} and envelope["priority"] == "now" and envelope["kind"] == "dm"
    assert envelope["from"] == hostile.victim.hex and envelope["to"] == hostile.carol.hex and envelope["mesh"] == hostile.mesh_id and envelope["id"] == "look"
    assert envelope["rv"] == RV_NONE
    text = statement("claudemesh-message-v1", envelope["mesh"], "look", envelope["from"], "dm", envelope["to"], envelope["sent_at"], sha256(b"for carol's eyes"),
                     sha256(b'{"a":1.5,"b":2}'))
    assert verify(hostile.victim.hex, text, envelope["sig"])
    assert verify(hostile.victim.hex, statement("claudemesh-message-x1", sha256(text), "", sha256(b""), "now", "", RV_NONE, "", ""), envelope["xsig"])


def test_the_hello_is_bound_to_this_broker_and_this_connection(hostile):
    hello = hostile.hello
    connection = hostile.connection
    text = statement("claudemesh-hello-v2", hostile.stub.url, connection.challenge, hello["meshId"], hello["memberId"], hello["pubkey"], hello["sessionId"],
                     hello.get("sessionPubkey", ""), hello["timestamp"])
    assert verify(hostile.victim.hex, text, hello["signature2"])
    assert verify(hostile.victim.hex, f"{hello['meshId']}|{hello['memberId']}|{hello['pubkey']}|{hello['timestamp']}".encode(), hello["signature"])
    assert not hello.get("cwd") and not hello.get("hostname")


def test_a_broker_that_drops_the_challenge_is_refused_by_who_saw_it(hostile):
    hostile.stub.challenge = False
    hostile.connection.abort()
    wait_for(lambda: any(m["status"] == "refused" for m in hostile.node.health()["meshes"]), 30, "refused")
