"""50-identity "Host fingerprint": each row of the table, through the built binary, on hosts that are directories."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import time

import pytest

from harness import BINARY, Broker, Key, Node, create_mesh, fake_mesh, join, wait_for

ID_A, ID_B = "a" * 32, "b" * 32
MAC_A, MAC_B = "3c:22:fb:00:00:0a", "3c:22:fb:00:00:0b"


def host(world, name, host_id=None, **interfaces):
    """A host as /etc and /sys tell of it: what $CLAUDEMESH_HOST_ROOT points to."""
    root = world.directory / f"host-{name}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    if host_id:
        (root / "etc").mkdir()
        (root / "etc/machine-id").write_text(host_id + "\n")
    for interface, mac in interfaces.items():
        directory = root / "sys/class/net" / interface
        (directory / "device").mkdir(parents=True)
        (directory / "address").write_text(mac + "\n")
    return {"CLAUDEMESH_HOST_ROOT": str(root)}


@pytest.fixture
def node(world):
    node = Node(world, "node", environment=host(world, "a", ID_A, eth0=MAC_A))
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    node.path("").mkdir(exist_ok=True, mode=0o700)
    yield node
    node.cli("daemon", "down", check=None)


def record(node):
    return json.loads(node.path("host_fingerprint.json").read_text())


def events(node):
    found = []
    for path in (node.log, node.path("daemon.log")):
        if path.exists():
            found += [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    return found


def logged(node, name):
    return [event for event in events(node) if event["msg"] == name]


def run_once(node, *arguments):
    node.up(*(arguments or ("--no-tcp",)))
    node.down()


def everything(node):
    """Every file of the directory, to the byte and the nanosecond."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else sorted(os.listdir(path)))
            for path in [node.config, *sorted(node.config.rglob("*"))]}


def move_to(node, environment):
    node.more_environment = environment


