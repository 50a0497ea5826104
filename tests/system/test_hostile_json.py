"""90-quality, hostile input: JSON of every kind as bodies, as values, as frames to the broker and to the daemon; every field of every route with every wrong type; every limit, at it and one beyond.
What is not JSON is 400 with a code, what is of the wrong shape says which field, nothing is half done, and nobody ends."""

import base64
import json
import math
import sys
import uuid

import pytest

from harness import ROOT, SHARED, Broker, Key, Node, Stub, UnixConnection, World, create_mesh, fake_mesh, join, messages, stub_answer, stub_handshake, wait_for
from hostile import make_servers

sys.path.insert(0, str(ROOT / "tests" / "fixtures" / "hostile_json"))
from edges import BAD, GOOD  # noqa: E402

VECTORS = SHARED / "vectors" / "json"
# Valid for RFC 8259 alone; 20-ipc refuses a key that comes twice, and a NUL in one.
STRICTER = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json", "y_object_escaped_null_in_key.json"}
# May be refused or not by RFC 8259; 20-ipc decides: numbers that become 0 or lose digits are doubles all the same.
ALLOWED = {"i_number_double_huge_neg_exp.json", "i_number_real_underflow.json", "i_number_too_big_neg_int.json", "i_number_too_big_pos_int.json", "i_number_very_big_negative_int.json"}


def vectors():
    if not VECTORS.exists():
        pytest.skip("../shared/vectors/json is not there")
    found = {path.name: path.read_bytes() for path in sorted(VECTORS.glob("*.json"))}
    assert len(found) > 300
    return found


def is_strict(name):
    return (name[0] == "y" and name not in STRICTER) or name in ALLOWED


def expected_values():
    """(name, bytes, whether it is JSON) of the vectors and of our own."""
    found = [(name, raw, True) for name, raw in GOOD.items()] + [(name, raw, False) for name, raw in BAD.items()]
    if VECTORS.exists():
        found += [(name, raw, is_strict(name)) for name, raw in vectors().items()]
    else:
        print("SKIPPED vectors/json")
    return found


@pytest.fixture(scope="module")
def servers():
    world = World()
    try:
        yield make_servers(world)
    finally:
        world.close()


class Caller:
    """Bodies to one transport of the daemon, over one connection."""

    def __init__(self, server):
        self.server = server
        self.api = server.node.new_api() if server.name == "unix" else server.node.tcp_api()

    def post(self, path, raw, **more):
        answer = self.api.post(path, raw=raw, **more)
        assert answer.status < 500, (path, raw[:200], answer)
        if answer.status >= 400:
            assert answer.json["error"] and answer.json["detail"], answer
        return answer


@pytest.fixture(params=["unix", "tcp"])
def caller(servers, request):
    return Caller(servers[request.param])


def code(answer):
    return answer.status, answer.json.get("error")


def same(value, other):
    """Equal as JSON of doubles."""
    if isinstance(value, dict):
        return isinstance(other, dict) and value.keys() == other.keys() and all(same(value[k], other[k]) for k in value)
    if isinstance(value, list):
        return isinstance(other, list) and len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return isinstance(other, (int, float)) and not isinstance(other, bool) and float(value) == float(other)
    return type(value) is type(other) and value == other


# ---- the grammar ------------------------------------------------------------------------------------------------------------


def test_the_vectors_as_bodies(caller):
    wrong, before = [], caller.server.accepted()
    for name, raw in vectors().items():
        if not raw:
            continue  # no body at all: elsewhere
        found = [code(caller.post(path, raw)) for path in ("/v1/send", "/v1/heartbeat", "/v1/nowhere")]
        if not is_strict(name):
            expected = [(400, "invalid_json")] * 3
        elif raw.strip().startswith(b"{"):
            expected = [(400, "invalid_request"), (200, None), (404, "not_found")]
        else:
            expected = [(400, "invalid_request")] * 2 + [(404, "not_found")]
        if found != expected:
            wrong.append((name, raw[:60], found))
    assert not wrong, "\n".join(map(str, wrong))
    assert caller.server.accepted() == before


