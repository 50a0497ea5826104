"""60-hooks, "Capability tokens"; 45-trust, "Against the local side": one run's token, its scopes, and the socket where only it counts."""

import json
import os
import re
import stat
import time

import pytest

from harness import Api, UnixConnection, wait_for
from hook_world import hook, ledger, wait_ledger
from test_hook_events import executed, mesh, up  # noqa: F401

SEND = "call('POST', '/v1/send', {'to': event['sender_pubkey'], 'message': %r, 'reply_to_id': event['broker_message_id'], 'client_message_id': %r})"


def scoped(*scopes, more=""):
    return f"capability_token_scope = {json.dumps(list(scopes))}\n{more}"


def answers(node, count):
    return [(status, body if status < 300 else body["error"]) for status, body in wait_ledger(node, count)]


def test_reply_event_answers_the_event_once(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", f"""\
ledger({SEND % ('first', 'r1')})
ledger({SEND % ('first', 'r1')})
ledger({SEND % ('second', 'r2')})
ledger(call('POST', '/v1/send', {{'to': event['sender_pubkey'], 'message': 'no reply', 'client_message_id': 'r1'}}))
print(json.dumps({{'reply': 'and a third'}}))
""", toml=scoped("reply:event", more="allow_reply = true"))
    up(alice, bob)
    stream = bob.events("?types=hook_executed")
    alice.send("bob", "question")
    got = answers(bob, 4)
    assert got[0][0] == 202 and got[1][0] in (200, 202) and got[1][1]["duplicate"] is True, "its repeat is the same answer"
    assert got[2] == (403, "capability_scope") and got[3] == (403, "capability_scope")
    data = executed(stream, "on-dm")["data"]
    assert data["replied"] is True and data["capability_calls"] == 4
    bob.send("alice", "by hand")
    items = alice.wait_inbox(2)
    assert [item["body"] for item in items] == ["first", "by hand"]
    assert items[0]["meta"] == {"claudemesh.depth": 1} and items[0]["reply_to_id"]


def test_a_reply_that_was_refused_leaves_the_one_that_may_be_made(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", f"""\
ledger(call('POST', '/v1/send', {{'to': event['sender_pubkey'], 'message': 'x' * 80000, 'reply_to_id': event['broker_message_id']}}))
ledger({SEND % ('short', 'r1')})
""", toml=scoped("reply:event"))
    up(alice, bob)
    alice.send("bob", "question")
    assert [status for status, _ in answers(bob, 2)] == [413, 202]
    assert [item["body"] for item in alice.wait_inbox(1)] == ["short"]


def test_dm_send_sender_sends_to_the_sender_and_to_nobody_else(mesh, world):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
for to in (event['sender_pubkey'], event['sender_pubkey'][:12], 'alice', 'bob', 'nobody', '#ops', '@all', '*', event['sender_pubkey']):
    ledger(call('POST', '/v1/send', {'to': to, 'message': 'to ' + to}))
ledger(call('POST', '/v1/send', {'to': 'alice', 'message': 'x', 'mesh': 'other'}))
ledger(call('POST', '/v1/send', {'to': 'alice', 'message': ''}))
ledger(call('POST', '/v1/send', {'to': 'alice', 'message': 'x', 'meta': {'claudemesh.depth': 0}}))
""", toml=scoped("dm:send:sender"))
    up(alice, bob)
    alice.send("bob", "go")
    got = answers(bob, 12)
    assert [status for status, _ in got] == [202, 202, 202, 403, 403, 403, 403, 403, 202, 403, 400, 400]
    assert all(error == "capability_scope" for status, error in got if status == 403), "and it is told nothing else"
    assert len(alice.wait_inbox(4)) == 4


