"""Nothing secret in any log: keys, tokens, bodies, invite links."""

import base64
import json

from harness import Broker, Node, create_mesh, join


def test_no_log_holds_a_key_a_token_a_body_or_an_invite(world):
    broker, alice, bob = Broker(world), Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    link = join(alice, bob)
    alice.settings('[daemon]\nlog_level = "debug"\n')
    bob.settings('[daemon]\nlog_level = "debug"\n')
    alice.up("--tcp-port", "0")
    bob.up("--tcp-port", "0")
    alice.wait_connected()
    bob.wait_connected()
    body = "body canary 5c1f9e and some more text"
    tcp = alice.tcp_api()
    assert tcp.post("/v1/send?wait=20", {"to": "bob", "message": body, "meta": {"password": "meta canary 77aa"}}).status == 200
    bob.wait_inbox(1)
    token = alice.path("local-token").read_text().strip()
    assert tcp.get(f"/v1/version?token={token}").status == 400
    assert tcp.get("/v1/version", headers={"Authorization": "Bearer wrong-token-canary"}).status == 401
    alice.api.post("/v1/send", raw=b'{"to": "bob", "message": "body canary 5c1f9e", oops')
    # a wrong invite, and one that was used up
    assert bob.cli("join", link[:-10] + "AAAAAAAAAA", "--yes", check=None).returncode != 0
    carol = Node(world, "carol")
    used = carol.cli("join", link, "--yes", check=None)
    assert used.returncode != 0
    alice.down()
    bob.down()
    broker.stop()
    secrets = {"body": body[:18], "meta": "meta canary", "token": token, "wrong token": "wrong-token-canary", "invite": link[24:80], "admin": broker.admin_token_file.read_text().strip()}
    for node in (alice, bob):
        mesh = node.mesh()
        secrets[node.name + " seed"] = mesh["secretKey"][:64]
        secrets[node.name + " local token"] = node.path("local-token").read_text().strip()
        secrets[node.name + " root key"] = mesh["rootKey"]
    seed = json.loads(base64.urlsafe_b64decode(link.split("/")[-1] + "=="))["invite_seed"]
    secrets["invite seed"] = seed
    logs = [alice.log, bob.log, broker.log, *alice.config.rglob("*.log"), *bob.config.rglob("*.log")]
    text = "".join(path.read_text() for path in logs)
    assert len(text) > 1000 and '"security":true' in text.replace(" ", "")
    for name, secret in secrets.items():
        assert secret not in text, f"{name} is in a log"
    for line in text.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            assert {"ts", "level", "msg"} <= set(entry), line
    assert link not in used.stderr.decode() + used.stdout.decode()


def test_core_dumps_are_off_and_secret_files_private(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    alice.up()
    limits = open(f"/proc/{alice.process.pid}/limits").read()
    core = [line for line in limits.splitlines() if line.startswith("Max core file size")][0]
    assert core.split()[4] == "0"
    for path in (alice.config / "config.json", alice.path("local-token"), broker.admin_token_file, broker.store, alice.path("outbox.db")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert alice.config.stat().st_mode & 0o077 == 0


def test_a_secret_file_that_others_can_read_is_refused(world):
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    (alice.config / "config.json").chmod(0o644)
    alice.up(wait=False)
    assert alice.process.wait(10) != 0
    assert "config.json" in alice.log.read_text() and "chmod" in alice.log.read_text()
