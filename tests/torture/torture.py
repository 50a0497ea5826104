#!/usr/bin/python3
"""Runs daemons and a broker under load, kills them with SIGKILL again and again, and checks every id against the ledger (`make torture`; 30-delivery, 90-quality).

    torture.py [--seed N] [--kills N] [--minutes N] [--directory D]

Exit 0: every promise was kept. Else it prints what was not, where everything is kept, and how to play it again."""

import argparse
import collections
import contextlib
import json
import os
import random
import pathlib
import secrets
import sqlite3
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "system")]

import harness  # noqa: E402
from actors import Counter, Process, Reader, Sender  # noqa: E402
from hook_world import RECORD_ID, ledger, shell_hook  # noqa: E402
from ledger import Ledger  # noqa: E402
import plan  # noqa: E402

NODES = ("alice", "bob", "carol")
DEPTHS = (1, 1, 4)  # one sender a figure: requests on its connection at once
PATIENCE_S = 40  # nothing takes as long, on a busy machine either: a count that stands still for so long is a finding
ROTATION_EVERY = 2  # blows


class Failure(Exception):
    """What was found."""


class Run:
    """One run, from an empty directory to the last check."""

    def __init__(self, seed, kills, minutes=None, say=print):
        self.seed, self.kills, self.say = seed, kills, say
        self.ends_at = time.monotonic() + minutes * 60 if minutes else None
        self.world = harness.World()
        self.ledger = Ledger()
        self.counters = collections.defaultdict(Counter)
        self.backlog_maximum = 3000
        self.resting, self.giving_up = threading.Event(), threading.Event()
        self.blows = plan.blows(seed, NODES, kills)
        self.nodes, self.everybody, self.senders, self.readers = {}, {}, [], []
        self.duplicates, self.duplicates_of_this_life = 0, 0
        self.rotations = []
        self.started = time.monotonic()

    # ---- what actors ask --------------------------------------------------------------------------------------------

    def backlog(self):
        """Messages on their way, about."""
        return self.counters["accepted", "all"].value - sum(self.counters["received", name].value for name in NODES)

    # ---- setting up -------------------------------------------------------------------------------------------------

    def set_up(self):
        (self.world.directory / "schedule.txt").write_text("\n".join(f"{index + 1}. {blow}" for index, blow in enumerate(self.blows)) + "\n")
        say = ", ".join(f"{name} {plan.slowest_disk_us(self.seed, name)} µs" for name in (*NODES, "broker"))
        self.say(f"  disks take up to: {say}")
        broker = harness.Broker(self.world, environment=self.disk("broker"))
        owner = harness.Node(self.world, NODES[0])
        harness.create_mesh(broker, owner)
        actors = {name: owner if name == NODES[0] else harness.Node(self.world, name) for name in NODES}
        for name, actor in actors.items():
            if actor is not owner:
                harness.join(owner, actor)
            actor.settings(plan.settings(self.seed, name) + "[hooks]\nenabled = true\nconcurrency = 1\n")
            shell_hook(actor, "on-message", f"{RECORD_ID}\nsleep 0.3")  # few run, many wait, and what is killed is killed among them
            actor.more_environment = self.disk(name)
            self.nodes[name] = Process(name, actor, lambda actor=actor: actor.up(wait=False))
            self.nodes[name].start()
        self.broker = Process("broker", broker, lambda: broker.start(wait=False))
        self.everybody = {**self.nodes, "broker": self.broker}
        for process in self.nodes.values():
            process.actor.wait_connected()
        self.keys = {name: process.actor.pubkey for name, process in self.nodes.items()}
        for name in NODES:
            self.counters["posted", name], self.counters["answered", name]  # made before threads look for them
            self.counters["received", name], self.counters["done", name]
            self.readers.append(Reader(self, name))
        self.counters["accepted", "all"]
        bodies = harness.messages()
        for name in NODES:
            for thread, depth in enumerate(DEPTHS):
                self.senders.append(Sender(self, name, plan.Sender(self.seed, name, thread, NODES, bodies), depth, self.keys))

    def disk(self, name):
        """The environment that gives a process the disk of the plan. Not with a sanitizer: those want to be loaded first, and are slow enough."""
        slowest = plan.slowest_disk_us(self.seed, name)
        if not slowest or harness.SLOW != 1 or sys.platform != "linux":
            return {}
        library = self.world.directory / "slow_disk.so"
        if not library.exists():
            compiler = os.environ.get("CC", "cc").split()
            self.world.run(*compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "slow_disk.c", "-ldl", check=0)
        return {"LD_PRELOAD": str(library), "CLAUDEMESH_SLOW_DISK_US": str(slowest)}

    # ---- killing ----------------------------------------------------------------------------------------------------

    def strike(self, blow):
        """In the thread that counted, so that nothing but `delay_us` stands between."""
        if blow.delay_us:
            time.sleep(blow.delay_us / 1e6)
        for name in blow.targets:
            self.everybody[name].strike()

    def play(self, blow):
        struck = threading.Event()
        counter = self.counters[blow.trigger, blow.node]
        counter.when(blow.count, lambda: (self.strike(blow), struck.set()))
        end = harness.deadline(PATIENCE_S)
        while not struck.wait(0.25):
            self.look_after_everybody()
            if time.monotonic() > end:
                counter.cancel()
                raise Failure(f"nothing moves: {blow.trigger} at {blow.node} stands still since {PATIENCE_S} s ({counter.value} so far)\n{self.state()}")
        for name in blow.targets:
            self.everybody[name].reap()
        if "broker" in blow.targets:
            self.duplicates += self.duplicates_of_this_life
            self.duplicates_of_this_life = 0
        if blow.down_ms:
            time.sleep(blow.down_ms / 1e3)
        for name in blow.targets:
            self.everybody[name].start()
        for delay_us in blow.again:
            process = self.everybody[blow.targets[0]]
            time.sleep(delay_us / 1e6)
            process.strike()
            process.reap()
            process.start()

    def look_after_everybody(self):
        for process in self.everybody.values():
            process.check_alive()
        for actor in [*self.senders, *self.readers]:
            if actor.error:
                raise Failure(actor.error)
        self.count_duplicates()

    def count_duplicates(self):
        """For the figures; what a broker's life counts goes with it, so this is a little low."""
        try:
            for line in self.broker.actor.get("/metrics").body.decode().splitlines():
                if line.startswith('cm_broker_accept_total{outcome="duplicate"}'):
                    self.duplicates_of_this_life = int(line.split()[-1])
        except (OSError, harness.http.client.HTTPException):
            pass

    def begin_rotation(self, index):
        """Of somebody's key, through its daemon; the blow that follows may well meet it. It may fail, and settles itself."""
        chance = random.Random(f"{self.seed}/rotation/{index}")
        if chance.randrange(ROTATION_EVERY) or any(thread.is_alive() for thread in self.rotations[-1:]):
            return
        api = self.nodes[chance.choice(NODES)].actor.new_api()

        def ask():
            with contextlib.suppress(OSError, harness.http.client.HTTPException):
                api.post("/v1/daemon/rotate-keypair", {})
            api.close()

        self.rotations.append(threading.Thread(target=ask, daemon=True))
        self.rotations[-1].start()

    def storm(self):
        killed, told = 0, time.monotonic()
        for index, blow in enumerate(self.blows):
            self.begin_rotation(index)
            self.play(blow)
            killed += blow.kills
            if time.monotonic() - told > 10 or index + 1 == len(self.blows):
                told = time.monotonic()
                self.say(f"  {killed}/{self.kills} kills, {self.elapsed():.0f} s: {self.count('answered')} answers, {self.count('received')} delivered")
            if self.ends_at and time.monotonic() > self.ends_at and index + 1 < len(self.blows):
                self.say(f"  time is up after {killed} kills")
                break
        return killed

    # ---- the end ----------------------------------------------------------------------------------------------------

    def rest(self):
        """No more kills; everything that was accepted arrives."""
        for thread in self.rotations:
            thread.join(PATIENCE_S * harness.SLOW)
        self.resting.set()
        for sender in self.senders:
            sender.join(PATIENCE_S * harness.SLOW)
            if sender.is_alive() or sender.error:
                raise Failure(sender.error or f"{sender.name} has no answer for {PATIENCE_S} s\n{self.state()}")
        if not self.wait_quiet():
            self.ledger.find(f"not everything arrived, and nothing has moved for {PATIENCE_S} s", self.state())
            return  # the databases say more
        again = []
        for reader in self.readers:
            newest = self.nodes[reader.node].actor.api.get("/v1/inbox?limit=1").json["items"]
            newest = newest[0]["seq"] if newest else 0
            harness.wait_for(lambda: not newest or (reader.messages and reader.messages[-1][1]["seq"] >= newest), 30, f"{reader.name} to have all")
            again.append(self.read_again(reader, newest))
        for reader in [*self.readers, *again]:
            reader.stop()
            reader.join(30)
        self.readers += again

    def read_again(self, reader, newest):
        """Who comes back with an id from long ago gets all that came since, once."""
        middle = len(reader.messages) // 3
        late = Reader(self, reader.node, reader.messages[middle][0] if reader.messages else Reader.EVERYTHING, types="message")
        late.after = reader.messages[middle][1]["seq"] if reader.messages else 0
        late.name = f"late {reader.name}"
        late.start()
        harness.wait_for(lambda: late.after >= newest or (late.messages and late.messages[-1][1]["seq"] >= newest), 60, f"{late.name} to have all")
        return late

    def wait_quiet(self):
        """False when it does not become quiet: when what is left to do has not changed for long."""
        end, before = harness.deadline(PATIENCE_S), None
        while True:
            left = self.left_to_do()
            if left == 0:
                return True
            if left is not None and left != before:
                end, before = harness.deadline(PATIENCE_S), left
            if time.monotonic() > end:
                return False
            time.sleep(0.02)

    def left_to_do(self):
        """Rows and deliveries; None when somebody does not answer or is not connected."""
        self.look_after_everybody()
        try:
            healths = [process.actor.health() for process in self.nodes.values()]
            ready = self.broker.actor.get("/health/ready")
        except (OSError, harness.http.client.HTTPException):
            for process in self.nodes.values():
                process.actor.api.close()
            return None
        meshes = [mesh for health in healths for mesh in health["meshes"]]
        if ready.status != 200 or not all(mesh["connected"] for mesh in meshes):
            return None
        return ready.json["deliveries"] + sum(mesh["pending"] + mesh["inflight"] for mesh in meshes)

    def state(self):
        lines = []
        for name, process in self.nodes.items():
            try:
                lines.append(f"{name}: {process.actor.new_api().get('/v1/health').body.decode()}")
            except (OSError, harness.http.client.HTTPException) as error:
                lines.append(f"{name}: {error!r}")
        try:
            lines.append(f"broker: {self.broker.actor.get('/health/ready').body.decode()}")
        except (OSError, harness.http.client.HTTPException) as error:
            lines.append(f"broker: {error!r}")
        return "\n".join(lines)

    def stop(self):
        self.count_duplicates()
        self.duplicates += self.duplicates_of_this_life
        for process in self.nodes.values():
            process.actor.down()
        self.broker.actor.stop()

    def check(self):
        figures = self.ledger.check({name: (process.actor.path("outbox.db"), process.actor.path("inbox.db")) for name, process in self.nodes.items()},
                                    self.keys, self.broker.actor.store, self.readers)
        for name, process in self.nodes.items():
            self.check_hooks(name, process)
        with contextlib.closing(sqlite3.connect(f"file:{self.broker.actor.store}?mode=ro", uri=True)) as store:
            self.rotated = store.execute("SELECT count(*) FROM rotation").fetchone()[0]
        for name, process in self.nodes.items():
            if "nextSecretKey" in process.actor.mesh():
                self.ledger.find("a rotation was never settled", name)
        done = self.world.run(harness.BINARY, "broker", "check", "--store", f"sqlite:{self.broker.actor.store}")
        if done.returncode != 0:
            self.ledger.find("`broker check` is not content", (done.stdout + done.stderr).decode())
        for process in self.everybody.values():
            self.read_log(process)
        if self.ledger.findings:
            raise Failure(self.ledger.report())
        return figures

    def check_hooks(self, name, process):
        """A message starts its hook once, and what was stored is all that does; what waits, waits for the next life."""
        with contextlib.closing(sqlite3.connect(process.actor.path("inbox.db"))) as database:
            stored = {row[0] for row in database.execute("SELECT id FROM inbox")}
            waiting = {row[0] for row in database.execute("SELECT i.id FROM hook_runs h JOIN inbox i ON i.seq = h.inbox_seq WHERE h.claimed_at IS NULL")}
            claimed = database.execute("SELECT count(*) FROM hook_runs WHERE claimed_at IS NOT NULL").fetchone()[0]
        ran = ledger(process.actor)
        if len(ran) != len(set(ran)):
            self.ledger.find("HOOKS: an event started its hook twice", f"{name}: {[e for e, count in collections.Counter(ran).items() if count > 1][:5]}")
        if not set(ran) <= stored or set(ran) & waiting or claimed or not ran:
            self.ledger.find("HOOKS: what ran, what waits and what is stored do not agree",
                             f"{name}: {len(ran)} ran, {len(set(ran) - stored)} not stored, {len(set(ran) & waiting)} wait again, {claimed} claimed after an orderly stop")

    def read_log(self, process):
        """A crash that was meant is no reason for an error; only sends to a stranger are refused."""
        for line in process.actor.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # cut off by a kill
                if event.get("msg") == "link_state" and "key_rotated" in event.get("reason", ""):
                    continue  # how a daemon that died in a rotation learns that it was done
                if event.get("level") == "error" and event.get("msg") != "send_refused":
                    self.ledger.find("an error in a log", f"{process.name}: {line[:300]}")
            elif "Sanitizer" in line or "runtime error" in line:
                self.ledger.find("a sanitizer's word in a log", f"{process.name}: {line[:300]}")

    # ---- all of it ---------------------------------------------------------------------------------------------------

    def elapsed(self):
        return time.monotonic() - self.started

    def count(self, what):
        return sum(self.counters[what, name].value for name in NODES)

    def run(self):
        """Returns the line of figures. On a failure the directory stays."""
        try:
            self.set_up()
            for actor in [*self.readers, *self.senders]:
                actor.start()
            killed = self.storm()
            self.rest()
            self.stop()
            figures = self.check()
        except BaseException:
            self.world.keep = True
            raise
        finally:
            self.giving_up.set()
            self.resting.set()
            for reader in self.readers:
                reader.stop()
            self.close()
        starts = sum(process.starts for process in self.everybody.values())
        per = ", ".join(f"{name} {process.kills}" for name, process in self.everybody.items())
        lost = sum(entry.lost for entry in self.ledger.entries)
        return (f"torture: seed {self.seed}: {len(self.ledger.entries)} messages, {figures['stored']} stored, none lost, none twice; {killed} kills ({per}), {starts} starts, "
                f"{lost} answers lost in kills, {figures['resends']} resends, {self.rotated} rotations of {len(self.rotations)}, {self.duplicates} duplicates answered by the broker, "
                f"{sum(reader.resumes for reader in self.readers)} event streams, {self.elapsed():.0f} s")

    def close(self):
        self.world.close()

    def replay(self):
        return f"make torture SEED={self.seed} KILLS={self.kills}"


def torture(seed, kills, minutes=None, say=print):
    """Returns the line of figures, or raises Failure with how to play it again."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # a kill must not wait for a sender's turn
    run = Run(seed, kills, minutes, say)
    try:
        return run.run()
    except Exception as error:
        text = str(error) if isinstance(error, (Failure, AssertionError)) else repr(error)
        raise Failure(f"{text}\n\nEverything is in {run.world.directory}. Again: {run.replay()}") from error
    finally:
        sys.setswitchinterval(interval)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--directory", help="where the run's directory is made; /tmp")
    options = parser.parse_args()
    if options.directory:
        os.environ["CLAUDEMESH_TEST_TMP"] = options.directory
    seed = secrets.randbelow(10 ** 9) if options.seed is None else options.seed
    print(f"torture: seed {seed}, {options.kills} kills", flush=True)
    try:
        print(torture(seed, options.kills, options.minutes, lambda line: print(line, flush=True)))
    except Failure as failure:
        print(f"\nTORTURE FAILED (seed {seed})\n{failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
