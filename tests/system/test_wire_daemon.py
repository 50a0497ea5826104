"""30-delivery, 40-wire and 45-trust as the daemon shows them to a broker: every answer, every way a connection ends, every doubt about what arrives."""

import base64
import json
import os
import random
import sqlite3
import subprocess
import threading
import time

import pytest

from harness import FEATURES, SLOW, Node, Stub, acknowledge, fake_mesh, sha256, stub_answer, stub_handshake, wait_for
from test_hostile_broker import Hostile


class Far(Hostile):
    """A broker under the test's control whose features, greeting and answers a test chooses."""

    def __init__(self, world, features=FEATURES, greet=None, answer_list=True, settings=None):
        self.features, self.greet, self.answer_list = features, greet, answer_list
        self.hellos, self.hello_times, self.sends, self.send_times = [], [], [], []
        self.script = {}  # client_message_id: answers to give, one a frame; then 201
        super().__init__(world, settings)
        self.on_send = self.by_script

    def serve(self, connection, index):
        if self.greet is not None:
            hello = connection.receive()
            self.hellos.append(hello)
            self.hello_times.append(time.monotonic())
            if not self.greet(connection, hello, index):
                return
            connection.send({"type": "hello_ack", "presenceId": "p", "memberDisplayName": "x"})
            request = connection.receive()
            connection.send({"type": "feature_negotiation_response", "_reqId": request["_reqId"], "supported": self.features, "missing_required": []})
        else:
            self.hellos.append(stub_handshake(connection, self.features))
            self.hello_times.append(time.monotonic())
        self.connection = connection
        while (frame := connection.receive()) is not None:
            with self.condition:
                self.received.append(frame)
                self.condition.notify_all()
            if frame["type"] == "list_members":
                if self.answer_list:
                    connection.send({"type": "members_list", "_reqId": frame.get("_reqId"), "members": self.members, "revocations": self.revocations})
                else:
                    connection.send({"type": "error", "code": "unknown_type", "message": "what?", "_reqId": frame.get("_reqId")})
            elif not stub_answer(connection, frame) and frame["type"] == "send":
                self.sends.append(frame)
                self.send_times.append(time.monotonic())
                self.on_send(connection, frame)

    def by_script(self, connection, frame):
        answers = self.script.get(frame["id"], [])
        answer = answers.pop(0) if answers else 201
        if callable(answer):
            answer = answer(frame)
        elif isinstance(answer, int):
            answer = acknowledge(frame, answer)
        if answer is not None:
            connection.send(answer)

    def sent(self, identifier):
        return [frame for frame in self.sends if frame["id"] == identifier]

    def post(self, identifier, to=None, body="a word", **more):
        answer = self.node.send((to or self.carol).hex, body, client_message_id=identifier, **more)
        assert answer.status == 202, answer
        return answer

    def row(self, identifier):
        return self.node.api.get(f"/v1/outbox/{identifier}").json

    def state(self, identifier):
        return self.row(identifier)["status"]

    def wait_state(self, identifier, state, seconds=15):
        wait_for(lambda: self.state(identifier) == state, seconds, f"{identifier} to be {state}")
        return self.row(identifier)

    def mesh_health(self):
        return self.node.health()["meshes"][0]


@pytest.fixture
def far(world):
    return Far(world)


def refusal(status, error, **more):
    return lambda frame: acknowledge(frame, status, error=error, **more)


# ---- what the broker answers -------------------------------------------------------------------------------------------------


def test_a_row_is_sent_at_once_and_done_only_when_the_broker_says_so(far):
    far.script["a"] = [None]
    started = time.monotonic()
    far.post("a")
    wait_for(lambda: far.sent("a"))
    assert far.send_times[0] - started < 0.5 * SLOW
    assert far.state("a") == "inflight"
    far.connection.send(acknowledge(far.sent("a")[0]))
    row = far.wait_state("a", "done")
    assert row["broker_message_id"] == acknowledge(far.sent("a")[0])["messageId"] and row["history_id"] == 1
    assert row["attempts"] == 1


@pytest.mark.parametrize("status,error", [(429, "rate_limited: slowly"), (500, "internal: sorry"), (503, "held: an earlier one waits"), (599, "odd: odd"),
                                          (302, "elsewhere: go there")])
def test_a_passing_refusal_is_sent_again_after_backoff_the_same_to_the_byte(far, status, error):
    far.script["a"] = [refusal(status, error), refusal(status, error)]
    far.post("a")
    far.wait_state("a", "done", 20)
    frames = far.sent("a")
    assert len(frames) == 3 and all(frame == frames[0] for frame in frames)
    first, second = far.send_times[1] - far.send_times[0], far.send_times[2] - far.send_times[1]
    assert 0.36 < first < 1 * SLOW and 0.7 < second < 2 * SLOW, (first, second)


