"""A daemon's years, as docs/operations.md has them: installed as a service, copied to another host, its key replaced under traffic, its disk full and free again, moved to another house
from a backup, and gone without a trace. Each part has tests of its own; this one has them in a row, on one installation with real messages."""

import re
import shutil
import socket
import threading

from disk import disks, needs_mount  # noqa: F401 (a fixture)
from harness import SLOW, Broker, Node, create_mesh, join, messages, wait_for
from test_host import host

BODIES = [message["body"] for message in messages(400)]


class Service:
    """What a service manager does with a unit: reads its command, starts it, waits for what it is told."""

    def __init__(self, world, home, node):
        self.world, self.home, self.node = world, home, node
        self.unit = home / ".config/systemd/user/claudemesh-daemon.service"
        self.address = str(world.directory / f"notify-{home.name}")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listener.bind(self.address)
        world.closers.append(self.listener.close)

    def start(self):
        line = next(line for line in self.unit.read_text().splitlines() if line.startswith("ExecStart="))
        words = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line.removeprefix("ExecStart="))]
        environment = self.world.environment(**{**self.node.more_environment, "NOTIFY_SOCKET": self.address})
        self.node.process = self.world.start(words, self.node.log, environment)
        self.listener.settimeout(20 * SLOW)
        while b"READY=1" not in self.listener.recv(4096):
            pass
        self.node.wait_ready()
        self.node.wait_connected()

    def stop(self):
        self.node.down()


def node_at(world, name, home, environment):
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    node = Node(world, name, {**environment, "HOME": str(home)})
    node.config = home / ".claudemesh"
    return node


def everything_below(home):
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def bodies_of(node):
    return [item["body"] for item in node.inbox()]


def talk(sender, to, prefix, statuses):
    for index, body in enumerate(BODIES[:150]):
        statuses.append(sender.new_api().post("/v1/send", {"to": to, "message": f"{prefix}{index}\n{body}",
                                                          "client_message_id": f"{prefix}{index}"}).status)


@needs_mount
def test_a_daemon_lives_through_all_that_operators_do_to_it(disks, world):  # noqa: F811
    disk = disks("tmpfs", 256)
    broker = Broker(world)
    broker.start()
    alice = Node(world, "alice", host(world, "one", "1" * 32, eth0="00:11:22:33:44:01"))
    create_mesh(broker, alice)
    alice.up()

    # Installed as a new user would.
    first_house = host(world, "two", "2" * 32, eth0="00:11:22:33:44:02")
    home = disk.path / "bob"
    bob = node_at(world, "bob", home, first_house)
    join(alice, bob)
    bob.settings("[ipc]\ntcp_enabled = false\n")
    bob.cli("daemon", "install-service", "--user")
    service = Service(world, home, bob)
    service.start()
    assert b"nothing is wrong" in bob.cli("doctor").stdout
    for index, body in enumerate(BODIES[:20]):
        assert alice.send("bob", f"a{index}\n{body}").status == 202
    bob.wait_inbox(20)

    # Copied to another host: refused, then accepted there.
    copy = node_at(world, "copy", world.directory / "copied-home", host(world, "three", "3" * 32, eth0="00:11:22:33:44:03"))
    shutil.copytree(home / ".claudemesh", copy.config, ignore=lambda _directory, names: [name for name in names if name.endswith(".sock")])
    refused = copy.cli("daemon", "up", "--no-tcp", check=4)
    assert b"accept-host" in refused.stderr and b"remint" in refused.stderr
    service.stop()
    copy.cli("daemon", "accept-host")
    copy.up()
    copy.wait_connected()
    assert alice.send("bob", "to the copy").status == 202
    wait_for(lambda: "to the copy" in bodies_of(copy), 30, "the copy's message")
    copy.down()
    service.start()

    # The key is replaced while both sides talk.
    statuses, before = [], bob.pubkey
    talkers = [threading.Thread(target=talk, args=(alice, "bob", "to-bob-", statuses)),
               threading.Thread(target=talk, args=(bob, "alice", "to-alice-", statuses))]
    for talker in talkers:
        talker.start()
    wait_for(lambda: len(statuses) > 40, 60, "talk")
    bob.cli("daemon", "rotate-keypair")
    for talker in talkers:
        talker.join()
    assert set(statuses) == {202} and bob.pubkey != before

    def arrived(node, prefix):
        return sorted(body.split("\n")[0] for body in bodies_of(node) if body.startswith(prefix))

    for node, prefix in ((bob, "to-bob-"), (alice, "to-alice-")):
        wait_for(lambda: len(arrived(node, prefix)) >= 150, 60, f"everything {prefix}")
        assert arrived(node, prefix) == sorted(f"{prefix}{index}" for index in range(150))

    # The disk fills, and is freed.
    disk.fill()
    accepted = []

    def full():
        answer = bob.send("alice", f"full-{len(accepted)}\n" + BODIES[0], client_message_id=f"full-{len(accepted)}")
        if answer.status == 202:
            accepted.append(f"full-{len(accepted)}")
        return answer.status == 507
    wait_for(full, 60, "a refusal")
    wait_for(lambda: not bob.health()["ok"], 30, "health to say so")
    disk.free()
    wait_for(lambda: bob.send("alice", "room again", client_message_id="room").status in (200, 202), 60, "room")
    wait_for(lambda: bob.health()["ok"], 60, "health to be well")
    wait_for(lambda: len(arrived(alice, "full-")) >= len(accepted), 60, "what was accepted")
    assert arrived(alice, "full-") == sorted(accepted)
    wait_for(lambda: bob.outbox_counts() == (0, 0, 0), 60, "an empty queue")

    # To another house, from a backup; the old one is not uninstalled, it is removed.
    passphrase = world.directory / "passphrase"
    passphrase.write_text("four words of passphrase\n")
    passphrase.chmod(0o600)
    backup = world.directory / "bob.backup"
    bob.cli("daemon", "backup", "--out", backup, "--with-data", "--passphrase-file", passphrase)
    service.stop()
    bob.cli("daemon", "uninstall-service")
    shutil.rmtree(bob.config)
    new_home = world.directory / "new-house"
    moved = node_at(world, "moved", new_home, host(world, "four", "4" * 32, eth0="00:11:22:33:44:04"))
    assert everything_below(new_home) == []
    moved.cli("daemon", "restore", "--in", backup, "--passphrase-file", passphrase)
    moved.cli("daemon", "install-service", "--user")
    service = Service(world, new_home, moved)
    service.start()
    assert arrived(moved, "to-bob-") == sorted(f"to-bob-{index}" for index in range(150))
    again = moved.send("alice", f"to-alice-7\n{BODIES[7]}", client_message_id="to-alice-7")
    assert (again.status, again.json["duplicate"]) == (200, True)
    assert alice.send("bob", "welcome home").status == 202
    wait_for(lambda: "welcome home" in bodies_of(moved), 60, "the first message there")

    # Gone, and nothing is left; the mesh knows.
    moved.api.close()
    moved.cli("daemon", "uninstall", "--yes")
    assert moved.process.wait(30) == 0
    assert everything_below(new_home) == []
    wait_for(lambda: [member["name"] for member in alice.json("member", "list")["members"]] == ["alice"], 30, "the leave")
    assert len(arrived(alice, "to-alice-")) == 150  # nothing came twice on the way
