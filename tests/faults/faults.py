"""Each call that can fail, made to fail in turn, over the main flows (flows.py). Standard library only.

  faults.py                          the long form: every call of every class; of the allocations, the first from every place (half an hour and more)
  faults.py --sample 200 --seed 7    that many cases, chosen by the seed
  faults.py --flow accept --class write --error EIO --call pwrite --site 0123… --at 2      one case again: what a failure prints
  faults.py --count                  only how many calls of which class each flow makes
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import random
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from flows import FLOWS, Broken, Fault  # noqa: E402
from layer import CLASSES, LIBRARY, RECORD_ALL, errors_of, harness  # noqa: E402

# Of the calls from one place, at most so many are made to fail: the first ones, and some of the later.
CALLS_A_PLACE = 12
LONGEST_FIRST = ["restart", "start", "reconnect", "serve-start", "serve-restart", "create", "join", "stop", "receive", "accept", "serve", "operate", "ask", "send-cold",
                 "invite", "send-warm", "up", "backup", "restore", "reset", "accept-host", "remint"]


def record(flow):
    """The calls that the flow makes, without a fault: (class, call, site) in order; and how many of each class."""
    counting = Fault("alloc", "ENOMEM", at=0)
    counting.select = lambda layer: layer.select(record=RECORD_ALL)
    flow.attempt(counting)
    return flow.layer.calls(), flow.layer.counts


def cases_of(calls, kinds, kills=False):
    """Every call in turn, named by its place and its number there, with every error that it may give."""
    cases = []
    for (kind, call, site), count in collections.Counter(call for call in calls if call[0] in kinds).items():
        numbers = range(1, count + 1)
        if kind == "alloc":
            numbers = [1] if count == 1 else [1, (count + 1) // 2 + 1]
        elif count > CALLS_A_PLACE:
            half = CALLS_A_PLACE // 2
            numbers = sorted(set(range(1, half + 1)) | {half + 1 + (count - half - 1) * i // half for i in range(1, half + 1)})
        for error in errors_of(kind, call, kills):
            cases += [Fault(kind, error, call, site, at) for at in numbers]
    return cases


class Result:
    def __init__(self, flow):
        self.flow, self.counts, self.places = flow, {}, {}
        self.cases = self.reached = self.deaths = 0
        self.failures = []
        self.seconds = 0.0


def replay_command(name, fault):
    return f"{sys.executable} tests/faults/faults.py --flow {name} {fault.arguments()}"


def run_case(result, name, flow, fault):
    """False: the world is no longer to be trusted."""
    result.cases += 1
    try:
        flow.attempt(fault)
        result.reached += 1 if flow.layer.fired else 0
        return True
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported, and the next case gets a new world
        text = str(error) if isinstance(error, Broken) else "".join(traceback.format_exception(error)[-3:])
        where = flow.layer.failed()
        for log in sorted(flow.world.directory.rglob("*.log")):
            where += f"\n  {log.name}: ..." + log.read_text(errors="replace")[-700:]
        result.failures.append({"replay": replay_command(name, fault), "what": text, "call": where})
        print(f"FAILED {replay_command(name, fault)}\n  {text}\n  {where}", flush=True)
        return False


def open_flow(name):
    world = harness.World()
    try:
        return FLOWS[name](world)
    except BaseException:
        world.close()
        raise


def close_flow(flow):
    try:
        flow.world.close()
    except AssertionError as error:
        return str(error)
    return None


def run_flow(name, kinds, choose, limit_seconds=None):
    """choose(cases) picks from all cases of a flow. Returns a Result."""
    result, started = Result(name), time.monotonic()
    try:
        flow = open_flow(name)
    except Exception as error:  # noqa: BLE001
        result.failures.append({"replay": f"--flow {name}", "what": "the healthy flow: " + "".join(traceback.format_exception(error)[-3:]), "call": ""})
        return result
    try:
        calls, result.counts = record(flow)
        result.places = collections.Counter(call[0] for call in set(calls))
        cases = cases_of(calls, kinds, flow.kills)
        for fault in choose(cases):
            if limit_seconds is not None and time.monotonic() - started > limit_seconds:
                break
            if not run_case(result, name, flow, fault):
                result.deaths += flow.deaths
                close_flow(flow)
                flow = open_flow(name)
        result.deaths += flow.deaths
    except Exception as error:  # noqa: BLE001
        result.failures.append({"replay": f"--flow {name}", "what": "the healthy flow: " + "".join(traceback.format_exception(error)[-3:]), "call": ""})
    finally:
        problem = close_flow(flow)
        if problem:
            result.failures.append({"replay": f"--flow {name}", "what": problem, "call": ""})
    result.seconds = time.monotonic() - started
    return result


def chooser(sample, seed):
    def choose(cases):
        if sample is None:
            return sorted((fault for fault in cases if fault.kind != "alloc" or fault.at == 1), key=lambda fault: fault.kind == "alloc")
        picked = random.Random(seed)
        # Each class in turn, so that the allocations, which are most, do not push the others out.
        groups = collections.defaultdict(list)
        for fault in cases:
            groups[fault.kind].append(fault)
        for group in groups.values():
            picked.shuffle(group)
        taken = []
        while len(taken) < sample and any(groups.values()):
            for kind in CLASSES:
                if groups.get(kind) and len(taken) < sample:
                    taken.append(groups[kind].pop())
        return taken
    return choose


def run_named(arguments):
    name, kinds, sample, seed, limit = arguments
    return run_flow(name, kinds, chooser(sample, seed), limit)


def print_result(result):
    counts = " ".join(f"{kind} {count}/{result.places.get(kind, '-')}" for kind, count in result.counts.items() if count)
    print(f"{result.flow}: {result.cases} cases, {result.reached} reached, {result.deaths} ends, {len(result.failures)} failures, {result.seconds:.0f} s\n"
          f"  calls/places: {counts}", flush=True)
    for failure in result.failures:
        if not failure["call"]:
            print(f"  {failure['replay']}: {failure['what']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", action="append", choices=list(FLOWS))
    parser.add_argument("--class", dest="kind", action="append", choices=CLASSES)
    parser.add_argument("--sample", type=int, help="cases a flow")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, help="seconds a flow")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--json", help="write the results there")
    for name in ("error", "call", "path"):
        parser.add_argument("--" + name, default="")
    parser.add_argument("--kind", dest="fd_kind", default="any")
    parser.add_argument("--site", type=lambda text: int(text, 16), default=0)
    parser.add_argument("--at", type=int)
    parser.add_argument("--until", type=int)
    options = parser.parse_args()
    if not LIBRARY.exists():
        raise SystemExit(f"{LIBRARY} is not built (ninja -C build tests/faults/fault_layer.so)")
    if options.at is not None:
        if len(options.flow or []) != 1 or len(options.kind or []) != 1 or not options.error:
            raise SystemExit("--at needs one --flow, one --class and an --error")
        fault = Fault(options.kind[0], options.error, options.call, options.site, options.at, options.until, options.path, options.fd_kind)
        result = Result(options.flow[0])
        flow = open_flow(options.flow[0])
        try:
            run_case(result, options.flow[0], flow, fault)
            print(flow.layer.failed() or "the call was not reached")
        finally:
            close_flow(flow)
        print("failed" if result.failures else "passed")
        return 1 if result.failures else 0
    names, kinds = options.flow or sorted(FLOWS, key=LONGEST_FIRST.index), options.kind or CLASSES
    sample = 0 if options.count else options.sample
    results = []
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        waiting = [pool.submit(run_named, (name, kinds, sample, options.seed, options.limit)) for name in names]
        for future in concurrent.futures.as_completed(waiting):
            results.append(future.result())
            print_result(results[-1])
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps([vars(result) for result in results], indent=1))
    failures = sum(len(result.failures) for result in results)
    print(f"{sum(result.cases for result in results)} cases, {sum(result.reached for result in results)} reached, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