def test_a_broker_that_says_retry_after_is_obeyed_and_zero_makes_no_loop(far):
    far.script["a"] = [refusal(429, "rate_limited: slowly", retry_after_ms=1500)]
    far.script["b"] = [refusal(429, "rate_limited: slowly", retry_after_ms=0)] * 2
    far.post("a")
    far.wait_state("a", "done", 20)
    assert far.send_times[1] - far.send_times[0] >= 1.45
    far.sends.clear(), far.send_times.clear()
    far.post("b")
    far.wait_state("b", "done", 20)
    assert far.send_times[1] - far.send_times[0] >= 0.36 and far.send_times[2] - far.send_times[1] >= 0.7


@pytest.mark.parametrize("status,code", [(400, "bad_frame"), (403, "not_yours"), (404, "unknown_target"), (413, "payload_too_large"), (422, "whatever"), (409, "other_conflict")])
def test_a_final_refusal_makes_the_row_dead_with_its_code(far, status, code):
    far.script["a"] = [refusal(status, f"{code}: no")]
    far.post("a")
    row = far.wait_state("a", "dead")
    assert row["last_error"].startswith(code)
    far.post("b")
    far.wait_state("b", "done")
    assert len(far.sent("a")) == 1


def test_a_reused_id_is_dead_and_an_error_in_the_log(far):
    far.script["a"] = [refusal(409, "idempotency_key_reused: another text", broker_fingerprint_prefix="0123456789abcdef")]
    far.post("a")
    assert far.wait_state("a", "dead")["last_error"].startswith("idempotency_key_reused")
    lines = [json.loads(line) for line in far.node.log.read_text().splitlines() if line.startswith("{")]
    assert any(line["level"] == "error" and "idempotency_key_reused" in json.dumps(line) for line in lines)


def test_a_duplicate_is_done_and_one_without_history_warns_and_counts(far):
    far.script["a"] = [lambda frame: acknowledge(frame, 200)]
    far.script["b"] = [lambda frame: acknowledge(frame, 200, history_available=False)]
    far.post("a")
    far.wait_state("a", "done")
    assert far.mesh_health()["dedupe_history_pruned"] == 0
    far.post("b")
    far.wait_state("b", "done")
    assert far.mesh_health()["dedupe_history_pruned"] == 1
    assert "dedupe_history_pruned" in far.node.log.read_text()


def test_answers_without_status_are_judged_by_their_words(far):
    def bare(frame, **more):
        return {"type": "ack", "id": frame["id"], "messageId": "M" + frame["id"], "queued": True, **more}

    far.script["fine"] = [bare]
    far.script["later"] = [lambda frame: bare(frame, messageId="", queued=False, error="try again later")]
    for name, words in (("payload", "payload is too large"), ("target", "unknown target"), ("schema", "schema: bad field"), ("auth", "not authorised")):
        far.script[name] = [lambda frame, words=words: bare(frame, messageId="", queued=False, error=words)]
    far.script["frame"] = [lambda frame: {"type": "error", "code": "unauthorized_target", "message": "target says no", "id": frame["id"]}]
    for name in far.script:
        far.post(name)
    assert far.wait_state("fine", "done")["broker_message_id"] == "Mfine"
    for name in ("payload", "target", "schema", "auth", "frame"):
        far.wait_state(name, "dead")
    far.wait_state("later", "done")
    assert len(far.sent("later")) == 2 and far.mesh_health()["connected"]


def test_nonsense_in_an_answer_moves_nothing(far):
    far.script["a"] = [None]
    far.post("a")
    frame = wait_for(lambda: far.sent("a"))[0]
    for change in ({"status": "201"}, {"status": -1}, {"status": 2.5}, {"messageId": 5}, {"history_id": "x"}, {"queued": "yes"}, {"client_message_id": 7},
                   {"client_message_id": "somebody-elses"}, {"id": None, "client_message_id": None}, {"error": {}}):
        far.connection.send({**acknowledge(frame), **change})
    far.honest("after the nonsense")
    far.node.wait_inbox(1)
    assert far.state("a") == "inflight"
    far.connection.send(acknowledge(frame))
    far.wait_state("a", "done")


# ---- order -------------------------------------------------------------------------------------------------------------------


