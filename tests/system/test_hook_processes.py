"""60-hooks, "The contract" and "Audit": the processes behind hooks, seen from outside the daemon. What one hook can and cannot do is in tests/unit/hooks."""

import contextlib
import json
import os
import pathlib
import signal
import time

import pytest

from harness import Broker, Node, create_mesh, join, wait_for
from hook_world import configure, hook, ledger, wait_ledger


@pytest.fixture
def node(world):
    node = Node(world, "alice", environment={"TMPDIR": str(world.directory / "tmp")})
    (world.directory / "tmp").mkdir(mode=0o700)
    node.settings("[hooks]\nenabled = true\n")
    return node


def shell_hook(node, name, text, toml=""):
    directory = node.config / "daemon" / "hooks"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n" + text)
    (directory / name).chmod(0o700)
    configure(node, name, toml)


def processes():
    """pid → (parent, name, command line)"""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if stat.rsplit(")", 1)[1].split()[0] != "Z":
                    found[int(entry.name)] = (int(stat.rsplit(")", 1)[1].split()[1]), stat.split("(", 1)[1].rsplit(")", 1)[0], command)
    return found


def spawner_of(node):
    return next(pid for pid, (parent, name, _) in processes().items() if parent == node.process.pid and name == "hooks-spawner")


def sleepers(words):
    return [pid for pid, (_, _, command) in processes().items() if words in command and "python" not in command]


def log_lines(node, message):
    lines = []
    for line in node.log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            if json.loads(line)["msg"] == message:
                lines.append(json.loads(line))
    return lines


def run_directories(world):
    return list((world.directory / "tmp").iterdir())


SLIPPERY = "trap '' TERM\n{0} &\nsetsid sh -c 'trap \"\" TERM; {0} & setsid {0}' &\n{0}\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_nothing_of_hooks_survives_a_daemon_that_dies(world, node, how):
    words = f"sleep {3100 + how}"
    shell_hook(node, "on-startup", SLIPPERY.format(words))
    node.up()
    wait_for(lambda: len(sleepers(words)) >= 4, 30, "the hook to run")
    assert run_directories(world)
    spawner = spawner_of(node)
    node.process.send_signal(how)
    node.process.wait()
    wait_for(lambda: not sleepers(words), 30, "all that the hook started to end")
    wait_for(lambda: spawner not in processes(), 30, "the spawner to end")
    assert not run_directories(world)


def test_a_daemon_stops_in_time_whatever_its_hooks_do(world, node):
    shell_hook(node, "on-startup", SLIPPERY.format("sleep 3201"))
    node.up()
    wait_for(lambda: len(sleepers("sleep 3201")) >= 4, 30, "the hook to run")
    started = time.monotonic()
    node.down()
    assert time.monotonic() - started < 15
    assert not sleepers("sleep 3201") and not run_directories(world), "before it says that it has stopped"
    assert not [command for _, _, command in processes().values() if str(node.config) in command]


def test_the_spawner_holds_nothing_of_the_daemons(node):
    secret = "a-secret-in-the-environment"
    node.more_environment["SOMETHING_PRIVATE"] = secret
    node.up()
    spawner = spawner_of(node)
    descriptors = {name: os.readlink(f"/proc/{spawner}/fd/{name}") for name in os.listdir(f"/proc/{spawner}/fd")}
    assert all(descriptors.pop(name) == "/dev/null" for name in ("0", "1", "2"))
    # Its socket, and the pipe that tells it of children.
    assert sorted(target.split(":")[0] for target in descriptors.values()) == ["pipe", "pipe", "socket"], descriptors
    assert secret.encode() not in pathlib.Path(f"/proc/{spawner}/environ").read_bytes()
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{spawner}/status").read_text().splitlines() if ":\t" in line)
    assert status["Threads"] == "1"
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(spawner, name)  # a service manager sends them to everything
    time.sleep(0.1)
    assert spawner in processes()
    node.down()


def test_one_line_and_two_metrics_for_each_run(node):
    shell_hook(node, "on-startup", "echo to nobody >&2\nexit 3\n")
    node.up()
    line = wait_for(lambda: log_lines(node, "hook_run"), 30, "the audit line")[0]
    assert line["hook"] == "on-startup" and line["event_id"] and line["exit"] == "3" and line["duration_ms"] >= 0
    assert line["output_bytes"] == 0 and line["error_bytes"] == 10 and line["replied"] is False and line["capability_calls"] == 0
    assert "to nobody" not in node.log.read_text()
    text = node.api.get("/v1/metrics").body.decode()
    assert 'cm_daemon_hook_invocations_total{hook="on-startup",exit="3"} 1' in text, [row for row in text.splitlines() if "hook" in row]
    assert 'cm_daemon_hook_duration_seconds_count{hook="on-startup"} 1' in text


def test_a_hook_that_floods_forks_and_hangs_does_not_disturb_the_daemon(world, node):
    shell_hook(node, "on-startup", "sh -c 'while :; do sh -c \"sleep 3301 & sleep 3301\" & sleep 0.01; done' &\n"
                                   "head -c 104857600 /dev/zero; head -c 104857600 /dev/zero >&2\nmkdir -p a/b; chmod 0 a\nsleep 3301\n",
               toml="timeout_s = 2\n")
    node.up()
    slowest = 0.0
    end = time.monotonic() + 60
    while not log_lines(node, "hook_run") and time.monotonic() < end:
        started = time.monotonic()
        assert node.api.get("/v1/health").status == 200
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.005)
    line = log_lines(node, "hook_run")[0]
    assert line["exit"] == "timeout" and line["output_bytes"] == 104857600 and line["error_bytes"] >= 104857600
    assert slowest < 5
    wait_for(lambda: not sleepers("sleep 3301") and not run_directories(world), 60, "all that it started to end")


def test_without_its_spawner_the_daemon_delivers_and_the_gate_is_shut(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    for each in (alice, bob):
        each.settings("[hooks]\nenabled = true\n")
    hook(alice, "pre-send", "print(json.dumps({'action': 'allow'}))\n")
    hook(bob, "on-dm", "ledger(event['body'])\n")
    for each in (alice, bob):
        each.up()
    for each in (alice, bob):
        each.wait_connected()
    assert alice.send("bob", "one").status == 202
    wait_ledger(bob, 1)
    os.kill(spawner_of(bob), signal.SIGKILL)
    wait_for(lambda: log_lines(bob, "hooks_spawner_gone"), 30, "bob's daemon to notice")
    assert alice.send("bob", "two").status == 202
    bob.wait_inbox(2)
    assert ledger(bob) == ["one"] and bob.health()["connected"]
    os.kill(spawner_of(alice), signal.SIGKILL)
    wait_for(lambda: log_lines(alice, "hooks_spawner_gone"), 30, "alice's daemon to notice")
    answer = alice.send("bob", "three")
    assert (answer.status, answer.json["error"]) == (403, "denied_by_hook")
