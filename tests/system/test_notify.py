"""What a service manager hears (80-operations, Service): readiness, reloads, the end, and, from the real loop, that it turns."""

import os
import signal
import socket
import threading
import time

import pytest

from harness import BINARY, Broker, Node, create_mesh, deadline, free_port, wait_for


class Supervisor:
    """The manager's end of $NOTIFY_SOCKET."""

    def __init__(self, world, abstract=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if abstract:
            name = f"claudemesh-{world.directory.name}"
            self.socket.bind("\0" + name)
            self.name = "@" + name
        else:
            self.name = str(world.directory / "notify")
            self.socket.bind(self.name)
        self.heard = []  # (monotonic time, {field: value})
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        world.closers.append(self.socket.close)

    def _listen(self):
        while True:
            try:
                text = self.socket.recv(4096).decode()
            except OSError:
                return
            self.heard.append((time.monotonic(), dict(line.split("=", 1) for line in text.split("\n"))))

    def said(self, field):
        return [(when, fields) for when, fields in list(self.heard) if field in fields]

    def wait(self, field, count=1, seconds=15):
        wait_for(lambda: len(self.said(field)) >= count, seconds, f"{count} {field}")
        return self.said(field)

    def environment(self, watchdog_ms=None, **more):
        environment = {"NOTIFY_SOCKET": self.name, **more}
        if watchdog_ms:
            environment["WATCHDOG_USEC"] = str(watchdog_ms * 1000)
        return environment


def start(world, supervisor, watchdog_ms=None, config="home", **more):
    environment = world.environment(**supervisor.environment(watchdog_ms, **more))
    return world.start([BINARY, "--config-dir", world.directory / config, "daemon", "up", "--foreground", "--no-tcp"],
                       world.directory / "log", environment=environment)


@pytest.mark.parametrize("abstract", [False, True])
def test_it_says_ready_when_the_socket_serves_and_stopping_when_it_ends(world, abstract):
    supervisor = Supervisor(world, abstract)
    process = start(world, supervisor)
    fields = supervisor.wait("READY")[0][1]
    assert fields["READY"] == "1" and fields["STATUS"] == "Serving 0 meshes, 0 connected"
    with socket.socket(socket.AF_UNIX) as client:  # at once, without another try
        client.connect(str(world.directory / "home/daemon/daemon.sock"))
        client.sendall(b"GET /v1/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    assert not supervisor.said("WATCHDOG") and not supervisor.said("STOPPING")  # nobody asked for the first
    process.send_signal(signal.SIGTERM)
    supervisor.wait("STOPPING")
    assert process.wait(20) == 0


def test_ready_is_said_again_to_a_manager_whose_queue_was_full(world):
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    world.closers.append(manager.close)
    manager.bind(str(world.directory / "notify"))
    others, room = [], True
    while room:  # a sender's own buffer may be full before the queue is
        others.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        others[-1].setblocking(False)
        others[-1].connect(str(world.directory / "notify"))
        sent = 0
        try:
            while True:
                others[-1].send(b"STATUS=busy")
                sent += 1
        except BlockingIOError:
            room = sent > 0
    for other in others:
        other.close()
    world.start([BINARY, "--config-dir", world.directory / "home", "daemon", "up", "--foreground", "--no-tcp"], world.directory / "log",
                environment=world.environment(NOTIFY_SOCKET=str(world.directory / "notify"), WATCHDOG_USEC="400000"))
    wait_for(lambda: "daemon_ready" in (world.directory / "log").read_text(), 15, "the daemon")
    time.sleep(0.3)  # it has tried by now
    manager.settimeout(15)
    end = deadline(15)
    while not manager.recv(4096).startswith(b"READY=1\nSTATUS=Serving"):
        assert time.monotonic() < end


def test_a_reload_is_told_with_its_time_and_its_end_also_when_the_file_is_wrong(world):
    supervisor = Supervisor(world)
    process = start(world, supervisor)
    supervisor.wait("READY")
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    process.send_signal(signal.SIGHUP)
    supervisor.wait("READY", 2)
    reloading = supervisor.said("RELOADING")[0][1]
    assert before - 1 <= int(reloading["MONOTONIC_USEC"]) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)
    settings = world.directory / "home/daemon/config.toml"
    settings.touch(0o600)
    settings.write_text("not = [toml")
    process.send_signal(signal.SIGHUP)
    supervisor.wait("READY", 3)
    assert len(supervisor.said("RELOADING")) == 2


def test_the_loop_feeds_the_watchdog_at_half_the_interval_and_only_while_it_turns(world):
    supervisor = Supervisor(world)
    process = start(world, supervisor, watchdog_ms=1000)
    fed = [when for when, _ in supervisor.wait("WATCHDOG", 6)]
    gaps = [after - before for before, after in zip(fed, fed[1:])]
    assert min(gaps) > 0.3 and len([gap for gap in gaps if gap < 1]) >= 4, gaps
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: "T" in open(f"/proc/{process.pid}/stat").read().split(") ")[1][:1], 10, "it to stand still")
    count = len(supervisor.said("WATCHDOG"))
    time.sleep(2.5)  # what is looked for is that nothing comes
    assert len(supervisor.said("WATCHDOG")) <= count + 1
    process.send_signal(signal.SIGCONT)
    supervisor.wait("WATCHDOG", count + 3)


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(world):
    supervisor = Supervisor(world)
    start(world, supervisor, watchdog_ms=200, WATCHDOG_PID="1")
    supervisor.wait("READY")
    supervisor.wait("STATUS")
    time.sleep(1)
    assert not supervisor.said("WATCHDOG")


