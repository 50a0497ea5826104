"""Searching the inbox (20-ipc, GET /v1/inbox/search; 10-cli, inbox search): what is found and how it is shown, what a bad query is answered, and the index that follows its rows."""

import shutil
import sqlite3
import urllib.parse

import pytest

from harness import ROOT, Broker, Node, create_mesh, join, wait_for

BEGIN, END = "\x02", "\x03"


def search(node, query, **more):
    parameters = urllib.parse.urlencode({"q": query, **more})
    return node.api.get(f"/v1/inbox/search?{parameters}")


def found(node, query, **more):
    answer = search(node, query, **more)
    assert answer.status == 200, answer
    return [item["client_message_id"] for item in answer.json["items"]]


@pytest.fixture
def pair(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob)
    for node in (alice, bob):
        node.up()
    for node in (alice, bob):
        node.wait_connected()
    return alice, bob


def test_words_phrases_beginnings_and_operators_find_messages_newest_first(pair):
    alice, bob = pair
    bodies = {
        "m1": "the deploy of staging failed",
        "m2": "deploy finished: production is fine",
        "m3": "Lunch? caf\u00e9 na\u00efve \u4f60\u597d",
        "m4": "failed again, deployment blocked (see foo-bar)",
    }
    for key, body in bodies.items():
        assert alice.send(bob.pubkey, body, client_message_id=key, meta={"ticket": f"T-{key}"}).status == 202
    bob.wait_inbox(4)
    assert found(bob, "deploy") == ["m2", "m1"]
    assert found(bob, "deploy*") == ["m4", "m2", "m1"]
    assert found(bob, "failed deploy") == ["m1"]
    assert found(bob, '"staging failed"') == ["m1"] and found(bob, '"failed staging"') == []
    assert found(bob, "failed NOT staging") == ["m4"]
    assert found(bob, "lunch OR (production AND fine)") == ["m3", "m2"]
    assert found(bob, "CAFE naive") == ["m3"]
    assert found(bob, "foo-bar") == ["m4"] and found(bob, "body:failed") == []
    assert found(bob, "T-m3") == ["m3"] and found(bob, "alice staging") == ["m1"]
    assert alice.send(bob.pubkey, "\u00e9" * 9000 + " long needle " + "y" * 9000, client_message_id="m5").status == 202
    bob.wait_inbox(5)
    snippet = search(bob, "needle").json["items"][0]["snippet"]
    assert f"{BEGIN}needle{END}" in snippet and len(snippet.encode()) < 1100, "a word without end makes a snippet without end"
    item = search(bob, "production").json["items"][0]
    assert item["body"] == bodies["m2"] and item["snippet"] == f"deploy finished: {BEGIN}production{END} is fine"
    assert search(bob, "production").json["complete"] is True


def test_pages_of_a_search_neither_repeat_nor_skip(pair):
    alice, bob = pair
    for number in range(25):
        assert alice.send(bob.pubkey, f"needle {number}", client_message_id=f"n{number}").status == 202
    bob.wait_inbox(25)
    keys, cursor = [], None
    while True:
        answer = search(bob, "needle", limit=7, **({"cursor": cursor} if cursor else {}))
        keys += [item["client_message_id"] for item in answer.json["items"]]
        cursor = answer.json["next_cursor"]
        if cursor is None:
            break
        assert alice.send(bob.pubkey, "needle new").status == 202
    assert keys == [f"n{number}" for number in reversed(range(25))]
    mesh = bob.health()["meshes"][0]["slug"]
    assert len(found(bob, "needle", mesh=mesh)) >= 25 and search(bob, "needle", mesh="nowhere").status in (400, 404)
    for bad in ({"limit": "0"}, {"limit": "x"}, {"cursor": "nonsense"}):
        assert search(bob, "needle", **bad).status == 400
    listed = bob.api.get("/v1/inbox?limit=1").json["next_cursor"]
    assert search(bob, "needle", cursor=listed).status == 400, "a list's cursor is no search's"


HOSTILE = ["AND (", "NOT", "(", ")", '"', '"open', "a NOT", "OR OR", "(" * 200, "( " * 60 + "a" + " )" * 60, "NEAR(a b, 5)", "^a", "a + b", "{body}: x", "*", "**", "a*b", "-", "--x",
           "'; DROP TABLE inbox; --", "\x00", "a\x00b", "\x01\x02", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "x" * 1025, " ".join("ab" for _ in range(70)), "\u202e", "a" * 1000, "%", "rank", "inbox_search"]


