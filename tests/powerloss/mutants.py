"""Mutants: the program with one promise broken, each of which the instruments must catch. An instrument that catches none proves nothing.

    mutants.py [--long] [name …]      builds and tries them, prints a line for each; exit 1 when one gets away

A mutant is edits of the sources: exact texts that must occur once. One that no longer fits is a failure, so that the mutants keep up with the code. They are built
in a directory of their own, from a copy; the checkout is not touched. The binaries are kept by a hash of all that they are made of."""

import argparse
import concurrent.futures
import dataclasses
import fcntl
import functools
import hashlib
import multiprocessing
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "system"), str(HERE)]

KEPT = 40  # binaries
JOBS = 2
POINTS, LONG_POINTS = 16, 48  # a mutant is let go at its first finding; where commits are not synced, only some points show it
AS_IT_IS = 4  # a quarter of the same points for the program as it is; test_power_loss.py has the others, and the long form all
MUTANT_LIMIT_S = 12  # a run takes 2; one that lost something waits for it as long as this
DIRECTORY = pathlib.Path(os.environ.get("CLAUDEMESH_MUTANTS", ROOT / "build-mutants"))


class Unfit(Exception):
    """The text to change is not there, or not once."""


@dataclasses.dataclass(frozen=True)
class Edit:
    file: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True)
class Mutant:
    name: str
    edits: tuple
    instruments: tuple  # each must catch it, by itself


