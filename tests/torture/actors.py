"""Who takes part in a run: processes that can be killed, senders that ask again until they are answered, readers of events that resume where they were. They note what they saw; what
it means is the ledger's."""

import collections
import json
import signal
import socket
import threading
import time

from harness import SLOW


class Counter:
    """Counts, and at a count that somebody waits for calls them, in the thread that counted."""

    def __init__(self):
        self.lock = threading.Lock()
        self.value, self.goal, self.reached = 0, None, None

    def add(self):
        with self.lock:
            self.value += 1
            if self.goal is None or self.value < self.goal:
                return
            reached, self.goal = self.reached, None
        reached()

    def when(self, more, reached):
        with self.lock:
            self.goal, self.reached = self.value + more, reached

    def cancel(self):
        with self.lock:
            self.goal = None


class Process:
    """A daemon or the broker: `actor` is the harness's Node or Broker, not started yet."""

    def __init__(self, name, actor, start):
        self.name, self.actor, self._start = name, actor, start
        self.kills = self.starts = 0
        self.struck = False  # on purpose

    def start(self):
        self.struck = False
        self._start()
        self.starts += 1

    @property
    def process(self):
        return self.actor.process

    def strike(self):
        """kill -9; waits for nothing, so that several fall at once."""
        self.struck = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.kills += 1

    def reap(self):
        status = self.process.wait()
        if status != -signal.SIGKILL:
            raise AssertionError(f"{self.name} ended by itself with status {status}: {self.log_tail()}")

    def check_alive(self):
        status = self.process.poll()
        if status is not None and not self.struck:
            raise AssertionError(f"{self.name} ended by itself with status {status}: {self.log_tail()}")

    def log_tail(self):
        return self.actor.log.read_text(errors="replace")[-2000:]


class Lost(Exception):
    """The connection ended before the answer."""


class Wire:
    """HTTP over the daemon's socket, as little of it as a request needs."""

    def __init__(self, path):
        self.path, self.sock, self.buffer = path, None, b""

    def connect(self, stop):
        while not stop.is_set():
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(60 * SLOW)
                sock.connect(self.path)
                self.sock, self.buffer = sock, b""
                return True
            except OSError:
                sock.close()
                stop.wait(0.002)
        return False

    def close(self):
        if self.sock is not None:
            self.sock.close()
        self.sock = None

    def post(self, path, body):
        try:
            self.sock.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body))
        except socket.timeout:
            raise
        except OSError as error:
            raise Lost from error

    def answer(self):
        """(status, body); the connection is closed when the server says so."""
        head = self.until(b"\r\n\r\n")
        status, length, close = int(head[9:12]), 0, False
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() == b"connection":
                close = value.strip().lower() == b"close"
        while len(self.buffer) < length:
            self.more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, body, close

    def until(self, mark):
        while mark not in self.buffer:
            self.more()
        head, _, self.buffer = self.buffer.partition(mark)
        return head

    def more(self):
        try:
            data = self.sock.recv(65536)
        except socket.timeout:
            raise
        except OSError as error:
            raise Lost from error
        if not data:
            raise Lost
        self.buffer += data


