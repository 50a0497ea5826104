"""The VFS itself, under the system's SQLite: what a connection sees, what a disk keeps, in each mode. An instrument is believed when it was seen to fail."""

import os
import sqlite3
import subprocess

import pytest

import workload

PYTHON = "/usr/bin/python3"  # its sqlite3 module uses the system's library, which is what the VFS registers with
PRELUDE = """
import sqlite3, sys, os
def connect(path=sys.argv[1]):
    c = sqlite3.connect(path, isolation_level=None)
    c.execute("PRAGMA journal_mode = WAL")
    c.execute("PRAGMA synchronous = " + os.environ.get("SYNC", "FULL"))
    c.execute("PRAGMA wal_autocheckpoint = 0")
    return c
def say(*words):
    print(*words, flush=True)
"""
INSERTS = PRELUDE + """
c = connect()
c.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x TEXT)")
say("made")
for n in range(1, 16):
    c.execute("INSERT INTO t VALUES (?, ?)", (n, "x" * 700))
    say(n)
    if n % 5 == 0:
        c.execute("PRAGMA wal_checkpoint(PASSIVE)")
"""


@pytest.fixture
def place(tmp_path):
    try:
        workload.find_vfs()
    except FileNotFoundError:
        pytest.skip("the VFS is not built")
    return tmp_path


def run(place, script, at=0, mode="drop", seed=1, sync="FULL"):
    """The script's lines, its exit status, and the labels of the points."""
    report = place / "report"
    environment = dict(os.environ, LD_PRELOAD=workload.find_vfs(), POWERLOSS_VFS_AT=str(at), POWERLOSS_VFS_MODE=mode,
                       POWERLOSS_VFS_SEED=str(seed), POWERLOSS_VFS_REPORT=str(report), SYNC=sync)
    done = subprocess.run([PYTHON, "-c", script, str(place / "x.db")], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, workload.POWER_LOST), done.stderr
    labels = [" ".join(line.split()[1:3]) for line in report.read_text().splitlines() if line.startswith("point")]
    return done.stdout.split("\n")[:-1], done.returncode, labels


def clear(place):
    for path in place.iterdir():
        path.unlink()


def on_disk(place):
    """What a start after the power came back finds, by a plain SQLite; None: no table."""
    connection = sqlite3.connect(place / "x.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 't'").fetchall():
            return None
        return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n")]
    finally:
        connection.close()


def test_without_a_cut_the_file_is_as_the_system_would_have_left_it(place):
    lines, status, labels = run(place, INSERTS)
    assert status == 0 and lines[-1] == "15" and labels[-1] == "exit -"
    assert on_disk(place) == list(range(1, 16))
    assert {"sync x.db", "sync x.db-wal"} <= set(labels)


def test_every_connection_of_the_process_sees_what_is_not_synced_and_the_disk_has_none_of_it(place):
    lines, _, labels = run(place, PRELUDE + """
a, b = connect(), connect()
a.execute("CREATE TABLE t (n)")
a.execute("INSERT INTO t VALUES (1)")
say(b.execute("SELECT count(*) FROM t").fetchone()[0])
say(os.path.getsize(sys.argv[1]), os.path.getsize(sys.argv[1] + "-wal"))
a.execute("PRAGMA wal_checkpoint(TRUNCATE)")
say(b.execute("SELECT count(*) FROM t").fetchone()[0], os.path.getsize(sys.argv[1]))
""", sync="OFF")
    # The switch to WAL was synced by a rollback journal; of the rows nothing was.
    assert lines[0] == "1" and lines[1].split()[1] == "0"
    assert lines[2].split()[0] == "1"
    assert on_disk(place) == [1]  # after an orderly exit, everything


@pytest.mark.parametrize("mode", workload.MODES)
def test_with_full_every_answered_row_survives_a_cut_at_every_sync_and_the_file_is_sound(place, mode):
    count = len(run(place, INSERTS)[2])
    for at in range(1, count + 1):
        clear(place)
        lines, status, _ = run(place, INSERTS, at, mode, seed=at)
        assert status == workload.POWER_LOST
        answered = [int(line) for line in lines if line.isdigit()]
        there = on_disk(place)
        assert "made" not in lines or there is not None
        expected = len(answered)
        # The row whose commit was cut may be there, whole.
        assert (there or []) in (list(range(1, expected + 1)), list(range(1, expected + 2))), (at, mode, there)
        if mode == "drop":
            assert (there or []) == answered


