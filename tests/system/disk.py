"""A file system of its own for a test, that can be filled to the last page and freed again: tmpfs, or ext4 on a loop device. Mounting needs root;
without it a test runs itself again inside a user and mount namespace (tmpfs only)."""

import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

PAGE = 4096
INSIDE = "CLAUDEMESH_INSIDE_NAMESPACE"


def _succeeds(*command):
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


def may_mount():
    if os.geteuid() != 0:
        return False
    directory = tempfile.mkdtemp(prefix="cm-mount-")
    try:
        if not _succeeds("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory):
            return False
        return _succeeds("umount", directory)
    finally:
        os.rmdir(directory)


def needs_mount(test):
    """The test, as it is when mounting is possible, else run once more by a pytest inside `unshare -Urm`; skipped when that is impossible too."""

    @functools.wraps(test)
    def wrapper(*arguments, request, **fixtures):
        if os.environ.get(INSIDE) or may_mount():
            return test(*arguments, **fixtures)
        if not _succeeds("unshare", "-Urm", "true"):
            pytest.skip("no file system can be mounted here: neither root nor a user namespace")
        done = subprocess.run(
            ["unshare", "-Urm", sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"{request.node.path}::{request.node.name}"],
            env={**os.environ, INSIDE: "1"}, capture_output=True)
        assert done.returncode == 0, done.stdout.decode()[-6000:]
        return None

    # pytest reads the wrapper's arguments from here.
    import inspect
    signature = inspect.signature(test)
    wrapper.__signature__ = signature.replace(
        parameters=[*signature.parameters.values(), inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY)])
    return wrapper


class Disk:
    def __init__(self, kind, mebibytes):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="cm-disk-"))
        self.filler = self.path / "filler"
        self.image = None
        if kind == "tmpfs":
            self._mount("-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "tmpfs")
        else:
            descriptor, name = tempfile.mkstemp(prefix="cm-image-")
            os.ftruncate(descriptor, mebibytes * 1024 * 1024)
            os.close(descriptor)
            self.image = name
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", name], check=True, capture_output=True)
            self._mount("-o", "loop", name)

    def _mount(self, *arguments):
        done = subprocess.run(["mount", *arguments, str(self.path)], capture_output=True)
        if done.returncode != 0:
            self._remove()
            raise AssertionError(f"mount {' '.join(arguments)}: {done.stderr.decode()}")

    def _remove(self):
        shutil.rmtree(self.path, ignore_errors=True)
        if self.image:
            os.unlink(self.image)

    def free_pages(self):
        figures = os.statvfs(self.path)
        return figures.f_bavail * figures.f_frsize // PAGE

    def fill(self, leave=0):
        """Takes what room there is but for `leave` pages. What others write meanwhile counts as theirs."""
        with open(self.filler, "ab") as file:
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), b"f" * PAGE)
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size // PAGE * PAGE
            os.ftruncate(file.fileno(), max(0, size - leave * PAGE))
            os.fsync(file.fileno())

    def free(self):
        with contextlib.suppress(FileNotFoundError):
            self.filler.unlink()

    def close(self):
        with contextlib.suppress(OSError):
            self.free()
        if not _succeeds("umount", str(self.path)):
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True)
        self._remove()


@pytest.fixture
def disks():
    """make(kind="tmpfs", mebibytes=16). Ask for it before `world`, so that the processes are gone when the disks go."""
    made = []

    def make(kind="tmpfs", mebibytes=16):
        made.append(Disk(kind, mebibytes))
        return made[-1]

    yield make
    for disk in made:
        disk.close()