def test_nothing_overtakes_a_refused_row_and_other_lanes_go_on(far):
    held = threading.Event()
    far.script["c0"] = [refusal(429, "rate_limited: slowly"), refusal(500, "internal: sorry")]
    far.on_send = lambda connection, frame: (connection.send(acknowledge(frame, 503, error="held: wait")) if frame["id"] in ("c1", "c2") and not held.is_set()
                                             else far.by_script(connection, frame))
    for identifier in ("c0", "c1", "c2"):
        far.post(identifier)
    wait_for(lambda: far.sent("c0"))
    for identifier in ("c3", "c4"):
        far.post(identifier)
    far.post("now", priority="now")
    far.post("owner", to=far.owner)
    far.wait_state("now", "done")
    far.wait_state("owner", "done")
    assert far.state("c0") == "pending" and not far.sent("c4")
    wait_for(lambda: len(far.sent("c0")) >= 2, 20)
    held.set()
    far.wait_state("c4", "done", 30)
    lane = [frame["id"] for frame in far.sends if frame["id"].startswith("c")]
    assert lane[-5:] == ["c0", "c1", "c2", "c3", "c4"], lane


@pytest.mark.parametrize("how", ["drop", "requeue"])
def test_a_refused_row_that_is_given_up_holds_nothing_back(far, how):
    """70-broker: the broker holds the destination until the refused id is decided, which it will never be."""
    held = {}

    def hold(connection, frame):
        if frame["id"] == "c0":
            held[id(connection)] = True
            connection.send(acknowledge(frame, 500, error="internal: sorry"))
        elif held.get(id(connection)) and frame["targetSpec"] == far.carol.hex:
            connection.send(acknowledge(frame, 503, error="held: an earlier one waits"))
        else:
            connection.send(acknowledge(frame))

    far.on_send = hold
    far.post("c0")
    wait_for(lambda: far.state("c0") == "pending" and far.row("c0")["attempts"] >= 1)
    far.post("c1")
    wait_for(lambda: far.node.api.post(f"/v1/outbox/{how}", {"id": "c0"}).status == 200, what="the row to be pending")
    far.post("c2")
    far.wait_state("c2", "done", 20)
    assert far.state("c1") == "done" and far.state("c0") == "aborted"
    lane = [frame["id"] for frame in far.sends if frame["id"] in ("c1", "c2")]
    assert lane[-2:] == ["c1", "c2"]


def test_after_a_lost_link_everything_goes_out_again_by_priority_then_in_order(far):
    far.on_send = lambda connection, frame: None
    names = []
    for number in range(30):
        names.append((("now", "next", "low")[number % 3], f"m{number:02d}"))
        far.post(names[-1][1], priority=names[-1][0])
    wait_for(lambda: len(far.sends) == 30)
    wait_for(lambda: far.node.outbox_counts()[:2] == (0, 30), what="the marks to be on disk")
    far.greet = lambda connection, hello, index: not far.closed_door
    far.closed_door = True
    far.connection.abort()
    wait_for(lambda: far.node.outbox_counts()[:2] == (30, 0), what="inflight rows to be pending at once")
    far.sends.clear()
    far.on_send = far.by_script
    far.closed_door = False
    wait_for(lambda: far.node.outbox_counts()[:2] == (0, 0), 60, "everything done")
    order = [frame["id"] for frame in far.sends]
    assert order == [name for wanted in ("now", "next", "low") for priority, name in names if priority == wanted]
    assert far.row("m00")["attempts"] == 2


def test_a_lost_link_burns_no_backoff(far):
    far.script["a"] = [None, None, None]
    far.post("a")
    for count in (1, 2, 3):
        wait_for(lambda: len(far.sent("a")) == count, 20)
        far.connection.abort()
    far.wait_state("a", "done", 20)
    assert far.send_times[-1] - far.hello_times[-1] < 0.4 * SLOW  # at once, not a fourth backoff after the link is open


def test_no_answer_in_fifteen_seconds_closes_the_link(far):
    far.script["a"] = [None]
    far.post("a")
    wait_for(lambda: far.sent("a"))
    first = far.send_times[0]
    far.post("b")
    far.wait_state("b", "done")  # other answers do not hide it
    far.wait_state("a", "done", 40)
    assert 14.5 < far.send_times[-1] - first < 20 * SLOW and len(far.hellos) == 2


# ---- late answers and operators --------------------------------------------------------------------------------------------------


def test_a_late_acceptance_ends_a_row_that_waits_and_changes_no_final_one(far):
    far.script["a"] = [refusal(503, "held: wait", retry_after_ms=60000)]
    far.script["dead"] = [refusal(400, "bad_frame: no")]
    far.post("a")
    far.post("dead", to=far.owner)
    far.wait_state("dead", "dead")
    wait_for(lambda: far.state("a") == "pending" and far.row("a")["attempts"] == 1)
    far.connection.send(acknowledge(far.sent("dead")[0]))
    far.connection.send(acknowledge({"id": "never-was", "client_message_id": "never-was"}))
    far.connection.send(acknowledge(far.sent("a")[0]))
    assert far.wait_state("a", "done")["broker_message_id"]
    assert far.state("dead") == "dead" and len(far.sent("a")) == 1
    far.connection.send(acknowledge(far.sent("a")[0], 400, error="bad_frame: too late"))
    far.post("b", to=far.owner)
    far.wait_state("b", "done")
    assert far.state("a") == "done"