def test_a_capability_reads_nothing_and_changes_nothing(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
for method, path, body in [('GET', p, None) for p in ('/v1/version', '/v1/health', '/v1/inbox', '/v1/inbox/search?q=x', '/v1/events', '/v1/peers',
        '/v1/members', '/v1/metrics', '/v1/outbox', '/v1/outbox/x', '/v1/profile', '/v1/prove', '/v1/nowhere', '/v1/send')] + [
        ('POST', p, {'id': 'x', 'ids': ['x'], 'all': True, 'topic': 'ops', 'message': 'x'}) for p in ('/v1/inbox/seen', '/v1/outbox/drop',
        '/v1/outbox/requeue', '/v1/profile', '/v1/heartbeat', '/v1/topic/create', '/v1/topic/post', '/v1/group/join', '/v1/file/share', '/v1/verify')]:
    ledger([path] + call(method, path, body))
""", toml=scoped("reply:event", "dm:send:sender", "topic:ops:post"))
    up(alice, bob)
    alice.send("bob", "go")
    for path, status, body in wait_ledger(bob, 24):
        assert (status, body["error"]) == (403, "capability_scope"), (path, status, body)


def test_without_the_token_the_runs_socket_serves_nobody(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", f"""\
bearer = open({str(bob.path('local-token'))!r}).read().strip() if os.access({str(bob.path('local-token'))!r}, os.R_OK) else 'x' * 43
for token, scheme in ((None, ''), ('', 'Capability'), ('x' * 43, 'Capability'), (os.environ['CLAUDEMESH_CAPABILITY_TOKEN'][:-1], 'Capability'),
                      (os.environ['CLAUDEMESH_CAPABILITY_TOKEN'], 'Bearer'), (bearer, 'Bearer')):
    for path in ('/v1/send', '/v1/prove', '/v1/health'):
        ledger(call('POST' if path == '/v1/send' else 'GET', path, {{'to': event['sender_pubkey'], 'message': 'x'}}, token=token, scheme=scheme))
sock = os.environ['CLAUDEMESH_DAEMON_SOCK']
ledger([oct(os.stat(sock).st_mode & 0o777), oct(os.stat(os.path.dirname(sock)).st_mode & 0o777), len(sock)])
""", toml=scoped("dm:send:sender"))
    up(alice, bob)
    alice.send("bob", "go")
    lines = wait_ledger(bob, 19)
    assert {(status, body["error"]) for status, body in lines[:18]} <= {(401, "missing_token"), (401, "invalid_token")}
    assert lines[18][:2] == ["0o600", "0o700"] and lines[18][2] < 108
    assert len(alice.inbox()) == 0


def test_a_hook_without_scopes_has_no_token_and_a_socket_that_refuses(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", "ledger(['CLAUDEMESH_CAPABILITY_TOKEN' in os.environ] + call('GET', '/v1/health'))\n")
    up(alice, bob)
    alice.send("bob", "go")
    ((has_token, status, body),) = wait_ledger(bob, 1)
    assert (has_token, status, body["error"]) == (False, 401, "missing_token")


def test_a_capability_has_its_own_rights_on_every_transport_and_ends_with_its_run(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
ledger([os.environ['CLAUDEMESH_CAPABILITY_TOKEN'], os.environ['CLAUDEMESH_DAEMON_SOCK'], event['sender_pubkey']])
while len(open(LEDGER).readlines()) < int(event['body']):
    time.sleep(0.02)
""".replace("LEDGER", repr(str(bob.world.directory / "bob.ledger"))), toml=scoped("dm:send:sender"))
    alice.up()
    bob.up("--tcp-port", "0")
    alice.wait_connected()
    bob.wait_connected()
    alice.send("bob", "3")  # each waits until the third line is written
    alice.send("bob", "3")
    (one, socket_one, sender), (two, socket_two, _) = wait_ledger(bob, 2)
    assert one != two and re.fullmatch(r"[A-Za-z0-9_-]{43}", one) and socket_one != socket_two
    tcp = bob.tcp_api()
    for api in (bob.api, tcp):
        headers = {"Authorization": "Capability " + one}
        assert api.get("/v1/inbox", headers=headers).json["error"] == "capability_scope", "not the user's rights"
        assert api.get("/v1/inbox", headers={"Authorization": "Capability " + "A" * 43}).json["error"] == "invalid_token"
        assert api.get("/v1/inbox", headers={"Authorization": "Capability"}).json["error"] == "invalid_token"
        assert api.post("/v1/send", {"to": sender, "message": "x"}, headers=headers).status == 202
        assert api.post("/v1/send", {"to": "bob", "message": "x"}, headers=headers).json["error"] == "capability_scope"
    own = Api(lambda: UnixConnection(socket_one))
    assert own.post("/v1/send", {"to": sender, "message": "x"}, headers={"Authorization": "capability " + one}).status == 202
    assert own.post("/v1/send", {"to": sender, "message": "x"}, headers={"Authorization": "Capability " + two}).json["error"] == "invalid_token", "another run's"
    own.close()
    with open(bob.world.directory / "bob.ledger", "a") as file:
        file.write('"go on"\n')
    wait_for(lambda: not os.path.exists(socket_one) and not os.path.exists(os.path.dirname(socket_two)), 30, "the runs' directories to go")
    for api in (bob.api, tcp):
        answer = api.post("/v1/send", {"to": sender, "message": "x"}, headers={"Authorization": "Capability " + one})
        assert (answer.status, answer.json["error"]) == (401, "invalid_token"), "gone with its run"
    assert one not in bob.log.read_text() and two not in bob.log.read_text()
    assert len(alice.wait_inbox(3)) == 3


