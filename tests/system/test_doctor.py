"""`claudemesh doctor` (10-cli): every finding appears when its cause is there, and goes when its remedy is pasted into a shell."""

import json
import os
import pathlib
import socket
import stat
import subprocess

import pytest

import harness
from disk import disks, needs_mount  # noqa: F401
from harness import Broker, Node, create_mesh, join, wait_for
from test_clock import Clock, library  # noqa: F401


@pytest.fixture
def host(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    return broker, alice


def doctor(node, check=None, **environment):
    done = node.cli("--json", "doctor", check=check, environment=environment)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0) == all(entry["state"] != "problem" for entry in report["checks"])
    for entry in report["checks"]:
        assert set(entry) == {"check", "state", "detail", "remedy"} and entry["state"] in ("ok", "note", "problem")
    return report["checks"]


def finding(node, check, state="problem", says="", **environment):
    found = [entry for entry in doctor(node, **environment) if entry["check"] == check and entry["state"] == state and says in entry["detail"]]
    assert found, f"no {state} of {check} that says {says!r} in {doctor(node, **environment)}"
    return found[0]


def paste(node, remedy, status=0, **environment):
    """As a user would: into a shell where `claudemesh` is the binary."""
    bin_directory = node.world.directory / "bin"
    bin_directory.mkdir(exist_ok=True)
    link = bin_directory / "claudemesh"
    if not link.exists():
        link.symlink_to(os.path.realpath(harness.BINARY))
        (bin_directory / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        (bin_directory / "sudo").chmod(0o755)
    environment = node.world.environment(**{**node.more_environment, **environment})
    environment["PATH"] = f"{bin_directory}:{environment['PATH']}"
    done = node.world.run("/bin/sh", "-c", remedy, environment=environment)
    assert done.returncode == status, f"{remedy}: {done}"
    return done


def gone(node, check, says="", state="problem", **environment):
    left = [entry for entry in doctor(node, **environment) if entry["check"] == check and entry["state"] == state and says in entry["detail"]]
    assert not left, left


def test_a_sound_installation_has_nothing_wrong_and_exits_0(host):
    broker, alice = host
    alice.up("--tcp-port", "0")
    alice.wait_connected()
    checks = doctor(alice, check=0)
    assert {"config_toml", "config_json", "permissions", "host", "database", "disk", "limits", "daemon", "tcp", "broker"} <= {entry["check"] for entry in checks}
    text = alice.cli("doctor").stdout.decode()
    assert "nothing is wrong" in text and "PROBLEM" not in text
    assert alice.cli("--quiet", "doctor").stdout == b""


def test_it_changes_nothing_and_opens_no_database(host):
    _, alice = host
    alice.up()
    alice.down()

    def shape():
        return {str(path): (path.stat().st_mode, path.stat().st_size, path.stat().st_mtime_ns) for path in alice.config.rglob("*")}

    before = shape()
    trace = alice.world.directory / "trace"
    alice.cli("doctor", check=1)
    assert shape() == before
    import shutil
    if shutil.which("strace"):
        alice.world.run("strace", "-f", "-o", trace, harness.BINARY, "--config-dir", alice.config, "doctor")
        assert "outbox.db" in trace.read_text() and "outbox.db-shm" not in trace.read_text() and "F_SETLK" not in trace.read_text()


def test_no_daemon_is_a_finding_and_daemon_up_its_remedy(host):
    _, alice = host
    alice.more_environment["CLAUDEMESH_IPC_TCP_ENABLED"] = "false"
    found = finding(alice, "daemon", says="No daemon is running")
    assert found["remedy"].endswith("daemon up") and f"--config-dir {alice.config}" in found["remedy"]
    paste(alice, found["remedy"])
    try:
        alice.wait_connected()
        gone(alice, "daemon")
    finally:
        alice.cli("daemon", "down")


def test_a_mistake_in_config_toml_is_told_with_its_place(host):
    _, alice = host
    alice.settings("[drain]\nwindwo = 4\n")
    found = finding(alice, "config_toml", says="config.toml:2:1: unknown key 'drain.windwo'; the nearest known one is 'drain.window'")
    paste(alice, found["remedy"], EDITOR="sed -i s/windwo/window/")
    gone(alice, "config_toml")


def test_variables_that_nobody_reads_or_that_are_wrong_are_told(host):
    _, alice = host
    found = finding(alice, "environment", says="CLAUDEMESH_IPC_TCP_PROT", CLAUDEMESH_IPC_TCP_PROT="1")
    assert found["remedy"] == "unset CLAUDEMESH_IPC_TCP_PROT" and "CLAUDEMESH_IPC_TCP_PORT" in found["detail"]
    found = finding(alice, "environment", says="CLAUDEMESH_IPC_MAX_STREAMS", CLAUDEMESH_IPC_MAX_STREAMS="many")
    assert found["remedy"] == "unset CLAUDEMESH_IPC_MAX_STREAMS"
    done = paste(alice, f"export CLAUDEMESH_IPC_MAX_STREAMS=many; {found['remedy']}; claudemesh --config-dir {alice.config} --json doctor", status=1)
    assert not [entry for entry in json.loads(done.stdout)["checks"] if entry["check"] == "environment" and entry["state"] == "problem"]
    finding(alice, "environment", "note", "ipc.max_streams", CLAUDEMESH_IPC_MAX_STREAMS="9")


def test_config_json_that_cannot_be_read_is_told(host):
    _, alice = host
    path = alice.config / "config.json"
    sound = path.read_text()
    path.write_text(sound + "}")
    found = finding(alice, "config_json")
    (alice.world.directory / "sound").write_text(sound)
    paste(alice, found["remedy"], EDITOR=f"cp {alice.world.directory / 'sound'}")
    gone(alice, "config_json")


@pytest.mark.parametrize("name, mode, right", [
    (".", 0o755, 0o700), ("daemon", 0o750, 0o700), ("daemon/hooks", 0o777, 0o700), ("sockets", 0o711, 0o700), ("config.json", 0o644, 0o600),
    ("daemon/local-token", 0o640, 0o600), ("daemon/outbox.db", 0o604, 0o600), ("daemon/inbox.db", 0o660, 0o600), ("daemon/config.toml", 0o644, 0o600),
    ("daemon/daemon.pid", 0o644, 0o600), ("daemon/host_fingerprint.json", 0o644, 0o600), ("daemon/session-id", 0o644, 0o600),
    ("daemon/local-token", 0o200, 0o600), ("daemon", 0o500, 0o700),
])
def test_each_mode_that_is_too_open_or_too_closed_is_told_and_mended(host, name, mode, right):
    _, alice = host
    alice.settings("")
    alice.up()
    alice.down()
    path = alice.config / name
    path.chmod(mode)
    found = finding(alice, "permissions", says=f"has mode {mode:04o}")
    paste(alice, found["remedy"])
    assert stat.S_IMODE(path.stat().st_mode) == right
    gone(alice, "permissions")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to give a file away")
def test_a_file_of_another_user_is_told_and_taken_back(host):
    _, alice = host
    alice.up()
    alice.down()
    os.chown(alice.path("local-token"), 65534, -1)
    found = finding(alice, "owner", says="local-token belongs to user 65534")
    paste(alice, found["remedy"])
    gone(alice, "owner")


def test_paths_with_hostile_characters_are_quoted(world):
    node = Node(world, "it's a $(touch pwned) `dir`; &")
    node.config.mkdir(mode=0o700)
    (node.config / "config.json").write_text('{"version":1,"meshes":[]}')
    (node.config / "config.json").chmod(0o644)
    found = finding(node, "permissions")
    paste(node, found["remedy"])
    gone(node, "permissions")
    paste(node, finding(node, "daemon")["remedy"] + " --no-tcp")
    gone(node, "daemon", "No daemon")
    node.cli("daemon", "down")
    assert not (world.directory / "pwned").exists()


def test_another_host_is_told_and_accepted(host):
    _, alice = host
    alice.up()
    alice.down()
    path = alice.path("host_fingerprint.json")
    record = json.loads(path.read_text())
    if record["host_id"].startswith("random-"):
        pytest.skip("this host has no id")
    import hashlib
    record["host_id"] = "0" * 32
    record["fingerprint"] = hashlib.sha256(f"v2\0{record['host_id']}\0{record['stable_mac']}".encode()).hexdigest()
    path.write_text(json.dumps(record))
    found = finding(alice, "host", says="another host")
    assert "remint" in found["detail"]
    paste(alice, found["remedy"])
    gone(alice, "host")
    path.write_text("{")
    paste(alice, finding(alice, "host")["remedy"])
    gone(alice, "host")


def test_a_database_that_is_none_any_more_and_one_that_was_not_closed(host):
    _, alice = host
    alice.up()
    alice.kill()
    found = finding(alice, "database", "note", "outbox.db was not closed in order")
    assert found["remedy"].endswith("daemon up")
    alice.up()
    alice.down()
    gone(alice, "database", "not closed", "note")
    alice.path("outbox.db").write_bytes(b"garbage" * 100)
    assert finding(alice, "database", says="outbox.db is damaged")["remedy"].endswith("daemon recover")


def test_what_was_moved_aside_is_told_until_it_is_removed(host):
    _, alice = host
    alice.up()
    alice.down()
    for name in ("inbox.db.corrupt-20260101T000000Z", "keypair-archive.json.malformed-20260101T000000Z"):
        path = alice.path(name)
        path.write_text("x")
        path.chmod(0o600)
        found = finding(alice, "left_over", "note", name)
        paste(alice, found["remedy"])
        assert not path.exists()
    gone(alice, "left_over", state="note")


def test_limits_that_are_too_low_are_told(host):
    _, alice = host
    script = f"ulimit -Sn 256; claudemesh --config-dir {alice.config} --json doctor"
    checks = json.loads(paste(alice, script, status=1).stdout)["checks"]
    found = [entry for entry in checks if entry["check"] == "limits" and entry["state"] == "problem"][0]
    assert "open files is 256" in found["detail"] and found["remedy"] == "ulimit -Sn 1024"
    checks = json.loads(paste(alice, script.replace(";", f"; {found['remedy']};"), status=1).stdout)["checks"]
    assert not [entry for entry in checks if entry["check"] == "limits" and entry["state"] == "problem"]


def test_hooks_that_would_be_refused_are_told_and_mended(host):
    _, alice = host
    alice.up()
    alice.down()
    hooks = alice.path("hooks")
    (hooks / "hooks.toml").write_text("[on-message]\nenabled = true\n[on-dm]\nenabled = true\n")
    (hooks / "hooks.toml").chmod(0o600)
    (hooks / "on-dm.sh").write_text("#!/bin/sh\n")
    (hooks / "on-dm.sh").chmod(0o722)
    found = finding(alice, "hooks", says="on-message")
    paste(alice, found["remedy"], EDITOR="sed -i -e 1,2d")
    gone(alice, "hooks", "on-message")
    paste(alice, finding(alice, "hooks", says="others may write")["remedy"])
    gone(alice, "hooks")
    (hooks / "on-dm.sh").chmod(0o600)
    paste(alice, finding(alice, "hooks", says="not executable")["remedy"])
    gone(alice, "hooks")
    (hooks / "hooks.toml").write_text("[on-dm]\nenabled = true\ntimeout_s = -4\n")
    paste(alice, finding(alice, "hooks", says="on-dm does not run")["remedy"], EDITOR="sed -i s/-4/4/")
    gone(alice, "hooks")
    (hooks / "hooks.toml").write_text("[on-dm\n")
    paste(alice, finding(alice, "hooks", says="hooks.toml:1:")["remedy"], EDITOR="cp /dev/null")
    gone(alice, "hooks")


def test_a_service_whose_program_is_gone_is_told(host):
    _, alice = host
    unit = alice.world.directory / ".config/systemd/user/claudemesh-daemon.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/nowhere/claudemesh daemon up --foreground\n")
    assert finding(alice, "service", says="/nowhere/claudemesh")["remedy"].endswith("daemon install-service")
    unit.write_text(f'[Service]\nExecStart="{os.path.realpath(harness.BINARY)}" daemon up --foreground\n')
    gone(alice, "service")


