"""60-hooks, "Which, and when" and "The contract": what starts a hook, once; what its answer does. 45-trust: verified messages, the depth of automatic replies."""

import base64
import contextlib
import json
import os
import random
import signal
import sqlite3
import time

import pytest

from harness import Broker, Node, WireClient, create_mesh, join, wait_for
from hook_world import hook, ledger, wait_ledger
from test_wire_daemon import Far

RECORD = "ledger([event['event'], event['event_id'], event.get('body')])\n"


@pytest.fixture
def mesh(world):
    """A broker, alice and bob; not started: bob gets his hooks first."""
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.settings("[hooks]\nenabled = true\n")
    return broker, alice, bob


def up(*nodes):
    for node in nodes:
        node.up()
    for node in nodes:
        node.wait_connected()


def send_sealed(client, to_hex, identifier, body, **more):
    nonce, ciphertext = client.seal(to_hex, body, identifier, **more)
    ack = client.send(to_hex, identifier, ciphertext, nonce=base64.b64encode(nonce).decode())
    assert ack["status"] in (200, 201), ack


def rows(node, sql):
    with contextlib.closing(sqlite3.connect(f"file:{node.path('inbox.db')}?mode=ro", uri=True, timeout=10)) as database:
        return database.execute(sql).fetchall()


def executed(stream, hook_name, seconds=60):
    return stream.wait(lambda e: e["event"] == "hook_executed" and e["data"]["hook"] == hook_name, seconds, f"{hook_name} to be executed")


# ---- which, and when ---------------------------------------------------------------------------------------------------------


def test_a_direct_message_starts_on_message_and_on_dm_with_its_row_on_stdin(mesh):
    _broker, alice, bob = mesh
    for name in ("on-message", "on-dm", "on-mention", "on-file-share"):
        hook(bob, name, "ledger(event)\n")
    up(alice, bob)
    answer = alice.send("bob", "hello", meta={"job": "nightly"})
    events = wait_ledger(bob, 2)
    (item,) = bob.inbox()
    assert {event["event"] for event in events} == {"on-message", "on-dm"}
    for event in events:
        assert event["event_id"] == item["id"] and event["mesh"] == "acme" and event["ts"] and event["depth"] == 0
        assert {name: event[name] for name in item} == item, "the row as GET /v1/inbox gives it"
        assert event["client_message_id"] == answer.json["client_message_id"] and event["meta"] == {"job": "nightly"}
    time.sleep(0.2)
    assert len(ledger(bob)) == 2


def test_mentions_by_name_or_key_and_files_have_hooks_of_their_own(mesh, world):
    broker, alice, bob = mesh
    carol = Node(world, "carol")
    join(alice, carol)
    for name in ("on-mention", "on-file-share"):
        hook(bob, name, "ledger([event['event'], event['body']])\n")
    up(alice, bob)
    client = WireClient(broker, carol.mesh())
    stream = bob.events("?types=file_shared")
    file = {"id": "f1", "name": "plan.pdf", "size": 12, "sha256": "ab" * 32, "key": "secret"}
    for number, mentions in enumerate((["@Bob"], [bob.pubkey.upper()], ["bobby", "alice", "@", ""], None)):
        send_sealed(client, bob.pubkey, f"mention-{number}", f"mention {number}", mentions=mentions)
    for number, said in enumerate((file, {**file, "sha256": "x"}, {**file, "size": -1}, "plan.pdf", {})):
        send_sealed(client, bob.pubkey, f"file-{number}", f"file {number}", meta={"claudemesh.file": said})
    bob.wait_inbox(9)
    shared = stream.wait(lambda e: e["event"] == "file_shared")["data"]
    assert shared["file"] == {"id": "f1", "name": "plan.pdf", "size": 12, "sha256": "ab" * 32} and shared["sender_name"] == "carol"
    wait_ledger(bob, 3)
    assert sorted(ledger(bob)) == [["on-file-share", "file 0"], ["on-mention", "mention 0"], ["on-mention", "mention 1"]]
    client.close()


def test_own_echoes_and_messages_that_are_stored_already_start_nothing(mesh):
    broker, alice, bob = mesh
    hook(alice, "on-message", RECORD)
    up(alice, bob)
    assert alice.send(alice.pubkey, "to myself").status == 202
    alice.wait_inbox(1)
    bob.send("alice", "the last")
    assert [line[2] for line in wait_ledger(alice, 1)] == ["the last"]
    client = WireClient(broker, bob.mesh(), session="again")
    alice.wait_inbox(2)
    client.close()
    assert [line[2] for line in ledger(alice)] == ["the last"]


