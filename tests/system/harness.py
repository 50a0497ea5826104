"""Drives the built binary as a user would: brokers, daemons, the command line, raw HTTP and WebSocket. Standard library only; libsodium
through ctypes. Every process belongs to the World that started it and must be gone when the test ends."""

import base64
import contextlib
import ctypes
import ctypes.util
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
BINARY = os.environ.get("CLAUDEMESH_BINARY", str(ROOT / "build" / "claudemesh"))
# For what is preloaded and opens files of its own, which lie elsewhere.
UNCONFINED = {"CLAUDEMESH_DAEMON_CONFINE": "false", "CLAUDEMESH_BROKER_BROKER_CONFINE": "false"}
SLOW = float(os.environ.get("CLAUDEMESH_SLOW", "1"))  # sanitizers: everything takes longer


def deadline(seconds):
    return time.monotonic() + seconds * SLOW


def wait_for(condition, seconds=15, what="the condition"):
    """Polls until condition() is true and returns its value."""
    end = deadline(seconds)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"timed out after {seconds} s waiting for {what}")
        time.sleep(0.01)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def messages(limit=None):
    """The real bodies of ../shared when it is there, else paragraphs of the project's own documents."""
    path = SHARED / "data" / "messages.jsonl"
    if path.exists():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        rows = []
        for document in sorted(ROOT.glob("docs/**/*.md")) + sorted(ROOT.glob("*.md")):
            for paragraph in document.read_text(encoding="utf-8").split("\n\n"):
                if paragraph.strip():
                    rows.append({"n": len(rows), "body": paragraph, "priority": ["next", "now", "low"][len(rows) % 3]})
        while limit and len(rows) < limit:
            rows += [dict(row, n=row["n"] + len(rows)) for row in rows]
    return rows[:limit] if limit else rows


# ---- libsodium ---------------------------------------------------------------------------------------------------------


def _load_sodium():
    name = ctypes.util.find_library("sodium") or "libsodium.so.23"
    library = ctypes.CDLL(name)
    if library.sodium_init() < 0:
        raise RuntimeError("libsodium does not start")
    return library


_sodium = None


def sodium():
    global _sodium
    if _sodium is None:
        _sodium = _load_sodium()
    return _sodium


class Key:
    """An ed25519 identity."""

    def __init__(self, seed=None):
        seed = seed or os.urandom(32)
        public, secret = ctypes.create_string_buffer(32), ctypes.create_string_buffer(64)
        sodium().crypto_sign_seed_keypair(public, secret, seed)
        self.seed, self.public, self.secret = seed, public.raw, secret.raw

    @classmethod
    def from_secret_hex(cls, text):
        return cls(bytes.fromhex(text)[:32])

    @property
    def hex(self):
        return self.public.hex()

    def sign(self, data):
        signature = ctypes.create_string_buffer(64)
        sodium().crypto_sign_detached(signature, None, data, ctypes.c_ulonglong(len(data)), self.secret)
        return signature.raw.hex()

    def box_for(self, public, plaintext, nonce=None):
        nonce = nonce or os.urandom(24)
        theirs, mine = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)
        assert sodium().crypto_sign_ed25519_pk_to_curve25519(theirs, public) == 0
        assert sodium().crypto_sign_ed25519_sk_to_curve25519(mine, self.secret) == 0
        sealed = ctypes.create_string_buffer(len(plaintext) + 16)
        assert sodium().crypto_box_easy(sealed, plaintext, ctypes.c_ulonglong(len(plaintext)), nonce, theirs, mine) == 0
        return nonce, sealed.raw

    def open_box(self, public, nonce, sealed):
        theirs, mine = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)
        assert sodium().crypto_sign_ed25519_pk_to_curve25519(theirs, public) == 0
        assert sodium().crypto_sign_ed25519_sk_to_curve25519(mine, self.secret) == 0
        plain = ctypes.create_string_buffer(max(1, len(sealed) - 16))
        if sodium().crypto_box_open_easy(plain, sealed, ctypes.c_ulonglong(len(sealed)), nonce, theirs, mine) != 0:
            return None
        return plain.raw[: len(sealed) - 16]


def verify(public_hex, data, signature_hex):
    signature = bytes.fromhex(signature_hex)
    return sodium().crypto_sign_verify_detached(signature, data, ctypes.c_ulonglong(len(data)), bytes.fromhex(public_hex)) == 0


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def statement(domain, *fields):
    return "\0".join([domain, *[str(field) for field in fields]]).encode()


