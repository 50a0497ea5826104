"""The short form of the faults: a sample of the calls of each flow, by a seed (CLAUDEMESH_FAULT_SEED), and what one failing call alone does not show. The long form is
`make faults`."""

import http.client
import os
import pathlib
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from faults import chooser, run_flow  # noqa: E402
from flows import FLOWS, Process, two_nodes  # noqa: E402
from layer import CLASSES, FOR_EVER, LIBRARY, Layer, harness  # noqa: E402
from harness import Broker, Node, create_mesh, fake_mesh, wait_for  # noqa: E402
from worlds import world  # noqa: E402,F401

SEED = int(os.environ.get("CLAUDEMESH_FAULT_SEED", "1"))
SECONDS_A_FLOW = 5


@pytest.fixture
def layer(world):
    return Layer(world.directory)


@pytest.fixture(autouse=True)
def library_is_built():
    assert LIBRARY.exists(), f"{LIBRARY} is missing: ninja -C build tests/faults/fault_layer.so"


@pytest.mark.parametrize("name", FLOWS)
def test_no_failing_call_crashes_hangs_or_loses_anything(name):
    result = run_flow(name, CLASSES, chooser(14, SEED), SECONDS_A_FLOW)
    assert not result.failures, "\n\n".join(f"{failure['what']}\n{failure['call']}\nagain: {failure['replay']}" for failure in result.failures)
    assert result.reached > 0, "not one fault came to pass: the layer is not in the process"


class Under:
    """A process with the layer in it, outside of a flow."""

    def __init__(self, layer):
        self.layer = layer


@pytest.fixture
def carol(world, layer):
    """A daemon without a broker: what it accepts stays in the outbox."""
    node = Node(world, "carol")
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    process = Process(Under(layer), node)
    process.launch()
    yield node
    layer.arm(False)


def send(node, name, api=None):
    return (api or node.api).post("/v1/send", {"to": "ab" * 32, "message": f"body of {name}", "client_message_id": name})


