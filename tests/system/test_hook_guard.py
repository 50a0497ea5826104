"""60-hooks, pre-send; 30-delivery, "Accepting a send", step 2: it guards new rows only, may stop or change them, and whatever goes wrong with it stores nothing."""

import http.client
import json
import signal
import socket
import threading
import time

import pytest

from harness import UnixConnection, wait_for
from hook_world import hook, ledger, wait_ledger
from test_hook_events import mesh, rows, up  # noqa: F401


def verdict(**fields):
    return f"print(json.dumps({fields!r}))\n"


def stored(node):
    import contextlib
    import sqlite3
    with contextlib.closing(sqlite3.connect(f"file:{node.path('outbox.db')}?mode=ro", uri=True, timeout=10)) as database:
        return [row[0] for row in database.execute("SELECT client_message_id FROM outbox ORDER BY seq")]


def test_pre_send_sees_the_message_and_lets_it_pass(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "ledger(event)\n" + verdict(action="allow"))
    up(alice, bob)
    answer = alice.send("bob", "hello", meta={"a": 1}, client_message_id="one", priority="now", reply_to_id="01ABC")
    assert answer.status == 202 and answer.json["status"] == "queued" and answer.json["duplicate"] is False
    ((event),) = ledger(alice)
    assert event["event"] == "pre-send" and event["event_id"] and event["mesh"] == "acme"
    assert {name: event[name] for name in ("client_message_id", "kind", "to", "to_name", "body", "meta", "priority", "reply_to_id")} == {
        "client_message_id": "one", "kind": "dm", "to": bob.pubkey, "to_name": "bob", "body": "hello", "meta": {"a": 1}, "priority": "now",
        "reply_to_id": "01ABC"}
    assert bob.wait_inbox(1)[0]["body"] == "hello"


def test_what_is_denied_says_why_and_its_id_stays_free(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "print(json.dumps({'action': 'allow'} if 'please' in event['body'] else {'action': 'deny', 'reason': 'say please'}))\n")
    up(alice, bob)
    for identifier in ({"client_message_id": "k"}, {}):
        answer = alice.send("bob", "now!", **identifier)
        assert answer.status == 403 and answer.json["error"] == "denied_by_hook" and answer.json["reason"] == "say please", answer
        assert "say please" in answer.json["detail"]
    assert stored(alice) == []
    answer = alice.send("bob", "now, please", client_message_id="k")
    assert answer.status == 202 and answer.json["duplicate"] is False
    assert [item["body"] for item in bob.wait_inbox(1)] == ["now, please"]
    assert 'outcome="refused"' in alice.api.get("/v1/metrics").body.decode()


def test_what_is_replaced_is_stored_and_the_request_as_made_is_its_duplicate(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "ledger(event['body'])\nprint(json.dumps({'action': 'replace', 'message': event['body'].upper(), 'meta': {'checked': True}}))\n")
    up(alice, bob)
    assert alice.send("bob", "quiet", client_message_id="r", meta={"secret": 1}).status == 202
    (item,) = bob.wait_inbox(1)
    assert item["body"] == "QUIET" and item["meta"] == {"checked": True}
    wait_for(lambda: alice.api.get("/v1/outbox/r").json["status"] == "done")
    again = alice.send("bob", "quiet", client_message_id="r", meta={"secret": 1})
    assert again.status == 200 and again.json["duplicate"] is True
    other = alice.send("bob", "QUIET", client_message_id="r", meta={"checked": True})
    assert other.status == 409 and other.json["conflict"] == "outbox_done_fingerprint_mismatch", "what the hook made of it is another request"
    assert ledger(alice) == ["quiet"], "an id that has a row is answered without the hook"
    assert len(bob.inbox()) == 1