# ---- HTTP ----------------------------------------------------------------------------------------------------------------


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=30):
        super().__init__("localhost", timeout=timeout * SLOW)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


class Api:
    """The local API over one transport; keeps its connection."""

    def __init__(self, connect, headers=None):
        self._connect, self._headers, self._connection = connect, headers or {}, None

    def call(self, method, path, body=None, headers=None, raw=None):
        payload = raw if raw is not None else (json.dumps(body).encode() if body is not None else None)
        merged = dict(self._headers)
        if payload is not None:
            merged["Content-Type"] = "application/json"
        merged.update(headers or {})
        merged = {name: value for name, value in merged.items() if value is not None}
        for attempt in (0, 1):
            fresh = self._connection is None
            if fresh:
                self._connection = self._connect()
            try:
                self._connection.request(method, path, payload, merged)
                answer = self._connection.getresponse()
                data = answer.read()
                if answer.getheader("Connection", "").lower() == "close":
                    self.close()
                return Response(answer.status, dict(answer.getheaders()), data)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                if fresh or attempt:  # a kept-alive connection may have been closed meanwhile
                    raise

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.call("POST", path, body, **more)

    def close(self):
        if self._connection:
            self._connection.close()
        self._connection = None


class Events:
    """A Server-Sent Events stream, read in a thread."""

    def __init__(self, connection, path="/v1/events", headers=None):
        self.connection = connection
        self.items, self.condition, self.ended = [], threading.Condition(), False
        self.comments = 0
        connection.request("GET", path, headers=headers or {})
        self.sock = connection.sock  # http.client forgets it when the answer says Connection: close
        self.response = connection.getresponse()
        self.status = self.response.status
        self.thread = threading.Thread(target=self._read, daemon=True)
        if self.status == 200:
            self.thread.start()

    def _read(self):
        event = {}
        try:
            while True:
                line = self.response.readline()
                if not line:
                    break
                line = line.decode().rstrip("\n").rstrip("\r")
                if line.startswith(":"):
                    with self.condition:
                        self.comments += 1
                        self.condition.notify_all()
                elif line == "":
                    if event:
                        with self.condition:
                            self.items.append(event)
                            self.condition.notify_all()
                    event = {}
                else:
                    name, _, value = line.partition(": ")
                    event[name] = json.loads(value) if name == "data" else value
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            pass
        with self.condition:
            self.ended = True
            self.condition.notify_all()

    def wait(self, predicate, seconds=15, what="an event"):
        """The first event for which predicate(event) is true."""
        end = deadline(seconds)
        seen = 0
        with self.condition:
            while True:
                for event in self.items[seen:]:
                    seen += 1
                    if predicate(event):
                        return event
                if self.ended:
                    raise AssertionError(f"the stream ended before {what}")
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"timed out waiting for {what}; got {self.items[-5:]}")
                self.condition.wait(left)

    def wait_count(self, kind, count, seconds=30):
        end = deadline(seconds)
        with self.condition:
            while True:
                found = [event for event in self.items if event.get("event") == kind]
                if len(found) >= count:
                    return found
                left = end - time.monotonic()
                if self.ended or left <= 0:
                    raise AssertionError(f"{len(found)} of {count} {kind} events; ended={self.ended}")
                self.condition.wait(left)

    def close(self):
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        if self.thread.is_alive():
            self.thread.join(5)


# ---- processes -----------------------------------------------------------------------------------------------------------


