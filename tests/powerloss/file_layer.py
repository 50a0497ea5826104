"""Runs a program under file_layer.c, and makes of its journal each state in which the disk may be found after the power has gone.

    cut = Layer(world.directory, scratch).run(point, arguments)   -> Cut; point 0: nothing is cut, the account is made at the end
    for state in cut.states(): state.apply()                      -> the tree below the root as that disk has it; repeatable

What may be lost: of each file that was written since its last fsync, all of it (the old contents, or none when it is new), all but its first 512 or 4,096 bytes
(zeros behind them, or the end cut off), the data but not the length (zeros); or nothing. Of the changes of directories (made, renamed, removed) that no fsync of
the directory followed, any. Both in every combination, as long as they are few: one file's contents and one change at a time differ from the rest when they are many."""

import itertools
import os
import pathlib
import shutil
import subprocess
import tempfile

import harness

EXIT_CUT, EXIT_UNACCOUNTED = 86, 87
NONE, DIRECTORY = -1, -2
MANY_CHANGES, MANY_FILES = 5, 2
# What stands in the pid file is believed by nobody: in the short form it varies only where nothing else does.
UNIMPORTANT = () if os.environ.get("CLAUDEMESH_LONG") else ("daemon.pid",)


TESTED = harness.BINARY  # other instruments set harness.BINARY anew


def library():
    built = pathlib.Path(TESTED).resolve().parents[1] / "tests" / "powerloss" / "file_layer.so"
    return pathlib.Path(os.environ.get("CLAUDEMESH_FILE_LAYER", built))


def torn(durable, current):
    """name -> contents, of one file that was written and not synced."""
    size = len(current)
    kinds = {"kept": current, "lost": durable, "zeros": bytes(size)}
    for sector in (512, 4096):
        if size > sector:
            kinds[f"torn-{sector}"] = current[:sector] + bytes(size - sector)
            kinds[f"short-{sector}"] = current[:sector]
    return kinds


def choose_contents(files):
    """files: inode -> {kind: contents}. All alike; and one unlike the others."""
    kinds = sorted({kind for of in files.values() for kind in of})
    if len(files) <= MANY_FILES:
        yield from (dict(zip(files, some)) for some in itertools.product(*[sorted(of) for of in files.values()]))
        return
    for kind in kinds:
        yield {inode: kind if kind in of else "lost" for inode, of in files.items()}
    for one, of in files.items():
        for kind in of:
            for others in ("kept", "lost"):
                yield {inode: kind if inode == one else others for inode in files}


def choose_changes(count):
    """Which of the changes reached the disk."""
    everything = range(count)
    if count <= MANY_CHANGES:
        yield from (set(some) for size in range(count + 1) for some in itertools.combinations(everything, size))
        return
    for length in range(count + 1):
        yield set(range(length))
    for one in everything:
        yield {one}
        yield set(everything) - {one}


