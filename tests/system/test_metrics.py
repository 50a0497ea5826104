"""The daemon's and the broker's metrics (80-operations): every name and label of the page, valid text, and figures that agree with a ledger of what was done."""

import concurrent.futures
import re

import pytest

from harness import Broker, Key, Node, WireClient, acknowledge, create_mesh, join, sha256, wait_for
from test_hostile_broker import Hostile

DAEMON_PAGE = {
    "cm_daemon_connected": {"mesh"}, "cm_daemon_reconnects_total": {"mesh", "reason"}, "cm_daemon_lag_ms": {"mesh"},
    "cm_daemon_outbox_depth": {"mesh", "status"}, "cm_daemon_outbox_age_seconds": {"mesh"},
    "cm_daemon_send_total": {"mesh", "kind", "outcome"}, "cm_daemon_recv_total": {"mesh", "kind"},
    "cm_daemon_dedupe_total": {"mesh", "direction"}, "cm_daemon_dedupe_history_pruned_total": set(),
    "cm_daemon_invalid_inbound_total": {"reason"}, "cm_daemon_decrypt_stale_total": set(), "cm_daemon_decrypt_archived_total": set(),
    "cm_daemon_disk_pct": {"kind"}, "cm_daemon_commit_seconds": set(), "cm_daemon_commit_batch_size": set(),
    "cm_daemon_ipc_requests_total": {"route", "status", "transport"}, "cm_daemon_ipc_duration_seconds": {"route"},
    "cm_daemon_hook_invocations_total": {"hook", "exit"}, "cm_daemon_hook_duration_seconds": {"hook"},
    "cm_daemon_hook_unenforceable_total": {"hook", "reason"}, "cm_daemon_local_token_rotations_total": set(),
    "cm_daemon_clone_suspected_total": set(), "cm_daemon_build_info": {"version"},
}
BROKER_PAGE = {
    "cm_broker_connections": {"mesh"}, "cm_broker_accept_total": {"outcome"}, "cm_broker_accept_seconds": set(),
    "cm_broker_deliveries": {"state"}, "cm_broker_redeliveries_total": set(), "cm_broker_dedupe_fingerprint_mismatch_total": set(),
    "cm_broker_rate_limit_rejection_total": set(), "cm_broker_atomicity_violation_total": set(), "cm_broker_store_seconds": {"op"},
    "cm_broker_build_info": {"version"},
}
SAMPLE = re.compile(r'^([a-z_:][a-z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (-?[0-9.e+-]+|\+Inf|NaN)$')