def test_a_row_that_was_never_sent_is_not_done_because_a_broker_says_so(far):
    far.script["first"] = [refusal(503, "held: wait", retry_after_ms=60000)]
    far.post("first")
    wait_for(lambda: far.state("first") == "pending" and far.row("first")["attempts"] == 1)
    far.post("behind")
    far.connection.send(acknowledge({"id": "behind", "client_message_id": "behind"}))
    far.post("other", to=far.owner)
    far.wait_state("other", "done")
    assert far.state("behind") == "pending" and not far.sent("behind")


def test_an_inflight_row_is_dropped_and_requeued_only_with_force(far):
    far.script["a"], far.script["b"] = [None], [None]
    far.post("a"), far.post("b")
    wait_for(lambda: len(far.sends) == 2)
    post = far.node.api.post
    for route in ("drop", "requeue"):
        answer = post(f"/v1/outbox/{route}", {"id": "a"})
        assert answer.status == 409 and answer.json["error"] == "outbox_inflight", answer
    assert post("/v1/outbox/drop", {"id": "a", "force": True}).status == 200
    assert post("/v1/outbox/requeue", {"id": "b", "force": True, "new_client_message_id": "b2"}).status in (200, 202)
    far.wait_state("b2", "done")
    for frame in (far.sent("a")[0], far.sent("b")[0]):
        far.connection.send(acknowledge(frame))
    far.post("c")
    far.wait_state("c", "done")
    assert far.state("a") == "aborted" and far.state("b") == "aborted"
    assert post("/v1/outbox/drop", {"id": "a", "force": True}).json["error"] == "outbox_final"
    assert len(far.sent("a")) == 1 and len(far.sent("b")) == 1 and len(far.hellos) == 1


def test_a_killed_daemon_sends_what_was_inflight_again_the_same_to_the_byte(far):
    far.script["a"] = [None]
    far.post("a")
    wait_for(lambda: far.sent("a"))
    wait_for(lambda: far.state("a") == "inflight")
    far.node.kill()
    far.node.up()
    row = far.wait_state("a", "done")
    assert len(far.sent("a")) == 2 and far.sent("a")[0] == far.sent("a")[1] and row["attempts"] == 2


class Moody(Far):
    """An honest broker in a bad mood: dedupe, holding (70-broker), lost answers, lost links, passing refusals, all by chance."""

    def __init__(self, world, seed):
        self.random, self.calm, self.accepted = random.Random(seed), False, []
        self.known, self.refused, self.gone = set(), {}, set()
        super().__init__(world)
        self.on_send = self.decide

    def abort(self, connection):
        self.gone.add(id(connection))
        connection.abort()

    def decide(self, connection, frame):
        if id(connection) in self.gone:
            return  # it had read further than it got
        lane = (id(connection), frame["targetSpec"], frame["priority"])
        identifier = frame["id"]
        if identifier in self.known:
            connection.send(acknowledge(frame, 200))
            return
        waiting = self.refused.get(lane)
        chance = 1.0 if self.calm else self.random.random()
        if waiting is not None and waiting != identifier:
            connection.send(acknowledge(frame, 503, error="held: an earlier one waits"))
        elif chance < 0.10:
            self.refused[lane] = identifier
            connection.send(acknowledge(frame, self.random.choice([429, 500, 503]), error="moody: not now", retry_after_ms=5))
        elif chance < 0.12:
            self.abort(connection)  # before it was accepted
        else:
            self.refused.pop(lane, None)
            self.known.add(identifier)
            self.accepted.append((lane[1:], identifier))
            if chance < 0.15:
                self.abort(connection)  # after: the answer is lost
            else:
                connection.send(acknowledge(frame))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_broker_does_each_row_is_accepted_once_in_the_order_of_its_lane(world, seed):
    far = Moody(world, seed)
    far.node.kill()
    far.node.settings("[drain]\nbackoff_initial_ms = 10\nbackoff_max_ms = 40\nwindow = 16\n")
    far.node.up()
    far.node.wait_connected()
    chance = random.Random(1000 + seed)
    wanted, dropped = {}, set()
    for number in range(240):
        to, priority = chance.choice([far.carol, far.owner]), chance.choice(["now", "next", "low"])
        identifier = f"m{number:03d}"
        far.post(identifier, to=to, priority=priority)
        wanted.setdefault((to.hex, priority), []).append(identifier)
        if number % 7 == 6:
            victim = chance.choice(wanted[(to.hex, priority)])
            answer = far.node.api.post("/v1/outbox/drop", {"id": victim})
            if answer.status == 200:
                dropped.add(victim)
            else:
                assert answer.json["error"] in ("outbox_inflight", "outbox_final"), answer
        if number in (90, 170):
            far.node.kill()
            far.node.up()
    far.calm = True
    wait_for(lambda: far.node.outbox_counts() == (0, 0, 0), 120, "everything done")
    accepted = [identifier for _, identifier in far.accepted]
    assert len(accepted) == len(set(accepted))
    everything = {identifier for lane in wanted.values() for identifier in lane}
    assert everything - dropped <= set(accepted), everything - dropped - set(accepted)
    for lane, identifiers in wanted.items():
        assert [identifier for place, identifier in far.accepted if place == lane] == [i for i in identifiers if i in far.known], lane
    for identifier in everything:
        assert far.state(identifier) == ("aborted" if identifier in dropped else "done")
    assert not far.stub.errors, far.stub.errors


