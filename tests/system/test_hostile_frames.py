"""90-quality, hostile input, on the wire: what a client may throw at the broker before and after its hello, and a broker at a daemon: JSON of every kind as frames, every field of every frame with every
wrong type, handshakes and WebSocket frames that break the rules. Refused in the right words, nobody else disturbed, nobody ends."""

import base64
import json
import os
import queue
import socket
import struct
import sys
import threading
import time

import pytest

from harness import FEATURES, ROOT, SLOW, Broker, Key, Node, Stub, WebSocket, WireClient, World, deadline, fake_mesh, sha256, statement, stub_answer, stub_handshake, wait_for
from hostile import memory_kib
from test_broker_more import Mesh, rows
from test_hostile_broker import Hostile
from test_hostile_json import expected_values

WRONG = [None, True, 5, -1, 1.5, 1e300, 9007199254740993, "", "x", "\0", "x" * 5000, [], [[]], [5], {}, {"a": {"b": []}}]


def again(mesh, member, number=[0], **more):
    """A client; two hellos of a member in one millisecond would be a replay."""
    number[0] += 1
    return mesh.client(member, hello={"timestamp": int(time.time() * 1000) + number[0]}, **more)


# ---- the handshake ------------------------------------------------------------------------------------------------------------

GOOD_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
BASE = {"Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": GOOD_KEY, "Sec-WebSocket-Version": "13"}
HANDSHAKES = [  # a change of the headers, the status
    ({}, 101), ({"Upgrade": "WebSocket"}, 101), ({"Upgrade": "h2c, websocket"}, 101), ({"Connection": "keep-alive, Upgrade"}, 101), ({"Connection": "upgrade"}, 101), ({"Sec-WebSocket-Protocol": "chat, superchat"}, 101), ({"Sec-WebSocket-Protocol": "\xff" * 100}, 101),
    ({"Sec-WebSocket-Extensions": "permessage-deflate"}, 101), ({"Sec-WebSocket-Extensions": "x-unknown; a=b, permessage-deflate; nonsense"}, 101), ({"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=8; server_max_window_bits=9"}, 101),
    ({"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=\"15\""}, 101), ({"Sec-WebSocket-Extensions": ";;;,,,===\"\"\""}, 101), ({"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits=" + "9" * 5000}, 101), ({"Sec-WebSocket-Extensions": "permessage-deflate," * 500}, 101),
    ({"Sec-WebSocket-Extensions": "\"permessage-deflate"}, 101), ({"X-Claudemesh-Challenge": "00" * 32}, 101), ({"Cookie": "a=b"}, 101),
    ({"Upgrade": None}, 426), ({"Upgrade": "h2c"}, 426), ({"Upgrade": "websocketx"}, 426), ({"Upgrade": ""}, 426), ({"Upgrade": "web socket"}, 426),
    ({"Connection": None}, 400), ({"Connection": "close"}, 400), ({"Connection": "keep-alive"}, 400), ({"Connection": "Upgradex"}, 400), ({"Connection": ""}, 400),
    ({"Sec-WebSocket-Version": None}, 426), ({"Sec-WebSocket-Version": "12"}, 426), ({"Sec-WebSocket-Version": "8"}, 426), ({"Sec-WebSocket-Version": "14"}, 426), ({"Sec-WebSocket-Version": "13, 8"}, 426), ({"Sec-WebSocket-Version": "013"}, 426), ({"Sec-WebSocket-Version": "0xd"}, 426),
    ({"Sec-WebSocket-Version": ""}, 426), ({"Sec-WebSocket-Version": "99999999999999999999"}, 426), ({"Sec-WebSocket-Version": "-13"}, 426),
    ({"Sec-WebSocket-Key": None}, 400), ({"Sec-WebSocket-Key": ""}, 400), ({"Sec-WebSocket-Key": "x"}, 400), ({"Sec-WebSocket-Key": GOOD_KEY[:-1]}, 400), ({"Sec-WebSocket-Key": GOOD_KEY + "="}, 400), ({"Sec-WebSocket-Key": "!" * 24}, 400), ({"Sec-WebSocket-Key": "A" * 24}, 400),
    ({"Sec-WebSocket-Key": GOOD_KEY[:-2] + "A="}, 400), ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZR=="}, 400), ({"Sec-WebSocket-Key": base64.b64encode(b"k" * 17).decode()}, 400), ({"Sec-WebSocket-Key": base64.b64encode(b"k" * 15).decode()}, 400), ({"Sec-WebSocket-Key": "A" * 9000}, 400),
    ({"Sec-WebSocket-Key": GOOD_KEY + ", " + GOOD_KEY}, 400), ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25j\xff=="}, 400),
    ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Host": "evil.example"}, 403), ({"Host": None}, 400),
    ({"Content-Length": "5"}, 400), ({"Transfer-Encoding": "chunked"}, 400), ({"Expect": "100-continue"}, 101), ({"Content-Length": "0"}, 101),
]


