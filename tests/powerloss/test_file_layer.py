"""The power goes at every point of every flow that writes files other than databases, and the disk is found in every state that it may be in: the program starts
again or the command is repeated, every file is old or new and never between, nobody else can read it, nothing is left over, and what was promised is there."""

import http.client
import json
import re
import shutil
import signal
import sqlite3
import subprocess

import pytest

import harness
from file_layer import Layer, library
from harness import BINARY, Broker, Key, Node, create_mesh, fake_mesh, free_port, wait_for

TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}$")
MAY_BE_EMPTY = re.compile(r"\.lock$|^daemon\.pid$|\.log$|\.db")
TOKEN = re.compile(rb"[A-Za-z0-9_-]{43}\n?\Z")
POINTS_MAX = 200


def check_config(data):
    document = json.loads(data)
    assert document["version"] == 1
    for mesh in document["meshes"]:
        assert Key.from_secret_hex(mesh["secretKey"]).hex == mesh["pubkey"]


CONTENTS = {
    "config.json": check_config,
    "local-token": lambda data: TOKEN.match(data) or pytest.fail(f"{data!r}"),
    "admin-token": lambda data: TOKEN.match(data) or pytest.fail(f"{data!r}"),
    "session-id": lambda data: re.fullmatch(rb"[0-9a-f-]{36}", data) or pytest.fail(f"{data!r}"),
    "http.port": lambda data: int(data),
}


def check_tree(root, label):
    """Whatever stands under its own name is whole, and nobody else can read what is not meant for all."""
    for path in root.rglob("*"):
        mode = path.lstat().st_mode & 0o777
        where = f"{path.relative_to(root)} {label}"
        assert mode & 0o077 == 0 or path.name.startswith("http.port"), f"{oct(mode)} {where}"
        if not path.is_file() or TEMPORARY.search(path.name) or MAY_BE_EMPTY.search(path.name):
            continue
        data = path.read_bytes()
        assert data.strip(b"\0"), f"no contents: {where}"
        try:
            CONTENTS.get(path.name, lambda data: None)(data)
        except ValueError as error:
            raise AssertionError(f"{error}: {where}") from error


def check_left_over(root, label):
    left = [str(path.relative_to(root)) for path in root.rglob("*") if TEMPORARY.search(path.name) or path.name.startswith(("join-", "mesh-"))]
    assert not left, f"{left} {label}"


class Power:
    """One flow, cut at each point in turn."""

    def __init__(self, world):
        assert library().exists(), f"{library()} is not built"
        self.world, self.layer = world, Layer(world, world.directory / "disk")
        self.root, self.runs = self.layer.root, 0

    def prepare(self):
        shutil.rmtree(self.root)
        self.root.mkdir()

    def each_point(self, run):
        """run(point) -> Cut. The last one is of the flow as it ends by itself."""
        for point in range(1, POINTS_MAX):
            cut = run(point)
            yield cut
            cut.forget()
            if not cut.was_cut:
                assert cut.done.returncode == 0, cut.done.stdout.decode()
                assert self.runs >= point, "no state was looked at"
                return
        pytest.fail("the flow does not end")

    def each_state(self, run):
        for cut in self.each_point(run):
            for state in cut.states():
                state.apply()
                check_tree(self.root, state.label)
                self.runs += 1
                yield cut, state

    def each_state_afresh(self, run):
        """For flows that leave something behind elsewhere, so that each state needs a run of its own."""
        for cut in self.each_point(lambda point: run(point, 0)):
            count = 0
            for index, _ in enumerate(cut.states()):
                again = cut if index == 0 else run(cut.point if cut.was_cut else 0, index)
                state = list(again.states())[index]
                state.apply()
                check_tree(self.root, state.label)
                self.runs += 1
                yield again, state
                again.forget()
                count += 1
            assert count > 0