# ---- age, clocks -------------------------------------------------------------------------------------------------------------


def change_outbox(node, sql):
    connection = sqlite3.connect(node.path("outbox.db"))
    connection.execute(sql)
    connection.commit()
    connection.close()


def test_a_row_past_its_age_is_dead_before_any_negotiation_and_never_sent(far):
    far.script["old"] = [refusal(503, "held: wait", retry_after_ms=60000)]
    far.post("old")
    wait_for(lambda: far.row("old")["attempts"] == 1 and far.state("old") == "pending")
    far.post("young")  # behind it, in the lane that waits
    far.stub.close()
    far.node.kill()
    change_outbox(far.node, "UPDATE outbox SET enqueued_at = enqueued_at - 3600000 * 24 * 364 WHERE client_message_id = 'old'")
    far.node.up()
    row = far.wait_state("old", "dead")
    assert row["last_error"] == "max_age_exceeded" and far.state("young") == "pending"
    answer = far.node.send(far.carol.hex, "a word", client_message_id="old")
    assert answer.status == 409 and answer.json["conflict"] == "outbox_dead_fingerprint_match" and answer.json["reason"] == "max_age_exceeded"


def test_what_was_accepted_under_a_clock_that_ran_ahead_is_not_from_the_future(far):
    far.script["a"] = [refusal(503, "held: wait", retry_after_ms=60000)]
    far.post("a")
    wait_for(lambda: far.state("a") == "pending")
    far.node.kill()
    change_outbox(far.node, "UPDATE outbox SET enqueued_at = enqueued_at + 7200000")
    far.node.up()
    far.wait_state("a", "done", 30)
    frame = far.sent("a")[-1]
    plain = far.carol.open_box(far.victim.public, base64.b64decode(frame["nonce"]), base64.b64decode(frame["ciphertext"]))
    assert json.loads(plain.rstrip(b"\0")[:-1])["sent_at"] <= time.time() * 1000 + 1000


# ---- hello ---------------------------------------------------------------------------------------------------------------------


def refuse_hello(connection, code, close=1008, **more):
    connection.send({"type": "error", "code": code, "message": "no", **more})
    connection.close(close, code)
    return False


def test_a_wrong_clock_is_corrected_once_and_health_says_it(world):
    ahead = 2 * 3600 * 1000

    def greet(connection, hello, _index):
        server = int(time.time() * 1000) + ahead
        return True if abs(hello["timestamp"] - server) < 60000 else refuse_hello(connection, "timestamp_skew", serverTime=server)

    far = Far(world, greet=greet)
    assert len(far.hellos) == 2 and far.hello_times[1] - far.hello_times[0] < 0.5 * SLOW
    assert abs(far.mesh_health()["clock_skew_ms"] - ahead) < 5000
    assert "clock_skew" in far.node.log.read_text()
    # what is sent has the broker's time, and what comes with it is not from the future
    far.post("a")
    frame = wait_for(lambda: far.sent("a"))[0]
    plain = far.carol.open_box(far.victim.public, base64.b64decode(frame["nonce"]), base64.b64decode(frame["ciphertext"]))
    assert abs(json.loads(plain.rstrip(b"\0")[:-1])["sent_at"] - time.time() * 1000 - ahead) < 10000 * SLOW
    ack = far.acknowledgement(far.push(far.carol, "in-time", far.seal(far.carol, "in time", "in-time", sent_at=int(time.time() * 1000) + ahead)))
    assert ack.get("state") != "quarantined" and far.bodies() == ["in time"]