def test_every_value_as_meta_is_kept_as_it_is_or_refused_whole(caller):
    """And beside a field that nobody knows, in the same words."""
    server, wrong, accepted = caller.server, [], 0
    before = server.accepted()
    for name, raw, good in expected_values():
        head = b'{"to":"' + server.to.encode() + b'","message":"m",'
        answer = caller.post("/v1/send", head + b'"meta":{"v":' + raw + b"}}")
        unknown = caller.post("/v1/heartbeat", b'{"unknown":{"v":' + raw + b"}}")
        too_large = good and len(raw) > 16000
        if (answer.status, unknown.status) != ((400 if too_large else 202, 200) if good else (400, 400)) or (not good and {answer.json["error"], unknown.json["error"]} != {"invalid_json"}):
            wrong.append((name, raw[:60], answer, unknown))
        if answer.status == 202:
            accepted += 1
            shown = caller.api.get("/v1/outbox/" + answer.json["client_message_id"]).json["meta"]
            if not same(json.loads(raw), shown["v"]):
                wrong.append((name, raw[:60], shown))
    assert not wrong, "\n".join(map(str, wrong))
    assert accepted > 50 and server.accepted() == before + accepted


def test_whole_bodies_that_are_no_object_or_more_than_one_value(caller):
    before, to = caller.server.accepted(), caller.server.to.encode()
    good = b'{"to":"' + to + b'","message":"m"}'
    for raw in (b"\xef\xbb\xbf" + good, good + b"x", good + b"{}", good + good, good + b",", good + b"\0", b"\0" + good, good + b"//", b"/**/" + good, good[:-1], good + b"}", b"[" + good + b"]]", b"x" + good, good + b"\x0c", b")]}'\n" + good, good.decode().encode("utf-16"),
                good.decode().encode("utf-32"), good.replace(b'"', b"'"), b"to=" + to + b"&message=m", good[:-1] + b',"to":"' + to + b'"}', good[:-1] + b',"t\\u006f":"' + to + b'"}', good[:-1] + b',"message":"n"}', good[:-1] + b',"x":{"a":1,"a":1}}', b"[" * 1000000, b'{"a":' * 170000,
                b'"' * 1000001, b"9" * 1000000, b" " * 1000000):
        assert code(caller.post("/v1/send", raw)) == (400, "invalid_json"), raw[:80]
    for raw in (b"[" + good + b"]", b"null", b"true", b"0", b'""', b"[]", b"{}", b'"' + to + b'"'):
        assert code(caller.post("/v1/send", raw)) == (400, "invalid_request"), raw
    assert code(caller.post("/v1/send", b"")) == (400, "invalid_json")
    assert caller.server.accepted() == before
    for raw in (b" \t\r\n" + good + b" \t\r\n", good.replace(b":", b" : ").replace(b",", b"\n,\n"), good.replace(b'"to"', b'"t\\u006f"'), b" " * 1000000 + good):
        assert caller.post("/v1/send", raw).status == 202, raw[:80]


def test_a_body_of_ten_megabytes_of_brackets_is_413(caller):
    connection = caller.api._connect()
    connection.connect()
    try:
        sock = connection.sock
        sock.sendall(f"POST /v1/send HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {caller.server.token}\r\nContent-Length: 10000000\r\n\r\n".encode())
        try:
            sock.sendall(b"[" * 10000000)
        except OSError:
            pass
        try:
            answer = sock.recv(65536)
        except ConnectionResetError:
            answer = b""
        assert not answer or b" 413 " in answer.split(b"\r\n")[0]
    finally:
        connection.close()
    caller.server.check_alive()


# ---- the shape of a send ------------------------------------------------------------------------------------------------------

ANYTHING = [None, True, False, 0, -1, 1.5, 1e300, 9007199254740993, "", "x", "\0", "x\0y", " ", "\n", "\U0001f600", [], [[]], ["x"], {}, {"a": 1}, {"a": {"b": []}}]