def rows(broker, sql, *arguments):
    connection = sqlite3.connect(f"file:{broker.store}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(sql, arguments).fetchall()
    finally:
        connection.close()


@pytest.fixture
def power(world):
    return Power(world)


# ---- commands --------------------------------------------------------------------------------------------------------------


def node_in(power, name):
    node = Node(power.world, name)
    node.config = power.root / name
    return node


def test_a_join_that_the_power_cut_can_be_repeated_and_a_key_that_the_broker_knows_is_never_lost(world, power):
    broker, alice, bob = Broker(world), Node(world, "alice"), node_in(power, "bob")
    create_mesh(broker, alice)
    link = alice.cli("mesh", "invite", "--max-uses", "1000").stdout.decode().strip()

    def run(point):
        power.prepare()
        return power.layer.run(point, [BINARY, "--config-dir", bob.config, "join", link, "--yes", "--name", f"bob-{point}"], POWERLOSS_SENDS="1")

    for number, (cut, state) in enumerate(power.each_state(run)):
        enrolled = rows(broker, "SELECT pubkey FROM member WHERE display_name = ?", f"bob-{cut.point}")
        if not cut.was_cut:
            assert bob.pubkey == enrolled[0][0], f"joined, and not on the disk: {state.label}"
        bob.cli("join", link, "--yes", "--name", f"again-{number}")
        enrolled += rows(broker, "SELECT pubkey FROM member WHERE display_name = ?", f"again-{number}")
        assert [bob.pubkey] == [key for key, in enrolled], f"a member whose key is lost: {state.label}"
        check_tree(power.root, state.label)
        check_left_over(power.root, state.label)


def test_a_mesh_whose_making_the_power_cut_belongs_to_this_host_when_it_is_made_again(world, power):
    broker, alice = Broker(world), node_in(power, "alice")
    slugs = iter(f"mesh-{number}" for number in range(100000))

    def arguments(slug):
        return ["mesh", "create", slug, "--slug", slug, "--broker", broker.url, "--admin-token-file", broker.admin_token_file, "--name", "alice"]

    def run(point, _):
        power.prepare()
        run.slug = next(slugs)
        return power.layer.run(point, [BINARY, "--config-dir", alice.config, *arguments(run.slug)], POWERLOSS_SENDS="1")

    for cut, state in power.each_state_afresh(run):
        made = (alice.config / "config.json").exists()
        assert made or cut.was_cut, f"made, and not on the disk: {state.label}"
        again = alice.cli(*arguments(run.slug), check=6 if made else 0)
        assert not made or b"joined already" in again.stderr
        owners = rows(broker, "SELECT owner_pubkey, mesh_id FROM mesh WHERE slug = ?", run.slug)
        assert owners == [(alice.pubkey, alice.mesh()["meshId"])], f"a mesh whose owner's key is lost: {state.label}"
        check_tree(power.root, state.label)
        check_left_over(power.root, state.label)


def test_a_mesh_is_left_or_not_and_the_others_stay(world, power):
    bob = node_in(power, "bob")
    kept = world.directory / "kept"
    for slug in ("other", "acme"):
        fake_mesh(bob, f"ws://127.0.0.1:{free_port()}/ws", slug=slug)
    shutil.copytree(bob.config, kept)

    def run(point):
        power.prepare()
        shutil.copytree(kept, bob.config)
        return power.layer.run(point, [BINARY, "--config-dir", bob.config, "mesh", "leave", "--force", "acme"])

    def slugs():
        return [mesh["slug"] for mesh in json.loads((bob.config / "config.json").read_text())["meshes"]]

    for cut, state in power.each_state(run):
        assert slugs() == ["other"] or (cut.was_cut and slugs() == ["other", "acme"]), state.label
        if slugs() != ["other"]:
            bob.cli("mesh", "leave", "--force", "acme")
        assert slugs() == ["other"], state.label
        check_tree(power.root, state.label)


def test_a_command_whose_sync_fails_says_so_unless_all_is_on_the_disk(world, power):
    broker, alice, bob = Broker(world), Node(world, "alice"), node_in(power, "bob")
    create_mesh(broker, alice)
    link = alice.cli("mesh", "invite", "--max-uses", "1000").stdout.decode().strip()
    told = 0
    for point in range(1, POINTS_MAX):
        power.prepare()
        cut = power.layer.run(0, [BINARY, "--config-dir", bob.config, "join", link, "--yes", "--name", f"bob-{point}"], POWERLOSS_FAIL_SYNC=str(point))
        told += cut.done.returncode != 0
        for state in cut.states():
            state.apply()
            check_tree(power.root, f"after a sync that failed at point {point} was told nobody, {state.label}")
            assert cut.done.returncode != 0 or bob.pubkey, f"a sync failed at point {point} and was told nobody: {state.label}"
        cut.forget()
        if point > cut.point:
            break
    assert told >= 8, "each directory, each file and each name"


# ---- the daemon ------------------------------------------------------------------------------------------------------------


def run_daemon(power, node, point, promised):
    """Up to the cut; else until it is ready, and then down."""

    def meanwhile(process):
        def ready():
            try:
                return process.poll() is not None or node.api.get("/v1/health").status == 200
            except OSError:
                node.api.close()
                return False
        wait_for(ready, 20, "the daemon")
        if process.poll() is None:
            promised["files"] = files_of(node)
            node.api.close()
            process.send_signal(signal.SIGTERM)

    node.api.close()
    promised.clear()
    return power.layer.run(point, [BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--tcp-port", "0"], meanwhile)


def files_of(node):
    return {name: node.path(name).read_bytes() for name in ("local-token", "session-id")}


def check_start(node, state, promised):
    node.up("--tcp-port", "0")
    try:
        assert node.tcp_api().get("/v1/health").status == 200, state.label
        assert promised.get("files", files_of(node)) == files_of(node), f"what was shown before the cut is another now: {state.label}"
        check_tree(node.config, state.label)
        check_left_over(node.config, state.label)
    finally:
        node.down()


def configured(power, name):
    node = node_in(power, name)
    node.config.mkdir(mode=0o700)
    fake_mesh(node, f"ws://127.0.0.1:{free_port()}/ws")
    return node


def test_a_daemon_starts_after_its_first_start_was_cut_and_its_token_is_the_one_that_was_shown(world, power):
    promised = {}
    node = configured(power, "alice")
    kept = (node.config / "config.json").read_text()

    def run(point):
        power.prepare()
        node.config.mkdir(mode=0o700)
        (node.config / "config.json").write_text(kept)
        (node.config / "config.json").chmod(0o600)
        return run_daemon(power, node, point, promised)

    for _, state in power.each_state(run):
        check_start(node, state, promised)


def test_a_daemon_starts_after_a_later_start_was_cut(world, power):
    promised = {}
    node = configured(power, "alice")
    node.up("--tcp-port", "0")
    node.kill()  # the port stands there, and the pid
    before = files_of(node)
    kept = world.directory / "kept"
    node.path("daemon.sock").unlink()
    shutil.copytree(node.config, kept)

    def run(point):
        power.prepare()
        shutil.copytree(kept, node.config)
        return run_daemon(power, node, point, promised)

    for _, state in power.each_state(run):
        assert files_of(node) == before, state.label
        check_start(node, state, promised)


def test_a_sync_of_a_database_that_fails_ends_the_daemon_before_anything_is_answered(world, power):
    node = configured(power, "alice")
    failing = world.directory / "failing"
    answers = []

    def meanwhile(process):
        def ready():
            try:
                return node.api.get("/v1/health").status == 200
            except OSError:
                node.api.close()
                return False
        wait_for(ready, 20, "the daemon")
        failing.touch()
        try:
            answers.append(node.new_api().post("/v1/send", {"to": "f" * 64, "message": "hello", "client_message_id": "a"}).status)
        except (OSError, http.client.HTTPException):
            pass
        try:
            process.wait(10 * harness.SLOW)
        except subprocess.TimeoutExpired:
            process.kill()
            answers.append("it lived")

    journal = world.directory / "journal"
    journal.mkdir()
    process = world.start([BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--no-tcp"], node.log,
                          power.layer.environment(0, journal, POWERLOSS_FAIL_DATABASES=str(failing)))
    meanwhile(process)
    assert not answers and process.returncode == 1, f"the daemon went on after an fsync that failed: {answers}"
    assert "fsync_failed" in node.log.read_text()


def test_a_damaged_inbox_is_moved_aside_whole_and_the_daemon_starts(world, power):
    promised = {}
    node = configured(power, "alice")
    node.up("--tcp-port", "0")
    node.down()
    path = node.path("inbox.db")
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    log = path.with_name("inbox.db-wal")
    log.write_bytes(b"what this log says no longer fits")
    log.chmod(0o600)
    kept = world.directory / "kept"
    shutil.copytree(node.config, kept)

    def run(point):
        power.prepare()
        shutil.copytree(kept, node.config)
        return run_daemon(power, node, point, promised)

    for _, state in power.each_state(run):
        in_place = path.exists() and path.read_bytes() == bytes(data)
        assert not in_place or log.exists(), f"the file without its log may pass for sound: {state.label}"
        check_start(node, state, promised)
        aside = [found for found in node.path("").glob("inbox.db.corrupt-*") if found.read_bytes() == bytes(data)]
        assert len(aside) == 1, f"the damaged inbox is gone: {state.label}"


# ---- the broker ------------------------------------------------------------------------------------------------------------


def test_a_broker_starts_after_its_first_start_was_cut_and_its_admin_token_is_the_one_that_was_shown(world, power):
    promised = {}
    store = power.root / "store" / "broker.db"
    port = free_port()
    arguments = [BINARY, "--config-dir", world.directory / "config", "broker", "serve", "--listen", f"127.0.0.1:{port}", "--store", f"sqlite:{store}"]
    broker = Broker.__new__(Broker)
    broker.world, broker.port, broker.home = world, port, world.directory

    def is_ready():
        try:
            return broker.get("/health/ready").status == 200
        except OSError:
            return False

    def meanwhile(process):
        wait_for(lambda: process.poll() is not None or is_ready(), 20, "the broker")
        if process.poll() is None:
            promised["token"] = (store.parent / "admin-token").read_bytes()
            process.send_signal(signal.SIGTERM)

    def run(point):
        power.prepare()
        promised.clear()
        return power.layer.run(point, arguments, meanwhile)

    for _, state in power.each_state(run):
        broker.process = world.start(arguments, broker.log)
        broker.wait_ready()
        token = (store.parent / "admin-token").read_bytes()
        assert promised.get("token", token) == token, f"the admin token is another now: {state.label}"
        check_tree(power.root, state.label)
        check_left_over(power.root, state.label)
        broker.stop()
        world.processes.remove(broker.process)