class State:
    def __init__(self, cut, names, kept, kinds):
        self.cut, self.names, self.kinds = cut, names, kinds
        changes = [" -> ".join(name for name, _, _ in entries) for index, (_, entries) in enumerate(cut.changes) if index not in kept]
        contents = [f"{cut.paths[inode].name} {kind}" for inode, kind in kinds.items()]
        self.label = f"at point {cut.point} ({cut.call}): not on the disk: {', '.join(changes) or 'no change'}; contents: {', '.join(contents) or 'synced'}"

    def content(self, inode):
        return self.cut.contents[inode][self.kinds.get(inode, "kept")]

    def key(self):
        """Two states with the same key are the same disk."""
        return tuple(sorted((str(path), inode if inode < 0 else self.content(inode)) for path, inode in self.names.items()))

    def apply(self):
        self.cut.restore()
        gone = [path for path, inode in self.names.items() if inode == NONE]
        for path in gone:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for path, inode in self.names.items():
            if inode >= 0 and path.parent.is_dir():
                path.unlink(missing_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                os.write(descriptor, self.content(inode))
                os.fchmod(descriptor, self.cut.modes[inode])
                os.close(descriptor)


class Cut:
    def __init__(self, root, journal, done):
        self.root, self.done = root, done
        self.modes, self.paths, self.contents, self.dirty, self.changes = {}, {}, {}, [], []
        for line in (journal / "manifest").read_text().splitlines():
            kind, *fields = line.split("\t")
            if kind == "point":
                self.point, self.call = int(fields[0]), fields[1].strip().replace(str(root) + "/", "")
            elif kind == "inode":
                self.add_inode(journal, *fields)
            else:
                directory, *rest = fields
                entries = [(rest[at], int(rest[at + 1]), int(rest[at + 2])) for at in range(0, len(rest), 3)]
                self.changes.append((pathlib.Path(directory), entries))
        self.was_cut = done.returncode == EXIT_CUT
        self.copy = None

    def add_inode(self, journal, index, mode, dirty, path):
        self.paths[int(index)] = pathlib.Path(path)
        durable, current = ((journal / f"{kind}{index}").read_bytes() for kind in "dc")
        self.modes[int(index)] = int(mode, 8)
        self.contents[int(index)] = torn(durable, current) if dirty == "1" else {"kept": current}
        if dirty == "1":
            self.dirty.append(int(index))

    def bindings(self, kept):
        """path -> inode, of the names that changed."""
        names = {}
        for directory, entries in self.changes:
            for name, before, _ in entries:
                names.setdefault(directory / name, before)
        for index in sorted(kept):
            directory, entries = self.changes[index]
            for name, _, after in entries:
                names[directory / name] = after
        return names

    def is_unimportant(self, kept, kinds):
        changed = [self.paths[inode].name for inode, kind in kinds.items() if kind != "kept"]
        return any(name in UNIMPORTANT for name in changed) and (len(changed) > 1 or len(kept) < len(self.changes))

    def states(self):
        """Each disk once."""
        files = {inode: self.contents[inode] for inode in self.dirty}
        seen = set()
        for kept in choose_changes(len(self.changes)):
            for kinds in choose_contents(files):
                if self.is_unimportant(kept, kinds):
                    continue
                names = self.bindings(kept)
                for inode in self.dirty:  # written in place: no name changed
                    if not self.paths[inode].name.endswith(" (deleted)"):
                        names.setdefault(self.paths[inode], inode)
                state = State(self, names, kept, kinds)
                if state.key() not in seen:
                    seen.add(state.key())
                    yield state

    def restore(self):
        """The tree as the process left it."""
        if self.copy is None:
            self.copy = pathlib.Path(tempfile.mkdtemp(dir=self.root.parent, prefix="copy-")) / "tree"
            if self.root.exists():
                remove_sockets(self.root)
                shutil.copytree(self.root, self.copy)
            return
        shutil.rmtree(self.root, ignore_errors=True)
        if self.copy.exists():
            shutil.copytree(self.copy, self.root)

    def forget(self):
        if self.copy is not None:
            shutil.rmtree(self.copy.parent, ignore_errors=True)


def remove_sockets(directory):
    for path in directory.rglob("*"):
        if path.is_socket():
            path.unlink()


class Layer:
    """Runs programs whose files are below root/."""

    def __init__(self, world, root):
        self.world, self.root = world, root
        root.mkdir(exist_ok=True)

    def environment(self, point, journal, **more):
        return self.world.environment(LD_PRELOAD=str(library()), POWERLOSS_ROOT=str(self.root), POWERLOSS_JOURNAL=str(journal),
                                      POWERLOSS_CUT=str(point), **harness.UNCONFINED, **more)

    def run(self, point, arguments, meanwhile=None, **more):
        """meanwhile(process): what is done while it runs; it must end it when nothing is cut."""
        journal = pathlib.Path(tempfile.mkdtemp(dir=self.world.directory, prefix="journal-"))
        output = journal / "output"
        with open(output, "wb") as file:
            process = subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.world.directory,
                                       env=self.environment(point, journal, **more))
        self.world.processes.append(process)
        if meanwhile is not None:
            meanwhile(process)
        process.wait(60 * harness.SLOW)
        done = subprocess.CompletedProcess(arguments, process.returncode, output.read_bytes())
        self.world.processes.remove(process)
        assert done.returncode != EXIT_UNACCOUNTED, done.stdout.decode(errors="replace")
        assert (journal / "manifest").exists(), f"{arguments}: exit {done.returncode} without an account\n{done.stdout.decode(errors='replace')}"
        cut = Cut(self.root, journal, done)
        shutil.rmtree(journal)
        return cut