def cpu_seconds(process):
    """user and system time, in seconds."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("file", ["outbox.db-wal"])
def test_an_fsync_that_fails_ends_the_daemon_before_any_answer_and_says_which_file(carol, layer, file):
    assert send(carol, "before").status == 202
    layer.select("sync", error="EIO", at=1, path=file)
    layer.arm()
    with pytest.raises((OSError, http.client.HTTPException)):
        answer = send(carol, "during")
        pytest.fail(f"answered {answer} after an fsync that failed")
    assert carol.process.wait(20 * harness.SLOW) == 1
    layer.arm(False)
    log = carol.log.read_text()
    assert '"msg":"fsync_failed"' in log and "outbox.db" in log.rpartition("fsync_failed")[2], log[-2000:]
    carol.api.close()
    carol.up()
    assert send(carol, "before").json["duplicate"] is True
    assert send(carol, "during").status == 202


def test_an_fsync_of_the_broker_that_fails_ends_it_and_says_which_file(world, layer):
    broker, alice, bob = two_nodes(world)
    broker.stop()
    process = Process(Under(layer), broker)
    process.launch()
    alice.up()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    layer.select("sync", error="EIO", at=1, path="broker.db")
    layer.arm()
    to = bob.pubkey
    assert alice.send(to, "body of x", client_message_id="x").status == 202
    assert broker.process.wait(20 * harness.SLOW) == 1
    layer.arm(False)
    assert "fsync_failed" in broker.log.read_text() and "broker.db" in broker.log.read_text().rpartition("fsync_failed")[2]
    assert sum(alice.outbox_counts()[:2]) == 1, "not done: the broker has not said so"
    broker.start()
    assert [item["client_message_id"] for item in bob.wait_inbox(1)] == ["x"]


def test_a_database_that_cannot_be_written_is_an_answer_and_the_log_says_why(carol, layer):
    layer.select("write", error="EIO", at=1, until=FOR_EVER, path="outbox.db")
    layer.arm()
    answer = send(carol, "x")
    layer.arm(False)
    assert answer.status == 500 and answer.json["error"] == "internal_error", answer
    failure = [line for line in carol.log.read_text().splitlines() if '"msg":"database_failed"' in line]
    assert failure and "outbox.db" in failure[0] and "disk I/O error" in failure[0] and '"errno":5' in failure[0], carol.log.read_text()[-2000:]
    assert send(carol, "x").status == 202, "the id stayed free"


def test_a_disk_that_is_full_for_a_while_refuses_sends_and_nothing_is_lost(carol, layer):
    assert send(carol, "before").status == 202
    layer.select("write", error="ENOSPC", at=1, until=FOR_EVER, path="outbox.db")
    layer.arm()
    for number in range(3):
        answer = send(carol, f"during-{number}")
        assert answer.status == 507 and answer.json["error"] == "insufficient_storage", answer
    assert carol.api.get("/v1/health").status == 200
    assert carol.process.poll() is None
    layer.arm(False)
    wait_for(lambda: send(carol, "after").status == 202, 30, "room again")
    assert send(carol, "before").json["duplicate"] is True
    for number in range(3):
        assert send(carol, f"during-{number}").json["duplicate"] is False, "a refused id stays free"


def test_an_inbox_on_a_full_disk_acknowledges_nothing_and_gets_all_of_it_later(world, layer):
    broker, alice, bob = two_nodes(world)
    process = Process(Under(layer), bob)
    process.launch()
    alice.up()
    alice.wait_connected()
    bob.wait_connected()
    to = bob.pubkey
    layer.select("write", error="ENOSPC", at=1, until=FOR_EVER, path="inbox.db")
    layer.arm()
    ids = [f"full-{i}" for i in range(10)]
    for name in ids:
        assert alice.send(to, f"body of {name}", client_message_id=name).status == 202
    wait_for(lambda: layer.fired >= 2, 30, "writes that fail")
    assert bob.inbox() == []
    layer.arm(False)
    bob.down()  # else the broker's lease, 30 s, would have to end
    bob.up()
    assert [item["client_message_id"] for item in bob.wait_inbox(10, 90)] == ids


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOBUFS"])
def test_a_daemon_without_descriptors_neither_spins_nor_ends_and_serves_again(carol, layer, error):
    layer.select("socket", "accept4", error, at=1, until=FOR_EVER)
    layer.arm()
    waiting = [carol.new_api() for _ in range(4)]
    for api in waiting:  # connected in the kernel's queue, and nobody takes them
        api._connection = api._connect()
        api._connection.request("GET", "/v1/health")
    wait_for(lambda: layer.fired >= 3, 20, "accepts that fail")
    before, fired, started = cpu_seconds(carol.process), layer.fired, time.monotonic()
    wait_for(lambda: layer.fired >= fired + 5, 60, "the next tries")  # paced by its pause, not by us
    elapsed = time.monotonic() - started
    assert (layer.fired - fired) / elapsed < 50, f"{layer.fired - fired} tries in {elapsed:.2f} s"
    assert cpu_seconds(carol.process) - before < max(0.2, elapsed / 4), "it spins"
    assert carol.api.get("/v1/health").status == 200 if carol.api._connection else carol.process.poll() is None
    layer.arm(False)
    for api in waiting:
        answer = api._connection.getresponse()
        assert answer.status == 200, "served when there are descriptors again"
        answer.read()


def test_a_broker_without_descriptors_neither_spins_nor_ends_and_serves_again(world, layer):
    broker = Broker(world)
    node = Node(world, "alice")
    create_mesh(broker, node)
    broker.stop()
    Process(Under(layer), broker).launch()
    layer.select("socket", "accept4", "EMFILE", at=1, until=FOR_EVER)
    layer.arm()
    node.up()
    wait_for(lambda: layer.fired >= 3, 20, "accepts that fail")
    fired, started = layer.fired, time.monotonic()
    wait_for(lambda: layer.fired >= fired + 5, 60, "the next tries")
    assert (layer.fired - fired) / (time.monotonic() - started) < 50, "it spins"
    layer.arm(False)
    node.wait_connected(seconds=60)


def test_every_call_interrupted_and_every_count_short_changes_nothing(world, layer):
    """Not one call but each second one, for as long as it lasts, is out of a layer's reach; each single one in a row of many is not."""
    broker, alice, bob = two_nodes(world)
    Process(Under(layer), alice).launch()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    to, ids = bob.pubkey, []
    for kind, error in (("transfer", "SHORT"), ("write", "SHORT"), ("read", "SHORT")):
        layer.select(kind, error=error, at=1, until=FOR_EVER, log=False)
        layer.arm()
        for number in range(5):
            ids.append(f"{kind}-{error}-{number}")
            answer = alice.send(to, f"body of {ids[-1]}", client_message_id=ids[-1])
            assert answer.status == 202, answer
        wait_for(lambda: alice.outbox_counts() == (0, 0, 0), 60, "all done")
        layer.arm(False)
    assert [item["client_message_id"] for item in bob.wait_inbox(len(ids))] == ids
    assert '"level":"error"' not in alice.log.read_text()


def test_without_the_kernels_random_bytes_nothing_starts_and_the_reason_is_said(world, layer):
    node = Node(world, "carol")
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    layer.select("random", "getentropy", "ENOSYS", at=1, until=FOR_EVER)
    layer.arm()
    done = node.cli("daemon", "up", "--foreground", "--no-tcp", check=None, environment=layer.environment)
    assert done.returncode == 70 and b"getentropy" in done.stderr, done