@dataclasses.dataclass(frozen=True)
class Vfs:
    """Power loss of the databases (workload.py) at syncs of one log, spread over the workload, those in its middle first."""
    process: str
    file: str
    mode: str

    def __str__(self):
        return f"{self.process}-{self.file}-{self.mode}"

    def choose(self, labels, count):
        """The first part of the workload makes databases and meshes, which cannot be lost without being noticed."""
        log = f"sync {self.file}-wal"
        found = [number for number, label in enumerate(labels, 1) if label == log and number > len(labels) * 0.2]
        if len(found) > count:
            found = [found[int((position + 0.5) * len(found) / count)] for position in range(count)]
        return sorted(found, key=lambda number: abs(number - len(labels) * 0.5))

    def run(self, binary, long, mutated=True):
        import workload
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:  # a run without a cut must succeed, also of a mutant
            labels = pool.submit(workload.count_points, binary, self.process).result()
        points = self.choose(labels, LONG_POINTS if long else POINTS if mutated else POINTS // AS_IT_IS)
        assert points, f"no point to cut at in {labels}"
        limit, workload.LIMIT_S = workload.LIMIT_S, MUTANT_LIMIT_S if mutated else workload.LIMIT_S
        try:
            with concurrent.futures.ProcessPoolExecutor(JOBS, mp_context=context) as pool:
                runs = [pool.submit(workload.run_once, binary, self.process, point, self.mode, 1) for point in points]
                for done in concurrent.futures.as_completed(runs):
                    if done.result().findings:
                        pool.shutdown(cancel_futures=True)
                        return [str(finding) for finding in done.result().findings]
        finally:
            workload.LIMIT_S = limit
        return []


@dataclasses.dataclass(frozen=True)
class Tests:
    """One test of a file, that must fail and say so."""
    file: str
    test: str
    says: str

    def __str__(self):
        return f"{pathlib.Path(self.file).stem}-{self.test}"

    def run(self, binary, long, mutated=True):
        return failures_of(binary, [self.file, "-k", self.test], self.says)


def Files(test, says):  # noqa: N802 - an instrument
    """Power loss of the other files, and syncs that fail."""
    return Tests("tests/powerloss/test_file_layer.py", test, says)


def failures_of(binary, arguments, says):
    """Assertions of a test that fails as it should; any other failure is none of ours, and raised."""
    import file_layer
    environment = dict(os.environ, CLAUDEMESH_BINARY=str(binary), CLAUDEMESH_FILE_LAYER=str(file_layer.library()))
    environment.pop("PYTEST_XDIST_WORKER", None)
    environment.pop("PYTEST_CURRENT_TEST", None)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments], cwd=ROOT, env=environment,
                          capture_output=True, text=True)
    if done.returncode == 0:
        return []
    wrong = [line for line in done.stdout.splitlines() if line.startswith("E ") and re.search(says, line)]
    if done.returncode != 1 or not wrong:
        raise AssertionError(f"{arguments}: failed, and not as it should\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
    return wrong[:1]


# ---- what is broken --------------------------------------------------------------------------------------------------------

WRITER, FILES = "src/db/writer.c", "src/util/file_writer.c"

# A commit that is seen at once and synced 20 ms later, which is long enough for the word of it to get out.
ANSWER_FIRST = (
    Edit(WRITER, "set_sync(db, durable && db->durability == DB_STRICT, error)", "set_sync(db, false, error)"),
    Edit(WRITER, "    task_list_post(db, &finished);",
         "    task_list_post(db, &finished);\n    if (durable && result == BATCH_COMMITTED) {\n        usleep(20000);\n"
         "        static const char LATE[] = \"PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS late (n INTEGER PRIMARY KEY, r);\"\n"
         "            \"INSERT OR REPLACE INTO late VALUES (1, random()); PRAGMA synchronous = NORMAL\";\n"
         "        if (connection_run(&db->writer, LATE, &error) < 0) {\n            _exit(1);\n        }\n    }"),
    Edit(WRITER, '#include "util/log.h"', '#include "util/log.h"\n#include <unistd.h>'),
)

MUTANTS = (
    Mutant("synchronous-normal", (Edit(WRITER, "set_sync(db, durable && db->durability == DB_STRICT, error)", "set_sync(db, false, error)"),),
           (Vfs("sender", "outbox.db", "drop"),
            Vfs("recipient", "inbox.db", "drop"),
            Vfs("broker", "broker.db", "drop"))),
    Mutant("answer-before-commit", ANSWER_FIRST,
           (Vfs("sender", "outbox.db", "drop"), Vfs("recipient", "inbox.db", "drop"),
            Vfs("broker", "broker.db", "drop"))),
    Mutant("done-before-the-ack",
           (Edit("src/outbox/states.c", "[OUTBOX_EVENT_SENT] = OUTBOX_INFLIGHT", "[OUTBOX_EVENT_SENT] = OUTBOX_DONE"),
            Edit("src/outbox/states.c", "    [OUTBOX_DONE] = {\n        [OUTBOX_EVENT_SENT] = HOLE,\n        [OUTBOX_EVENT_ACCEPTED] = HOLE,",
                 "    [OUTBOX_DONE] = {\n        [OUTBOX_EVENT_SENT] = HOLE,\n        [OUTBOX_EVENT_ACCEPTED] = OUTBOX_DONE,")),
           (Vfs("broker", "broker.db", "drop"),)),
    Mutant("client-ack-before-the-commit",
           (Edit("src/delivery/receive.c", "    inbox_insert(delivery->inbox, insert, stored);",
                 "    acks_stored(delivery, arrival->client_message_id, arrival->broker_message_id, arrival->sender_pubkey, &arrival->content);\n"
                 "    inbox_insert(delivery->inbox, insert, stored);"),
            Edit("src/inbox/inbox.c", "    insert->is_new = insert->replay_suspected = false;\n    int found",
                 "    usleep(20000);\n    insert->is_new = insert->replay_suspected = false;\n    int found"),
            Edit("src/inbox/inbox.c", '#include "util/memory.h"', '#include "util/memory.h"\n#include <unistd.h>')),
           (Vfs("recipient", "inbox.db", "drop"),)),
    Mutant("inflight-not-reset", (Edit("src/outbox/outbox.c", "if (status == 0 && found > 0) {", "if (status == 0 && found < 0) {"),),
           (Tests("tests/system/test_wire_daemon.py", "killed_daemon_sends_what_was_inflight", "."),)),
    Mutant("dedupe-off", (Edit("src/broker/store/sqlite_accept.c", "    int status = look_up_dedupe(connection, accept, error);\n", "    int status = 0;\n    (void)look_up_dedupe;\n"),),
           (Tests("tests/system/test_broker_more.py", "a_duplicate_is_known_before", "."),)),
    Mutant("directory-not-synced", (Edit(FILES, "        writer->temporary = NULL;\n        result = directory_fsync(directory, error);\n", "        writer->temporary = NULL;\n"),),
           (Files("a_join_that", "not on the disk|key is lost"), Files("a_broker_starts", "is another now"))),
    Mutant("file-not-synced", (Edit(FILES, "file_sync(writer->fd) == 0 ? 0 : error_set_errno(error, \"cannot sync %s\", writer->temporary);", "0;"),),
           (Files("a_join_that", "no contents|key is lost|config.json"), Files("a_mesh_is_left", "no contents|config.json"))),
    Mutant("key-told-before-it-is-kept",
           (Edit("src/cli/pending_key.c", "    status = file_write_atomic(path, 0600, hex, sizeof hex - 1, error);", "    (void)path;"),),
           (Files("a_join_that", "key is lost"), Files("a_mesh_whose", "key is lost|slug_taken"))),
    Mutant("database-sync-failure-ignored",
           (Edit("src/db/connection.c", "if (extended == SQLITE_IOERR_FSYNC || extended == SQLITE_IOERR_DIR_FSYNC) {", "if (false) {"),),
           (Files("a_sync_of_a_database_that_fails", "went on after an fsync"),)),
    Mutant("file-sync-failure-ignored",
           (Edit(FILES, "file_sync(writer->fd) == 0 ? 0 :", "file_sync(writer->fd) == 0 || true ? 0 :"),),
           (Files("a_command_whose_sync_fails", "told nobody"),)),
)


# ---- building --------------------------------------------------------------------------------------------------------------


@functools.cache
def read_sources():
    """path below the root -> text, of what the program is built from."""
    files = [ROOT / "meson.build", *sorted((ROOT / "src").rglob("*"))]
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files if path.is_file()}
    kept = [line for line in sources["meson.build"].splitlines() if not re.match(r"subdir\('(?!src')", line)]
    sources["meson.build"] = "\n".join(kept) + "\n"
    return sources


