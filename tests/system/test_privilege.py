"""What the serving processes give up (80-operations, Service; 90-quality, Held to), seen from outside, and the units that ship."""

import configparser
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import threading

import pytest

from harness import BINARY, ROOT, Broker, Node, create_mesh, join, wait_for

PACKAGING = ROOT / "packaging"
EXPOSURE_MAXIMUM = 2.0


# The sanitizer's run-time takes mlock away, and memory of its own.
plain_only = pytest.mark.skipif(b"__asan_init" in pathlib.Path(BINARY).read_bytes() if os.path.exists(BINARY) else False,
                                reason="a sanitizer's build")


def process_status(pid):
    return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def dropped(log):
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"privilege_dropped"' in line]
    assert len(lines) == 1
    return lines[0]


def held(pid):
    status = process_status(pid)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) == 0
    # every thread, not the first alone
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text()
        assert "NoNewPrivs:\t1" in lines and "Seccomp:\t2" in lines and "CapEff:\t0000000000000000" in lines


def test_a_running_daemon_has_given_up_what_it_does_not_need_and_says_so(pair):
    broker, alice, bob = pair
    held(alice.process.pid)
    line = dropped(alice.log)
    assert line["no_new_privileges"] and line["no_capabilities"] and line["seccomp"] and line["failed"] is None and line["landlock"] >= 1
    held(broker.process.pid)
    assert dropped(broker.log)["seccomp"]
    # and it works: both ways, and across a reload
    assert alice.api.post("/v1/send?wait=20", {"to": "bob", "message": "confined"}).status == 200
    bob.wait_inbox(1)
    alice.settings('[daemon]\nlog_level = "debug"\n')
    alice.cli("daemon", "reload", check=0)
    wait_for(lambda: '"reloaded"' in alice.log.read_text(), 15, "the reload")
    assert alice.api.post("/v1/send?wait=20", {"to": "bob", "message": "after a reload"}).status == 200


def test_a_log_is_rotated_and_a_mesh_joined_by_a_confined_daemon(world):
    """What must still be done in the configuration directory: new files, renames, config.json read again."""
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    bob.cli("daemon", "up", "--no-tcp", check=0)
    try:
        create_mesh(broker, alice)
        join(alice, bob)
        wait_for(lambda: json.loads(bob.cli("daemon", "status", "--json", check=0).stdout)["meshes"], 20, "the mesh to be taken up")
        bob.settings('[log]\nmax_size = "1KB"\n')
        bob.cli("daemon", "reload", check=0)
        bob.cli("daemon", "reload", check=0)
        rotated = bob.config / "daemon/daemon.log.1"
        for _ in range(20):
            bob.cli("daemon", "reload", check=0)
        wait_for(rotated.exists, 15, "a rotated log")
    finally:
        bob.cli("daemon", "down", check=0)


def test_an_operator_can_keep_the_privileges_and_is_told_each_time(world):
    node = Node(world, "alice")
    node.settings("[daemon]\nconfine = false\n")
    node.up()
    assert process_status(node.process.pid)["Seccomp"] == "0"
    assert '"privilege_kept"' in node.log.read_text() and '"security":true' in node.log.read_text()


def test_files_that_are_links_are_followed_where_they_lead(world):
    node = Node(world, "alice")
    node.config.mkdir(mode=0o700)
    (node.config / "daemon").mkdir(mode=0o700)
    elsewhere = world.directory / "big disk"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "outbox.db").touch(0o600)
    (node.config / "daemon/outbox.db").symlink_to(elsewhere / "outbox.db")
    node.up()
    assert (elsewhere / "outbox.db").stat().st_size > 0
    assert json.loads(node.cli("daemon", "status", "--json", check=0).stdout)["running"]


def test_it_holds_within_the_units_1024_descriptors_and_serves_who_comes_later(world):
    node = Node(world, "alice")
    node.config.mkdir(mode=0o700)
    limited = world.start([BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--tcp-port", "0"], world.directory / "log",
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)))
    path = node.config / "daemon/daemon.sock"
    port_file = node.config / "daemon/http.port"
    wait_for(lambda: path.exists() and port_file.exists(), 20, "the socket")
    port = int(port_file.read_text())
    held_open = []
    try:
        for i in range(1200):  # more than it has, on both doors
            client = socket.socket(socket.AF_UNIX) if i % 2 else socket.socket()
            client.settimeout(5)
            try:
                client.connect(str(path) if i % 2 else ("127.0.0.1", port))
            except OSError:
                client.close()
                continue
            held_open.append(client)
        used = len(os.listdir(f"/proc/{limited.pid}/fd"))
        assert used < 1024
        assert limited.poll() is None
    finally:
        for client in held_open:
            client.close()
    wait_for(lambda: node.cli("daemon", "status", check=None).returncode == 0, 20, "it to serve again")
    log = (world.directory / "log").read_text()
    assert "EMFILE" not in log and "Too many open files" not in log, log[-2000:]


