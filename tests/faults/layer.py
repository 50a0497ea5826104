"""The driver's side of fault_layer.c: the file that both share, the classes, what may fail with what."""

import errno
import mmap
import os
import pathlib
import re
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))

import harness  # noqa: E402

LIBRARY = pathlib.Path(os.environ.get("CLAUDEMESH_FAULT_LAYER", pathlib.Path(harness.BINARY).resolve().parents[1] / "tests" / "faults" / "fault_layer.so"))

# In the order of fault_layer.c.
CLASSES = ["alloc", "open", "read", "write", "sync", "truncate", "name", "look", "close", "socket", "transfer", "event", "map", "thread", "lock", "random"]
KINDS = {"any": 0, "file": 1, "socket": 2, "other": 3}
SHORT = -1
KILL = -2  # the process ends there, at once
RECORD_NOTHING, RECORD_CLASS, RECORD_ALL = range(3)
FOR_EVER = 2**64 - 1

# What each call is made to fail with. "*" in a class: every call of it that is not named.
ERRORS = {
    "alloc": {"*": ["ENOMEM"]},
    "open": {"*": ["EMFILE", "ENOSPC", "EACCES"]},
    "read": {"*": ["EIO", "EINTR", "SHORT"]},
    "write": {"*": ["ENOSPC", "EIO", "EINTR", "SHORT"]},
    "sync": {"*": ["EIO", "ENOSPC"]},
    "truncate": {"*": ["ENOSPC", "EIO"]},
    "name": {"*": ["EIO", "ENOSPC"]},
    "look": {"*": ["EIO"]},
    "close": {"*": ["EIO", "EINTR"]},
    "socket": {"*": ["EMFILE", "ENOBUFS"], "accept4": ["EMFILE", "ENFILE", "ECONNABORTED", "ENOBUFS", "EINTR"], "connect": ["ECONNREFUSED", "ETIMEDOUT", "EINTR"],
               "bind": ["EACCES", "EADDRINUSE"]},
    "transfer": {"*": ["ECONNRESET", "EINTR", "EAGAIN", "SHORT"], "send": ["ECONNRESET", "EPIPE", "EINTR", "EAGAIN", "SHORT"],
                 "sendmsg": ["ECONNRESET", "EPIPE", "EINTR", "EAGAIN", "SHORT"]},
    "event": {"*": ["EMFILE", "ENOMEM"], "epoll_wait": ["EINTR"], "read": ["EINTR"], "write": [], "poll": ["EINTR"], "nanosleep": ["EINTR"], "epoll_ctl": ["ENOMEM", "ENOSPC"]},
    "map": {"*": ["ENOMEM"], "mlock": ["EAGAIN"]},
    "thread": {"*": ["EAGAIN"]},
    "lock": {"*": ["ENOLCK"], "flock": ["ENOLCK", "EINTR"]},
    "random": {"*": ["ENOSYS"], "getrandom": ["EINTR"]},
}

# These the process must get over as if nothing had happened.
INVISIBLE = {("read", "EINTR"), ("read", "SHORT"), ("write", "EINTR"), ("write", "SHORT"), ("transfer", "EINTR"), ("transfer", "SHORT"),
             ("transfer", "EAGAIN"), ("event", "EINTR"), ("close", "EINTR"), ("lock", "EINTR"), ("random", "EINTR")}


# Where a sudden end can leave something half done.
ENDS = ("open", "write", "sync", "truncate", "name")


def errors_of(kind, call, kills=False):
    """kills: the flow is also to be killed at each call that changes what is on the disk."""
    table = ERRORS[kind]
    return table.get(call, table["*"]) + (["KILL"] if kills and kind in ENDS else [])


class Layer:
    """One shared file. Layout: struct fault_state."""

    HEAD = struct.Struct("=IIIiQQQII32s128s256s")
    NUMBERS = struct.Struct("=QQ" + "Q" * len(CLASSES))
    MAGIC = 0x434D4654

    def __init__(self, directory):
        self.path = pathlib.Path(directory) / "fault-state"
        self.log = pathlib.Path(directory) / "fault-log"
        size = self.HEAD.size + self.NUMBERS.size
        self.path.write_bytes(b"\0" * size)
        with open(self.path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), size)
        self.select()

    @property
    def environment(self):
        return {"LD_PRELOAD": str(LIBRARY), "CLAUDEMESH_FAULTS": str(self.path), **harness.UNCONFINED}

    def select(self, kind="alloc", call="", error="ENOMEM", at=0, until=None, site=0, path="", fd_kind="any", record=RECORD_NOTHING, log=True):
        """What is meant from now on; not armed, nothing counted."""
        number = {"SHORT": SHORT, "KILL": KILL}.get(error) or getattr(errno, error)
        self.arm(False)
        self.NUMBERS.pack_into(self.map, self.HEAD.size, *([0] * (2 + len(CLASSES))))
        self.HEAD.pack_into(self.map, 0, self.MAGIC, 0, CLASSES.index(kind), number, at, at if until is None else until, site, KINDS[fd_kind],
                            record, call.encode(), path.encode(), str(self.log).encode() if log else b"")
        self.log.unlink(missing_ok=True)

    def arm(self, armed=True):
        struct.pack_into("=I", self.map, 4, 1 if armed else 0)

    def _numbers(self):
        return self.NUMBERS.unpack_from(self.map, self.HEAD.size)

    @property
    def matched(self):
        return self._numbers()[0]

    @property
    def fired(self):
        return self._numbers()[1]

    @property
    def counts(self):
        return dict(zip(CLASSES, self._numbers()[2:]))

    def calls(self):
        """What was recorded: (class, call, site), in order."""
        found = []
        if self.log.exists():
            for line in self.log.read_text(errors="replace").splitlines():
                part = line.split(" ")
                if part[0] == "call" and len(part) >= 6:
                    found.append((CLASSES[int(part[3])], part[4], int(part[2], 16)))
        return found

    def failed(self):
        """The line about the call that was made to fail, with our own callers' files and lines."""
        if not self.log.exists():
            return ""
        text = "\n".join(line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("failed"))
        return re.sub(r"claudemesh\+(0x[0-9a-f]+)", lambda found: place_of(int(found.group(1), 16) - 1), text)


def place_of(offset):
    try:
        out = subprocess.run(["addr2line", "-fse", harness.BINARY, hex(offset)], capture_output=True, text=True, timeout=20).stdout.split()
        return f"{out[0]}({out[1]})"
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return f"claudemesh+{offset:#x}"