def test_every_field_of_a_send_with_every_wrong_type(caller):
    """null stands for an absent field; every other wrong type is 400 and names the field."""
    server = caller.server
    before, taken = server.accepted(), 0
    fits = {
        "to": [], "message": ["x", "\0", "x\0y", " ", "\n", "\U0001f600"], "priority": [None], "meta": [None, {}, {"a": 1}, {"a": {"b": []}}], "reply_to_id": [None, "", "x"], "replyToId": [None, "", "x"], "client_message_id": [None, "x"], "mesh": [None],
        "unknown": ANYTHING, "mentions": ANYTHING, "Idempotency-Key": ANYTHING,
    }
    for field, good in fits.items():
        for value in ANYTHING:
            body = {"to": server.to, "message": "m", field: value}
            if field == "client_message_id" and value == "x":
                body[field] = f"id-{server.name}"
            answer = caller.post("/v1/send", json.dumps(body).encode())
            fit = any(type(value) is type(g) and value == g for g in good)
            if fit:
                assert answer.status == 202, (field, value, answer)
                taken += 1
                continue
            assert 400 <= answer.status < 500, (field, value, answer)
            if not isinstance(value, str):
                assert answer.status == 400 and answer.json["error"] == "invalid_request" and f"'{field}'" in answer.json["detail"], (field, value, answer)
    assert server.accepted() == before + taken
    for missing in ("to", "message"):
        body = {"to": server.to, "message": "m"}
        del body[missing]
        answer = caller.post("/v1/send", json.dumps(body).encode())
        assert code(answer) == (400, "invalid_request") and f"'{missing}'" in answer.json["detail"]


