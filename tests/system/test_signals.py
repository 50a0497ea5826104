"""Signals (80-operations, Signals) at moments that are inconvenient: while the daemon or the broker starts, with streams open."""

import os
import signal
import subprocess
import time

import pytest

from harness import BINARY, SLOW, Broker, Events, Node, UnixConnection, create_mesh, deadline, free_port, wait_for


def spawn(world, *arguments):
    process = subprocess.Popen([BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env=world.environment(), cwd=world.directory)
    world.processes.append(process)
    return process


def wait_size(path, seconds=15):
    """Without a pause: the moment is what is tested."""
    end = deadline(seconds)
    while time.monotonic() < end:
        try:
            if os.stat(path).st_size > 0:
                return
        except FileNotFoundError:
            pass
    raise AssertionError(f"no {path}")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_while_the_daemon_starts_is_answered_as_later(world, name):
    for attempt in range(12):
        config = world.directory / f"{name}{attempt}"
        process = spawn(world, "--config-dir", config, "daemon", "up", "--foreground", "--no-tcp")
        wait_size(config / "daemon" / "daemon.pid")
        time.sleep(attempt / 2000)
        process.send_signal(getattr(signal, name))
        if name in ("SIGHUP", "SIGUSR1"):
            wait_for(lambda: (config / "daemon" / "daemon.sock").exists() or process.poll() is not None, 15, "the socket")
            assert process.poll() is None, attempt
            process.terminate()
        assert process.wait(15 * SLOW) == 0, attempt
        assert (config / "daemon" / "daemon.pid").read_bytes() == b"" and not (config / "daemon" / "daemon.sock").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_while_the_broker_starts_is_answered_as_later(world, name):
    for attempt in range(6):
        store = world.directory / f"{name}{attempt}.db"
        process = spawn(world, "--config-dir", world.directory / "c", "broker", "serve", "--listen", f"127.0.0.1:{free_port()}", "--store", f"sqlite:{store}")
        wait_for(lambda: store.exists(), 15, "the store")
        process.send_signal(getattr(signal, name))
        if name != "SIGTERM":
            time.sleep(0.05)
            process.terminate()
        assert process.wait(15 * SLOW) == 0, attempt


def test_sigterm_with_thirty_two_streams_open_and_one_more_signal_each(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    alice.up("--tcp-port", "0")
    streams = [Events(UnixConnection(alice.socket_path)) for _ in range(32)]
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
        alice.process.send_signal(number)
    begin = time.monotonic()
    assert alice.process.wait(15 * SLOW) == 0
    assert time.monotonic() - begin < 8 * SLOW
    for stream in streams:
        stream.close()
    assert alice.path("daemon.pid").read_bytes() == b"" and not alice.path("daemon.sock").exists() and not alice.path("http.port").exists()
