"""10-cli "The daemon" and 80-operations "Signals": up, down, singleton, stale files, damage."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time

import pytest

from harness import BINARY, SLOW, Broker, Key, Node, create_mesh, fake_mesh, free_port, join, wait_for


@pytest.fixture
def node(world):
    node = Node(world, "host")
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    yield node
    node.cli("daemon", "down", check=None)


def test_up_detaches_waits_until_ready_and_down_stops_it(node):
    up = node.cli("daemon", "up", "--no-tcp")
    text = up.stdout.decode()
    pid = int(node.path("daemon.pid").read_text())
    assert str(pid) in text and "daemon.sock" in text and "daemon.log" in text
    assert node.api.get("/v1/health").json["pid"] == pid, "ready when it says so"
    assert os.getsid(pid) != os.getsid(0)
    again = node.cli("daemon", "up", "--no-tcp", check=1)
    assert str(pid) in again.stderr.decode()
    status = node.json("daemon", "status")
    assert status["pid"] == pid
    assert node.cli("daemon", "status").returncode == 0
    version = node.json("daemon", "version")
    assert version["daemon_version"]
    restarted = node.cli("daemon", "restart")
    wait_for(lambda: node.path("daemon.pid").read_text() not in ("", str(pid)), 10)
    node.api.close()
    assert node.api.get("/v1/health").json["pid"] != pid
    assert node.cli("daemon", "logs").stdout.strip()
    down = node.cli("daemon", "down")
    assert down.returncode == 0
    assert not os.path.exists(node.socket_path) and node.path("daemon.pid").read_text() == ""
    assert node.cli("daemon", "status", check=1).returncode == 1
    assert node.cli("daemon", "down", check=None).returncode in (0, 1)


def test_stale_files_are_never_in_the_way(node):
    node.up()
    node.kill()
    assert os.path.exists(node.socket_path), "a killed daemon leaves its socket"
    assert node.path("daemon.pid").read_text()
    node.up()
    node.kill()
    # the pid of a stranger in the file: the lock is the truth, not the number
    node.path("daemon.pid").write_text(str(os.getpid()))
    node.cli("daemon", "status", check=1)
    assert node.cli("daemon", "down", check=None).returncode in (0, 1)  # and we are still alive
    node.up()
    node.down()


def test_two_daemons_racing_for_one_directory_exactly_one_runs(world):
    for _ in range(5):
        node = Node(world, f"race-{_}")
        fake_mesh(node, "ws://127.0.0.1:1/ws")
        racers = [world.start([BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--no-tcp"], world.directory / f"race-{_}-{i}.log")
                  for i in range(4)]
        wait_for(lambda: sum(process.poll() is not None for process in racers) == 3, 20, "three to give up")
        assert sorted(process.poll() for process in racers if process.poll() is not None) == [1, 1, 1]
        node.process = next(process for process in racers if process.poll() is None)
        node.wait_ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_is_in_flight_and_cleans_up(node, number):
    node.up("--tcp-port", "0")
    port_file = node.path("http.port")
    assert port_file.stat().st_mode & 0o777 == 0o644
    import http.client
    import threading
    from harness import UnixConnection
    held = UnixConnection(node.socket_path, 60)
    held.request("POST", "/v1/send?wait=2", json.dumps({"to": node.pubkey, "message": "held"}), {"Content-Type": "application/json"})
    wait_for(lambda: node.outbox_counts()[0] == 1)
    node.process.send_signal(number)
    assert held.getresponse().status == 202
    assert node.process.wait(15) == 0
    assert not port_file.exists() and not os.path.exists(node.socket_path)
    assert node.path("daemon.pid").exists() and node.path("daemon.pid").read_text() == ""
    assert not [p for p in node.path("").iterdir() if p.name.endswith("-wal") and p.stat().st_size > 0], "a clean stop leaves an empty log"


def test_tcp_port_taken_another_is_used_and_written_down(world):
    port = free_port()
    listener = socket.socket()
    listener.bind(("127.0.0.1", port))
    listener.listen(1)
    node = Node(world, "host")
    node.up("--tcp-port", str(port))
    assert int(node.path("http.port").read_text()) != port
    assert node.tcp_api().get("/v1/health").status == 200
    listener.close()


def test_a_socket_path_that_is_too_long_is_an_error_that_names_the_flag(world):
    node = Node(world, "x" * 100)
    done = node.cli("daemon", "up", check=None)
    assert done.returncode != 0 and "--config-dir" in done.stderr.decode()


def test_a_damaged_outbox_is_refused_and_untouched(node):
    node.up()
    for number in range(50):
        node.send(node.pubkey, "x" * 2000)
    node.kill()
    path = node.path("outbox.db")
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists() and suffix == "-wal":
            connection = sqlite3.connect(path)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
    data = bytearray(path.read_bytes())
    for offset in range(4096 * 2, len(data), 4096):
        data[offset:offset + 200] = b"\xff" * 200
    path.write_bytes(data)
    before = path.read_bytes()
    node.up(wait=False)
    assert node.process.wait(15) == 1
    assert "daemon recover" in node.log.read_text()
    assert path.read_bytes() == before
    path.unlink()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    node.up()
    node.down()


def test_a_damaged_inbox_is_moved_aside(pair):
    broker, alice, bob = pair
    alice.send("bob", "x" * 5000)
    bob.wait_inbox(1)
    bob.kill()
    path = bob.path("inbox.db")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xee" * (len(data) - 4096)
    path.write_bytes(data)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    bob.up()
    assert "inbox_corruption_recovered" in bob.log.read_text()
    assert list(path.parent.glob("inbox.db.corrupt-*"))
    alice.send("bob", "after the damage")
    assert {item["body"] for item in bob.wait_inbox(2)} == {"after the damage", "x" * 5000}  # the older from the broker's history


def test_a_newer_schema_is_refused_with_the_version(node):
    node.up()
    node.down()
    connection = sqlite3.connect(node.path("outbox.db"))
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version:
        connection.execute("PRAGMA user_version = 999")
    else:
        connection.execute("UPDATE schema SET version = 999")
    connection.commit()
    connection.close()
    node.up(wait=False)
    assert node.process.wait(15) == 1
    assert "999" in node.log.read_text()


def test_a_full_disk_is_507_and_everything_resumes(world):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    small = world.directory / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(small)], capture_output=True).returncode != 0:
        pytest.skip("cannot mount here")
    try:
        broker, alice, bob = Broker(world), Node(world, "small/alice"), Node(world, "bob")
        create_mesh(broker, alice, name="alice")
        join(alice, bob)
        (world.directory / "small").mkdir(exist_ok=True)
        alice.up()
        bob.up()
        alice.wait_connected()
        wait_for(lambda: any(p["name"] == "bob" for p in alice.api.get("/v1/peers").json["peers"]))
        broker.kill()
        alice.wait_connected(False)
        accepted, refused = [], 0
        for number in range(200):
            answer = alice.send("bob", "y" * 20000, client_message_id=f"full-{number}")
            if answer.status == 202:
                accepted.append(f"full-{number}")
            else:
                assert answer.status == 507 and answer.json["error"] == "insufficient_storage", answer
                refused += 1
                if refused > 5:
                    break
        assert refused and accepted
        assert alice.health()["ok"] is False or alice.health()["degraded"]
        assert subprocess.run(["mount", "-o", "remount,size=64m", str(small)], capture_output=True).returncode == 0
        broker.start()
        items = bob.wait_inbox(len(accepted))
        assert [item["client_message_id"] for item in items] == accepted
        assert alice.send("bob", "room again").status == 202
        wait_for(lambda: alice.health()["ok"] is True, 20, "all well")
        alice.down()
    finally:
        subprocess.run(["umount", "-l", str(small)], capture_output=True)


def test_idle_memory_and_start_are_small(node):
    import time as clock
    started = clock.monotonic()
    node.up()
    assert clock.monotonic() - started < 5
    rollup = open(f"/proc/{node.process.pid}/smaps_rollup").read()
    pss = int([line for line in rollup.splitlines() if line.startswith("Pss:")][0].split()[1])
    if SLOW == 1:  # a sanitizer's memory is not ours
        assert pss < 20 * 1024, f"{pss} KiB"
    node.down()
