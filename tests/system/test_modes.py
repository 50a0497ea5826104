"""50-identity "Modes": where the daemon runs decides about identity, local API and hooks; members that live as long as their process."""

import json
import os
import pathlib
import signal
import sqlite3
import time

import pytest

from harness import BINARY, SLOW, Broker, Key, Node, create_mesh, fake_mesh, join, wait_for

CI = ["CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"]


def events(node):
    lines = []
    for path in (node.log, node.path("daemon.log")):
        if path.exists():
            lines += path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def logged(node, name):
    return [event for event in events(node) if event["msg"] == name]


@pytest.fixture
def mesh(world):
    broker = Broker(world)
    alice = Node(world, "alice")
    create_mesh(broker, alice)
    alice.up()
    alice.wait_connected()
    return broker, alice


def invite(alice, *more):
    return alice.cli("mesh", "invite", *more).stdout.decode().strip()


def members(alice):
    return {member["name"]: member for member in alice.json("member", "list")["members"] if not member.get("revoked")}


def active(broker):
    with sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True) as store:
        return [row[0] for row in store.execute("SELECT display_name FROM member WHERE state = 'active' ORDER BY id")]


def runner(world, name="runner", **environment):
    node = Node(world, name, environment=environment)
    node.config.mkdir(mode=0o700)
    return node


# ---- the table -------------------------------------------------------------------------------------------------------------------


def start_and_look(node, *arguments):
    node.up(*arguments)
    tcp = node.path("http.port").exists()
    node.down()
    said = logged(node, "environment")[-1]
    assert ("tcp" in said["api"]) == tcp
    return said["environment"], said["identity"], said["api"], said["hooks"]


@pytest.fixture
def joined(world):
    root = world.directory / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/machine-id").write_text("a" * 32)
    node = Node(world, "host", environment={"CLAUDEMESH_HOST_ROOT": str(root)})
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    node.path("").mkdir(mode=0o700)
    return node


def warned(node):
    return [event["msg"] for event in events(node) if event["level"] == "warn" and event["msg"].endswith("_against_environment")]


def test_a_host_is_persistent_with_socket_and_tcp_and_hooks(joined):
    assert start_and_look(joined, "--tcp-port", "0") == ("host", "persistent", "socket,tcp", "on")
    assert warned(joined) == []


@pytest.mark.parametrize("path, text", [(".dockerenv", ""), ("proc/1/cgroup", "0::/kubepods/besteffort/pod1\n"), ("proc/1/cgroup", "1:name=systemd:/docker/abc\n")])
def test_the_signs_of_a_container(joined, path, text):
    sign = pathlib.Path(joined.more_environment["CLAUDEMESH_HOST_ROOT"]) / path
    sign.parent.mkdir(parents=True, exist_ok=True)
    sign.write_text(text)
    assert start_and_look(joined, "--name", "x") == ("container", "persistent", "socket", "on")


@pytest.mark.parametrize("sign", ["--container", "KUBERNETES_SERVICE_HOST", "RUNPOD_POD_ID"])
def test_a_container_serves_the_socket_only(joined, sign):
    if not sign.startswith("-"):
        joined.more_environment[sign] = "10.0.0.1"
    assert start_and_look(joined, *(["--container"] if sign.startswith("-") else ["--name", "x"])) == ("container", "persistent", "socket", "on")
    assert warned(joined) == []


@pytest.mark.parametrize("variable", CI)
def test_ci_without_an_invite_is_a_persistent_daemon_with_a_warning(joined, variable):
    joined.more_environment[variable] = "true"
    assert start_and_look(joined, "--name", "x") == ("ci", "persistent", "socket", "off")
    assert warned(joined) == ["persistent_against_environment"]


def test_each_default_can_be_overridden_and_a_less_safe_choice_is_logged(joined):
    joined.more_environment["CI"] = "1"
    joined.settings("[hooks]\nenabled = true\n[ipc]\ntcp_enabled = true\ntcp_port = 0\n")
    assert start_and_look(joined, "--persistent") == ("ci", "persistent", "socket,tcp", "on")
    assert sorted(warned(joined)) == ["hooks_on_against_environment", "persistent_against_environment", "tcp_on_against_environment"]
    joined.settings("[hooks]\nenabled = false\n")
    assert start_and_look(joined, "--persistent", "--no-tcp") == ("ci", "persistent", "socket", "off")


def test_an_empty_variable_is_no_ci(joined):
    joined.more_environment["CI"] = ""
    assert start_and_look(joined, "--no-tcp")[0] != "ci"


# ---- ephemeral members --------------------------------------------------------------------------------------------------------------


def everywhere(directory):
    return b"".join(path.read_bytes() for path in pathlib.Path(directory).rglob("*") if path.is_file() and not path.is_socket())


