"""What the hostile tests share: the three HTTP servers (the daemon's socket and TCP port, the broker) behind one face, raw bytes to them, their answers taken apart."""

import http.client
import json
import os
import pathlib
import re
import socket
import struct
import time
import uuid

from harness import SLOW, Broker, Key, Node, UnixConnection, World, fake_mesh, messages, wait_for  # noqa: F401

LIMIT = 20 * SLOW  # seconds that nothing may take


def memory_kib(process):
    return int(re.search(r"VmRSS:\s*(\d+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())[1])


class Server:
    """One HTTP server: where it is, what it takes, how many it accepted."""

    def __init__(self, name, process, connect, port, token, get, post, ok):
        self.name, self.process, self.connect, self.port, self.token = name, process, connect, port, token
        self.get, self.post, self.ok = get, post, ok
        self.memory_at_first = memory_kib(process)
        length = len(self.body())
        self.constants = {"<get>": get, "<getx>": get[:-1] + f"%{ord(get[-1]):02x}", "<post>": post, "<port>": str(port), "<wrapped>": str(port + 65536), "<token>": token, "<length>": str(length), "<hex>": f"{length:x}",
                          "<h>": f"Host: localhost\r\nAuthorization: Bearer {token}\r\n"}
        smuggled = len(self.fill("<smuggled>"))
        self.constants.update({"<slength>": str(smuggled), "<slength2>": str(2 * smuggled), "<shex>": f"{smuggled:x}"})
        self.accepted_at_first = self.accepted()

    def fill(self, data):
        """The case's bytes for this server."""
        data = data.replace("<chunked>", "<hex>\r\n<body>\r\n0\r\n\r\n").replace("<smuggled>", "POST <post> HTTP/1.1\r\n<h>Content-Length: <length>\r\n\r\n<body>")
        for mark, value in self.constants.items():
            data = data.replace(mark, value)
        first, *rest = data.split("<body>")
        data = first + "".join(self.body() + part for part in rest)
        while (mark := re.search(r"<pad (\d+)>", data)) is not None:
            start, end = data.rindex("GET ", 0, mark.start()), data.index("\r\n\r\n", mark.end()) + 4
            data = data[:mark.start()] + "p" * (int(mark[1]) - (end - start) + len(mark[0])) + data[mark.end():]
        return data.encode("latin-1")

    def request(self, method="GET", target=None, body=None):
        connection = UnixConnection(self.socket_path) if self.name == "unix" else http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, target or self.get, body, {"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def check_alive(self):
        assert self.process.poll() is None, f"{self.name} ended"
        assert self.request()[0] == 200


class DaemonServer(Server):
    def __init__(self, node, transport):
        self.node, self.socket_path, self.number = node, node.socket_path, 0
        self.to = Key().hex
        port = int(node.path("http.port").read_text())

        def connect():
            if transport == "tcp":
                return socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(LIMIT)
            sock.connect(node.socket_path)
            return sock

        super().__init__(transport, node.process, connect, port, node.path("local-token").read_text().strip(), "/v1/version", "/v1/send", 202)

    def body(self):
        self.number += 1
        return json.dumps({"to": self.to, "message": f"hostile {self.number:09d}"})

    def accepted(self):
        pending, inflight, dead = self.node.outbox_counts()
        return pending + inflight + dead


class BrokerServer(Server):
    def __init__(self, broker):
        self.broker = broker
        super().__init__("broker", broker.process, lambda: socket.create_connection(("127.0.0.1", broker.port), timeout=LIMIT), broker.port,
                         broker.admin_token_file.read_text().strip(), "/health", "/mesh", 200)

    def body(self):
        owner, mesh_id, at = Key(), str(uuid.uuid4()), int(time.time() * 1000)
        slug = mesh_id[:13]
        signature = owner.sign(f"mesh|{mesh_id}|{slug}|{owner.hex}|{at}".encode())
        return json.dumps({"mesh_id": mesh_id, "slug": slug, "name": "m", "owner_pubkey": owner.hex, "display_name": "o", "timestamp": at, "signature": signature})

    def accepted(self):
        return self.request()[1]["meshes"]


def make_servers(world, settings=""):
    """A daemon whose link is down, so that what it accepts stays; and a broker."""
    node = Node(world, "host")
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    node.settings("[ipc]\nrate_limit_rps = 0\n" + settings)
    node.up("--tcp-port", "0")
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_BROKER_MAX_NEW_CONNECTIONS_PER_SECOND": "0"})
    return {"unix": DaemonServer(node, "unix"), "tcp": DaemonServer(node, "tcp"), "broker": BrokerServer(broker)}


# ---- raw exchange --------------------------------------------------------------------------------------------------------


class Wire:
    """One connection: bytes out, answers in."""

    def __init__(self, server):
        self.sock, self.buffer, self.continued = server.connect(), b"", 0
        self.ended = self.reset = False

    def send(self, data):
        """False: the peer took no more."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send_by_bytes(self, data):
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return all(self.send(data[at:at + 1]) for at in range(len(data)))

    def finish(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset_connection(self):
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def fill(self):
        """False at the end."""
        try:
            data = self.sock.recv(262144)
        except ConnectionResetError:
            data, self.reset = b"", True
        self.ended = not data
        self.buffer += data
        return bool(data)

    def answer(self, bodyless=False):
        """(status, headers, body) of the next one; None when the connection ends before it. Interim answers are counted only."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.fill():
                assert not self.buffer, f"half an answer: {self.buffer[:200]!r}"
                return None
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.1 (\d{3}) [ -~]+$", head.split(b"\r\n")[0])
        assert match, f"no status line: {head[:200]!r}"
        status = int(match[1])
        headers = {}
        for line in head.split(b"\r\n")[1:]:
            name, colon, value = line.partition(b": ")
            assert colon and name.lower() not in headers, line
            headers[name.decode().lower()] = value.decode("latin-1")
        if status == 100:
            self.buffer, self.continued = rest, self.continued + 1
            return self.answer(bodyless)
        if status == 101:
            self.buffer = rest
            return status, headers, b""
        size = 0 if bodyless or status == 204 else int(headers["content-length"])
        while len(rest) < size:
            before = len(self.buffer)
            assert self.fill(), f"half a body: {self.buffer[:200]!r}"
            rest += self.buffer[before:]
        self.buffer = rest[size:]
        if 400 <= status and not bodyless:
            error = json.loads(rest[:size])
            assert re.fullmatch(r"[a-z_]+", error["error"]) and isinstance(error["detail"], str) and error["detail"], error
            assert headers["content-type"] == "application/json"
        return status, headers, rest[:size]

    def close(self):
        self.sock.close()
