"""The main flows, each with one process under faults and the others healthy. A flow is run again and again in one world; what it leaves behind is part
of the test. Every flow tolerates the death of the process it tests, starts it again without faults, goes on, and then demands what was promised."""

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import time
import urllib.parse

from layer import INVISIBLE, Layer, harness
from hook_world import RECORD_ID, ledger, ledger_path, shell_hook
from harness import Api, Broker, Node, create_mesh, deadline, fake_mesh, join, Response, UnixConnection

SIGNALS_ARE_CRASHES = "ended by a signal"
DIED = (OSError, http.client.HTTPException)


class OneTry(Api):
    """A connection that is kept, and whose loss is told: nothing is asked twice behind the caller's back."""

    def call(self, method, path, body=None, headers=None, raw=None):
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request(method, path, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"} if body is not None else {})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.getheader("Connection", "").lower() == "close":
            self.close()
        return Response(answer.status, dict(answer.getheaders()), data)


def kept_connection(node):
    api = OneTry(lambda: UnixConnection(node.socket_path))
    node.world.closers.append(api.close)
    return api


class Broken(AssertionError):
    """What must never happen, happened."""


class Fault:
    """Which calls are meant and how they fail; None stands for none."""

    def __init__(self, kind, error, call="", site=0, at=1, until=None, path="", fd_kind="any"):
        self.kind, self.error, self.call, self.site, self.at, self.until, self.path, self.fd_kind = kind, error, call, site, at, until, path, fd_kind

    def select(self, layer):
        layer.select(self.kind, self.call, self.error, self.at, self.until, self.site, self.path, self.fd_kind)

    @property
    def invisible(self):
        return (self.kind, self.error) in INVISIBLE

    def arguments(self):
        text = f"--class {self.kind} --error {self.error} --at {self.at}"
        for name, value in (("call", self.call), ("site", f"{self.site:016x}" if self.site else ""), ("path", self.path),
                            ("until", self.until), ("kind", "" if self.fd_kind == "any" else self.fd_kind)):
            text += f" --{name} {value}" if value else ""
        return text


class Flow:
    """set_up once; then attempt(fault) as often as wanted. fault None: nothing is armed; a Fault with at=0 only counts."""

    name = ""
    deaths = 0
    kills = False  # also killed, at each call that changes what is on the disk
    numbers = itertools.count(1)

    def __init__(self, world):
        self.world = world
        self.layer = Layer(world.directory)
        self.set_up()

    def set_up(self):
        raise NotImplementedError

    def perform(self, fault):
        raise NotImplementedError

    def attempt(self, fault):
        if fault is not None:
            fault.select(self.layer)
        try:
            self.perform(fault)
        finally:
            self.layer.arm(False)

    # -- what an end may look like
    def judge_end(self, status, output, what, documented=(0, 1, 70)):
        """output: what it said meanwhile."""
        if status < 0:
            raise Broken(f"{what}: {SIGNALS_ARE_CRASHES} {signal.Signals(-status).name}\n{output[-3000:]}")
        if status not in documented:
            raise Broken(f"{what}: exit {status}\n{output[-3000:]}")
        if status != 0 and not self.is_clear(output):
            raise Broken(f"{what}: exit {status} without a clear message\n{output[-3000:]}")
        if "AddressSanitizer" in output or "LeakSanitizer" in output or "runtime error:" in output:
            raise Broken(f"{what}: a sanitizer complains\n{output[-6000:]}")

    @staticmethod
    def is_clear(output):
        """An error line of the log, or a sentence of the command line; `daemon status` answers on standard output."""
        return any('"level":"error"' in line or line.startswith("claudemesh") or "does not answer: " in line for line in output.splitlines())

    def expect(self, condition, text):
        if not condition:
            raise Broken(text)

    def new_ids(self, count):
        number = next(self.numbers)
        return [f"{self.name}-{os.getpid()}-{number}-{i}" for i in range(count)]

    def close(self):
        pass


class Process:
    """A daemon or broker under the layer, and what it said since a moment."""

    def __init__(self, flow, actor):
        self.flow, self.actor = flow, actor
        self.begun = self.mark = 0  # where the log was when the process started, and when the case did
        self.actor.more_environment = dict(flow.layer.environment)

    def said(self, since=None):
        text = b""
        with contextlib.suppress(OSError):
            with open(self.actor.log, "rb") as file:
                file.seek(self.mark if since is None else since)
                text = file.read()
        return text.decode(errors="replace")

    def remember(self):
        with contextlib.suppress(OSError):
            self.mark = os.path.getsize(self.actor.log)

    def begin(self):
        """Before a start."""
        self.remember()
        self.begun = self.mark

    @property
    def alive(self):
        return self.actor.process is not None and self.actor.process.poll() is None

    def ended_soon(self):
        """After a broken connection: whether the process is going."""
        try:
            self.actor.process.wait(0.3)
            return True
        except subprocess.TimeoutExpired:
            return False

    def judge(self, what):
        """It has ended by itself."""
        self.flow.layer.arm(False)
        self.flow.judge_end(self.actor.process.returncode, self.said(self.begun), what)

    def ensure(self, what="the process under faults"):
        """Alive, without faults if it had died."""
        if self.alive:
            return
        if self.actor.process is not None:
            self.judge(what)
            self.flow.deaths += 1
        self.flow.layer.arm(False)
        self.begin()
        self.launch()

    def launch(self):
        if isinstance(self.actor, Broker):
            self.actor.start()
        else:
            self.actor.api.close()
            self.actor.up()

    def stop(self, what, seconds=20):
        """SIGTERM, and a clean end; with a fault in the way, an end with a message."""
        if self.alive:
            self.actor.process.terminate()
            try:
                self.actor.process.wait(seconds * (deadline(1) - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise Broken(f"{what}: does not stop\n{self.said()[-3000:]}") from None
        self.judge(what)


def two_nodes(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    return broker, alice, bob


# ---- daemons ---------------------------------------------------------------------------------------------------------------


class Sending(Flow):
    """Sends until each is accepted, whatever happens, and looks into the recipient's inbox."""

    def tolerant_send(self, process, apis, ids, fault, to, wait_for_accept=True):
        """Each id in order, again and again until it is accepted. Returns the statuses seen."""
        statuses = []
        for number, name in enumerate(ids):
            end = deadline(30)
            while True:
                api = apis[number % len(apis)]
                process.ensure()
                try:
                    answer = api.post("/v1/send", {"to": to, "message": f"body of {name}", "client_message_id": name})
                except DIED as error:
                    api.close()
                    if isinstance(error, TimeoutError):
                        raise Broken(f"no answer to {name}\n{process.said()[-2000:]}") from None
                    if not process.ended_soon() and fault is not None and fault.invisible:
                        raise Broken(f"{name}: {error!r} after {fault.error}, which must not be seen") from None
                    continue
                statuses.append(answer.status)
                if answer.status in (200, 202):
                    break
                self.expect("error" in answer.json and answer.json.get("detail"), f"an unclear answer {answer}")
                self.expect(answer.status in (500, 503, 507, 429), f"{name} was refused: {answer}")
                self.expect(fault is not None and not fault.invisible, f"{name}: {answer} although nothing may be seen")
                if fault.error in ("ENOSPC",) and fault.kind in ("write", "truncate"):
                    self.expect(answer.status == 507, f"a full disk is 507, not {answer}")
                if not wait_for_accept:
                    break
                self.expect(time.monotonic() < end, f"{name} is still refused: {answer}\n{process.said()[-2000:]}")
                time.sleep(0.02)
        return statuses

    def newest(self, node, count):
        answer = node.api.get(f"/v1/inbox?limit={count}&order=desc")
        if answer.status != 200:  # asked again, until time is up
            self.expect(answer.status in (500, 503) and answer.json.get("detail"), f"the inbox: {answer}")
            return []
        return list(reversed(answer.json["items"]))

    def wait_connected(self, process, *nodes):
        """With the process under faults alive: one that was hit at the very end of the case before may only be ending now."""
        for node in nodes:
            end = deadline(60)
            while True:
                process.ensure()
                with contextlib.suppress(*DIED):
                    meshes = node.health()["meshes"]
                    if meshes and meshes[0]["connected"]:
                        break
                    time.sleep(0.01)
                    if time.monotonic() > end:
                        raise Broken(f"{node.name} does not connect: {meshes}")
                    continue
                node.api.close()
                if time.monotonic() > end:
                    raise Broken(f"{node.name} does not answer")
                time.sleep(0.01)

    def wait_received(self, node, ids, tend, seconds=40, also=()):
        """Until each id is there; then: once, in order, with its body. tend() keeps the process under faults alive."""
        wanted = set(ids)
        end = deadline(seconds)
        while True:
            tend()
            try:
                items = [item for item in self.newest(node, 200) if item["client_message_id"] in wanted]
            except DIED:
                node.api.close()
                items = []
            if {item["client_message_id"] for item in items} == wanted:
                break
            if time.monotonic() > end:
                raise Broken(f"answered 2xx and not in the inbox: {sorted(wanted - {i['client_message_id'] for i in items})}")
            time.sleep(0.01)
        got = [item["client_message_id"] for item in items]
        self.expect(len(got) == len(set(got)), f"twice in the inbox: {got}")
        self.expect(got == list(ids), f"out of order: {got}, sent {ids}")
        for item in items:
            self.expect(item["body"] == f"body of {item['client_message_id']}", f"another body: {item}")

    def nothing_seen(self, fault):
        """What may not be seen made no error, and cost no link."""
        said = self.process.said()
        self.expect(fault is None or not fault.invisible or ('"level":"error"' not in said and '"status":"reconnecting"' not in said),
                    f"{fault and fault.error} was seen: {said[-2000:]}")

    def wait_settled(self, node, tend, seconds=40):
        """Until nothing waits in the outbox any more."""
        end = deadline(seconds)
        while True:
            tend()
            with contextlib.suppress(*DIED):
                meshes = node.health()["meshes"]
                if meshes and meshes[0]["pending"] == 0 and meshes[0]["inflight"] == 0:
                    self.expect(meshes[0]["dead"] == 0, f"a row is dead: {meshes}")
                    return
            if time.monotonic() > end:
                raise Broken(f"the outbox does not settle: {node.health()}")
            time.sleep(0.01)


class Accept(Sending):
    """Sends over two kept connections (fresh, repeated, conflicting), drained to the broker and acknowledged."""

    name = "accept"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.bob.up()
        self.process = Process(self, self.alice)
        self.process.launch()
        self.alice.wait_connected()
        self.bob.wait_connected()
        self.to = self.bob.pubkey
        self.apis = [kept_connection(self.alice), kept_connection(self.alice)]
        self.perform(None)

    def perform(self, fault):
        self.wait_connected(self.process, self.alice)
        self.process.remember()
        for api in self.apis:
            api.close()
        ids = self.new_ids(5)
        if fault is not None:
            self.layer.arm()
        self.tolerant_send(self.process, self.apis, ids[:3], fault, self.to)
        # The same again: the table's answer. Another body: a conflict, whatever the row's state.
        self.tolerant_send(self.process, self.apis, ids[:1], fault, self.to)
        self.conflict(ids[0])
        self.tolerant_send(self.process, self.apis, ids[3:], fault, self.to)
        self.wait_received(self.bob, ids, self.process.ensure)
        self.wait_settled(self.alice, self.process.ensure)
        self.layer.arm(False)
        self.process.ensure()
        self.nothing_seen(fault)

    def conflict(self, name):
        end = deadline(30)
        while True:
            self.process.ensure()
            try:
                answer = self.apis[0].post("/v1/send", {"to": self.to, "message": "other", "client_message_id": name})
            except DIED as error:
                self.apis[0].close()
                self.expect(not isinstance(error, TimeoutError), f"no answer to a conflict: {self.process.said()[-2000:]}")
                self.process.ended_soon()
                continue
            self.expect(not 200 <= answer.status < 300, f"another body under {name} was accepted: {answer}")
            if answer.status == 409:
                return
            self.expect(time.monotonic() < end, f"a conflict is still answered {answer}")
            time.sleep(0.02)


class Receive(Sending):
    """The recipient: inbox, client_ack, an event stream that resumes, queries, marking seen."""

    name = "receive"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.alice.up()
        self.process = Process(self, self.bob)
        self.process.launch()
        self.alice.wait_connected()
        self.bob.wait_connected()
        self.to = self.bob.pubkey
        self.perform(None)

    def perform(self, fault):
        self.wait_connected(self.process, self.bob)
        self.process.remember()
        first, *ids = self.new_ids(6)
        stream = self.bob.events("?types=message")
        self.expect(stream.status == 200, "no event stream")
        self.alice.send(self.to, f"body of {first}", client_message_id=first)
        seen, last = [], stream.wait(lambda event: event.get("event") == "message")["id"]  # from where it is resumed
        if fault is not None:
            self.layer.arm()
        for name in ids:
            answer = self.alice.send(self.to, f"body of {name}", client_message_id=name)
            self.expect(answer.status == 202, f"the healthy sender: {answer}")
        self.wait_received(self.bob, ids, self.process.ensure)
        self.queries(fault, ids)
        end = deadline(30)
        while True:  # the stream, resumed as often as it breaks
            with stream.condition:
                for event in stream.items:
                    if event.get("event") == "message":
                        seen.append(event["data"]["client_message_id"])
                    last = event.get("id", last)
                stream.items.clear()
                ended = stream.ended
            if set(ids) <= set(seen):
                break
            self.expect(time.monotonic() < end, f"the event stream gave {seen} of {ids}")
            if ended:
                stream.close()
                self.process.ended_soon()
                self.process.ensure()
                with contextlib.suppress(*DIED):
                    stream = self.bob.events("?types=message", last)
            time.sleep(0.01)
        stream.close()
        mine = [name for name in seen if name in ids]
        self.expect(mine == ids, f"the event stream: {mine}, stored {ids}")
        self.wait_settled(self.alice, self.process.ensure)
        self.layer.arm(False)
        self.process.ensure()
        self.nothing_seen(fault)

    def queries(self, fault, ids):
        for method, path, body in (("GET", "/v1/inbox?limit=3&unread=true", None), ("GET", "/v1/inbox?from=alice&since=2026-01-01T00:00:00Z&limit=3", None),
                                   ("POST", "/v1/inbox/seen", {"all": True}), ("GET", "/v1/outbox?limit=5", None), ("GET", "/v1/peers", None),
                                   ("GET", "/v1/metrics", None), ("GET", "/v1/profile", None)):
            end = deadline(30)
            while True:
                self.process.ensure()
                try:
                    answer = self.bob.api.call(method, path, body)
                except DIED as error:
                    self.bob.api.close()
                    self.expect(not isinstance(error, TimeoutError), f"no answer to {path}: {self.process.said()[-2000:]}")
                    self.process.ended_soon()
                    continue
                if answer.status == 200:
                    break
                self.expect(answer.status in (500, 503, 507) and answer.json.get("detail"), f"{path}: {answer}")
                self.expect(fault is not None and not fault.invisible and time.monotonic() < end, f"{path}: {answer}")


class Hooks(Sending):
    """The recipient's hooks: each message starts its hook once at most, and once when nothing fails; pre-send lets nothing pass that it was not asked about."""

    name = "hooks"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.bob.settings("[hooks]\nenabled = true\n")
        shell_hook(self.bob, "on-dm", RECORD_ID)
        shell_hook(self.bob, "pre-send", """printf '"asked"\\n' >> "$ledger.asked"; echo '{"action":"allow"}'""")
        self.alice.up()
        self.process = Process(self, self.bob)
        self.process.launch()
        self.alice.wait_connected()
        self.bob.wait_connected()
        self.perform(None)

    def perform(self, fault):
        self.wait_connected(self.process, self.bob)
        self.process.remember()
        ids = self.new_ids(3)
        if fault is not None:
            self.layer.arm()
        for name in ids:
            answer = self.alice.send(self.bob.pubkey, f"body of {name}", client_message_id=name)
            self.expect(answer.status == 202, f"the healthy sender: {answer}")
        self.wait_received(self.bob, ids, self.process.ensure)
        self.ask(fault)
        self.settle(fault)
        events = self.events_of(ids)
        ran = ledger(self.bob)
        self.expect(len(ran) == len(set(ran)), f"an event ran twice: {ran}")
        self.expect(fault is not None or set(events) <= set(ran), f"without a fault each runs: {events}, ran {ran}")
        if fault is None or (fault.kind, fault.error) != ("transfer", "SHORT"):  # what starts hooks is asked in packets, which no system cuts
            self.nothing_seen(fault)

    def ask(self, fault):
        """One send of the guarded daemon: it is denied, or accepted because the hook was asked."""
        asked = pathlib.Path(f"{ledger_path(self.bob)}.asked")
        before = len(asked.read_text().splitlines()) if asked.exists() else 0
        try:
            answer = self.bob.send(self.alice.pubkey, "guarded", client_message_id=self.new_ids(1)[0])
        except DIED:
            self.bob.api.close()
            self.process.ended_soon()
            return
        self.expect(answer.status in (202, 403) or (fault is not None and answer.status in (429, 500, 503, 507)), f"the guarded send: {answer}")
        self.expect(fault is not None or answer.status == 202, f"without a fault it passes: {answer}")
        self.expect(answer.status != 202 or len(asked.read_text().splitlines()) > before, "accepted, and the hook was not asked")

    def events_of(self, ids):
        while True:  # it may have been hit at the very end
            self.process.ensure()
            try:
                return [item["id"] for item in self.newest(self.bob, 50) if item["client_message_id"] in ids]
            except DIED:
                self.bob.api.close()
                self.process.ended_soon()

    def runs_left(self):
        with contextlib.closing(sqlite3.connect(f"file:{self.bob.path('inbox.db')}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute("SELECT count(*) FROM hook_runs").fetchone()[0]

    def settle(self, fault):
        """Until no run is left. One whose end could not be written stays claimed until the next start, which counts it and runs it no more."""
        end = deadline(4 if fault is not None else 30)
        while self.runs_left() and time.monotonic() < end:
            self.process.ensure()
            time.sleep(0.02)
        self.layer.arm(False)
        self.process.ensure()
        if not self.runs_left():
            return
        self.expect(fault is not None, "runs are left although nothing failed")
        self.process.stop("with runs left")
        self.process.ensure()
        self.wait_connected(self.process, self.bob)
        end = deadline(30)
        while self.runs_left():
            self.expect(time.monotonic() < end, "runs are left after a start without faults")
            time.sleep(0.02)


class Retention(Sending):
    """The recipient's inbox at its limit: what was marked seen goes, in steps, out of the table and out of the index; nothing else does."""

    name = "retention"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.bob.settings('[inbox]\nmax_bytes = "1KB"\n')  # a new database has more
        self.alice.up()
        self.process = Process(self, self.bob)
        self.process.launch()
        self.alice.wait_connected()
        self.bob.wait_connected()
        self.perform(None)

    def perform(self, fault):
        self.wait_connected(self.process, self.bob)
        ids = self.new_ids(6)
        for name in ids:
            answer = self.alice.send(self.bob.pubkey, f"body of {name}", client_message_id=name)
            self.expect(answer.status == 202, f"the healthy sender: {answer}")
        self.wait_received(self.bob, ids, self.process.ensure)
        rows = {item["client_message_id"]: item["id"] for item in self.newest(self.bob, 200)}
        self.process.remember()
        if fault is not None:
            self.layer.arm()
        self.ask("POST", "/v1/inbox/seen", {"ids": [rows[name] for name in ids[:3]]}, fault)
        self.prune(ids, deadline(4 if fault is not None else 30))
        self.layer.arm(False)
        self.process.ensure()
        self.ask("POST", "/v1/inbox/seen", {"ids": [rows[name] for name in ids[:3]]}, None)
        self.expect(self.prune(ids, deadline(30)), "what was seen does not go")
        for name in ids:
            found = self.ask("GET", "/v1/inbox/search?q=" + urllib.parse.quote(f'"body of {name}"'), None, None).json["items"]
            self.expect([item["client_message_id"] for item in found] == ([name] if name in ids[3:] else []), f"the index and the table: {name}, {found}")

    def ask(self, method, path, body, fault):
        end = deadline(30)
        while True:
            self.process.ensure()
            try:
                answer = self.bob.api.call(method, path, body)
            except DIED:
                self.bob.api.close()
                self.process.ended_soon()
                continue
            if answer.status == 200 or (fault is not None and answer.status in (500, 503, 507)):
                return answer
            self.expect(time.monotonic() < end, f"{path}: {answer}")
            time.sleep(0.02)

    def prune(self, ids, end):
        """Asks for it until the seen ones are gone; the others stay. False: time was up."""
        while True:
            self.process.ensure()
            if self.process.alive:
                self.bob.process.send_signal(signal.SIGHUP)
            with contextlib.suppress(*DIED):
                items = self.bob.api.get("/v1/inbox?limit=200").json.get("items")
                left = [item["client_message_id"] for item in items or [] if item["client_message_id"] in ids]
                self.expect(items is None or set(ids[3:]) <= set(left), f"what nobody saw is gone: {left}")
                if items is not None and set(left) == set(ids[3:]):
                    return True
            if time.monotonic() > end:
                return False
            self.bob.api.close()
            time.sleep(0.02)


class Operate(Sending):
    """No broker: sends wait, an operator requeues one and drops another; each in one transaction or not at all."""

    name = "operate"

    def set_up(self):
        self.carol = Node(self.world, "carol")
        fake_mesh(self.carol, "ws://127.0.0.1:1/ws")
        self.process = Process(self, self.carol)
        self.process.launch()
        self.perform(None)

    def call(self, path, body, fault, wanted):
        """Until it is answered with one of `wanted`."""
        end = deadline(30)
        while True:
            self.process.ensure()
            try:
                answer = self.carol.api.call("GET" if body is None else "POST", path, body)
            except DIED as error:
                self.carol.api.close()
                self.expect(not isinstance(error, TimeoutError), f"no answer to {path}: {self.process.said()[-2000:]}")
                self.process.ended_soon()
                continue
            # 409: an earlier try was done, and its answer was lost. What it did is looked at in the end.
            if answer.status in wanted or (fault is not None and answer.status == 409):
                return answer
            self.expect(answer.status in (500, 503, 507) and answer.json.get("detail"), f"{path}: {answer}")
            self.expect(fault is not None and not fault.invisible and time.monotonic() < end, f"{path}: {answer}")

    def perform(self, fault):
        self.process.ensure()
        self.process.remember()
        ids = self.new_ids(2)
        if fault is not None:
            self.layer.arm()
        self.tolerant_send(self.process, [self.carol.api], ids, fault, "ab" * 32)
        self.call("/v1/outbox/requeue", {"id": ids[0], "new_client_message_id": ids[0] + "-again"}, fault, (200,))
        self.call("/v1/outbox/drop", {"id": ids[1]}, fault, (200,))
        self.call("/v1/outbox?limit=3", None, fault, (200,))
        self.call("/v1/outbox/" + ids[0], None, fault, (200,))
        self.layer.arm(False)
        self.process.ensure()
        rows = {name: self.carol.api.get("/v1/outbox/" + name) for name in (ids[0], ids[0] + "-again", ids[1])}
        for name, row in rows.items():
            self.expect(row.status == 200, f"{name} is gone: {row}")
        rows = {name: row.json for name, row in rows.items()}
        self.expect(rows[ids[0]]["status"] == "aborted" and rows[ids[1]]["status"] == "aborted" and rows[ids[0] + "-again"]["status"] == "pending",
                    f"requeue and drop left {rows}")
        self.carol.api.post("/v1/outbox/drop", {"id": ids[0] + "-again"})


class Start(Sending):
    """A daemon that starts for the first time, takes one message, and stops."""

    name = "start"
    fresh = True

    def set_up(self):
        self.carol = Node(self.world, "carol")
        fake_mesh(self.carol, "ws://127.0.0.1:1/ws")
        self.to = "ab" * 32
        self.actor = self.carol
        self.carol.arguments = ["--tcp-port", "0"]
        self.process = Process(self, self.carol)
        self.config = (self.carol.config / "config.json").read_bytes()

    def prepare(self):
        shutil.rmtree(self.carol.config / "daemon", ignore_errors=True)

    def check(self, accepted):
        rows = [self.carol.api.get("/v1/outbox/" + name).status for name in accepted]
        self.expect(all(status == 200 for status in rows), f"accepted and gone: {accepted} {rows}")

    def perform(self, fault):
        node, process = self.actor, self.process
        self.expect(not process.alive, "still running")
        self.prepare()
        process.begin()
        ids = self.new_ids(1)
        accepted = []
        if fault is not None:
            self.layer.arm()
        node.api.close()
        node.up(wait=False)
        if self.wait_up(node):
            accepted = self.one_send(node, ids, fault)
            process.stop("the stop")
            if fault is not None and fault.invisible:
                self.expect(node.process.returncode == 0, f"{fault.error} may not be seen\n{process.said()[-2000:]}")
        else:
            process.judge("the start")
            self.expect(node.process.returncode != 0, f"it ended without being asked, and says 0\n{process.said()[-2000:]}")
            self.expect(fault is not None and not fault.invisible, f"{fault and fault.error} may not be seen\n{process.said()[-2000:]}")
        self.layer.arm(False)
        self.expect((node.config / "config.json").read_bytes() == self.config, "config.json was changed")
        # Normally, on what the failed start left.
        process.begin()
        node.api.close()
        node.up()
        self.check(accepted)
        token = (node.config / "daemon" / "local-token").read_text().strip()
        self.expect(len(token) >= 32, f"half a token: {token!r}")
        self.expect(not list((node.config / "daemon").glob("*.tmp-*")) or fault is None or fault.kind in ("name", "alloc", "sync"),
                    f"temporary files stay: {list((node.config / 'daemon').glob('*.tmp-*'))}")
        process.stop("the normal stop")
        self.expect(node.process.returncode == 0, "the normal stop failed")

    def wait_up(self, node):
        end = deadline(20)
        while True:
            if node.process.poll() is not None:
                return False
            with contextlib.suppress(*DIED, ValueError):
                if node.api.get("/v1/health").status == 200:
                    return True
            node.api.close()
            if time.monotonic() > end:
                raise Broken(f"neither serves nor ends\n{self.process.said()[-3000:]}")
            time.sleep(0.005)

    def one_send(self, node, ids, fault):
        for _ in range(3):
            try:
                answer = node.api.post("/v1/send", {"to": self.to, "message": f"body of {ids[0]}", "client_message_id": ids[0]})
            except DIED as error:
                node.api.close()
                self.expect(not isinstance(error, TimeoutError), "no answer")
                if self.process.ended_soon():
                    return []
                continue
            if answer.status in (200, 202):
                return ids
            self.expect(fault is not None and not fault.invisible and answer.json.get("detail"), f"refused: {answer}")
        return []


class Restart(Start):
    """A daemon that starts on what it had, after a kill: the integrity check, the requeueing, the link, the drain."""

    name = "restart"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.bob.up()
        self.bob.wait_connected()
        self.to = self.bob.pubkey
        self.actor = self.alice
        self.config = (self.alice.config / "config.json").read_bytes()
        self.process = Process(self, self.alice)
        self.alice.up()
        self.alice.wait_connected()
        self.waiting = []

    def prepare(self):
        pass

    def perform(self, fault):
        if not self.process.alive:
            self.alice.up()
        self.broker.process.send_signal(signal.SIGSTOP)  # so that there is something to requeue
        try:
            self.waiting = self.new_ids(3)
            for name in self.waiting:
                self.expect(self.alice.send(self.to, f"body of {name}", client_message_id=name).status == 202, "the healthy start refuses")
            self.alice.kill()
        finally:
            self.broker.process.send_signal(signal.SIGCONT)
        super().perform(fault)

    def check(self, accepted):
        self.wait_received(self.bob, self.waiting + accepted, self.process.ensure)
        self.wait_settled(self.alice, self.process.ensure)


class Stop(Sending):
    """The orderly stop, with messages on their way."""

    name = "stop"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.bob.up()
        self.bob.wait_connected()
        self.to = self.bob.pubkey
        self.process = Process(self, self.alice)

    def perform(self, fault):
        self.wait_connected(self.process, self.alice)
        self.process.remember()
        ids = self.new_ids(4)
        self.tolerant_send(self.process, [self.alice.api], ids, None, self.to)
        if fault is not None:
            self.layer.arm()
        self.process.stop("the stop")
        status = self.alice.process.returncode
        self.layer.arm(False)
        if fault is None or fault.invisible or fault.at == 0:
            self.expect(status == 0, f"the stop: exit {status}\n{self.process.said()[-2000:]}")
        self.process.begin()
        self.alice.api.close()
        self.alice.up()
        self.wait_received(self.bob, ids, self.process.ensure)
        self.wait_settled(self.alice, self.process.ensure)


class Reconnect(Sending):
    """The link is lost with messages waiting, and made again."""

    name = "reconnect"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.bob.up()
        self.bob.wait_connected()
        self.to = self.bob.pubkey
        self.process = Process(self, self.alice)
        self.process.launch()
        self.alice.wait_connected()

    def perform(self, fault):
        # A link that was short-lived again and again waits longer and longer.
        self.process.stop("the stop before the case")
        self.bob.down()
        self.bob.up()
        self.wait_connected(self.process, self.alice)
        self.process.remember()
        self.broker.stop()
        self.alice.wait_connected(False)
        ids = self.new_ids(3)
        self.tolerant_send(self.process, [self.alice.api], ids, None, self.to)
        if fault is not None:
            self.layer.arm()
        self.broker.start()
        self.wait_received(self.bob, ids, self.process.ensure, 60)
        self.wait_settled(self.alice, self.process.ensure, 60)
        self.layer.arm(False)
        self.process.ensure()


# ---- the broker ------------------------------------------------------------------------------------------------------------


class Serve(Sending):
    """The broker accepts and delivers; its peers reconnect by themselves when it dies."""

    name = "serve"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.broker.stop()
        self.process = Process(self, self.broker)
        self.process.launch()
        self.alice.up()
        self.bob.up()
        self.alice.wait_connected()
        self.bob.wait_connected()
        self.to = self.bob.pubkey
        self.deaths_seen = 0
        self.perform(None)

    def perform(self, fault):
        self.process.ensure()
        if self.deaths_seen != self.deaths:  # a link that was short-lived again and again waits longer and longer
            self.deaths_seen = self.deaths
            for node in (self.alice, self.bob):
                node.down()
                node.up()
        self.wait_connected(self.process, self.alice, self.bob)
        self.process.remember()
        ids = self.new_ids(4)
        if fault is not None:
            self.layer.arm()
        for name in ids:
            answer = self.alice.send(self.to, f"body of {name}", client_message_id=name)
            self.expect(answer.status == 202, f"the healthy sender: {answer}")
        self.wait_received(self.bob, ids, self.process.ensure, 60)
        self.wait_settled(self.alice, self.process.ensure, 60)
        with contextlib.suppress(*DIED):
            self.broker.get("/health")
        self.layer.arm(False)
        self.process.ensure()


class ServeStart(Flow):
    """The broker starts for the first time, and stops."""

    name = "serve-start"
    fresh = True

    def set_up(self):
        self.broker = Broker(self.world)
        self.broker.stop()
        self.process = Process(self, self.broker)

    def perform(self, fault):
        if self.fresh:
            for path in self.broker.home.glob("*"):
                if path.name != "broker.log":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.process.begin()
        if fault is not None:
            self.layer.arm()
        try:
            self.broker.start()
            up = True
        except AssertionError as error:
            if "the broker ended" not in str(error):
                raise Broken(str(error) + self.process.said()[-2000:]) from None
            up = False
        if up:
            self.process.stop("the broker's stop")
        else:
            self.process.judge("the broker's start")
        if fault is None or fault.invisible or fault.at == 0:
            self.expect(up and self.broker.process.returncode == 0, f"exit {self.broker.process.returncode}\n{self.process.said()[-2000:]}")
        self.layer.arm(False)
        self.process.begin()
        self.broker.start()
        token = self.broker.admin_token_file
        self.expect(not token.exists() or len(token.read_text().strip()) >= 32, "half an admin token")
        self.process.stop("the broker's normal stop")
        self.expect(self.broker.process.returncode == 0, "the normal stop failed")


class ServeRestart(ServeStart):
    """The broker starts on a store that was not closed."""

    name = "serve-restart"
    fresh = False

    def set_up(self):
        self.broker, self.alice, _ = two_nodes(self.world)
        self.broker.stop()
        self.process = Process(self, self.broker)

    def perform(self, fault):
        self.broker.start()
        self.alice.cli("mesh", "invite")
        self.broker.kill()
        super().perform(fault)


# ---- the command line --------------------------------------------------------------------------------------------------------


class Command(Sending):
    """One run of the command line."""

    allowed = (0, 1, 2, 3, 5, 6, 7, 70)

    def run(self, node, arguments, fault):
        node.config.mkdir(mode=0o700, exist_ok=True)
        if fault is not None:
            self.layer.arm()
        try:
            done = node.cli(*arguments, check=None, environment=self.layer.environment, timeout=30)
        except subprocess.TimeoutExpired:
            raise Broken(f"{arguments}: does not end") from None
        finally:
            self.layer.arm(False)
        if fault is not None and fault.error == "KILL" and done.returncode == -signal.SIGKILL:
            return done
        self.judge_end(done.returncode, (done.stderr + done.stdout).decode(errors="replace"), " ".join(map(str, arguments)), self.allowed)
        if fault is None or fault.invisible or fault.at == 0:
            self.expect(done.returncode == 0, f"{arguments}: exit {done.returncode}: {done.stderr.decode()[-1500:]}")
        return done

    def check_config(self, node, before):
        """Old or new, and whole."""
        path = node.config / "config.json"
        if not path.exists():
            self.expect(before is None, "config.json is gone")
            return []
        document = json.loads(path.read_text())
        self.expect(path.stat().st_mode & 0o777 == 0o600, "config.json can be read by others")
        for mesh in document["meshes"]:
            self.expect(len(mesh["secretKey"]) == 128 and len(mesh["pubkey"]) == 64, f"half a mesh: {mesh.keys()}")
        return document["meshes"]


class Create(Command):
    name = "create"

    def set_up(self):
        self.broker = Broker(self.world)

    def perform(self, fault):
        number = next(self.numbers)
        node = Node(self.world, f"creator-{number}")
        arguments = ["mesh", "create", f"m{number}", "--slug", f"m{number}", "--broker", self.broker.url, "--admin-token-file", self.broker.admin_token_file, "--name", "c"]
        done = self.run(node, arguments, fault)
        meshes = self.check_config(node, None)
        self.expect(done.returncode != 0 or len(meshes) == 1, "says done, and there is no mesh")
        if not meshes:
            again = node.cli(*arguments, check=None)
            self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.expect(self.check_config(node, None)[0]["slug"] == f"m{number}", "another mesh")
        node.cli("mesh", "invite")
        shutil.rmtree(node.config)


class Join(Command):
    name = "join"

    def set_up(self):
        self.broker = Broker(self.world)
        self.owner = Node(self.world, "owner")
        create_mesh(self.broker, self.owner)

    def perform(self, fault):
        number = next(self.numbers)
        node = Node(self.world, f"joiner-{number}")
        link = self.owner.cli("mesh", "invite").stdout.decode().strip()
        arguments = ["join", link, "--yes", "--name", f"j{number}"]
        done = self.run(node, arguments, fault)
        meshes = self.check_config(node, None)
        self.expect(done.returncode != 0 or len(meshes) == 1, "says done, and there is no mesh")
        if not meshes:
            again = node.cli(*arguments, check=None)
            self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.expect(len(self.check_config(node, None)) == 1, "no mesh")
        shutil.rmtree(node.config)


class Rotate(Command):
    """A key replaced without a daemon: config.json names the old or the new one, whole; what was begun is settled by the next try; and who is written to reads with whichever it is."""

    name = "rotate"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.alice.up()
        self.alice.wait_connected()

    def archived(self):
        path = self.bob.path("keypair-archive.json")
        if not path.exists():
            return []
        self.expect(path.stat().st_mode & 0o777 == 0o600, "the archive can be read by others")
        return [key["ed25519_pubkey"] for key in json.loads(path.read_text())["keys"]]

    def perform(self, fault):
        before = self.bob.pubkey
        done = self.run(self.bob, ["daemon", "rotate-keypair"], fault)
        (mesh,) = self.check_config(self.bob, True)
        self.expect(done.returncode != 0 or mesh["pubkey"] != before, "says done, and the key is the same")
        self.expect(mesh["pubkey"] == before or before in self.archived(), "the old key is gone, and in no archive")
        self.expect("nextSecretKey" not in mesh or before in self.archived(), "a rotation is under way, and the old key is in no archive")
        again = self.bob.cli("daemon", "rotate-keypair", check=None)
        self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.expect("nextSecretKey" not in self.bob.mesh() and self.bob.pubkey != before, "not settled")
        (name,) = self.new_ids(1)
        self.bob.cli("send", "alice", f"body of {name}", "--idempotency-key", name)
        self.wait_received(self.alice, [name], lambda: None)


class RotateToken(Command):
    """The token is the old one or a new one, whole."""

    name = "rotate-token"

    def set_up(self):
        self.node = Node(self.world, "carol")
        fake_mesh(self.node, "ws://127.0.0.1:1/ws")
        self.node.cli("daemon", "rotate-token")

    def perform(self, fault):
        path = self.node.path("local-token")
        before = path.read_text()
        done = self.run(self.node, ["daemon", "rotate-token"], fault)
        after = path.read_text()
        self.expect(len(after.strip()) == 43 and path.stat().st_mode & 0o777 == 0o600, f"half a token: {len(after)} bytes")
        self.expect(done.returncode != 0 or after != before, "says done, and the token is the same")
        self.node.cli("daemon", "rotate-token")


class Invite(Command):
    name = "invite"

    def set_up(self):
        self.broker = Broker(self.world)
        self.owner = Node(self.world, "owner")
        create_mesh(self.broker, self.owner)
        self.before = (self.owner.config / "config.json").read_bytes()

    def perform(self, fault):
        done = self.run(self.owner, ["mesh", "invite"], fault)
        self.expect(done.returncode != 0 or b"claudemesh" in done.stdout, f"done, without a link: {done.stdout}")
        self.expect((self.owner.config / "config.json").read_bytes() == self.before, "config.json was changed")


class SendCommand(Command):
    """claudemesh send through the daemon."""

    name = "send-warm"

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.bob.up()
        self.bob.wait_connected()
        self.start_daemon()

    def start_daemon(self):
        self.alice.up()
        self.alice.wait_connected()
        harness.wait_for(lambda: any(peer["name"] == "bob" for peer in self.alice.api.get("/v1/peers").json["peers"]), 30, "bob's name")

    def perform(self, fault):
        (name,) = self.new_ids(1)
        arguments = ["send", "bob", f"body of {name}", "--idempotency-key", name]
        done = self.run(self.alice, arguments, fault)
        if done.returncode != 0:
            again = self.alice.cli(*arguments, check=None)
            self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.wait_received(self.bob, [name], lambda: None)


class SendCold(SendCommand):
    """claudemesh send without a daemon."""

    name = "send-cold"

    def start_daemon(self):
        pass


class Ask(Command):
    """Reading commands, through the daemon."""

    name = "ask"

    def set_up(self):
        self.carol = Node(self.world, "carol")
        fake_mesh(self.carol, "ws://127.0.0.1:1/ws")
        self.carol.up()
        for name in self.new_ids(3):
            self.carol.send("ab" * 32, "x", client_message_id=name)

    def perform(self, fault):
        for arguments in (["daemon", "status"], ["--json", "inbox"], ["daemon", "outbox", "list"], ["config", "show"], ["mesh", "list"]):
            done = self.run(self.carol, arguments, fault)
            self.expect(done.returncode != 0 or done.stdout, f"{arguments}: done, and said nothing")


class Up(Command):
    """claudemesh daemon up, detached: the command that waits, and the daemon that it starts."""

    name = "up"

    def set_up(self):
        self.carol = Node(self.world, "carol")
        fake_mesh(self.carol, "ws://127.0.0.1:1/ws")

    def perform(self, fault):
        done = self.run(self.carol, ["daemon", "up", "--no-tcp"], fault)
        log = self.carol.path("daemon.log")
        running = self.carol.cli("daemon", "status", check=None).returncode == 0
        self.expect(done.returncode != 0 or running or (fault is not None and self.is_clear(log.read_text() if log.exists() else "")),
                    f"says that it started, and nothing runs: {done.stdout}")
        self.carol.cli("daemon", "down", "--timeout", "20", check=None)
        again = self.carol.cli("daemon", "up", "--no-tcp", check=None)
        self.expect(again.returncode == 0, f"cannot be started again: {again.stderr.decode()[-1500:]}")
        down = self.carol.cli("daemon", "down", "--timeout", "20", check=None)
        self.expect(down.returncode == 0, f"cannot be stopped: {down.stderr.decode()[-1500:]}")


def fake_host(world, name, host_id, mac):
    """A host as its files tell of it; what $CLAUDEMESH_HOST_ROOT points to."""
    root = world.directory / f"host-{name}"
    (root / "etc").mkdir(parents=True)
    (root / "etc/machine-id").write_text(host_id + "\n")
    (root / "sys/class/net/eth0/device").mkdir(parents=True)
    (root / "sys/class/net/eth0/address").write_text(mac + "\n")
    return str(root)


class AcceptHost(Command):
    """A directory that goes to and fro between two hosts, accepted by each: what stands in host_fingerprint.json is the old record or the new one, whole."""

    name = "accept-host"

    def set_up(self):
        self.hosts = [fake_host(self.world, name, name * 32, f"3c:22:fb:00:00:0{name}") for name in "ab"]
        self.carol = Node(self.world, "carol", environment={"CLAUDEMESH_HOST_ROOT": self.hosts[1]})
        fake_mesh(self.carol, "ws://127.0.0.1:1/ws")
        self.carol.path("").mkdir(mode=0o700)
        self.carol.cli("daemon", "accept-host")

    def record(self):
        document = json.loads(self.carol.path("host_fingerprint.json").read_text())
        text = b"\0".join([b"v2", document["host_id"].encode(), document["stable_mac"].encode()])
        self.expect(harness.sha256(text) == document["fingerprint"], f"half a record: {document}")
        return document["host_id"][:1]

    def perform(self, fault):
        before = self.record()
        self.hosts.reverse()
        here = self.hosts[1][-1]
        self.carol.more_environment["CLAUDEMESH_HOST_ROOT"] = self.hosts[1]
        if before == here:
            return
        done = self.run(self.carol, ["daemon", "accept-host"], fault)
        after = self.record()
        if fault is not None and fault.error == "EACCES" and done.returncode == 0:
            here_as_seen = (here, "")  # an id that may not be read is none
        else:
            here_as_seen = (here,)
        self.expect(after in (before, *here_as_seen), f"{after} is neither")
        self.expect(done.returncode != 0 or after in here_as_seen, "says done, and the other host is recorded")
        self.carol.cli("daemon", "accept-host")
        self.expect(self.record() == here, "cannot be tried again")


class Remint(Command):
    """A copy that gets keys of its own: the old member or the new one stands in config.json, and the command can be repeated until it is the new one."""

    name = "remint"

    def set_up(self):
        self.broker = Broker(self.world)
        self.owner, self.first = Node(self.world, "owner"), Node(self.world, "first")
        create_mesh(self.broker, self.owner)
        join(self.owner, self.first)

    def perform(self, fault):
        number = next(self.numbers)
        node = Node(self.world, f"copy-{number}")
        shutil.copytree(self.first.config, node.config)
        link = self.owner.cli("mesh", "invite").stdout.decode().strip()
        arguments = ["daemon", "remint", "--name", f"copy-{number}", "--invite", link]
        done = self.run(node, arguments, fault)
        (mesh,) = self.check_config(node, True)
        self.expect(mesh["secretKey"].endswith(mesh["pubkey"]), "keys that do not belong together")
        self.expect(done.returncode != 0 or mesh["pubkey"] != self.first.pubkey, "says done, and the key is the old one")
        if done.returncode != 0 and (mesh["pubkey"] == self.first.pubkey or list(node.config.glob("remint-*.key"))):
            again = node.cli(*arguments, check=None)
            self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.expect(node.pubkey != self.first.pubkey, "the old key")
        self.expect(node.path("host_fingerprint.json").exists(), "no host was recorded")
        shutil.rmtree(node.config)


class Moving(Command):
    """What backup, restore and reset have in common: an installation with a past, and what it looks like."""

    kills = True

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        for node in (self.alice, self.bob):
            node.up()
        self.alice.wait_connected()
        for name in ("one", "two"):
            self.alice.send(self.bob.pubkey, f"body of {name}", client_message_id=name)
        self.bob.wait_inbox(2)
        self.broker.stop()
        self.alice.wait_connected(False)
        self.alice.send(self.bob.pubkey, "body of three", client_message_id="three")
        self.alice.down()
        self.bob.down()
        self.passphrase = self.world.directory / "passphrase"
        self.passphrase.write_text("a passphrase\n")
        self.passphrase.chmod(0o600)
        self.file = self.world.directory / "the.backup"
        self.alice.cli("daemon", "backup", "--out", self.file, "--passphrase-file", self.passphrase)
        self.past = self.world.directory / "past"
        shutil.copytree(self.bob.config, self.past)

    def ids(self, node):
        """The mesh's key and the outbox's ids, as the next command finds them."""
        listed = node.json("mesh", "list")["meshes"]
        with contextlib.closing(sqlite3.connect(f"file:{node.path('outbox.db')}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT client_message_id, status FROM outbox ORDER BY seq").fetchall()
            self.expect(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the database is damaged")
        return [mesh["pubkey"] for mesh in listed], rows


class Backup(Moving):
    name = "backup"

    def perform(self, fault):
        out = self.world.directory / f"{next(self.numbers)}.backup"
        arguments = ["daemon", "backup", "--with-data", "--out", out, "--passphrase-file", self.passphrase]
        done = self.run(self.alice, arguments, fault)
        self.expect(done.returncode != 0 or out.exists(), "says done, and there is no file")
        if not out.exists():
            again = self.alice.cli(*arguments, check=None)
            self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        left = [name for name in os.listdir(self.world.directory) if name.startswith(out.name + ".tmp-")]
        self.expect(not left or fault is not None and (fault.error == "KILL" or fault.kind in ("name", "look", "open", "lock")), f"left behind: {left}")
        node = Node(self.world, f"moved-{out.name}")
        node.cli("daemon", "restore", "--in", out, "--passphrase-file", self.passphrase)
        self.expect(self.ids(node) == ([self.alice.pubkey], [("one", "done"), ("two", "done"), ("three", "pending")]), f"another past: {self.ids(node)}")
        shutil.rmtree(node.config)
        out.unlink()


class Restore(Moving):
    name = "restore"

    def perform(self, fault):
        shutil.rmtree(self.bob.config)
        shutil.copytree(self.past, self.bob.config)
        old = ([self.bob.pubkey], [])
        new = ([self.alice.pubkey], [("one", "done"), ("two", "done"), ("three", "aborted")])
        arguments = ["daemon", "restore", "--force", "--in", self.file, "--passphrase-file", self.passphrase]
        done = self.run(self.bob, arguments, fault)
        found = self.ids(self.bob)
        self.expect(found in (old, new), f"neither the old state nor the new one: {found}")
        self.expect(done.returncode != 0 or found == new, "says done, and nothing has changed")
        asides = list(self.bob.config.glob("before-restore-*"))
        self.expect(len(asides) == (1 if found == new else 0), f"what was there: {asides}")
        for aside in asides:
            self.expect((aside / "config.json").exists() and (aside / "daemon" / "outbox.db").exists(), "the former state is not whole")
        again = self.bob.cli(*arguments, check=None)
        self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.expect(self.ids(self.bob) == new, "another state")
        left = [name for name in os.listdir(self.bob.config) if name.startswith(".restore")]
        self.expect(not left, f"left behind: {left}")


class Reset(Moving):
    name = "reset"

    def set_up(self):
        super().set_up()
        shutil.rmtree(self.past)
        shutil.copytree(self.alice.config, self.past)

    def perform(self, fault):
        shutil.rmtree(self.alice.config)
        shutil.copytree(self.past, self.alice.config)
        done = self.run(self.alice, ["daemon", "reset", "--yes"], fault)
        statuses = dict(self.ids(self.alice)[1])
        self.expect(set(statuses) == {"one", "two", "three"} and statuses["one"] == "done" and statuses["three"] in ("pending", "aborted"), f"ids: {statuses}")
        self.expect(done.returncode != 0 or statuses["three"] == "aborted", "says done, and a message still waits")
        again = self.alice.cli("daemon", "reset", "--yes", check=None)
        self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.expect(dict(self.ids(self.alice)[1])["three"] == "aborted", "a message still waits")
        self.expect(self.alice.path("local-token").exists(), "there is no token")


class InstallService(Command):
    """The unit is the old one or the new one, and whole; what a failed try left is gone after the next."""

    name = "install-service"

    def set_up(self):
        self.alice = Node(self.world, "alice")
        self.unit = self.world.directory / ".config/systemd/user/claudemesh-daemon.service"

    def perform(self, fault):
        before = self.unit.read_text() if self.unit.exists() else None
        mark = f'"name {next(self.numbers)}"'
        done = self.run(self.alice, ["daemon", "install-service", "--name", mark.strip('"')], fault)
        text = self.unit.read_text() if self.unit.exists() else None
        self.expect(text == before or (mark in text and text.endswith("WantedBy=default.target\n")), f"half a unit:\n{text}")
        self.expect(done.returncode != 0 or mark in text, "it said that it is written")
        self.alice.cli("daemon", "install-service", "--name", mark.strip('"'), check=0)
        self.expect([path.name for path in self.unit.parent.iterdir()] == [self.unit.name], "something is left")


class Recover(Command):
    """A damaged outbox is saved: done, with every row; or not, with the damaged file whole under one of its names, and a second try that does."""

    name = "recover"
    kills = True

    def set_up(self):
        self.broker, self.alice, self.bob = two_nodes(self.world)
        self.alice.up()
        self.alice.wait_connected()
        for number in range(20):
            assert self.alice.send(self.bob.pubkey, f"message {number} " + "x" * 500 * (number % 9), client_message_id=f"r{number}").status == 202
        self.alice.down()
        path = self.alice.path("outbox.db")
        data = bytearray(path.read_bytes())
        data[:4096] = b"\xee" * 4096
        path.write_bytes(data)
        self.damaged = bytes(data)
        self.master = self.alice.config.with_name("recover-master")
        shutil.copytree(self.alice.config, self.master)

    def rows(self):
        database = sqlite3.connect(f"file:{self.alice.path('outbox.db')}?mode=ro", uri=True)
        try:
            return {row[0] for row in database.execute("SELECT client_message_id FROM outbox")}
        finally:
            database.close()

    def is_kept(self):
        return any(file.read_bytes() == self.damaged for file in self.alice.path("").glob("outbox.db*"))

    def perform(self, fault):
        shutil.rmtree(self.alice.config)
        shutil.copytree(self.master, self.alice.config)
        done = self.run(self.alice, ["daemon", "recover", "--yes"], fault)
        self.expect(self.is_kept(), "the damaged file is gone")
        if done.returncode != 0:
            again = self.alice.cli("daemon", "recover", "--yes", check=None)
            self.expect(again.returncode == 0, f"cannot be tried again: {again.stderr.decode()[-1500:]}")
        self.expect(self.rows() == {f"r{number}" for number in range(20)}, "a row is missing")
        self.expect(self.is_kept(), "the damaged file is gone")
        self.expect(not self.alice.path("outbox.recovery").exists(), "the note stays")


FLOWS = {flow.name: flow for flow in (Accept, Receive, Hooks, Retention, Operate, Start, Restart, Stop, Reconnect, Serve, ServeStart, ServeRestart, Create, Join, Rotate, RotateToken, Invite, SendCommand,
                                      SendCold, Ask, Up, AcceptHost, Remint, Backup, Restore, Reset, Recover, InstallService)}