def test_links_lost_and_found_and_the_start_are_events(mesh):
    broker, alice, bob = mesh
    for name in ("on-disconnect", "on-reconnect", "on-startup"):
        hook(bob, name, "ledger([event['event'], event['mesh'], event.get('status'), event.get('meshes')])\n")
    up(alice, bob)
    assert wait_ledger(bob, 1) == [["on-startup", None, None, ["acme"]]]
    broker.kill()
    wait_ledger(bob, 2)
    broker.start()
    bob.wait_connected()
    events = wait_ledger(bob, 3)
    assert events[1][:2] == ["on-disconnect", "acme"] and events[1][2] != "open"
    assert events[2][:3] == ["on-reconnect", "acme", "open"]
    bob.down()
    bob.up()
    bob.wait_connected()
    wait_ledger(bob, 4)
    bob.down()
    assert [event[0] for event in ledger(bob)] == ["on-startup", "on-disconnect", "on-reconnect", "on-startup"], "neither a first connection nor a stop is one"


@pytest.mark.parametrize("toml, started", [
    ("", [True]), ("allow_unverified = true", [False, True]), ("accept_legacy = true", ["legacy", True]),
    ("allow_unverified = true\naccept_legacy = true", ["legacy", False, True])])
def test_only_verified_messages_start_hooks_unless_the_hook_says_otherwise(world, toml, started):
    far = Far(world, settings="[hooks]\nenabled = true\n")
    far.node.down()
    hook(far.node, "on-dm", "ledger(event['verified'])\n", toml=toml)
    far.node.up()
    far.node.wait_connected()
    wait_for(lambda: far.verified("carol"))
    far.acknowledgement(far.push(far.stranger, "old", far.stranger.box_for(far.victim.public, b"an old box"), bodyVersion=1))
    far.push(far.stranger, "new", far.seal(far.stranger, "from a stranger", "new"))
    far.push(far.carol, "carol", far.seal(far.carol, "from a member", "carol"))
    assert [item["verified"] for item in far.node.wait_inbox(3)] == ["legacy", False, True]
    wait_ledger(far.node, len(started))
    far.node.down()
    assert sorted(map(str, ledger(far.node))) == sorted(map(str, started))


def test_a_message_that_nobody_signed_gets_no_automatic_reply(world):
    """bodyVersion 1 has no place for the depth: two that answer each other would never end."""
    far = Far(world, settings="[hooks]\nenabled = true\n")
    far.node.down()
    hook(far.node, "on-dm", "ledger(call('POST', '/v1/send', {'to': event['sender_pubkey'], 'message': 'x'}))\nprint(json.dumps({'reply': 'auto'}))\n",
         toml='accept_legacy = true\nallow_reply = true\ncapability_token_scope = ["dm:send:sender"]')
    far.node.up()
    far.node.wait_connected()
    far.acknowledgement(far.push(far.stranger, "old", far.stranger.box_for(far.victim.public, b"an old box"), bodyVersion=1))
    ((status, answer),) = wait_ledger(far.node, 1)
    assert (status, answer["error"]) == (403, "capability_scope")
    wait_for(lambda: '"event_is_not_signed"' in far.node.log.read_text())
    assert far.sends == []


def test_system_pushes_and_subtypes_start_nothing(world):
    far = Far(world, settings="[hooks]\nenabled = true\n")
    far.node.down()
    hook(far.node, "on-message", RECORD, toml="allow_unverified = true\naccept_legacy = true")
    far.node.up()
    far.node.wait_connected()
    far.push(far.carol, "sys", far.seal(far.carol, "as if the system", "sys"), subtype="system")
    far.push(far.stranger, "last", far.seal(far.stranger, "the last", "last"))
    assert [line[2] for line in wait_ledger(far.node, 1)] == ["the last"]