@pytest.mark.parametrize("way", ["flag", "variable", "input", "ci"])
def test_an_ephemeral_member_works_leaves_nothing_and_is_removed_at_its_end(world, mesh, way):
    broker, alice = mesh
    link = invite(alice)
    node = runner(world)
    arguments = {"flag": ["--ephemeral", "--invite", link], "variable": ["--ephemeral"], "input": ["--ephemeral", "--invite", "-"], "ci": []}[way]
    more = {"flag": {}, "input": {}, "variable": {"CLAUDEMESH_INVITE": link}, "ci": {"CLAUDEMESH_INVITE": link, "CI": "true"}}[way]
    up = node.cli("daemon", "up", "--no-tcp", *arguments, input=link.encode() + b"\n" if way == "input" else None, environment=more)
    pid = int(node.path("daemon.pid").read_text())
    try:
        assert b"running" in up.stdout
        node.wait_connected()
        assert len(active(broker)) == 2
        me = next(name for name in active(broker) if name != "alice")
        wait_for(lambda: node.send("alice", "the build is green").status == 202, what="the members to be known")
        assert alice.wait_inbox(1)[0]["body"] == "the build is green"
        wait_for(lambda: me in members(alice), what="alice to know the runner")
        assert alice.send(me, "well done").status == 202
        assert node.wait_inbox(1)[0]["body"] == "well done"
        assert not (node.config / "config.json").exists() and not node.path("host_fingerprint.json").exists()
        assert not node.path("session-id").exists()
        secret = link.encode().rpartition(b"/")[2]
        for file in ("cmdline", "environ"):
            assert secret not in pathlib.Path(f"/proc/{pid}/{file}").read_bytes()
        scratch = [path for path in node.path("").iterdir() if path.name.startswith("ephemeral-")]
        assert len(scratch) == 1 and scratch[0].stat().st_mode & 0o7777 == 0o700
        assert {path.name for path in scratch[0].iterdir()} >= {"outbox.db", "inbox.db"}
    finally:
        node.cli("daemon", "down")
    assert active(broker) == ["alice"], "removed at its exit"
    assert len(logged(node, "ephemeral_left")) == 1
    assert not [path for path in node.path("").iterdir() if path.name.startswith("ephemeral-")]
    left = everywhere(node.config)
    assert secret not in left and b"build is green" not in left and b"well done" not in left
    wait_for(lambda: me not in members(alice) or not members(alice)[me]["verified"], what="alice to see it gone")
    assert alice.inbox()[0]["body"] == "the build is green"


def test_the_keys_of_an_ephemeral_member_are_in_no_file(world, mesh):
    """Its secret is not known to us; its public key is, and a secret key's hex ends with it."""
    broker, alice = mesh
    node = runner(world)
    node.up("--no-tcp", "--ephemeral", "--invite", invite(alice))
    node.wait_connected()
    with sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True) as store:
        pubkey = store.execute("SELECT pubkey FROM member ORDER BY id DESC LIMIT 1").fetchone()[0]
    for path in node.config.rglob("*"):
        if path.is_file() and not path.is_socket():
            data = path.read_bytes()
            at = data.find(pubkey.encode())
            while at >= 0:
                before = data[max(0, at - 64):at]
                assert not (len(before) == 64 and all(byte in b"0123456789abcdef" for byte in before)), path
                at = data.find(pubkey.encode(), at + 1)
            assert bytes.fromhex(pubkey) not in data or path.suffix in (".db", "") or "-wal" in path.name or "-shm" in path.name, path
    node.down()


def test_a_restart_without_an_invite_stops_nothing(world, mesh):
    link = invite(mesh[1], "--max-uses", "3")
    job = runner(world)
    job.cli("daemon", "up", "--ephemeral", "--invite", "-", "--no-tcp", input=link.encode())
    try:
        for flags in ((), ("--ephemeral", "--no-tcp")):
            done = job.cli("daemon", "restart", *flags, check=2)
            assert b"nothing was stopped" in done.stderr
            assert job.api.get("/v1/health").status == 200
            job.api.close()
        job.cli("daemon", "restart", "--ephemeral", "--invite", "-", "--no-tcp", input=link.encode())
        assert job.api.get("/v1/health").status == 200
        job.api.close()
    finally:
        job.cli("daemon", "down")


def test_a_ttl_ends_it_and_removes_the_member(world, mesh):
    broker, alice = mesh
    node = runner(world)
    node.up("--no-tcp", "--ephemeral", "--invite", invite(alice), "--ttl", "2s")
    node.wait_connected()
    assert node.process.wait(20 * SLOW) == 0
    assert active(broker) == ["alice"]
    assert logged(node, "ephemeral_time_is_over")