class Sender(threading.Thread):
    """One client of a daemon, on one connection at a time, with up to `depth` requests on it. What was not answered is asked again, in the same order, until it is, unless the plan says
    that it is given up."""

    def __init__(self, run, node, plan, depth, keys):
        super().__init__(daemon=True, name=f"sender {node}/{plan.thread}")
        self.run_, self.node, self.plan, self.depth, self.keys = run, node, plan, depth, keys
        self.wire = Wire(run.nodes[node].actor.socket_path)
        self.entries, self.answered = [], []  # entries in the order of asking; those with a 2xx
        self.pending = collections.deque()  # (entry, kind, payload)
        self.sent = 0  # how many of pending, from the left, are on the connection
        self.error = None

    def run(self):
        try:
            while self.step():
                pass
        except Exception as error:  # noqa: BLE001 - shown by the run
            self.error = f"{self.name}: {error!r}"
        finally:
            self.wire.close()

    def step(self):
        """False when there is nothing left to ask."""
        while len(self.pending) < self.depth and not self.run_.resting.is_set():
            self.pending.append(self.request(self.plan.next()))
        if not self.pending:
            return False
        if self.run_.backlog() > self.run_.backlog_maximum:
            self.run_.giving_up.wait(0.01)
            return not self.run_.giving_up.is_set()
        if self.wire.sock is None and not self.wire.connect(self.run_.giving_up):
            return False
        try:
            self.exchange()
        except Lost:
            self.lose()
        return True

    def exchange(self):
        while self.sent < len(self.pending):
            self.sent += 1  # also when only a part of it leaves
            self.wire.post(b"/v1/send", self.pending[self.sent - 1][2])
            self.run_.counters["posted", self.node].add()
        status, body, close = self.wire.answer()
        if status in (429, 503, 507):  # not now: the same again
            self.pending[0][0].put_off += 1
            self.run_.giving_up.wait(0.02)
            raise Lost
        entry, kind, _ = self.pending.popleft()
        self.sent -= 1
        entry.answers.append((kind, status, body))
        if status in (200, 202):
            if kind in ("send", "stranger"):
                self.answered.append(entry)
                self.run_.counters["accepted", "all"].value += kind == "send"  # only paces: may be one off
            self.run_.counters["answered", self.node].add()
        if close:
            raise Lost

    def lose(self):
        self.wire.close()
        kept = collections.deque()
        for index, item in enumerate(self.pending):
            if index < self.sent:
                item[0].lost += 1
                if item[1] in ("again", "conflict") or item[0].message.abandoned:
                    continue
            kept.append(item)
        self.pending, self.sent = kept, 0

    def request(self, message):
        if message.kind in ("again", "conflict") and not self.answered:
            message.kind = "send"
        if message.kind in ("again", "conflict"):
            entry = self.answered[-1 - int(message.earlier * (len(self.answered) - 1))]
            body = dict(entry.request)
            if "client_message_id" not in body:
                body["client_message_id"] = entry.id_of_answer()
            if message.kind == "conflict":
                body["message"] += " changed"
            return entry, message.kind, json.dumps(body).encode()
        entry = self.run_.ledger.enter(self.node, self.plan.thread, message, self.keys)
        self.entries.append(entry)
        return entry, message.kind, json.dumps(entry.request).encode()


class Reader(threading.Thread):
    """Somebody who reads a daemon's events and resumes where it was, whenever the daemon is there."""

    # An id of no inbox: a gap, then every message there is. So a reader has an id to resume from before its first event.
    EVERYTHING = "0-0-0"

    def __init__(self, run, node, start_at=EVERYTHING, types="message,outbox_status"):
        super().__init__(daemon=True, name=f"reader {node}")
        self.run_, self.node, self.types = run, node, types
        self.path = run.nodes[node].actor.socket_path
        self.last_id = start_at
        self.messages = []  # (event id, data) of every message event, as they came
        self.others = collections.Counter()
        self.resumes = 0
        self.attached, self.stopping = threading.Event(), threading.Event()
        self.sock, self.error = None, None

    def run(self):
        try:
            while not self.stopping.is_set():
                self.read_once()
        except Exception as error:  # noqa: BLE001 - shown by the run
            self.error = f"{self.name}: {error!r}"

    def read_once(self):
        wire = Wire(self.path)
        if not wire.connect(self.stopping):
            return
        self.sock = wire.sock
        try:
            wire.sock.sendall(b"GET /v1/events?types=%b HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: %b\r\n\r\n" % (self.types.encode(), self.last_id.encode()))
            head = wire.until(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200") or b"chunked" in head.lower():
                raise AssertionError(f"the answer to /v1/events: {head!r}")
            self.resumes += 1
            self.attached.set()
            while True:
                self.take(wire.until(b"\n\n"))
        except (Lost, OSError):
            pass  # what was cut off in the middle does not count, as the standard says of event streams
        finally:
            wire.close()

    def take(self, block):
        event = {}
        for line in block.split(b"\n"):
            if line and not line.startswith(b":"):
                name, _, value = line.partition(b": ")
                event[name] = value
        if not event:
            return
        kind = event[b"event"].decode()
        self.last_id = event[b"id"].decode()
        if kind == "message":
            self.run_.counters["received", self.node].add()  # first: a blow falls as soon after the event as it can
        data = json.loads(event[b"data"])
        if kind == "message":
            self.messages.append((self.last_id, data))
        else:
            self.others[kind if kind != "outbox_status" else data["status"]] += 1
            if kind == "outbox_status" and data["status"] == "done":
                self.run_.counters["done", self.node].add()

    def stop(self):
        self.stopping.set()
        try:
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