def needs_analyze():
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")


def test_the_brokers_unit_is_as_little_exposed_as_it_is_held_to(tmp_path):
    needs_analyze()
    unit = PACKAGING / "claudemesh-broker.service"
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={int(EXPOSURE_MAXIMUM * 10)}", str(unit)],
                          capture_output=True, text=True, timeout=60)
    found = re.search(r"Overall exposure level.*?: ([0-9.]+)", done.stdout)
    assert found and float(found.group(1)) <= EXPOSURE_MAXIMUM and done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.parametrize("name", ["claudemesh-broker.service", "claudemesh-daemon.service", "written by install-service"])
def test_systemd_finds_nothing_wrong_with_the_units(world, tmp_path, name):
    needs_analyze()
    binary = os.path.realpath(BINARY)
    if name.startswith("written"):
        environment = world.environment()
        world.run(BINARY, "daemon", "install-service", environment=environment, check=0)
        text = (world.directory / ".config/systemd/user/claudemesh-daemon.service").read_text()
    else:
        text = (PACKAGING / name).read_text().replace("/usr/bin/claudemesh", binary)
    unit = tmp_path / (name if name.endswith(".service") else "claudemesh-daemon.service")
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60,
                          env={"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "info"})
    ours = [line for line in (done.stderr + done.stdout).splitlines() if "claudemesh" in line]
    assert done.returncode == 0 and not ours, done.stderr


def directives(text):
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string(text)
    return {(section, name): value for section in parser.sections() for name, value in parser.items(section)}


def test_the_packaged_unit_of_a_user_says_what_install_service_writes(world):
    world.run(BINARY, "daemon", "install-service", environment=world.environment(), check=0)
    written = directives((world.directory / ".config/systemd/user/claudemesh-daemon.service").read_text())
    packaged = directives((PACKAGING / "claudemesh-daemon.service").read_text())
    paths = {("Service", "ExecStart"), ("Service", "ReadWritePaths"), ("Service", "BindPaths"), ("Service", "BindReadOnlyPaths"),
             ("Unit", "ConditionPathExists")}
    assert {key: value for key, value in written.items() if key not in paths} == {key: value for key, value in packaged.items() if key not in paths}


@plain_only
def test_keys_are_in_locked_memory_and_a_limit_of_none_is_no_reason_not_to_serve(world):
    broker, node = Broker(world), Node(world, "alice")
    create_mesh(broker, node)
    node.up()
    node.wait_connected()
    assert int(process_status(node.process.pid)["VmLck"].split()[0]) > 0
    node.down()
    process = world.start([BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--no-tcp"], world.directory / "log",
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0)))
    wait_for(lambda: '"link_open"' in (world.directory / "log").read_text() or '"connected":true' in
             node.cli("daemon", "status", "--json", check=None).stdout.decode().replace(" ", ""), 20, "the link")
    assert process.poll() is None


@plain_only
def test_what_the_limits_allow_at_worst_stays_below_256_mib(world):
    """Bodies of 1 MiB on every request that may be in flight, and streams that do not read while messages come."""
    node = Node(world, "alice")
    node.settings("[ipc]\nrate_limit_rps = 0\n")
    node.up()
    path = str(node.config / "daemon/daemon.sock")
    peak = [0]
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            try:
                peak[0] = max(peak[0], int(process_status(node.process.pid)["VmRSS"].split()[0]))
            except (OSError, KeyError):
                return
            stop.wait(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    open_sockets = []
    try:
        for _ in range(32):  # streams, never read
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            open_sockets.append(client)
        body = b'{"to":"nobody","message":"' + b"x" * (1024 * 1024 - 64) + b'"}'
        head = f"POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for _ in range(200):  # more than may be in flight; each holds all but its last byte
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(10)
            client.connect(path)
            try:
                client.sendall(head + body[:-1])
            except OSError:
                pass  # refused: 503
            open_sockets.append(client)
        for client in open_sockets[32:]:
            try:
                client.sendall(body[-1:])
            except OSError:
                pass
        for client in open_sockets[32:]:
            try:
                client.recv(4096)
            except OSError:
                pass
    finally:
        stop.set()
        watcher.join()
        for client in open_sockets:
            client.close()
    assert 0 < peak[0] < 256 * 1024, f"{peak[0]} KiB"