class UnitsOfItsOwn:
    """Commands of a node in a mount namespace where /etc/systemd/system is a directory of the test's."""

    def __init__(self, node):
        self.node, self.units = node, node.world.directory / "units"
        self.units.mkdir()
        self.unshare = ["unshare", "-m" if os.geteuid() == 0 else "-Urm"]
        if not os.path.isdir("/etc/systemd/system") or subprocess.run([*self.unshare, "true"], capture_output=True).returncode != 0:
            pytest.skip("no mount namespace, or no /etc/systemd/system, here")

    def run(self, *arguments):
        return self.node.world.run(*self.unshare, "sh", "-c", 'mount --bind "$0" /etc/systemd/system && exec "$@"', self.units,
                                   os.path.realpath(harness.BINARY), "--config-dir", self.node.config, *arguments)

    def findings(self):
        return [entry for entry in json.loads(self.run("--json", "doctor").stdout)["checks"] if entry["check"] == "service"]


def test_a_service_of_the_system_whose_program_is_gone_is_told(host):
    _, alice = host
    system, binary = UnitsOfItsOwn(alice), os.path.realpath(harness.BINARY)
    assert not system.findings()
    done = system.run("daemon", "install-service", "--system", "--allow-ci-persistent")
    assert done.returncode == 0, done
    unit = system.units / "claudemesh-daemon.service"
    text = unit.read_text()
    assert [entry["state"] for entry in system.findings()] == ["ok"]
    unit.write_text(text.replace(binary, "/nowhere/claudemesh"))
    told = system.findings()
    assert [entry["state"] for entry in told] == ["problem"] and "/nowhere/claudemesh" in told[0]["detail"]
    assert told[0]["remedy"].endswith("daemon install-service --system") and str(alice.config) in told[0]["remedy"]
    assert system.run("daemon", "install-service", "--system", "--allow-ci-persistent").returncode == 0 and unit.read_text() == text
    unit.write_text(unit.read_text().replace(str(alice.config), "/srv/another").replace(binary, "/nowhere/claudemesh"))
    assert not system.findings()  # somebody else's


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "huge", "zero", "loop", "dangling", "null"])
@pytest.mark.parametrize("name", ["daemon/config.toml", "config.json", "daemon/hooks/hooks.toml", "daemon/local-token", "daemon/http.port",
                                  "daemon/host_fingerprint.json", "daemon/keypair-archive.json", "daemon/outbox.db"])
