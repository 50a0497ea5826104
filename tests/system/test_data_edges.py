"""What is kept and brought back, at its edges: histories of a member with former keys, deleted and never-committed rows in a damaged file, a restore beside a command that changes the
configuration, passphrase files that are not what they seem."""

import fcntl
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import time

import pytest
from harness import BINARY, Broker, Node, create_mesh, deadline, join, wait_for
from test_backup import backup, passphrase_file, restore
from test_inbox_rebuild import mark_unclean, rebuilt, ruin
from test_recover import PAGE, forget_log, pages, recover, rows

TABLE_LEAF, INDEX_LEAF = 13, 10  # a page's first byte


def pair(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    return broker, alice, bob


def started(*nodes):
    for node in nodes:
        node.up()
    for node in nodes:
        node.wait_connected()


# ---- history ----------------------------------------------------------------------------------------------------------------


def test_what_was_sent_under_a_former_key_is_not_taken_for_somebody_elses(world):
    _, alice, bob = pair(world)
    started(alice, bob)
    former = bob.pubkey
    assert bob.send(alice.pubkey, "from the former key", client_message_id="sent").status == 202
    assert bob.send(former, "a note to myself", client_message_id="own").status == 202
    assert alice.send(former, "to the former key", client_message_id="got").status == 202
    bob.wait_inbox(2)
    alice.wait_inbox(1)
    bob.json("daemon", "rotate-keypair")
    bob.down()
    mark_unclean(bob)
    ruin(bob)
    bob.up()
    wait_for(lambda: rebuilt(bob), 30, "history")
    assert {item["client_message_id"] for item in bob.inbox()} >= {"got"}
    assert "message_quarantined" not in bob.log.read_text()
    assert rows(bob.path("inbox.db"), "quarantine") == {}
    assert {item["client_message_id"] for item in bob.inbox()} == {"got", "own"}


# ---- salvage ----------------------------------------------------------------------------------------------------------------


def test_messages_that_were_pruned_do_not_come_back_out_of_free_pages(world):
    broker, alice, bob = pair(world)
    started(alice, bob)
    for number in range(60):
        assert alice.send(bob.pubkey, f"message {number} " + "m" * 1500, client_message_id=f"k{number}").status == 202
    bob.wait_inbox(60)
    broker.stop()
    bob.down()
    path = bob.path("inbox.db")
    with sqlite3.connect(path) as database:  # as the retention does, without what it would overwrite
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("INSERT INTO inbox_pruned SELECT mesh, sender_pubkey, client_message_id, sent_at, received_at FROM inbox WHERE seq <= 40")
        database.execute("DROP TABLE inbox_search")
        database.execute("DELETE FROM inbox WHERE seq <= 40")
        database.execute("UPDATE schema SET clean = 0")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    forget_log(path)
    data = bytearray(path.read_bytes())
    trunk, count = struct.unpack(">II", data[32:40])
    assert trunk > 0 and count > 20
    data[36:40] = struct.pack(">I", count + 3)  # a list that does not add up
    path.write_bytes(data)
    answer = recover(bob)
    assert answer["inbox"]["state"] == "damaged"
    assert sorted(row["client_message_id"] for row in rows(path, "inbox").values()) == sorted(f"k{number}" for number in range(40, 60))


def test_rows_that_were_never_committed_are_not_salvaged(world):
    """The log of a database whose last transaction did not come to its end: a send that was answered 507, or not at all."""
    broker, alice, bob = pair(world)
    broker.stop()
    alice.up()
    for number in range(30):
        assert alice.send(bob.pubkey, f"message {number} " + "m" * 3000, client_message_id=f"k{number:02}").status == 202
    alice.down()
    path, log = alice.path("outbox.db"), alice.path("outbox.db-wal")
    layout = pages(path)
    alice.up()
    for number in range(30, 40):
        assert alice.send(bob.pubkey, f"message {number} " + "m" * 9000, client_message_id=f"k{number:02}").status == 202
    alice.kill()
    frames = bytearray(log.read_bytes())
    size = 24 + PAGE
    heads = [struct.unpack(">II", frames[at:at + 8]) for at in range(32, len(frames) - size + 1, size)]
    ends = [number for number, (_, total) in enumerate(heads) if total != 0]
    last = [end for end, before in zip(ends[1:], ends, strict=False) if end > before + 1 and frames[32 + end * size + 24] != TABLE_LEAF][-1]
    del frames[32 + last * size:]  # its commit is missing; what comes before is whole, with the row
    log.write_bytes(frames)
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    shutil.copy(log, copy.with_name("copy.db-wal"))
    committed = {row["client_message_id"] for row in rows(copy).values()}
    assert 30 < len(committed) < 40
    victim = [number for number, (name, kind, _) in layout.items() if name == "outbox" and kind == "leaf" and number not in {number for number, _ in heads}][0]
    data = bytearray(path.read_bytes())
    data[(victim - 1) * PAGE:victim * PAGE] = b"\xee" * PAGE
    path.write_bytes(data)
    alice.path("outbox.db-shm").unlink(missing_ok=True)
    answer = recover(alice)
    assert answer["outbox"]["state"] == "damaged"
    after = {row["client_message_id"] for row in rows(path).values()}
    assert after <= committed, after - committed
    assert len(after) > len(committed) - 10


def test_recover_finds_a_row_that_an_index_has_lost(world):
    """It would stay pending for ever, in a file whose every page is sound."""
    broker, alice, bob = pair(world)
    broker.stop()
    alice.up()
    for number in range(5):
        assert alice.send(bob.pubkey, f"message {number}", client_message_id=f"k{number}").status == 202
    alice.down()
    path = alice.path("outbox.db")
    with sqlite3.connect(path) as database:
        root = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'outbox_pending'").fetchone()[0]
    database.close()
    data = bytearray(path.read_bytes())
    start = (root - 1) * PAGE
    assert data[start] == INDEX_LEAF
    at = data.rindex(b"next", start, start + PAGE)
    data[at:at + 4] = b"nexu"  # as many entries as rows, and one is nobody's
    path.write_bytes(data)
    assert recover(alice)["outbox"]["state"] == "damaged"
    broker.start()
    started(alice, bob)
    assert len(bob.wait_inbox(5)) == 5


def test_a_head_with_an_unknown_schema_format_is_damage_like_any_other(world):
    broker, alice, bob = pair(world)
    broker.stop()
    alice.up()
    assert alice.send(bob.pubkey, "message", client_message_id="k").status == 202
    alice.down()
    path = alice.path("outbox.db")
    data = bytearray(path.read_bytes())
    data[47] = 9
    path.write_bytes(data)
    alice.up(wait=False)
    assert alice.process.wait(20) == 1 and "daemon recover" in alice.log.read_text()
    assert recover(alice)["outbox"]["state"] == "damaged"
    assert [row["client_message_id"] for row in rows(path).values()] == ["k"]


def test_a_file_that_leads_round_in_circles_is_given_up_in_time(world):
    """Each page's cells claim 16 MiB on a chain of overflow pages that never ends: 300 million reads, if somebody followed them all."""
    node = Node(world, "node")
    (node.config / "daemon").mkdir(mode=0o700, parents=True)
    count, cells, at, local = 50, 1500, 0x0E0C, 489
    file = bytearray(PAGE * count)
    for page in range(count - 1):
        start = page * PAGE
        file[start] = TABLE_LEAF
        file[start + 3:start + 5] = struct.pack(">H", cells)
        file[start + 8:start + 8 + 2 * cells] = struct.pack(">H", at) * cells
        file[start + at:start + at + 7] = b"\x88\x80\x80\x00" + b"\x07" + b"\x02\x00"  # 16 MiB; row 7; a record
        file[start + at + 5 + local:start + at + 9 + local] = struct.pack(">I", count)
    file[(count - 1) * PAGE:(count - 1) * PAGE + 4] = struct.pack(">I", count)
    path = node.path("outbox.db")
    path.write_bytes(file)
    path.chmod(0o600)
    node.config.chmod(0o700)
    (node.config / "config.json").write_text('{"version": 1, "meshes": []}')
    (node.config / "config.json").chmod(0o600)
    end = deadline(20)
    answer = recover(node)
    assert answer["outbox"]["state"] == "damaged" and rows(path) == {}
    assert time.monotonic() < end


def key_is_computed(process):
    """The passphrase's key: config.json was read by then, the databases were not."""
    user = int(pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11])
    return user / os.sysconf("SC_CLK_TCK") > 0.1