def test_what_is_queued_goes_out_before_it_leaves(world, mesh):
    broker, alice = mesh
    node = runner(world)
    node.up("--no-tcp", "--ephemeral", "--invite", invite(alice))
    wait_for(lambda: node.send("alice", "line 0").status == 202, what="the members to be known")
    count = 400  # more than may be on their way at once
    broker.process.send_signal(signal.SIGSTOP)
    try:
        for number in range(1, count):
            assert node.send("alice", f"line {number}").status == 202
        node.api.close()
        node.process.terminate()
        wait_for(lambda: logged(node, "daemon_stopping"), what="the stop to begin")
    finally:
        broker.process.send_signal(signal.SIGCONT)
    assert node.process.wait(15 * SLOW) == 0
    assert [item["body"] for item in alice.wait_inbox(count)] == [f"line {number}" for number in range(count)]
    assert active(broker) == ["alice"]


def test_a_kill_leaves_the_member_and_the_next_start_clears_the_files(world, mesh):
    broker, alice = mesh
    node = runner(world, "a [strange] name*")
    node.up("--no-tcp", "--ephemeral", "--invite", invite(alice))
    node.wait_connected()
    node.kill()
    assert len(active(broker)) == 2, "nobody could say that it is gone"
    assert [path for path in node.path("").iterdir() if path.name.startswith("ephemeral-")]
    node.up("--no-tcp", "--ephemeral", "--invite", invite(alice))
    assert len([path for path in node.path("").iterdir() if path.name.startswith("ephemeral-")]) == 1
    node.down()  # before its link is open, maybe: it leaves all the same
    left = next(name for name in active(broker) if name != "alice")
    alice.cli("member", "revoke", left, "--yes")
    assert active(broker) == ["alice"]


def test_without_its_broker_it_ends_all_the_same_and_says_who_is_left(world, mesh):
    broker, alice = mesh
    node = runner(world)
    node.up("--no-tcp", "--ephemeral", "--invite", invite(alice))
    node.wait_connected()
    broker.stop()
    node.wait_connected(False)
    node.down()
    assert "member revoke" in logged(node, "ephemeral_member_left_behind")[0]["remedy"]
    broker.start()


def test_many_jobs_share_one_invite_and_each_has_a_name_of_its_own(world, mesh):
    broker, alice = mesh
    link = invite(alice, "--max-uses", "3")
    nodes = [runner(world, f"job-{number}") for number in range(3)]
    for node in nodes:
        node.up("--no-tcp", "--ephemeral", "--invite", link)
    for node in nodes:
        node.wait_connected()
    assert len(set(active(broker))) == 4
    late = runner(world, "late")
    refused = late.cli("daemon", "up", "--no-tcp", "--ephemeral", "--invite", link, check=None)
    assert refused.returncode == 1 and b"exhausted" in refused.stderr
    assert link.encode() not in refused.stderr
    for node in nodes:
        node.down()
    assert active(broker) == ["alice"]


def test_the_joined_meshes_of_a_directory_are_another_identitys(world, mesh):
    broker, alice = mesh
    bob = Node(world, "bob")
    join(alice, bob)
    before = (bob.config / "config.json").read_bytes()
    bob.path("inbox.rebuild").write_text("of bob's own\n")
    bob.up("--no-tcp", "--ephemeral", "--invite", invite(alice))
    bob.wait_connected()
    assert len(active(broker)) == 3
    bob.down()
    assert (bob.config / "config.json").read_bytes() == before
    assert bob.path("inbox.rebuild").exists(), "what waits for bob's own start"
    assert sorted(active(broker)) == ["alice", "bob"]
    bob.up("--no-tcp")
    bob.wait_connected()


@pytest.mark.parametrize("arguments, environment, said", [
    (["--ephemeral"], {}, "needs an invite"),
    (["--ephemeral", "--persistent"], {}, "contradict"),
    (["--ttl", "5m"], {}, "--ephemeral"),
    (["--invite", "claudemesh://join/x"], {}, "--ephemeral"),
    (["--ephemeral", "--invite", "claudemesh://join/x"], {}, "no invite"),
    (["--ephemeral"], {"CLAUDEMESH_INVITE": "nonsense"}, "no invite"),
    (["--ephemeral", "--ttl", "soon"], {"CLAUDEMESH_INVITE": "nonsense"}, "--ttl"),
])
def test_what_does_not_go_together_is_wrong_usage(world, arguments, environment, said):
    node = runner(world)
    refused = node.cli("daemon", "up", "--no-tcp", *arguments, environment=environment, check=2).stderr.decode()
    assert said in refused
    assert not node.path("").exists(), "nothing was begun"


def test_an_unreachable_broker_is_its_own_exit_status(world, mesh):
    broker, alice = mesh
    link = invite(alice)
    alice.down()
    broker.stop()
    node = runner(world)
    assert node.cli("daemon", "up", "--no-tcp", "--ephemeral", "--invite", link, check=5).stderr
    assert not [path for path in node.path("").iterdir() if path.name.startswith("ephemeral-")]
    broker.start()
