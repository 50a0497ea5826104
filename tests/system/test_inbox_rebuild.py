"""An inbox that was lost comes back from the broker's history (30-delivery, Crash recovery, 4; 40-wire, history): without events or receipts, through crashes, beside live messages,
and whatever a broker makes of its pages."""

import base64
import os
import sqlite3

import pytest

from harness import FEATURES, Broker, Key, Node, Stub, create_mesh, fake_mesh, join, stub_answer, stub_handshake, wait_for
from hook_world import hook, ledger

HISTORY = {**FEATURES, "history": {"params": {"version": 1}}}


def ruin(node):
    """The inbox's file becomes garbage behind its first page."""
    path = node.path("inbox.db")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xee" * (len(data) - 4096)
    path.write_bytes(data)


def mark_unclean(node):
    """A clean stop would let the next start skip the check."""
    with sqlite3.connect(node.path("inbox.db")) as database:
        database.execute("UPDATE schema SET clean = 0")
    database.close()


def rebuilt(node):
    return node.health()["meshes"][0]["inbox_rebuild"] is None


@pytest.fixture
def trio(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.up()
    for node in (alice, bob):
        node.wait_connected()
    return broker, alice, bob


def test_a_lost_inbox_comes_back_from_the_brokers_history_without_event_or_receipt(trio):
    broker, alice, bob = trio
    for number in range(150):
        assert alice.send(bob.pubkey, f"message {number}", client_message_id=f"h{number}", meta={"n": number}).status == 202
        if number % 10 == 0:
            assert bob.send(alice.pubkey, f"answer {number}").status == 202
    assert bob.send(bob.pubkey, "to myself", client_message_id="self").status == 202
    before = bob.wait_inbox(151)
    bob.api.post("/v1/inbox/seen", {"ids": [before[0]["id"]]})
    bob.down()
    mark_unclean(bob)
    ruin(bob)
    receipts = alice.events("?types=receipt")
    hook(bob, "on-message", "ledger(event['body'])\n")
    bob.up()
    assert "inbox_corruption_recovered" in bob.log.read_text() and list(bob.path("inbox.db").parent.glob("inbox.db.corrupt-*"))
    events = bob.events("?types=message")
    bob.wait_connected()
    wait_for(lambda: rebuilt(bob), 30, "the inbox to be rebuilt")
    after = bob.inbox(order="asc", limit=1000)
    assert [item["client_message_id"] for item in after] == [item["client_message_id"] for item in sorted(before, key=lambda item: item["history_id"])]
    for item in after:
        old = next(other for other in before if other["client_message_id"] == item["client_message_id"])
        for field in ("body", "meta", "sender_pubkey", "sender_name", "verified", "broker_message_id", "history_id", "sent_at", "priority"):
            assert item[field] == old[field], field
        assert item["seen_at"] is None
    assert not bob.path("inbox.rebuild").exists()
    assert alice.send(bob.pubkey, "live", client_message_id="live").status == 202
    assert events.wait(lambda event: event["event"] == "message")["data"]["client_message_id"] == "live"
    assert [event["data"]["client_message_id"] for event in events.items if event["event"] == "message"] == ["live"]
    receipts.wait(lambda event: event["data"]["client_message_id"] == "live")
    wait_for(lambda: ledger(bob), 20, "the hook of the live message")
    assert ledger(bob) == ["live"], "a hook ran for what came from history"
    assert {event["data"]["client_message_id"] for event in receipts.items if event["event"] == "receipt"} == {"live"}, "a receipt for what came from history"
    events.close()
    again = bob.events("?types=message", last_event_id=events.items[-1]["id"])
    assert alice.send(bob.pubkey, "more", client_message_id="more").status == 202
    again.wait(lambda event: event["event"] == "message")
    assert [event["data"]["client_message_id"] for event in again.items if event["event"] == "message"] == ["more"]
    # no second time
    bob.down()
    bob.up()
    bob.wait_connected()
    assert rebuilt(bob) and len(bob.inbox(limit=1000)) == 153


def test_live_messages_during_a_rebuild_are_published_and_stored_once(trio):
    broker, alice, bob = trio
    for number in range(300):
        assert alice.send(bob.pubkey, f"message {number}", client_message_id=f"h{number}").status == 202
    bob.wait_inbox(300)
    bob.down()
    for number in range(50):  # waiting at the broker: in its history, too
        assert alice.send(bob.pubkey, f"waiting {number}", client_message_id=f"w{number}").status == 202
    wait_for(lambda: alice.outbox_counts()[:2] == (0, 0), 20, "the broker to have them")
    mark_unclean(bob)
    ruin(bob)
    bob.up()
    events = bob.events("?types=message", last_event_id="0000000000000000-0-0")
    bob.wait_connected()
    for number in range(50):
        assert alice.send(bob.pubkey, f"live {number}", client_message_id=f"l{number}").status == 202
    wait_for(lambda: rebuilt(bob) and len(bob.inbox(limit=1000)) == 400, 30, "everything to be there")
    live = [f"w{number}" for number in range(50)] + [f"l{number}" for number in range(50)]
    wait_for(lambda: len([1 for event in events.items if event["event"] == "message" and event["data"]["client_message_id"] in live]) >= 100, 20, "the live ones' events")
    published = [event["data"]["client_message_id"] for event in events.items if event["event"] == "message" and event["data"]["client_message_id"] in live]
    assert published == live, "lost, twice, or out of order"


def test_a_rebuild_goes_on_after_kills(trio):
    broker, alice, bob = trio
    for number in range(600):
        assert alice.send(bob.pubkey, f"message {number} " + "x" * 2000, client_message_id=f"k{number}").status == 202
    bob.wait_inbox(600)
    bob.down()
    mark_unclean(bob)
    ruin(bob)
    for attempt in range(8):
        bob.up()
        bob.wait_connected()
        wait_for(lambda wanted=attempt * 60: len(bob.inbox(limit=1000)) > wanted or rebuilt(bob), 20, "some of it")
        bob.kill()
    bob.up()
    wait_for(lambda: rebuilt(bob), 30, "the rest")
    items = bob.inbox(order="asc", limit=1000)
    assert [item["client_message_id"] for item in items] == [f"k{number}" for number in range(600)]


def lying(answers):
    def handler(connection, index):
        stub_handshake(connection, HISTORY)
        while True:
            frame = connection.receive()
            if frame is None:
                return
            if frame.get("type") == "history":
                answers.append(frame)
                connection.send({**answers.page(frame), "type": answers.kind, "_reqId": frame["_reqId"]})
            else:
                stub_answer(connection, frame)
    return handler


class Answers(list):
    kind = "history_result"

    def __init__(self, page):
        super().__init__()
        self.page = page


def item(history_id, mesh, size=64):
    return {"type": "push", "messageId": f"01{history_id:024d}", "meshId": mesh, "senderPubkey": Key().hex, "senderMemberPubkey": "ab" * 32, "senderMemberId": "m", "senderName": "x",
            "priority": "next", "nonce": base64.b64encode(os.urandom(24)).decode(), "ciphertext": base64.b64encode(os.urandom(size)).decode(), "bodyVersion": 3,
            "createdAt": 1, "client_message_id": f"c{history_id}", "history_id": history_id}


BAD_PAGES = {
    "backwards ids": lambda frame: {"items": [item(9, "m"), item(8, "m")], "next": None},
    "what was asked past": lambda frame: {"items": [item(frame["after_history_id"], "m")], "next": None},
    "the same page again": lambda frame: {"items": [], "next": frame["after_history_id"]},
    "next before its items": lambda frame: {"items": [item(50, "m")], "next": 7},
    "no list": lambda frame: {"items": "many", "next": None},
    "no objects": lambda frame: {"items": [1, None, "x"], "next": None},
    "a next of text": lambda frame: {"items": [], "next": "later"},
    "too many": lambda frame: {"items": [item(number + 1, "m", 48) for number in range(1001)], "next": None},
}


@pytest.mark.parametrize("name", BAD_PAGES)
def test_a_broker_that_lies_about_its_pages_is_left_alone(world, name):
    answers = Answers(BAD_PAGES[name])
    stub = Stub(world, lying(answers))
    node = Node(world, "alice")
    fake_mesh(node, stub.url)
    node.path("inbox.rebuild").parent.mkdir(mode=0o700, exist_ok=True)
    node.path("inbox.rebuild").write_text("lost\n")
    node.up()
    wait_for(lambda: "history_malformed" in node.log.read_text(), 20, "the lie to be told")
    assert len(answers) == 1 and node.inbox() == [] and node.health()["meshes"][0]["inbox_rebuild"] == "waiting"
    assert not stub.errors


def test_a_history_without_end_is_taken_page_by_page_and_never_more_than_one_is_asked_for(world):
    answers = Answers(lambda frame: {"items": [item(frame["after_history_id"] + 1, "other")], "next": frame["after_history_id"] + 1})
    stub = Stub(world, lying(answers))
    node = Node(world, "alice")
    fake_mesh(node, stub.url)
    node.path("inbox.rebuild").parent.mkdir(mode=0o700, exist_ok=True)
    node.path("inbox.rebuild").write_text("lost\n")
    node.up()
    wait_for(lambda: len(answers) > 200, 30, "many pages")
    assert [frame["after_history_id"] for frame in answers[:200]] == list(range(200))
    assert node.inbox() == [] and node.health()["quarantined"] <= 10000


def test_a_broker_without_history_is_not_asked_and_health_says_so(world):
    seen = []

    def handler(connection, index):
        stub_handshake(connection)
        while (frame := connection.receive()) is not None:
            seen.append(frame.get("type"))
            stub_answer(connection, frame)

    stub = Stub(world, handler)
    node = Node(world, "alice")
    fake_mesh(node, stub.url)
    node.path("inbox.rebuild").parent.mkdir(mode=0o700, exist_ok=True)
    node.path("inbox.rebuild").write_text("lost\n")
    node.up()
    wait_for(lambda: "history_unavailable" in node.log.read_text(), 20, "it to be said")
    assert node.health()["meshes"][0]["inbox_rebuild"] == "unavailable" and "history" not in seen
    assert b"rebuilt from the broker's history" in node.cli("daemon", "status").stdout
