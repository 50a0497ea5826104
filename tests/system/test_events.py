"""20-ipc "GET /v1/events": resume without a gap or a repeat, filters, slow readers."""

import json
import socket
import threading

from harness import Broker, Key, Node, UnixConnection, create_mesh, join, messages, wait_for
from test_delivery import Sender


def test_a_stream_cut_and_resumed_twenty_times_misses_none_and_repeats_none(pair):
    _broker, alice, bob = pair
    rows = (messages() * 2)[:2000]
    rows = [dict(row, n=number) for number, row in enumerate(rows)]
    sender = Sender(alice, "bob", rows)
    stream = bob.events("?types=message")
    sender.start()
    got, last = [], None
    for cut in range(1, 21):
        target = cut * len(rows) // 21
        stream.wait_count("message", max(1, target - len(got)), 60)
        stream.close()  # somewhere in the middle: whatever has been read so far counts
        got += [event for event in stream.items if event["event"] == "message"]
        last = got[-1]["id"]
        stream = bob.events("?types=message", last_event_id=last)
    sender.finish()
    stream.wait_count("message", len(rows) - len(got), 60)
    got += [event for event in stream.items if event["event"] == "message"]
    identifiers = [event["data"]["client_message_id"] for event in got]
    assert len(identifiers) == len(rows) == len(set(identifiers))
    seqs = [event["data"]["seq"] for event in got]
    assert seqs == sorted(seqs)
    by_id = {event["data"]["client_message_id"]: event["data"]["body"] for event in got}
    assert all(by_id[f"m-{row['n']}"] == row["body"] for row in rows)


def test_a_resume_survives_the_daemon_killed_and_started_again(pair):
    _broker, alice, bob = pair
    stream = bob.events("?types=message")
    alice.send("bob", "one")
    first = stream.wait(lambda e: e["event"] == "message")
    bob.kill()
    alice.send("bob", "two")
    bob.up()
    stream = bob.events("?types=message", last_event_id=first["id"])
    assert stream.wait(lambda e: e["event"] == "message")["data"]["body"] == "two"
    assert [e["data"]["body"] for e in stream.items if e["event"] == "message"] == ["two"]


def test_an_unknown_epoch_says_so_then_gives_everything_and_nonsense_is_400(pair):
    _broker, alice, bob = pair
    for text in ("one", "two"):
        alice.send("bob", text)
    bob.wait_inbox(2)
    stream = bob.events("", last_event_id="0123456789abcdef-7-0")
    stream.wait_count("message", 2)
    assert stream.items[0]["event"] == "system" and "resume_gap" in json.dumps(stream.items[0]["data"])
    assert [e["data"]["body"] for e in stream.items if e["event"] == "message"] == ["one", "two"]
    for nonsense in ("x", "1-2", "a-b-c-d", "0123-99999999999999999999-0", "-1-2-3"):
        assert bob.events("", last_event_id=nonsense).status == 400, nonsense


def test_filters_and_the_shape_of_events(pair):
    broker, alice, bob = pair
    everything = alice.events()
    only = alice.events("?types=outbox_status&mesh=acme")
    wait_for(lambda: everything.comments >= 1)
    answer = alice.send("bob", "filtered")
    event = only.wait(lambda e: e["event"] == "outbox_status")
    assert event["data"]["client_message_id"] == answer.json["client_message_id"] and event["data"]["status"] == "done"
    assert event["data"]["mesh"] == "acme" and event["data"]["ts"]
    epoch, seq, number = event["id"].rsplit("-", 2)
    assert epoch and seq.isdigit() and number.isdigit()
    everything.wait(lambda e: e["event"] == "receipt")
    assert {e["event"] for e in only.items} == {"outbox_status"}
    broker.kill()
    status = everything.wait(lambda e: e["event"] == "broker_status" and e["data"]["status"] in ("reconnecting", "closed", "connecting"))
    assert status["data"]["mesh"] == "acme"
    assert alice.events("?types=nonsense").status == 400
    assert alice.events("?mesh=nowhere").status in (400, 404)