@pytest.mark.parametrize("arguments", [["config", "show"], ["--json", "config", "show"], ["mesh", "list"], ["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_a_failure(world, arguments):
    node = Node(world, "carol")
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    with open("/dev/full", "wb") as full:
        process = world.start([harness.BINARY, "--config-dir", node.config, *arguments], world.directory / "said", stdout=full)
        assert process.wait(20 * harness.SLOW) == 1
    assert b"claudemesh" in (world.directory / "said").read_bytes()


@pytest.mark.parametrize("kind, call, error, path", [("write", "pwrite", "EINTR", "daemon.pid"), ("write", "pwrite", "SHORT", "daemon.pid"), ("truncate", "", "EINTR", "daemon.pid"),
                                                     ("close", "", "EINTR", "outbox.db"), ("write", "write", "SHORT", "local-token"), ("lock", "flock", "EINTR", "daemon.pid")])
def test_a_start_that_is_interrupted_goes_on(world, layer, kind, call, error, path):
    node = Node(world, "carol")
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    process = Process(Under(layer), node)
    layer.select(kind, call, error, at=1, path=path)
    layer.arm()
    process.launch()
    assert layer.fired == 1
    assert int(node.path("daemon.pid").read_text()) == node.process.pid
    assert len(node.path("local-token").read_text().strip()) >= 32


def test_a_request_to_the_broker_that_is_interrupted_goes_on(world, layer):
    broker = Broker(world)
    for number in range(1, 5):  # each wait of it, and the look at the connection that is kept
        node = Node(world, f"node-{number}")
        node.config.mkdir(mode=0o700)
        layer.select("event", "poll", "EINTR", at=number)
        layer.arm()
        done = node.cli("mesh", "create", f"m{number}", "--broker", broker.url, "--admin-token-file", broker.admin_token_file, check=None, environment=layer.environment)
        layer.arm(False)
        assert done.returncode == 0, (number, done.stderr)


def test_a_bridge_whose_answer_is_waited_for_while_a_signal_comes_has_sent_once(world, layer):
    from test_cli import Bridge
    broker, alice, bob = two_nodes(world)
    bridge = Bridge(alice)
    layer.select("event", "poll", "EINTR", at=1)
    layer.arm()
    done = alice.cli("--json", "send", "bob", "once", environment=layer.environment)
    assert layer.fired == 1 and b'"bridge"' in done.stdout and len(bridge.requests) >= 1, done


def test_an_allocation_that_fails_anywhere_even_in_a_library_ends_the_command_in_one_line(world, layer):
    if b"__asan_init" in pathlib.Path(harness.BINARY).read_bytes():
        pytest.skip("the sanitizer brings its own allocator; every system call still comes by the layer")
    broker = Broker(world)
    node = Node(world, "alice")
    create_mesh(broker, node)
    ended = 0
    for number in range(1, 5000, 83):
        layer.select("alloc", at=number)
        layer.arm()
        done = node.cli("mesh", "invite", check=None, environment=layer.environment)
        layer.arm(False)
        assert done.returncode in (0, 70), (number, done, layer.failed())
        assert done.returncode == 0 or b"claudemesh: out of memory\n" == done.stderr, (number, done)
        ended += done.returncode == 70
    assert ended > 10


@pytest.mark.parametrize("kind, call, error", [("open", "open", "EMFILE"), ("event", "pipe", "EMFILE"), ("thread", "fork", "EAGAIN"), ("event", "poll", "EINTR")])
def test_a_daemon_that_is_put_into_the_background_starts_or_says_why_not(world, layer, kind, call, error):
    node = Node(world, "carol")
    fake_mesh(node, "ws://127.0.0.1:1/ws")
    layer.select(kind, call, error, at=1, path="/dev/null" if kind == "open" else "")
    layer.arm()
    done = node.cli("daemon", "up", "--no-tcp", check=None, environment=layer.environment)  # ends, although the daemon lives on
    assert layer.fired == 1
    layer.arm(False)
    if error == "EINTR":
        assert done.returncode == 0, done
        node.cli("daemon", "down")
    else:
        assert done.returncode == 1 and done.stderr.startswith(b"claudemesh: cannot"), done
        assert node.cli("daemon", "status", check=None).returncode == 1, "nothing runs"


@pytest.mark.parametrize("command", [["send", "bob", "-"], ["join", "-"]])
def test_standard_input_that_is_interrupted_is_read_to_its_end(world, layer, command):
    broker, alice, bob = two_nodes(world)
    bob.up()
    bob.wait_connected()
    text = b"x" * 100
    node = alice
    if command[0] == "join":
        text = alice.cli("mesh", "invite").stdout
        node, command = Node(world, "dave"), [*command, "--yes", "--name", "dave"]
        node.config.mkdir(mode=0o700)
    layer.select("event", "read", "EINTR", at=1)
    layer.arm()
    done = node.cli(*command, input=text, check=None, environment=layer.environment)
    assert layer.fired == 1, "standard input was not read"
    assert done.returncode == 0, done.stderr