def test_what_hooks_toml_does_not_name_or_enable_does_not_run(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", RECORD, section=False)
    hook(bob, "on-message", RECORD, section=False)
    (bob.config / "daemon" / "hooks" / "hooks.toml").write_text("[on-message]\nenabled = false\n")
    up(alice, bob)
    alice.send("bob", "nobody listens")
    bob.wait_inbox(1)
    assert ledger(bob) == []
    assert rows(bob, "SELECT count(*) FROM sqlite_sequence WHERE name = 'hook_runs'") == [(0,)], "and costs no row"
    (bob.config / "daemon" / "hooks" / "hooks.toml").write_text("[on-message]\nenabled = true\n")
    bob.process.send_signal(signal.SIGHUP)
    wait_for(lambda: '"reloaded"' in bob.log.read_text())
    alice.send("bob", "somebody does")
    assert [line[2] for line in wait_ledger(bob, 1)] == ["somebody does"]


def test_redacted_paths_do_not_reach_the_hook(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", "ledger([json.loads(event['body']), event['meta']])\n", toml='redact_payload = ["body.password", "meta.api_key"]')
    up(alice, bob)
    alice.send("bob", json.dumps({"user": "u", "password": "canary-1"}), meta={"api_key": "canary-2", "job": "x"})
    assert wait_ledger(bob, 1) == [[{"user": "u"}, {"job": "x"}]]
    assert json.loads(bob.inbox()[0]["body"])["password"] == "canary-1", "the inbox keeps it"


# ---- replies -----------------------------------------------------------------------------------------------------------------


def test_a_reply_answers_the_sender_once_and_says_that_it_is_automatic(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", "print(json.dumps({'reply': 'echo: ' + event['body']}))\n", toml="allow_reply = true")
    up(alice, bob)
    stream = bob.events("?types=hook_executed")
    alice.send("bob", "are you there?")
    (reply,) = alice.wait_inbox(1)
    (message,) = bob.inbox()
    assert reply["body"] == "echo: are you there?" and reply["meta"] == {"claudemesh.depth": 1}
    assert reply["reply_to_id"] == message["broker_message_id"] and reply["verified"] is True
    assert reply["client_message_id"] == f"hook-reply-{message['id']}-on-dm"
    data = executed(stream, "on-dm")["data"]
    assert data["event_id"] == message["id"] and data["exit"] == "0" and data["ok"] and data["replied"] and data["mesh"] == "acme"
    lines = [json.loads(line) for line in bob.log.read_text().splitlines() if '"hook_run"' in line]
    assert len(lines) == 1 and lines[0]["replied"] is True and lines[0]["hook"] == "on-dm" and lines[0]["event_id"] == message["id"]
    assert 'cm_daemon_hook_invocations_total{hook="on-dm",exit="0"} 1' in bob.api.get("/v1/metrics").body.decode()
    bob.down()
    bob.up()
    bob.wait_connected()
    alice.send("bob", "again")
    assert len(alice.wait_inbox(2)) == 2


@pytest.mark.parametrize("toml, body", [
    ("", "print(json.dumps({'reply': 'not allowed'}))"),
    ("allow_reply = true", "print(json.dumps({'reply': 'failed'})); sys.exit(3)"),
    ("allow_reply = true", "print(json.dumps({'reply': 7}))"),
    ("allow_reply = true", "print('reply: no JSON')"),
])
def test_no_reply_is_sent_that_is_not_allowed_or_not_well_said(mesh, toml, body):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", body + "\n", toml=toml)
    up(alice, bob)
    stream = bob.events("?types=hook_executed")
    alice.send("bob", "question")
    assert executed(stream, "on-dm")["data"]["replied"] is False
    bob.send("alice", "by hand")
    assert [item["body"] for item in alice.wait_inbox(1)] == ["by hand"]


def test_two_daemons_that_answer_everything_do_not_answer_each_other(mesh):
    _broker, alice, bob = mesh
    for node in (alice, bob):
        hook(node, "on-dm", RECORD + "print(json.dumps({'reply': 'auto ' + event['body']}))\n", toml="allow_reply = true")
    up(alice, bob)
    stream = alice.events("?types=hook_executed")
    alice.send("bob", "ping")
    executed(stream, "on-dm")
    assert [item["body"] for item in alice.inbox()] == ["auto ping"] and [item["body"] for item in bob.inbox()] == ["ping"]
    wait_for(lambda: '"event_is_an_automatic_reply"' in alice.log.read_text())
    assert len(ledger(alice)) == 1, "the hook runs; only its reply goes nowhere"


def test_an_automatic_message_by_capability_carries_its_depth_too(mesh):
    _broker, alice, bob = mesh
    for node in (alice, bob):
        hook(node, "on-dm", "ledger(call('POST', '/v1/send', {'to': event['sender_pubkey'], 'message': 'cap ' + event['body']}))\n",
             toml='capability_token_scope = ["dm:send:sender"]')
    up(alice, bob)
    alice.send("bob", "ping")
    ((status, _),) = wait_ledger(bob, 1)
    ((refused, error),) = wait_ledger(alice, 1)
    assert status == 202 and refused == 403 and error["error"] == "capability_scope" and "automatic" in error["detail"]
    assert [item["meta"] for item in alice.inbox()] == [{"claudemesh.depth": 1}] and len(bob.inbox()) == 1


def test_no_caller_sets_what_only_claudemesh_says(mesh):
    _broker, alice, bob = mesh
    up(alice, bob)
    answer = alice.send("bob", "x", meta={"claudemesh.depth": 0})
    assert answer.status == 400 and answer.json["error"] == "invalid_request" and "claudemesh." in answer.json["detail"]
    assert alice.cli("send", "bob", "x", "--meta", "claudemesh.file=1", check=None).returncode == 2
    assert alice.outbox_counts() == (0, 0, 0)


# ---- once --------------------------------------------------------------------------------------------------------------------


def test_a_slow_hook_delays_neither_messages_nor_the_api(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-message", "ledger('began')\ntime.sleep(600)\n", toml="timeout_s = 600")
    up(alice, bob)
    for number in range(300):
        alice.send("bob", f"message {number}")
    assert len(bob.wait_inbox(300)) == 300
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), 60)
    started = time.monotonic()
    assert bob.health()["ok"]
    assert time.monotonic() - started < 5
    assert len(wait_ledger(bob, 8)) == 8, "8 at once; the others wait"
    started = time.monotonic()
    bob.down()
    assert time.monotonic() - started < 12


def test_each_event_runs_at_most_once_and_is_not_lost_when_the_daemon_is_killed(mesh):
    _broker, alice, bob = mesh
    seed = int(os.environ.get("SEED", str(random.randrange(1 << 30))))
    print("seed", seed)
    chance = random.Random(seed)
    hook(bob, "on-dm", "ledger(event['event_id'])\ntime.sleep(0.02)\n")
    up(alice, bob)
    sent = 0
    for _round in range(4):
        for _ in range(40):
            assert alice.send("bob", f"m {sent}").status == 202
            sent += 1
        time.sleep(chance.random() * 0.6)
        bob.kill()
        bob.up()
        bob.wait_connected()
    bob.wait_inbox(sent)
    lost = lambda: sum(json.loads(line)["runs"] for line in bob.log.read_text().splitlines() if '"hook_runs_lost"' in line)
    wait_for(lambda: len(set(ledger(bob))) + lost() >= sent, 120, f"all events: {len(ledger(bob))} ran, {lost()} lost, of {sent}")
    time.sleep(0.3)
    ran = ledger(bob)
    assert len(ran) == len(set(ran)), "none ran twice"
    identifiers = {item["id"] for item in bob.inbox()}
    assert set(ran) <= identifiers and len(identifiers - set(ran)) <= lost() <= 4 * 8, (len(identifiers - set(ran)), lost())


def test_what_waits_at_an_orderly_stop_runs_in_the_next_life(mesh):
    _broker, alice, bob = mesh
    hook(bob, "on-dm", "ledger(event['event_id'])\ntime.sleep(0.5)\n")
    up(alice, bob)
    for number in range(40):
        alice.send("bob", f"m {number}")
    bob.wait_inbox(40)
    wait_ledger(bob, 1)
    bob.down()
    before = len(ledger(bob))
    assert before < 40
    bob.up()
    wait_for(lambda: len(ledger(bob)) >= 40 - 8, 90, "those that had not begun")
    wait_for(lambda: rows(bob, "SELECT count(*) FROM hook_runs") == [(0,)])
    ran = ledger(bob)
    assert len(ran) == len(set(ran)) and set(ran) <= {item["id"] for item in bob.inbox()} and '"hook_runs_lost"' not in bob.log.read_text()


def test_after_a_restore_no_hook_runs_until_the_members_are_known(mesh, world):
    """45-trust, Restore: what the backup knew of members and revocations may be old."""
    broker, alice, bob = mesh
    hook(bob, "on-startup", "ledger('on-startup')\n")
    hook(bob, "pre-send", "ledger('pre-send')\nprint(json.dumps({'action': 'allow'}))\n")
    up(alice, bob)
    wait_ledger(bob, 1)
    bob.down()
    passphrase = world.directory / "passphrase"
    passphrase.write_text("a passphrase\n")
    passphrase.chmod(0o600)
    bob.cli("daemon", "backup", "--out", world.directory / "b", "--passphrase-file", passphrase)
    broker.kill()
    hooks = bob.config / "daemon" / "hooks"
    kept = {path.name: (path.read_text(), path.stat().st_mode) for path in hooks.iterdir()}
    bob.cli("daemon", "restore", "--in", world.directory / "b", "--passphrase-file", passphrase, "--force")
    hooks.mkdir(mode=0o700, exist_ok=True)
    for name, (text, mode) in kept.items():
        (hooks / name).write_text(text)
        (hooks / name).chmod(mode)
    bob.settings("[hooks]\nenabled = true\n")
    bob.up()
    answer = bob.send(alice.pubkey, "x", client_message_id="early")
    assert answer.status == 403 and "restored" in answer.json["reason"], answer
    time.sleep(1.5)
    assert ledger(bob) == ["on-startup"], "of the life before"
    broker.start()
    bob.wait_connected()
    wait_ledger(bob, 2)
    assert bob.send(alice.pubkey, "x", client_message_id="early").status == 202
    assert sorted(ledger(bob)) == ["on-startup", "on-startup", "pre-send"]