BAD = {
    "fails": "sys.exit(1)\n", "hangs": "time.sleep(60)\n", "garbage": "print('allow')\n", "nothing": "pass\n", "other": verdict(action="perhaps"),
    "typed": verdict(action="allow", reason=7), "empty": verdict(action="replace", message=""), "by nothing": verdict(action="replace"),
    "meta": verdict(action="replace", meta=[1]), "own": verdict(action="replace", meta={"claudemesh.depth": 0}),
    "huge": "print(json.dumps({'action': 'replace', 'message': 'x' * 70000}))\n", "killed": "os.kill(os.getpid(), 9)\n",
    "bytes": "sys.stdout.buffer.write(b'{\"action\":\"replace\",\"message\":\"\\xff\"}')\n",
    "long meta": "print(json.dumps({'action': 'replace', 'meta': {'a': 'x' * 16384}}))\n",
    "flood": "sys.stdout.write('x' * 10000000)\n",
}


@pytest.mark.parametrize("how", BAD)
def test_a_pre_send_that_goes_wrong_denies(mesh, how):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", BAD[how], toml="timeout_s = 2\noutput_size_limit = 200000")
    alice.up()
    started = time.monotonic()
    answer = alice.send(bob.pubkey, "x", client_message_id="k")
    assert answer.status == 403 and answer.json["error"] == "denied_by_hook" and answer.json["reason"], answer
    assert how != "hangs" or time.monotonic() - started < 20
    assert stored(alice) == []


def test_a_pre_send_that_cannot_start_denies(mesh):
    _broker, alice, bob = mesh
    path = hook(alice, "pre-send", verdict(action="allow"))
    alice.up()
    assert alice.send(bob.pubkey, "x").status == 202
    for spoil in (lambda: path.chmod(0o777), lambda: path.chmod(0o600), path.unlink):
        spoil()
        answer = alice.send(bob.pubkey, "x")
        assert answer.status == 403 and answer.json["error"] == "denied_by_hook"
    (alice.config / "daemon" / "hooks" / "hooks.toml").write_text("[pre-send]\nenabled = true\ntimeout_s = \"soon\"\n")
    alice.process.send_signal(signal.SIGHUP)
    wait_for(lambda: '"reloaded"' in alice.log.read_text())
    assert alice.send(bob.pubkey, "x").json["error"] == "denied_by_hook", "a section that is wrong guards nothing, and so lets nothing pass"


def test_refusals_that_need_no_hook_come_first_and_a_given_id_is_looked_up_before_it_runs(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "ledger(event['client_message_id'])\n" + verdict(action="allow"))
    up(alice, bob)
    assert alice.send("nobody", "x").status == 404
    assert alice.send("bob", "x" * 100000).status == 413
    assert alice.send("bob", "").status == 400
    assert alice.send("bob", "one", client_message_id="k").status == 202
    assert alice.send("bob", "two", client_message_id="k").status == 409
    assert alice.send("nobody", "one", client_message_id="k").status == 409
    assert ledger(alice) == ["k"]


def test_a_slow_pre_send_blocks_nobody_else_and_the_caller_may_leave(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "ledger(event['body'])\ntime.sleep(2 if event['body'] == 'slow' else 0)\n" + verdict(action="allow"))
    up(alice, bob)
    body = json.dumps({"to": "bob", "message": "slow", "client_message_id": "gone"}).encode()
    connection = UnixConnection(alice.socket_path)
    connection.request("POST", "/v1/send", body, {"Content-Type": "application/json"})
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(alice.new_api().post("/v1/send", {"to": "bob", "message": "slow", "client_message_id": "stays"})))
    waiter.start()
    wait_ledger(alice, 2)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    started = time.monotonic()
    assert alice.health()["ok"]
    bob.send("alice", "meanwhile")
    alice.wait_inbox(1)
    assert alice.send("bob", "quick", client_message_id="quick").status == 202
    assert time.monotonic() - started < 10
    waiter.join()
    assert answers[0].status == 202
    bob.wait_inbox(2)
    time.sleep(0.3)
    assert sorted(stored(alice)) == ["quick", "stays"], "nothing is sent for somebody who left"
    assert alice.send("bob", "slow", client_message_id="gone").status == 202, "the id is free"


def test_two_requests_with_one_id_make_one_row_whatever_the_hook_says(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "time.sleep(0.3)\nprint(json.dumps({'action': 'replace', 'message': event['event_id']}))\n")
    up(alice, bob)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(alice.new_api().post("/v1/send", {"to": "bob", "message": "x", "client_message_id": "k"})))
               for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {200, 202} and sum(not answer.json["duplicate"] for answer in answers) == 1
    assert len(bob.wait_inbox(1)) == 1 and stored(alice) == ["k"]


