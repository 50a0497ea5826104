"""What was asked, what was answered, and whether the databases keep the word that was given. Opens databases only when everything has stopped, and only to read."""

import base64
import collections
import hashlib
import json
import sqlite3


class Entry:
    """One message that a sender asked for."""
    __slots__ = ("node", "thread", "message", "request", "to", "answers", "lost", "put_off", "row")

    def __init__(self, node, thread, message, request, to):
        self.node, self.thread, self.message, self.request, self.to = node, thread, message, request, to
        self.answers = []  # (kind, status, body)
        self.lost = self.put_off = 0
        self.row = None  # of the outbox, once it is found

    def __str__(self):
        return f"{self.node}/{self.thread} #{self.message.number} ({self.message.id or 'minted'})"

    def accepted(self):
        """The answer that promised it, or None."""
        return next((json.loads(body) for kind, status, body in self.answers if kind in ("send", "stranger") and status in (200, 202)), None)

    def id_of_answer(self):
        return self.accepted()["client_message_id"]


class Database:
    """One file, read only."""

    def __init__(self, path):
        self.path = path
        self.connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self.connection.row_factory = sqlite3.Row

    def rows(self, sql, *values):
        return self.connection.execute(sql, values).fetchall()

    def close(self):
        self.connection.close()


class Ledger:
    SHOWN = 12  # of each kind of finding

    def __init__(self):
        self.entries = []
        self.findings = collections.defaultdict(list)

    def enter(self, node, thread, message, keys):
        """The request that the message becomes, and its place in the ledger. `keys`: public keys by node."""
        to = keys.get(message.to, message.to)
        if message.kind == "refused":
            request = {name: value for name, value in message.fields.items() if value is not None or name != "to"}
            request.setdefault("to", to)
        else:
            request = {"to": to, "message": message.body}
            for name, value in (("priority", message.priority), ("meta", message.meta), ("reply_to_id", message.reply_to), ("client_message_id", message.id)):
                if value is not None:
                    request[name] = value
        entry = Entry(node, thread, message, request, to)
        self.entries.append(entry)
        return entry

    def find(self, what, detail):
        self.findings[what].append(detail)

    def report(self):
        lines = []
        for what, details in self.findings.items():
            lines.append(f"{what}: {len(details)}")
            lines += [f"    {detail}" for detail in details[: self.SHOWN]]
        return "\n".join(lines)

    # ---- the checks -------------------------------------------------------------------------------------------------

    def check(self, nodes, keys, broker_path, readers):
        """`nodes`: name to (outbox path, inbox path). Fills `findings`, and returns figures."""
        databases = {name: (Database(outbox), Database(inbox)) for name, (outbox, inbox) in nodes.items()}
        broker = Database(broker_path)
        # A member is the key that it began with, whatever its rotations made of it since.
        first = {row["old_pubkey"]: row["old_pubkey"] for row in broker.rows("SELECT old_pubkey FROM rotation WHERE seq = 1")}
        for row in broker.rows("SELECT old_pubkey, new_pubkey FROM rotation ORDER BY member_id, seq"):
            first[row["new_pubkey"]] = first[row["old_pubkey"]]
        names = {key: name for name, key in keys.items()}
        names.update({key: names[start] for key, start in first.items() if start in names})
        try:
            for database in [broker, *(one for pair in databases.values() for one in pair)]:
                for (line,) in database.rows("PRAGMA integrity_check"):
                    if line != "ok":
                        self.find("a database is damaged", f"{database.path}: {line}")
            outboxes = {name: [dict(row) for row in pair[0].rows("SELECT * FROM outbox ORDER BY seq")] for name, pair in databases.items()}
            inboxes = {name: [dict(row) for row in pair[1].rows("SELECT * FROM inbox ORDER BY seq")] for name, pair in databases.items()}
            for rows, column in [(rows, "destination_ref") for rows in outboxes.values()] + [(rows, "sender_pubkey") for rows in inboxes.values()]:
                for row in rows:
                    row[column] = first.get(row[column], row[column])
            self.check_answers(outboxes)
            self.check_sender_order()
            self.check_outboxes(outboxes, databases)
            self.check_inboxes(outboxes, inboxes, keys, names)
            self.check_lanes(outboxes, inboxes, keys, names)
            self.check_broker(broker, outboxes, keys, first)
            self.check_receipts(databases, outboxes, inboxes, broker, names)
            for name, pair in databases.items():
                for row in pair[1].rows("SELECT reason, client_message_id FROM quarantine"):
                    self.find("a message was put in quarantine", f"{name}: {tuple(row)}")
            for reader in readers:
                self.check_reader(reader, inboxes[reader.node])
            return {"resends": sum(max(0, row["attempts"] - 1) for rows in outboxes.values() for row in rows),
                    "stored": sum(len(rows) for rows in inboxes.values())}
        finally:
            for database in [broker, *(one for pair in databases.values() for one in pair)]:
                database.close()

    def check_answers(self, outboxes):
        """Each promise names a row that holds what was asked; each row is of something that was asked."""
        by_id = {name: {row["client_message_id"]: row for row in rows} for name, rows in outboxes.items()}
        by_body = {name: {row["payload"]: row for row in rows} for name, rows in outboxes.items()}
        claimed = {name: set() for name in outboxes}
        for entry in self.entries:
            answer, message = entry.accepted(), entry.message
            identity = answer["client_message_id"] if answer else message.id
            row = by_id[entry.node].get(identity) if identity else by_body[entry.node].get(entry.request["message"].encode())
            if message.kind == "refused":
                self.check_refused(entry, row)
                continue
            if answer and row is None:
                self.find("LOST: answered 2xx, and not in the outbox", f"{entry} {answer}")
            if row is None:
                continue
            if row["seq"] in claimed[entry.node]:
                self.find("TWICE: one row answers for two messages", str(entry))
            claimed[entry.node].add(row["seq"])
            entry.row = row
            self.check_row(entry, row)
            self.check_repeats(entry, row)
        for name, rows in outboxes.items():
            for row in rows:
                if row["seq"] not in claimed[name]:
                    self.find("the outbox holds what nobody asked for", f"{name} {row['client_message_id']} {row['payload'][:60]}")

    def check_refused(self, entry, row):
        if any(status < 400 for _, status, _ in entry.answers):
            self.find("what must be refused was answered 2xx", f"{entry} {entry.answers}")
        if row is not None and entry.message.id in (None, row["client_message_id"]) and row["payload"].decode() == entry.request["message"]:
            self.find("what must be refused was stored", str(entry))

    def check_row(self, entry, row):
        request = entry.request
        same = (row["payload"].decode() == request["message"] and row["destination_ref"] == entry.to and row["priority"] == request.get("priority", "next")
                and row["reply_to_id"] == request.get("reply_to_id") and (json.loads(row["meta"]) if row["meta"] else None) == (request.get("meta") or None))
        if not same:
            self.find("CHANGED: the outbox holds something else than was asked", f"{entry} {dict(row)}")

    def check_repeats(self, entry, row):
        for kind, status, body in entry.answers:
            answer = json.loads(body)
            if kind == "conflict":
                if status != 409 or answer.get("error") != "idempotency_key_reused":
                    self.find("an id was taken for another request", f"{entry} {status} {body}")
            elif status in (200, 202):
                if answer["outbox_id"] != row["id"]:
                    self.find("one id has two rows", f"{entry} {answer} {row['id']}")
                if answer["status"] == "done" and (answer["broker_message_id"], answer["history_id"]) != (row["broker_message_id"], row["history_id"]):
                    self.find("an answer names another message than the outbox", f"{entry} {answer}")
            elif not (entry.message.kind == "stranger" and status in (404, 409)):
                self.find("a good request was refused", f"{entry} {status} {body}")

    def check_sender_order(self):
        """What one connection asked for stands in the outbox in that order."""
        last = {}
        for entry in self.entries:
            if entry.row is None or entry.put_off:
                continue
            sender = entry.node, entry.thread
            before = last.get(sender)
            if before and before.row["seq"] > entry.row["seq"]:
                self.find("ORDER: a sender's messages stand in another order in the outbox", f"{before} before {entry}")
            last[sender] = entry

    def check_outboxes(self, outboxes, databases):
        strangers = {(entry.node, entry.row["seq"]) for entry in self.entries if entry.row and entry.message.kind == "stranger"}
        for name, rows in outboxes.items():
            counts = collections.Counter(row["status"] for row in rows)
            for row in rows:
                wanted = "dead" if (name, row["seq"]) in strangers else "done"
                if row["status"] != wanted:
                    self.find(f"a row did not end `{wanted}`", f"{name} {row['client_message_id']} is {row['status']}: {row['last_error']}")
                elif wanted == "done" and not (row["broker_message_id"] and row["history_id"] and row["delivered_at"]):
                    self.find("a `done` row does not say what the broker did", f"{name} {dict(row)}")
            kept = databases[name][0].rows("SELECT sum(pending), sum(inflight), sum(done), sum(dead), sum(aborted) FROM outbox_count")[0]
            if tuple(value or 0 for value in kept) != tuple(counts[state] for state in ("pending", "inflight", "done", "dead", "aborted")):
                self.find("the outbox's counts are wrong", f"{name}: {tuple(kept)} for {dict(counts)}")

    def check_inboxes(self, outboxes, inboxes, keys, names):
        for recipient, rows in inboxes.items():
            expected = {(keys[sender], row["client_message_id"]): row for sender, sent in outboxes.items() for row in sent
                        if row["destination_ref"] == keys[recipient]}
            seen = collections.Counter((row["sender_pubkey"], row["client_message_id"]) for row in rows)
            for identity, row in expected.items():
                if row["status"] == "done" and identity not in seen:
                    self.find("LOST: the outbox says done, and the inbox has nothing", f"{names[identity[0]]} to {recipient}: {identity[1]}")
                elif seen[identity] > 1:
                    self.find("TWICE: more than one inbox row", f"{names[identity[0]]} to {recipient}: {identity[1]}")
            for row in rows:
                sent = expected.get((row["sender_pubkey"], row["client_message_id"]))
                if sent is None:
                    self.find("the inbox holds what nobody sent", f"{recipient}: {row['client_message_id']} from {row['sender_name']}")
                elif (row["body"].encode(), row["meta"], row["priority"], row["reply_to_id"]) != (sent["payload"], sent["meta"], sent["priority"], sent["reply_to_id"]):
                    self.find("CHANGED: the inbox holds something else than was sent", f"{recipient}: {row['client_message_id']}")
                elif (row["broker_message_id"], row["history_id"]) != (sent["broker_message_id"], sent["history_id"]):
                    self.find("inbox and outbox name different messages of the broker", f"{recipient}: {row['client_message_id']}")

    def check_lanes(self, outboxes, inboxes, keys, names):
        """Of each sender, recipient and priority: the order of acceptance is the order of history and the order of arrival."""
        for recipient, rows in inboxes.items():
            place = {(row["sender_pubkey"], row["client_message_id"]): row["seq"] for row in rows}
            for sender, sent in outboxes.items():
                last = {}
                for row in sent:
                    arrived = place.get((keys[sender], row["client_message_id"]))
                    if row["destination_ref"] != keys[recipient] or arrived is None or row["history_id"] is None:
                        continue
                    before = last.get(row["priority"])
                    if before and before[0] > arrived:
                        self.find("ORDER: arrived in another order than accepted", f"{sender} to {recipient}, {row['priority']}: {row['client_message_id']}")
                    if before and before[1] > row["history_id"]:
                        self.find("ORDER: history_id in another order than accepted", f"{sender} to {recipient}, {row['priority']}: {row['client_message_id']}")
                    last[row["priority"]] = arrived, row["history_id"]

    def check_broker(self, broker, outboxes, keys, first):
        """What the outboxes believe is what the broker has, and the other way round."""
        members = {row["id"]: first.get(row["pubkey"], row["pubkey"]) for row in broker.rows("SELECT id, pubkey FROM member")}
        messages = {}
        for row in broker.rows("SELECT broker_message_id, history_id, client_message_id, sender_member_id, recipient_member_id FROM message"):
            identity = members[row["sender_member_id"]], row["client_message_id"]
            if identity in messages:
                self.find("TWICE: the broker accepted one id twice", f"{identity}")
            messages[identity] = row["broker_message_id"], row["history_id"], members.get(row["recipient_member_id"])
        dedupe = {(members[row["sender_member_id"]], row["client_message_id"]): row for row in broker.rows("SELECT * FROM client_message_dedupe")}
        rows = {(keys[name], row["client_message_id"]): row for name, sent in outboxes.items() for row in sent if row["status"] == "done"}
        for identity, row in rows.items():
            if messages.get(identity) != (row["broker_message_id"], row["history_id"], row["destination_ref"]):
                self.find("LOST: the outbox says done, and the broker has something else", f"{identity[1]}: {messages.get(identity)}")
            record = dedupe.get(identity)
            if record is None or record["request_fingerprint"] != row["broker_fingerprint"] or record["broker_message_id"] != row["broker_message_id"]:
                self.find("a dedupe record does not agree with the outbox", f"{identity[1]}")
        for identity in set(messages) - set(rows):
            self.find("the broker has what no outbox holds as done", f"{identity}")
        for identity in set(messages) ^ set(dedupe):
            self.find("the broker's messages and dedupe records do not agree", f"{identity}")
        for row in broker.rows("SELECT count(*) FROM delivery_queue"):
            if row[0]:
                self.find("deliveries are left at the broker", str(row[0]))

    def check_receipts(self, databases, outboxes, inboxes, broker, names):
        """A receipt says no more than is so, and none is lost: what its sender does not have the broker still keeps for it."""
        stored = {(name, row["broker_message_id"]) for name, rows in inboxes.items() for row in rows}
        kept = {row[0] for row in broker.rows("SELECT m.broker_message_id FROM receipt r JOIN message m ON m.id = r.message_id WHERE r.pending = 1")}
        for name, pair in databases.items():
            told = set()
            for row in pair[0].rows("SELECT broker_message_id, by, state, verified FROM receipt"):
                told.add(row["broker_message_id"])
                is_true = (names[row["by"]], row["broker_message_id"]) in stored
                if not is_true or (row["verified"] != 1 and not self.is_beyond_proof(pair[0], broker, row["broker_message_id"])):
                    self.find("a receipt says what is not so", f"{name}: {tuple(row)}")
            for row in outboxes[name]:
                if row["status"] == "done" and row["broker_message_id"] not in told and row["broker_message_id"] not in kept:
                    self.find("a receipt is lost", f"{name}: {row['client_message_id']} {row['broker_message_id']}")

    @staticmethod
    def is_beyond_proof(outbox, broker, broker_message_id):
        """What the broker has was sent just before its sender died, who forgot it, and a key was replaced before it was sent again: another text, and no way to make the first again."""
        (message,) = broker.rows(f"SELECT nonce, ciphertext, created_at, sender_member_id, recipient_member_id FROM message WHERE broker_message_id = '{broker_message_id}'")
        content = hashlib.sha256(base64.b64decode(message["nonce"]) + base64.b64decode(message["ciphertext"])).digest()
        remembered = outbox.rows(f"SELECT a.content FROM outbox o JOIN outbox_attempt a USING (seq) WHERE o.broker_message_id = '{broker_message_id}'")
        rotated = broker.rows(f"SELECT 1 FROM rotation WHERE member_id IN ({message['sender_member_id']}, {message['recipient_member_id']}) AND "
                              f"abs(stored_at - {message['created_at']}) < 60000")
        return bool(rotated) and content not in [row["content"] for row in remembered]

    def check_reader(self, reader, rows):
        """Each stored message came once, in order, and as it is stored."""
        wanted = [row["seq"] for row in rows if row["seq"] > getattr(reader, "after", 0)]
        got = [data["seq"] for _, data in reader.messages]
        if got != wanted:
            twice = [seq for seq, count in collections.Counter(got).items() if count > 1]
            missing = sorted(set(wanted) - set(got))
            self.find("EVENTS: a reader that resumes did not get each message once, in order",
                      f"{reader.name}: {len(got)} of {len(wanted)}, twice {twice[:5]}, missing {missing[:5]}, {reader.resumes} resumes")
            return
        by_seq = {row["seq"]: row for row in rows}
        for identity, data in reader.messages:
            row = by_seq[data["seq"]]
            meta = json.loads(row["meta"]) if row["meta"] else None
            if (data["id"], data["client_message_id"], data["broker_message_id"], data["history_id"], data["body"], data["meta"]) != (
                    row["id"], row["client_message_id"], row["broker_message_id"], row["history_id"], row["body"], meta):
                self.find("EVENTS: an event is not what is stored", f"{reader.name}: {identity}")
            if int(identity.split("-")[1]) != data["seq"]:
                self.find("EVENTS: an id does not stand for its message", f"{reader.name}: {identity} for {data['seq']}")
