"""The main promise on real bodies: everything accepted arrives byte for byte, once, in order; whatever dies on the way."""

import collections
import http.client
import json
import os
import random
import signal
import sqlite3
import threading

import pytest

from harness import SHARED, SLOW, Broker, Node, create_mesh, join, messages, wait_for

COUNT = None if SLOW == 1 else 300


class Sender(threading.Thread):
    """Sends every row as a careful program does: by its id, again until it is answered 2xx."""

    def __init__(self, node, to, rows, prefix="m", api=None):
        super().__init__(daemon=True)
        self.node, self.to, self.rows, self.prefix = node, to, rows, prefix
        self.accepted, self.error = [], None
        self.api = api

    def run(self):
        api = self.api or self.node.new_api()
        try:
            for row in self.rows:
                request = {"to": self.to, "message": row["body"], "priority": row["priority"], "meta": {"n": row["n"], "secret": "meta-canary-value"},
                           "client_message_id": f"{self.prefix}-{row['n']}"}

                def accepted():
                    try:
                        answer = api.post("/v1/send", request)
                    except (OSError, http.client.HTTPException):
                        api.close()
                        return False
                    if answer.status not in (200, 202):
                        raise AssertionError(f"{request['client_message_id']}: {answer}")
                    return True

                wait_for(accepted, 60, "an accept")
                self.accepted.append(request["client_message_id"])
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def finish(self, seconds=120):
        self.join(seconds * SLOW)
        if self.error:
            raise self.error
        assert not self.is_alive()


def check_all_arrived(recipient, rows, prefix="m", sender=None, seconds=120):
    items = recipient.wait_inbox(len(rows), seconds)
    if sender:
        items = [item for item in items if item["sender_pubkey"] == sender]
    by_id = collections.Counter(item["client_message_id"] for item in items)
    assert all(count == 1 for count in by_id.values()), "something arrived twice"
    assert set(by_id) == {f"{prefix}-{row['n']}" for row in rows}
    expected = {f"{prefix}-{row['n']}": row for row in rows}
    for item in items:
        row = expected[item["client_message_id"]]
        assert item["body"] == row["body"], item["client_message_id"]
        assert item["priority"] == row["priority"] and item["meta"]["n"] == row["n"]
        assert item["verified"] is True
    for priority in ("now", "next", "low"):
        got = [item["client_message_id"] for item in items if item["priority"] == priority]
        assert got == [f"{prefix}-{row['n']}" for row in rows if row["priority"] == priority], f"order of {priority}"
        history = [item["history_id"] for item in items if item["priority"] == priority]
        assert history == sorted(history)
    return items


def memory_of(process):
    """Every readable private page of a process."""
    found = []
    with open(f"/proc/{process.pid}/maps") as maps, open(f"/proc/{process.pid}/mem", "rb", 0) as memory:
        for line in maps:
            fields = line.split()
            if "r" not in fields[1] or (len(fields) > 5 and fields[5] in ("[vvar]", "[vsyscall]", "[vdso]")):
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            if end - start > 1 << 30:
                continue  # a sanitizer's shadow, reserved and empty
            try:
                memory.seek(start)
                found.append(memory.read(end - start))
            except (OSError, ValueError, OverflowError):
                pass
    return found


