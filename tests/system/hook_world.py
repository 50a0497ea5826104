"""Hooks for tests: programs written into a node's hooks directory, and the ledgers that they keep."""

import json
import os
import shlex
import stat
import textwrap

from harness import wait_for

PYTHON = "/usr/bin/python3"


def hook(node, name, body, *, toml="", extension=".py", interpreter=PYTHON, mode=0o700, section=True):
    """Writes a hook in Python (its event is `event`, `ledger(text)` appends a line to the test's ledger) and its section of hooks.toml."""
    directory = node.config / "daemon" / "hooks"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(node.config, 0o700)
    os.chmod(directory, 0o700)
    path = directory / (name + extension)
    head = f"""\
        #!{interpreter}
        import json, os, sys, time, socket, http.client
        event = json.load(sys.stdin)
        def ledger(text):
            with open({str(ledger_path(node))!r}, "a") as file:
                file.write(json.dumps(text) + "\\n")
        class Api(http.client.HTTPConnection):
            def __init__(self, path=None):
                super().__init__("localhost", timeout=60)
                self.path = path or os.environ["CLAUDEMESH_DAEMON_SOCK"]
            def connect(self):
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(self.path)
        def call(method, path, body=None, token=os.environ.get("CLAUDEMESH_CAPABILITY_TOKEN"), sock=None, scheme="Capability"):
            api = Api(sock)
            headers = {{"Content-Type": "application/json"}}
            if token is not None:
                headers["Authorization"] = scheme + " " + token
            api.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = api.getresponse()
            return [answer.status, json.loads(answer.read() or b"null")]
        """
    path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    path.chmod(mode)
    if section:
        configure(node, name, toml)
    return path


def shell_hook(node, name, body, toml=""):
    """One that costs little: `body` is a shell's, `$ledger` its file."""
    path = hook(node, name, "", toml=toml, extension=".sh")
    path.write_text(f"#!/bin/sh\nledger={shlex.quote(str(ledger_path(node)))}\n{body}\n")
    path.chmod(0o700)
    return path


def configure(node, name, toml=""):
    path = node.config / "daemon" / "hooks" / "hooks.toml"
    old = path.read_text() if path.exists() else ""
    path.write_text(old + f"[{name}]\nenabled = true\n" + textwrap.dedent(toml) + "\n")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def ledger_path(node):
    return node.world.directory / f"{node.name}.ledger"


def ledger(node):
    path = ledger_path(node)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


RECORD_ID = """printf '"%s"\\n' "$CLAUDEMESH_EVENT_ID" >> $ledger"""  # of a shell hook: its event, as a line of the ledger


def wait_ledger(node, count, seconds=60):
    wait_for(lambda: len(ledger(node)) >= count, seconds, f"{count} lines of {node.name}'s ledger; has {ledger(node)[-3:]}")
    return ledger(node)
