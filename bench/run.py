#!/usr/bin/python3
"""Measures what spec-wise must be fast and small, and prints a Markdown report (docs/benchmarks.md is one of them, with its machine).

    bench/run.py BUILD_DIRECTORY [--quick] [--only NAME[,NAME]]

Everything runs on loopback, in temporary directories, bounded in time. Redis and mosquitto are compared when they are installed."""

import argparse
import json
import os
import pathlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "system"))

parser = argparse.ArgumentParser()
parser.add_argument("build")
parser.add_argument("--quick", action="store_true")
parser.add_argument("--only", default="")
options = parser.parse_args()
BUILD = pathlib.Path(options.build).resolve()
os.environ["CLAUDEMESH_BINARY"] = str(BUILD / "src" / "claudemesh")

import harness  # noqa: E402

SECONDS = "2" if options.quick else "5"
rows = []


def report(what, figure, goal="", reached=None):
    rows.append((what, figure, goal, "" if reached is None else ("yes" if reached else "**no**")))
    print(f"| {what} | {figure} | {goal} | {rows[-1][3]} |", flush=True)


def tool(name, *arguments):
    done = subprocess.run([str(BUILD / "bench" / name), *map(str, arguments)], capture_output=True, text=True, timeout=600)
    if not done.stdout.strip():
        raise RuntimeError(f"{name}: {done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Town:
    def __init__(self, connect=True, broker=True):
        self.world = harness.World()
        self.broker = harness.Broker(self.world)
        self.alice, self.bob = harness.Node(self.world, "alice"), harness.Node(self.world, "bob")
        harness.create_mesh(self.broker, self.alice)
        harness.join(self.alice, self.bob)
        if not broker:
            self.broker.stop()
        self.alice.up("--tcp-port", "0")
        if connect:
            self.bob.up()
            self.alice.wait_connected()
            self.bob.wait_connected()
        for node in (self.alice, self.bob):
            node.log  # noqa: B018

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.world.close()


def fsync_speed():
    path = ROOT / ".bench-fsync"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    results = []
    for append in (False, True):
        started = time.monotonic()
        for number in range(1000):
            os.pwrite(descriptor, b"\0" * 4096, 4096 * (number + 1) if append else 0)
            os.fdatasync(descriptor)
        results.append((time.monotonic() - started))
    os.close(descriptor)
    path.unlink()
    return results


def bench_ceiling_and_accept():
    rates = {}
    for connections in (1, 8, 64):
        ceiling = tool("store_ceiling", "--seconds", SECONDS, "--outstanding", connections)
        rate = ceiling.get("per_second") or ceiling.get("accepts_per_second")
        rates[connections] = rate
        report(f"store ceiling, {connections} outstanding", f"{rate:,.0f}/s")
    with Town(connect=False, broker=False) as town:
        for connections in (1, 8, 64):
            result = tool("ipcload", "--socket", town.alice.socket_path, "--to", town.bob.pubkey, "--connections", connections, "--seconds", SECONDS)
            ratio = result["per_second"] / rates[connections]
            report(f"accept over the socket, {connections} connections, 256 bytes, link down",
                   f"{result['per_second']:,.0f}/s = {ratio:.2f} of the ceiling; p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms",
                   "≥ 0.80; p99 ≤ 10 ms" if connections == 64 else "", (ratio >= 0.8 and result["p99_ms"] <= 10) if connections == 64 else None)
            rates[f"accept{connections}"] = result["per_second"]
    with Town(connect=True) as town:
        result = tool("ipcload", "--socket", town.alice.socket_path, "--to", town.bob.pubkey, "--connections", 64, "--seconds", SECONDS)
        report("the same at 64 connections, link up and draining", f"{result['per_second']:,.0f}/s; p99 {result['p99_ms']:.2f} ms")
    redis(rates)


def redis(rates):
    server, bench = shutil.which("redis-server"), shutil.which("redis-benchmark")
    if not server or not bench:
        report("Redis XADD, appendfsync always", "not installed")
        return
    world = harness.World()
    try:
        port = harness.free_port()
        process = world.start([server, "--port", port, "--bind", "127.0.0.1", "--unixsocket", world.directory / "r.sock", "--dir", world.directory,
                               "--appendonly", "yes", "--appendfsync", "always", "--save", ""], world.directory / "redis.log")
        harness.wait_for(lambda: (world.directory / "r.sock").exists(), 10)
        goals = {1: 0.75, 8: 0.85, 64: 0.5}
        for connections in (1, 8, 64):
            count = 10000 * (1 if connections == 1 else connections // 2)
            started = time.monotonic()
            subprocess.run([bench, "-s", str(world.directory / "r.sock"), "-c", str(connections), "-n", str(count), "-q", "XADD", "s", "*", "f", "x" * 256],
                           capture_output=True, check=True)
            rate = count / (time.monotonic() - started)
            ratio = rates[f"accept{connections}"] / rate
            report(f"against Redis XADD always, {connections} connections", f"Redis {rate:,.0f}/s; ours {ratio:.2f} of it", f"≥ {goals[connections]}", ratio >= goals[connections])
    finally:
        world.close()


def bench_done_rows():
    count = 100000 if options.quick else 1000000
    empty = tool("store_ceiling", "--seconds", SECONDS, "--outstanding", 64)
    full = tool("store_ceiling", "--seconds", SECONDS, "--outstanding", 64, "--rows-done", count)
    pick = lambda result: result.get("per_second") or result.get("accepts_per_second")
    ratio = pick(full) / pick(empty)
    report(f"accept rate with {count:,} done rows", f"{ratio:.2f} of the rate when empty", "≥ 0.8", ratio >= 0.8)


def bench_end_to_end():
    count = 300 if options.quick else 2000
    with Town() as town:
        tool("eventlatency", "--from", town.alice.socket_path, "--to", town.bob.pubkey, "--at", town.bob.socket_path, "--count", 200)
        result = tool("eventlatency", "--from", town.alice.socket_path, "--to", town.bob.pubkey, "--at", town.bob.socket_path, "--count", count)
        report("POST on one daemon to the event on another", f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms",
               "p50 ≤ 1.5 ms, p99 ≤ 8 ms", result["p50_ms"] <= 1.5 and result["p99_ms"] <= 8)


def bench_drain():
    count = 20000 if options.quick else 100000
    with Town(connect=True) as town:
        town.broker.stop()
        town.alice.wait_connected(False)
        tool("ipcload", "--socket", town.alice.socket_path, "--to", town.bob.pubkey, "--connections", 64, "--count", count)
        started = time.monotonic()
        town.broker.start()

        def arrived():
            newest = town.bob.api.get("/v1/inbox?limit=1").json["items"]
            return newest and newest[0]["seq"]

        harness.wait_for(arrived, 60, "the first message")
        first, first_seq = time.monotonic(), arrived()
        harness.wait_for(lambda: town.bob.api.get("/v1/inbox?limit=1").json["items"][0]["seq"] >= count, 300, "all of them")
        ended = time.monotonic()
        rate = (count - first_seq) / (ended - first)
        report(f"drain of {count:,} queued messages into the recipient's inbox", f"{rate:,.0f}/s ({ended - started:.1f} s with the reconnect)", "≥ 10,000/s", rate >= 10000)
        memory = pss(town.alice.process.pid)
        report(f"the sender's memory after {count:,} sends (PSS)", f"{memory / 1024:.1f} MB", "≤ 20 MB", memory <= 20 * 1024)


def pss(pid):
    for line in open(f"/proc/{pid}/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def bench_start_and_memory():
    world = harness.World()
    try:
        node = harness.Node(world, "host")
        harness.fake_mesh(node, "ws://127.0.0.1:1/ws")
        node.up()
        node.down()
        times = []
        for _ in range(20):
            started = time.perf_counter()
            node.process = world.start([harness.BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--no-tcp"], node.log)
            while True:
                try:
                    connection = harness.UnixConnection(node.socket_path)
                    connection.request("GET", "/v1/health")
                    connection.getresponse().read()
                    connection.close()
                    break
                except OSError:
                    time.sleep(0.0005)
            times.append(time.perf_counter() - started)
            node.down()
        start = statistics.median(times) * 1000
        report("start after a clean stop: exec to the first health", f"{start:.1f} ms", "≤ 15 ms", start <= 15)
        node.up()
        memory = pss(node.process.pid)
        report("idle memory (PSS)", f"{memory / 1024:.1f} MB", "≤ 10 MB", memory <= 10 * 1024)
        api = node.new_api()
        request = {"to": node.pubkey, "message": "hello"}
        accept = []
        for _ in range(200):
            started = time.perf_counter()
            api.post("/v1/send", request)
            accept.append(time.perf_counter() - started)
        whole = []
        for _ in range(100):
            started = time.perf_counter()
            subprocess.run([harness.BINARY, "--config-dir", node.config, "send", node.pubkey, "hello", "--self"], capture_output=True, check=True, env=world.environment())
            whole.append(time.perf_counter() - started)
        noop = []
        for _ in range(100):
            started = time.perf_counter()
            subprocess.run(["/bin/true"], capture_output=True, env=world.environment())
            noop.append(time.perf_counter() - started)
        beyond = (statistics.median(whole) - statistics.median(accept) - statistics.median(noop)) * 1000
        report("claudemesh send, whole process, beyond the accept and beyond starting /bin/true", f"{beyond:.1f} ms (whole {statistics.median(whole) * 1000:.1f} ms)", "≤ 5 ms", beyond <= 5)
        node.down()
    finally:
        world.close()


def bench_mosquitto():
    """Beside ours: a broker of another kind, which does not sync what it accepts."""
    server, publish = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin"), shutil.which("mosquitto_pub")
    if not server:
        report("mosquitto", "not installed")
        return
    world = harness.World()
    try:
        port = harness.free_port()
        configuration = world.directory / "mosquitto.conf"
        configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n")
        started = time.perf_counter()
        process = world.start([server, "-c", configuration], world.directory / "mosquitto.log")
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.0005)
        report("mosquitto: exec to the first connection; idle memory (PSS)", f"{(time.perf_counter() - started) * 1000:.1f} ms; {pss(process.pid) / 1024:.1f} MB")
        if publish:
            count = 5000 if options.quick else 50000
            lines = ("x" * 256 + "\n").encode() * count
            started = time.perf_counter()
            subprocess.run([publish, "-h", "127.0.0.1", "-p", str(port), "-t", "bench", "-q", "1", "-l"], input=lines, check=True)
            report("mosquitto: QoS 1 publishes over one connection, in memory only", f"{count / (time.perf_counter() - started):,.0f}/s")
    finally:
        world.close()


def bench_broker():
    peers, each = (20, 200) if options.quick else (100, 1000)
    world = harness.World()
    try:
        broker = harness.Broker(world)
        owner = harness.Node(world, "owner")
        harness.create_mesh(broker, owner)
        link = owner.cli("mesh", "invite", "--max-uses", str(peers)).stdout.decode().strip()
        nodes = []
        for number in range(peers):
            node = harness.Node(world, f"p{number}")
            node.cli("join", link, "--yes", "--name", f"p{number}")
            nodes.append(node.mesh())
        helper = ROOT / "bench" / "broker_peers.py"
        per = (peers + 1) // 2
        files = []
        for part in range(2):
            path = world.directory / f"part{part}.json"
            path.write_text(json.dumps({"port": broker.port, "mine": nodes[part * per:(part + 1) * per], "all": [n["pubkey"] for n in nodes], "each": each}))
            files.append(path)
        processes = [subprocess.Popen([sys.executable, str(helper), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for path in files]
        for process in processes:
            assert process.stdout.readline().strip() == "ready"
        started = time.monotonic()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [json.loads(process.stdout.readline()) for process in processes]
        seconds = time.monotonic() - started
        for process in processes:
            process.stdin.close()
            process.wait(30)
        delivered = sum(result["received"] for result in results)
        peak = [int(line.split()[1]) for line in open(f"/proc/{broker.process.pid}/status") if line.startswith("VmHWM")][0] / 1024
        report(f"broker, {peers} peers × {each:,} direct messages at once", f"{delivered:,} of {peers * each:,} delivered, {delivered / seconds:,.0f}/s (clients in Python on the same 2 cores), peak {peak:.0f} MB",
               "all, ≥ 10,000/s, ≤ 150 MB", delivered == peers * each and delivered / seconds >= 10000 and peak <= 150)
    finally:
        world.close()


BENCHES = {"accept": bench_ceiling_and_accept, "done-rows": bench_done_rows, "end-to-end": bench_end_to_end, "drain": bench_drain,
           "start": bench_start_and_memory, "broker": bench_broker, "mosquitto": bench_mosquitto}

over, append = fsync_speed()
print(f"Machine: {os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}; fdatasync of 4 KiB: {over:.3f} ms to overwrite, {append:.3f} ms to append. "
      f"{'Quick run. ' if options.quick else ''}{time.strftime('%Y-%m-%d')}\n")
print("| what | measured | goal | reached |\n| --- | --- | --- | --- |")
wanted = [name for name in options.only.split(",") if name] or list(BENCHES)
for name in wanted:
    BENCHES[name]()