def test_all_real_bodies_arrive_once_in_order_and_the_broker_has_seen_none(pair):
    broker, alice, bob = pair
    rows = messages(COUNT)
    sender = Sender(alice, "bob", rows)
    sender.start()
    sender.finish()
    check_all_arrived(bob, rows)
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), what="everything done")

    # what the broker has: files and memory
    root_key = alice.mesh()["rootKey"]
    import base64
    root_bytes = base64.urlsafe_b64decode(root_key + "=" * (-len(root_key) % 4))
    needles = [row["body"].encode()[:200] for row in rows if len(row["body"]) >= 24][:: max(1, len(rows) // 400)]
    needles += [b"meta-canary-value", root_key.encode(), root_bytes, root_bytes.hex().encode()]
    haystacks = [path.read_bytes() for path in broker.home.iterdir() if path.is_file()]
    haystacks += memory_of(broker.process)
    assert sum(map(len, haystacks)) > 1_000_000
    # the search itself can find: the mesh's id is in both
    assert any(alice.mesh()["meshId"].encode() in hay for hay in haystacks[-50:]) or any(alice.mesh()["meshId"].encode() in hay for hay in haystacks)
    for needle in needles:
        for hay in haystacks:
            assert needle not in hay, f"the broker holds {needle[:40]!r}"


def test_recipient_offline(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.up()
    alice.wait_connected()
    rows = messages(400)
    sender = Sender(alice, "bob", rows)
    sender.start()
    sender.finish()
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), 60, "the broker to have everything")
    bob.up()
    check_all_arrived(bob, rows)


def test_sender_offline_when_it_accepts(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.up()
    bob.up()
    alice.wait_connected()
    wait_for(lambda: any(peer["name"] == "bob" for peer in alice.api.get("/v1/peers").json["peers"]), what="bob to be known")
    broker.stop()
    alice.wait_connected(False)
    rows = messages(400)
    sender = Sender(alice, "bob", rows)
    sender.start()
    sender.finish()
    assert alice.outbox_counts()[0] == len(rows)
    alice.down()
    alice.up()
    broker.start()
    check_all_arrived(bob, rows)


@pytest.mark.slow
def test_broker_down_for_thirty_seconds_in_the_middle(pair):
    broker, alice, bob = pair
    rows = messages(1200)
    half = Sender(alice, "bob", rows[:600])
    half.start()
    wait_for(lambda: len(half.accepted) > 300, 60)
    broker.kill()
    half.finish()
    rest = Sender(alice, "bob", rows[600:])
    rest.start()
    # thirty seconds by the daemons' own clock of failed attempts: they must not give up
    threading.Event().wait(30)
    rest.finish()
    broker.start()
    check_all_arrived(bob, rows)


def test_broker_restarted_while_messages_flow(pair):
    broker, alice, bob = pair
    rows = messages(COUNT or 1500)
    sender = Sender(alice, "bob", rows)
    sender.start()
    for part in (1, 2, 3, 4):
        wait_for(lambda: len(sender.accepted) > part * len(rows) // 6 or not sender.is_alive(), 60)
        if part % 2:
            broker.stop()
        else:
            broker.kill()
        broker.start()
    sender.finish()
    check_all_arrived(bob, rows)


@pytest.mark.parametrize("victim", ["sender", "recipient"])
def test_a_daemon_killed_in_the_middle(pair, victim):
    broker, alice, bob = pair
    rows = messages(COUNT or 1500)
    sender = Sender(alice, "bob", rows)
    sender.start()
    node = alice if victim == "sender" else bob
    for part in (1, 2, 3, 4):
        wait_for(lambda: len(sender.accepted) > part * len(rows) // 6 or not sender.is_alive(), 60)
        node.kill()
        node.up(wait=False)
    sender.finish()
    node.wait_ready()
    check_all_arrived(bob, rows)
    # and the sender knows the truth
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), 60, "the outbox to be empty")


def test_everything_killed_at_random_moments(pair):
    broker, alice, bob = pair
    rows = messages(COUNT or 1000)
    sender = Sender(alice, "bob", rows)
    sender.start()
    chance = random.Random(7)
    for _ in range(9):
        target = chance.choice(["broker", "alice", "bob"])
        progress = len(sender.accepted)
        wait_for(lambda: len(sender.accepted) > progress + chance.randrange(20, 80) or not sender.is_alive(), 60)
        if target == "broker":
            broker.kill()
            broker.start()
        else:
            node = {"alice": alice, "bob": bob}[target]
            node.kill()
            node.up(wait=False)
    sender.finish()
    alice.wait_ready()
    bob.wait_ready()
    check_all_arrived(bob, rows)


def test_both_directions_and_two_meshes_at_once_one_broken_mesh_disturbs_nobody(world):
    first, second = Broker(world, "broker1"), Broker(world, "broker2")
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(first, alice, "one")
    join(alice, bob, mesh="one")
    create_mesh(second, bob, "two", name="bob-two")
    join(bob, alice, "alice-two", mesh="two")
    alice.up()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    second.kill()
    rows = messages(150)
    assert alice.send("bob", "hello there", mesh="one").status == 202
    ours = Sender(alice, "bob", rows)
    theirs = Sender(bob, "alice", rows, "r")
    ours.start()
    theirs.start()
    ours.finish()
    theirs.finish()
    answer = alice.send("bob-two", "for later", mesh="two", client_message_id="later")
    assert answer.status in (202, 404), answer  # known only if the list was merged before the kill
    bob_items = bob.wait_inbox(len(rows) + 1)
    assert len([i for i in bob_items if i["mesh"] == "one"]) == len(rows) + 1
    alice.wait_inbox(len(rows))
    states = {mesh["slug"]: mesh["connected"] for mesh in alice.health()["meshes"]}
    assert states == {"one": True, "two": False}


def test_mesh_is_needed_when_two_are_joined_and_both_know_the_name(world):
    first = Broker(world)
    alice = Node(world, "alice")
    create_mesh(first, alice, "one")
    create_mesh(first, alice, "two")
    alice.up()
    alice.wait_connected()
    for slug in ("one", "two"):  # a name is known once the member list has come
        wait_for(lambda slug=slug: alice.send("alice", "hello", mesh=slug).status != 404, 15, "the members")
    answer = alice.send("alice", "hello")
    assert answer.status == 400 and answer.json["error"] == "mesh_required" and sorted(answer.json["meshes"]) == ["one", "two"]


def test_a_daemon_started_with_the_broker_down_connects_when_it_comes(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    broker.stop()
    alice.up()
    assert alice.health()["connected"] is False
    broker.start()
    alice.wait_connected(True, 40)


def test_a_joined_mesh_is_taken_up_and_a_left_one_dropped_by_a_running_daemon(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    bob.config.mkdir(mode=0o700)
    bob.up()
    assert bob.health()["meshes"] == []
    join(alice, bob)
    wait_for(lambda: bob.health()["meshes"] and bob.health()["connected"], 15, "the joined mesh")
    bob.cli("mesh", "leave", "--mesh", "acme", "--yes")
    wait_for(lambda: bob.health()["meshes"] == [], 15, "the left mesh to go")


def test_fifty_retries_in_every_state_make_one_message(pair):
    broker, alice, bob = pair
    request = {"to": "bob", "message": "once only", "client_message_id": "retry"}
    statuses = set()
    for _ in range(50):
        statuses.add(alice.api.post("/v1/send", request).status)
    bob.wait_inbox(1)
    wait_for(lambda: alice.api.post("/v1/send", request).status == 200, what="done")
    for _ in range(50):
        assert alice.api.post("/v1/send", request).status == 200
    other = alice.api.post("/v1/send", {**request, "message": "another"})
    assert other.status == 409 and len(other.json["daemon_fingerprint_prefix"]) == 16
    # while the broker is away
    broker.kill()
    alice.wait_connected(False)
    pending = {**request, "client_message_id": "retry-pending"}
    for _ in range(50):
        assert alice.api.post("/v1/send", pending).status == 202
    assert alice.api.post("/v1/send", {**pending, "message": "another"}).status == 409
    alice.kill()
    alice.up()
    for _ in range(50):
        assert alice.api.post("/v1/send", pending).status == 202
    broker.start()
    items = bob.wait_inbox(2)
    assert sorted(item["client_message_id"] for item in items) == ["retry", "retry-pending"]
    assert statuses <= {200, 202}


def test_a_dead_message_requeued_reaches_its_recipient_encrypted_under_a_new_id(world):
    # a broker whose limit is lower than the message makes it dead, then the limit is raised
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.settings("[outbox]\nmax_age_hours = 1\n")
    alice.up()
    bob.up()
    alice.wait_connected()
    wait_for(lambda: any(peer["name"] == "bob" for peer in alice.api.get("/v1/peers").json["peers"]))
    broker.kill()
    alice.wait_connected(False)
    body = "the body that died and came back, long enough to search for"
    assert alice.send("bob", body, client_message_id="mortal").status == 202
    alice.down()
    connection = sqlite3.connect(alice.path("outbox.db"))
    connection.execute("UPDATE outbox SET enqueued_at = enqueued_at - 500 * 24 * 3600 * 1000")
    connection.commit()
    connection.close()
    alice.up()
    broker.start()
    wait_for(lambda: alice.api.get("/v1/outbox/mortal").json["status"] == "dead", 30, "dead")
    assert "max_age_exceeded" in alice.api.get("/v1/outbox/mortal").json["last_error"]
    assert bob.inbox() == []

    answer = alice.api.post("/v1/outbox/requeue", {"id": "mortal"})
    assert answer.status == 200, answer
    items = bob.wait_inbox(1)
    assert items[0]["body"] == body and items[0]["client_message_id"] != "mortal" and items[0]["verified"] is True
    row = alice.api.get("/v1/outbox/mortal").json
    assert row["status"] == "aborted" and row["aborted_by"] == "operator" and row["superseded_by"]
    assert row["superseded_chain"][0]["client_message_id"] == items[0]["client_message_id"]
    for text in (body, "another"):
        again = alice.send("bob", text, client_message_id="mortal")
        assert again.status == 409 and again.json["conflict"].startswith("outbox_aborted_fingerprint_")
    for path in broker.home.iterdir():
        if path.is_file():
            assert body.encode() not in path.read_bytes()
    # final rows stay final, a consumed id is refused, an unknown row is 404
    assert alice.api.post("/v1/outbox/requeue", {"id": "mortal"}).json["error"] == "outbox_final"
    assert alice.api.post("/v1/outbox/drop", {"id": "no-such-row"}).status == 404


def test_wait_holds_the_answer_until_the_broker_has_it(pair):
    broker, alice, bob = pair
    answer = alice.api.post("/v1/send?wait=20", {"to": "bob", "message": "waited for"})
    assert answer.status == 200 and answer.json["status"] == "done" and answer.json["broker_message_id"]
    broker.kill()
    alice.wait_connected(False)
    answer = alice.api.post("/v1/send?wait=1", {"to": "bob", "message": "not yet"})
    assert answer.status == 202
    assert alice.api.post("/v1/send?wait=61", {"to": "bob", "message": "x"}).status == 400


def test_an_outbox_from_a_killed_daemon_opens_and_its_columns_are_as_documented(pair):
    broker, alice, bob = pair
    alice.send("bob", "columns", meta={"k": [1, 2.5, "x"]})
    bob.wait_inbox(1)
    alice.kill()
    connection = sqlite3.connect(alice.path("outbox.db"))
    columns = {row[1] for row in connection.execute("PRAGMA table_info(outbox)")}
    assert {"id", "client_message_id", "request_fingerprint", "broker_fingerprint", "mesh", "destination_kind", "destination_ref", "priority",
            "reply_to_id", "meta", "payload", "enqueued_at", "attempts", "next_attempt_at", "status", "last_error", "delivered_at",
            "broker_message_id", "history_id", "aborted_at", "aborted_by", "superseded_by", "mentions"} <= columns
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT meta FROM outbox").fetchone()[0] == '{"k":[1,2.5,"x"]}'
    connection.close()
    for name in ("outbox.db", "inbox.db", "local-token", "daemon.pid"):
        assert alice.path(name).stat().st_mode & 0o077 == 0, name
    alice.up()


def test_receipts_tell_the_sender_that_it_was_stored_and_seen(pair):
    broker, alice, bob = pair
    stream = alice.events("?types=receipt")
    answer = alice.api.post("/v1/send?wait=20", {"to": "bob", "message": "did you get it"})
    identifier = answer.json["client_message_id"]
    event = stream.wait(lambda e: e["data"]["client_message_id"] == identifier, what="a stored receipt")
    assert event["data"]["state"] == "stored" and event["data"]["verified"] is True and event["data"]["by"] == bob.pubkey
    item = bob.wait_inbox(1)[0]
    assert item["seen_at"] is None
    assert bob.api.post("/v1/inbox/seen", {"ids": [item["id"]]}).status == 200
    event = stream.wait(lambda e: e["data"]["state"] == "seen", what="a seen receipt")
    assert event["data"]["verified"] is True
    receipts = alice.api.get(f"/v1/outbox/{identifier}").json["receipts"]
    assert len(receipts) == 1 and receipts[0]["by"] == bob.pubkey and receipts[0]["stored_at"] and receipts[0]["seen_at"]
    assert bob.inbox()[0]["seen_at"] is not None
    assert bob.inbox(unread="true") == []


def test_bodies_of_every_kind_arrive_as_they_were(pair):
    _broker, alice, bob = pair
    bodies = ["a\0b\0\0c", "\0", " ", "\n", "\u2028\u2029\ufeff", "\U0001f680" * 1000, "\ufffe\uffff", "x" * 65536, '{"json":"in json"}', "\x7f\x01\x1f", "e\u0301 \u00e9"]
    path = SHARED / "vectors" / "naughty-strings.json"
    if path.exists():
        bodies += [text for text in json.loads(path.read_text(encoding="utf-8")) if text]
    for number, body in enumerate(bodies):
        answer = alice.send("bob", body, client_message_id=f"kind-{number}", meta={"again": body[:1000]} if "\ud800" not in body else {})
        assert answer.status == 202, (body[:50], answer)
    items = bob.wait_inbox(len(bodies))
    assert [item["body"] for item in items] == bodies
    assert [item["meta"]["again"] for item in items] == [body[:1000] for body in bodies]