def test_the_first_start_records_the_host(node):
    node.up()
    found = record(node)
    digest = hashlib.sha256(b"v2\0" + ID_A.encode() + b"\0" + MAC_A.encode()).hexdigest()
    assert {k: found[k] for k in found if k != "written_at"} == {
        "schema_version": 2, "fingerprint": digest, "host_id": ID_A, "stable_mac": MAC_A}
    assert found["written_at"].endswith("Z")
    assert node.path("host_fingerprint.json").stat().st_mode & 0o7777 == 0o600
    node.down()
    before = node.path("host_fingerprint.json").stat()
    run_once(node)
    after = node.path("host_fingerprint.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), "a match writes nothing"


def test_the_address_is_frozen_and_has_to_be_present_only(world, node):
    run_once(node)
    move_to(node, host(world, "a", ID_A, aaa0=MAC_B, eth0=MAC_A))
    run_once(node)
    assert record(node)["stable_mac"] == MAC_A
    assert not logged(node, "host_address_changed")


def test_another_network_card_is_the_same_host_with_a_warning_and_recorded_anew(world, node):
    run_once(node)
    move_to(node, host(world, "a", ID_A, eth0=MAC_B))
    run_once(node)
    warning = logged(node, "host_address_changed")
    assert len(warning) == 1 and warning[0]["level"] == "warn"
    assert record(node)["stable_mac"] == MAC_B
    run_once(node)
    assert len(logged(node, "host_address_changed")) == 1


@pytest.mark.parametrize("foreground", [False, True])
def test_another_host_is_refused_at_once_and_nothing_is_touched(world, node, foreground):
    run_once(node)
    node.cli("daemon", "up", "--no-tcp")
    node.cli("daemon", "down")
    before = everything(node)
    move_to(node, host(world, "b", ID_B, eth0=MAC_A))
    began = time.monotonic()
    refused = node.cli("daemon", "up", "--no-tcp", *(["--foreground"] if foreground else []), check=4)
    assert time.monotonic() - began < float(os.environ.get("CLAUDEMESH_SLOW", "1")), "within a second"
    said = refused.stderr.decode()
    for word in (ID_A[:8], ID_B[:8], "claudemesh daemon accept-host", "claudemesh daemon remint"):
        assert word in said
    assert ID_A not in said and ID_B not in said, "in short"
    assert everything(node) == before
    for _ in range(3):
        node.cli("daemon", "up", "--no-tcp", check=4)
    assert everything(node) == before, "a supervisor's tries leave nothing either"


def test_a_refusal_says_so_in_json_too(world, node):
    run_once(node)
    move_to(node, host(world, "b", ID_B))
    refused = json.loads(node.cli("--json", "daemon", "up", "--no-tcp", check=4).stdout)
    assert "accept-host" in refused["detail"]


@pytest.mark.parametrize("policy, level", [("warn", "warn"), ("allow", "info")])
def test_warn_and_allow_go_on_and_keep_the_record(world, node, policy, level):
    run_once(node)
    before = node.path("host_fingerprint.json").read_bytes()
    move_to(node, host(world, "b", ID_B))
    node.up("--no-tcp", "--clone-policy", policy)
    assert b"cm_daemon_clone_suspected_total 1" in node.api.get("/v1/metrics").body
    node.down()
    told = logged(node, "host_differs")
    assert [event["level"] for event in told] == [level] and told[0]["security"] is True
    assert ID_A[:8] in told[0]["recorded"] and ID_B[:8] in told[0]["host"]
    assert node.path("host_fingerprint.json").read_bytes() == before
    node.arguments = []
    node.cli("daemon", "up", "--no-tcp", check=4)


def test_the_policy_is_a_setting_and_the_flag_wins(world, node):
    run_once(node)
    node.settings('[clone]\npolicy = "warn"\n')
    move_to(node, host(world, "b", ID_B))
    run_once(node, "--no-tcp")
    node.cli("daemon", "up", "--no-tcp", "--clone-policy", "refuse", check=4)
    node.cli("daemon", "up", "--no-tcp", "--clone-policy", "always", check=2)


def test_a_clone_can_be_accepted_once_by_a_flag(world, node):
    run_once(node)
    move_to(node, host(world, "b", ID_B, eth0=MAC_B))
    run_once(node, "--no-tcp", "--accept-cloned-identity")
    assert record(node)["host_id"] == ID_B
    run_once(node, "--no-tcp")
    move_to(node, host(world, "a", ID_A, eth0=MAC_A))
    node.cli("daemon", "up", "--no-tcp", check=4)


def test_accept_host_keeps_the_keys_and_makes_this_host_the_right_one(world, node):
    run_once(node)
    key = node.pubkey
    move_to(node, host(world, "b", ID_B, eth0=MAC_B))
    node.cli("daemon", "up", "--no-tcp", check=4)
    said = node.cli("daemon", "accept-host").stdout.decode()
    assert ID_A[:8] in said and ID_B[:8] in said
    run_once(node)
    assert node.pubkey == key and record(node)["host_id"] == ID_B
    again = node.json("daemon", "accept-host")
    assert again["changed"] is False


def test_accept_host_refuses_while_a_daemon_runs(node):
    node.up()
    refused = node.cli("daemon", "accept-host", check=1).stderr.decode()
    assert "daemon down" in refused
    node.down()


def test_without_ids_the_addresses_decide(world, node):
    move_to(node, host(world, "a", None, eth0=MAC_A))
    run_once(node)
    assert record(node)["host_id"] == ""
    move_to(node, host(world, "a", None, eth1=MAC_A))
    run_once(node)
    move_to(node, host(world, "b", None, eth0=MAC_B))
    node.cli("daemon", "up", "--no-tcp", check=4)


def test_where_nothing_can_be_read_detection_is_off_and_each_start_says_so(world, node):
    move_to(node, host(world, "a"))
    run_once(node)
    first = record(node)
    assert first["host_id"].startswith("random-") and first["stable_mac"] == ""
    move_to(node, host(world, "b"))
    run_once(node)
    assert record(node) == first
    told = logged(node, "host_undetectable")
    assert len(told) == 2 and all(event["level"] == "warn" for event in told)
    move_to(node, host(world, "c", ID_A, eth0=MAC_A))
    run_once(node)
    assert record(node)["host_id"] == ID_A, "from now on it is on"
    move_to(node, host(world, "b"))
    node.cli("daemon", "up", "--no-tcp", check=4)


@pytest.mark.parametrize("policy", ["refuse", "warn", "allow"])
@pytest.mark.parametrize("text", ["", "{", '{"schema_version":3}', '{"schema_version":2,"fingerprint":"0","host_id":"a","stable_mac":""}'])
def test_a_malformed_file_or_a_newer_one_refuses_and_is_never_overwritten(node, text, policy):
    path = node.path("host_fingerprint.json")
    path.write_text(text)
    said = node.cli("daemon", "up", "--no-tcp", "--clone-policy", policy, "--accept-cloned-identity", check=4).stderr.decode()
    assert "host_fingerprint.json" in said and "accept-host" in said
    assert path.read_text() == text
    node.cli("daemon", "accept-host")
    kept = [p for p in path.parent.iterdir() if p.name.startswith("host_fingerprint.json.replaced-")]
    assert [p.read_text() for p in kept] == [text]
    run_once(node)


def test_a_kill_while_the_host_is_recorded_leaves_the_old_file_or_the_new_one(world, node):
    run_once(node)
    for number in range(20):
        old = node.path("host_fingerprint.json").read_bytes()
        move_to(node, host(world, "x", f"{number:032x}"[::-1] + "f", eth0=MAC_A))
        process = world.start([BINARY, "--config-dir", node.config, "daemon", "accept-host"], node.log,
                              world.environment(**node.more_environment))
        time.sleep(number * 0.0004)
        process.send_signal(signal.SIGKILL)
        process.wait()
        new = node.path("host_fingerprint.json").read_bytes()
        assert new == old or record(node)["host_id"].startswith(f"{number:032x}"[::-1])
        node.cli("daemon", "accept-host")
        assert [p.name for p in node.path("").iterdir() if ".tmp-" in p.name] == [], "the next one clears what was left"


# ---- two copies of one directory ------------------------------------------------------------------------------------------------


def pair_on_hosts(world, host_b=True):
    broker = Broker(world)
    alice = Node(world, "alice", environment=host(world, "alice", "c" * 32, eth0="3c:22:fb:00:00:0c"))
    bob = Node(world, "bob", environment=host(world, "a", ID_A, eth0=MAC_A))
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.up()
        node.wait_connected()
    return broker, alice, bob


def copy(world, node, name, environment):
    """The directory as a backup or an image would carry it: all but sockets."""
    other = Node(world, name, environment=environment)
    shutil.copytree(node.config, other.config, ignore=shutil.ignore_patterns("*.sock"))
    return other


def is_clone_event(event):
    return event["event"] == "system" and event["data"].get("event") == "member_clone_suspected"


def clones_counted(node):
    lines = node.api.get("/v1/metrics").body.decode().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("cm_daemon_clone_suspected_total ")))


