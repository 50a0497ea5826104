"""The daemon and the broker under a real systemd (80-operations, Service)."""

import hashlib
import json
import pathlib
import shutil

import pytest

from harness import BINARY, ROOT, wait_for
from service_manager import Manager
from test_service import HOSTILE

UNIT = "claudemesh-daemon.service"


@pytest.fixture
def manager(world):
    return Manager(world)


def install(manager, *arguments, config=None, **more):
    config = config or manager.world.directory / "config"
    return manager.run(manager.binary, "--config-dir", config, "daemon", "install-service", "--system", *arguments, **more)


def test_a_service_of_the_system_lives_its_whole_life(manager):
    config = manager.world.directory / "config"
    done = install(manager, "--now")
    assert "runs as a service" in done.stdout
    assert manager.show("ActiveState") == "active" and manager.show("SubState") == "running"
    assert manager.show("StatusText") == "Serving 0 meshes, 0 connected"
    assert manager.show("WatchdogUSec") == "30s" and manager.show("NRestarts") == "0"
    first = int(manager.show("MainPID"))
    status = manager.run(manager.binary, "--config-dir", config, "daemon", "status", "--json").stdout
    assert f'"pid":{first}' in status.replace(" ", "")

    # what it is held to
    process = manager.run("cat", f"/proc/{first}/status").stdout
    assert "NoNewPrivs:\t1" in process and "Seccomp:\t2" in process and "CapEff:\t0000000000000000" in process
    limits = manager.run("cat", f"/proc/{first}/limits").stdout
    assert [line.split()[3] for line in limits.splitlines() if line.startswith("Max open files")] == ["1024"]

    # reload: through the signal, told to the manager
    manager.systemctl("reload", UNIT)
    wait_for(lambda: manager.show("ActiveState") == "active", 20, "the reload to end")
    assert int(manager.show("MainPID")) == first

    # installing again: the same unit, another process
    again = install(manager, "--now")
    assert "the same" in again.stdout
    second = int(manager.show("MainPID"))
    assert second not in (0, first) and manager.show("ActiveState") == "active"

    # `daemon restart` goes through the manager, `daemon up` says who runs it
    manager.run(manager.binary, "--config-dir", config, "daemon", "restart")
    third = int(manager.show("MainPID"))
    assert third not in (0, second) and manager.show("ActiveState") == "active"
    refused = manager.run(manager.binary, "--config-dir", config, "daemon", "up", check=1)
    assert "service" in refused.stderr

    # a crash is restarted, `daemon down` is not
    manager.run("kill", "-SEGV", str(third))
    fourth = wait_for(lambda: int(manager.show("MainPID")) not in (0, third) and int(manager.show("MainPID")), 30, "the restart")
    wait_for(lambda: manager.show("ActiveState") == "active", 20, "it to be ready again")
    assert manager.show("NRestarts") == "1" and fourth
    manager.run(manager.binary, "--config-dir", config, "daemon", "down")
    wait_for(lambda: manager.show("ActiveState") == "inactive", 20, "it to be down")
    assert manager.show("Result") == "success"

    manager.systemctl("start", UNIT)
    manager.run(manager.binary, "--config-dir", config, "daemon", "uninstall-service", "--system")
    assert manager.systemctl("is-active", UNIT, check=None).stdout.strip() != "active"
    left = [path.name for path in manager.units.rglob("*") if path.suffix != ".target"]
    assert left == [], left
    assert not (config / "daemon/http.port").exists()


def test_a_loop_that_is_stuck_is_restarted(manager):
    install(manager)
    additions = manager.units / f"{UNIT}.d"
    additions.mkdir()
    (additions / "soon.conf").write_text("[Service]\nWatchdogSec=2\nRestartSec=0\n")
    manager.systemctl("daemon-reload")
    manager.systemctl("start", UNIT)
    first = int(manager.show("MainPID"))
    # it is fed: nothing happens for longer than the manager waits
    stamp = manager.show("WatchdogTimestampMonotonic")
    wait_for(lambda: int(manager.show("WatchdogTimestampMonotonic")) > int(stamp) + 3_000_000, 30, "three seconds of feeding")
    assert int(manager.show("MainPID")) == first and manager.show("NRestarts") == "0"
    manager.run("kill", "-STOP", str(first))
    wait_for(lambda: int(manager.show("MainPID")) not in (0, first), 30, "another process")
    wait_for(lambda: manager.show("ActiveState") == "active", 30, "it to be ready")
    assert manager.show("NRestarts") == "1"


def test_another_hosts_identity_is_not_started_again_and_again(manager):
    config = manager.world.directory / "config"
    install(manager, "--now")
    manager.systemctl("stop", UNIT)
    file = config / "daemon/host_fingerprint.json"
    assert file.exists()
    document = json.loads(file.read_text())
    document.update(host_id="0" * 32, stable_mac="02:00:00:00:00:99", fingerprint="0" * 64)
    document["fingerprint"] = hashlib.sha256(b"v2\0" + document["host_id"].encode() + b"\0" + document["stable_mac"].encode()).hexdigest()
    file.write_text(json.dumps(document))
    manager.systemctl("start", UNIT, check=1)
    assert manager.show("ExecMainStatus") == "4", manager.tail()
    assert manager.show("NRestarts") == "0" and manager.show("ActiveState") == "failed"


