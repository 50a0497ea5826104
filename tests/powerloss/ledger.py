"""What the workload was promised, and whether it was kept. Reads the processes' answers while they live, and their databases once they have stopped; changes nothing."""

import collections
import contextlib
import dataclasses
import shutil
import sqlite3
import tempfile


class Broken(Exception):
    """A promise that was not kept."""

    def __init__(self, kind, detail):
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclasses.dataclass
class Send:
    id: str
    body: str
    priority: str
    lane: str  # messages of one lane and priority were accepted in the order of `number`; None: no order to keep
    number: int
    answered: bool = False  # 2xx
    retired: bool = False  # answered: it became `aborted` before it was ever sent


class Ledger:
    """One direction: what `sender` was told, what `recipient` must hold."""

    def __init__(self):
        self.sends = {}
        self.seen = set()  # ids of messages whose `seen` was answered
        self.shown = {}  # id -> body: what the recipient's event stream showed
        self.done = {}  # id -> broker_message_id: what the sender's stream called done
        self.receipts = set()  # (id, state): what the sender's stream told

    def must_arrive(self):
        return {send.id for send in self.sends.values() if send.answered and not send.retired}

    def note_events(self, items, sends):
        """sends: whether this is the sender's stream."""
        for event in list(items):
            data = event.get("data", {})
            if event.get("event") == "message" and not sends:
                self.shown[data["client_message_id"]] = data["body"]
            elif event.get("event") == "outbox_status" and sends and data["status"] == "done":
                self.done[data["client_message_id"]] = data["broker_message_id"]
            elif event.get("event") == "receipt" and sends:
                self.receipts.add((data["client_message_id"], data["state"]))

    def check_inbox(self, rows):
        """rows: of the table inbox, by seq."""
        counts = collections.Counter(row["client_message_id"] for row in rows)
        for identifier, count in counts.items():
            if count > 1:
                raise Broken("twice", f"{identifier} is in the inbox {count} times")
            if identifier not in self.sends:
                raise Broken("body", f"{identifier} is in the inbox and was never sent")
            if self.sends[identifier].retired:
                raise Broken("retired", f"{identifier} was retired before it was sent, and arrived")
        missing = self.must_arrive() - set(counts)
        if missing:
            raise Broken("lost", f"answered 2xx and not in the inbox: {sorted(missing)}")
        vanished = set(self.shown) - set(counts)
        if vanished:
            raise Broken("lost", f"shown by the event stream and not in the inbox: {sorted(vanished)}")
        for row in rows:
            if row["body"] != self.sends[row["client_message_id"]].body:
                raise Broken("body", f"{row['client_message_id']} has another body")
            if row["client_message_id"] in self.seen and row["seen_at"] is None:
                raise Broken("seen", f"{row['client_message_id']}: marked seen, answered 200, and unseen again")
        self._check_order(rows)

    def _check_order(self, rows):
        last = {}
        history = {}
        for row in rows:
            send = self.sends[row["client_message_id"]]
            if row["history_id"] <= history.get(send.priority, 0):
                raise Broken("order", f"{send.id}: history_id {row['history_id']} after {history[send.priority]}")
            history[send.priority] = row["history_id"]
            if send.lane is not None:
                key = (send.lane, send.priority)
                if send.number < last.get(key, -1):
                    raise Broken("order", f"{send.id} came after number {last[key]} of its lane and priority")
                last[key] = send.number

    def check_outbox(self, rows):
        by_id = {row["client_message_id"]: row for row in rows}
        if len(by_id) != len(rows):
            raise Broken("twice", "a client_message_id has two rows in the outbox")
        for send in self.sends.values():
            row = by_id.get(send.id)
            if send.answered and row is None:
                raise Broken("lost", f"answered 2xx and not in the outbox: {send.id}")
            if row is not None and row["status"] != ("aborted" if send.retired else "done"):
                raise Broken("retired" if send.retired else "lost", f"{send.id} is {row['status']} in the outbox ({row['last_error']})")
        for identifier, message in self.done.items():
            if by_id[identifier]["broker_message_id"] != message:
                raise Broken("dedupe", f"{identifier} was done as {message}, and is {by_id[identifier]['broker_message_id']}")

    def check_receipts(self, rows, outbox):
        have = {(row["client_message_id"], row["state"]) for row in rows if row["verified"]}
        wanted = {(row["client_message_id"], "stored") for row in outbox if row["status"] == "done"} | self.receipts
        missing = wanted - have
        if missing:
            raise Broken("receipt", f"no verified receipt: {sorted(missing)}")


# ---- databases of stopped processes ---------------------------------------------------------------------------------------------


def rows(path, sql, *parameters):
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


def check_integrity(path, when):
    """On a copy with its WAL, as the next start will find it: opening recovers, and must not change what is checked."""
    if not path.exists():
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        for suffix in ("", "-wal", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", f"{directory}/{path.name}{suffix}")
        connection = sqlite3.connect(f"{directory}/{path.name}")
        try:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        except sqlite3.DatabaseError as error:
            raise Broken("integrity", f"{path.name} {when}: {error}") from error
        finally:
            connection.close()
    if found != [("ok",)]:
        raise Broken("integrity", f"{path.name} {when}: {found[:3]}")


def check_broker(path, ledgers):
    """A dedupe record if and only if its message; nothing waits that has no message; all is delivered; the sides agree on each message's name."""
    orphans = rows(path, """SELECT client_message_id FROM client_message_dedupe d WHERE history_available = 1 AND NOT EXISTS
        (SELECT 1 FROM message m WHERE m.broker_message_id = d.broker_message_id AND m.history_id = d.history_id AND m.client_message_id = d.client_message_id)""")
    if orphans:
        raise Broken("dedupe", f"dedupe records without their message: {[row[0] for row in orphans]}")
    orphans = rows(path, """SELECT client_message_id FROM message m WHERE NOT EXISTS
        (SELECT 1 FROM client_message_dedupe d WHERE d.broker_message_id = m.broker_message_id)""")
    if orphans:
        raise Broken("dedupe", f"messages without a dedupe record: {[row[0] for row in orphans]}")
    if rows(path, "SELECT 1 FROM delivery_queue q WHERE NOT EXISTS (SELECT 1 FROM message m WHERE m.id = q.message_id)"):
        raise Broken("dedupe", "a delivery without its message")
    names = {row["client_message_id"]: row["broker_message_id"]
             for row in rows(path, "SELECT client_message_id, broker_message_id FROM client_message_dedupe")}
    for ledger, outbox, inbox in ledgers:
        for row in outbox:
            if row["status"] == "done" and names.get(row["client_message_id"]) != row["broker_message_id"]:
                raise Broken("dedupe", f"{row['client_message_id']} is done as {row['broker_message_id']}; the broker has {names.get(row['client_message_id'])}")
        for row in inbox:
            if names.get(row["client_message_id"]) != row["broker_message_id"]:
                raise Broken("dedupe", f"{row['client_message_id']} was delivered as {row['broker_message_id']}; the broker has {names.get(row['client_message_id'])}")
        unknown = set(ledger.done) - set(names)
        if unknown:
            raise Broken("lost", f"acknowledged by the broker, which has forgotten them: {sorted(unknown)}")