def audited(broker, event):
    with sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True) as store:
        return store.execute("SELECT count(*) FROM audit WHERE event = ?", (event,)).fetchone()[0]


def test_a_copied_directory_is_refused_on_another_host_and_runs_after_accept_host(world):
    broker, alice, bob = pair_on_hosts(world)
    bob.down()
    moved = copy(world, bob, "moved", host(world, "b", ID_B, eth0=MAC_B))
    refused = moved.cli("daemon", "up", "--no-tcp", check=4)
    assert b"accept-host" in refused.stderr
    stream = alice.events()
    with sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True) as store:
        kept = store.execute("SELECT host_fingerprint FROM member WHERE pubkey = ?", (bob.pubkey,)).fetchone()[0]
    hashed = f"claudemesh-host-v1\0{bob.mesh()['meshId']}\0{record(bob)['fingerprint']}"
    assert kept == hashlib.sha256(hashed.encode()).hexdigest()
    moved.cli("daemon", "accept-host")
    moved.up()
    moved.wait_connected()
    stream.wait(is_clone_event, what="the admins to hear of it")
    told = logged(alice, "member_clone_suspected")
    assert told[0]["security"] is True and told[0]["member_id"] == bob.mesh()["memberId"]
    wait_for(lambda: clones_counted(alice) == 1, what="the count")
    moved.down()
    moved.up()
    moved.wait_connected()
    assert alice.send(bob.pubkey, "where are you now?").status == 202
    assert moved.wait_inbox(1)[-1]["body"] == "where are you now?"
    wait_for(lambda: audited(broker, "member_clone_suspected") == 1, what="the audit")
    assert clones_counted(alice) == 1, "an accepted host is reported once, not for ever"


