"""30-delivery "Accepting a send": every cell of the table, over both transports, and races for one id."""

import threading

import pytest

from harness import Key, Node, Stub, acknowledge, fake_mesh, stub_answer, stub_handshake, wait_for


class Mode:
    """How the stub broker answers sends: by what the body's first word says... it sees no body, so by the id."""

    def __init__(self, world):
        self.sends = []
        self.stub = Stub(world, self.serve)

    def serve(self, connection, _index):
        stub_handshake(connection)
        while (frame := connection.receive()) is not None:
            if stub_answer(connection, frame) or frame["type"] != "send":
                continue
            self.sends.append(frame)
            identifier = frame["id"]
            if identifier.startswith("done"):
                connection.send(acknowledge(frame))
            elif identifier.startswith("dead"):
                connection.send(acknowledge(frame, 400, error="payload_too_large: the message is too large"))
            # "inflight": no answer


@pytest.fixture
def host(world):
    mode = Mode(world)
    node = Node(world, "host")
    fake_mesh(node, mode.stub.url)
    node.up("--tcp-port", "0")
    node.wait_connected()
    node.peer = Key().hex
    node.mode = mode
    return node


def transports(node):
    return {"unix": node.new_api(), "tcp": node.tcp_api()}


def post(api, node, identifier, body="hello"):
    return api.post("/v1/send", {"to": node.own_peer, "message": body, "client_message_id": identifier})


def row_status(node, identifier):
    return node.api.get(f"/v1/outbox/{identifier}").json.get("status")


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_every_cell_of_the_accept_table(host, transport):
    node = host
    node.own_peer = node.pubkey  # the one key that is surely known
    api = transports(node)[transport]

    # none
    first = post(api, node, "pending-none")
    assert first.status == 202 and first.json["status"] == "queued" and first.json["duplicate"] is False
    assert first.json["client_message_id"] == "pending-none" and first.json["outbox_id"]

    # inflight: the broker has it and does not answer
    assert post(api, node, "inflight-1").status == 202
    wait_for(lambda: row_status(node, "inflight-1") == "inflight", what="inflight")
    again = post(api, node, "inflight-1")
    assert (again.status, again.json["status"], again.json["duplicate"]) == (202, "inflight", True)
    other = post(api, node, "inflight-1", "another body")
    assert other.status == 409 and other.json["error"] == "idempotency_key_reused"
    assert other.json["conflict"] == "outbox_inflight_fingerprint_mismatch" and len(other.json["daemon_fingerprint_prefix"]) == 16

    # done
    assert post(api, node, "done-1").status == 202
    wait_for(lambda: row_status(node, "done-1") == "done", what="done")
    sends = len(node.mode.sends)
    again = post(api, node, "done-1")
    assert again.status == 200 and again.json["status"] == "done" and again.json["duplicate"] is True
    assert again.json["broker_message_id"] and again.json["history_id"] == 1
    other = post(api, node, "done-1", "another body")
    assert other.status == 409 and other.json["conflict"] == "outbox_done_fingerprint_mismatch" and other.json["broker_message_id"]
    assert len(node.mode.sends) == sends, "a duplicate of a done row must not call the broker"

    # dead
    assert post(api, node, "dead-1").status == 202
    wait_for(lambda: row_status(node, "dead-1") == "dead", what="dead")
    again = post(api, node, "dead-1")
    assert again.status == 409 and again.json["conflict"] == "outbox_dead_fingerprint_match" and "payload_too_large" in again.json["reason"]
    other = post(api, node, "dead-1", "another body")
    assert other.status == 409 and other.json["conflict"] == "outbox_dead_fingerprint_mismatch"

    # aborted
    assert node.api.post("/v1/outbox/drop", {"id": "dead-1"}).status == 200
    again = post(api, node, "dead-1")
    assert again.status == 409 and again.json["conflict"] == "outbox_aborted_fingerprint_match"
    other = post(api, node, "dead-1", "another body")
    assert other.status == 409 and other.json["conflict"] == "outbox_aborted_fingerprint_mismatch"

    # pending: the link is down
    node.mode.stub.close()
    node.wait_connected(False)
    assert post(api, node, "pending-1").status == 202
    assert row_status(node, "pending-1") == "pending"
    again = post(api, node, "pending-1")
    assert (again.status, again.json["status"], again.json["duplicate"]) == (202, "queued", True)
    other = post(api, node, "pending-1", "another body")
    assert other.status == 409 and other.json["conflict"] == "outbox_pending_fingerprint_mismatch"
    # every differing field is another request
    for change in ({"priority": "now"}, {"meta": {"a": 1}}, {"reply_to_id": "x"}):
        answer = api.post("/v1/send", {"to": node.own_peer, "message": "hello", "client_message_id": "pending-1", **change})
        assert answer.status == 409, change
    # and what is the same request is the same: default priority, empty meta, header instead of field
    for same in ({"priority": "next"}, {"meta": {}}):
        answer = api.post("/v1/send", {"to": node.own_peer, "message": "hello", "client_message_id": "pending-1", **same})
        assert answer.status == 202 and answer.json["duplicate"] is True
    answer = api.post("/v1/send", {"to": node.own_peer.upper(), "message": "hello"}, headers={"Idempotency-Key": '"pending-1"'})
    assert answer.status == 202 and answer.json["duplicate"] is True