@pytest.fixture(scope="module")
def mesh():
    world = World()
    try:
        yield Mesh(world, environment={"CLAUDEMESH_BROKER_BROKER_MAX_NEW_CONNECTIONS_PER_SECOND": "0"})
    finally:
        world.close()


def handshake(broker, lines, method="GET", path="/ws", version="HTTP/1.1", behind=b""):
    with socket.create_connection(("127.0.0.1", broker.port), timeout=20 * SLOW) as sock:
        sock.sendall(f"{method} {path} {version}\r\n".encode() + b"".join(f"{n}: {v}\r\n".encode("latin-1") for n, v in lines) + b"\r\n" + behind)
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            if not piece:
                break
            data += piece
        assert data.startswith(b"HTTP/1.1 "), data
        head = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        return int(head[0].split(" ")[1]), {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head[1:]}


def test_a_handshake_is_answered_by_its_letter(mesh):
    for change, status in HANDSHAKES:
        lines = [(name, value) for name, value in {**BASE, **change}.items() if value is not None]
        found, headers = handshake(mesh.broker, lines, behind=b"0\r\n\r\n" if "Transfer-Encoding" in change else b"hello" if change.get("Content-Length") == "5" else b"")
        assert found == status, (change, found)
        if status == 101:
            assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" and "sec-websocket-protocol" not in headers and len(headers["x-claudemesh-challenge"]) == 64
            extension = headers.get("sec-websocket-extensions", "")
            assert extension == "" or extension.startswith("permessage-deflate; client_no_context_takeover; server_no_context_takeover"), extension
        if status == 426:
            assert headers["sec-websocket-version"] == "13" and headers["upgrade"] == "websocket"
    for name in ("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Host"):
        assert handshake(mesh.broker, [*BASE.items(), (name, BASE[name])])[0] in (400, 426), f"{name} twice"
    for method, status in (("POST", 405), ("HEAD", 405), ("PUT", 405), ("get", 400)):
        assert handshake(mesh.broker, BASE.items(), method)[0] == status
    assert handshake(mesh.broker, BASE.items(), version="HTTP/1.0")[0] == 400
    for path, status in (("/ws/", 404), ("/WS", 404), ("/ws?token=x", 400), ("/ws?x=y", 101), ("/", 401), ("/health", 200)):
        assert handshake(mesh.broker, BASE.items(), path=path)[0] == status, path
    assert mesh.broker.get("/health").status == 200


# ---- WebSocket frames ---------------------------------------------------------------------------------------------------------


def frame(first, payload=b"", length=None, mask=b"\x01\x02\x03\x04", bit=0x80):
    """One frame by hand; length: what it claims, as (bytes, value)."""
    size = bytes([bit | len(payload)]) if length is None else bytes([bit | {1: length[1], 2: 126, 8: 127}[length[0]]]) + (b"" if length[0] == 1 else length[1].to_bytes(length[0], "big"))
    return bytes([first]) + size + (mask if bit else b"") + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) * (1 if bit else 0) + (b"" if bit else payload)


