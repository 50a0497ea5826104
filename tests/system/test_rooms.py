"""docs/architecture.md, "Rooms": the table held against the #include lines."""

import re

from harness import ROOT

OWN = {
    "util": "", "json": "util", "crypto": "util", "proto": "util json crypto", "config": "util json", "identity": "util json crypto config",
    "db": "util", "outbox": "util db json crypto", "inbox": "util db json crypto", "trust": "util db json crypto proto", "net": "util", "privilege": "util",
    "backup": "util json crypto config identity db outbox trust inbox",
    "rescue": "util crypto config identity db outbox inbox backup",
    "link": "util json crypto proto identity net",
    "delivery": "util json crypto proto identity db outbox inbox trust net link",
    "hooks": "util json config net",
    "ipc": "util json crypto proto config identity db outbox inbox trust net link delivery",
    "daemon": "backup util json crypto proto config identity db outbox inbox trust net link delivery hooks ipc privilege",
    "broker": "util json crypto proto db net config broker/store privilege",
    "broker/store": "util json crypto db",
    "cli": "backup rescue util json crypto proto config identity net link delivery hooks daemon broker privilege",
}
LIBRARIES = {
    "jansson.h": "*", "openssl/": "crypto net", "sodium": "crypto", "sqlite3.h": "db outbox inbox trust rescue broker/store", "event2/": "net",
    "wslay/": "net", "zlib.h": "net", "utf8proc.h": "trust", "seccomp.h": "privilege", "qrencode.h": "cli", "uthash.h": "*", "utlist.h": "*",
}


def room_of(path):
    relative = path.relative_to(ROOT / "src")
    return "/".join(relative.parts[:-1])


def test_every_include_is_allowed_by_the_table_of_rooms():
    wrong = []
    for path in sorted((ROOT / "src").rglob("*.[ch]")):
        room = room_of(path)
        if not room:
            continue  # main.c
        allowed = set(OWN[room].split()) | {room}
        for line in path.read_text().splitlines():
            if match := re.match(r'\s*#\s*include\s*"([^"]+)"', line):
                target = match.group(1)
                target_room = "/".join(target.split("/")[:-1])
                if target_room not in allowed:
                    wrong.append(f"{path.relative_to(ROOT)} includes {target}")
                if not (ROOT / "src" / target).exists():
                    wrong.append(f"{path.relative_to(ROOT)} includes {target}, which is not there")
            elif match := re.match(r"\s*#\s*include\s*<([^>]+)>", line):
                for prefix, rooms in LIBRARIES.items():
                    if match.group(1).startswith(prefix) and rooms != "*" and room not in rooms.split():
                        wrong.append(f"{path.relative_to(ROOT)} includes <{match.group(1)}>")
    assert not wrong, "\n".join(wrong)


def test_every_room_of_the_source_is_in_the_table():
    rooms = {room_of(path) for path in (ROOT / "src").rglob("*.c")} - {""}
    assert rooms <= set(OWN)


def test_no_path_of_a_machine_and_no_todo_in_the_sources():
    for path in [*(ROOT / "src").rglob("*.[ch]"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        text = path.read_text()
        assert "/work/" not in text and "/root/" not in text, path
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), path