class World:
    """A temporary directory and the processes started in it."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="cm-", dir=os.environ.get("CLAUDEMESH_TEST_TMP", "/tmp")))
        self.processes = []
        self.closers = []
        self.keep = False  # the directory, for whoever looks into a failure

    def environment(self, **more):
        base = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
        }
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            if name in os.environ:
                base[name] = os.environ[name]
        base.update(more)
        return base

    def start(self, arguments, log, environment=None, **more):
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=more.pop("stdout", output), stderr=output,
                env=environment or self.environment(), cwd=self.directory, **more)
        self.processes.append(process)
        return process

    def run(self, *arguments, input=None, environment=None, timeout=60, check=None):
        done = subprocess.run([str(a) for a in arguments], input=input, capture_output=True, env=environment or self.environment(),
                              cwd=self.directory, timeout=timeout * SLOW)
        if check is not None and done.returncode != check:
            raise AssertionError(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}")
        return done

    def close(self):
        for closer in reversed(self.closers):
            with contextlib.suppress(Exception):
                closer()
        running = [process for process in self.processes if process.poll() is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        stuck = []
        for process in self.processes:
            try:
                process.wait(15 * SLOW)
            except subprocess.TimeoutExpired:
                stuck.append(process.args)
                process.kill()
                process.wait()
        # A leak, a race or a crash while stopping shows in the status alone.
        unclean = [(process.args, process.returncode) for process in running
                   if process.args[0] == BINARY and process.returncode != 0 and process.args not in stuck]
        left = self._leftovers()
        if not (self.keep or os.environ.get("CLAUDEMESH_KEEP")):
            shutil.rmtree(self.directory, ignore_errors=True)
        assert not stuck, f"did not end on SIGTERM: {stuck}"
        assert not unclean, f"did not end well: {unclean}"
        assert not left, f"left over: {left}"

    def _leftovers(self):
        """Processes of ours that nobody waits for (detached daemons): found by the directory in their arguments. Those that start hooks end by themselves,
        a moment after a daemon that was killed."""
        end = deadline(5)
        while (found := self._ours()) and time.monotonic() < end:
            time.sleep(0.01)
        for pid, _command in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found

    def _ours(self):
        found = []
        needle = str(self.directory).encode()
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes()
                    if needle in command and b"claudemesh" in command:
                        found.append((int(entry.name), command))
        return found


class Broker:
    def __init__(self, world, name="broker", port=None, environment=None, arguments=()):
        self.world, self.name = world, name
        self.home = world.directory / name
        self.home.mkdir(exist_ok=True)
        self.port = port or free_port()
        self.more_environment = environment or {}
        self.arguments = list(arguments)
        self.process = None
        self.start()

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def log(self):
        return self.home / "broker.log"

    @property
    def store(self):
        return self.home / "broker.db"

    @property
    def admin_token_file(self):
        return self.home / "admin-token"

    def start(self, wait=True):
        self.process = self.world.start(
            [BINARY, "--config-dir", self.home / "config", "broker", "serve", "--listen", f"127.0.0.1:{self.port}", "--store",
             f"sqlite:{self.store}", *self.arguments],
            self.log, self.world.environment(**self.more_environment))
        if wait:
            self.wait_ready()

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, f"the broker ended: {self.log.read_text()[-2000:]}"
            try:
                return self.get("/health/ready").status == 200
            except OSError:
                return False
        wait_for(ready, 20, "the broker")

    def get(self, path, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10 * SLOW)
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(15 * SLOW) == 0

    def kill(self):
        self.process.kill()
        self.process.wait()


class Node:
    """One host: a configuration directory, maybe a daemon."""

    def __init__(self, world, name, environment=None):
        self.world, self.name = world, name
        self.config = world.directory / name
        self.process = None
        self.more_environment = environment or {}
        self.arguments = []
        self._api = None

    # -- the command line
    def cli(self, *arguments, input=None, check=0, timeout=60, environment=None):
        return self.world.run(BINARY, "--config-dir", self.config, *arguments, input=input, check=check, timeout=timeout,
                              environment=self.world.environment(**{**self.more_environment, **(environment or {})}))

    def json(self, *arguments, **more):
        return json.loads(self.cli("--json", *arguments, **more).stdout)

    # -- files
    def path(self, name):
        return self.config / "daemon" / name

    @property
    def socket_path(self):
        return str(self.path("daemon.sock"))

    @property
    def log(self):
        return self.world.directory / f"{self.name}.log"

    def mesh(self, index=0):
        return json.loads((self.config / "config.json").read_text())["meshes"][index]

    @property
    def pubkey(self):
        return self.mesh()["pubkey"]

    def settings(self, text):
        directory = self.config / "daemon"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(self.config, 0o700)
        path = directory / "config.toml"
        path.write_text(text)
        path.chmod(0o600)

    # -- the daemon
    def up(self, *arguments, wait=True):
        if arguments:
            self.arguments = list(arguments)
        flags = self.arguments or ["--no-tcp"]
        self.process = self.world.start([BINARY, "--config-dir", self.config, "daemon", "up", "--foreground", *flags], self.log,
                                        self.world.environment(**self.more_environment))
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, f"the daemon ended: {self.log.read_text()[-2000:]}"
            try:
                return self.api.get("/v1/health").status == 200
            except (OSError, http.client.HTTPException):
                self.api.close()
                return False
        wait_for(ready, 20, f"daemon {self.name}")

    def down(self):
        self.api.close()
        self.process.terminate()
        assert self.process.wait(15 * SLOW) == 0, self.log.read_text()[-2000:]

    def kill(self):
        self.api.close()
        self.process.kill()
        self.process.wait()

    @property
    def api(self):
        if self._api is None:
            self._api = Api(lambda: UnixConnection(self.socket_path))
            self.world.closers.append(self._api.close)
        return self._api

    def new_api(self):
        api = Api(lambda: UnixConnection(self.socket_path))
        self.world.closers.append(api.close)
        return api

    def tcp_api(self, token=True):
        port = int(self.path("http.port").read_text())
        headers = {}
        if token:
            headers["Authorization"] = "Bearer " + self.path("local-token").read_text().strip()
        api = Api(lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=30 * SLOW), headers)
        self.world.closers.append(api.close)
        return api

    def events(self, query="", last_event_id=None):
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        stream = Events(UnixConnection(self.socket_path, timeout=600), "/v1/events" + query, headers)
        self.world.closers.append(stream.close)
        return stream

    def health(self):
        return self.api.get("/v1/health").json

    def wait_connected(self, connected=True, seconds=30):
        def check():
            try:
                meshes = self.health()["meshes"]
            except (OSError, http.client.HTTPException):
                self.api.close()
                return False
            return meshes and all(mesh["connected"] is connected for mesh in meshes)
        wait_for(check, seconds, f"{self.name} to be {'' if connected else 'dis'}connected")

    def send(self, to, message, **fields):
        return self.api.post("/v1/send", {"to": to, "message": message, **fields})

    def inbox(self, **query):
        """Everything, oldest first, by paging."""
        items, cursor = [], None
        while True:
            parameters = {"limit": 1000, "order": "asc", **query}
            if cursor:
                parameters["cursor"] = cursor
            page = self.api.get("/v1/inbox?" + urllib.parse.urlencode(parameters)).json
            items += page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return items

    def wait_inbox(self, count, seconds=60):
        def enough():
            try:
                return len(self.inbox()) >= count
            except (OSError, http.client.HTTPException):
                self.api.close()
                return False
        end = deadline(seconds)
        while not enough():
            if time.monotonic() > end:
                raise AssertionError(f"{len(self.inbox())} of {count} messages in {self.name}'s inbox")
            time.sleep(0.05)
        return self.inbox()

    def outbox_counts(self):
        mesh = self.health()["meshes"][0]
        return mesh["pending"], mesh["inflight"], mesh["dead"]


def create_mesh(broker, node, slug="acme", name=None):
    node.cli("mesh", "create", slug, "--slug", slug, "--broker", broker.url, "--admin-token-file", broker.admin_token_file,
             "--name", name or node.name)


def join(owner, node, name=None, *, mesh=None, uses=1):
    arguments = ["--mesh", mesh] if mesh else []
    link = owner.cli(*arguments, "mesh", "invite", "--max-uses", str(uses)).stdout.decode().strip()
    node.cli("join", link, "--yes", "--name", name or node.name)
    return link


# ---- WebSocket (RFC 6455), both ends, for hostile clients and hostile brokers ----------------------------------------------------


class WebSocket:
    def __init__(self, sock, client):
        self.sock, self.client = sock, client
        self.buffer = b""
        self.close_code, self.close_reason = None, ""
        self.lock = threading.Lock()

    @classmethod
    def connect(cls, port, path="/ws", headers=None, host="127.0.0.1"):
        sock = socket.create_connection((host, port), timeout=20 * SLOW)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = {"Host": f"{host}:{port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key,
                 "Sec-WebSocket-Version": "13", **(headers or {})}
        sock.sendall(f"GET {path} HTTP/1.1\r\n".encode() + b"".join(f"{n}: {v}\r\n".encode() for n, v in lines.items() if v is not None) + b"\r\n")
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more:
                raise ConnectionError("closed during the handshake")
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        self = cls(sock, True)
        self.head = head.decode("latin-1")
        self.status = int(self.head.split(" ")[1])
        self.headers = {line.partition(":")[0].strip().lower(): line.partition(":")[2].strip() for line in self.head.split("\r\n")[1:]}
        self.challenge = self.headers.get("x-claudemesh-challenge")
        self.buffer = rest
        return self

    def _frame(self, opcode, payload, fin=True):
        head = bytes([(0x80 if fin else 0) | opcode])
        mask_bit = 0x80 if self.client else 0
        if len(payload) < 126:
            head += bytes([mask_bit | len(payload)])
        elif len(payload) < 65536:
            head += bytes([mask_bit | 126]) + struct.pack(">H", len(payload))
        else:
            head += bytes([mask_bit | 127]) + struct.pack(">Q", len(payload))
        if self.client:
            mask = os.urandom(4)
            repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big") if payload else b""
            head += mask
        return head + payload

    def send_raw(self, data):
        with self.lock:
            self.sock.sendall(data)

    def send_text(self, text):
        self.send_raw(self._frame(1, text.encode() if isinstance(text, str) else text))

    def send(self, frame):
        self.send_text(json.dumps(frame, ensure_ascii=False))

    def close(self, code=1000, reason=""):
        with contextlib.suppress(OSError):
            self.send_raw(self._frame(8, struct.pack(">H", code) + reason.encode()))
        with contextlib.suppress(OSError):
            self.sock.close()

    def abort(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def _need(self, size):
        while len(self.buffer) < size:
            more = self.sock.recv(262144)
            if not more:
                raise ConnectionError("closed")
            self.buffer += more
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def receive_text(self):
        """The next text message; None once closed (then close_code)."""
        message = b""
        while True:
            try:
                first, second = self._need(2)
                length = second & 0x7F
                if length == 126:
                    (length,) = struct.unpack(">H", self._need(2))
                elif length == 127:
                    (length,) = struct.unpack(">Q", self._need(8))
                mask = self._need(4) if second & 0x80 else None
                payload = self._need(length)
            except (OSError, ConnectionError) as error:
                if isinstance(error, (TimeoutError, socket.timeout)):
                    raise
                self.close_code = self.close_code or 1006
                return None
            if mask and payload:
                repeated = (mask * (length // 4 + 1))[:length]
                payload = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")
            opcode = first & 0x0F
            if opcode == 8:
                self.close_code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
                self.close_reason = payload[2:].decode("utf-8", "replace")
                with contextlib.suppress(OSError):
                    self.send_raw(self._frame(8, payload[:2]))
                return None
            if opcode == 9:
                with contextlib.suppress(OSError):
                    self.send_raw(self._frame(10, payload))
                continue
            if opcode == 10:
                continue
            message += payload
            if first & 0x80:
                return message.decode()

    def receive(self):
        text = self.receive_text()
        return None if text is None else json.loads(text)

    def receive_until(self, kind, **fields):
        """The next frame of this type (and these fields), others dropped."""
        while True:
            frame = self.receive()
            if frame is None:
                raise ConnectionError(f"closed {self.close_code} {self.close_reason!r} before {kind}")
            if frame.get("type") == kind and all(frame.get(name) == value for name, value in fields.items()):
                return frame


class WireClient:
    """A client of the broker that speaks the wire by hand, with a member's real keys."""

    CAPABILITIES = ["client_ack", "feature_negotiation", "sealed_envelope"]
    newest = 0

    def __init__(self, broker, mesh, key=None, session=None, hello=None, negotiate=True, auto=True, v2=True):
        """mesh: an entry of config.json, or a dict with meshId, memberId, pubkey, secretKey."""
        self.mesh, self.key = mesh, key or Key.from_secret_hex(mesh["secretKey"])
        self.url = mesh.get("brokerUrl", broker.url)
        self.ws = WebSocket.connect(broker.port)
        self.session = session or "test-" + os.urandom(6).hex()
        self.features = None
        if auto:
            self.ws.send(self.hello_frame(**(hello or {}), v2=v2))
            self.hello_ack = self.ws.receive_until("hello_ack")
            if negotiate:
                self.ws.send({"type": "feature_negotiation_request", "_reqId": "neg", "require": ["client_message_id_dedupe"],
                              "optional": ["sealed_envelope", "delivery_ack", "max_payload"]})
                self.features = self.ws.receive_until("feature_negotiation_response")

    def hello_frame(self, timestamp=None, v2=True, **more):
        if not timestamp:  # strictly ascending, as a daemon's: two in one millisecond would be a replay
            timestamp = WireClient.newest = max(int(time.time() * 1000), WireClient.newest + 1)
        mesh, pubkey = self.mesh, self.key.hex
        frame = {"type": "hello", "protocolVersion": 1, "meshId": mesh["meshId"], "memberId": mesh["memberId"], "pubkey": pubkey,
                 "sessionId": self.session, "pid": os.getpid(), "cwd": "", "hostname": "", "peerType": "connector",
                 "channel": "claudemesh-daemon", "capabilities": self.CAPABILITIES, "timestamp": timestamp}
        frame.update(more)
        if "signature" not in frame:
            frame["signature"] = self.key.sign(f"{frame['meshId']}|{frame['memberId']}|{frame['pubkey']}|{frame['timestamp']}".encode())
        if v2 and self.ws.challenge and "signature2" not in frame:
            frame["signature2"] = self.key.sign(statement(
                "claudemesh-hello-v2", self.url, self.ws.challenge, frame["meshId"], frame["memberId"], frame["pubkey"],
                frame["sessionId"], frame.get("sessionPubkey", ""), frame["timestamp"]))
        return frame

    def send_frame(self, to, client_message_id, ciphertext=b"x" * 64, fingerprint=None, priority="next", **more):
        return {"type": "send", "id": client_message_id, "client_message_id": client_message_id,
                "request_fingerprint": fingerprint or sha256(client_message_id.encode()), "targetSpec": to, "priority": priority,
                "nonce": base64.b64encode(os.urandom(24)).decode(), "ciphertext": base64.b64encode(ciphertext).decode(), "bodyVersion": 3,
                "destination_kind": "dm", "destination_ref": to, **more}

    def send(self, *arguments, **more):
        frame = self.send_frame(*arguments, **more)
        self.ws.send(frame)
        return self.ws.receive_until("ack", client_message_id=frame["client_message_id"])

    def seal(self, to_hex, body, client_message_id, *, sent_at=None, meta=None, reply_to=None, priority="next", rv=None, tamper=None,
             signer=None, sender=None, mentions=None):
        """An envelope as the specification says, maybe tampered with: nonce, ciphertext (bytes)."""
        sender = sender or self.key
        signer = signer or sender
        sent_at = sent_at or int(time.time() * 1000)
        rv = rv or "0:" + sha256(b"")
        meta_text = json.dumps(meta, separators=(",", ":"), sort_keys=True) if meta else ""
        fields = ["claudemesh-message-v1", self.mesh["meshId"], client_message_id, sender.hex, "dm", to_hex, str(sent_at),
                  sha256(body.encode()), sha256(meta_text.encode())]
        mentions_text = json.dumps(mentions, separators=(",", ":"), ensure_ascii=False) if mentions else ""
        if reply_to or mentions:
            fields += [reply_to or "", mentions_text]
        text = "\0".join(fields).encode()
        x_text = statement("claudemesh-message-x1", sha256(text), reply_to or "", sha256(mentions_text.encode()), priority, "", rv, "", "")
        envelope = {"v": 1, "id": client_message_id, "mesh": self.mesh["meshId"], "from": sender.hex, "kind": "dm", "to": to_hex,
                    "sent_at": sent_at, "body": body, "priority": priority, "rv": rv, "sig": signer.sign(text), "xsig": signer.sign(x_text)}
        if meta:
            envelope["meta"] = meta
        if reply_to:
            envelope["reply_to"] = reply_to
        if mentions:
            envelope["mentions"] = mentions
        if tamper:
            tamper(envelope)
        plain = json.dumps(envelope, ensure_ascii=False).encode()
        padded = plain + b"\x80" + b"\0" * (-(len(plain) + 1) % 128)
        return sender.box_for(bytes.fromhex(to_hex), padded)

    def push(self):
        """The next message that is pushed; what the system says is passed over."""
        while True:
            frame = self.ws.receive_until("push")
            if frame.get("subtype") != "system":
                return frame

    def close(self):
        self.ws.close()