def test_a_clone_that_runs_beside_the_first_is_never_refused_by_the_broker_and_told_to_admins(world):
    broker, alice, bob = pair_on_hosts(world)
    clone = copy(world, bob, "clone", host(world, "b", ID_B))
    (clone.path("session-id")).unlink()  # two installations, one key
    stream = alice.events()
    clone.up("--no-tcp", "--clone-policy", "warn")
    clone.wait_connected()
    event = stream.wait(is_clone_event)
    assert event["data"]["data"]["memberPubkey"] == bob.pubkey and event["data"]["said_by"] == "broker"
    wait_for(lambda: clones_counted(alice) == 1)
    assert clones_counted(clone) == 1, "by its own start"
    wait_for(lambda: audited(broker, "member_clone_suspected") == 1)
    wait_for(lambda: audited(broker, "concurrent_connection") == 1, what="the audit")
    bob.wait_connected(False)
    assert "replaced_by_newer_connection" in json.dumps(bob.health())
    said = wait_for(lambda: logged(bob, "member_connected_elsewhere"))
    assert said[0]["security"] is True and "30 s" in said[0]["detail"]


def test_where_the_older_connection_stays_the_newer_daemon_waits_and_says_why(world):
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_BROKER_CONNECTION_POLICY": "prefer_oldest"})
    alice, bob = Node(world, "alice"), Node(world, "bob", environment=host(world, "a", ID_A))
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.up()
        node.wait_connected()
    stream = alice.events()
    clone = copy(world, bob, "clone", host(world, "b", ID_B))
    clone.path("session-id").unlink()
    clone.up("--no-tcp", "--clone-policy", "allow")
    wait_for(lambda: logged(clone, "member_connected_elsewhere"), what="the newer to be told")
    assert "member_already_connected" in json.dumps(clone.health())
    stream.wait(is_clone_event, what="the admins to hear of the one that was refused, too")
    assert bob.health()["meshes"][0]["connected"] is True
    wait_for(lambda: audited(broker, "concurrent_connection") == 1, what="the audit")
    clone.path("session-id").write_text(bob.path("session-id").read_text())
    clone.down()
    clone.up()
    clone.wait_connected()  # the same session takes the place under every policy
    bob.wait_connected(False)


# ---- new keys for a copy ------------------------------------------------------------------------------------------------------------


def invite(node):
    return node.cli("mesh", "invite").stdout.decode().strip()


def copied_pair(world):
    broker, alice, bob = pair_on_hosts(world)
    return broker, alice, bob, copy(world, bob, "bill", host(world, "b", ID_B, eth0=MAC_B))


def test_remint_makes_a_second_member_that_the_first_can_message(world):
    broker, alice, bob, bill = copied_pair(world)
    bill.cli("daemon", "up", "--no-tcp", check=4)
    token = bill.path("local-token").read_text()
    config = json.loads((bill.config / "config.json").read_text())
    config["meshes"][0].update(nextSecretKey=Key().secret.hex(), note="kept")  # of a rotation that bob had begun
    (bill.config / "config.json").write_text(json.dumps(config))
    bill.cli("daemon", "remint", "--name", "bill", "--invite", "-", input=invite(alice).encode())
    assert bill.pubkey != bob.pubkey and bill.mesh()["memberId"] != bob.mesh()["memberId"]
    assert record(bill)["host_id"] == ID_B
    assert "nextSecretKey" not in bill.mesh() and bill.mesh()["note"] == "kept"
    bill.up()
    bill.wait_connected()
    assert bill.path("session-id").read_text() != bob.path("session-id").read_text()
    assert bill.path("local-token").read_text() != token
    bob.wait_connected()
    wait_for(lambda: bob.send("bill", "are you me?").status == 202, what="bob to know bill")
    received = bill.wait_inbox(1)[-1]
    assert received["body"] == "are you me?" and received["verified"] is True
    wait_for(lambda: bill.send("bob", "not any more").status == 202)
    assert bob.wait_inbox(1)[-1]["body"] == "not any more"
    assert audited(broker, "member_clone_suspected") == audited(broker, "concurrent_connection") == 0
    assert not [path for path in bill.config.glob("*.key")] and not [path for path in bill.path("").glob("reminted-*")]