RULES = [  # what comes, the code that the broker closes with
    ("not masked", frame(0x81, b"{}", bit=0), 1002), ("a reserved opcode", frame(0x83, b"{}"), 1002), ("a reserved control opcode", frame(0x8b, b"{}"), 1002), ("opcode 15", frame(0x8f), 1002), ("RSV1 without an extension", frame(0xc1, b"{}"), 1002), ("RSV2", frame(0xa1, b"{}"), 1002),
    ("RSV3", frame(0x91, b"{}"), 1002), ("all RSV", frame(0xf1, b"{}"), 1002), ("binary", frame(0x82, b"{}"), 1003), ("an empty binary one", frame(0x82), 1003), ("a continuation of nothing", frame(0x80, b"{}"), 1002), ("a message in a message", frame(0x01, b"{") + frame(0x81, b"}"), 1002),
    ("a fragmented ping", frame(0x09, b"x"), 1002), ("a fragmented close", frame(0x08, b"\x03\xe8"), 1002), ("a ping of 126", frame(0x89, b"x" * 126, (2, 126)), 1002), ("a close of 126", frame(0x88, b"\x03\xe8" + b"x" * 124, (2, 126)), 1002), ("a length of 2^63", frame(0x81, b"x", (8, 2**63)), 1002),
    ("a length of 2^64-1", frame(0x81, b"x", (8, 2**64 - 1)), 1002), ("a length of 2^63-1", frame(0x81, b"x", (8, 2**63 - 1)), 1009), ("a length of 1 TiB", frame(0x81, b"x", (8, 2**40)), 1009), ("a short length in 2 bytes", frame(0x81, b"{}", (2, 2)), 1002), ("a short length in 8 bytes", frame(0x81, b"{}", (8, 2)), 1002),
    ("invalid UTF-8", frame(0x81, b"\xff"), 1007), ("a surrogate in UTF-8", frame(0x81, b"\xed\xa0\x80"), 1007), ("half a character at the end", frame(0x81, b"\"\xc3"), 1007), ("an overlong one", frame(0x81, b"\xc0\x80"), 1007), ("half a character in fragments", frame(0x01, b"\xc3") + frame(0x80, b"("), 1007),
    ("a close of one byte", frame(0x88, b"\x03"), 1002), ("close 0", frame(0x88, struct.pack(">H", 0)), 1002), ("close 999", frame(0x88, struct.pack(">H", 999)), 1002), ("close 1004", frame(0x88, struct.pack(">H", 1004)), 1002), ("close 1005", frame(0x88, struct.pack(">H", 1005)), 1002),
    ("close 1006", frame(0x88, struct.pack(">H", 1006)), 1002), ("close 1015", frame(0x88, struct.pack(">H", 1015)), 1002), ("close 2999", frame(0x88, struct.pack(">H", 2999)), 1002), ("close 5000", frame(0x88, struct.pack(">H", 5000)), 1002), ("close 65535", frame(0x88, struct.pack(">H", 65535)), 1002),
    ("a close reason that is no UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007), ("HTTP", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 1002),
]


def test_whoever_breaks_the_rules_of_websocket_is_told_which_and_nobody_else_notices(mesh):
    calm = mesh.client(mesh.owner_entry)
    for opened in (False, True):
        guest = mesh.join(f"rules {opened}")
        for title, data, code in RULES:
            client = again(mesh, guest, auto=opened, negotiate=False)
            client.ws.send_raw(data)
            while (text := client.ws.receive_text()) is not None:
                assert opened or json.loads(text)["code"] == "hello_required", (title, text)
            assert client.ws.close_code == code, (title, client.ws.close_code, client.ws.close_reason)
            client.ws.sock.close()
        client = again(mesh, guest, auto=opened, negotiate=False)  # and what may be
        for code in (1000, 1001, 1014, 3000, 4999):
            other = mesh.client(guest, auto=False)
            other.ws.send_raw(frame(0x88, struct.pack(">H", code) + "bye \u20ac".encode()))
            assert other.ws.receive_text() is None and other.ws.close_code == code
        client.ws.send_raw(frame(0x89, b"x" * 125) + frame(0x8a, b"unasked") + frame(0x8a))
        assert client.ws._need(2) == b"\x8a\x7d" and client.ws._need(125) == b"x" * 125
    calm.ws.send({"type": "list_peers", "_reqId": "calm"})
    assert calm.ws.receive_until("peers_list", _reqId="calm")


def test_floods_of_small_frames_are_bounded_in_memory(mesh):
    memory = memory_kib(mesh.broker.process)
    client = mesh.client(mesh.join("flood"))
    small = b"".join([frame(0x01, b"{")] + [frame(0x00, b" ")] * 100000 + [frame(0x80, b"}")])
    client.ws.send_raw(small)
    assert client.ws.receive_until("error")["code"] == "invalid_request", "100,000 fragments are one frame without a type"
    reader = threading.Thread(target=lambda: [client.ws.receive_text() for _ in range(1)], daemon=True)
    reader.start()
    client.ws.send_raw(frame(0x89, b"p" * 125) * 20000 + frame(0x80 | 1, b'{"type":"list_peers","_reqId":"after"}'))
    reader.join(60)
    assert not reader.is_alive()
    if SLOW == 1:
        assert memory_kib(mesh.broker.process) - memory < 32 * 1024


# ---- JSON as frames to the broker -----------------------------------------------------------------------------------------------


def sync(client, number=[0]):
    """Everything that the broker said up to now: a request behind what its store reads, and a send to nobody behind what it writes."""
    number[0] += 1
    name, nobody = f"sync-{number[0]}", "0" * 64
    client.ws.send({"type": "history", "limit": 1, "_reqId": name})
    client.ws.send({"type": "send", "id": name, "client_message_id": name, "request_fingerprint": nobody, "targetSpec": nobody, "priority": "next",
                    "nonce": base64.b64encode(b"n" * 24).decode(), "ciphertext": base64.b64encode(b"c" * 64).decode(), "bodyVersion": 3,
                    "destination_kind": "dm", "destination_ref": nobody})
    said, fences = [], 2
    while fences > 0:
        got = client.ws.receive()
        assert got is not None, f"closed {client.ws.close_code} {client.ws.close_reason}; before it: {said}"
        if name in (got.get("_reqId"), got.get("client_message_id")):
            fences -= 1
        else:
            said.append(got)
    return said


def is_utf8(raw):
    try:
        raw.decode()
        return True
    except UnicodeDecodeError:
        return False


def test_every_kind_of_json_as_a_frame_to_the_broker(mesh):
    calm, client, key = mesh.client(mesh.owner_entry), None, mesh.join("json")
    wrong = []
    for name, raw, good in expected_values():
        if client is None:
            client = again(mesh, key)
            sync(client)
        if not is_utf8(raw):
            client.ws.send_text(raw)
            while client.ws.receive_text() is not None:
                pass
            assert client.ws.close_code == 1007, name
            client = None
            continue
        deep = "depth" in name or "deep" in name  # a frame gives two levels more than a field of a field
        client.ws.send_text(raw)
        client.ws.send_text(b'{"type":"unheard_of","x":{"v":' + raw + b"}}")
        codes = [said["code"] for said in sync(client) if said["type"] != "push"]
        expected = ["invalid_request"] if good else ["invalid_json"] * 2
        if codes != expected and not (deep and codes in (["invalid_request", "invalid_json"], ["invalid_request"])):
            wrong.append((name, raw[:60], codes))
    assert not wrong, "\n".join(map(str, wrong))
    assert [said for said in sync(calm) if said.get("type") != "push"] == []


def frames_of(mesh, member):
    """Every frame that the broker takes: valid fields; those that it must not do without; those of which any type is understood or not looked at."""
    nonce, cipher, peer = base64.b64encode(b"n" * 24).decode(), base64.b64encode(b"c" * 64).decode(), mesh.owner.hex
    revoke = mesh.revoke_frame(Key().hex, mesh.owner)
    grant = mesh.grant(Key().hex, "member")
    subject, at = member["pubkey"], 1
    name_sig = member["key"].sign(statement("claudemesh-name-v1", mesh.id, subject, "other", 1))
    return {
        "send": ({"id": "i", "client_message_id": "c", "request_fingerprint": "00" * 32, "targetSpec": peer, "priority": "next", "nonce": nonce, "ciphertext": cipher, "bodyVersion": 3, "keyEpoch": 1, "replyToId": "r", "mentions": [], "destination_kind": "dm",
                  "destination_ref": peer}, {"targetSpec", "nonce", "ciphertext"}, set()),
        "client_ack": ({"clientMessageId": "x", "brokerMessageId": "y", "state": "stored", "at": 1, "rsig": "00"}, set(), set()),
        "client_ack ": ({"acks": [{"brokerMessageId": "y"}]}, set(), set()),
        "receipt_ack": ({"receipts": [{"messageId": "m", "by": peer, "state": "stored"}]}, {"receipts"}, set()),
        "seen": ({"ids": ["x"]}, {"ids"}, set()),
        "seen ": ({"acks": [{"brokerMessageId": "y"}]}, {"acks"}, set()),
        "feature_negotiation_request": ({"require": [], "optional": []}, set(), {"require", "optional"}),
        "list_peers": ({"after": "x"}, set(), {"after"}),
        "list_members": ({"after": 0}, set(), set()),
        "set_status": ({"status": "idle"}, {"status"}, set()),
        "set_summary": ({"summary": "s"}, set(), set()),
        "set_visible": ({"visible": True}, {"visible"}, set()),
        "set_profile": ({"avatar": "a", "title": "t", "bio": "b", "capabilities": ["c"]}, set(), set()),
        "set_profile ": ({"profile": {"avatar": "a"}}, set(), {"profile"}),
        "join_group": ({"name": "g", "role": "r"}, {"name"}, {"role"}),
        "leave_group": ({"name": "g"}, {"name"}, set()),
        "history": ({"after_history_id": 0, "limit": 1}, set(), set()),
        "message_status": ({"messageId": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, {"messageId"}, set()),
        "member_revoke": ({k: v for k, v in revoke.items() if k not in ("type", "_reqId")}, {"pubkey", "timestamp", "signature"}, {"by", "memberId"}),
        "member_leave": ({"memberId": "other", "timestamp": 1, "signature": "00" * 64}, {"timestamp", "signature"}, {"memberId"}),
        "member_rename": ({"pubkey": subject, "name": "other", "seq": 1, "sig": name_sig[:-2] + "00"}, {"name", "seq", "sig"}, {"pubkey"}),
        "member_grant": ({**grant, "sig": "00" * 64}, {"role", "seq", "at", "sig"}, {"by", "pubkey", "mesh"}),
        "invite_revoke": ({"invite_id": "k1", "at": 1, "by": peer, "sig": "00" * 64}, {"invite_id", "at", "sig"}, {"by"}),
        "member_rotate": ({"old_pubkey": subject}, set(), {"old_pubkey"}), "topic_create": ({"name": "t"}, set(), {"name"}), "file_put": ({"name": "f"}, set(), {"name"}), "list_files": ({}, set(), set()),
        "hello": ({"meshId": mesh.id}, set(), {"meshId"}), "unheard_of": ({"x": 1}, set(), {"x"}),
    }


def test_every_field_of_every_frame_with_every_wrong_type_to_the_broker(mesh):
    member = mesh.join("frames")
    calm, client = mesh.client(mesh.owner_entry), mesh.client(member)
    sync(calm), sync(client)
    before = [rows(mesh.broker, f"SELECT count(*) FROM {table}") for table in ("member", "invite", "mesh")]
    wrong, number = [], 0
    for kind, (fields, required, loose) in frames_of(mesh, member).items():
        kind = kind.strip()
        for name, right in fields.items():
            for value in [*WRONG, ...]:
                number += 1
                sent = {"type": kind, "_reqId": f"q{number}", **fields}
                if kind == "send":
                    sent["id"] = sent["client_message_id"] = f"wrong-{number}"
                if value is ...:
                    del sent[name]
                else:
                    sent[name] = value
                client.ws.send(sent)
                said = [got for got in sync(client) if got.get("type") != "push"]
                refused = [got for got in said if got["type"] == "error" or (got["type"] == "ack" and 400 <= got["status"] < 500)]
                fits = value is not ... and type(value) is type(right) or value in (None, ...) and name not in required
                if isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(right, int) and not isinstance(right, bool):
                    fits = True  # numbers have one type in JSON; out of range is tried elsewhere
                if any(got["type"] == "ack" and got["status"] >= 500 for got in said) or any(got.get("code") in ("internal", "store_unavailable") for got in said):
                    wrong.append((kind, name, value, said))
                if not fits and name not in loose and not refused:
                    wrong.append((kind, name, value if not isinstance(value, str) else value[:20], said))
                if len([got for got in said if got.get("_reqId") == f"q{number}"]) > 1:
                    wrong.append((kind, name, value, "two answers"))
        for body in ([], "x", 5, None):
            client.ws.send_text(json.dumps(body))
            assert [got["code"] for got in sync(client)] == ["invalid_request"]
    for kind in WRONG:
        client.ws.send({"type": kind, "_reqId": "t"})
        assert [got["type"] for got in sync(client)] in ([], ["error"]), kind
    for request in WRONG:
        client.ws.send({"type": "list_members", "_reqId": request})
        assert len(sync(client)) == 1
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(str(w)[:300] for w in wrong[:40])
    assert [rows(mesh.broker, f"SELECT count(*) FROM {table}") for table in ("member", "invite", "mesh")] == before
    assert {got["type"] for got in sync(calm)} <= {"push"}
    assert mesh.broker.process.poll() is None and number > 1000


def test_every_field_of_a_hello_with_every_wrong_type(mesh):
    """Before anybody is known: refused with a code and closed, or understood; and never an identity by accident."""
    member = mesh.join("hello")
    required = ("meshId", "memberId", "pubkey", "sessionId", "timestamp", "signature")
    client = WireClient.__new__(WireClient)
    client.mesh, client.key, client.url, client.session = member, member["key"], mesh.broker.url, "h"
    for field in (*required, "sessionPubkey", "hostname", "cwd", "displayName", "peerType", "channel", "groups", "capabilities", "receive", "pid", "protocolVersion", "signature2", "hostFingerprint", "type"):
        for value in [*WRONG, ...]:
            client.ws = WebSocket.connect(mesh.broker.port)
            hello = client.hello_frame(v2=False)
            if value is ...:
                hello.pop(field, None)
            else:
                hello[field] = value
            client.ws.send(hello)
            got = client.ws.receive()
            if got is not None and got["type"] == "hello_ack":
                assert field not in ("meshId", "memberId", "pubkey", "timestamp", "signature", "type"), (field, value)
                client.ws.close()
                continue
            assert got["type"] == "error" and got["code"], (field, value, got)
            assert client.ws.receive() is None and client.ws.close_code == 1008, (field, value, client.ws.close_code)
    assert mesh.broker.get("/health/ready").status == 200


def test_every_field_of_a_join_and_of_a_mesh_with_every_wrong_type(mesh):
    from test_broker_more import post
    before = [rows(mesh.broker, f"SELECT count(*) FROM {table}") for table in ("member", "mesh")]
    join_body, mesh_body = mesh.join_body(mesh.invite(), Key(), "typed"), mesh.mesh_body(mesh_id="7f9d2a54-9d0c-4a3e-8a4e-3c1b6f0e2d11", slug="typed")

    def places(value, path=()):
        if isinstance(value, dict):
            for name in value:
                yield path + (name,)
                yield from places(value[name], path + (name,))

    for route, body, token in (("/join", join_body, None), ("/mesh", mesh_body, mesh.token)):
        for path in places(body):
            if path[0] == "invite" and len(path) > 1:
                continue  # the same one again
            for value in [*WRONG, ...]:
                changed = json.loads(json.dumps(body))
                target = changed
                for name in path[:-1]:
                    target = target[name]
                if value is ...:
                    del target[path[-1]]
                else:
                    target[path[-1]] = value
                unsigned = path in (("cert", "invite", "mesh_name"), ("name",), ("display_name",)) and isinstance(value, str) or (route, path) == ("/join", ("timestamp",)) and isinstance(value, (int, float)) and not isinstance(value, bool)
                if unsigned or route == "/join" and path in (("invite",), ("name",)) and value in (None, ...):
                    continue  # may be, or may be left out
                status, error, _ = post(mesh.broker, route, changed, token)
                assert status in (400, 403, 404, 410, 413) and error, (route, path, value, status, error)
    for raw in (b"[]", b"null", b"5", b'"x"', b"{", b"{}", b"", b"[" * 60000, b'{"a":1,"a":2}', b"\xff"):
        for route, token in (("/join", None), ("/mesh", mesh.token)):
            assert post(mesh.broker, route, raw, token)[0] == 400
    assert [rows(mesh.broker, f"SELECT count(*) FROM {table}") for table in ("member", "mesh")] == before


# ---- a broker towards a daemon --------------------------------------------------------------------------------------------------


class Shown(Hostile):
    """It also says who is there."""

    peers, answer_peers = [], None

    def serve(self, connection, _index):
        self.hello = stub_handshake(connection)
        self.connection = connection
        while (got := connection.receive()) is not None:
            with self.condition:
                self.received.append(got)
            if got["type"] == "list_members":
                connection.send({"type": "members_list", "_reqId": got.get("_reqId"), "members": self.members, "revocations": self.revocations})
            elif got["type"] == "list_peers" and self.answer_peers:
                self.answer_peers(connection, got)
            elif got["type"] == "list_peers":
                connection.send({"type": "peers_list", "_reqId": got["_reqId"], "peers": self.peers})
            elif not stub_answer(connection, got) and got["type"] == "send":
                self.on_send(connection, got)


@pytest.fixture(scope="module")
def hostile():
    world = World()
    try:
        yield Shown(world)
    finally:
        world.close()


def still_whole(hostile, title):
    """The link lives on: an honest message arrives, once; and nothing else became one."""
    count = hostile.stub.count
    text = f"honest after {title}"
    hostile.honest(text)
    wait_for(lambda: text in hostile.bodies(), 20, text)
    assert all(body.startswith("honest after ") for body in hostile.bodies()), hostile.bodies()
    assert hostile.stub.count == count and hostile.node.process.poll() is None
    members = {m["pubkey"]: m for m in hostile.node.api.get("/v1/members").json["members"]}
    assert members[hostile.carol.hex]["verified"] is True and members[hostile.carol.hex]["name"] == "carol" and members[hostile.owner.hex]["role"] == "admin"
    assert not any(m["verified"] for key, m in members.items() if key not in {hostile.carol.hex, hostile.owner.hex, hostile.victim.hex})
    for path in ("/v1/peers", "/v1/health", "/v1/profile", "/v1/outbox", "/v1/version", "/v1/metrics"):
        assert hostile.node.api.get(path).status == 200, path


def test_every_kind_of_json_as_a_frame_to_the_daemon(hostile):
    for name, raw, _ in expected_values():
        if is_utf8(raw):
            hostile.connection.send_text(raw)
            for kind in ("push", "ack", "receipt", "error", "unheard_of"):
                hostile.connection.send_text(b'{"type":"' + kind.encode() + b'","messageId":' + raw + b',"eventData":{"v":' + raw + b"}}")
    still_whole(hostile, "JSON")


def answers(h):
    """Every frame that a daemon gets from a broker after its negotiation."""
    member = h.members[2]
    event = {"pubkey": h.stranger.hex, "memberPubkey": h.stranger.hex, "displayName": "eve", "sessionId": "s", "connectedAt": 1, "status": "idle", "summary": "s", "groups": [], "cwd": "", "hostname": "", "peerType": "ai", "channel": "c", "visible": True, "profile": {}}
    push = {"type": "push", "messageId": "M", "meshId": h.mesh_id, "senderPubkey": "system", "senderName": "system", "priority": "low", "nonce": "", "ciphertext": "", "bodyVersion": 1, "createdAt": 1, "subtype": "system"}
    statements = {"member_revoked": {"mesh": h.mesh_id, "subject_pubkey": h.carol.hex, "member_id": member["id"], "at": 1, "by": h.owner.hex, "sig": "00" * 64},
                  "member_renamed": {"mesh": h.mesh_id, "pubkey": h.carol.hex, "name": "not carol", "seq": 5, "by": h.carol.hex, "sig": "00" * 64},
                  "member_left": {"mesh": h.mesh_id, "member_id": member["id"], "pubkey": h.carol.hex, "at": 1, "sig": "00" * 64},
                  "member_joined": h.member(h.stranger, "eve", cert=h.certificate(h.stranger, "eve", owner=h.stranger)),
                  "member_keypair_rotated": {"mesh": h.mesh_id, "member_id": member["id"], "seq": 1, "old": h.carol.hex, "new": h.stranger.hex, "at": 1, "sig_old": "00" * 64, "sig_new": "00" * 64},
                  "member_concurrent_connection": {"pubkey": h.victim.hex, "count": 2}, "topic_key_needed": {"topic": "t", "pubkey": h.stranger.hex}, "file_shared": {"id": "f"}, "peer_joined": event, "peer_left": event, "": {}, "unheard_of": {"a": 1}}
    frames = [dict(push, event=name, eventData=data) for name, data in statements.items()]
    frames += [
        {"type": "ack", "id": "no-such-id", "client_message_id": "no-such-id", "messageId": "M", "queued": True, "status": 201, "duplicate": False, "history_id": 1, "history_available": True, "first_seen_at": 1, "error": "x: y", "broker_fingerprint_prefix": "0" * 16, "retry_after_ms": 1},
        {"type": "receipt", "client_message_id": "no-such-id", "messageId": "M", "by": h.carol.hex, "state": "stored", "at": 1, "rsig": "00" * 64},
        {"type": "error", "code": "nonsense", "message": "m", "id": "i"}, {"type": "redirect", "url": "ws://127.0.0.1:1/ws"}, {"type": "hello_ack", "presenceId": "p", "memberDisplayName": "x", "brokerVersion": "v", "restored": {}, "lastSummary": "s"},
        {"type": "feature_negotiation_response", "supported": {}, "missing_required": []}, {"type": "history_result", "items": [push], "next": 1}, {"type": "message_status_result", "messageId": "M", "recipients": []}, {"type": "member_ok"},
        {"type": "peers_list", "peers": [event], "next": "x"}, {"type": "members_list", "members": [member], "revocations": [], "next": 1},
    ]
    return frames


def every_change(frame, values):
    """The frame with each of its fields, and each of those below, replaced by each value."""
    for name in frame:
        for value in values:
            yield {**frame, name: value}
        if isinstance(frame[name], dict):
            for changed in every_change(frame[name], values):
                yield {**frame, name: changed}


def test_every_field_of_every_frame_of_a_broker_with_every_wrong_type(hostile):
    count = 0
    for sent in answers(hostile):
        for changed in every_change(sent, WRONG):
            hostile.connection.send(changed)
            count += 1
    assert count > 2000
    still_whole(hostile, f"{count} wrong frames")


def test_every_field_of_a_message_with_every_wrong_type(hostile):
    """Of a true push of carol's: whatever is changed outside, it becomes a message as carol signed it, or none."""
    nonce, ciphertext = hostile.seal(hostile.carol, "honest after a change", "changed-push")
    push = {"type": "push", "messageId": "PUSH", "meshId": hostile.mesh_id, "senderPubkey": hostile.carol.hex, "senderMemberPubkey": hostile.carol.hex, "senderMemberId": "m", "senderName": "carol", "priority": "next", "nonce": base64.b64encode(nonce).decode(),
            "ciphertext": base64.b64encode(ciphertext).decode(), "bodyVersion": 3, "createdAt": 1, "client_message_id": "changed-push", "history_id": 1, "targetSpec": hostile.victim.hex}
    for changed in every_change({**push, "keyEpoch": 1, "replyToId": "r", "mentions": [], "topic": "t"}, [*WRONG, hostile.stranger.hex, hostile.owner.hex, "now", 0, 2**53]):
        hostile.connection.send(changed)
    still_whole(hostile, "changed pushes")
    for name, value in ((name, value) for name in push for value in [*WRONG, hostile.stranger.hex, hostile.owner.hex, "now", 0, 2**53]):
        if name not in ("type",):
            hostile.connection.send({**push, name: value})
    still_whole(hostile, "more changed pushes")
    items = [item for item in hostile.node.inbox() if item["body"] == "honest after a change"]
    assert all((item["sender_pubkey"], item["client_message_id"], item["priority"], item["sender_name"]) == (hostile.carol.hex, "changed-push", "next", "carol") for item in items) and len(items) <= 1


def test_peers_of_any_shape_are_shown_in_the_shape_of_the_api(hostile):
    """What the broker says about who is there is its word, but strings stay strings for whoever reads the local API."""
    event = {"pubkey": hostile.carol.hex, "memberPubkey": hostile.carol.hex, "displayName": "carol", "sessionId": "s", "connectedAt": 1, "status": "idle", "summary": "s", "groups": [{"name": "g"}], "cwd": "", "hostname": "", "peerType": "ai", "channel": "c", "visible": True, "profile": {"title": "t"}}
    push = {"type": "push", "messageId": "M", "meshId": hostile.mesh_id, "subtype": "system", "event": "peer_joined"}
    shown, text = 0, (str, type(None))
    for field in event:
        for value in WRONG:
            changed = {**event, field: value}
            hostile.peers = [changed, event, changed]
            hostile.connection.send({**push, "eventData": changed})
            for peer in hostile.node.api.get("/v1/peers").json["peers"]:
                shown += len(peer["sessions"])
                assert all(isinstance(peer[name], text) for name in ("status", "summary", "name", "last_seen")) and isinstance(peer["groups"], list) and isinstance(peer["profile"], dict), (field, value, peer)
                assert all(isinstance(peer[name], bool) for name in ("online", "visible", "verified")) and len(peer["pubkey"]) == 64
                for session in peer["sessions"]:
                    assert all(isinstance(found, text) for found in session.values()), (field, value, session)
    assert shown > 400
    for peers in WRONG:
        hostile.peers = peers
        assert hostile.node.api.get("/v1/peers").status == 200
    hostile.peers = []
    still_whole(hostile, "peers")


def test_a_broker_that_says_for_ever_who_is_there_fills_no_memory(hostile):
    node, page = hostile.node, [{"pubkey": f"{n:064x}", "memberPubkey": f"{n:064x}", "displayName": "x" * 1000, "profile": {"title": "x" * 30000}} for n in range(25)]
    asked, memory = [], memory_kib(node.process)

    def answer(connection, got):
        asked.append(got)
        connection.send({"type": "peers_list", "_reqId": got["_reqId"], "peers": page, "next": f"page-{len(asked)}"})

    hostile.answer_peers = answer
    try:
        assert node.api.get("/v1/peers").status == 200
        assert 10 < len(asked) < 100
    finally:
        hostile.answer_peers = None
    for number in range(1300):
        hostile.connection.send({"type": "push", "messageId": "M", "meshId": hostile.mesh_id, "subtype": "system", "event": "peer_joined", "eventData": {**page[0], "sessionId": f"s{number}"}})
    still_whole(hostile, "crowds")
    if SLOW == 1:
        assert memory_kib(node.process) - memory < 150 * 1024
    assert node.api.get("/v1/peers").status == 200  # asked anew: nobody is there
    hostile.connection.send({"type": "push", "messageId": "M", "meshId": hostile.mesh_id, "subtype": "system", "event": "peer_joined", "eventData": {"pubkey": hostile.carol.hex, "memberPubkey": hostile.carol.hex, "sessionId": "room"}})
    hostile.peers = [{"pubkey": hostile.carol.hex, "memberPubkey": hostile.carol.hex, "sessionId": "room"}]
    assert any(p["pubkey"] == hostile.carol.hex and p["online"] for p in node.api.get("/v1/peers").json["peers"])
    hostile.peers = []


HANDSHAKE_WRONG = [None, 5, "x", [], {}, True]


def garbage_handshakes():
    """(what is sent instead of the hello_ack, and instead of the negotiation's answer); None: nothing."""
    ack, features = {"type": "hello_ack", "presenceId": "p", "memberDisplayName": "x", "brokerVersion": "v"}, {"type": "feature_negotiation_response", "supported": FEATURES, "missing_required": []}
    cases = [({**ack, name: value}, features) for name in ("type", "presenceId", "brokerVersion") for value in HANDSHAKE_WRONG]
    cases += [(ack, {**features, name: value}) for name in ("type", "supported", "missing_required") for value in HANDSHAKE_WRONG]
    for feature in ("client_message_id_dedupe", "max_payload"):
        cases += [(ack, {**features, "supported": {**FEATURES, feature: value}}) for value in HANDSHAKE_WRONG]
        cases += [(ack, {**features, "supported": {**FEATURES, feature: {"params": {**FEATURES[feature]["params"], name: value}}}}) for name in FEATURES[feature]["params"] for value in (None, "x", -1, 1e300, {})]
    return cases[:60]


def test_handshakes_of_any_shape_leave_a_daemon_that_serves(world):
    """Sixty meshes in one daemon, each with a broker that answers hello and negotiation with something else."""
    cases, node = garbage_handshakes(), Node(world, "many")
    met, meshes = set(), {}

    def serve(connection, _):
        hello = connection.receive()
        number = meshes[hello["meshId"]]
        ack, features = cases[number]
        connection.send(ack)
        met.add(number)
        request = connection.receive()
        if request is not None:
            connection.send({**features, "_reqId": request.get("_reqId")} if isinstance(features, dict) else features)
        while (frame_ := connection.receive()) is not None:
            stub_answer(connection, frame_)

    stub = Stub(world, serve)
    for number in range(len(cases)):
        meshes[fake_mesh(node, stub.url, slug=f"m{number}", member_id=f"member-{number}")["meshId"]] = number
    node.up()
    wait_for(lambda: len(met) == len(cases), 30, "all to be met")
    assert len(node.health()["meshes"]) == len(cases)
    assert node.process.poll() is None and node.api.get("/v1/version").status == 200 and node.api.get("/v1/metrics").status == 200
