"""Wall clocks that step by a day, forward and back, while running and between runs (90-quality): no message is lost, none comes twice, none is held for a day or given up too early,
nothing storms. A process's clock is moved by a library that is loaded before libc; monotonic clocks go on."""

import mmap
import os
import pathlib
import struct
import subprocess
import time

import pytest

from front import Front
from harness import Broker, Node, create_mesh, join, wait_for

DAY = 86400


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("clock") / "wall_clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(path), str(pathlib.Path(__file__).with_name("wall_clock.c"))], check=True)
    return path


class Clock:
    """One process's wall clock."""

    def __init__(self, world, library, name):
        path = world.directory / f"{name}.clock"
        path.write_bytes(struct.pack("<q", 0))
        with open(path, "r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "CLAUDEMESH_TEST_CLOCK": str(path)}
        if "ASAN_OPTIONS" in os.environ:
            self.environment["ASAN_OPTIONS"] = os.environ["ASAN_OPTIONS"] + ":verify_asan_link_order=0"

    def step(self, seconds):
        self.mapped[:] = struct.pack("<q", seconds)


class Town:
    def __init__(self, world, library, environment=None):
        self.clocks = {name: Clock(world, library, name) for name in ("broker", "alice", "bob")}
        self.broker = Broker(world, environment={**(environment or {}), **self.clocks["broker"].environment})
        self.alice = Node(world, "alice", self.clocks["alice"].environment)
        self.bob = Node(world, "bob", self.clocks["bob"].environment)
        create_mesh(self.broker, self.alice)
        join(self.alice, self.bob)
        self.sent = {"alice": [], "bob": []}

    def up(self):
        for node in (self.alice, self.bob):
            node.up()
        for node in (self.alice, self.bob):
            node.wait_connected()

    def exchange(self, count=5):
        for node, other in ((self.alice, self.bob), (self.bob, self.alice)):
            for _ in range(count):
                key = f"{node.name}-{len(self.sent[node.name]):04d}"
                answer = node.send(other.pubkey, key, client_message_id=key)
                assert answer.status == 202, answer
                self.sent[node.name].append(key)

    def check(self, seconds=40):
        for node, other in ((self.alice, self.bob), (self.bob, self.alice)):
            items = other.wait_inbox(len(self.sent[node.name]), seconds)
            assert [item["client_message_id"] for item in items] == self.sent[node.name]
            wait_for(lambda: node.outbox_counts() == (0, 0, 0), 40, f"{node.name}'s outbox to be empty")
            health = node.health()
            assert health["ok"] is True and health["quarantined"] == 0, health

    def row_ids(self):
        rows = self.alice.api.get("/v1/outbox?limit=1000").json["items"]
        return [row["id"] for row in reversed(rows)]


@pytest.mark.parametrize("whose", ["alice", "bob", "broker"])
def test_a_clock_that_steps_by_a_day_while_running_costs_nothing(world, library, whose):
    town = Town(world, library)
    town.up()
    states = {node.name: node.events("?types=broker_status") for node in (town.alice, town.bob)}
    town.exchange()
    for step in (DAY, 0, -DAY, DAY, 0):
        town.clocks[whose].step(step)
        town.exchange()
        town.check()
    assert not [event for stream in states.values() for event in stream.items], "a link was lost to a clock"
    ids = town.row_ids()
    assert ids == sorted(ids) and len(set(ids)) == len(ids), "ids do not ascend"


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_clock_that_is_a_day_off_at_the_start_is_corrected_and_said(world, library, step):
    town = Town(world, library)
    town.up()
    town.exchange()
    town.check()
    town.alice.down()
    town.clocks["alice"].step(step)
    town.alice.up()
    town.alice.wait_connected()
    skew = town.alice.health()["meshes"][0]["clock_skew_ms"]
    assert abs(skew + step * 1000) < 60000, skew
    town.exchange()
    town.check()
    town.clocks["alice"].step(0)  # mended while running, then the link is lost
    town.exchange()
    town.broker.stop()
    town.broker.start()
    town.alice.wait_connected()
    town.bob.wait_connected()
    town.exchange()
    town.check()
    assert abs(town.alice.health()["meshes"][0]["clock_skew_ms"]) < 60000


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_broker_that_comes_back_with_a_clock_a_day_off_serves_all_the_same(world, library, step):
    town = Town(world, library)
    town.up()
    town.exchange()
    town.check()
    town.broker.stop()
    town.exchange()
    town.clocks["broker"].step(step)
    town.broker.start()
    town.alice.wait_connected()
    town.bob.wait_connected()
    town.exchange()
    town.check()
    town.clocks["broker"].step(0)
    town.exchange()  # both keep the time that the broker had when they said hello
    town.check()
    town.broker.stop()
    town.exchange()
    town.broker.start()
    town.alice.wait_connected()
    town.bob.wait_connected()
    town.exchange()
    town.check()


def test_a_clock_three_days_off_is_named_and_asked_about_slowly(world, library):
    town = Town(world, library)
    front = Front(world)
    town.broker.stop()
    town.broker.more_environment["CLAUDEMESH_BROKER_BROKER_PUBLIC_URLS"] = f"{town.broker.url},{front.url}"
    town.broker.start()
    front.target = town.broker.port
    path = town.alice.config / "config.json"
    path.write_text(path.read_text().replace(town.broker.url, front.url))
    town.clocks["alice"].step(3 * DAY)
    town.alice.up()
    town.bob.up()
    answer = town.alice.send(town.bob.pubkey, "later", client_message_id="alice-0000")
    assert answer.status == 202
    town.sent["alice"].append("alice-0000")
    wait_for(lambda: "timestamp_skew" in town.alice.health()["meshes"][0]["reason"], 20, "the reason")
    assert "clock_skew_not_corrected" in town.alice.log.read_text()
    began = time.monotonic()
    while time.monotonic() - began < 3:
        assert town.alice.health()["connected"] is False
        time.sleep(0.2)
    assert len(front.attempts) <= 8, "a storm of hellos"
    town.clocks["alice"].step(0)
    town.alice.wait_connected()
    town.check()


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_rows_that_wait_are_not_held_for_a_day(world, library, step):
    """A row refused in passing, and the others of its lane, go out after the backoff, whatever the wall clock does."""
    town = Town(world, library, {"CLAUDEMESH_BROKER_BROKER_MAX_WAITING_PER_RECIPIENT": "1"})
    town.alice.settings("[drain]\nbackoff_max_ms = 1000\n")
    town.alice.up()
    town.alice.wait_connected()
    for number in range(4):
        key = f"alice-{number:04d}"
        assert town.alice.send(town.bob.pubkey, key, client_message_id=key).status == 202
        town.sent["alice"].append(key)

    def refused():
        rows = town.alice.api.get("/v1/outbox?status=pending").json["items"]
        return [row for row in rows if "recipient_full" in (row["last_error"] or "")]

    wait_for(refused, 20, "a row to be refused in passing")
    town.clocks["alice"].step(step)
    town.bob.up()
    town.check(20)


def test_a_row_is_not_given_up_because_the_clock_stepped_forward(world, library):
    """Maximum age of an hour; the clock is a day ahead for a while, with the link down and when it opens again."""
    town = Town(world, library, {"CLAUDEMESH_BROKER_BROKER_DEDUPE_MODE": "permanent"})
    town.alice.settings("[outbox]\nmax_age_hours = 1\n")
    town.up()
    town.exchange()
    town.check()
    town.broker.stop()
    town.alice.wait_connected(False)
    town.exchange()
    town.clocks["alice"].step(DAY)
    time.sleep(1.5)  # the age is looked at once a second at most
    town.broker.start()
    town.alice.wait_connected()
    town.check()
    town.broker.stop()
    town.alice.wait_connected(False)
    town.clocks["alice"].step(0)
    town.exchange()
    town.broker.start()
    town.alice.wait_connected()
    town.check()
