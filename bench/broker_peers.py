"""A part of the peers of the broker's load test: each sends `each` direct messages to the others in turn, reads and acknowledges what it gets. One
process, one selector loop. Speaks the wire by hand; used by run.py."""

import base64
import json
import os
import pathlib
import selectors
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "system"))
import harness  # noqa: E402

job = json.loads(pathlib.Path(sys.argv[1]).read_text())


class FakeBroker:
    port = job["port"]
    url = f"ws://127.0.0.1:{job['port']}/ws"


clients = []
for mesh in job["mine"]:
    client = harness.WireClient(FakeBroker, mesh)
    client.ws.sock.setblocking(False)
    client.out = []
    client.received = client.acked = 0
    clients.append(client)

MASK = b"\0\0\0\0"  # a zero mask is a mask; the load generator should not be what is measured


def frame(text):
    data = text.encode()
    if len(data) < 126:
        return bytes([0x81, 0x80 | len(data)]) + MASK + data
    return bytes([0x81, 0x80 | 126]) + struct.pack(">H", len(data)) + MASK + data


ciphertext = base64.b64encode(os.urandom(640)).decode()
everyone = job["all"]
for client in clients:
    parts = []
    me = everyone.index(client.key.hex)
    for number in range(job["each"]):
        to = everyone[(me + 1 + number) % len(everyone)] if everyone[(me + 1 + number) % len(everyone)] != client.key.hex else everyone[(me + 2) % len(everyone)]
        identifier = f"{me}-{number}"
        parts.append(frame(json.dumps({"type": "send", "id": identifier, "client_message_id": identifier, "request_fingerprint": harness.sha256(identifier.encode()), "targetSpec": to,
                                       "priority": "next", "nonce": base64.b64encode(b"n" * 24).decode(), "ciphertext": ciphertext, "bodyVersion": 3, "destination_kind": "dm", "destination_ref": to})))
    client.pending = memoryview(b"".join(parts))
expected = len(clients) * job["each"]
print("ready", flush=True)
sys.stdin.readline()

selector = selectors.DefaultSelector()
for client in clients:
    selector.register(client.ws.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
    client.tail = b""
received = acked = 0


def messages(client):
    buffer = client.ws.buffer
    offset = 0
    while len(buffer) - offset >= 2:
        length, head = buffer[offset + 1] & 0x7F, 2
        if length == 126:
            if len(buffer) - offset < 4:
                break
            (length,) = struct.unpack_from(">H", buffer, offset + 2)
            head = 4
        elif length == 127:
            if len(buffer) - offset < 10:
                break
            (length,) = struct.unpack_from(">Q", buffer, offset + 2)
            head = 10
        if len(buffer) - offset < head + length:
            break
        yield buffer[offset + head:offset + head + length]
        offset += head + length
    client.ws.buffer = buffer[offset:]


while received < expected or acked < expected:
    ready = selector.select(20)
    if not ready:
        break
    for key, mask in ready:
        client = key.data
        if mask & selectors.EVENT_READ:
            data = client.ws.sock.recv(1 << 20)
            if not data:
                sys.exit("closed by the broker")
            client.ws.buffer += data
            acks = []
            for message in messages(client):
                if b'"type":"push"' in message[:40] or b'"push"' in message[:40]:
                    push = json.loads(message)
                    if push.get("subtype") == "system":
                        continue
                    received += 1
                    acks.append({"clientMessageId": push["client_message_id"], "brokerMessageId": push["messageId"]})
                elif b'"ack"' in message[:40]:
                    acked += 1
                    if b'"queued":true' not in message:
                        print(message[:300], file=sys.stderr)
            if acks:
                client.tail += frame(json.dumps({"type": "client_ack", "acks": acks[:200]})) if len(acks) <= 200 else b"".join(
                    frame(json.dumps({"type": "client_ack", "acks": acks[n:n + 200]})) for n in range(0, len(acks), 200))
        if mask & selectors.EVENT_WRITE:
            if client.tail and not len(client.pending):
                client.pending, client.tail = memoryview(client.tail), b""
            if len(client.pending):
                try:
                    wrote = client.ws.sock.send(client.pending[:262144])
                    client.pending = client.pending[wrote:]
                except BlockingIOError:
                    pass
        if client.tail and len(client.pending) and not getattr(client, "split", False):
            pass  # acknowledgements follow what is being sent
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if len(client.pending) or client.tail else 0)
        if selector.get_key(client.ws.sock).events != wanted:
            selector.modify(client.ws.sock, wanted, client)
print(json.dumps({"received": received, "acked": acked}), flush=True)
sys.stdin.readline()