def test_what_waited_in_the_copy_is_given_up_and_sent_by_the_first_alone(world):
    broker, alice, bob = pair_on_hosts(world)
    broker.stop()
    bob.wait_connected(False)
    for number in range(3):
        assert bob.send(alice.pubkey, f"waits {number}").status == 202
    bob.down()
    bill = copy(world, bob, "bill", host(world, "b", ID_B))
    broker.start()
    bill.cli("daemon", "remint", "--name", "bill", "--invite", invite(alice))
    bill.up()
    bill.wait_connected()
    assert bill.outbox_counts() == (0, 0, 3)
    rows = bill.json("daemon", "outbox", "list", "--failed")["items"]
    assert {row["last_error"] for row in rows} == {"member_reminted"}
    assert logged(bill, "former_rows_ended")[0]["rows"] == 3
    bob.up()
    bob.wait_connected()
    alice.wait_connected()
    assert [item["body"] for item in alice.wait_inbox(3)] == ["waits 0", "waits 1", "waits 2"]
    assert bill.send(alice.pubkey, "mine").status == 202
    assert [item["body"] for item in alice.wait_inbox(4)][3] == "mine"
    bill.down()
    bill.up()
    assert len(logged(bill, "former_rows_ended")) == 1


def test_remint_refuses_while_a_daemon_runs_and_without_an_invite(world):
    broker, alice, bob, bill = copied_pair(world)
    before = everything(bill)
    refused = bill.cli("daemon", "remint", check=1).stderr.decode()
    assert "acme" in refused and "--invite" in refused
    assert {name: value for name, value in everything(bill).items() if "daemon.pid" not in name} == {
        name: value for name, value in before.items() if "daemon.pid" not in name}
    assert "daemon down" in bob.cli("daemon", "remint", "--invite", invite(alice), check=1).stderr.decode()
    other = Node(world, "other")
    create_mesh(broker, other, slug="another")
    assert "not joined" in bill.cli("daemon", "remint", "--invite", invite(other), check=2).stderr.decode()
    assert bill.pubkey == bob.pubkey


def test_the_owners_key_cannot_be_made_anew_and_remint_says_why(world):
    broker, alice, bob = pair_on_hosts(world)
    alice.down()
    twin = copy(world, alice, "twin", host(world, "b", ID_B))
    refused = twin.cli("daemon", "remint", "--name", "twin", check=1).stderr.decode()
    assert "owner" in refused and "--as-admin" in refused and "accept-host" in refused
    assert twin.pubkey == alice.pubkey
    twin.cli("daemon", "remint", "--name", "twin", "--invite", invite(alice), check=1)
    alice.up()
    alice.wait_connected()
    twin.cli("daemon", "remint", "--name", "twin", "--as-admin")
    assert twin.pubkey != alice.pubkey and twin.mesh()["role"] == "admin" and twin.mesh()["ownerPubkey"] == alice.pubkey
    assert alice.mesh()["secretKey"] not in (twin.config / "config.json").read_text()
    twin.up()
    twin.wait_connected()
    wait_for(lambda: alice.send("twin", "you are an admin").status == 202)
    assert twin.wait_inbox(1)[-1]["verified"] is True


def test_a_remint_whose_answer_could_not_be_kept_goes_on_with_the_same_key(world):
    broker, alice, bob, bill = copied_pair(world)
    link = invite(alice)  # good for one
    (bill.config / "config.json.lock").unlink(missing_ok=True)
    (bill.config / "config.json.lock").mkdir()
    bill.cli("daemon", "remint", "--name", "bill", "--invite", link, check=1)
    assert bill.pubkey == bob.pubkey
    bill.cli("daemon", "up", "--no-tcp", check=4)
    (bill.config / "config.json.lock").rmdir()
    bill.cli("daemon", "remint", "--name", "bill", "--invite", link)
    bill.up()
    bill.wait_connected()
    with sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True) as store:
        assert store.execute("SELECT count(*) FROM member WHERE state = 'active'").fetchone()[0] == 3


@pytest.mark.parametrize("step", range(12))
def test_a_remint_that_is_killed_at_any_step_goes_on_when_it_is_repeated(world, step):
    broker, alice, bob, bill = copied_pair(world)
    link = invite(alice)
    process = world.start([BINARY, "--config-dir", bill.config, "daemon", "remint", "--name", "bill", "--invite", link], bill.log,
                          world.environment(**bill.more_environment))
    time.sleep(step * 0.0015)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_late = bill.cli("daemon", "up", "--no-tcp", check=None).returncode == 0
    if killed_late:
        bill.cli("daemon", "down")
    else:
        bill.cli("daemon", "remint", "--name", "bill", "--invite", link)
    bill.up()
    bill.wait_connected()
    assert bill.pubkey != bob.pubkey
    with sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True) as store:
        assert store.execute("SELECT count(*) FROM member WHERE state = 'active'").fetchone()[0] == 3, "one new member, however often it was tried"
