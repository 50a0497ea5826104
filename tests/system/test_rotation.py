"""A member's key is replaced (50-identity, Key rotation; 45-trust): by its daemon or without one, under traffic, across deaths, and as its peers see it."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

import front
import harness
from harness import Broker, Node, create_mesh, deadline, join, wait_for


def bodies(count):
    texts = [message["body"] for message in harness.messages(count)]
    return [texts[index % len(texts)] if texts else f"message {index}" for index in range(count)]


@pytest.fixture
def pair(world):
    broker = Broker(world)
    alice, bob = Node(world, "alice"), Node(world, "bob")
    create_mesh(broker, alice)
    join(alice, bob, "bob")
    alice.up()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    wait_for(lambda: any(member["name"] == "bob" for member in alice.json("member", "list")["members"]), 15, "alice to know bob")
    return broker, alice, bob


def archive(node):
    with open(node.path("keypair-archive.json")) as file:
        return json.load(file)


def rotate(node, *arguments, **more):
    return node.json("daemon", "rotate-keypair", *arguments, **more)


def received(node):
    return [item["body"] for item in node.inbox()]


def test_a_key_is_replaced_and_both_sides_go_on(pair):
    broker, alice, bob = pair
    old = bob.pubkey
    alice.send("bob", "before")
    bob.wait_inbox(1)
    answer = rotate(bob)
    assert answer["old_pubkey"] == old and answer["new_pubkey"] == bob.pubkey != old
    bob.wait_connected()
    kept = archive(bob)
    assert kept["schema_version"] == 1 and kept["max_archived_keys"] == 8 and [key["ed25519_pubkey"] for key in kept["keys"]] == [old]
    assert oct(os.stat(bob.path("keypair-archive.json")).st_mode & 0o777) == "0o600"
    wait_for(lambda: any(member["name"] == "bob" and member["pubkey"] == bob.pubkey and member["verified"] for member in alice.json("member", "list")["members"]),
             15, "alice to know the new key")
    alice.send("bob", "by name, after")
    alice.send(old, "to the old key, after")
    bob.wait_inbox(3)
    bob.send("alice", "from the new key")
    alice.wait_inbox(1)
    item = alice.inbox()[0]
    assert item["sender_pubkey"] == bob.pubkey and item["sender_name"] == "bob" and item["verified"] is True
    assert received(bob) == ["before", "by name, after", "to the old key, after"]
    assert "nextSecretKey" not in bob.mesh() and "spareSecretKey" not in bob.mesh()
