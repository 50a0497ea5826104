"""Names of brokers are found by a confined daemon where /etc/resolv.conf is a link to a place of the system's own (WSL, NixOS, SUSE)."""

import json
import os
import subprocess
import sys

import pytest

from harness import BINARY, Broker, Node, create_mesh, wait_for

# The only name server is one that says 127.0.0.1 to everything; it is named by a file that only the link leads to.
INSIDE = """
import os, socket, struct, subprocess, sys, threading
binary, config, place = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
os.mkdir(place)
open(place + "/names", "w").write("nameserver 127.0.0.2\\noptions timeout:1 attempts:1\\n")
subprocess.run(["cp", "-a", "/etc", place + ".etc"], stderr=subprocess.DEVNULL)
if os.path.lexists(place + ".etc/resolv.conf"):
    os.unlink(place + ".etc/resolv.conf")
os.symlink(place + "/names", place + ".etc/resolv.conf")
open(place + ".etc/nsswitch.conf", "w").write("hosts: files dns\\n")
subprocess.run(["mount", "--bind", place + ".etc", "/etc"], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.2", 53))
def serve():
    while True:
        query, peer = server.recvfrom(512)
        end = query.index(b"\\0", 12) + 5
        is_a = query[end - 4:end - 2] == b"\\0\\1"
        answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4\\x7f\\0\\0\\1" if is_a else b""
        server.sendto(query[:2] + b"\\x81\\x80\\0\\1" + struct.pack(">H", is_a) + b"\\0\\0\\0\\0" + query[12:end] + answer, peer)
threading.Thread(target=serve, daemon=True).start()
sys.exit(subprocess.run([binary, "--config-dir", config, "daemon", "up", "--foreground", "--no-tcp"]).returncode)
"""


def test_names_are_found_where_resolv_conf_leads_elsewhere(world):
    unshare = ["unshare", "-mn"] if os.geteuid() == 0 else ["unshare", "-Urmn"]
    if subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], capture_output=True).returncode != 0:
        pytest.skip("no network namespace here")
    broker, alice = Broker(world), Node(world, "alice")
    create_mesh(broker, alice)
    path = alice.config / "config.json"
    document = json.loads(path.read_text())
    document["meshes"][0]["brokerUrl"] = "ws://broker.example:1/ws"  # nobody listens there: a refusal means that the name was found
    path.write_text(json.dumps(document))
    alice.settings("[broker]\nallow_insecure = true\n[daemon]\nlog_level = 'debug'\n")
    process = world.start([*unshare, sys.executable, "-c", INSIDE, BINARY, alice.config, world.directory / "elsewhere"], alice.log)
    wait_for(lambda: "refused" in alice.log.read_text() or process.poll() is not None, 20, "a connection that is refused")
    assert process.poll() is None
    pid = next(json.loads(line)["pid"] for line in alice.log.read_text().splitlines() if '"daemon_ready"' in line)
    os.kill(pid, 15)
    assert process.wait(15) == 0
