"""The power-loss driver: a seeded workload over three real processes (a sender's daemon, a broker, a recipient's daemon), with the power of one of them
going at a chosen sync of its databases, and a ledger that says what must have survived.

The contract, for whoever drives it (run, test_power_loss.py, mutants.py):

    count_points(binary, which, seed=1, **options) -> list[str]
        One undisturbed run of the workload; one label ("sync outbox.db-wal", "exit", …) for each point at which the power of `which` can go.
        Raises Finding when even the undisturbed run breaks the ledger.

    run_power_loss(binary, which="daemon", points="all", modes=MODES, seed=1, jobs=2, stop_at_first=False, say=None, one_mode=False, **options)
            -> list[Finding]
        which    "sender", "recipient", "broker"; "daemon" is sender and recipient, "all" is all three
        points   "all"; a number: that many, spread over the workload; or an iterable of point numbers (from 1)
        modes    of MODES: "drop", "tear-512", "tear-4096", "reorder", "late" (vfs.c says what each does)
        one_mode each point in one of the modes, in turn; else in all
        options  settings={"sender": "<config.toml>", "recipient": …, "broker": …}: configuration (outbox.fsync = "batched", …)
                 preload=[paths]: more libraries for the victim, after the VFS (the file layer)
                 environment={…}: more environment for the victim
        An empty list: nothing was lost, nothing came twice, every database is sound.

    run_once(binary, which, point, mode, seed, **options) -> Result
        One run: .findings (list[Finding]), .reached (the point came and the power went), .label (of the point).

    Finding: an exception with .process .point .mode .seed .kind .detail; str() is one line that ends with the command that replays it.
        kinds: lost, twice, order, body, receipt, seen, retired, membership, integrity, dedupe, stuck, start, crash

The binary is any claudemesh (a mutant too): the VFS comes by LD_PRELOAD, from $CLAUDEMESH_POWERLOSS_VFS, else from the build directory of
$CLAUDEMESH_BINARY, else from build/. The victim is started again without the VFS, by the same binary;
in most of the runs with it, and the power goes once more soon after.
"""

import concurrent.futures
import contextlib
import dataclasses
import http.client
import multiprocessing
import os
import pathlib
import random
import socket
import subprocess
import threading
import time

import harness
import ledger as books
from ledger import Broken, Ledger, Send

MODES = ("drop", "tear-512", "tear-4096", "reorder", "late")
PROCESSES = ("sender", "recipient", "broker")
GROUPS = {"daemon": ("sender", "recipient"), "all": PROCESSES, **{name: (name,) for name in PROCESSES}}
POWER_LOST = 88
TRANSIENT = (OSError, http.client.HTTPException, AssertionError, ValueError, KeyError, AttributeError)
WRITERS, ROUND = 3, 3  # connections that send at once; messages of each in one step
LIMIT_S = 40


class Finding(Exception):
    def __init__(self, process, point, mode, seed, kind, detail, label="", directory=""):
        self.process, self.point, self.mode, self.seed = process, point, mode, seed
        self.kind, self.detail, self.label, self.directory = kind, detail, label, directory
        super().__init__(process, point, mode, seed, kind, detail, label, directory)  # as pickle makes it again

    def __str__(self):
        kept = f" [{self.directory}]" if self.directory else ""
        return (f"{self.kind}: {self.detail} ({self.process}, point {self.point} {self.label}, {self.mode}, seed {self.seed}){kept}\n"
                f"    tests/powerloss/run --process {self.process} --point {self.point} --mode {self.mode} --seed {self.seed}")


@dataclasses.dataclass
class Result:
    findings: list
    reached: bool
    label: str
    labels: list


def find_vfs():
    given = os.environ.get("CLAUDEMESH_POWERLOSS_VFS")
    binary = pathlib.Path(os.environ.get("CLAUDEMESH_BINARY", harness.ROOT / "build" / "claudemesh")).resolve()
    for path in [given, binary.parent.parent / "tests/powerloss/libpowerloss_vfs.so", harness.ROOT / "build/tests/powerloss/libpowerloss_vfs.so"]:
        if path and pathlib.Path(path).exists():
            return str(path)
    raise FileNotFoundError("libpowerloss_vfs.so is not built")