class Stub:
    """A WebSocket server whose behaviour a test writes: for hostile and old brokers. handler(connection, index) runs in a thread a connection."""

    def __init__(self, world, handler, challenge=True, port=None):
        self.handler, self.challenge = handler, challenge
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port or 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/ws"
        self.connections, self.errors, self.count = [], [], 0
        self.stopping = False
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()
        world.closers.append(self.close)

    def _accept(self):
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            index = self.count
            self.count += 1
            threading.Thread(target=self._serve, args=(sock, index), daemon=True).start()

    def _serve(self, sock, index):
        try:
            sock.settimeout(120)
            data = b""
            while b"\r\n\r\n" not in data:
                more = sock.recv(65536)
                if not more:
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            headers = {line.partition(":")[0].strip().lower(): line.partition(":")[2].strip() for line in head.decode("latin-1").split("\r\n")[1:]}
            accept = base64.b64encode(hashlib.sha1((headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
            connection = WebSocket(sock, False)
            connection.buffer = rest
            connection.challenge = os.urandom(32).hex() if self.challenge else None
            extra = f"X-Claudemesh-Challenge: {connection.challenge}\r\n" if self.challenge else ""
            sock.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{extra}\r\n".encode())
            self.connections.append(connection)
            self.handler(connection, index)
        except (OSError, ConnectionError):
            pass
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.errors.append(repr(error))
        finally:
            with contextlib.suppress(OSError):
                sock.close()

    def close(self):
        self.stopping = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.abort()


FEATURES = {
    "client_message_id_dedupe": {"params": {"version": 1, "mode": "retention_scoped", "dedupe_retention_days": 365, "request_fingerprint": True}},
    "concurrent_connection_policy": {"params": {"version": 1}},
    "member_keypair_rotated_event": {"params": {"version": 1}},
    "key_epoch": {"params": {"version": 1, "max_concurrent_epochs": 2}},
    "max_payload": {"params": {"version": 1, "inline_bytes": 65536, "blob_bytes": 536870912}},
    "sealed_envelope": {"params": {"version": 1}},
    "delivery_ack": {"params": {"version": 1}},
}


def stub_handshake(connection, features=FEATURES, members=(), answer_negotiation=True):
    """Plays a broker up to the open link: hello_ack, negotiation, member list. Returns the hello."""
    hello = connection.receive()
    connection.send({"type": "hello_ack", "presenceId": "p1", "memberDisplayName": "x", "brokerVersion": "stub"})
    request = connection.receive()
    if answer_negotiation and request and request.get("type") == "feature_negotiation_request":
        missing = [name for name in request.get("require", []) if name not in features]
        connection.send({"type": "feature_negotiation_response", "_reqId": request.get("_reqId"), "supported": features, "missing_required": missing})
    return hello


def stub_answer(connection, frame, members=(), revocations=()):
    """Answers the requests that a daemon makes by itself; True when it was one."""
    kind = frame.get("type")
    if kind == "list_members":
        connection.send({"type": "members_list", "_reqId": frame.get("_reqId"), "members": list(members), "revocations": list(revocations)})
    elif kind == "list_peers":
        connection.send({"type": "peers_list", "_reqId": frame.get("_reqId"), "peers": []})
    elif kind in ("set_status", "set_summary", "set_visible", "set_profile", "ping"):
        pass
    else:
        return False
    return True


def fake_mesh(node, url, owner=None, key=None, slug="acme", member_id="member-1", mesh_id=None):
    """Writes a joined mesh into the configuration by hand, for daemons that face a Stub. Returns the config entry."""
    import uuid
    key = key or Key()
    owner = owner or key
    entry = {"meshId": mesh_id or str(uuid.uuid4()), "memberId": member_id, "slug": slug, "name": slug, "pubkey": key.hex,
             "secretKey": key.secret.hex(), "brokerUrl": url, "joinedAt": "2026-01-01T00:00:00.000Z", "role": "admin",
             "ownerPubkey": owner.hex}
    node.config.mkdir(mode=0o700, exist_ok=True)
    path = node.config / "config.json"
    document = json.loads(path.read_text()) if path.exists() else {"version": 1, "meshes": []}
    document["meshes"].append(entry)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
    return entry


def acknowledge(frame, status=201, **more):
    """An ack for a send frame."""
    ack = {"type": "ack", "id": frame["id"], "client_message_id": frame["client_message_id"], "status": status}
    if status in (200, 201):
        ack.update(messageId="01" + sha256(frame["id"].encode())[:24].upper(), queued=True, duplicate=status == 200, history_id=1, history_available=True)
    else:
        ack.update(messageId="", queued=False, error=more.pop("error", "refused: no"))
    ack.update(more)
    return ack
