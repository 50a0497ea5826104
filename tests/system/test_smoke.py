"""One whole life of two daemons and a broker, and every command that a person uses in it. Short: it also runs under valgrind and ThreadSanitizer
(script/sanitize), where everything that was started must also end cleanly."""

from harness import BINARY, Broker, Node, create_mesh, join, wait_for


def test_a_whole_life(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    alice.up("--tcp-port", "0")
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    events = bob.events()

    bodies = {}
    for number in range(30):
        identifier = f"s-{number}"
        body = f"{number} " + "äöü€😀 "[: number % 7] * (number * 40)
        answer = alice.send("bob", body, client_message_id=identifier, priority=("now", "next", "low")[number % 3], meta={"number": number})
        assert answer.status == 202, answer
        assert alice.send("bob", body, client_message_id=identifier, priority=("now", "next", "low")[number % 3],
                          meta={"number": number}).status in (200, 202)
        assert alice.send("bob", body + "!", client_message_id=identifier).status == 409
        bodies[identifier] = body
    events.wait_count("message", 30, 60)
    received = bob.wait_inbox(30)
    assert {item["client_message_id"]: item["body"] for item in received} == bodies
    answer = bob.send("alice", "thanks", reply_to_id=received[0]["client_message_id"])
    assert answer.status == 202, answer
    alice.wait_inbox(1)
    assert bob.api.post("/v1/inbox/seen", {"ids": [received[0]["id"]]}).status == 200

    alice.cli("send", "bob", "from the command line")
    bob.wait_inbox(31)
    assert b"from the command line" in bob.cli("inbox").stdout
    for command in ("peer list", "mesh list", "member list", "daemon status", "daemon metrics", "daemon outbox list", "daemon reload", "config show"):
        alice.cli(*command.split())
    assert alice.tcp_api().get("/v1/health").status == 200
    assert alice.tcp_api(token=False).get("/v1/peers").status == 401
    alice.api.call("POST", "/v1/send", raw=b'{"to": "bob", "message": ')

    # The broker goes and comes back; what waits, and what is given up and taken up again, arrives.
    broker.stop()
    alice.wait_connected(False)
    assert alice.send("bob", "while it was away", client_message_id="away-1").status == 202
    assert alice.send("bob", "while it was away", client_message_id="away-2").status == 202
    alice.json("daemon", "outbox", "requeue", "away-1", "--new-client-id", "away-3")
    broker.start()
    alice.wait_connected()
    bob.wait_connected()
    ids = [item["client_message_id"] for item in bob.wait_inbox(33)]
    assert ids.count("away-2") == ids.count("away-3") == 1 and "away-1" not in ids
    wait_for(lambda: alice.outbox_counts() == (0, 0, 0), 30, "an empty outbox")

    events.close()
    bob.down()
    assert alice.send("bob", "for later", client_message_id="later").status == 202
    alice.down()
    alice.up()
    bob.up()
    assert bob.wait_inbox(34)[-1]["body"] == "for later"
    alice.down()
    bob.down()
    broker.stop()
    world.run(BINARY, "broker", "check", "--store", f"sqlite:{broker.store}", check=0)