def test_a_file_that_is_none_is_told_and_nothing_hangs(host, name, kind):
    _, alice = host
    path = alice.config / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        path.mkdir(mode=0o700)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "huge":
        path.touch(0o600)
        os.truncate(path, 1 << 34)
    else:
        path.symlink_to({"zero": "/dev/zero", "loop": path, "dangling": "/nowhere", "null": "/dev/null"}[kind])
    done = alice.cli("--json", "doctor", check=None, timeout=20)
    assert done.returncode in (0, 1), done
    json.loads(done.stdout)
    assert alice.cli("daemon", "up", "--no-tcp", check=None, timeout=20).returncode in (0, 1, 4)  # it may start, or say why not; it does not hang
    alice.cli("daemon", "down", check=None)


def test_a_broker_that_is_away_is_told_and_started(host):
    broker, alice = host
    alice.up()
    alice.wait_connected()
    broker.stop()
    alice.wait_connected(False)
    found = finding(alice, "broker", says="cannot be reached")
    assert f"broker serve --listen 127.0.0.1:{broker.port}" in found["remedy"]
    assert finding(alice, "link", says="not connected")["remedy"].endswith("daemon logs --lines 50")
    words = found["remedy"].split()
    broker.process = broker.world.start([harness.BINARY, *words[1:], "--store", f"sqlite:{broker.store}"], broker.log)
    broker.wait_ready()
    alice.wait_connected()
    gone(alice, "broker")
    gone(alice, "link")


