"""Rotations that a hostile broker or a thief shows, and a disk without room: what peers believe, what they send, and that nothing is lost meanwhile (45-trust, Names and keys, Revocations)."""

import base64
import json
import time

import pytest

import harness
from disk import disks, needs_mount  # noqa: F401
from harness import Broker, Key, Node, create_mesh, join, statement, wait_for
from test_hostile_broker import Hostile


@pytest.fixture
def hostile(world):
    return Hostile(world)


def rotation(hostile, old, new, seq=1, at=None, signers=None):
    member_id, at = "m-" + hostile.carol.hex[:12], at or int(time.time() * 1000)
    text = statement("claudemesh-rotate-v1", hostile.mesh_id, member_id, seq, old.hex, new.hex, at)
    by_old, by_new = signers or (old, new)
    return {"mesh": hostile.mesh_id, "member_id": member_id, "seq": seq, "old": old.hex, "new": new.hex, "at": at, "sig_old": by_old.sign(text),
            "sig_new": by_new.sign(text)}


def tell(hostile, event, data):
    hostile.connection.send({"type": "push", "messageId": "S" + Key().hex[:25], "meshId": hostile.mesh_id, "senderPubkey": "system", "senderName": "system",
                             "priority": "low", "nonce": "", "ciphertext": "", "bodyVersion": 1, "createdAt": int(time.time() * 1000), "subtype": "system",
                             "event": event, "eventData": data})


def members(hostile):
    return {member["pubkey"]: member for member in hostile.node.api.get("/v1/members").json["members"]}


def sends(hostile, client_message_id):
    with hostile.condition:
        return [frame for frame in hostile.received if frame["type"] == "send" and frame["client_message_id"] == client_message_id]


def opened_by(hostile, frame, key):
    plain = key.open_box(bytes.fromhex(hostile.victim.hex), base64.b64decode(frame["nonce"]), base64.b64decode(frame["ciphertext"]))
    return None if plain is None else json.loads(plain[:plain.rindex(b"\x80")])


def test_a_message_for_the_old_key_is_sealed_for_the_new_one_under_the_old_name(hostile):
    new = Key()
    tell(hostile, "member_keypair_rotated", rotation(hostile, hostile.carol, new))
    wait_for(lambda: new.hex in members(hostile) and members(hostile)[new.hex]["verified"], 15, "the new key to be believed")
    hostile.node.send(hostile.carol.hex, "by the old key", client_message_id="by-old")
    hostile.node.send("carol", "by name", client_message_id="by-name")
    by_old = hostile.wait_frame(lambda frame: frame["type"] == "send" and frame["client_message_id"] == "by-old")
    by_name = hostile.wait_frame(lambda frame: frame["type"] == "send" and frame["client_message_id"] == "by-name")
    assert (by_old["targetSpec"], by_name["targetSpec"]) == (hostile.carol.hex, new.hex)
    assert opened_by(hostile, by_old, new)["to"] == hostile.carol.hex
    assert opened_by(hostile, by_name, new)["to"] == new.hex


def test_what_both_keys_did_not_sign_leads_nowhere(hostile):
    new = Key()
    for forged in (rotation(hostile, hostile.carol, new, signers=(hostile.stranger, new)), rotation(hostile, hostile.carol, new, signers=(hostile.carol, hostile.carol)),
                   rotation(hostile, hostile.carol, new, seq=2)):
        tell(hostile, "member_keypair_rotated", forged)
    message_id = hostile.honest("still the old key")
    hostile.acknowledgement(message_id)
    assert hostile.bodies() == ["still the old key"] and new.hex not in members(hostile)


