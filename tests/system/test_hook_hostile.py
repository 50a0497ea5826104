"""60-hooks; 45-trust, "Against the local side": a hook that wants what is not its own, and callers that load pre-send."""

import json
import pathlib
import socket
import tempfile
import threading

from harness import UnixConnection, wait_for
from hook_world import RECORD_ID, hook, ledger, shell_hook, wait_ledger
from test_hook_capabilities import scoped
from test_hook_guard import stored
from test_hook_events import mesh, up  # noqa: F401

ALLOW = "print(json.dumps({'action': 'allow'}))\n"


def test_hooks_that_keep_requests_open_leave_the_api_to_others(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
token, opened = os.environ['CLAUDEMESH_CAPABILITY_TOKEN'], []
for _ in range(16):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ['CLAUDEMESH_DAEMON_SOCK'])
    connection.sendall(('POST /v1/send HTTP/1.1\\r\\nHost: localhost\\r\\nAuthorization: Capability %s\\r\\nContent-Length: 100\\r\\n\\r\\n' % token).encode())
    opened.append(connection)
ledger('open')
time.sleep(5)
""", toml=scoped("reply:event"))
    up(alice, bob)
    for number in range(6):
        alice.send("bob", f"m {number}")
    wait_ledger(bob, 6)
    assert bob.new_api().get("/v1/version").status == 200, "six runs hold 96 requests, and the daemon takes 64"


def test_a_hook_that_guesses_tokens_does_not_fill_the_log(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
api = Api()
for number in range(300):
    api.request('GET', '/v1/health', headers={'Authorization': 'Capability ' + ('%043d' % number)})
    api.getresponse().read()
    api.request('GET', '/v1/inbox', headers={'Authorization': 'Capability ' + os.environ['CLAUDEMESH_CAPABILITY_TOKEN']})
    api.getresponse().read()
ledger('done')
""", toml=scoped("reply:event"))
    up(alice, bob)
    alice.send("bob", "go")
    wait_ledger(bob, 1)
    wait_for(lambda: '"hook_run"' in bob.log.read_text())
    lines = [line for line in bob.log.read_text().splitlines() if '"invalid_token"' in line or '"capability_scope"' in line]
    assert 1 <= len(lines) <= 20, len(lines)


def test_questions_of_callers_who_left_keep_no_place_from_those_who_wait(mesh):
    _broker, alice, bob = mesh
    alice.settings("[hooks]\nenabled = true\nconcurrency = 1\n")
    hook(alice, "pre-send", "ledger(event['body'])\ntime.sleep(1)\n" + ALLOW, toml="timeout_s = 6")
    alice.up()
    connections = []
    for number in range(20):
        body = json.dumps({"to": bob.pubkey, "message": f"left {number}"}).encode()
        connection = UnixConnection(alice.socket_path)
        connection.request("POST", "/v1/send", body, {"Content-Type": "application/json"})
        connections.append(connection)
    wait_ledger(alice, 1)
    for connection in connections:
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
    assert alice.send(bob.pubkey, "stays").status == 202
    assert len(ledger(alice)) <= 3, "what nobody waits for is not asked"


def test_a_capability_learns_nothing_of_rows_that_are_not_its_events(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", """\
ledger(call('POST', '/v1/send', {'to': event['sender_pubkey'], 'message': 'guess', 'client_message_id': 'order-1'}))
""", toml=scoped("dm:send:sender"))
    up(alice, bob)
    assert bob.send("bob", "to myself", client_message_id="order-1").status == 202
    alice.send("bob", "go")
    ((status, body),) = wait_ledger(bob, 1)
    assert status == 409 and not {"outbox_id", "broker_message_id", "daemon_fingerprint_prefix", "reason"} & set(body), body


def test_a_requeue_is_refused_when_its_mesh_was_left_while_the_hook_looked(mesh):
    broker, alice, bob = mesh
    hook(bob, "pre-send", "ledger(event['body'])\ntime.sleep(4 if event['body'] == 'slow' else 0)\n" + ALLOW)
    up(alice, bob)
    broker.kill()
    bob.wait_connected(False)
    assert bob.send(alice.pubkey, "first", client_message_id="q").status == 202
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(
        bob.new_api().post("/v1/outbox/requeue", {"id": "q", "patch": {"message": "slow"}, "new_client_message_id": "q2"})))
    waiter.start()
    wait_ledger(bob, 2)
    bob.cli("mesh", "leave", "acme", "--force", "--yes")
    waiter.join()
    assert answers[0].status == 404 and answers[0].json["error"] == "mesh_not_found", answers
    assert "q2" not in stored(bob)


def test_hooks_run_again_when_there_is_room_for_a_runs_directory_again(mesh):
    _broker, alice, bob = mesh
    runs = pathlib.Path(tempfile.mkdtemp(dir=bob.world.directory))
    bob.more_environment["TMPDIR"] = str(runs)
    shell_hook(bob, "on-dm", RECORD_ID)
    up(alice, bob)
    alice.send("bob", "one")
    wait_ledger(bob, 1)
    wait_for(lambda: not list(runs.iterdir()))
    runs.chmod(0o500)
    alice.send("bob", "two")
    wait_for(lambda: '"hook_refused"' in bob.log.read_text())
    alice.send("bob", "three")
    bob.wait_inbox(3)
    runs.chmod(0o700)
    assert sorted(wait_ledger(bob, 3)) == sorted(item["id"] for item in bob.wait_inbox(3)), "each once, also those that came meanwhile"