def test_every_limit_of_a_send_at_it_and_one_beyond(caller):
    server = caller.server
    before, taken = server.accepted(), 0

    def send(status, error=None, headers=None, **fields):
        nonlocal taken
        answer = caller.post("/v1/send", json.dumps({"to": server.to, "message": "m", **fields}, ensure_ascii=False).encode(), headers=headers)
        assert answer.status == status and answer.json.get("error") == error, (str(fields)[:80], answer)
        taken += status == 202
        return answer

    for text in ("x", "\u00e9", "\u20ac", "\U0001f600", "\0", "\"", "\\"):
        size = len(text.encode())
        send(202, message=text * (65536 // size))
        send(413, "payload_too_large", message=text * (65536 // size) + "xxxx"[:65537 - 65536 // size * size])
    send(202, meta={"m": "x" * (16384 - 8)})
    send(400, "invalid_request", meta={"m": "x" * (16384 - 7)})
    send(202, meta={"m": "\n" * ((16384 - 8) // 2)})  # canonical: two bytes each
    send(400, "invalid_request", meta={"m": "\n" * ((16384 - 8) // 2 + 1)})
    send(202, meta={"m": "\x01" * ((16384 - 8) // 6)})  # six
    send(400, "invalid_request", meta={"m": "\x01" * ((16384 - 8) // 6 + 1)})
    send(202, meta={str(n): n for n in range(1000)})
    send(400, "invalid_request", meta={str(n): n for n in range(2000)})
    for prefix in ("a", "b"):
        identifier = (prefix + server.name).ljust(128, "x")
        send(202, client_message_id=identifier)
        send(400, "invalid_client_message_id", client_message_id=identifier + "x")
        send(202, reply_to_id=identifier)
        send(400, "invalid_request", reply_to_id=identifier + "x")
    for number in [*range(0, 0x21), *range(0x7f, 0xa2), 0x20ac, 0x1f600, 0xfeff, 0x200b]:
        for text in (chr(number), "a" + chr(number), chr(number) + "a"):
            send(400, "invalid_client_message_id", client_message_id=text)
            send(400, "invalid_request", reply_to_id=text)
    for number in range(0x21, 0x7f):
        send(202, client_message_id=f"{server.name}{chr(number)}")
        send(202, reply_to_id=chr(number))
    for key in ("", '"', '"a', 'a b', '"a"b', "\"\\x\"", '"a\\"', "x" * 129, '"' + "x" * 129 + '"', "\xe9", '""', '"a" ;q', "a\tb"):
        send(400, "invalid_client_message_id", headers={"Idempotency-Key": key})
    for key in (f'"{server.name}-quoted"', f"{server.name}-bare", '"' + f"{server.name}-\\\"\\\\" + '"', f"{server.name}-'", f"  {server.name}-spaces  "):
        send(202, headers={"Idempotency-Key": key})
    send(400, "invalid_request", reply_to_id="a", replyToId="b")
    send(202, reply_to_id="a", replyToId="a")
    for priority in ("now", "next", "low"):
        send(202, priority=priority)
    for priority in ("", "NOW", "now ", "high", "nex", "next\0", "0"):
        send(400, "invalid_request", priority=priority)
    for to in ("", "\0", server.to + "\0", server.to + "0", server.to[:-1] + "g", " " + server.to, server.to[:7], "00" * 4, "@", "#", "@@", "#A", "#" + "a" * 65, "@\u00e9", "**", "nobody", "x" * 100000, "../../etc/passwd", "%00", "0x" + server.to, server.to + " "):
        answer = caller.post("/v1/send", json.dumps({"to": to, "message": "m"}).encode())
        assert answer.status in (400, 404), (to[:80], answer)
    send(202, to=server.to.upper())
    for mesh in ("", "ACME", "acme ", "acme\0", "other", "../acme", "x" * 100000):
        answer = caller.post("/v1/send", json.dumps({"to": server.to, "message": "m", "mesh": mesh}).encode())
        assert answer.status in (400, 404), (mesh[:80], answer)
    send(202, mesh="acme")
    assert server.accepted() == before + taken


def test_the_same_id_is_the_same_only_with_the_same_json(caller):
    """However it is written; and a duplicate in other words is no second message."""
    server = caller.server
    before = server.accepted()
    identifier = f"written-{server.name}"
    first = {"to": server.to, "message": "a\u00e9\U0001f600\"\\/\b", "meta": {"b": [1, 2.5, 1e21, -0.0], "a": {"\u20ac": None, "$": True}}, "client_message_id": identifier}
    assert caller.post("/v1/send", json.dumps(first).encode()).json["duplicate"] is False
    for raw in (json.dumps(first, ensure_ascii=False), json.dumps(first, indent=3), json.dumps(first, sort_keys=True), json.dumps(first).replace("1e+21", "1000000000000000000000").replace("-0.0", "0"),
                json.dumps(first).replace("2.5", "25e-1"), json.dumps({**first, "unknown": 1, "priority": "next", "mesh": "acme", "reply_to_id": None}), json.dumps(first).replace("/", "\\/").replace("$", "\\u0024")):
        answer = caller.post("/v1/send", raw.encode())
        assert answer.status == 202 and answer.json["duplicate"] is True, raw
    for change in ({"message": "a"}, {"meta": {}}, {"meta": None}, {"priority": "now"}, {"reply_to_id": "r"}, {"meta": {**first["meta"], "c": 0}}, {"to": Key().hex}, {"message": first["message"] + " "}):
        assert code(caller.post("/v1/send", json.dumps({**first, **change}).encode())) == (409, "idempotency_key_reused"), change
    assert server.accepted() == before + 1


# ---- the other routes ---------------------------------------------------------------------------------------------------------

# route, a body that changes nothing here (its row or peer is none), its status, field -> the values that are of the right shape
ROUTES = [
    ("/v1/outbox/requeue", {"id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, 404, {
        "id": [" ", "x", "\n", "\U0001f600", ""], "force": [None, True, False], "new_client_message_id": [None, "x"], "patch": [None, {}, {"a": 1}, {"a": {"b": []}}], "unknown": ANYTHING}),
    ("/v1/outbox/requeue", {"id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "patch": {}}, 404, {
        "patch.message": [None, "x", " ", "\0", "x\0y", "\n", "\U0001f600"], "patch.priority": [None], "patch.meta": [None, {}, {"a": 1}, {"a": {"b": []}}], "patch.unknown": ANYTHING}),
    ("/v1/outbox/drop", {"id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, 404, {"id": [" ", "x", "\n", "\U0001f600", ""], "force": [None, True, False], "unknown": ANYTHING}),
    ("/v1/inbox/seen", {"ids": ["x"]}, 200, {"ids": [["x"]], "all": [None, False], "mesh": [None], "unknown": ANYTHING}),
    ("/v1/inbox/seen", {"all": True}, 200, {"all": [True], "ids": [None], "mesh": [None], "unknown": ANYTHING}),
    ("/v1/profile", {}, 200, {
        "summary": ["", "x", " ", "\n", "\U0001f600"], "status": [], "visible": [True, False], "avatar": ["", "x", " ", "\n", "\U0001f600"], "title": ["", "x", " ", "\n", "\U0001f600"], "bio": ["", "x", " ", "\n", "\U0001f600"],
        "capabilities": [[], ["x"]], "mesh": [None], "unknown": []}),
    ("/v1/verify", {"peer": "nobody", "accept": True}, 404, {"peer": ["x", " ", "\n", "\U0001f600"], "accept": [True], "mesh": [None], "unknown": ANYTHING}),
    ("/v1/heartbeat", {}, 200, {"mesh": [None], "unknown": ANYTHING}),
]


@pytest.mark.parametrize("number", range(len(ROUTES)), ids=[f"{row[0]} {'.'.join(row[1])}" for row in ROUTES])
def test_every_field_of_every_other_route_with_every_wrong_type(caller, number):
    path, base, status, fields = ROUTES[number]
    answer = caller.post(path, json.dumps(base).encode())
    assert answer.status == status, answer
    profile = caller.api.get("/v1/profile").json
    before = caller.server.accepted()
    for field, good in fields.items():
        for value in ANYTHING:
            body = json.loads(json.dumps(base))
            target, name = (body["patch"], field.split(".")[1]) if "." in field else (body, field)
            target[name] = value
            answer = caller.post(path, json.dumps(body).encode())
            fit = any(type(value) is type(g) and value == g for g in good)
            assert (answer.status == status) if fit else (400 <= answer.status < 500), (field, value, answer)
            if not fit and not isinstance(value, str):
                assert answer.status == 400 and answer.json["error"] in ("invalid_request", "invalid_client_message_id"), (field, value, answer)
            if not fit:
                assert caller.api.get("/v1/profile").json == profile
            else:
                profile = caller.api.get("/v1/profile").json
    for raw in (b"[]", b"null", b"1", b'"x"', b"[[]]"):
        assert code(caller.post(path, raw)) == (400, "invalid_request")
    assert caller.server.accepted() == before
    for route in ("/v1/topic/create", "/v1/group/join", "/v1/file/share"):  # not built yet: their JSON is judged all the same
        assert code(caller.api.post(route, raw=b"{")) == (400, "invalid_json")


def test_limits_of_the_other_routes(caller):
    def post(path, status, **body):
        answer = caller.post(path, json.dumps(body).encode())
        assert answer.status == status, (path, str(body)[:80], answer)

    for field, size in (("summary", 1024), ("title", 256), ("avatar", 2048), ("bio", 4096)):
        post("/v1/profile", 200, **{field: "\u00e9" * (size // 2)})
        post("/v1/profile", 400, **{field: "\u00e9" * (size // 2) + "x"})
    post("/v1/profile", 200, capabilities=["x" * 64] * 64)
    post("/v1/profile", 400, capabilities=["x" * 64] * 65)
    post("/v1/profile", 400, capabilities=["x" * 65])
    post("/v1/profile", 400, capabilities=["x", 5])
    post("/v1/profile", 400, summary="ok", title=5)
    assert caller.api.get("/v1/profile").json.get("summary") != "ok", "all of it or nothing"
    post("/v1/inbox/seen", 200, ids=["x"] * 10000)
    post("/v1/inbox/seen", 400, ids=["x"] * 10001)
    post("/v1/inbox/seen", 400, ids=[])
    post("/v1/inbox/seen", 400, ids=["x", 5])
    post("/v1/inbox/seen", 400, ids=["x\0"])
    post("/v1/inbox/seen", 400, ids=["x"], all=True)
    post("/v1/inbox/seen", 400)
    post("/v1/outbox/drop", 404, id="x" * 500000)
    post("/v1/verify", 404, peer="x" * 500000, accept=True)
    for query in ("limit=0", "limit=1001", "limit=-1", "limit=+1", "limit=1.0", "limit=", "limit=x", "limit=99999999999999999999", "order=", "order=ASC", "order=up", "since=", "since=yesterday", "since=2026-13-01T00:00:00Z", "since=-1", "since=2026-01-01", "cursor=", "cursor=x", "cursor=%ff",
                  "cursor=" + "A" * 4000, "unread=1", "unread=TRUE", "unread=", "topic=", "topic=A%20B", "topic=%ff", "from=", "from=%ff%fe", "mesh=", "mesh=%ff", "mesh=nope"):
        answer = caller.api.get("/v1/inbox?" + query)
        assert 400 <= answer.status < 500 and answer.json["error"], (query, answer)
    for query in ("limit=0", "limit=x", "status=", "status=PENDING", "status=none", "cursor=x", "mesh=nope"):
        answer = caller.api.get("/v1/outbox?" + query)
        assert 400 <= answer.status < 500, (query, answer)
    for last in ("x", "-1", "1-2", "a-b-c", "0000000000000000-x-0", "x" * 8000, "-", "--", "0000000000000000-99999999999999999999-0", "\xff"):
        answer = caller.api.get("/v1/events", headers={"Last-Event-ID": last})
        assert answer.status == 400, (last[:80], answer)


# ---- naughty strings, end to end ------------------------------------------------------------------------------------------------


def naughty():
    path = SHARED / "vectors" / "naughty-strings.json"
    if not path.exists():
        pytest.skip("../shared/vectors/naughty-strings.json is not there")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pair():
    world = World()
    try:
        broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
        create_mesh(broker, alice)
        join(alice, bob)
        alice.up()
        bob.up()
        alice.wait_connected()
        bob.wait_connected()
        yield broker, alice, bob
    finally:
        world.close()


def test_naughty_strings_arrive_to_the_byte_as_bodies_and_meta(pair):
    _, alice, bob = pair
    texts = naughty() + [json.loads(raw) for name, raw in GOOD.items() if raw.startswith(b'"')]
    sent = {}
    for number, text in enumerate(texts):
        answer = alice.api.post("/v1/send", {"to": bob.pubkey, "message": text, "meta": {"key": text, "list": [text]}, "client_message_id": f"naughty-{number}"})
        if text == "":
            assert code(answer) == (400, "invalid_request")
        else:
            assert answer.status == 202, (text, answer)
            sent[f"naughty-{number}"] = text
    items = {item["client_message_id"]: item for item in bob.wait_inbox(len(sent))}
    assert items.keys() == sent.keys()
    for identifier, text in sent.items():
        assert items[identifier]["body"] == text and items[identifier]["meta"] == {"key": text, "list": [text]}, text
    keys = [text for text in dict.fromkeys(texts) if "\0" not in text and text]
    for start in range(0, len(keys), 20):
        meta = {key: 1 for key in keys[start:start + 20]}
        assert alice.api.post("/v1/send", {"to": bob.pubkey, "message": "keys", "meta": meta, "client_message_id": f"keys-{start}"}).status == 202
    metas = {item["client_message_id"]: item["meta"] for item in bob.wait_inbox(len(sent) + (len(keys) + 19) // 20)}
    for start in range(0, len(keys), 20):
        assert metas[f"keys-{start}"] == {key: 1 for key in keys[start:start + 20]}


def test_naughty_strings_as_words_about_oneself_and_as_destinations(pair):
    _, alice, bob = pair
    texts = naughty()
    for text in texts:
        allowed = len(text.encode()) <= 256 and "\0" not in text
        answer = bob.api.post("/v1/profile", {"summary": text, "title": text, "capabilities": [text[:8]]})
        assert answer.status == (200 if allowed else 400), (text, answer)
        if allowed:
            shown = bob.api.get("/v1/profile").json
            assert (shown["summary"], shown["title"]) == (text, text)
    last = texts[-1]
    wait_for(lambda: next(p for p in alice.api.get("/v1/peers").json["peers"] if p["pubkey"] == bob.pubkey)["summary"] == last, what="the last summary")
    for text in texts:
        assert alice.send(text, "m").status in (400, 404, 501), text
        for path in ("/v1/verify", "/v1/outbox/drop", "/v1/outbox/requeue"):
            assert alice.api.post(path, {"peer": text, "id": text or "x", "accept": True}).status in (400, 404), (path, text)


def test_naughty_strings_as_names_of_members(world):
    """Names of 1 to 128 bytes that a join may carry: what was signed is what is listed, or the join is refused."""
    from test_broker_more import Mesh, answer_to, post
    mesh = Mesh(world)
    invite = mesh.invite(max_uses=1000)
    joined = {}
    for text in naughty():
        key = Key()
        status, error, _ = post(mesh.broker, "/join", json.dumps(mesh.join_body(invite, key, text), ensure_ascii=False).encode())
        if 1 <= len(text.encode()) <= 128:
            assert status in (200, 400), (text, status, error)
        else:
            assert status == 400, (text, status, error)
        if status == 200:
            joined[key.hex] = text
    assert len(joined) > 400
    owner = mesh.client(mesh.owner_entry)
    listed = answer_to(owner, {"type": "list_members"})
    assert {m["pubkey"]: m["displayName"] for m in listed["members"] if m["pubkey"] != mesh.owner.hex} == joined
    node = Node(world, "reader")
    fake_mesh(node, mesh.broker.url, owner=mesh.owner, key=mesh.owner, member_id=mesh.owner_id, mesh_id=mesh.id)
    node.up()
    node.wait_connected()
    wait_for(lambda: len(node.api.get("/v1/members").json["members"]) == len(joined) + 1, what="the member list")
    members = {m["pubkey"]: m for m in node.api.get("/v1/members").json["members"]}
    assert {key: members[key]["name"] for key in joined} == joined and all(members[key]["verified"] for key in joined)
