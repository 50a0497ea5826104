"""Prints what gcovr counted, by room and file, and the functions that no test called. Exits 1 when a room that is held to a figure misses it."""

import json
import pathlib
import sys

FLOOR = 90.0
HELD = ("crypto", "json", "proto", "db", "outbox", "inbox", "delivery", "broker", "broker/store")


def room_of(name):
    return str(pathlib.PurePosixPath(name).parent.relative_to("src"))


def percent(covered, total):
    return 100.0 * covered / total if total else 100.0


def main(directory):
    files = json.loads((directory / "summary.json").read_text())["files"]
    rooms = {}
    for file in files:
        rooms.setdefault(room_of(file["filename"]), []).append(file)
    missed = [room for room in HELD if room not in rooms]
    print(f"{'lines':>13}{'':9} room, file")
    for room, members in sorted(rooms.items()):
        covered, total = sum(file["line_covered"] for file in members), sum(file["line_total"] for file in members)
        low = room in HELD and percent(covered, total) < FLOOR
        if low:
            missed.append(room)
        print(f"{covered:6}/{total:6} {percent(covered, total):6.1f} % {room}/{f'   below {FLOOR:.0f} %' if low else ''}")
        for file in sorted(members, key=lambda file: file["filename"]):
            name = pathlib.PurePosixPath(file["filename"]).name
            print(f"{file['line_covered']:6}/{file['line_total']:6} {percent(file['line_covered'], file['line_total']):6.1f} %     {name}")

    uncalled = []
    for file in json.loads((directory / "lines.json").read_text())["files"]:
        for function in file["functions"]:
            if not function["execution_count"]:
                uncalled.append(f"{file['file']}:{function['lineno']} {function['name']}")
    print(f"\nfunctions that no test called: {len(uncalled)}")
    for line in sorted(uncalled):
        print(f"  {line}")
    print()
    for room in missed:
        print(f"FAILED: {room} has less than {FLOOR:.0f} % of its lines covered")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