def test_topic_scopes_hold_only_for_events_of_that_topic(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
ledger(call('POST', '/v1/topic/post', {'topic': 'ops', 'message': 'x'}))
ledger(call('POST', '/v1/send', {'to': '#ops', 'message': 'x'}))
""", toml=scoped("topic:ops:post"))
    up(alice, bob)
    alice.send("bob", "a direct message")
    assert answers(bob, 2) == [(403, "capability_scope")] * 2


def test_eight_runs_have_eight_sockets_and_other_clients_go_on(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", "ledger([os.environ['CLAUDEMESH_DAEMON_SOCK'], call('GET', '/v1/health')[0]])\ntime.sleep(3)\n", toml=scoped("reply:event"))
    up(alice, bob)
    for number in range(8):
        alice.send("bob", f"m {number}")
    sockets = wait_ledger(bob, 8)
    assert len({path for path, _ in sockets}) == 8 and {status for _, status in sockets} == {403}
    assert bob.health()["ok"] and bob.new_api().get("/v1/version").status == 200
    wait_for(lambda: not any(os.path.exists(os.path.dirname(path)) for path, _ in sockets), 30)


def test_a_hook_that_opens_many_connections_takes_none_from_the_user(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
opened = []
for _ in range(200):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ['CLAUDEMESH_DAEMON_SOCK'])
    connection.settimeout(5)
    try:
        connection.sendall(b'GET /v1/health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')
        opened.append((connection, connection.recv(12)))
    except OSError:
        pass
ledger(sum(answer.startswith(b'HTTP/1.1 401') for _, answer in opened))
time.sleep(1)
""")
    up(alice, bob)
    alice.send("bob", "go")
    assert wait_ledger(bob, 1) == [16]
    assert bob.new_api().get("/v1/version").status == 200


@pytest.mark.parametrize("toml", ["", 'network_policy = "allow"', 'sandbox = "bubblewrap"'])
def test_the_runs_socket_answers_in_every_sandbox(mesh, toml):
    """The peer's credentials are looked at as the daemon sees them, whatever the sandbox maps them to."""
    _broker, alice, bob = mesh
    hook(bob, "on-dm", f"print(json.dumps({{'reply': json.dumps({SEND % ('from inside', 'r1')}[0])}}))\n", toml=scoped("dm:send:sender", more="allow_reply = true\n" + toml))
    up(alice, bob)
    alice.send("bob", "go")
    assert sorted(item["body"] for item in alice.wait_inbox(2)) == ["202", "from inside"]


def test_requests_of_hooks_count_among_those_in_flight(mesh):
    _broker, alice, bob = mesh
    bob.settings("[hooks]\nenabled = true\n[ipc]\nmax_in_flight = 1\n")
    hook(bob, "pre-send", "time.sleep(2)\nprint(json.dumps({'action': 'allow'}))\n")
    hook(bob, "on-dm", f"time.sleep(0.5)\nledger({SEND % ('x', 'r1')})\n", toml=scoped("reply:event"))
    up(alice, bob)
    alice.send("bob", "go")
    bob.wait_inbox(1)
    import threading
    waiter = threading.Thread(target=lambda: bob.new_api().post("/v1/send", {"to": "alice", "message": "takes two seconds"}))
    waiter.start()
    ((status, body),) = wait_ledger(bob, 1)
    waiter.join()
    assert (status, body["error"]) == (429, "daemon_busy")
