"""Backup, restore, reset, uninstall: real processes, real files, a real broker, and some that are not."""

import base64
import contextlib
import hashlib
import json
import os
import pty
import resource
import select
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import threading
import time

import pytest
from harness import BINARY, ROOT, SLOW, Broker, Key, Node, Stub, WireClient, create_mesh, deadline, join, stub_answer, stub_handshake, wait_for

PASSPHRASE = "correct horse battery staple"


def passphrase_file(world, text=PASSPHRASE, name="passphrase"):
    path = world.directory / name
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def backup(node, *flags, name="the.backup", check=0):
    path = node.world.directory / name
    done = node.cli("daemon", "backup", "--out", path, "--passphrase-file", passphrase_file(node.world), *flags, check=check)
    return path if check == 0 else done


def restore(node, path, *flags, check=0, passphrase=None):
    file = passphrase or passphrase_file(node.world)
    return node.cli("daemon", "restore", "--in", path, "--passphrase-file", file, *flags, check=check)


def tree(directory):
    """Everything there is: names, modes, contents."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
        found[str(path.relative_to(directory))] = (stat.S_IMODE(status.st_mode), content)
    return found


def rows(node, sql):
    connection = sqlite3.connect(f"file:{node.path('outbox.db')}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def pair(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    return broker, alice, bob


def used(world):
    """A pair with a past: done ids and one that waits for a broker that is gone."""
    broker, alice, bob = pair(world)
    bob.up()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    for number in range(3):
        assert alice.send(bob.pubkey, f"done {number}", client_message_id=f"done-{number}", meta={"n": number}).status == 202
    bob.wait_inbox(3)
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), what="an empty outbox")
    assert bob.send(alice.pubkey, "an answer", client_message_id="answer").status == 202
    alice.wait_inbox(1)
    broker.stop()
    alice.wait_connected(False)
    assert alice.send(bob.pubkey, "waits", client_message_id="waits").status == 202
    return broker, alice, bob


# ---- the flow ---------------------------------------------------------------------------------------------------------------


def test_a_backup_made_here_restores_on_another_host_as_another_user_would(world):
    broker, alice, bob = used(world)
    hook = alice.path("hooks") / "on-message.sh"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o700)
    alice.path("hooks").joinpath("hooks.toml").write_text("")
    alice.path("hooks").joinpath("hooks.toml").chmod(0o600)
    path = backup(alice)  # the daemon runs
    assert path.stat().st_mode & 0o777 == 0o600
    for secret in (alice.mesh()["secretKey"], alice.pubkey, "done-1", "waits", bob.pubkey, alice.path("local-token").read_text()):
        assert secret.encode() not in path.read_bytes()
    token, session, mesh = alice.path("local-token").read_text(), alice.path("session-id").read_text(), alice.mesh()
    alice.down()

    host = world.directory / "another-root"
    (host / "etc").mkdir(parents=True)
    (host / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    elsewhere = Node(world, "elsewhere", environment={"HOME": str(world.directory / "another-home"), "CLAUDEMESH_HOST_ROOT": str(host)})
    done = restore(elsewhere, path)
    assert b"another host" in done.stderr
    assert elsewhere.mesh() == mesh
    assert (elsewhere.config / "config.json").stat().st_mode & 0o777 == 0o600
    assert json.loads(elsewhere.path("host_fingerprint.json").read_text())["host_id"] == "0123456789abcdef0123456789abcdef"
    assert elsewhere.path("local-token").read_text() != token
    assert not elsewhere.path("session-id").exists()
    assert (elsewhere.path("hooks") / "on-message.sh").stat().st_mode & 0o777 == 0o700
    assert (elsewhere.path("hooks") / "hooks.toml").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(elsewhere.config)) == ["config.json", "daemon"]
    broker.start()
    elsewhere.up()
    elsewhere.wait_connected()
    assert elsewhere.path("session-id").read_text() != session
    # 30-delivery's table, for ids that were consumed in the other house
    again = elsewhere.send(bob.pubkey, "done 1", client_message_id="done-1", meta={"n": 1})
    assert again.status == 200 and again.json["duplicate"] is True and again.json["broker_message_id"]
    other = elsewhere.send(bob.pubkey, "something else", client_message_id="done-1")
    assert other.status == 409 and other.json["conflict"] == "outbox_done_fingerprint_mismatch"
    lost = elsewhere.send(bob.pubkey, "waits", client_message_id="waits")
    assert lost.status == 409 and lost.json["conflict"] == "outbox_aborted_fingerprint_match"
    shown = elsewhere.json("daemon", "outbox", "show", "waits")
    assert "restore" in json.dumps(shown)
    assert elsewhere.inbox() == []
    wait_for(lambda: not elsewhere.health()["meshes"][0]["awaiting_members"], what="the merged list")
    assert elsewhere.send(bob.pubkey, "new", client_message_id="new").status == 202
    bob.wait_inbox(4)
    elsewhere.down()
    bob.down()


def test_with_data_messages_come_back_and_what_waited_is_sent(world):
    broker, alice, bob = used(world)
    path = backup(alice, "--with-data")
    alice.down()
    broker.start()
    again = Node(world, "again")
    restore(again, path)
    again.up()
    items = bob.wait_inbox(4)
    assert [item["body"] for item in items] == ["done 0", "done 1", "done 2", "waits"]
    assert [item["body"] for item in again.inbox()] == ["an answer"]
    wait_for(lambda: again.outbox_counts() == (0, 0, 0), what="an empty outbox")
    assert again.json("inbox", "search", "answer")
    again.down()
    bob.down()


def test_an_existing_file_is_not_overwritten_without_force_and_nothing_is_left_of_a_failure(world):
    _, alice, _ = pair(world)
    path = backup(alice)
    before = path.read_bytes()
    assert b"--force" in backup(alice, check=6).stderr
    assert path.read_bytes() == before
    backup(alice, "--force")
    assert path.read_bytes() != before
    done = alice.cli("daemon", "backup", "--out", world.directory / "no" / "such" / "place", "--passphrase-file", passphrase_file(world), check=None)
    assert done.returncode != 0 and b"cannot create" in done.stderr
    assert [name for name in os.listdir(world.directory) if "tmp-" in name] == []
    nobody = Node(world, "nobody")
    assert b"nothing to back up" in nobody.cli("daemon", "backup", "--out", world.directory / "x", "--passphrase-file", passphrase_file(world), check=1).stderr
    assert b"--out" in alice.cli("daemon", "backup", check=2).stderr
    assert b"--passphrase-file" in alice.cli("daemon", "backup", "--out", world.directory / "y", check=2).stderr
    empty = passphrase_file(world, "", "empty")
    assert b"empty" in alice.cli("daemon", "backup", "--out", world.directory / "y", "--passphrase-file", empty, check=1).stderr


def test_restore_refuses_while_a_daemon_runs_or_where_there_is_a_configuration(world):
    broker, alice, bob = pair(world)
    path = backup(alice)
    bob.up()
    before = bob.mesh()
    done = restore(bob, path, "--force", check=1)
    assert b"a daemon runs" in done.stderr and b"daemon down" in done.stderr
    bob.down()
    snapshot = tree(bob.config)
    done = restore(bob, path, check=6)
    assert b"--force" in done.stderr
    assert tree(bob.config) == snapshot
    done = restore(bob, path, "--force")
    aside = next(bob.config.glob("before-restore-*"))
    assert str(aside).encode() in done.stdout
    assert json.loads((aside / "config.json").read_text())["meshes"][0] == before
    assert {name for name in snapshot if name.startswith("daemon/")} <= set(tree(aside)) | {"daemon/daemon.pid"}
    assert bob.mesh() == alice.mesh()
    assert aside.stat().st_mode & 0o777 == 0o700


# ---- attacks on the file ------------------------------------------------------------------------------------------------------


def attacked(original):
    """Name, and bytes that must be refused. A head is 128 bytes, a chunk 65,553."""
    def flipped(at):
        return original[:at] + bytes([original[at] ^ 1]) + original[at + 1:]

    def costing(operations, memory):
        head = bytearray(original[:96])
        struct.pack_into(">IQ", head, 12, operations, memory)
        return bytes(head) + hashlib.blake2b(bytes(head), digest_size=32).digest() + original[128:]

    chunk = 65553
    assert len(original) > 128 + 3 * chunk
    first, second = original[128:128 + chunk], original[128 + chunk:128 + 2 * chunk]
    yield "cut in the head", original[:100]
    yield "cut behind the head", original[:128]
    yield "cut between two chunks", original[:128 + chunk]
    yield "cut in a chunk", original[:128 + chunk + 1000]
    yield "the last chunk is gone", original[:128 + (len(original) - 128 - 1) // chunk * chunk]
    yield "one byte is gone", original[:-1]
    yield "a byte behind the end", original + b"x"
    for at in (0, 8, 11, 13, 20, 30, 45, 70, 100, 128, 128 + 17, 128 + chunk + 5, len(original) - 1):
        yield f"a bit at {at}", flipped(at)
    yield "chunks in another order", original[:128] + second + first + original[128 + 2 * chunk:]
    yield "a chunk twice", original[:128] + first + first + original[128 + chunk:]
    yield "a chunk is missing", original[:128] + original[128 + chunk:]
    yield "4 GiB of memory", costing(3, 4 << 30)
    yield "more than all memory", costing(3, 2**63)
    yield "a million passes", costing(1000000, 256 << 20)
    yield "no pass", costing(0, 256 << 20)
    yield "a cheaper key", costing(1, 8192)
    yield "nothing", b""
    yield "something else", b"SQLite format 3\0" + b"\0" * 4096


def test_a_wrong_passphrase_or_a_changed_file_says_so_and_changes_nothing(world):
    broker, alice, bob = pair(world)
    alice.up()
    for number in range(6):
        alice.send(bob.pubkey, os.urandom(24000).hex(), client_message_id=f"large-{number}")
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), what="an empty outbox")
    alice.down()
    path = backup(alice, "--with-data")
    target = Node(world, "target")
    before = tree(world.directory)
    done = restore(target, path, check=3, passphrase=passphrase_file(world, "wrong", "wrong"))
    assert b"passphrase" in done.stderr
    (world.directory / "wrong").unlink()
    assert tree(world.directory) == before
    changed = world.directory / "changed"
    for name, content in attacked(path.read_bytes()):
        changed.write_bytes(content)
        started = time.monotonic()
        done = restore(target, changed, check=None)
        assert done.returncode in (1, 3), f"{name}: {done}"
        assert any(word in done.stderr for word in (b"damaged", b"no backup", b"passphrase", b"newer", b"allowed", b"Argon2id")), f"{name}: {done.stderr}"
        assert time.monotonic() - started < 20 * SLOW, name
        changed.unlink()
        assert tree(world.directory) == before, name
    restore(target, path)
    # and over an installation, which stays as it is
    before = tree(bob.config)
    changed.write_bytes(path.read_bytes()[:-1])
    restore(bob, changed, "--force", check=1)
    assert tree(bob.config) == before


def test_backups_of_earlier_versions_still_open(world):
    fixtures = sorted((ROOT / "tests" / "fixtures" / "backups").glob("*.backup"))
    assert fixtures
    for number, path in enumerate(fixtures):
        node = Node(world, f"old-{number}")
        restore(node, path)
        assert node.mesh()["slug"] == "acme"
        assert ("done-0", "done") in rows(node, "SELECT client_message_id, status FROM outbox")
        if "data" not in path.name:
            assert ("waits", "aborted", "restore") in rows(node, "SELECT client_message_id, status, aborted_by FROM outbox")
        node.up(wait=True)
        assert node.health()["meshes"][0]["awaiting_members"] is True
        node.down()


# ---- trust first ------------------------------------------------------------------------------------------------------------


def pushed(connection, mesh, sender, to_hex, body, name):
    """A message of `sender`, as a broker hands it out."""
    wire = WireClient.__new__(WireClient)
    wire.key, wire.mesh = sender, {"meshId": mesh["meshId"]}
    nonce, sealed = wire.seal(to_hex, body, name)
    connection.send({"type": "push", "messageId": f"b-{name}", "historyId": 1, "meshId": mesh["meshId"], "senderPubkey": sender.hex, "senderMemberPubkey": sender.hex,
                     "senderName": "x", "priority": "next", "nonce": base64.b64encode(nonce).decode(), "ciphertext": base64.b64encode(sealed).decode(),
                     "createdAt": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), "client_message_id": name, "bodyVersion": 3})


def test_after_a_restore_nothing_is_sent_or_taken_in_while_the_broker_withholds_the_members(world):
    broker, alice, bob = used(world)
    path = backup(alice, "--with-data")
    port, sender, mesh = broker.port, Key.from_secret_hex(bob.mesh()["secretKey"]), alice.mesh()
    alice.down()
    bob.down()
    give, asked, frames = threading.Event(), [], []

    def handler(connection, index):
        stub_handshake(connection)
        pushed(connection, mesh, sender, mesh["pubkey"], "early", "early")
        while True:
            frame = connection.receive()
            if frame is None:
                return
            if frame["type"] == "list_members" and not give.is_set():
                asked.append(time.monotonic())
                connection.send({"type": "error", "_reqId": frame.get("_reqId"), "code": "unavailable", "message": "not now"})
                continue
            if frame["type"] in ("send", "client_ack", "seen"):
                frames.append(frame)
            if frame["type"] == "send":
                connection.send({"type": "ack", "id": frame["id"], "client_message_id": frame["client_message_id"], "status": 201, "messageId": "m-1", "historyId": 1})
            stub_answer(connection, frame, members=[{"id": "x", "pubkey": bob.pubkey, "displayName": "bob"}])

    Stub(world, handler, port=port)
    again = Node(world, "again")
    restore(again, path)
    again.up()
    again.wait_connected()
    assert again.send(bob.pubkey, "new", client_message_id="new").status == 202
    wait_for(lambda: len(asked) >= 3, 30, "the list to be asked for again and again")
    health = again.health()["meshes"][0]
    assert health["awaiting_members"] is True and health["degraded"] is True and health["pending"] == 2
    assert frames == [] and [item["body"] for item in again.inbox()] == ["an answer"]
    assert b"restored from a backup" in again.cli("daemon", "status").stdout
    again.kill()  # the mark is on the disk
    again.up()
    again.wait_connected()
    assert again.health()["meshes"][0]["awaiting_members"] is True and frames == []
    give.set()
    wait_for(lambda: [frame["client_message_id"] for frame in frames if frame["type"] == "send"] == ["waits", "new"], 30, "what waited")
    wait_for(lambda: "early" in [item["body"] for item in again.inbox()], 30, "what was pushed")
    assert again.health()["meshes"][0]["awaiting_members"] is False
    again.down()
    again.up()
    assert again.health()["meshes"][0]["awaiting_members"] is False
    again.down()


def test_a_revocation_made_after_the_backup_holds_before_anything_of_it_is_sent(world):
    broker, alice, bob = used(world)
    path = backup(alice, "--with-data")  # with a message to bob that waits
    alice.down()
    broker.start()
    bob.down()
    alice.cli("member", "revoke", bob.pubkey, "--yes")
    again = Node(world, "again")
    restore(again, path)
    assert rows(again, "SELECT status FROM outbox WHERE client_message_id = 'waits'") == [("pending",)]
    again.up()
    wait_for(lambda: again.outbox_counts() == (0, 0, 1), 30, "the refusal")
    assert "recipient_revoked" in rows(again, "SELECT last_error FROM outbox WHERE client_message_id = 'waits'")[0][0]
    again.down()


# ---- crashes, full disks, size ------------------------------------------------------------------------------------------------


def state_of(node):
    """Which configuration and which database stand there, as any command finds them."""
    listed = node.json("mesh", "list")["meshes"]
    ids = rows(node, "SELECT client_message_id FROM outbox ORDER BY seq") if node.path("outbox.db").exists() else []
    return [mesh["pubkey"] for mesh in listed], [row[0] for row in ids]


def test_a_restore_that_is_killed_leaves_the_old_state_or_the_new_one_and_a_second_goes_on(world):
    broker, alice, bob = used(world)
    path = backup(alice)
    alice.down()
    bob.down()
    master = tree(bob.config)
    file = passphrase_file(world)
    new = ([alice.pubkey], ["done-0", "done-1", "done-2", "waits"])
    old = state_of(bob)
    arguments = [BINARY, "--config-dir", bob.config, "daemon", "restore", "--in", path, "--passphrase-file", file, "--force"]
    started = time.monotonic()
    world.run(*arguments, check=0)
    whole = time.monotonic() - started
    seen = set()
    for number in range(24):
        shutil.rmtree(bob.config)
        for name, (mode, content) in master.items():
            place = bob.config / name
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if content is None:
                place.mkdir(mode=mode, exist_ok=True)
            else:
                place.write_bytes(content)
                place.chmod(mode)
        bob.config.chmod(0o700)
        (bob.config / "daemon").chmod(0o700)
        process = subprocess.Popen([str(a) for a in arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=world.environment())
        time.sleep(whole * (0.5 + 0.6 * number / 24))  # when it is killed is the test's matter, not what it waits for
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = state_of(bob)
        assert state in (old, new), f"kill {number}: {state}"
        seen.add(state == new)
        assert not (bob.config / ".restore-ready").exists()
        if state == new:
            aside = list(bob.config.glob("before-restore-*"))
            assert len(aside) == 1 and (aside[0] / "config.json").exists() and (aside[0] / "daemon" / "outbox.db").exists()
        world.run(*arguments, check=0)
        assert state_of(bob) == new
        assert not (bob.config / ".restore-staging").exists()
    bob.up()
    bob.down()


@pytest.mark.parametrize("moved", ["nothing", "config.json out", "out, and its old name came back", "config.json", "in, and its old name came back", "daemon out", "both"])
def test_a_restore_that_was_decided_is_finished_by_whatever_command_comes_next(world, moved):
    _, alice, bob = pair(world)
    bob.up()
    bob.down()
    restore(Node(world, "source"), backup(alice))
    source, root = world.directory / "source", bob.config
    ready = root / ".restore-ready"
    ready.mkdir(mode=0o700)
    (ready / "keep").write_text("")
    shutil.copy(source / "config.json", ready / "config.json")
    shutil.copytree(source / "daemon", ready / "daemon")
    former = ready / "former"
    if moved != "nothing":
        former.mkdir(mode=0o700)
        (root / "config.json").rename(former / "config.json")
    if moved.startswith("out,"):
        shutil.copy(former / "config.json", root / "config.json")
    if moved.startswith("in,"):
        shutil.copy(ready / "config.json", root / "config.json")
    if moved in ("config.json", "daemon out", "both"):
        (ready / "config.json").rename(root / "config.json")
    if moved in ("daemon out", "both"):
        (root / "daemon").rename(former / "daemon")
    if moved == "both":
        (ready / "daemon").rename(root / "daemon")
    assert bob.json("mesh", "list")["meshes"][0]["pubkey"] == alice.pubkey
    assert not ready.exists()
    aside = next(root.glob("before-restore-*"))
    assert json.loads((aside / "config.json").read_text())["meshes"][0]["pubkey"] != alice.pubkey
    assert (aside / "daemon" / "host_fingerprint.json").exists()
    assert rows(bob, "SELECT count(*) FROM trust_awaiting") == [(1,)]
    bob.up()
    bob.down()


def limited(bytes_at_most):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_at_most, bytes_at_most))
    return limit


def test_a_full_disk_leaves_no_half_backup_and_no_half_restore(world):
    broker, alice, bob = pair(world)
    alice.up()
    for number in range(6):
        alice.send(bob.pubkey, os.urandom(24000).hex(), client_message_id=f"large-{number}")
    alice.down()
    path = backup(alice, "--with-data")
    file = passphrase_file(world)
    target = world.directory / "small.backup"
    for size in (0, 100, 70000, path.stat().st_size - 10):
        done = subprocess.run([BINARY, "--config-dir", str(alice.config), "daemon", "backup", "--with-data", "--out", str(target), "--passphrase-file", str(file)],
                              capture_output=True, env=world.environment(), preexec_fn=limited(size))
        assert done.returncode == 1 and done.stderr.count(b"claudemesh: ") == 1, done
        assert not target.exists() and [name for name in os.listdir(world.directory) if "tmp-" in name] == []
    before = tree(bob.config)
    for size in (0, 500, 4096, 50000, 200000):
        done = subprocess.run([BINARY, "--config-dir", str(bob.config), "daemon", "restore", "--force", "--in", str(path), "--passphrase-file", str(file)],
                              capture_output=True, env=world.environment(), preexec_fn=limited(size))
        assert done.returncode == 1 and done.stderr.count(b"claudemesh: ") == 1, done
        assert tree(bob.config) == before, size
    restore(bob, path, "--force")


def test_memory_does_not_grow_with_what_is_backed_up(world):
    _, alice, bob = pair(world)
    alice.up()
    alice.send(bob.pubkey, "first", client_message_id="first")
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), what="an empty outbox")
    alice.down()
    count = 300000
    with contextlib.closing(sqlite3.connect(alice.path("outbox.db"))) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i <= ?)"
            " INSERT INTO outbox (seq, id, client_message_id, request_fingerprint, broker_fingerprint, mesh, destination_kind, destination_ref, priority, enqueued_at,"
            " next_attempt_at, status, payload, delivered_at, broker_message_id)"
            " SELECT i, printf('%026d', i), 'id-' || i, randomblob(32), randomblob(32), mesh, 'dm', destination_ref, 'next', enqueued_at, 0, 'done', randomblob(500), 1, 'b' || i"
            " FROM n, (SELECT mesh, destination_ref, enqueued_at FROM outbox WHERE seq = 1)", (count,))
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file, target, argon = passphrase_file(world), world.directory / "large.backup", 256 << 10
    again = Node(world, "again")
    for arguments in ([*alice_arguments(alice), "backup", "--with-data", "--out", target], [*alice_arguments(again), "restore", "--in", target]):
        process = subprocess.Popen([str(a) for a in [*arguments, "--passphrase-file", file]], env=world.environment())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        if "asan" not in BINARY:
            assert usage.ru_maxrss < argon + (24 << 10), f"{usage.ru_maxrss} KiB"
    assert target.stat().st_size > count * 500
    assert rows(again, "SELECT count(*), sum(length(payload)) FROM outbox") == [(count + 1, 5 + 500 * count)]
    again.up()
    assert again.send(bob.pubkey, "first", client_message_id="first").status == 200
    assert again.send(bob.pubkey, "another", client_message_id=f"id-{count // 2}").status == 409
    again.down()


def alice_arguments(node):
    return [BINARY, "--config-dir", node.config, "daemon"]


def test_a_backup_beside_a_busy_daemon_is_one_moment_of_it(world):
    broker, alice, bob = pair(world)
    alice.up()
    alice.wait_connected()
    accepted, stop = [], threading.Event()

    def send():
        api = alice.new_api()
        while not stop.is_set():
            name = f"m-{len(accepted)}"
            if api.post("/v1/send", {"to": bob.pubkey, "message": "x" * 500, "client_message_id": name}).status == 202:
                accepted.append(name)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        wait_for(lambda: len(accepted) > 50, what="some traffic")
        for number in range(3):
            known = len(accepted)
            again = Node(world, f"again-{number}")
            restore(again, backup(alice, "--with-data", name=f"{number}.backup"))
            names = [row[0] for row in rows(again, "SELECT client_message_id FROM outbox ORDER BY seq")]
            assert names == [f"m-{i}" for i in range(len(names))] and len(names) >= known
            assert rows(again, "PRAGMA integrity_check") == [("ok",)]
    finally:
        stop.set()
        sender.join()
    alice.down()


# ---- the terminal ---------------------------------------------------------------------------------------------------------------


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, world, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(BINARY, [BINARY, *[str(a) for a in arguments]], world.environment())
        self.said = b""

    def wait(self, text, seconds=20):
        end = deadline(seconds)
        while text not in self.said:
            assert time.monotonic() < end, self.said
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    more = os.read(self.fd, 4096)
                except OSError:
                    more = b""
                if not more:
                    break
                self.said += more
        assert text in self.said, self.said

    def type(self, text):
        os.write(self.fd, text.encode() + b"\n")

    def end(self):
        with contextlib.suppress(OSError):
            while more := os.read(self.fd, 4096):
                self.said += more
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_on_a_terminal_the_passphrase_is_asked_for_twice_and_never_shown(world):
    _, alice, _ = pair(world)
    path = world.directory / "typed.backup"
    asked = Terminal(world, "--config-dir", alice.config, "daemon", "backup", "--out", path)
    asked.wait(b"passphrase for the backup")
    asked.type("typed secret")
    asked.wait(b"again")
    asked.type("typed sekret")
    assert asked.end() == 1 and b"not the same" in asked.said and not path.exists()
    asked = Terminal(world, "--config-dir", alice.config, "daemon", "backup", "--out", path)
    asked.wait(b"passphrase for the backup")
    asked.type("typed secret")
    asked.wait(b"again")
    asked.type("typed secret")
    assert asked.end() == 0 and path.exists()
    assert b"typed" not in asked.said.replace(b"typed.backup", b"")
    again = Node(world, "again")
    asked = Terminal(world, "--config-dir", again.config, "daemon", "restore", "--in", path)
    asked.wait(b"passphrase")
    asked.type("typed secret")
    assert asked.end() == 0
    assert again.mesh() == alice.mesh()


# ---- reset and uninstall -----------------------------------------------------------------------------------------------------------


def test_reset_clears_what_was_said_and_keeps_who_we_are_and_which_ids_were_used(world):
    broker, alice, bob = used(world)
    token, session = alice.path("local-token").read_text(), alice.path("session-id").read_text()
    kept = {name: (alice.config / name).read_bytes() for name in ("config.json", "daemon/host_fingerprint.json")}
    assert b"--yes" in alice.cli("daemon", "reset", check=2).stderr
    assert alice.send(bob.pubkey, "waits", client_message_id="waits").status == 202
    alice.api.close()
    done = alice.cli("daemon", "reset", "--yes")  # stops the daemon
    assert alice.process.wait(15) == 0
    assert b"4 used message ids" in done.stdout and b"1 had not been sent" in done.stdout
    for name, content in kept.items():
        assert (alice.config / name).read_bytes() == content
    assert alice.path("local-token").read_text() != token
    assert not alice.path("session-id").exists() and not alice.path("daemon.log").exists()
    for name in ("outbox.db", "inbox.db"):
        content = b"".join(path.read_bytes() for path in alice.config.glob(f"daemon/{name}*"))
        assert b"done 1" not in content and b"an answer" not in content and b"waits\0" not in content
    broker.start()
    alice.up()
    alice.wait_connected()
    assert alice.path("session-id").read_text() != session
    assert alice.inbox() == []
    assert alice.send(bob.pubkey, "done 1", client_message_id="done-1", meta={"n": 1}).status == 200
    assert alice.send(bob.pubkey, "waits", client_message_id="waits").json["conflict"] == "outbox_aborted_fingerprint_match"
    assert alice.send(bob.pubkey, "new", client_message_id="new").status == 202
    bob.wait_inbox(4)
    alice.down()
    before = rows(alice, "SELECT * FROM outbox")
    alice.cli("daemon", "reset", "--yes")
    assert [row[:3] for row in rows(alice, "SELECT * FROM outbox")] == [row[:3] for row in before]
    bob.down()


def test_beside_an_interrupted_recovery_neither_a_backup_nor_a_reset_takes_half_an_outbox_for_one(world):
    _, alice, _ = used(world)
    alice.down()
    alice.path("outbox.recovery").write_text("{}")
    alice.path("outbox.recovery").chmod(0o600)
    for done in (backup(alice, check=1), alice.cli("daemon", "reset", "--yes", check=1)):
        assert b"daemon recover" in done.stderr
    assert not (world.directory / "the.backup").exists()
    assert len(rows(alice, "SELECT * FROM outbox WHERE status <> 'aborted'")) == 4


def test_uninstall_leaves_the_mesh_and_nothing_in_the_home(world):
    broker, alice, bob = pair(world)
    home = world.directory / "home"
    home.mkdir(mode=0o700)
    (home / "notes.txt").write_text("mine")
    before = tree(home)
    carol = Node(world, "carol", environment={"HOME": str(home)})
    carol.config = home / ".claudemesh"
    join(alice, carol)
    carol.up()
    carol.wait_connected()
    carol.cli("daemon", "backup", "--out", world.directory / "carol.backup", "--passphrase-file", passphrase_file(world))
    assert b"--yes" in carol.cli("daemon", "uninstall", check=2).stderr
    pubkey = carol.pubkey
    carol.api.close()
    done = carol.cli("daemon", "uninstall", "--yes")
    assert carol.process.wait(15) == 0
    assert b"is gone" in done.stdout and b"OWN" not in done.stderr
    assert tree(home) == before
    alice.up()
    alice.wait_connected()
    members = alice.json("member", "list")
    assert pubkey not in [member["pubkey"] for member in members["members"] if not member.get("left") and not member.get("revoked")]
    alice.down()


def test_an_owner_is_warned_and_a_broker_that_cannot_be_told_needs_force(world):
    broker, alice, bob = pair(world)
    (alice.config / "broker").mkdir(mode=0o700)
    (alice.config / "broker" / "broker.db").write_text("somebody's messages")
    (alice.config / "mine.txt").write_text("mine")
    broker.stop()
    before = tree(alice.config)
    done = alice.cli("daemon", "uninstall", "--yes", check=5)
    assert b"YOU OWN THE MESH 'acme'" in done.stderr and b"--force" in done.stderr
    after = tree(alice.config)
    assert {name: after[name] for name in before} == before
    done = alice.cli("daemon", "uninstall", "--yes", "--force")
    assert b"YOU OWN" in done.stderr and b"broker" in done.stdout and b"mine.txt" in done.stdout
    assert sorted(tree(alice.config)) == ["broker", "broker/broker.db", "mine.txt"]


def test_on_a_terminal_reset_and_uninstall_ask_and_no_means_no(world):
    _, alice, _ = pair(world)
    alice.up()
    alice.down()
    before = tree(alice.config)
    for command, text in (("reset", b"nothing was reset"), ("uninstall", b"nothing was removed")):
        asked = Terminal(world, "--config-dir", alice.config, "daemon", command)
        asked.wait(b"[y/N]")
        asked.type("n")
        assert asked.end() == 1 and text in asked.said
        assert tree(alice.config) == before