def test_peers_come_and_go_but_not_for_a_short_reconnect(world):
    broker = Broker(world, environment={"CLAUDEMESH_BROKER_BROKER_PRESENCE_GRACE_S": "3"})
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.up()
    alice.wait_connected()
    stream = alice.events("?types=peer_join,peer_leave")
    wait_for(lambda: stream.comments >= 1)
    bob.up()
    event = stream.wait(lambda e: e["event"] == "peer_join")
    assert event["data"]["pubkey"] == bob.pubkey and event["data"]["name"] == "bob"
    bob.kill()
    bob.up()
    bob.wait_connected()
    peers = alice.api.get("/v1/peers").json["peers"]
    assert [peer["online"] for peer in peers if peer["pubkey"] == bob.pubkey] == [True]
    bob.kill()
    stream.wait(lambda e: e["event"] == "peer_leave", 20)
    assert [e["event"] for e in stream.items] == ["peer_join", "peer_leave"]


def test_a_reader_that_never_reads_is_cut_off_and_resumes_without_loss_while_others_get_everything(pair):
    _broker, alice, bob = pair
    sock = socket.socket(socket.AF_UNIX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(60)
    sock.connect(bob.socket_path)
    sock.sendall(b"GET /v1/events?types=message HTTP/1.1\r\nHost: localhost\r\n\r\n")
    good = bob.events("?types=message")
    wait_for(lambda: good.comments >= 1)
    body = "x" * 60000
    for number in range(60):
        assert alice.send("bob", body, client_message_id=f"big-{number}").status == 202
    good.wait_count("message", 60, 60)
    wait_for(lambda: "event_stream_cut" in bob.log.read_text(), 30, "the reader that takes nothing to be cut off")
    data = b""
    try:
        while chunk := sock.recv(1 << 20):
            data += chunk
    except ConnectionResetError:
        pass
    events = [block for block in data.decode("utf-8", "replace").split("\n\n") if "event: message" in block and block.rstrip().endswith("}")]
    assert len(events) < 60, "it was never cut off"
    last = [line[4:] for line in events[-1].splitlines() if line.startswith("id: ")][0] if events else None
    rest = bob.events("?types=message", last_event_id=last or good.items[0]["id"])
    rest.wait_count("message", 60 - len(events) - (0 if events else 1), 60)


def test_two_streams_joining_in_the_middle_of_traffic_see_each_message_once(pair):
    _broker, alice, bob = pair
    rows = messages(600)
    sender = Sender(alice, "bob", rows)
    sender.start()
    epoch = None
    first = bob.events("?types=message")
    event = first.wait(lambda e: e["event"] == "message")
    epoch = event["id"].split("-")[0]
    late = [bob.events("?types=message", last_event_id=f"{epoch}-0-0") for _ in range(3)]
    sender.finish()
    for stream in late:
        found = stream.wait_count("message", len(rows), 60)
        assert [e["data"]["seq"] for e in found] == sorted({e["data"]["seq"] for e in found})


def test_inbox_paging_neither_repeats_nor_skips_while_messages_arrive(pair):
    _broker, alice, bob = pair
    rows = messages(500)
    sender = Sender(alice, "bob", rows)
    sender.start()
    bob.wait_inbox(100)
    for order in ("asc", "desc"):
        seen, cursor = [], None
        while True:
            page = bob.api.get(f"/v1/inbox?limit=7&order={order}" + (f"&cursor={cursor}" if cursor else "")).json
            seen += [item["seq"] for item in page["items"]]
            cursor = page.get("next_cursor")
            if not cursor or len(seen) > 300:
                break
        assert len(seen) == len(set(seen))
        expected = sorted(seen, reverse=order == "desc")
        assert seen == expected and (order == "asc" or seen == list(range(seen[0], seen[-1] - 1, -1)))
    sender.finish()
    bob.wait_inbox(500)
    for query in ("limit=0", "limit=1001", "limit=x", "order=up", "since=yesterday", "cursor=%21%21", "unread=maybe"):
        assert bob.api.get("/v1/inbox?" + query).status == 400, query
    first = bob.api.get("/v1/inbox?limit=1&order=asc").json["items"][0]
    later = bob.api.get("/v1/inbox?limit=1000&since=" + first["received_at"]).json["items"]
    assert len(later) == 500
    assert bob.api.get("/v1/inbox?since=2100-01-01T00:00:00Z").json["items"] == []
    assert len(bob.api.get(f"/v1/inbox?limit=1000&from={alice.pubkey}").json["items"]) == 500
    assert len(bob.api.get("/v1/inbox?limit=1000&from=alice").json["items"]) == 500
    assert bob.api.get("/v1/inbox?from=" + Key().hex).json["items"] == []