# ---- restore beside others --------------------------------------------------------------------------------------------------


def test_a_restore_waits_for_a_command_that_is_changing_the_configuration_and_then_refuses(world):
    _, alice, _ = pair(world)
    file = backup(alice)
    other = Node(world, "other")
    other.config.mkdir(mode=0o700)
    lock = os.open(other.config / "config.json.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = subprocess.Popen([BINARY, "--config-dir", other.config, "daemon", "restore", "--in", file, "--passphrase-file", passphrase_file(world)],
                               env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: (other.config / ".restore-staging" / "daemon" / "local-token").exists() or process.poll() is not None, 30, "the restore to be made")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert not (other.config / "config.json").exists()
    (other.config / "config.json").write_bytes((alice.config / "config.json").read_bytes())
    mine = (other.config / "config.json").stat().st_ino
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 6 and b"--force" in said, said
    assert (other.config / "config.json").stat().st_ino == mine, "what the command wrote was taken away"
    assert not (other.config / ".restore-staging").exists() and not (other.config / ".restore-ready").exists()


def test_a_restore_that_was_decided_does_not_take_the_directory_from_a_daemon_that_serves_it(world):
    _, alice, bob = pair(world)
    started(alice, bob)
    source = Node(world, "source")
    restore(source, backup(alice))
    ready = bob.config / ".restore-ready"
    ready.mkdir(mode=0o700)
    (ready / "keep").write_text("")
    shutil.copy(source.config / "config.json", ready / "config.json")
    shutil.copytree(source.config / "daemon", ready / "daemon")
    serves = bob.path("daemon.pid").stat().st_ino
    assert bob.json("mesh", "list")["meshes"][0]["pubkey"] == bob.pubkey
    assert bob.path("daemon.pid").stat().st_ino == serves and ready.exists()
    assert bob.send(alice.pubkey, "served", client_message_id="served").status == 202
    bob.down()
    assert bob.json("mesh", "list")["meshes"][0]["pubkey"] == alice.pubkey
    assert not ready.exists() and next(bob.config.glob("before-restore-*/daemon/outbox.db")).exists()


