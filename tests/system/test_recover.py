"""`daemon recover` (50-identity; 30-delivery, Crash recovery): whatever happens to a page, to the head, to the end or to the log of a database, what is not on it comes back; ids that
were taken stay taken; the damaged file is kept; a crash in the middle loses nothing."""

import json
import os
import random
import shutil
import sqlite3
import subprocess

import pytest

from harness import BINARY, ROOT, Broker, Node, create_mesh, join, wait_for

PAGE = 4096


def forget_log(path):
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def unclean(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE schema SET clean = 0")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    forget_log(path)


def rows(path, table="outbox"):
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    database.text_factory = lambda data: data.decode(errors="replace")
    try:
        return {row["seq"]: dict(row) for row in database.execute(f"SELECT * FROM {table}")}
    finally:
        database.close()


def pages(path):
    """number → (table or index, kind, cells)"""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {number: (name, kind, cells) for name, number, kind, cells in database.execute("SELECT name, pageno, pagetype, ncell FROM dbstat")}
    finally:
        database.close()


@pytest.fixture
def used(world):
    """Two daemons that have sent and received, stopped; alice's outbox holds rows of every state but inflight, some with payloads over several pages."""
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.up()
    for node in (alice, bob):
        node.wait_connected()
    for number in range(60):
        assert alice.send(bob.pubkey, f"message {number} " + "m" * (number % 7 * 1500), client_message_id=f"done-{number}", meta={"n": number}).status == 202
        assert bob.send(alice.pubkey, f"answer {number} " + "m" * (number % 5 * 1500), client_message_id=f"back-{number}").status == 202
    bob.wait_inbox(60)
    alice.wait_inbox(60)
    wait_for(lambda: alice.outbox_counts()[:2] == (0, 0) and bob.outbox_counts()[:2] == (0, 0), 30, "all to be sent")
    broker.stop()
    alice.wait_connected(False)
    for number in range(40):
        assert alice.send(bob.pubkey, f"waits {number} " + "w" * (number % 6 * 2000), client_message_id=f"pending-{number}").status == 202
    for number in range(5):
        assert alice.api.post("/v1/outbox/drop", {"id": f"pending-{number}"}).status == 200
    for node in (alice, bob):
        node.down()
    for node in (alice, bob):
        unclean(node.path("outbox.db"))
        unclean(node.path("inbox.db"))
    return broker, alice, bob


def recover(node, *more, check=0):
    done = node.cli("--json", "daemon", "recover", "--yes", *more, check=check)
    return json.loads(done.stdout) if check == 0 else done


class Trial:
    """One damage after another, each on a fresh copy of the same configuration."""

    def __init__(self, node):
        self.node, self.daemon = node, node.config / "daemon"
        self.master = node.config.with_name("master")
        shutil.copytree(self.daemon, self.master)
        self.sound = rows(self.daemon / "outbox.db")

    def fresh(self):
        shutil.rmtree(self.daemon)
        shutil.copytree(self.master, self.daemon)
        return self.daemon / "outbox.db"

    def recovered(self):
        answer = recover(self.node)
        assert answer["outbox"]["state"] == "damaged", answer
        path = self.daemon / "outbox.db"
        after = rows(path)
        for seq, row in after.items():
            before = self.sound[seq]
            assert row["client_message_id"] == before["client_message_id"] and row["id"] == before["id"]
            assert row["request_fingerprint"] == before["request_fingerprint"] and row["broker_fingerprint"] == before["broker_fingerprint"]
            if row["status"] == before["status"]:
                assert {**row, "payload": 0} == {**before, "payload": 0}, seq
                assert row["payload"] == before["payload"] or row["status"] in ("done", "aborted", "dead"), seq
            else:
                assert (row["status"], before["status"]) in (("aborted", "pending"), ("dead", "pending")) and row["last_error"], row
        for seq in set(self.sound) - set(after):
            assert answer["outbox"]["rows_lost"] > 0 or answer["outbox"]["cells_unreadable"] > 0 or answer["outbox"]["pages_unreadable"] > 0, answer
        assert os.path.exists(answer["outbox"]["kept_as"])
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return answer, after


def test_whichever_page_is_garbage_every_row_beside_it_comes_back(used):
    trial = Trial(used[1])
    layout = pages(trial.daemon / "outbox.db")
    random.seed(5)
    skipped = 0
    for number in sorted(layout):
        path = trial.fresh()
        data = bytearray(path.read_bytes())
        data[(number - 1) * PAGE:number * PAGE] = random.choice([b"\x00", b"\xff", b"\x0d"]) * PAGE if number % 2 else random.randbytes(PAGE)
        path.write_bytes(data)
        if json.loads(trial.node.cli("--json", "daemon", "recover", check=None).stdout)["outbox"]["state"] == "whole":
            skipped += 1  # an overflow page has no form that a check could miss
            continue
        answer, after = trial.recovered()
        name, kind, cells = layout[number]
        lost = len(trial.sound) - len(after)
        if name == "outbox" and kind == "leaf":
            assert lost <= cells, (number, layout[number], answer)
            assert answer["outbox"]["rows_lost"] == lost and len(answer["outbox"]["lost_ids"]) == lost, answer
        else:
            assert lost == 0, (number, layout[number], answer)
    assert skipped < len(layout) / 2


def test_wherever_the_file_is_cut_what_is_left_comes_back(used):
    trial = Trial(used[1])
    count = (trial.daemon / "outbox.db").stat().st_size // PAGE
    for keep in range(1, count):
        path = trial.fresh()
        with open(path, "r+b") as file:
            file.truncate(keep * PAGE + (keep * 977) % PAGE)
        if json.loads(trial.node.cli("--json", "daemon", "recover", check=None).stdout)["outbox"]["state"] == "whole":
            continue
        trial.recovered()


@pytest.mark.parametrize("damage", ["magic", "page size", "root of the schema", "head and schema", "root of the outbox"])
def test_a_ruined_head_costs_no_row(used, damage):
    trial = Trial(used[1])
    path = trial.fresh()
    data = bytearray(path.read_bytes())
    if damage == "magic":
        data[0:16] = b"not a database!!"
    elif damage == "page size":
        data[16:18] = b"\x12\x34"
    elif damage == "root of the schema":
        data[100:PAGE] = b"\x00" * (PAGE - 100)
    elif damage == "head and schema":
        data[0:PAGE] = os.urandom(PAGE)
    else:
        root = sqlite3.connect(path).execute("SELECT rootpage FROM sqlite_schema WHERE name = 'outbox'").fetchone()[0]
        data[(root - 1) * PAGE:root * PAGE] = b"\x00" * PAGE
    path.write_bytes(data)
    forget_log(path)
    answer, after = trial.recovered()
    assert set(after) == set(trial.sound)
    assert [row["status"] for row in after.values()] == [row["status"] for row in trial.sound.values()]


def test_bits_flipped_at_random_never_bring_a_wrong_row(used):
    trial = Trial(used[1])
    random.seed(11)
    for _ in range(25):
        path = trial.fresh()
        data = bytearray(path.read_bytes())
        for _ in range(40):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(data)
        done = trial.node.cli("--json", "daemon", "recover", "--yes", check=None)
        assert done.returncode == 0, done
        after = rows(trial.daemon / "outbox.db")
        for seq, row in after.items():  # what would be sent is what was accepted
            if row["status"] in ("pending", "inflight") and json.loads(done.stdout)["outbox"]["state"] == "damaged" and seq in trial.sound:
                before = trial.sound[seq]
                if row["request_fingerprint"] == before["request_fingerprint"]:
                    assert row["payload"] == before["payload"] and row["destination_ref"] == before["destination_ref"], seq


def test_what_lies_in_the_log_comes_back_and_without_the_log_what_lies_in_the_file(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    broker.stop()
    alice.up()
    for number in range(50):
        assert alice.send(bob.pubkey, f"message {number}", client_message_id=f"k{number}").status == 202
    alice.kill()
    path = alice.path("outbox.db")
    log = path.with_name("outbox.db-wal")
    frames = log.read_bytes()
    assert len(frames) > 20 * PAGE
    sound = path.read_bytes()
    for head in (frames[:32], b"\x00" * 32):  # the log's own head, too
        path.write_bytes(b"\xee" * max(len(sound), PAGE))
        log.write_bytes(head + frames[32:32 + 24 + PAGE * 3] + b"\xee" * PAGE + frames[32 + 24 + PAGE * 4:])
        path.with_name("outbox.db-shm").unlink(missing_ok=True)
        answer = recover(alice)
        assert answer["outbox"]["state"] == "damaged"
        after = rows(path)
        assert sorted(row["client_message_id"] for row in after.values()) == sorted(f"k{number}" for number in range(50)), len(after)
        assert {row["status"] for row in after.values()} == {"pending"}


def test_after_a_recovery_messages_arrive_once_and_taken_ids_stay_taken(used):
    broker, alice, bob = used
    path = alice.path("outbox.db")
    before = rows(path)
    data = bytearray(path.read_bytes())
    data[0:PAGE] = b"\x00" * PAGE
    path.write_bytes(data)
    alice.up(wait=False)
    assert alice.process.wait(20) == 1 and "daemon recover" in alice.log.read_text()
    assert path.read_bytes() == bytes(data), "a damaged outbox was touched"
    said = alice.cli("daemon", "recover", check=None)
    assert said.returncode == 1 and b"outbox.db is damaged" in said.stdout and b"--yes" in said.stderr
    assert path.read_bytes() == bytes(data), "looking changed something"
    said = alice.cli("daemon", "recover", "--yes").stdout.decode()
    assert "35 pending" in said and "60 done" in said and "5 aborted" in said and ".damaged-" in said, said
    kept = next(kept for kept in path.parent.glob("outbox.db.damaged-*") if not kept.name.endswith("-wal"))
    assert kept.read_bytes() == bytes(data)
    broker.start()
    bob.up()
    alice.up()
    items = bob.wait_inbox(60 + 35)
    assert len(items) == 95 and len({item["client_message_id"] for item in items}) == 95
    assert [item["client_message_id"] for item in items[60:]] == [f"pending-{number}" for number in range(5, 40)], "order"
    again = alice.send(bob.pubkey, before[1]["payload"].decode(), client_message_id=before[1]["client_message_id"], meta=json.loads(before[1]["meta"]))
    assert again.status == 200 and again.json["duplicate"] is True and again.json["broker_message_id"] == before[1]["broker_message_id"]
    assert alice.send(bob.pubkey, "other", client_message_id="done-7").status == 409
    assert alice.send(bob.pubkey, "waits 0 ", client_message_id="pending-0").json["conflict"].startswith("outbox_aborted_")
    recover_again = json.loads(alice.cli("--json", "daemon", "recover", check=None).stdout)
    assert "A daemon runs" in recover_again["detail"]


def test_a_damaged_inbox_keeps_what_can_be_read_and_gets_the_rest_from_the_broker(used):
    broker, alice, bob = used
    path = bob.path("inbox.db")
    before = rows(path, "inbox")
    first = sorted(before)[0]
    with sqlite3.connect(path) as database:
        database.execute("UPDATE inbox SET seen_at = 5 WHERE seq = ?", (first,))
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    forget_log(path)
    layout = pages(path)
    data = bytearray(path.read_bytes())
    victim = [number for number, (name, kind, cells) in layout.items() if name == "inbox" and kind == "leaf"][-1]
    data[(victim - 1) * PAGE:victim * PAGE] = b"\x07" * PAGE
    path.write_bytes(data)
    answer = recover(bob)
    after = rows(path, "inbox")
    assert answer["inbox"]["state"] == "damaged" and answer["inbox_rebuild"] is True and answer["outbox"]["state"] == "whole"
    assert 0 < len(after) < len(before) and answer["inbox"]["rows_lost"] == len(before) - len(after)
    assert after.get(first, {"seen_at": 5})["seen_at"] == 5
    broker.start()
    bob.up()
    wait_for(lambda: bob.health()["meshes"][0]["inbox_rebuild"] is None, 30, "history")
    assert {item["client_message_id"] for item in bob.inbox()} == {row["client_message_id"] for row in before.values()}
    wait_for(lambda: bob.api.get("/v1/inbox/search?q=message&limit=1000").json["complete"], 20, "the index")
    assert len(bob.api.get("/v1/inbox/search?q=message&limit=1000").json["items"]) == 60


@pytest.mark.parametrize("damaged", [False, True])
def test_an_outbox_of_the_second_version_opens_and_can_be_saved(world, damaged):
    alice = Node(world, "alice")
    create_mesh(Broker(world), alice)
    path = alice.path("outbox.db")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(ROOT / "tests" / "fixtures" / "databases" / "outbox-v2.db", path)
    path.chmod(0o600)
    before = rows(path)
    if damaged:
        path.write_bytes(b"\x00" * PAGE + path.read_bytes()[PAGE:])
        assert recover(alice)["outbox"]["rows_salvaged"] == len(before) == 41
    alice.up()
    listed = alice.api.get("/v1/outbox?limit=1000").json["items"]
    assert {item["client_message_id"] for item in listed} == {row["client_message_id"] for row in before.values()}


def test_whole_databases_are_left_alone(used):
    broker, alice, bob = used
    before = alice.path("outbox.db").read_bytes()
    answer = recover(alice)
    assert answer["outbox"]["state"] == answer["inbox"]["state"] == "whole" and answer["outbox"]["kept_as"] is None
    assert alice.path("outbox.db").read_bytes() == before
    assert recover(alice, "--rebuild-inbox")["inbox_rebuild"] is True and alice.path("inbox.rebuild").exists()


def test_a_recovery_that_is_killed_anywhere_can_be_run_again(used):
    """Killed at each system call that changes a name or a file, through strace's fault injection where there is one; else at times."""
    trial = Trial(used[1])
    path = trial.fresh()
    data = bytearray(path.read_bytes())
    data[0:PAGE] = b"\x00" * PAGE
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    reached = {}
    for call, when in ((call, when) for call in ("link", "rename", "unlink", "fsync", "fdatasync", "ftruncate") for when in range(1, 60)):
        if call in reached:
            continue
        path = trial.fresh()
        path.write_bytes(data)
        forget_log(path)
        done = subprocess.run([strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}", BINARY, "--config-dir", str(trial.node.config),
                               "--json", "daemon", "recover", "--yes"], capture_output=True, timeout=60,
                              env={**trial.node.world.environment(), "ASAN_OPTIONS": "detect_leaks=0"})  # the leak checker and strace exclude each other
        if done.returncode == 0:
            reached[call] = when - 1
            continue
        copies = [candidate for candidate in trial.daemon.glob("outbox.db*") if candidate.read_bytes() == bytes(data)]
        assert copies or set(rows(trial.daemon / "outbox.db")) == set(trial.sound), when
        trial.node.cli("--json", "daemon", "recover", "--yes")
        assert set(rows(trial.daemon / "outbox.db")) == set(trial.sound), when
        assert not (trial.daemon / "outbox.recovery").exists()
        assert any(candidate.read_bytes() == bytes(data) for candidate in trial.daemon.glob("outbox.db.damaged-*")), when
    assert reached["link"] >= 1 and reached["rename"] >= 2 and reached["unlink"] >= 3 and reached["fsync"] + reached["fdatasync"] >= 5, reached