def test_two_keys_for_one_step_stop_all_sends_to_that_member_until_a_grant(hostile):
    first, second = Key(), Key()
    events = hostile.node.events("?types=system")
    tell(hostile, "member_keypair_rotated", rotation(hostile, hostile.carol, first))
    wait_for(lambda: first.hex in members(hostile), 15)
    tell(hostile, "member_keypair_rotated", rotation(hostile, hostile.carol, second))
    events.wait(lambda event: event["data"].get("event") == "rotation_fork", 15)
    lines = [json.loads(line) for line in hostile.node.log.read_text().splitlines()]
    assert [line for line in lines if line.get("rotation_forks") == 1 and line.get("security") is True]
    assert hostile.node.send("carol", "withheld", client_message_id="withheld").status == 202
    assert hostile.node.send(hostile.owner.hex, "to somebody else", client_message_id="other").status == 202
    hostile.wait_frame(lambda frame: frame["type"] == "send" and frame["client_message_id"] == "other")
    assert not sends(hostile, "withheld")
    row = hostile.node.api.get("/v1/outbox/withheld").json
    assert row["status"] == "pending"
    # a restart forgets nothing of it
    hostile.node.down()
    hostile.node.up()
    hostile.node.wait_connected()
    hostile.node.send(hostile.owner.hex, "again", client_message_id="again")
    hostile.wait_frame(lambda frame: frame["type"] == "send" and frame["client_message_id"] == "again")
    assert not sends(hostile, "withheld")
    at = int(time.time() * 1000) + 1
    text = statement("claudemesh-member-v1", hostile.mesh_id, first.hex, "member", 1, at, hostile.owner.hex)
    tell(hostile, "member_joined", {"grant": {"mesh": hostile.mesh_id, "pubkey": first.hex, "role": "member", "seq": 1, "at": at, "by": hostile.owner.hex,
                                             "sig": hostile.owner.sign(text)}})
    frame = hostile.wait_frame(lambda frame: frame["type"] == "send" and frame["client_message_id"] == "withheld", 60)
    assert opened_by(hostile, frame, first)["body"] == "withheld"


def test_an_old_key_says_nothing_new(hostile):
    new = Key()
    at = int(time.time() * 1000)
    tell(hostile, "member_keypair_rotated", rotation(hostile, hostile.carol, new, at=at))
    wait_for(lambda: new.hex in members(hostile), 15)
    late = hostile.push(hostile.carol, "late", hostile.seal(hostile.carol, "said after", "late", sent_at=at + 5000))
    early = hostile.push(hostile.carol, "early", hostile.seal(hostile.carol, "said before", "early", sent_at=at - 5000))
    assert hostile.acknowledgement(late)["state"] == "quarantined"
    assert "rsig" in hostile.acknowledgement(early)
    item = hostile.node.wait_inbox(1)[0]
    assert (item["body"], item["sender_pubkey"], item["sender_name"], item["verified"]) == ("said before", hostile.carol.hex, "carol", True)
    again = hostile.push(new, "early", hostile.seal(new, "said before", "early", sent_at=at - 5000))  # the same id under both keys is one message
    hostile.acknowledgement(again)
    assert hostile.bodies() == ["said before"]


@needs_mount
def test_without_room_for_the_archive_a_rotation_is_off_and_nothing_changed(disks, world):  # noqa: F811
    disk = disks("tmpfs", 16)
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    bob.config = disk.path / "bob"
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    alice.up()
    for running in (True, False):
        if running:
            bob.up()
            bob.wait_connected()
        before = (bob.config / "config.json").read_bytes()
        disk.fill()
        done = world.run(harness.BINARY, "--config-dir", bob.config, "daemon", "rotate-keypair", environment=world.environment())
        assert done.returncode == 1 and b"othing was changed" in done.stderr, done.stderr
        assert (bob.config / "config.json").read_bytes() == before and not bob.path("keypair-archive.json").exists()
        disk.free()
        old = bob.pubkey
        assert bob.json("daemon", "rotate-keypair")["old_pubkey"] == old
        bob.path("keypair-archive.json").unlink()
        if running:
            bob.wait_connected()
            bob.send("alice", "all is well")
            alice.wait_inbox(1)
            bob.down()