def test_a_daemon_that_stops_while_the_hook_looks_stores_nothing(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "ledger(1)\ntime.sleep(60)\n" + verdict(action="allow"), toml="timeout_s = 60")
    alice.up()
    answers = []

    def send():
        try:
            answers.append(alice.new_api().post("/v1/send", {"to": bob.pubkey, "message": "x", "client_message_id": "k"}).status)
        except (OSError, http.client.HTTPException):
            answers.append(None)

    waiter = threading.Thread(target=send)
    waiter.start()
    wait_ledger(alice, 1)
    started = time.monotonic()
    alice.down()
    waiter.join()
    assert time.monotonic() - started < 14 and answers[0] in (403, 503, None) and stored(alice) == []


def test_more_requests_than_places_are_all_answered_in_the_end(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", "time.sleep(0.1)\n" + verdict(action="allow"))
    hook(alice, "on-dm", "ledger(call('POST', '/v1/send', {'to': event['sender_pubkey'], 'message': 'auto'}))\n",
         toml='capability_token_scope = ["dm:send:sender"]')
    up(alice, bob)
    for number in range(20):  # more than places: each sends, and waits for pre-send itself
        bob.send("alice", f"m {number}")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(alice.new_api().post("/v1/send", {"to": "bob", "message": "x"}).status)) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202] * 24
    assert [status for status, _ in wait_ledger(alice, 20)] == [202] * 20


def test_a_reply_that_a_hook_printed_is_guarded_too(mesh):
    _broker, alice, bob = mesh
    hook(bob, "pre-send", "print(json.dumps({'action': 'deny', 'reason': 'no robots'} if (event['meta'] or {}).get('claudemesh.depth') else {'action': 'allow'}))\n")
    hook(bob, "on-dm", "print(json.dumps({'reply': 'auto'}))\n", toml="allow_reply = true")
    up(alice, bob)
    alice.send("bob", "hello")
    wait_for(lambda: '"denied_by_hook"' in bob.log.read_text())
    assert stored(bob) == []
    bob.send("alice", "by hand")
    assert [item["body"] for item in alice.wait_inbox(1)] == ["by hand"]


def test_a_requeue_with_another_content_is_guarded_and_one_without_is_not(mesh):
    broker, alice, bob = mesh
    hook(alice, "pre-send", "ledger(event['body'])\nprint(json.dumps({'action': 'deny' if 'bad' in event['body'] else 'allow', 'reason': 'bad'}))\n")
    up(alice, bob)
    broker.kill()
    alice.wait_connected(False)
    assert alice.send("bob", "first", client_message_id="q").status == 202
    answer = alice.api.post("/v1/outbox/requeue", {"id": "q", "new_client_message_id": "q2", "patch": {"message": "bad"}})
    assert answer.status == 403 and answer.json["error"] == "denied_by_hook" and stored(alice) == ["q"]
    assert alice.api.get("/v1/outbox/q").json["status"] == "pending"
    assert alice.api.post("/v1/outbox/requeue", {"id": "q", "new_client_message_id": "q2", "patch": {"message": "good"}}).status == 200
    assert alice.api.post("/v1/outbox/requeue", {"id": "q2", "new_client_message_id": "q3"}).status == 200
    assert ledger(alice) == ["first", "bad", "good"]
    broker.start()
    assert [item["body"] for item in bob.wait_inbox(1)] == ["good"]


def test_the_cold_path_is_refused_where_pre_send_guards(mesh):
    _broker, alice, bob = mesh
    hook(alice, "pre-send", verdict(action="allow"))
    answer = alice.cli("send", "bob", "past the guard", "--cold", check=None)
    assert answer.returncode != 0 and b"pre-send" in answer.stderr and b"daemon up" in answer.stderr, answer
    (alice.config / "daemon" / "hooks" / "hooks.toml").write_text("[pre-send]\nenabled = false\n")
    bob.up()
    bob.wait_connected()
    assert alice.cli("send", "bob", "nobody guards", "--cold").returncode == 0
    assert [item["body"] for item in bob.wait_inbox(1)] == ["nobody guards"]