def test_a_backup_beside_a_changing_configuration_fails_rather_than_mixing_two_moments(world):
    _, alice, _ = pair(world)
    out = world.directory / "b"
    process = subprocess.Popen([BINARY, "--config-dir", alice.config, "daemon", "backup", "--out", out, "--passphrase-file", passphrase_file(world)],
                               env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: key_is_computed(process), 30, "the key")
    process.send_signal(signal.SIGSTOP)
    document = json.loads((alice.config / "config.json").read_text())
    (alice.config / "config.json").write_text(json.dumps(document, indent=3))
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and b"make it again" in said, (process.returncode, said)
    assert not out.exists() and not list(world.directory.glob("b.*"))


def test_recover_where_no_daemon_has_run_and_uninstall_without_a_readable_configuration(world):
    node = Node(world, "new")
    done = node.cli("daemon", "recover", "--yes")
    assert b"outbox.db is not there" in done.stdout and not node.config.exists()
    node.config.mkdir(mode=0o700)
    (node.config / "config.json").write_text("{broken")
    (node.config / "config.json").chmod(0o600)
    done = node.cli("daemon", "uninstall", "--yes", check=None)
    assert done.returncode != 0 and b"--force" in done.stderr and node.config.exists()
    node.cli("daemon", "uninstall", "--yes", "--force")
    assert not node.config.exists()


@pytest.mark.parametrize("how", ["killed after the broker was told", "revoked"])
def test_who_is_no_member_any_more_uninstalls_without_force(world, how):
    _, alice, bob = pair(world)
    started(alice, bob)
    bob.down()
    if how == "revoked":
        alice.cli("member", "revoke", bob.pubkey, "--yes")
    else:
        shutil.copytree(bob.config, world.directory / "kept")
        bob.cli("daemon", "uninstall", "--yes")
        shutil.copytree(world.directory / "kept", bob.config)
    done = bob.cli("daemon", "uninstall", "--yes")
    assert b"does not know this member any more" in done.stderr
    assert not bob.config.exists()


# ---- passphrases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"ab\x00cdefghijklmnopqrstuvwxyz\n", b"\x00" * 32, b"a\nrest of a random key file", b"first\r\n\r\nthird\n", b"\n", b""])
def test_a_passphrase_file_of_which_only_a_beginning_would_count_is_refused(world, content):
    _, alice, _ = pair(world)
    file = world.directory / "odd"
    file.write_bytes(content)
    file.chmod(0o600)
    done = alice.cli("daemon", "backup", "--out", world.directory / "b", "--passphrase-file", file, check=None)
    assert done.returncode == 1 and str(file).encode() in done.stderr, done
    assert not (world.directory / "b").exists()


def test_one_line_is_one_passphrase_however_it_ends(world):
    _, alice, _ = pair(world)
    out = backup(alice)
    for number, end in enumerate((b"", b"\n", b"\r\n", b"\n\n")):
        file = world.directory / "end"
        file.write_bytes(b"correct horse battery staple" + end)
        file.chmod(0o600)
        other = Node(world, f"other{number}")
        other.cli("daemon", "restore", "--in", out, "--passphrase-file", file)
        assert json.loads((other.config / "config.json").read_text()) == json.loads((alice.config / "config.json").read_text())


def test_a_command_that_holds_a_passphrase_leaves_no_core(world):
    _, alice, _ = pair(world)
    unlimited = lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # noqa: E731
    process = subprocess.Popen([BINARY, "--config-dir", alice.config, "daemon", "backup", "--out", world.directory / "b", "--passphrase-file", passphrase_file(world)],
                               env=world.environment(), preexec_fn=unlimited, stdout=subprocess.DEVNULL)
    wait_for(lambda: key_is_computed(process), 30, "the key")
    limits = pathlib.Path(f"/proc/{process.pid}/limits").read_text()
    assert process.wait(60) == 0
    assert re.search(r"Max core file size +0 +0 ", limits), limits