def test_a_hundred_pairs_racing_for_one_id_make_one_row_each_and_answers_that_agree(host):
    node = host
    node.own_peer = node.pubkey
    node.mode.stub.close()
    node.wait_connected(False)
    apis = [(node.new_api(), node.tcp_api()) for _ in range(10)]
    results = {}
    for round_number in range(10):
        barrier = threading.Barrier(20)

        def racer(pair, side, identifier, body):
            api = apis[pair][side]
            api.get("/v1/version")
            barrier.wait()
            results.setdefault(identifier, {})[side] = post(api, node, identifier, body)

        threads = []
        for pair in range(10):
            identifier = f"race-{round_number}-{pair}"
            different = (round_number + pair) % 2
            for side in (0, 1):
                body = f"body {side}" if different else "body"
                threads.append(threading.Thread(target=racer, args=(pair, side, identifier, body)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 100
    for identifier, pair in results.items():
        statuses = sorted(answer.status for answer in pair.values())
        round_number, number = map(int, identifier.split("-")[1:])
        if (round_number + number) % 2:
            assert statuses == [202, 409], (identifier, pair)
        else:
            assert statuses == [202, 202], (identifier, pair)
            assert sorted(answer.json["duplicate"] for answer in pair.values()) == [False, True]
            assert len({answer.json["outbox_id"] for answer in pair.values()}) == 1
    rows = node.api.get("/v1/outbox?limit=1000").json["items" if "items" in node.api.get("/v1/outbox").json else "rows"]
    assert len([row for row in rows if row["client_message_id"].startswith("race-")]) == 100


def test_nothing_that_fails_to_validate_takes_the_id(host):
    node = host
    node.own_peer = node.pubkey
    bad = [
        ({"message": ""}, 400, None), ({"priority": "soon"}, 400, "invalid_request"), ({"meta": []}, 400, "invalid_request"),
        ({"meta": {"x": "y" * 17000}}, 400, None), ({"to": "nobody-at-all"}, 404, "destination_not_found"), ({"mesh": "nowhere"}, 404, None),
        ({"message": "x" * 65537}, 413, "payload_too_large"), ({"to": "#topic"}, 501, "not_implemented"), ({"to": "@group"}, 501, "not_implemented"),
        ({"to": "*"}, 501, "not_implemented"), ({"message": 5}, 400, "invalid_request"), ({"to": ""}, 400, None),
    ]
    for change, status, code in bad:
        request = {"to": node.own_peer, "message": "hello", "client_message_id": "same-id", **change}
        answer = node.api.post("/v1/send", request)
        assert answer.status in ((status,) if status != 400 else (400, 413)), (change, answer)
        assert answer.json["error"] and answer.json["detail"]
        if code:
            assert answer.json["error"] == code, (change, answer)
    for identifier in ("", "has space", "x" * 129, "é", "tab\t"):
        answer = node.api.post("/v1/send", {"to": node.own_peer, "message": "hello", "client_message_id": identifier})
        assert answer.status == 400 and answer.json["error"] == "invalid_client_message_id", identifier
    assert node.api.get("/v1/outbox/same-id").status == 404
    assert post(node.api, node, "same-id").json["duplicate"] is False


def test_an_id_that_has_a_row_is_answered_from_the_table_whatever_the_request_looks_like_now(host):
    node = host
    node.own_peer = node.pubkey
    assert post(node.api, node, "done-here").status == 202
    wait_for(lambda: row_status(node, "done-here") == "done")
    for change in ({"to": "nobody-at-all"}, {"message": "x" * 70000}, {"to": Key().hex}, {"to": "#topic"}):
        request = {"to": node.own_peer, "message": "hello", "client_message_id": "done-here", **change}
        answer = node.api.post("/v1/send", request)
        assert answer.status == 409 and answer.json["conflict"] == "outbox_done_fingerprint_mismatch", (change, answer)