def test_no_query_is_answered_500(pair):
    alice, bob = pair
    assert alice.send(bob.pubkey, "something to find").status == 202
    bob.wait_inbox(1)
    for query in HOSTILE:
        answer = search(bob, query)
        assert answer.status in (200, 400), (query, answer)
        if answer.status == 400:
            assert answer.json["error"] == ("bad_request" if "\x00" in query else "invalid_query") and answer.json["detail"].endswith("."), (query, answer)
    for query in ("AND (", '"open', "", "   ", "x" * 1025):
        assert search(bob, query).status == 400, query
    assert bob.api.get("/v1/inbox/search").status == 400
    assert bob.api.get("/v1/inbox/search?q=%ff%fe").status == 400
    assert bob.api.get("/v1/inbox/search?q=%00").status in (200, 400)
    assert bob.new_api().get("/v1/inbox/search?q=" + "x" * 1000000).status == 400
    assert found(bob, "something")


def test_the_command_line_searches(pair):
    alice, bob = pair
    assert alice.send(bob.pubkey, "the needle is here", client_message_id="cli").status == 202
    bob.wait_inbox(1)
    shown = bob.cli("inbox", "search", "needle")
    assert shown.returncode == 0 and b"the [needle] is here" in shown.stdout and b"alice" in shown.stdout, shown
    refused = bob.cli("inbox", "search", "AND (", check=None)
    assert refused.returncode == 2 and b"makes no sense" in refused.stderr, refused
    assert b"nothing found" in bob.cli("inbox", "search", "absent").stderr


def test_without_the_index_a_search_says_so_and_with_it_again_everything_is_found(pair):
    alice, bob = pair
    assert alice.send(bob.pubkey, "before it was off").status == 202
    bob.wait_inbox(1)
    bob.down()
    bob.settings("[inbox]\nfts = false\n")
    bob.up()
    bob.wait_connected()
    answer = search(bob, "before")
    assert answer.status == 501 and answer.json["error"] == "search_disabled" and "inbox.fts" in answer.json["detail"]
    assert alice.send(bob.pubkey, "while it was off").status == 202
    bob.wait_inbox(2)
    bob.down()
    tables = sqlite3.connect(bob.config / "daemon" / "inbox.db").execute("SELECT name FROM sqlite_schema WHERE name LIKE 'inbox_search%'").fetchall()
    assert tables == []
    bob.settings("[inbox]\nfts = true\n")
    bob.up()
    bob.wait_connected()
    wait_for(lambda: len(found(bob, "off")) == 2, 20, "older rows to be indexed")
    wait_for(lambda: search(bob, "off").json["complete"], 20, "the index to be complete")


def test_an_inbox_of_the_first_version_opens_and_comes_into_the_index(world):
    broker = Broker(world)
    alice = Node(world, "alice")
    create_mesh(broker, alice)
    (alice.config / "daemon").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(ROOT / "tests" / "fixtures" / "databases" / "inbox-v1.db", alice.config / "daemon" / "inbox.db")
    alice.up()
    wait_for(lambda: search(alice, "message").json["complete"], 20, "the old rows to be indexed")
    assert len(found(alice, "old", limit=1000)) == len(alice.api.get("/v1/inbox?limit=1000").json["items"]) > 0


def test_pruned_messages_are_found_no_more_and_a_damaged_index_is_made_anew(pair):
    alice, bob = pair
    for number in range(30):
        assert alice.send(bob.pubkey, f"needle {number}", client_message_id=f"d{number}").status == 202
    bob.wait_inbox(30)
    bob.down()
    with sqlite3.connect(bob.config / "daemon" / "inbox.db") as database:
        database.execute("UPDATE inbox_search_data SET block = x'0011223344' WHERE id > 10")
    bob.up()
    bob.wait_connected()
    search(bob, "needle")
    assert alice.send(bob.pubkey, "needle last", client_message_id="d30").status == 202
    wait_for(lambda: search(bob, "needle").status == 200 and len(found(bob, "needle")) == 31, 30, "the index to be made anew")