def test_with_normal_answered_rows_are_lost(place):
    count = len(run(place, INSERTS, sync="NORMAL")[2])
    lost = 0
    for at in range(1, count + 1):
        clear(place)
        lines, _, _ = run(place, INSERTS, at, "drop", sync="NORMAL")
        lost += len([line for line in lines if line.isdigit()]) > len(on_disk(place) or [])
    assert lost > 0


@pytest.mark.parametrize("mode", ["tear-512", "tear-4096", "reorder"])
def test_a_torn_state_lies_between_nothing_and_everything_and_seeds_differ(place, mode):
    """One transaction of many pages, cut at its sync: what is in the WAL's file is a part of it."""
    script = PRELUDE + """
c = connect()
c.execute("CREATE TABLE t (n, x)")
say("made")
c.execute("BEGIN")
for n in range(40):
    c.execute("INSERT INTO t VALUES (?, ?)", (n, os.urandom(2000).hex()))
c.execute("COMMIT")
say("committed")
"""
    labels = run(place, script)[2]
    # The one commit that is cut: the table is there, no row is answered.
    at = next(number for number, label in enumerate(labels, 1) if label == "sync x.db-wal" and run_and_tell(place, script, number) == ["made"])
    states = set()
    for seed in range(6):
        clear(place)
        lines, _, _ = run(place, script, at, mode, seed)
        assert lines == ["made"]
        states.add((place / "x.db-wal").read_bytes())
        assert on_disk(place) in ([], list(range(40)))
    assert len(states) > 1


def run_and_tell(place, script, at):
    clear(place)
    return run(place, script, at, "drop")[0]


def test_nothing_that_was_synced_and_not_written_since_is_touched(place):
    """The WAL up to the last synced commit is the same, bit for bit, whatever is torn behind it."""
    labels = run(place, INSERTS)[2]
    at = [number for number, label in enumerate(labels, 1) if label == "sync x.db-wal"][6]
    clear(place)
    run(place, INSERTS, at, "drop")
    dropped = (place / "x.db-wal").read_bytes()
    for mode in ("tear-512", "tear-4096", "reorder"):
        for seed in range(4):
            clear(place)
            run(place, INSERTS, at, mode, seed)
            torn = (place / "x.db-wal").read_bytes()
            assert len(torn) >= len(dropped) > 0
            if torn[:32] == dropped[:32]:  # the same log: its salt is random
                assert torn[: len(dropped)] == dropped
            assert on_disk(place) is not None


def test_a_name_that_was_not_synced_may_vanish_and_a_removal_may_be_undone(place):
    """synchronous=OFF: no directory is ever synced."""
    vanished = PRELUDE + """
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA synchronous = OFF")
c.execute("CREATE TABLE t (n)")
say(os.path.exists(sys.argv[1]))
"""
    lines, status, labels = run(place, vanished, at=1)
    assert labels == ["exit -"] and status == workload.POWER_LOST and lines == ["True"]
    assert not (place / "x.db").exists()

    clear(place)
    run(place, INSERTS)
    (place / "report").unlink()
    reopened = PRELUDE + """
c = connect()
c.execute("INSERT INTO t VALUES (99, 'y')")
say("answered")
c.close()   # checkpoints, and removes the log
say(sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM t").fetchone()[0])
"""
    exit_point = len(run(place, reopened)[2])
    clear(place)
    run(place, INSERTS)
    (place / "report").unlink()
    lines, status, _ = run(place, reopened, at=exit_point, mode="drop")
    assert status == workload.POWER_LOST and lines == ["answered", "16"]
    assert (place / "x.db-wal").exists(), "the removal of the log was never synced"
    assert on_disk(place)[-1] == 99


def test_the_report_counts_on_over_processes(place):
    first = len(run(place, INSERTS)[2])
    assert len(run(place, PRELUDE + "connect().execute('DELETE FROM t')")[2]) > first