def test_the_status_follows_the_links(world):
    broker, node = Broker(world), Node(world, "alice")
    create_mesh(broker, node)
    supervisor = Supervisor(world)
    environment = world.environment(**supervisor.environment(400))
    world.start([BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--no-tcp"], world.directory / "log", environment=environment)
    wait_for(lambda: any(fields["STATUS"] == "Serving 1 mesh, 1 connected" for _, fields in supervisor.said("STATUS")), 20, "the connection")


@pytest.mark.parametrize("name", ["/no/such/socket", "@no-such-abstract-socket", "vsock:2:1234", "relative", "/" + "x" * 200, ""])
def test_a_manager_that_is_not_there_is_no_reason_not_to_serve(world, name):
    process = world.start([BINARY, "--config-dir", world.directory / "home", "daemon", "up", "--foreground", "--no-tcp"], world.directory / "log",
                          environment=world.environment(NOTIFY_SOCKET=name, WATCHDOG_USEC="100000"))
    path = world.directory / "home/daemon/daemon.sock"
    wait_for(path.exists, 15, "the socket")
    assert process.poll() is None


def test_a_detached_daemon_is_nobodys_service(world):
    supervisor = Supervisor(world)
    node = Node(world, "alice")
    world.run(BINARY, "--config-dir", node.config, "daemon", "up", "--no-tcp", environment=world.environment(**supervisor.environment(200)), check=0)
    try:
        assert not supervisor.heard
    finally:
        world.run(BINARY, "--config-dir", node.config, "daemon", "down", check=0)


def test_the_broker_tells_too(world):
    supervisor = Supervisor(world)
    environment = world.environment(**supervisor.environment(400))
    process = world.start([BINARY, "--config-dir", world.directory / "home", "broker", "serve", "--listen", f"127.0.0.1:{free_port()}"],
                          world.directory / "log", environment=environment)
    assert supervisor.wait("READY")[0][1]["STATUS"] == "Serving 0 connections"
    supervisor.wait("WATCHDOG", 3)
    process.send_signal(signal.SIGTERM)
    supervisor.wait("STOPPING")
    assert process.wait(20) == 0
    assert os.path.exists(world.directory / "home/broker/broker.db")