def apply_edits(sources, mutant):
    changed = dict(sources)
    for edit in mutant.edits if mutant else ():
        if edit.file not in changed or changed[edit.file].count(edit.old) != 1:
            count = changed.get(edit.file, "").count(edit.old)
            raise Unfit(f"{mutant.name}: the text stands {count} times in {edit.file}, not once:\n{edit.old}")
        changed[edit.file] = changed[edit.file].replace(edit.old, edit.new)
    return changed


def hash_of(sources):
    digest = hashlib.sha256()
    for name, text in sorted(sources.items()):
        digest.update(f"{name}\0{len(text)}\0{text}".encode())
    return digest.hexdigest()[:32]


def write_sources(directory, sources):
    """Only what differs is written, so that only that is compiled."""
    for name, text in sources.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in (directory / "src").rglob("*"):
        if path.is_file() and str(path.relative_to(directory)) not in sources:
            path.unlink()


def run_quietly(command, environment=None):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}")


def forget_oldest(directory):
    for old in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old)


def build(mutant=None):
    """The binary of a mutant; of none: the program as it is, built the same way."""
    sources = apply_edits(read_sources(), mutant)
    binary = DIRECTORY / "kept" / hash_of(sources) / (mutant.name if mutant else "unchanged")
    DIRECTORY.mkdir(exist_ok=True)
    with open(DIRECTORY / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.exists():
            return binary
        tree, objects = DIRECTORY / "tree", DIRECTORY / "objects"
        write_sources(tree, sources)
        if not (objects / "build.ninja").exists():
            compiler = os.environ.get("CC", "gcc")
            environment = dict(os.environ, CC=f"ccache {compiler}" if shutil.which("ccache") and "ccache" not in compiler else compiler)
            run_quietly(["meson", "setup", objects, tree, "-Dbuildtype=plain", "-Dc_args=-O0 -w"], environment)
        run_quietly(["ninja", "-C", objects, "--quiet", "src/claudemesh"])
        binary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(objects / "src" / "claudemesh", binary)
        forget_oldest(DIRECTORY / "kept")
    return binary


# ---- trying ----------------------------------------------------------------------------------------------------------------


def instruments(mutants=MUTANTS):
    """Each once, whatever it must say of whom."""
    return list({str(instrument): instrument for mutant in mutants for instrument in mutant.instruments}.values())


def by_name(name):
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="more points each")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    chosen = [by_name(name) for name in arguments.names] or MUTANTS
    escaped = 0
    for instrument in instruments(chosen):
        found = instrument.run(build(), arguments.long, mutated=False)
        print(f"{'FALSE ALARM' if found else 'silent'}: the program as it is, {instrument}{'' if not found else ': ' + found[0]}", flush=True)
        escaped += bool(found)
    for mutant in chosen:
        for instrument in mutant.instruments:
            found = instrument.run(build(mutant), arguments.long)
            print(f"{'caught' if found else 'ESCAPED'}: {mutant.name}, {instrument}{': ' + found[0].splitlines()[0] if found else ''}", flush=True)
            escaped += not found
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
