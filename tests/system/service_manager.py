"""A real systemd for one test, as process 1 of namespaces of its own. It sees the system read-only, has no unit but those that are put there (none of the
distribution's: what they start would clean and set up a machine), and nothing of it is left when the test ends."""

import json
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import pytest

from harness import BINARY, SLOW, wait_for

SYSTEMD = pathlib.Path("/lib/systemd/systemd")
TARGETS = ("sysinit", "basic", "shutdown", "exit", "multi-user", "default", "network-online", "reboot", "poweroff", "rescue", "emergency")
HIDDEN = ("/tmp", "/run", "/var", "/dev/shm", "/home", "/root", "/mnt", "/srv", "/media")

INNER = """#!/bin/sh
set -e
chmod 1777 /tmp
mkdir -p /var/tmp /var/lib /run/systemd/unit-root
chmod 1777 /var/tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
exec env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin container=claudemesh-test SYSTEMD_UNIT_PATH=/etc/systemd/system \\
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --log-level=info --show-status=0
"""

USER_MANAGER = """[Unit]
DefaultDependencies=no
[Service]
Type=notify
User={user}
Delegate=yes
Environment=HOME={home} XDG_RUNTIME_DIR={runtime} SYSTEMD_UNIT_PATH={home}/.config/systemd/user:/etc/systemd/user
ExecStart=/lib/systemd/systemd --user --unit=default.target --log-target=console --log-level=info
StandardOutput=append:{log}
StandardError=append:{log}
KillMode=mixed
TimeoutStopSec=20
"""


def needed():
    if os.geteuid() != 0:
        pytest.skip("needs root, for a systemd of its own")
    for tool in ("bwrap", "systemctl", "nsenter"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed")


def own_cgroup(name):
    """The root of what it will see: a group of its own in the system's tree, or none is to be had."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            group = pathlib.Path(where) / name
            try:
                group.mkdir()
            except OSError as error:
                pytest.skip(f"no control group is to be had: {error}")
            return group
    pytest.skip("there is no cgroup2 here")


class Manager:
    def __init__(self, world):
        needed()
        self.world = world
        self.directory = world.directory / "manager"
        self.units, self.user_units = self.directory / "system", self.directory / "user"
        self.log = self.directory / "log"
        for directory in (self.directory, self.units, self.user_units):
            directory.mkdir()
            directory.chmod(0o755)
        world.directory.chmod(0o755)
        for units in (self.units, self.user_units):
            for target in TARGETS:
                (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        inner = self.directory / "inner"
        inner.write_text(INNER)
        # where every user may run it
        self.binary = self.directory / "claudemesh"
        shutil.copy(BINARY, self.binary)
        arguments = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        for path in HIDDEN:
            if os.path.isdir(path):
                arguments += ["--tmpfs", path]
        arguments += ["--tmpfs", "/sys/fs/cgroup", "--bind", world.directory, world.directory, "--bind", self.units, "/etc/systemd/system", "--ro-bind", self.user_units, "/etc/systemd/user",
                      "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-ipc", "--unshare-cgroup", "--as-pid-1", "--cap-add",
                      "ALL", "--die-with-parent"]
        self.group = own_cgroup(f"{world.directory.name}-{os.getpid()}")
        reader, writer = os.pipe()
        with open(self.log, "wb") as output:
            entered = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', self.group]
            self.process = subprocess.Popen([str(a) for a in [*entered, *arguments, "--info-fd", writer, "sh", inner]],
                                            stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[writer], cwd="/")
        os.close(writer)
        with os.fdopen(reader) as info:
            text = info.read()
        world.closers.append(self.close)
        if not text:
            pytest.skip(f"namespaces are not to be had here: {self.log.read_text()[-300:]}")
        self.pid = json.loads(text)["child-pid"]
        wait_for(lambda: self.process.poll() is not None or self.systemctl("is-active", "multi-user.target", check=None).stdout.strip() == "active",
                 30, "systemd to run")
        if self.process.poll() is not None:
            pytest.skip(f"systemd does not run here: {self.log.read_text()[-300:]}")

    def run(self, *arguments, check=0, environment=None, user=None, **more):
        """In there."""
        words = ["nsenter", "-t", self.pid, "-m", "-p", "-n", "-i", "-u", "-C"]
        if user is not None:
            entry = pwd.getpwnam(user)
            words += ["-S", entry.pw_uid, "-G", entry.pw_gid]
        base = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/root", "NO_COLOR": "1", **(environment or {})}
        done = subprocess.run([str(a) for a in [*words, "--", *arguments]], capture_output=True, text=True, timeout=60 * SLOW, env=base, cwd="/", **more)
        assert check is None or done.returncode == check, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.tail()}"
        return done

    def systemctl(self, *arguments, **more):
        return self.run("systemctl", "--no-pager", *arguments, **more)

    def show(self, name, unit="claudemesh-daemon.service", **more):
        return self.systemctl("show", "-P", name, unit, **more).stdout.strip()

    def tail(self):
        return self.log.read_text(errors="replace")[-3000:]

    def user_manager(self, user="nobody"):
        """systemd --user of an ordinary user. Returns the environment in which its `systemctl --user` works."""
        entry = pwd.getpwnam(user)
        home = self.world.directory / "user-home"
        home.mkdir(mode=0o700)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        runtime = f"/run/user/{entry.pw_uid}"
        self.run("mkdir", "-p", runtime)
        self.run("chown", f"{entry.pw_uid}:{entry.pw_gid}", runtime)
        self.run("chmod", "0700", runtime)
        (self.units / "user-manager.service").write_text(USER_MANAGER.format(user=user, home=home, runtime=runtime, log=self.log))
        self.systemctl("daemon-reload")
        self.systemctl("start", "user-manager.service")
        return {"HOME": str(home), "XDG_RUNTIME_DIR": runtime}

    def close(self):
        if self.process.poll() is None:
            os.kill(self.pid, 9)  # process 1: all of its namespace goes with it
        self.process.wait(30)
        groups = sorted([self.group, *[path for path in self.group.rglob("*") if path.is_dir()]], reverse=True)
        wait_for(lambda: all(self._removed(group) for group in groups), 20, "its control groups to be empty")

    @staticmethod
    def _removed(group):
        try:
            group.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True