class Text:
    """Prometheus text, read strictly: HELP and TYPE once, before the samples of their metric, which stand together."""

    def __init__(self, text):
        self.types, self.helps, self.samples = {}, {}, {}
        closed, current = set(), None
        assert text.endswith("\n")
        for line in text.splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ")[2]
                assert name not in self.helps, f"{name} twice"
                self.helps[name] = line
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                assert name not in self.types and name in self.helps and name not in closed, line
                self.types[name] = kind
                if current:
                    closed.add(current)
                current = name
            else:
                match = SAMPLE.match(line)
                assert match, f"no sample: {line!r}"
                base = self.base(match[1])
                assert base == current, f"{line} stands outside of its block"
                labels = tuple(sorted(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', match[2] or "")))
                assert (match[1], labels) not in self.samples, f"twice: {line}"
                self.samples[match[1], labels] = float(match[3].replace("+Inf", "inf"))
        self.check_histograms()

    def base(self, name):
        for suffix in ("_bucket", "_sum", "_count"):
            if name.endswith(suffix) and self.types.get(name[: -len(suffix)]) == "histogram":
                return name[: -len(suffix)]
        return name

    def check_histograms(self):
        rows = {}
        for (name, labels), value in self.samples.items():
            if name.endswith("_bucket"):
                rest = tuple(pair for pair in labels if pair[0] != "le")
                rows.setdefault((name[:-7], rest), []).append((float(dict(labels)["le"].replace("+Inf", "inf")), value))
        for (name, rest), buckets in rows.items():
            values = [value for _, value in sorted(buckets)]
            assert values == sorted(values), f"{name} is not cumulative"
            assert sorted(buckets)[-1][0] == float("inf"), f"{name} lacks +Inf"
            assert self.samples[name + "_count", rest] == values[-1] and (name + "_sum", rest) in self.samples

    def get(self, name, **labels):
        return self.samples.get((name, tuple(sorted(labels.items()))), 0)

    def total(self, name, **labels):
        return sum(value for (sample, pairs), value in self.samples.items()
                   if sample == name and set(labels.items()) <= set(pairs))

    def labels(self, name):
        return {frozenset(label for label, _ in pairs if label != "le") for (sample, pairs) in self.samples if self.base(sample) == name}


def of(node):
    answer = node.api.get("/v1/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return Text(answer.body.decode())


def of_broker(broker):
    return Text(broker.get("/metrics").body.decode())


@pytest.fixture
def pair(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.up("--tcp-port", "0"), bob.up()
    alice.wait_connected(), bob.wait_connected()
    return broker, alice, bob


def test_every_metric_of_the_page_is_there_with_its_labels_and_no_others(pair):
    broker, alice, bob = pair
    assert alice.api.post("/v1/send?wait=20", {"to": "bob", "message": "hello", "client_message_id": "one"}).status == 200
    assert alice.api.post("/v1/send", {"to": "bob", "message": "hello", "client_message_id": "one"}).status == 200
    bob.wait_inbox(1)
    for text, page in ((of(alice), DAEMON_PAGE), (of(bob), DAEMON_PAGE), (of_broker(broker), BROKER_PAGE)):
        for name, labels in page.items():
            assert name in text.types, f"{name} is missing"
            for seen in text.labels(name):
                assert seen == labels, f"{name} has {set(seen)}, the page {labels}"
    text = of(alice)
    for name in ("cm_daemon_commit_seconds", "cm_daemon_commit_batch_size", "cm_daemon_ipc_duration_seconds", "cm_daemon_hook_duration_seconds"):
        assert text.types[name] == "histogram"
    for name, kind in text.types.items():
        assert name.endswith("_total") == (kind == "counter"), name


def test_both_transports_and_the_command_give_the_same_series(pair):
    _, alice, _ = pair
    tcp = alice.tcp_api()
    answer = tcp.get("/v1/metrics")
    assert answer.status == 200
    names = set(Text(answer.body.decode()).types)
    assert names == set(of(alice).types) == set(Text(alice.cli("daemon", "metrics").stdout.decode()).types)
    assert alice.tcp_api(token=False).get("/v1/metrics").status == 401
    text = of(alice)
    assert text.get("cm_daemon_ipc_requests_total", route="GET /v1/metrics", status="200", transport="tcp") == 1
    assert text.get("cm_daemon_ipc_requests_total", route="none", status="401", transport="tcp") == 1


def test_the_counters_agree_with_a_ledger_also_when_everything_raced(pair):
    broker, alice, bob = pair
    sends, duplicates = 120, 40

    def send(n):
        return alice.new_api().post("/v1/send?wait=30", {"to": "bob", "message": f"text {n}", "client_message_id": f"id-{n}"}).status

    def again(n):
        return alice.new_api().post("/v1/send", {"to": "bob", "message": f"text {n}", "client_message_id": f"id-{n}"}).status

    def conflict(n):
        return alice.new_api().post("/v1/send", {"to": "bob", "message": "another text", "client_message_id": f"id-{n}"}).status

    def refused(n):
        return alice.new_api().post("/v1/send", {"to": f"nobody-{n}", "message": "text"}).status

    def out_of_shape(_):
        return alice.new_api().post("/v1/send", {"to": "bob", "message": ""}).status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(sends))) == {200}
        work = [pool.submit(again, n) for n in range(duplicates)] + [pool.submit(conflict, n) for n in range(15)]
        work += [pool.submit(refused, n) for n in range(11)] + [pool.submit(out_of_shape, n) for n in range(7)]
        answers = [job.result() for job in work]
    assert answers.count(200) == duplicates and answers.count(409) == 15 and answers.count(404) == 11 and answers.count(400) == 7
    bob.wait_inbox(sends)
    text = of(alice)
    total = lambda **labels: text.get("cm_daemon_send_total", **labels)
    assert total(mesh="acme", kind="dm", outcome="queued") == sends
    assert total(mesh="acme", kind="dm", outcome="duplicate") == duplicates
    assert total(mesh="acme", kind="dm", outcome="conflict") == 15
    assert total(mesh="acme", kind="unresolved", outcome="refused") == 11
    assert total(mesh="", kind="unresolved", outcome="refused") == 7
    assert text.get("cm_daemon_dedupe_total", mesh="acme", direction="out") == duplicates
    assert text.get("cm_daemon_outbox_depth", mesh="acme", status="done") == sends
    assert text.get("cm_daemon_outbox_age_seconds", mesh="acme") == 0
    assert text.total("cm_daemon_ipc_requests_total", route="POST /v1/send") == sends + duplicates + 15 + 11 + 7
    assert text.get("cm_daemon_ipc_duration_seconds_count", route="POST /v1/send") == sends + duplicates + 15 + 11 + 7
    theirs = of(bob)
    assert theirs.get("cm_daemon_recv_total", mesh="acme", kind="dm") == sends
    assert theirs.total("cm_daemon_invalid_inbound_total") == 0
    assert theirs.get("cm_daemon_commit_seconds_count") > 0
    store = of_broker(broker)
    assert store.get("cm_broker_accept_total", outcome="accepted") == sends
    assert store.get("cm_broker_accept_seconds_count") == sends
    wait_for(lambda: of_broker(broker).get("cm_broker_deliveries", state="waiting") == 0
             and of_broker(broker).get("cm_broker_deliveries", state="leased") == 0, what="every delivery to be acknowledged")
    assert store.get("cm_broker_connections", mesh="acme") == 2


def test_work_that_waits_shows_in_depth_and_age_and_a_reconnect_by_its_reason(pair):
    broker, alice, bob = pair
    broker.kill()
    alice.wait_connected(False)
    for n in range(3):
        assert alice.send("bob", f"later {n}").status == 202
    wait_for(lambda: of(alice).get("cm_daemon_outbox_age_seconds", mesh="acme") > 0.05, what="the outbox to grow old")
    text = of(alice)
    assert text.get("cm_daemon_connected", mesh="acme") == 0 and text.labels("cm_daemon_lag_ms") == set()
    assert text.get("cm_daemon_outbox_depth", mesh="acme", status="pending") == 3
    assert text.labels("cm_daemon_reconnects_total") == set()
    broker.start()
    alice.wait_connected(), bob.wait_connected()
    bob.wait_inbox(3)
    text = of(alice)
    assert text.get("cm_daemon_connected", mesh="acme") == 1
    assert text.get("cm_daemon_reconnects_total", mesh="acme", reason="connection_lost") == 1
    broker.stop()
    broker.start()
    wait_for(lambda: of(alice).total("cm_daemon_reconnects_total", mesh="acme") == 2, 30, "the second reconnect")
    assert of(alice).get("cm_daemon_reconnects_total", mesh="acme", reason="closed_by_broker") == 1
    wait_for(lambda: of(alice).get("cm_daemon_outbox_age_seconds", mesh="acme") == 0, what="nothing to wait any more")
    # Counters begin anew with the process; what is read from the disk does not.
    alice.down()
    alice.up()
    alice.wait_connected()
    text = of(alice)
    assert text.total("cm_daemon_send_total") == 0 and text.total("cm_daemon_reconnects_total") == 0
    assert text.get("cm_daemon_outbox_depth", mesh="acme", status="done") == 3


def test_what_a_broker_pushes_twice_or_forges_and_what_it_knew_is_counted(world):
    hostile = Hostile(world)
    for n in range(4):
        sealed = hostile.seal(hostile.carol, f"word {n}", f"in-{n}")
        for _ in range(n + 1):
            hostile.acknowledgement(hostile.push(hostile.carol, f"in-{n}", sealed))
    for n in range(3):
        hostile.acknowledgement(hostile.push(hostile.carol, f"forged-{n}", hostile.seal(hostile.stranger, "forged", f"forged-{n}")))
    for n in range(2):
        sealed = hostile.seal(hostile.carol, "signed by another", f"signed-{n}", signer=hostile.stranger)
        hostile.acknowledgement(hostile.push(hostile.carol, f"signed-{n}", sealed))
    hostile.on_send = lambda connection, frame: connection.send(acknowledge(frame, 200, history_available="pruned" not in frame["id"]))
    for n in ("known", "pruned-1", "pruned-2"):
        assert hostile.node.api.post("/v1/send?wait=20", {"to": "carol", "message": n, "client_message_id": n}).status == 200
    text = of(hostile.node)
    assert text.get("cm_daemon_recv_total", mesh="acme", kind="dm") == 4
    assert text.get("cm_daemon_dedupe_total", mesh="acme", direction="in") == 0 + 1 + 2 + 3
    assert text.get("cm_daemon_dedupe_total", mesh="acme", direction="out") == 3
    assert text.get("cm_daemon_dedupe_history_pruned_total") == 2
    assert text.get("cm_daemon_invalid_inbound_total", reason="decrypt_failed") == 3
    assert text.get("cm_daemon_invalid_inbound_total", reason="bad_signature") == 2
    assert text.total("cm_daemon_invalid_inbound_total") == 5
    assert text.get("cm_daemon_quarantined") == 5


def test_a_mesh_that_was_left_has_no_series_any_more(pair):
    broker, alice, bob = pair
    create_mesh(broker, alice, "second")
    wait_for(lambda: of(alice).get("cm_daemon_connected", mesh="second") == 1, what="the second mesh")
    assert alice.api.post("/v1/send", {"to": "bob", "message": "x", "mesh": "second"}).status == 404
    assert of(alice).total("cm_daemon_send_total", mesh="second") == 1
    alice.cli("--mesh", "second", "mesh", "leave", "--yes")
    wait_for(lambda: ("mesh", "second") not in {pair for _, pairs in of(alice).samples for pair in pairs}, what="its series to go")


def test_the_brokers_counters_agree_with_what_it_answered(world):
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_BROKER_RATE_LIMIT_PER_MINUTE": "1", "CLAUDEMESH_BROKER_BROKER_RATE_LIMIT_BURST": "5",
                                        "CLAUDEMESH_BROKER_BROKER_LEASE_S": "1"})
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    client, receiver = WireClient(broker, alice.mesh()), WireClient(broker, bob.mesh())
    statuses = []

    def send(to, identifier, **more):
        client.ws.send(client.send_frame(to, identifier, **more))
        statuses.append(client.ws.receive_until("ack", client_message_id=identifier)["status"])
    for n in range(4):
        send(bob.pubkey, f"id-{n}")
    for n in range(3):
        send(bob.pubkey, f"id-{n}")
    send(bob.pubkey, "id-0", fingerprint=sha256(b"another"))
    send(Key().hex, "nobody")
    for n in range(6):
        send(bob.pubkey, f"more-{n}")
    text = of_broker(broker)
    accepted = lambda outcome: text.get("cm_broker_accept_total", outcome=outcome)
    assert statuses.count(201) == accepted("accepted") and statuses.count(200) == accepted("duplicate") == 3
    assert statuses.count(409) == accepted("fingerprint_mismatch") == text.get("cm_broker_dedupe_fingerprint_mismatch_total") == 1
    assert statuses.count(404) == accepted("unknown_member") == 1
    assert statuses.count(429) == accepted("rate_limited") == text.get("cm_broker_rate_limit_rejection_total") > 0
    assert statuses.count(503) == accepted("held")
    assert text.get("cm_broker_accept_seconds_count") == len(statuses)
    assert text.get("cm_broker_connections", mesh="acme") == 2 and text.get("cm_broker_atomicity_violation_total") == 0
    count = statuses.count(201)
    assert text.get("cm_broker_deliveries", state="leased") + text.get("cm_broker_deliveries", state="waiting") == count
    # nobody acknowledges: the leases run out, and everything is due again
    wait_for(lambda: of_broker(broker).get("cm_broker_redeliveries_total") >= count, 20, "redeliveries")
    receiver.ws.close()
    wait_for(lambda: of_broker(broker).get("cm_broker_connections", mesh="acme") == 1, what="the connection to go")
    assert of_broker(broker).get("cm_broker_deliveries", state="waiting") == count