def simple_node(world, serve, name="host", settings=None, **stub):
    node = Node(world, name)
    stub = Stub(world, serve, **stub)
    fake_mesh(node, stub.url)
    if settings:
        node.settings(settings)
    node.up()
    return node, stub


def test_a_clock_that_is_days_off_is_not_corrected(world):
    hellos = []

    def serve(connection, _index):
        hellos.append(connection.receive())
        refuse_hello(connection, "timestamp_skew", serverTime=int(time.time() * 1000) + 25 * 3600 * 1000)

    node, _ = simple_node(world, serve)
    wait_for(lambda: len(hellos) >= 2, 20)
    now = time.time() * 1000
    assert all(abs(hello["timestamp"] - now) < 60000 * SLOW for hello in hellos)
    mesh = node.health()["meshes"][0]
    assert mesh["connected"] is False and "timestamp_skew" in json.dumps(mesh)


@pytest.mark.parametrize("with_frame", [True, False])
def test_a_hello_that_was_seen_is_signed_again_with_a_later_timestamp(world, with_frame):
    def greet(connection, hello, index):
        if index > 0:
            return True
        return refuse_hello(connection, "replay") if with_frame else connection.close(1008, "replay")

    far = Far(world, greet=greet)
    assert far.hellos[1]["timestamp"] > far.hellos[0]["timestamp"]
    assert far.hello_times[1] - far.hello_times[0] < 0.5 * SLOW
    assert far.hellos[0]["signature"] != far.hellos[1]["signature"]


def test_the_hello_names_the_installation_not_the_process(far):
    hello = far.hellos[0]
    assert hello["channel"] == "claudemesh-daemon" and hello["protocolVersion"] == 1
    assert {"client_ack", "feature_negotiation", "sealed_envelope"} <= set(hello["capabilities"])
    far.node.kill()
    far.node.up()
    far.node.wait_connected()
    assert far.hellos[-1]["sessionId"] == hello["sessionId"] and far.hellos[-1]["pid"] != hello["pid"]


def test_4002_serves_reads_refuses_sends_and_stays_away_while_the_other_mesh_goes_on(far):
    other = {"sends": 0}

    def serve(connection, _index):
        stub_handshake(connection)
        while (frame := connection.receive()) is not None:
            if not stub_answer(connection, frame) and frame["type"] == "send":
                other["sends"] += 1
                connection.send(acknowledge(frame))

    far.honest("before")
    far.node.wait_inbox(1)
    far.post("before")
    far.wait_state("before", "done")
    second = fake_mesh(far.node, Stub(far.world, serve).url, slug="second", member_id="member-2")
    far.node.kill()
    far.node.up()
    far.node.wait_connected()
    count = far.stub.count
    far.connection.close(4002, "revoked")
    mesh = wait_for(lambda: [m for m in far.node.health()["meshes"] if m["slug"] == "acme" and m["status"] == "closed"], 10)[0]
    assert mesh["revoked"] is True and mesh["connected"] is False
    answer = far.node.send(far.carol.hex, "no", mesh="acme", client_message_id="after")
    assert answer.status == 403 and answer.json["error"] == "member_revoked"
    assert far.node.api.get("/v1/outbox/after").status == 404, "nothing is stored"
    assert far.node.send(far.carol.hex, "a word", mesh="acme", client_message_id="before").status == 200
    assert far.bodies() == ["before"]
    assert far.node.send(second["pubkey"], "to myself", mesh="second").status == 202
    wait_for(lambda: other["sends"] == 1)
    time.sleep(3)
    assert far.stub.count == count, "does not reconnect"


def test_4003_does_not_fight_back(far):
    far.connection.close(4003, "replaced_by_newer_connection")
    mesh = wait_for(lambda: [m for m in far.node.health()["meshes"] if not m["connected"]], 10)[0]
    assert mesh["status"] == "reconnecting" and "replaced" in mesh["reason"]
    far.post("kept")
    time.sleep(6)
    assert far.stub.count == 1 and far.state("kept") == "pending"


@pytest.mark.parametrize("code,reason", [(1008, "capacity"), (1008, "unauthorized"), (1011, ""), (1012, "restart"), (1009, "")])
def test_any_other_end_is_followed_by_another_attempt_and_the_same_rows(far, code, reason):
    far.script["a"] = [None]
    far.post("a")
    wait_for(lambda: far.sent("a"))
    far.connection.close(code, reason)
    far.wait_state("a", "done", 20)
    assert len(far.hellos) == 2


def test_a_refused_link_is_left_alone_and_the_daemon_serves_on(world):
    def serve(connection, _index):
        stub_handshake(connection, {})
        while connection.receive() is not None:
            pass

    node, stub = simple_node(world, serve)
    wait_for(lambda: [m for m in node.health()["meshes"] if m["status"] == "refused"], 20)
    assert node.health()["ok"] is False
    time.sleep(4)
    assert stub.count == 1 and node.api.get("/v1/inbox").status == 200


