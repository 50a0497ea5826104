"""Daemons that race for one configuration directory: exactly one runs (90-quality), also after the winner was killed."""

import os
import signal
import threading

from harness import BINARY, SLOW, Node, wait_for

ROUNDS = 20
RIVALS = 3


def start_at_once(world, node, logs):
    barrier = threading.Barrier(RIVALS)
    processes = [None] * RIVALS

    def start(index):
        barrier.wait()
        processes[index] = world.start([BINARY, "--config-dir", node.config, "daemon", "up", "--foreground", "--no-tcp"], logs[index])

    threads = [threading.Thread(target=start, args=(index,)) for index in range(RIVALS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return processes


def test_of_daemons_that_start_at_the_same_instant_exactly_one_runs(world):
    node = Node(world, "host")
    logs = [world.directory / f"rival-{index}.log" for index in range(RIVALS)]
    for number in range(ROUNDS):
        processes = start_at_once(world, node, logs)

        def decided():
            return [process for process in processes if process.poll() is not None] if sum(
                process.poll() is not None for process in processes) >= RIVALS - 1 else None

        losers = wait_for(decided, 30, "all but one to give up")
        winner = next(process for process in processes if process.poll() is None)
        assert len(losers) == RIVALS - 1
        for process in losers:
            log = logs[processes.index(process)].read_text().splitlines()
            said = logs[processes.index(process)].read_text()
            assert process.returncode == 1 and "already running" in said, said
        node.process = winner
        node.wait_ready()
        assert node.health()["pid"] == winner.pid
        assert int(node.path("daemon.pid").read_text()) == winner.pid
        node.api.close()
        # killed or asked to stop: the next round finds a lock that is free, and a socket and a number that may be stale
        winner.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        winner.wait(15 * SLOW)


def test_a_rival_that_waits_for_the_winners_death_takes_over_at_once(world):
    node = Node(world, "host")
    node.up()
    for _ in range(5):
        rivals = start_at_once(world, node, [world.directory / f"late-{index}.log" for index in range(RIVALS)])
        for process in rivals:
            assert process.wait(15 * SLOW) == 1
        assert node.health()["pid"] == node.process.pid, "a rival took the socket"
        node.kill()
        node.up()
    assert os.path.exists(node.socket_path)
