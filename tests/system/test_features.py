"""40-wire "Features": what a broker must offer, and what the daemon does when it does not."""

import copy
import json
import threading

import pytest

from harness import FEATURES, Broker, Node, Stub, acknowledge, create_mesh, fake_mesh, join, stub_answer, stub_handshake, wait_for


def without(name):
    features = copy.deepcopy(FEATURES)
    del features[name]
    return features


def changed(name, **parameters):
    features = copy.deepcopy(FEATURES)
    for key, value in parameters.items():
        if value is None:
            features[name]["params"].pop(key, None)
        else:
            features[name]["params"][key] = value
    return features


CASES = {
    "a required feature is absent": (without("client_message_id_dedupe"), "feature_unavailable", "client_message_id_dedupe"),
    "another required feature is absent": (without("concurrent_connection_policy"), "feature_unavailable", "concurrent_connection_policy"),
    "an unknown version": (changed("client_message_id_dedupe", version=2), "feature_unavailable", "client_message_id_dedupe"),
    "no mode": (changed("client_message_id_dedupe", mode=None), "feature_param_invalid", "client_message_id_dedupe"),
    "a mode that nobody knows": (changed("client_message_id_dedupe", mode="sometimes"), "feature_param_invalid", "client_message_id_dedupe"),
    "retention that is no number": (changed("client_message_id_dedupe", dedupe_retention_days="365"), "feature_param_invalid", "client_message_id_dedupe"),
    "no fingerprints": (changed("client_message_id_dedupe", request_fingerprint=False), "feature_param_invalid", "client_message_id_dedupe"),
    "a retention of two days": (changed("client_message_id_dedupe", dedupe_retention_days=2), "feature_param_below_floor", "client_message_id_dedupe"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broker_that_lacks_what_is_required_is_refused_with_4010(world, name):
    features, kind, feature = CASES[name]
    closes = []

    def serve(connection, _index):
        stub_handshake(connection, features)
        while (frame := connection.receive()) is not None:
            stub_answer(connection, frame)
        closes.append((connection.close_code, connection.close_reason))

    stub = Stub(world, serve)
    node = Node(world, "host")
    fake_mesh(node, stub.url)
    node.up()
    wait_for(lambda: closes, 20, "the close")
    code, reason = closes[0]
    assert code == 4010
    reason = json.loads(reason)["close_reason"]
    assert reason["kind"] == kind and reason["feature"] == feature
    mesh = wait_for(lambda: [m for m in node.health()["meshes"] if m["status"] == "refused"], 10, "refused")[0]
    assert mesh["connected"] is False
    assert node.health()["ok"] is False
    assert node.send(node.pubkey, "still accepted here").status == 202, "the daemon serves on"
    log = node.log.read_text()
    assert "feature_negotiation_failed" in log and kind in log
    assert stub.count == 1, "it must not come again within five minutes"


def test_the_event_tells_local_programs(world):
    go = threading.Event()

    def serve(connection, _index):
        go.wait(30)
        stub_handshake(connection, without("client_message_id_dedupe"))
        while connection.receive() is not None:
            pass

    stub = Stub(world, serve)
    node = Node(world, "host")
    fake_mesh(node, stub.url)
    node.up()
    stream = node.events()
    wait_for(lambda: stream.comments >= 1)
    go.set()
    event = stream.wait(lambda e: e["event"] == "feature_negotiation_failed")
    assert event["data"]["mesh"] == "acme" and event["data"]["kind"] == "feature_unavailable"
    stream.wait(lambda e: e["event"] == "broker_status" and e["data"]["status"] == "refused")


def test_exit_on_refused_exits_8(world):
    def serve(connection, _index):
        stub_handshake(connection, without("client_message_id_dedupe"))
        while connection.receive() is not None:
            pass

    node = Node(world, "host")
    fake_mesh(node, Stub(world, serve).url)
    node.up("--no-tcp", "--exit-on-refused", wait=False)
    assert node.process.wait(20) == 8


def test_features_require_none_lets_a_daemon_use_a_broker_without_negotiation(world):
    got = []

    def serve(connection, _index):
        stub_handshake(connection, answer_negotiation=False)
        while (frame := connection.receive()) is not None:
            if not stub_answer(connection, frame) and frame["type"] == "send":
                got.append(frame)
                ack = acknowledge(frame)
                for field in ("status", "duplicate", "history_id", "history_available"):
                    ack.pop(field)  # an existing broker
                connection.send(ack)

    stub = Stub(world, serve, challenge=False)
    node = Node(world, "host")
    fake_mesh(node, stub.url)
    node.settings("[features]\nrequire = []\n")
    node.up()
    node.wait_connected(True, 30)
    health = node.health()
    assert "dedupe" in json.dumps(health), "health says that dedupe rests on the recipients"
    answer = node.api.post("/v1/send?wait=20", {"to": "ab" * 32, "message": "hello"})
    assert answer.status in (200, 202, 404, 502)


def test_an_optional_feature_with_bad_parameters_is_only_a_warning(world):
    def serve(connection, _index):
        stub_handshake(connection, changed("max_payload", inline_bytes=5))
        while (frame := connection.receive()) is not None:
            stub_answer(connection, frame)

    node = Node(world, "host")
    fake_mesh(node, Stub(world, serve).url)
    node.up()
    node.wait_connected()
    assert '"warn"' in node.log.read_text() and "max_payload" in node.log.read_text()
    assert node.send(node.pubkey, "x" * 65536).status == 202  # the default holds
    assert node.send(node.pubkey, "x" * 65537).status == 413


def test_our_own_broker_can_be_told_to_offer_less_and_is_refused(world):
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_BROKER_DEDUPE_RETENTION_DAYS": "2"})
    alice = Node(world, "alice")
    create_mesh(broker, alice)
    alice.up()
    wait_for(lambda: [m for m in alice.health()["meshes"] if m["status"] == "refused"], 20, "refused")
    assert "feature_param_below_floor" in alice.log.read_text()


def test_negotiated_features_are_shown(pair):
    _broker, alice, _bob = pair
    version = alice.api.get("/v1/version").json
    assert version["ipc_api"] == "v1" and version["meshes"] == ["acme"] and version["schema_version"] >= 1 and version["daemon_version"]
    dedupe = version["broker_features_negotiated"]["acme"]["client_message_id_dedupe"]
    assert dedupe["dedupe_retention_days"] == 365 or dedupe.get("params", {}).get("dedupe_retention_days") == 365


def test_the_maximum_age_follows_the_brokers_retention_and_an_override_above_it_is_refused(world):
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_BROKER_DEDUPE_RETENTION_DAYS": "3"})
    alice = Node(world, "alice")
    create_mesh(broker, alice)
    alice.settings("[outbox]\nmax_age_hours_override = 72\n")  # 24 * 3 - 1 = 71 is the most
    alice.up()
    wait_for(lambda: [m for m in alice.health()["meshes"] if m["status"] == "refused"], 20, "refused")
    assert "outbox_max_age_above_dedupe_window" in alice.log.read_text()
    alice.down()
    alice.up(wait=False)
    assert alice.process.wait(10) != 0, "the last known retention is kept: start-up refuses now"
    assert "outbox_max_age_above_dedupe_window" in alice.log.read_text()
    alice.settings("[outbox]\nmax_age_hours_override = 71\n")
    alice.up()
    alice.wait_connected()


def test_a_broker_that_answers_pings_and_no_negotiation_is_refused_at_once(world):
    def serve(connection, _index):
        stub_handshake(connection, answer_negotiation=False)
        while connection.receive() is not None:
            pass

    stub = Stub(world, serve)
    node = Node(world, "host")
    fake_mesh(node, stub.url)
    node.up()
    wait_for(lambda: node.health()["meshes"][0]["status"] == "refused", 30)
    assert stub.count == 1


@pytest.mark.parametrize("silent_times, outcome", [(1, "open"), (2, "refused")])
def test_a_broker_that_falls_silent_in_the_negotiation_is_tried_once_more_before_it_is_refused(world, silent_times, outcome):
    over = threading.Event()

    def serve(connection, index):
        if index < silent_times:
            stub_handshake(connection, answer_negotiation=False)
            over.wait(60)  # neither an answer nor a pong
            return
        stub_handshake(connection)
        while (frame := connection.receive()) is not None:
            stub_answer(connection, frame)

    stub = Stub(world, serve)
    node = Node(world, "host")
    fake_mesh(node, stub.url)
    node.up()
    try:
        wait_for(lambda: node.health()["meshes"][0]["status"] == outcome, 30)
        assert stub.count == 2
    finally:
        over.set()