# ---- what arrives ----------------------------------------------------------------------------------------------------------------


def test_what_is_new_and_unknown_is_ignored(far):
    far.connection.send({"type": "quantum_teleport", "x": [1, {"y": None}], "_reqId": "zzz"})
    identifier = "with-more"
    nonce, ciphertext = far.seal(far.carol, "with fields from the future", identifier)
    far.push(far.carol, identifier, (nonce, ciphertext), shiny=True, nested={"a": [1]})
    assert far.node.wait_inbox(1)[0]["body"] == "with fields from the future"
    assert far.mesh_health()["connected"] and len(far.hellos) == 1


def test_a_bare_box_from_somebody_unverified_is_shown_as_legacy_once_for_ever(far):
    sealed = far.stranger.box_for(far.victim.public, "grüße".encode())
    first = far.push(far.stranger, "old-1", sealed, bodyVersion=1)
    assert far.acknowledgement(first).get("state") != "quarantined"
    item = far.node.wait_inbox(1)[0]
    assert item["body"] == "grüße" and item["verified"] == "legacy"
    far.acknowledgement(far.push(far.stranger, "old-2", sealed, bodyVersion=1))
    far.node.kill()
    far.node.up()
    far.node.wait_connected()
    far.acknowledgement(far.push(far.stranger, "old-3", sealed, bodyVersion=1))
    assert far.bodies() == ["grüße"]


def test_an_id_that_only_the_broker_chose_swallows_no_sealed_message(far):
    far.acknowledgement(far.push(far.carol, "chosen", far.carol.box_for(far.victim.public, b"an old box"), bodyVersion=1))
    far.node.wait_inbox(1)
    ack = far.acknowledgement(far.push(far.carol, "chosen", far.seal(far.carol, "the real one", "chosen")))
    assert ack.get("state") == "quarantined" and "rsig" not in ack, "no false `stored`"


def test_our_own_box_is_not_taken_for_an_answer(world):
    features = {name: value for name, value in FEATURES.items() if name != "sealed_envelope"}
    far = Far(world, features)
    far.members.append(far.member(far.stranger, "stranger"))
    far.connection.abort()
    wait_for(lambda: len(far.hellos) == 2 and far.mesh_health()["connected"], 20)
    wait_for(lambda: far.node.send(far.stranger.hex, "my own words", client_message_id="mine").status == 202)
    far.wait_state("mine", "done")
    frame = far.sent("mine")[0]
    assert frame["bodyVersion"] == 1, "no sealed_envelope, not verified"
    nonce, ciphertext = base64.b64decode(frame["nonce"]), base64.b64decode(frame["ciphertext"])
    assert far.stranger.open_box(far.victim.public, nonce, ciphertext) == b"my own words"
    for sender in (far.stranger, far.victim):  # a box opens at both ends
        ack = far.acknowledgement(far.push(sender, "reflected", (nonce, ciphertext), bodyVersion=1))
        assert ack.get("state") == "quarantined"
    assert far.bodies() == []


def test_a_verified_member_gets_an_envelope_through_any_broker(world):
    features = {name: value for name, value in FEATURES.items() if name != "sealed_envelope"}
    far = Far(world, features)
    far.post("sealed")
    far.wait_state("sealed", "done")
    assert far.sent("sealed")[0]["bodyVersion"] == 3


def test_nine_minutes_ahead_is_a_message_and_eleven_are_not(far):
    now = int(time.time() * 1000)
    ack = far.acknowledgement(far.push(far.carol, "nine", far.seal(far.carol, "nine", "nine", sent_at=now + 540000)))
    assert ack.get("state") != "quarantined"
    ack = far.acknowledgement(far.push(far.carol, "eleven", far.seal(far.carol, "eleven", "eleven", sent_at=now + 660000)))
    assert ack.get("state") == "quarantined"
    assert far.bodies() == ["nine"]


def test_a_broker_without_delivery_ack_gets_each_acknowledgement_alone(world):
    far = Far(world, {name: value for name, value in FEATURES.items() if name != "delivery_ack"})
    pushed = [far.honest(f"number {number}") for number in range(20)]
    for message_id in pushed:
        assert "acks" not in far.acknowledgement(message_id)
    assert not any("acks" in frame for frame in far.received if frame["type"] == "client_ack")
    assert far.bodies() == [f"number {number}" for number in range(20)]


