"""Disks that are truly full (30-delivery, A full disk): under the daemon that sends, under the one that receives, under the broker, under the command
line and the log. Sends get 507 and nothing else is lost: what was answered 2xx arrives, once and in order, and everything goes on by itself when there is room."""

import contextlib
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from disk import disks, needs_mount  # noqa: F401 - disks is a fixture
from harness import BINARY, Broker, Node, create_mesh, deadline, join, wait_for

LONG = os.environ.get("CLAUDEMESH_LONG") == "1"
GROWTH = 160 if LONG else 0  # MiB: what is accepted in so many rounds stays


class StoredBroker(Broker):
    """A broker whose store is on a disk of its own."""

    def __init__(self, world, disk, **more):
        self.disk = disk
        super().__init__(world, **more)

    @property
    def store(self):
        return self.disk.path / "broker.db"

    @property
    def admin_token_file(self):
        return self.disk.path / "admin-token"


def lease(seconds):
    return {"CLAUDEMESH_BROKER_BROKER_LEASE_S": str(seconds)}


def node_on(world, name, disk):
    node = Node(world, name)
    node.config = disk.path / name
    return node


def metric(text, name):
    """The sum of a metric's samples."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.M)
    return sum(float(value) for value in found)


def metrics(node):
    return node.api.get("/v1/metrics").body.decode()


class Ledger:
    """What was sent to one recipient, in order, and what each send was answered."""

    def __init__(self, sender, to, prefix):
        self.sender, self.to, self.prefix = sender, to, prefix
        self.accepted, self.refused, self.count = [], [], 0

    def send(self, size=700):
        self.count += 1
        key = f"{self.prefix}-{self.count:05d}"
        answer = self.sender.send(self.to, f"{key} " + "m" * size, client_message_id=key)
        if answer.status == 507:
            assert answer.json["error"] == "insufficient_storage" and answer.json["detail"], answer
            self.refused.append(key)
        else:
            assert answer.status == 202, answer
            self.accepted.append(key)
        return answer.status

    def send_until_refused(self, refusals=3, maximum=6000, size=700):
        """True once that many sends in a row were refused."""
        row = 0
        for _ in range(maximum):
            row = row + 1 if self.send(size) == 507 else 0
            if row >= refusals:
                return True
        return False

    def check(self, recipient, seconds=60):
        """Everything accepted arrived, once, whole and in order; nothing that was refused did."""
        items = recipient.wait_inbox(len(self.accepted), seconds)
        mine = [item for item in items if item["client_message_id"].startswith(self.prefix)]
        assert [item["client_message_id"] for item in mine] == self.accepted
        for item in mine:
            assert item["body"].startswith(item["client_message_id"] + " m") and item["body"].rstrip("m").endswith(" ")


def wait_well(node, seconds=60):
    wait_for(lambda: node.health()["degraded"] is False and node.health()["ok"] is True, seconds, f"{node.name} to be well again")


def wait_settled(node, seconds=60):
    wait_for(lambda: node.outbox_counts()[:2] == (0, 0), seconds, f"{node.name}'s outbox to be empty")


def start_or_say(node, disk):
    """Starts a daemon on a full disk: it serves, or it ends and says what is wrong. True when it serves."""
    before = node.log.stat().st_size if node.log.exists() else 0
    node.up(wait=False)

    def decided():
        if node.process.poll() is not None:
            return "ended"
        try:
            return "serves" if node.api.get("/v1/health").status == 200 else None
        except (OSError, http.client.HTTPException):
            node.api.close()
            return None

    if wait_for(decided, 30, "a start on a full disk to end one way or the other") == "serves":
        return True
    said = node.log.read_bytes()[before:].decode()
    assert node.process.returncode == 1, (node.process.returncode, said)
    assert "daemon_start_failed" in said and "disk is full" in said and str(disk.path) in said, said
    return False


# ---- under the sender ---------------------------------------------------------------------------------------------------------


def fill_and_free_under_sender(world, disk, leaves, size=700):
    broker = Broker(world)
    alice, bob = node_on(world, "alice", disk), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    events = alice.events("?types=outbox_pressure,broker_status")
    ledger = Ledger(alice, bob.pubkey, "full")
    assert ledger.send(size) == 202
    for leave in leaves:
        disk.fill(leave)

        def refused_and_told():  # what was refused leaves a little room: the daemon may be well again before it is asked
            assert ledger.send_until_refused(size=size), "the disk never became full"
            health = alice.health()
            return health["degraded"] and health

        health = wait_for(refused_and_told, 30, "a full disk that health tells of")
        assert health["ok"] is False and health["connected"] is True, health
        # an id that has a row is answered from the table, full or not
        again = alice.send(bob.pubkey, f"{ledger.accepted[-1]} " + "m" * size, client_message_id=ledger.accepted[-1])
        assert again.status in (200, 202) and again.json["duplicate"] is True, again
        disk.free()
        wait_well(alice)
        assert ledger.send(size) == 202
    refused = ledger.refused[0]
    answer = alice.send(bob.pubkey, f"{refused} " + "m" * size, client_message_id=refused)
    assert answer.status == 202 and answer.json["duplicate"] is False, "a refused send left its id taken"
    ledger.accepted.append(refused)
    ledger.check(bob)
    wait_settled(alice)
    told = [event["data"]["degraded"] for event in events.items if event["event"] == "outbox_pressure"]
    assert True in told and told[-1] is False, told
    assert not [event for event in events.items if event["event"] == "broker_status"], "the link did not stay up"
    assert alice.process.poll() is None
    return alice


@needs_mount
def test_sends_on_a_full_disk_get_507_and_all_goes_on_when_there_is_room(disks, world):  # noqa: F811
    fill_and_free_under_sender(world, disks("tmpfs", 12 + GROWTH), range(0, 33) if LONG else (0, 1, 2, 9, 33))


@needs_mount
def test_sends_on_a_full_ext4_get_507_and_all_goes_on_when_there_is_room(disks, world):  # noqa: F811
    if os.environ.get("CLAUDEMESH_INSIDE_NAMESPACE") or not os.path.exists("/dev/loop-control"):
        pytest.skip("a loop device needs root")
    fill_and_free_under_sender(world, disks("ext4", 24 + GROWTH), range(0, 33) if LONG else (0, 5))


@needs_mount
def test_accepts_race_for_the_last_pages(disks, world):  # noqa: F811
    """Many callers at once: the batch that does not fit is undone, and each of its sends is answered for itself."""
    disk = disks("tmpfs", 12 + GROWTH)
    broker = Broker(world)
    alice, bob = node_on(world, "alice", disk), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    disk.fill(60)
    answers = {}

    def caller(number):
        api = alice.new_api()
        row = 0
        for index in range(600):
            key = f"race-{number}-{index:04d}"
            answer = api.post("/v1/send", {"to": bob.pubkey, "message": key + " " + "x" * (50 + 977 * index % 9000), "client_message_id": key})
            answers[key] = answer.status
            row = row + 1 if answer.status == 507 else 0
            if row >= 3:
                return

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert set(answers.values()) == {202, 507}, set(answers.values())
    disk.free()
    wait_well(alice)
    accepted = sorted(key for key, status in answers.items() if status == 202)
    items = bob.wait_inbox(len(accepted))
    assert sorted(item["client_message_id"] for item in items) == accepted
    for number in range(8):
        mine = [item["client_message_id"] for item in items if item["client_message_id"].startswith(f"race-{number}-")]
        assert mine == sorted(mine), "the order of one caller's sends changed"
    wait_settled(alice)


@needs_mount
def test_a_daemon_killed_on_a_full_disk_starts_there_or_says_why_not(disks, world):  # noqa: F811
    disk = disks("tmpfs", 12 + GROWTH)
    broker = Broker(world)
    alice, bob = node_on(world, "alice", disk), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    alice.up()
    alice.wait_connected()
    ledger = Ledger(alice, bob.pubkey, "kill")
    for index, leave in enumerate(range(0, 33) if LONG else (0, 1, 7)):
        if index:
            disk.free()
            if alice.process.poll() is not None:
                alice.up()
            wait_well(alice)
        disk.fill(leave)
        assert ledger.send_until_refused()
        alice.kill()
        disk.fill(0)
        if start_or_say(alice, disk):
            assert ledger.send_until_refused()
            alice.api.close()
            alice.process.send_signal(signal.SIGTERM)  # an orderly stop on a full disk ends, too
            assert alice.process.wait(30) == 0
            disk.fill(0)
            start_or_say(alice, disk)
    disk.free()
    if alice.process.poll() is not None:
        alice.up()
    wait_well(alice)
    assert ledger.send() == 202
    ledger.check(bob)
    wait_settled(alice)


@needs_mount
def test_a_first_start_on_a_full_disk_says_so_and_leaves_nothing_half_made(disks, world):  # noqa: F811
    disk = disks("tmpfs", 8)
    broker = Broker(world)
    alice, bob = node_on(world, "alice", disk), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    served = False
    for leave in range(0, 120) if LONG else (0, 1, 2, 4, 12, 30, 60):
        disk.fill(leave)
        served = start_or_say(alice, disk)
        if served:
            alice.kill()
        disk.free()
    alice.up()
    ledger = Ledger(alice, bob.pubkey, "first")
    assert ledger.send() == 202
    ledger.check(bob)


# ---- under the recipient -------------------------------------------------------------------------------------------------------


def send_until_degraded(ledger, recipient):
    def full():
        for _ in range(20):
            ledger.send(3000)
        return recipient.health()["degraded"]

    wait_for(full, 60, "the recipient's disk to be full")


@needs_mount
def test_a_full_disk_under_the_recipient_loses_nothing(disks, world):  # noqa: F811
    disk = disks("tmpfs", 12 + GROWTH)
    broker = Broker(world, environment=lease(1))
    alice, bob = Node(world, "alice"), node_on(world, "bob", disk)
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    ledger = Ledger(alice, bob.pubkey, "to")
    events = bob.events("?types=message,broker_status")
    for leave in range(0, 33) if LONG else (0, 1, 9):
        disk.fill(leave)
        send_until_degraded(ledger, bob)
        assert bob.health()["connected"] is True
        assert bob.send(alice.pubkey, "x" * 9000).status in (202, 507)
        disk.free()
        wait_well(bob)
    ledger.check(bob)
    wait_settled(alice)
    published = [event["data"]["client_message_id"] for event in events.wait_count("message", len(ledger.accepted))]
    assert published == ledger.accepted, "an event too many, too few, or out of order"
    assert not [event for event in events.items if event["event"] == "broker_status"], "the link did not stay up"


@needs_mount
def test_a_recipient_without_room_recovers_although_nobody_sends(disks, world):  # noqa: F811
    """The broker goes away while the inbox is full: health says well again when there is room, with nothing to store."""
    disk = disks("tmpfs", 8)
    broker = Broker(world, environment=lease(1))
    alice, bob = Node(world, "alice"), node_on(world, "bob", disk)
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    alice.up()
    bob.wait_connected()
    alice.wait_connected()
    disk.fill(0)
    ledger = Ledger(alice, bob.pubkey, "alone")
    send_until_degraded(ledger, bob)
    broker.stop()
    bob.wait_connected(False)
    assert bob.health()["degraded"] is True
    disk.free()
    wait_well(bob, 20)
    broker.start()
    ledger.check(bob)


@needs_mount
def test_a_recipient_killed_on_a_full_disk_gets_everything_once(disks, world):  # noqa: F811
    disk = disks("tmpfs", 8)
    broker = Broker(world, environment=lease(1))
    alice, bob = Node(world, "alice"), node_on(world, "bob", disk)
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    disk.fill(2)
    ledger = Ledger(alice, bob.pubkey, "killed")
    send_until_degraded(ledger, bob)
    bob.kill()
    disk.fill(0)
    start_or_say(bob, disk)
    disk.free()
    if bob.process.poll() is not None:
        bob.up()
    ledger.check(bob)
    wait_well(bob)


def test_only_the_outboxs_limit_does_not_stop_receiving(world):
    """The outbox at its limit refuses sends; the inbox takes and acknowledges as ever."""
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.settings("[outbox]\nmax_rows = 1\n")
    bob.up()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    broker.stop()
    bob.wait_connected(False)
    assert bob.send(alice.pubkey, "one").status == 202
    assert bob.send(alice.pubkey, "two").status == 507
    assert bob.health()["degraded"] is True
    ledger = Ledger(alice, bob.pubkey, "in")
    for _ in range(50):
        ledger.send()
    broker.start()
    ledger.check(bob)
    wait_settled(alice)
    wait_settled(bob)
    wait_well(bob)
    assert bob.send(alice.pubkey, "three").status == 202


# ---- the limits -----------------------------------------------------------------------------------------------------------------


def test_the_outbox_tells_at_80_refuses_at_95_and_drains(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.settings("[outbox]\nmax_rows = 100\n")
    broker.stop()
    alice.up()
    events = alice.events("?types=outbox_pressure")
    ledger = Ledger(alice, bob.pubkey, "limit")
    for _ in range(79):
        assert ledger.send() == 202
    assert metric(metrics(alice), 'cm_daemon_disk_pct{kind="outbox"}') == 79 and not events.items
    assert ledger.send() == 202
    assert events.wait(lambda event: event["data"]["pct"] == 80)["data"]["degraded"] is False
    assert metric(metrics(alice), 'cm_daemon_disk_pct{kind="outbox"}') == 80
    for _ in range(15):
        assert ledger.send() == 202
    events.wait(lambda event: event["data"]["pct"] == 95)
    assert ledger.send() == 507
    again = alice.send(bob.pubkey, f"{ledger.accepted[0]} " + "m" * 700, client_message_id=ledger.accepted[0])
    assert again.status == 202 and again.json["duplicate"] is True
    assert alice.health()["degraded"] is False, "refusing at 95 % is not yet degraded"
    broker.start()
    bob.up()
    events.wait(lambda event: event["data"]["pct"] < 80)
    ledger.check(bob)
    wait_settled(alice)
    assert ledger.send() == 202
    assert metric(metrics(alice), 'cm_daemon_disk_pct{kind="outbox"}') <= 1


def test_the_outboxs_bytes_are_a_limit_too(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.settings('[outbox]\nmax_bytes = "2MB"\n')
    broker.stop()
    alice.up()
    ledger = Ledger(alice, bob.pubkey, "bytes")

    def full():  # what waits in the log counts, and goes when it is quiet
        return ledger.send_until_refused(maximum=2000, size=4000) and metric(metrics(alice), 'cm_daemon_disk_pct{kind="outbox"}') >= 95 and len(ledger.accepted) > 300

    wait_for(full, 30, "the outbox to be full")
    assert len(ledger.accepted) < 600, len(ledger.accepted)
    broker.start()
    bob.up()
    ledger.check(bob)
    wait_settled(alice)
    # what is done does not count: the next send is taken, and its bytes' place in the file is used again
    wait_for(lambda: metric(metrics(alice), "cm_daemon_disk_pct{kind=\"outbox\"}") < 80, 20, "the limit to be left")
    for _ in range(200):
        wait_for(lambda: ledger.send(size=4000) == 202, 20, "room")
    ledger.check(bob)

    def payloads():
        database = sqlite3.connect(f"file:{alice.path('outbox.db')}?mode=ro", uri=True)
        try:
            return database.execute("SELECT sum(length(payload)) FROM outbox WHERE status = 'done'").fetchone()[0]
        finally:
            database.close()

    wait_for(lambda: payloads() < 1_000_000, 30, "payloads of done rows to go")


def test_the_outboxs_bytes_tell_at_80_and_95_and_when_they_fell(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.settings('[outbox]\nmax_bytes = "3MB"\n')
    broker.stop()
    alice.up()
    events = alice.events("?types=outbox_pressure")
    ledger = Ledger(alice, bob.pubkey, "bytes")

    def passed(pct):
        ledger.send(4000)
        return any(event["data"]["pct"] >= pct for event in events.items)

    wait_for(lambda: passed(80), 30, "80 %")
    wait_for(lambda: passed(95), 30, "95 %")
    assert b"the outbox is" in alice.cli("daemon", "status").stdout
    broker.start()
    bob.up()
    events.wait(lambda event: event["data"]["pct"] < 80, 60)
    ledger.check(bob)
    assert b"the outbox is" not in alice.cli("daemon", "status").stdout


def test_the_inboxs_limit_tells_gives_up_only_what_was_seen_and_keeps_receiving(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.settings('[inbox]\nmax_bytes = "1MB"\n')
    bob.up()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    events = bob.events("?types=system")
    ledger = Ledger(alice, bob.pubkey, "in")

    def told(name, pct=0):
        return any(event["data"].get("event") == name and event["data"].get("pct", 0) >= pct for event in events.items)

    def send_until(condition):
        def step():
            for _ in range(10):
                ledger.send(4000)
            bob.wait_inbox(len(ledger.accepted))
            return condition()
        wait_for(step, 60, "the inbox to fill")

    for pct in (80, 95, 100):
        send_until(lambda wanted=pct: told("inbox_pressure", wanted))
    send_until(lambda: bob.health()["reason"] == "inbox_limit")
    health = bob.health()
    assert health["ok"] is False and health["reasons"] == ["inbox_limit"] and health["inbox_pressure_pct"] == 100
    assert re.search(r'^cm_daemon_disk_pct\{kind="inbox"\} 100$', metrics(bob), re.M)
    assert b"only messages that nobody has seen" in bob.cli("daemon", "status").stdout
    for _ in range(20):  # a limit is no reason to lose what was sent
        ledger.send(4000)
    ledger.check(bob)
    oldest = [item["id"] for item in bob.inbox()[:len(ledger.accepted) // 2]]
    assert bob.api.post("/v1/inbox/seen", {"ids": oldest}).status == 200
    bob.settings('[inbox]\nmax_bytes = "1048577"\n')
    assert bob.cli("daemon", "reload").returncode == 0
    wait_for(lambda: told("inbox_pruned_early") and bob.health()["ok"], 70, "what was seen to go")
    left = [item["client_message_id"] for item in bob.inbox()]
    gone = [key for key in ledger.accepted if key not in left]
    assert gone == ledger.accepted[:len(gone)] and 0 < len(gone) <= len(oldest)
    assert bob.api.get("/v1/inbox/search?q=in").status == 200
    assert alice.send(bob.pubkey, "once more").status == 202
    bob.wait_inbox(len(left) + 1)


# ---- under the broker ------------------------------------------------------------------------------------------------------------


def broker_or_say(broker, disk):
    """Starts a broker on a full disk: it serves, or it ends and says what is wrong. True when it serves."""
    before = broker.log.stat().st_size
    with contextlib.suppress(AssertionError):
        broker.start()
        return True
    assert broker.process.poll() == 1
    said = broker.log.read_bytes()[before:].decode()
    assert "disk is full" in said and str(disk.path) in said, said
    return False


@needs_mount
def test_a_full_disk_under_the_broker_keeps_the_senders_rows_pending(disks, world):  # noqa: F811
    disk = disks("tmpfs", 12 + GROWTH)
    broker = StoredBroker(world, disk, environment=lease(1))
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.settings("[drain]\nbackoff_max_ms = 2000\n")
        node.up()
    alice.wait_connected()
    bob.wait_connected()
    events = alice.events("?types=broker_status")
    ledger = Ledger(alice, bob.pubkey, "store")
    for leave in range(0, 33) if LONG else (0, 1, 9):
        disk.fill(leave)

        def refused():
            for _ in range(20):
                ledger.send(3000)
            rows = alice.api.get("/v1/outbox?status=pending&limit=1000").json["items"]
            return any("insufficient_storage" in (row["last_error"] or "") for row in rows)

        wait_for(refused, 60, "the broker to refuse for want of room")
        health = broker.get("/health")
        assert health.status == 200
        assert alice.health()["connected"] is True and alice.outbox_counts()[2] == 0
        disk.free()
        wait_settled(alice)
    ledger.check(bob)
    assert not events.items, "the link did not stay up"
    # killed while full, started while full
    disk.fill(0)
    before = len(ledger.accepted)

    def refused_again():
        for _ in range(20):
            ledger.send(3000)
        return alice.outbox_counts()[0] > 40

    wait_for(refused_again, 60, "rows to wait")
    broker.kill()
    disk.fill(0)
    broker_or_say(broker, disk)
    disk.free()
    if broker.process.poll() is not None:
        broker.start()
    assert len(ledger.accepted) > before
    ledger.check(bob, 90)
    wait_settled(alice, 90)
    broker.stop()
    check = world.run(BINARY, "broker", "check", "--store", f"sqlite:{broker.store}")
    assert check.returncode == 0, check.stdout


@needs_mount
def test_a_daemon_that_connects_while_the_broker_is_full_gets_through_when_there_is_room(disks, world):  # noqa: F811
    disk = disks("tmpfs", 8)
    broker = StoredBroker(world, disk)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    broker.stop()
    disk.fill(0)
    if not broker_or_say(broker, disk):
        disk.fill(20)
        broker_or_say(broker, disk)
    disk.fill(0)
    alice.up()
    bob.up()
    ledger = Ledger(alice, bob.pubkey, "late")
    for _ in range(20):
        assert ledger.send() == 202
    disk.free()
    if broker.process.poll() is not None:
        broker.start()
    ledger.check(bob, 90)
    wait_settled(alice)


# ---- under the command line and the log -------------------------------------------------------------------------------------------


@needs_mount
def test_create_and_join_on_a_full_disk_fail_whole_and_can_be_repeated(disks, world):  # noqa: F811
    disk = disks("tmpfs", 4)
    broker = Broker(world)
    alice, bob = Node(world, "alice"), node_on(world, "bob", disk)
    create_mesh(broker, alice)
    create = ("mesh", "create", "Own", "--slug", "own", "--broker", broker.url, "--admin-token-file", broker.admin_token_file, "--name", "bob")
    link = alice.cli("mesh", "invite", "--max-uses", "1").stdout.decode().strip()
    failures = 0
    for command in (("join", link, "--yes", "--name", "bob"), create):
        for leave in [*range(0, 12), None]:
            disk.free()
            if leave is not None:
                disk.fill(leave)
            config = bob.config / "config.json"
            before = config.read_bytes() if config.exists() else None
            done = bob.cli(*command, check=None)
            if done.returncode == 0:
                break
            failures += 1
            said = done.stderr.decode()
            assert leave is not None and "No space left" in said, (leave, said)
            assert (config.read_bytes() if config.exists() else None) == before, "a half-written configuration"
            assert not list(bob.config.glob("**/*.tmp-*")) if bob.config.exists() else True
    assert failures >= 2
    disk.free()
    assert sorted(mesh["slug"] for mesh in json.loads((bob.config / "config.json").read_text())["meshes"]) == ["acme", "own"]
    bob.up()
    bob.wait_connected()
    alice.up()
    assert alice.send(bob.pubkey, "hello").status == 202
    bob.wait_inbox(1)


@needs_mount
def test_the_logs_disk_full_stops_nothing_and_leaves_whole_lines(disks, world):  # noqa: F811
    disk = disks("tmpfs", 2)
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    log = disk.path / "alice.log"
    alice.process = world.start([BINARY, "--config-dir", alice.config, "daemon", "up", "--foreground", "--no-tcp"], log)
    alice.wait_ready()
    alice.wait_connected()
    bob.up()
    with open(log, "ab") as file:  # so that the next line fits only in part
        size = file.tell()
        file.write(b'{"msg":"' + b"p" * (4096 - size % 4096 - 60) + b'"}\n')
    disk.fill(0)
    for _ in range(8):
        alice.process.send_signal(signal.SIGUSR1)  # a long line each
        assert alice.send(bob.pubkey, "while the log is full").status == 202
    assert log.stat().st_size % 4096 == 0, "the log's last page is not full"
    disk.free()
    alice.process.send_signal(signal.SIGUSR1)
    bob.wait_inbox(8)
    wait_for(lambda: log.read_bytes().endswith(b"}\n"), 20, "a whole line at the end")
    lines = log.read_bytes().split(b"\n")
    torn = []
    for line in lines[:-1]:
        try:
            json.loads(line)
        except ValueError:
            torn.append(line)
    assert len(torn) <= 1, torn
    assert json.loads(lines[-2])["msg"], "the line after the torn one is not whole"