def free_port():
    """Below those that the kernel gives to whoever connects: the broker comes back to it."""
    while True:
        port = random.SystemRandom().randrange(12000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Broker(harness.Broker):
    def start(self):
        """Started by the Run, which waits for it."""

    def launch(self, environment):
        self.more_environment = environment
        self.process = self.world.start(
            [harness.BINARY, "--config-dir", self.home / "config", "broker", "serve", "--listen", f"127.0.0.1:{self.port}",
             "--store", f"sqlite:{self.store}", *self.arguments], self.log, self.world.environment(**environment))

    def is_ready(self):
        return self.get("/health/ready").status == 200

    databases = property(lambda self: [self.store])


class Api(harness.Api):
    """Forgets its connection at the first failure, whatever it was."""

    def call(self, *arguments, **more):
        try:
            return super().call(*arguments, **more)
        except TRANSIENT:
            self.close()
            raise


class Node(harness.Node):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.local = threading.local()

    @property
    def api(self):
        """One a thread."""
        if not hasattr(self.local, "api"):
            self.local.api = Api(lambda: harness.UnixConnection(self.socket_path, timeout=LIMIT_S))
            self.world.closers.append(self.local.api.close)
        return self.local.api

    def launch(self, environment):
        self.process = self.world.start([harness.BINARY, "--config-dir", self.config, "daemon", "up", "--foreground", "--no-tcp"], self.log,
                                        self.world.environment(**environment))

    def is_ready(self):
        return self.api.get("/v1/health").status == 200

    databases = property(lambda self: [self.path("outbox.db"), self.path("inbox.db")])


class Run:
    """One run. The steps stand in `steps`; each asks again until it is answered, as a careful program does, and brings back who lost power."""

    def __init__(self, which, point, mode, seed, settings=None, preload=(), environment=None):
        self.which, self.point, self.mode, self.seed = which, point, mode, seed
        self.random = random.Random(f"{seed}")
        if "CLAUDEMESH_TEST_TMP" not in os.environ and os.access("/dev/shm", os.W_OK):
            os.environ["CLAUDEMESH_TEST_TMP"] = "/dev/shm"  # the VFS decides what is on the disk; it need not be one
        self.world = harness.World()
        self.report = self.world.directory / "points"
        self.broker = Broker(self.world, port=free_port())
        self.alice, self.bob, self.carol = (Node(self.world, name) for name in ("alice", "bob", "carol"))
        self.all = {"sender": self.alice, "recipient": self.bob, "broker": self.broker}
        for name, text in (settings or {}).items():
            self.all[name].settings(text) if name != "broker" else self._broker_settings(text)
        self.preload, self.environment = list(preload), environment or {}
        chance = random.Random(f"{seed}/{which}/{point}/{mode}")
        self.vfs_seed = chance.getrandbits(63)
        # The power may go once more, that many points after it came back: a recovery is cut as well.
        self.again = chance.choice((0, 0, 1, 2, 3, 5, 9)) if point else 0
        self.cut_at = point  # where it goes next; 0: nowhere
        self.lost = False  # it went
        self.wanted = set()  # who is meant to be up
        self.lock = threading.RLock()
        self.bodies = harness.messages(400)
        self.out, self.back = Ledger(), Ledger()  # alice to bob, bob to alice
        self.streams = []
        self.waiting = {}  # since when these are done and have not arrived
        self.members = ["alice"]
        self.end = harness.deadline(LIMIT_S)

    def _broker_settings(self, text):
        directory = self.broker.home / "config"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "broker.toml"
        path.write_text(text)
        path.chmod(0o600)
        self.broker.arguments += ["--config", path]

    # ---- processes

    def armed(self, name):
        if name != self.which or (self.lost and not self.cut_at):
            return {}
        return {"LD_PRELOAD": ":".join([find_vfs(), *self.preload]), "POWERLOSS_VFS_AT": str(self.cut_at), "POWERLOSS_VFS_MODE": self.mode,
                "POWERLOSS_VFS_SEED": str(self.vfs_seed), "POWERLOSS_VFS_REPORT": str(self.report), **harness.UNCONFINED,
                **self.environment}

    def log_tail(self, name):
        with contextlib.suppress(OSError):
            return self.all[name].log.read_text(errors="replace")[-600:]
        return ""

    def launch(self, name):
        with self.lock:
            self.wanted.add(name)
            self.all[name].launch(self.armed(name))

    def revive(self):
        """Starts again whose power went; anything else that ended by itself is a finding."""
        with self.lock:
            for name in sorted(self.wanted):
                process = self.all[name].process
                code = process.poll()
                if code is None:
                    continue
                if code != POWER_LOST or name != self.which or not self.cut_at:
                    raise Broken("crash", f"{name} ended with {code}: {self.log_tail(name)}")
                self.lost = True
                self.cut_at, self.again = len(labels_of(self)) + self.again if self.again else 0, 0
                for path in self.all[name].databases:
                    books.check_integrity(path, "after the power went")
                self.all[name].launch(self.armed(name))

    def persist(self, act, what, seconds=LIMIT_S):
        end = min(self.end, harness.deadline(seconds))
        while True:
            try:
                value = act()
                if value:
                    return value
                problem = "not yet"
            except TRANSIENT as error:
                problem = repr(error)
            self.revive()
            if time.monotonic() > end:
                raise Broken("stuck", f"{what}: {problem[:600]}")
            time.sleep(0.004)

    def up(self, *names):
        for name in names:
            if name not in self.wanted:
                self.launch(name)
        for name in names:
            self.persist(self.all[name].is_ready, f"{name} to be ready")
        if "sender" in names:
            self.watch(self.alice)
        if "recipient" in names:
            self.watch(self.bob)

    def down(self, name):
        """SIGTERM. The power may go at the very end of it: the process is brought back and stopped again."""
        with self.lock:
            self.wanted.discard(name)
        process = self.all[name].process
        process.terminate()
        code = process.wait(max(1, self.end - time.monotonic()))
        if code == POWER_LOST and name == self.which and self.cut_at:
            with self.lock:
                self.wanted.add(name)
            self.revive()
            self.up(name)
            self.down(name)
        elif code != 0:
            raise Broken("crash", f"{name} ended with {code} on SIGTERM: {self.log_tail(name)}")

    def watch(self, node):
        def open_stream():
            stream = harness.Events(harness.UnixConnection(node.socket_path, timeout=600))
            self.world.closers.append(stream.close)
            self.streams.append((node, stream))
            return True
        self.persist(open_stream, f"{node.name}'s events")

    def gather_events(self):
        for node, stream in self.streams:
            with stream.condition:
                items = list(stream.items)
            self.out.note_events(items, node is self.alice)
            self.back.note_events(items, node is self.bob)

    def connected(self, *nodes):
        def both():
            for node in nodes:
                meshes = node.health()["meshes"]
                if not meshes or not all(mesh["connected"] for mesh in meshes):
                    return False
            return True
        self.persist(both, "the links")

    # ---- what a person does

    def cli(self, node, *arguments):
        """A command of the command line, given again until it succeeds."""
        def once():
            done = node.cli(*arguments, check=None)
            if done.returncode != 0:
                raise AssertionError(f"{arguments}: {done.returncode} {done.stderr.decode()[-400:]}")
            return done.stdout.decode().strip() or "done"
        return self.persist(once, " ".join(map(str, arguments)))

    def make_mesh(self):
        def attempt():
            if (self.alice.config / "config.json").exists() and self.alice.mesh():
                return True
            harness.create_mesh(self.broker, self.alice)
            return True
        self.persist(attempt, "mesh create")

    def join(self, node):
        link = self.cli(self.alice, "mesh", "invite", "--max-uses", "3")
        def attempt():
            done = node.cli("join", link, "--yes", "--name", node.name, check=None)
            assert done.returncode == 0 or "lready" in (done.stdout + done.stderr).decode(), done.stderr
            return True
        self.persist(attempt, f"{node.name} to join")
        self.members.append(node.name)

    def new_send(self, ledger, lane, priority=None):
        row = self.bodies[self.random.randrange(len(self.bodies))]
        with self.lock:
            number = len(ledger.sends)
            send = Send(f"{'b' if ledger is self.back else 'a'}-{number}", row["body"], priority or row["priority"], lane, number)
            ledger.sends[send.id] = send
        return send

    def post(self, node, to, send, tries):
        """One careful caller: asks again with the same id, up to `tries` times when the answer does not come. True: 2xx."""
        request = {"to": to, "message": send.body, "priority": send.priority, "client_message_id": send.id}
        for _ in range(tries):
            try:
                answer = node.api.post("/v1/send", request)
            except TRANSIENT:
                self.persist(node.is_ready, f"{node.name} to be ready")
                continue
            if answer.status not in (200, 202):
                raise Broken("lost" if answer.status != 409 else "body", f"{send.id} was answered {answer}")
            send.answered = True
            return True
        return False

    def traffic(self, lane, node=None, to=None, ledger=None, writers=WRITERS, priority=None):
        """Several callers at once. Whoever gets no answer gives up, or asks again: chosen by the seed."""
        node, to, ledger = node or self.alice, to or self.bob.pubkey, ledger or self.out
        plans = [[(self.new_send(ledger, f"{lane}{writer}", priority), self.random.choice((1, 5))) for _ in range(ROUND)] for writer in range(writers)]
        problems = []

        def write(plan):
            try:
                for send, tries in plan:
                    self.post(node, to, send, tries)
            except Exception as error:  # noqa: BLE001 - raised again below
                problems.append(error)

        threads = [threading.Thread(target=write, args=(plan,), daemon=True) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(1, self.end - time.monotonic()))
        if problems:
            raise problems[0]
        if any(thread.is_alive() for thread in threads):
            raise Broken("stuck", "a send was never answered")

    def _give_up_early(self, sender, recipient, missing):
        """What no outbox knows will not come, nor what the broker took ten seconds ago and has not given to a recipient that is there."""
        rows = {identifier: sender.api.get(f"/v1/outbox/{identifier}") for identifier in missing}
        for identifier, row in rows.items():
            if row.status == 404:
                raise Broken("lost", f"answered 2xx and not in the outbox: {identifier}")
        linked = all(mesh["connected"] for mesh in recipient.health()["meshes"])
        key = (recipient.name, frozenset(missing))
        if missing and linked and all(row.json["status"] == "done" for row in rows.values()):
            since = self.waiting.setdefault(key, time.monotonic())
            if time.monotonic() - since > 10 * harness.SLOW:
                raise Broken("lost", f"done in the outbox and not in {recipient.name}'s inbox: {sorted(missing)}")
        else:
            self.waiting.pop(key, None)

    def arrived(self):
        """All that was answered is shown by the recipients, and the outboxes have nothing left to do."""
        def all_there():
            self.revive()
            self.gather_events()
            have, back = ({item["client_message_id"] for item in node.inbox() if item["verified"]} for node in (self.bob, self.alice))
            if not self.out.must_arrive() <= have or not self.back.must_arrive() <= back:
                missing = sorted((self.out.must_arrive() - have) | (self.back.must_arrive() - back))
                self._give_up_early(self.alice, self.bob, self.out.must_arrive() - have)
                self._give_up_early(self.bob, self.alice, self.back.must_arrive() - back)
                raise AssertionError(f"{len(missing)} missing: {missing[:5]}")
            counts = [node.outbox_counts() for node in (self.alice, self.bob)]
            assert all(count == (0, 0, 0) for count in counts), counts
            return True
        try:
            self.persist(all_there, "everything answered to arrive")
        except Broken as problem:
            raise Broken("lost" if problem.kind == "stuck" else problem.kind, problem.detail) from problem

    def receipts_told(self):
        """Each message has its receipt at the sender's."""
        def told():
            for node, ledger in ((self.alice, self.out), (self.bob, self.back)):
                for identifier in ledger.must_arrive():
                    answer = node.api.get(f"/v1/outbox/{identifier}")
                    if answer.status == 404:
                        raise Broken("lost", f"answered 2xx and not in the outbox: {identifier}")
                    receipts = answer.json["receipts"]
                    assert receipts and receipts[0]["stored_at"] and receipts[0]["verified"], f"{identifier}: {receipts}"
            return True
        try:
            self.persist(told, "the receipts", 12)
        except Broken as problem:
            raise Broken("receipt" if problem.kind == "stuck" else problem.kind, problem.detail) from problem

    def mark_seen(self):
        def mark():
            items = self.bob.inbox(unread="true")[:5]
            if items:
                answer = self.bob.api.post("/v1/inbox/seen", {"ids": [item["id"] for item in items]})
                assert answer.status == 200, answer
                self.out.seen.update(item["client_message_id"] for item in items)
            return True
        self.persist(mark, "seen to be answered")

        def told():  # what the sender is shown here must stay; nobody promises that it comes when the power goes on the way
            self.gather_events()
            return self.lost or {(identifier, "seen") for identifier in self.out.seen} <= self.out.receipts
        self.persist(told, "the receipts of what was seen")

    def retire(self):
        """While no broker is there: one waiting row dropped, one requeued with another body."""
        dropped, requeued = self.new_send(self.out, None), self.new_send(self.out, None)
        if not (self.post(self.alice, self.bob.pubkey, dropped, 5) and self.post(self.alice, self.bob.pubkey, requeued, 5)):
            raise Broken("stuck", "no answer")
        successor = self.new_send(self.out, None)
        successor.priority = requeued.priority

        def ask(path, request, retired):
            def once():
                answer = self.alice.api.post(path, request)
                # 409: the first answer was lost with the power
                assert answer.status == 200 or (answer.status == 409 and answer.json["error"] == "outbox_final"), answer
                return True
            self.persist(once, path)
            retired.retired = True

        ask("/v1/outbox/drop", {"id": dropped.id}, dropped)
        ask("/v1/outbox/requeue", {"id": requeued.id, "new_client_message_id": successor.id, "patch": {"message": successor.body}}, requeued)
        successor.answered = True

    def quiet(self):
        """Until the idle checkpoint moved the WAL into the database, where the victim is watched."""
        if self.lost or self.which is None:
            return
        before = self.report.read_text().count("\n")

        def checkpointed():
            return self.lost or any(".db " in line for line in self.report.read_text().splitlines()[before:])
        end = time.monotonic() + 1.5
        while time.monotonic() < end and not checkpointed():
            self.revive()
            time.sleep(0.01)

    # ---- the run

    def steps(self):
        yield lambda: self.up("broker")
        yield self.make_mesh
        yield lambda: self.join(self.bob)
        yield lambda: self.up("sender", "recipient")
        yield lambda: self.connected(self.alice, self.bob)
        yield lambda: self.traffic("first")
        yield lambda: self.traffic("back", self.bob, self.alice.pubkey, self.back, writers=1)
        yield self.arrived
        yield self.mark_seen
        yield lambda: self.join(self.carol)
        yield self.quiet
        yield lambda: self.traffic("second")
        yield lambda: self.down("recipient")
        yield lambda: self.traffic("waiting at the broker", writers=2)
        yield lambda: self.down("broker")
        yield lambda: self.traffic("waiting here", writers=2)
        yield self.retire
        yield lambda: self.down("sender")
        yield lambda: self.up("broker", "recipient")
        yield lambda: self.up("sender")
        yield self.arrived
        yield self.quiet

    ESSENTIAL = 5  # without the first steps there is nothing to check

    def closing(self):
        self.up("broker", "sender", "recipient")
        self.traffic("last", priority="next", writers=1)
        self.traffic("last back", self.bob, self.alice.pubkey, self.back, writers=1)
        self.arrived()
        self.receipts_told()
        self.gather_events()
        for name in ("recipient", "sender", "broker"):
            self.down(name)

    def check_disk(self):
        for name, process in self.all.items():
            for path in process.databases:
                books.check_integrity(path, "at the end")
                if list(path.parent.glob(f"{path.name}.corrupt-*")):
                    raise Broken("integrity", f"{name} moved {path.name} aside: {self.log_tail(name)}")
        sides = []
        for ledger, sender, recipient in ((self.out, self.alice, self.bob), (self.back, self.bob, self.alice)):
            outbox = books.rows(sender.path("outbox.db"), "SELECT * FROM outbox ORDER BY seq")
            inbox = books.rows(recipient.path("inbox.db"), "SELECT * FROM inbox ORDER BY seq")
            ledger.check_inbox(inbox)
            ledger.check_outbox(outbox)
            ledger.check_receipts(books.rows(sender.path("outbox.db"), "SELECT * FROM receipt"), outbox)
            sides.append((ledger, outbox, inbox))
            if books.rows(recipient.path("inbox.db"), "SELECT 1 FROM quarantine"):
                raise Broken("lost", f"{recipient.name} has a message in quarantine")
        books.check_broker(self.broker.store, sides)
        members = {row[0] for row in books.rows(self.broker.store, "SELECT display_name FROM member WHERE state = 'active'")}
        if not set(self.members) <= members:
            raise Broken("membership", f"answered and forgotten: {set(self.members) - members}")

    def go(self):
        for number, step in enumerate(self.steps()):
            if self.lost and number >= self.ESSENTIAL:
                break
            step()
        self.closing()
        self.check_disk()


def labels_of(run):
    with contextlib.suppress(OSError):
        lines = [line.split() for line in run.report.read_text().splitlines()]
        return [" ".join(line[1:3]) for line in lines if line[0] == "point"]
    return []


def run_once(binary, which, point, mode, seed, keep=False, **options):
    harness.BINARY = str(binary)
    run = Run(which, point, mode, seed, **options)
    problem = None
    try:
        run.go()
    except Broken as broken:
        problem = broken
    finally:
        labels = labels_of(run)
        if keep and problem:
            os.environ["CLAUDEMESH_KEEP"] = "1"
        with contextlib.suppress(AssertionError):  # who did not end is told by the finding
            run.world.close()
    label = labels[point - 1] if 0 < point <= len(labels) else ""
    directory = str(run.world.directory) if keep else ""
    findings = [Finding(which, point, mode, seed, problem.kind, problem.detail, label, directory)] if problem else []
    return Result(findings, run.lost, label, labels)


def count_points(binary, which, seed=1, **options):
    result = run_once(binary, which, 0, "drop", seed, **options)
    if result.findings:
        raise result.findings[0]
    return result.labels


def choose_points(points, count):
    if points == "all":
        return list(range(1, count + 1))
    if isinstance(points, int):
        step = max(1.0, count / max(1, points))
        return sorted({int(step * (i + 0.5)) + 1 for i in range(min(points, count))})
    return list(points)


def run_power_loss(binary, which="daemon", points="all", modes=MODES, seed=1, jobs=2, stop_at_first=False, say=None, one_mode=False, **options):
    say = say or (lambda text: None)
    findings, reached, total = [], 0, 0
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        counts = {name: pool.submit(count_points, binary, name, seed, **options) for name in GROUPS[which]}
        work = []
        for name, future in counts.items():
            try:
                labels = future.result()
            except Finding as finding:
                findings.append(finding)
                continue
            say(f"{name}: {len(labels)} points")
            chosen = choose_points(points, len(labels))
            for number, point in enumerate(chosen):
                work += [(name, point, mode) for mode in ([modes[number % len(modes)]] if one_mode else modes)]
        running = {pool.submit(run_once, binary, name, point, mode, seed, **options): (name, point, mode) for name, point, mode in work}
        for future in concurrent.futures.as_completed(running):
            result = future.result()
            total += 1
            reached += result.reached
            for finding in result.findings:
                say(str(finding))
            findings += result.findings
            if findings and stop_at_first:
                for other in running:
                    other.cancel()
                break
    say(f"{total} runs, the power went in {reached}, {len(findings)} findings")
    return findings