def test_a_daemon_that_cannot_start_is_given_up_after_five_tries(manager):
    config = manager.world.directory / "config"
    install(manager)
    settings = config / "daemon/config.toml"
    settings.touch(0o600)
    settings.write_text("not = [toml")
    additions = manager.units / f"{UNIT}.d"
    additions.mkdir()
    (additions / "soon.conf").write_text("[Service]\nRestartSec=0\n")
    manager.systemctl("daemon-reload")
    manager.systemctl("start", UNIT, check=1)
    wait_for(lambda: manager.show("ActiveState") == "failed", 30, "it to be given up")
    assert manager.show("ExecMainStatus") == "1" and int(manager.show("NRestarts")) == 5
    settings.unlink()
    manager.systemctl("reset-failed", UNIT)
    manager.systemctl("start", UNIT)
    assert manager.show("ActiveState") == "active"


@pytest.mark.parametrize("name", HOSTILE)
def test_systemd_reads_back_hostile_paths_and_names_and_runs_them(manager, name):
    place = manager.world.directory / name
    place.mkdir(mode=0o755)
    binary = place / "claude mesh"
    shutil.copy(BINARY, binary)
    config = place / "config % dir"
    manager.run(binary, "--config-dir", config, "daemon", "install-service", "--system", "--now", "--name", name)
    pid = manager.show("MainPID")
    words = manager.run("cat", f"/proc/{pid}/cmdline").stdout.split("\0")
    assert words[-4:] == ["--persistent", "--name", name, ""] and words[1:3] == ["--config-dir", str(config)]
    assert manager.run("readlink", f"/proc/{pid}/exe").stdout.rstrip("\n") == str(binary)
    assert (config / "daemon/daemon.sock").exists()  # where it may write
    manager.run(binary, "--config-dir", config, "daemon", "uninstall-service", "--system")


def test_a_service_of_an_ordinary_user_runs_and_its_hooks_have_namespaces(manager):
    environment = manager.user_manager()
    user = {"environment": environment, "user": "nobody"}
    home = pathlib.Path(environment["HOME"])
    hooks = home / ".claudemesh/daemon/hooks"
    manager.run(manager.binary, "daemon", "install-service", **user)
    log = home / ".claudemesh/log"
    additions = home / f".config/systemd/user/{UNIT}.d"
    for path, text, mode in ((hooks / "on-startup", "#!/bin/sh\nexit 42\n", 0o700),
                             (hooks / "hooks.toml", '[on-startup]\nenabled = true\nsandbox = "bubblewrap"\nnetwork_policy = "deny"\n', 0o600),
                             (additions / "log.conf", f"[Service]\nStandardError=append:{log}\n", 0o600)):
        manager.run("sh", "-c", 'mkdir -p "$(dirname "$0")"; printf %s "$1" > "$0"; chmod "$2" "$0"', path, text, f"{mode:o}", **user)
    done = manager.run(manager.binary, "daemon", "install-service", "--now", **user)
    assert "when you log in" in done.stdout
    run = wait_for(lambda: [line for line in log.read_text().splitlines() if '"hook_run"' in line], 30, "the hook to have run")
    assert json.loads(run[0].partition(">")[2] if run[0].startswith("<") else run[0])["exit"] == "42", log.read_text()
    assert "unenforceable" not in log.read_text() and '"sandbox"' not in run[0], log.read_text()
    pid = manager.systemctl("--user", "show", "-P", "MainPID", UNIT, **user).stdout.strip()
    status = manager.run("cat", f"/proc/{pid}/status").stdout
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    assert (home / ".claudemesh/daemon/daemon.sock").exists()
    manager.run(manager.binary, "daemon", "status", **user)
    # the hooks' helper was made before the daemon gave anything up: what it may still do is what hooks may
    children = manager.run("cat", f"/proc/{pid}/task/{pid}/children", check=None).stdout.split()
    assert children, "no helper"
    namespaces = manager.run("nsenter", "-t", children[0], "-U", "--preserve-credentials", "unshare", "-Urn", "true", check=None, **user)
    assert namespaces.returncode == 0, namespaces.stderr
    manager.run(manager.binary, "daemon", "uninstall-service", **user)
    assert [path.name for path in (home / ".config").rglob("*") if path.is_file()] == ["log.conf"]  # what is the user's own stays


def test_the_brokers_unit_runs_the_broker(manager):
    unit = (ROOT / "packaging/claudemesh-broker.service").read_text()
    unit = unit.replace("/usr/bin/claudemesh", str(manager.binary)).replace("User=claudemesh-broker", "User=nobody")
    unit = unit.replace("PrivateTmp=yes", f"PrivateTmp=yes\nBindReadOnlyPaths={str(manager.binary)}")
    (manager.units / "claudemesh-broker.service").write_text(unit)
    manager.systemctl("daemon-reload")
    manager.systemctl("start", "claudemesh-broker.service")
    broker = "claudemesh-broker.service"
    assert manager.show("ActiveState", broker) == "active" and manager.show("StatusText", broker) == "Serving 0 connections"
    pid = manager.show("MainPID", broker)
    status = manager.run("cat", f"/proc/{pid}/status").stdout
    assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
    answer = manager.run("python3", "-c", "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:7900/health').status)", check=None)
    assert "200" in answer.stdout, answer.stderr
    manager.systemctl("reload", broker)
    wait_for(lambda: manager.show("ActiveState", broker) == "active", 20, "the reload to end")
    manager.systemctl("stop", broker)
    assert manager.show("Result", broker) == "success"