def test_a_member_that_was_removed_is_told_to_leave(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    bob.up()
    bob.wait_connected()
    alice.cli("member", "revoke", bob.pubkey, "--yes")
    wait_for(lambda: bob.health()["meshes"][0]["revoked"], what="bob to know")
    found = finding(bob, "link", says="was removed")
    finding(bob, "broker", says="does not let this member in")
    paste(bob, found["remedy"])
    wait_for(lambda: not bob.health()["meshes"], what="bob's daemon to drop the mesh")
    gone(bob, "link")
    gone(bob, "broker")


def test_a_port_file_that_was_left_behind_and_a_stranger_at_the_port(host):
    _, alice = host
    alice.up("--tcp-port", "0")
    alice.kill()
    found = finding(alice, "tcp", "note", "no daemon runs")
    paste(alice, found["remedy"])
    gone(alice, "tcp", state="note")
    alice.up("--tcp-port", "0")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen(4)
        port = alice.path("http.port").read_text()
        alice.path("http.port").write_text(str(stranger.getsockname()[1]))
        found = finding(alice, "tcp", says="does not hold the token")
        assert found["remedy"].endswith("daemon restart")
        # The token was never shown to it.
        stranger.settimeout(5)
        connection, _ = stranger.accept()
        with connection:
            connection.settimeout(5)
            assert b"Bearer" not in connection.recv(65536)
        alice.path("http.port").write_text(port)
    gone(alice, "tcp")


def test_a_token_file_that_is_not_the_daemons_is_told(host):
    _, alice = host
    alice.cli("daemon", "up", "--tcp-port", "0")
    try:
        token = alice.path("local-token")
        token.write_text("A" * 43)
        found = finding(alice, "daemon", says="does not hold the token")
        finding(alice, "tcp", says="does not hold the token")
        paste(alice, found["remedy"] + " --tcp-port 0")
        gone(alice, "daemon")
        gone(alice, "tcp")
    finally:
        alice.cli("daemon", "down")


def test_a_daemon_that_holds_the_lock_and_does_not_answer(host):
    _, alice = host
    alice.up()
    alice.process.send_signal(19)
    try:
        found = finding(alice, "daemon", says="does not answer")
        assert found["remedy"].endswith("daemon restart")
    finally:
        alice.process.send_signal(18)
    gone(alice, "daemon")


def test_keys_that_do_not_belong_together_are_told(world):
    broker, node = Broker(world), Node(world, "node")
    create_mesh(broker, node)
    path = node.config / "config.json"
    document = json.loads(path.read_text())
    document["meshes"][0]["pubkey"] = "0" * 64
    path.write_text(json.dumps(document))
    finding(node, "broker", says="cannot be used")


def test_without_anything_it_says_what_to_do_first(world):
    node = Node(world, "new")
    checks = doctor(node, check=1)
    assert any("join <invite>" in entry["detail"] for entry in checks)
    assert not pathlib.Path(node.config).exists()


def test_a_rotation_that_is_not_finished_is_told(host):
    _, alice = host
    path = alice.config / "config.json"
    document = json.loads(path.read_text())
    document["meshes"][0]["nextSecretKey"] = harness.Key().secret.hex()
    path.write_text(json.dumps(document))
    assert finding(alice, "rotation", "note", "not finished")["remedy"].endswith("daemon rotate-keypair --mesh acme")


def test_messages_that_died_are_told(host):
    broker, alice = host
    alice.up()
    alice.wait_connected()
    stranger = harness.Key().hex
    broker.stop()
    alice.wait_connected(False)
    assert alice.send(stranger, "to nobody").status == 202
    broker.start()
    wait_for(lambda: alice.outbox_counts()[2] == 1, 30, "the message to die")
    found = finding(alice, "outbox", "note", "could not be delivered")
    shown = paste(alice, found["remedy"]).stdout.decode()
    assert "dead" in shown
    row = alice.api.get("/v1/outbox?status=dead").json["items"][0]["id"]
    alice.cli("daemon", "outbox", "drop", row)
    gone(alice, "outbox", state="note")


def test_a_clock_that_is_wrong_is_told(world, library):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    alice.up()
    alice.wait_connected()
    clock = Clock(world, library, "doctor")
    alice.more_environment = clock.environment
    clock.step(600)
    found = finding(alice, "clock", says=" s ahead of")
    assert found["remedy"] == "sudo timedatectl set-ntp true"
    clock.step(-600)
    finding(alice, "clock", says=" s behind")
    clock.step(0)
    gone(alice, "clock")


@needs_mount
def test_a_disk_that_is_nearly_full_is_told(disks, world):
    disk = disks("tmpfs", 4)
    node = Node(world, "full")
    node.config = disk.path / "config"
    node.config.mkdir(mode=0o700)
    found = finding(node, "disk", says="MiB (")
    paste(node, found["remedy"])