@pytest.mark.parametrize("answers", [True, False])
def test_a_peer_that_knows_more_revocations_than_the_broker_brings_shows_a_fork(far, answers):
    stream = far.node.events("?types=system")
    wait_for(lambda: stream.comments >= 1)
    asked = sum(frame["type"] == "list_members" for frame in far.received)
    far.answer_list = answers
    far.push(far.carol, "rv", far.seal(far.carol, "I know of one", "rv", rv="1:" + sha256(b"x")))
    far.node.wait_inbox(1)
    wait_for(lambda: sum(frame["type"] == "list_members" for frame in far.received) > asked, what="members to be asked for")
    stream.wait(lambda event: event["data"].get("event") == "membership_fork", what="the event")
    assert far.mesh_health()["membership_fork"] is True and far.mesh_health()["degraded"] is True
    far.post("direct")  # direct messages go on
    far.wait_state("direct", "done")


def test_a_broker_that_lists_no_members_delays_messages_a_little_and_loses_none(world):
    far = Far(world)
    far.node.kill()
    silent = threading.Event()

    def serve(connection, index):
        stub_handshake(connection)
        far.connection = connection
        silent.set()
        while (frame := connection.receive()) is not None:
            with far.condition:
                far.received.append(frame)

    far.stub.handler = serve
    far.node.up()
    far.node.wait_connected()
    assert silent.wait(10)
    names = [far.honest(f"word {number}") for number in range(5)]
    assert [item["body"] for item in far.node.wait_inbox(5)] == [f"word {number}" for number in range(5)]
    far.acknowledgement(names[-1])


def test_what_was_not_acknowledged_before_a_lost_link_is_stored_once(far):
    sealed = far.seal(far.carol, "once", "once")
    far.push(far.carol, "once", sealed, messageId="REDELIVERED")
    far.connection.abort()
    wait_for(lambda: len(far.hellos) == 2 and far.mesh_health()["connected"], 20)
    far.received.clear()
    far.push(far.carol, "once", sealed, messageId="REDELIVERED")
    ack = far.acknowledgement("REDELIVERED")
    assert ack.get("state") != "quarantined" and far.bodies() == ["once"]


def test_an_unverified_peers_count_of_revocations_means_nothing(far):
    far.push(far.stranger, "rv", far.seal(far.stranger, "I know of nine", "rv", rv="9:" + sha256(b"x")))
    assert far.node.wait_inbox(1)[0]["verified"] is False
    assert far.mesh_health()["membership_fork"] is False


# ---- a full disk -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(world):
    place = world.directory / "small"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(place)], capture_output=True).returncode != 0:
        pytest.skip("cannot mount here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True)


def fill(place):
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as file:
        size = 65536
        while size >= 1:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    return filler


class FarOnSmall(Far):
    def __init__(self, world):
        import test_hostile_broker
        plain = test_hostile_broker.Node
        test_hostile_broker.Node = lambda world, name: Node(world, "small/" + name)
        (world.directory / "small").mkdir(exist_ok=True)
        try:
            super().__init__(world)
        finally:
            test_hostile_broker.Node = plain


def test_with_a_full_disk_nothing_is_acknowledged_that_is_not_stored_and_all_resumes(world, small):
    far = FarOnSmall(world)
    far.post("known")
    far.wait_state("known", "done")
    far.honest("before")
    far.node.wait_inbox(1)
    filler = fill(small)
    sealed = far.seal(far.carol, "y" * 20000, "unstorable")
    pushed = far.push(far.carol, "unstorable", sealed)
    wait_for(lambda: "inbox_insert_failed" in far.node.log.read_text(), 15, "the failure")
    answers = [far.node.send(far.carol.hex, "z" * 20000, client_message_id=f"n{number}") for number in range(3)]
    assert [(answer.status, answer.json["error"]) for answer in answers] == [(507, "insufficient_storage")] * 3
    again = far.node.send(far.carol.hex, "a word", client_message_id="known")
    assert again.status == 200 and again.json["duplicate"] is True, "what has a row is answered before free space is looked at"
    assert far.node.send(far.carol.hex, "another", client_message_id="known").status == 409
    assert far.mesh_health()["connected"] and far.node.health()["ok"] is False
    assert not any(ack.get("brokerMessageId") == pushed for frame in far.received if frame["type"] == "client_ack" for ack in frame.get("acks") or [frame])
    filler.unlink()
    wait_for(lambda: far.node.send(far.carol.hex, "z" * 20000, client_message_id="n0").status == 202, 15, "room to be noticed")
    far.wait_state("n0", "done")
    far.push(far.carol, "unstorable", sealed, messageId=pushed)  # the broker's lease ran out
    assert far.acknowledgement(pushed).get("state") != "quarantined"
    assert [len(body) for body in far.bodies()] == [len("before"), 20000]
    wait_for(lambda: far.node.health()["ok"] is True, 20, "all well")
