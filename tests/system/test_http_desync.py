"""Requests that front and back servers may read differently (../shared/vectors/http-desync): what is dangerous is refused and the connection closed, or
answered and closed; never does a second request come out of one. What is harmless is accepted. Against the daemon's socket, its port, and the broker."""

import re

import pytest

from harness import SHARED, World
from hostile import make_servers

CORPUS = SHARED / "vectors" / "http-desync"
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "v": "\v", "f": "\f", "b": "\b", "a": "\a", "e": "\x1b", '"': '"', "\\": "\\"}


# ---- the subset of YAML that the corpus uses ---------------------------------------------------------------------------


def scalar(text):
    text = text.strip()
    if text.startswith("'"):
        return text[1:text.rindex("'")].replace("''", "'")
    if text.startswith('"'):
        body = text[1:text.rindex('"')]
        return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 3 else ESCAPES[m[1]], body)
    return re.sub(r"\s+#.*$", "", text)


def cases_of(path):
    cases, section = [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("- "):
            cases.append({"headers": [], "expected": {}})
            section, line = None, "  " + line[2:]
        match = re.match(r"^( *)(- )?([a-z_]+):(.*)$", line)
        if not match or not cases:
            continue
        indent, key, value = len(match[1]) + len(match[2] or ""), match[3], scalar(match[4])
        case = cases[-1]
        if indent == 2:
            section = key if key in ("headers", "expected") else None
            if section is None:
                case[key] = value
        elif section == "headers" and indent == 6:
            if match[2]:
                case["headers"].append({})
            case["headers"][-1][key] = value
        elif section == "expected" and indent == 4:
            case["expected"][key] = value
    return cases


def corpus():
    if not CORPUS.exists():
        print("SKIPPED vectors/http-desync")
        return []
    return [(path.name, case) for path in sorted(CORPUS.glob("*.yaml")) for case in cases_of(path)]


# ---- requests and answers ----------------------------------------------------------------------------------------------


def encode(text):
    """\\x80 in the corpus is that byte; a character beyond is itself, in UTF-8."""
    return b"".join(bytes([ord(c)]) if ord(c) < 256 else c.encode() for c in text)


def head_of(case, server):
    """The token only where the case says nothing of it: the daemon's port answers nothing without."""
    lines = [encode(f"{case['method']} {case['uri']} {case['version']}")]
    lines += [encode(f"{header['name']}:{header.get('value', '')}") for header in case["headers"]]
    if not any(header["name"].lower() == "host" for header in case["headers"]):
        lines.append(b"Host: localhost")
    if not any(header["name"].lower() == "authorization" for header in case["headers"]):
        lines.append(b"Authorization: Bearer " + server.token.encode())
    return b"\r\n".join(lines) + b"\r\n\r\n"


def values(case, name):
    return [header.get("value", "").strip() for header in case["headers"] if header["name"].lower() == name]


def body_of(case, smuggled):
    """Whichever header is believed, the body ends where a request begins, or holds one."""
    lengths = [int(value) for value in values(case, "content-length") if value.isdigit()]
    body = b"0\r\n\r\n" if any("transfer" in header["name"].lower() for header in case["headers"]) else b""
    if lengths and lengths[0] < 100000:
        return (body + smuggled).ljust(lengths[0], b"x")[:max(lengths[0], len(body))]
    return body


def exchange(server, data):
    """Everything that comes back; the connection must end by itself once no more requests come."""
    with server.connect() as connection:
        try:
            connection.sendall(data)
            connection.shutdown(1)
        except OSError:
            pass  # closed already
        received = b""
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                return received
            if not piece:
                return received
            received += piece


def answers_in(received, first_has_body):
    """(status, head, body) of each response, taken apart by its length."""
    found = []
    while received:
        head, separator, received = received.partition(b"\r\n\r\n")
        assert separator, f"half an answer: {head!r}"
        length = re.search(rb"(?im)^content-length: (\d+)\r?$", head)
        assert length, head
        size = int(length[1]) if found or first_has_body else 0
        found.append((int(head.split(b" ", 2)[1]), head, received[:size]))
        received = received[size:]
    return found


def stricter_here(case):
    """Harmless elsewhere, refused by this server on purpose: codings other than chunked; targets with a fragment, a bare '%' or what is not ASCII."""
    codings = values(case, "transfer-encoding")
    return (codings and codings != ["chunked"]) or not re.fullmatch(r"(?:[!\"$&-~]|%[0-9A-Fa-f]{2})+", case["uri"])


CASES = corpus()


@pytest.fixture(scope="module")
def servers():
    world = World()
    try:
        yield make_servers(world)
    finally:
        world.close()


def test_the_corpus_is_read_whole():
    if not CASES:
        pytest.skip("../shared/vectors/http-desync is not there")
    names = sum(len(re.findall(r"(?m)^- name:", path.read_text(encoding="utf-8"))) for path in CORPUS.glob("*.yaml"))
    assert len(CASES) == names > 150
    assert {case["expected"]["tier"] for _, case in CASES} == {"Compliant", "Acceptable", "Ambiguous", "Severe"}


def refused_as_http(answer):
    return answer[0] == 400 and b'"error":"bad_request"' in answer[2]


@pytest.mark.parametrize("name", ("unix", "tcp", "broker"))
@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{name}-{number}" for number, (name, _) in enumerate(CASES)])
def test_no_request_comes_out_of_another(servers, number, name):
    case, server = CASES[number][1], servers[name]
    tier = case["expected"]["tier"]
    smuggled = server.fill("GET <get> HTTP/1.1\r\n<h>\r\n")
    received = exchange(server, head_of(case, server) + body_of(case, smuggled) + smuggled)
    answers = answers_in(received, case["method"] != "HEAD" or b'{"error":"bad_request"' in received)
    assert answers, "closed without an answer"
    closes = b"\r\nconnection: close" in answers[0][1].lower()
    assert answers[0][0] < 500 and answers[0][0] != 408, answers
    if closes:
        assert len(answers) == 1, answers
    if tier == "Severe":
        assert refused_as_http(answers[0]), answers
    if tier in ("Severe", "Ambiguous") or refused_as_http(answers[0]):
        assert closes, answers
    if tier == "Compliant" and not stricter_here(case):
        assert not refused_as_http(answers[0]), answers
    if not closes:
        # The body was the body, and what followed it was served, once.
        assert [answer[0] for answer in answers[1:]] == [200], answers
