"""A standard error that nobody reads (80-operations, Logs): whoever started the process may hang, and the process must not hang with it."""

import fcntl
import http.client
import json
import os
import subprocess
import time

from harness import BINARY, SLOW, Api, Broker, Node, create_mesh, deadline, free_port, wait_for

F_SETPIPE_SZ, PIPE_BYTES = 1031, 4096
QUEUE_BYTES = 256 * 1024  # what the process keeps for a reader that is late


class Pipe:
    """A process's standard error, that is read when the test says so."""

    def __init__(self, world, arguments):
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, F_SETPIPE_SZ, PIPE_BYTES)
        world.closers.append(lambda: os.close(self.reader))
        self.process = subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer,
                                        env=world.environment(), cwd=world.directory)
        world.processes.append(self.process)
        os.close(writer)
        os.set_blocking(self.reader, False)
        self.said = b""

    def read(self):
        """What is there; False at its end."""
        try:
            part = os.read(self.reader, 1 << 20)
        except BlockingIOError:
            time.sleep(0.005)
            return True
        self.said += part
        return bool(part)

    def entries(self):
        return [json.loads(line) for line in self.said.decode().splitlines()]  # each line whole, or this fails

    def read_to_the_end(self):
        end = deadline(20)
        while self.read():
            assert time.monotonic() < end, "it does not end"
        return self.entries()


def daemon_with_pipe(world):
    alice = Node(world, "alice")
    broker = Broker(world)
    create_mesh(broker, alice)
    pipe = Pipe(world, [BINARY, "--config-dir", alice.config, "daemon", "up", "--foreground", "--no-tcp"])
    alice.process = pipe.process
    wait_for(lambda: os.path.exists(alice.socket_path) and ready(alice), 20, "the daemon")
    return alice, pipe


def ready(node):
    try:
        return node.api.get("/v1/health").status == 200
    except OSError:
        node.api.close()
        return False


def log_much(node):
    """Far more than a pipe and what is kept for it take: each reload is a line."""
    lines = 0
    while lines * 90 < 2 * QUEUE_BYTES:
        assert node.api.post("/v1/daemon/reload").status == 200
        lines += 1
    return lines


def test_a_daemon_whose_log_nobody_reads_serves_on_and_tells_what_was_lost(world):
    alice, pipe = daemon_with_pipe(world)
    lines = log_much(alice)
    assert alice.health()["ok"] in (True, False)
    wait_for(lambda: pipe.read() and len(pipe.said) > PIPE_BYTES * 4 and pipe.said.endswith(b"\n"), 20, "what was kept")
    alice.api.post("/v1/daemon/reload")  # there is room now: what is missing is told
    wait_for(lambda: pipe.read() and b"log_lines_lost" in pipe.said, 20, "how much was lost")
    pipe.process.terminate()
    entries = pipe.read_to_the_end()
    assert pipe.process.wait(15) == 0
    told = sum(entry["msg"] == "reloaded" for entry in entries)
    lost = sum(entry["lines"] for entry in entries if entry["msg"] == "log_lines_lost")
    assert lost > 0 and told + lost >= lines + 1
    assert entries[-1]["msg"] == "daemon_stopped"


def test_a_daemon_whose_log_nobody_reads_stops_when_it_is_told(world):
    alice, pipe = daemon_with_pipe(world)
    log_much(alice)
    alice.api.close()
    pipe.process.terminate()
    assert pipe.process.wait(15) == 0
    assert not os.path.exists(alice.socket_path) and alice.path("daemon.pid").read_bytes() == b""


def test_a_broker_whose_log_nobody_reads_serves_on_and_stops(world):
    port = free_port()
    pipe = Pipe(world, [BINARY, "--config-dir", world.directory / "b", "broker", "serve", "--listen", f"127.0.0.1:{port}"])
    client = Api(lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=10 * SLOW))
    world.closers.append(client.close)

    def is_ready():
        try:
            return client.get("/health/ready").status == 200
        except OSError:
            client.close()
            return False
    wait_for(is_ready, 20, "the broker")
    for _ in range(2 * QUEUE_BYTES // 100):
        assert client.get("/health/ready?token=x").status == 400
    client.close()
    pipe.process.terminate()
    assert pipe.process.wait(15) == 0
