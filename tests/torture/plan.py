"""What a run will do, drawn from its seed and from nothing else: the messages of each sender, and the blows (who is killed, and when). Never touches a process, never looks
at a clock: the same seed gives the same plan, and since a blow waits for counts (answers, deliveries), not for times, a plan that is played again meets much the
same moments."""

import dataclasses
import random

from harness import Key

PRIORITIES = ("now", "next", "low")
TRIGGERS = ("posted", "answered", "done", "received")

# One in so many messages; the rest are plain.
MINTED, WITH_META, WITH_REPLY, ABANDONED, AGAIN, CONFLICT, REFUSED, STRANGER, LONG_ID = 6, 5, 9, 7, 8, 25, 60, 150, 40


@dataclasses.dataclass
class Message:
    """One thing that a sender asks for."""
    number: int
    kind: str = "send"  # send; refused: never stored; stranger: to a key that is no member; again, conflict: an id that was answered, the same or another request
    to: str = ""  # a node's name
    id: str = None  # None: the daemon mints it
    body: str = ""
    meta: dict = None
    priority: str = None  # None: not said, `next`
    reply_to: str = None
    abandoned: bool = False  # not sent again when its answer was lost
    fields: dict = None  # what a refused one has instead
    earlier: float = 0.0  # again, conflict: which of the sender's answered ones, from the newest (0) to the oldest (1)


class Sender:
    """The endless list of one sender's messages."""

    def __init__(self, seed, node, thread, nodes, bodies):
        self.random = random.Random(f"{seed}/{node}/{thread}")
        self.node, self.thread, self.nodes, self.bodies = node, thread, nodes, bodies
        self.number = 0

    def _one_in(self, count):
        return self.random.randrange(count) == 0

    def _id(self):
        if self._one_in(LONG_ID):
            return "".join(chr(self.random.randrange(33, 127)) for _ in range(self.random.randrange(60, 100))).replace('"', "q") + f".{self.node}.{self.thread}.{self.number}"
        if self._one_in(4):
            # The same word from every sender: an id belongs to its sender, and must take nothing from another's.
            return f"shared.{self.thread}.{self.number}"
        return f"{self.random.getrandbits(64):016x}.{self.node[0]}{self.thread}.{self.number}"

    def _meta(self):
        values = [self.random.random() * 10 ** self.random.randrange(-9, 9), self.random.getrandbits(31), "ü€𝄞 \u2028", None, True, [1, [2, {"x": {}}]], ""]
        return {f"k{self.random.randrange(99)}é": self.random.choice(values) for _ in range(self.random.randrange(1, 5))}

    def _refused(self, message):
        message.kind = "refused"
        message.fields = self.random.choice([
            {"to": "nobody-of-this-name", "message": "x"}, {"to": None, "message": ""}, {"to": None, "message": "x", "priority": "soon"},
            {"to": None, "message": "x", "meta": [1]}, {"to": None, "message": "x" * 70000}, {"to": None, "message": "x", "client_message_id": "with spaces"}])
        return message

    def next(self):
        self.number += 1
        message = Message(self.number)
        row = self.bodies[self.random.randrange(len(self.bodies))]
        message.body, message.priority = row["body"], row.get("priority")
        if self._one_in(4):
            message.priority = self.random.choice((*PRIORITIES, None))
        message.to = self.random.choices(self.nodes, [1 if name == self.node else 6 for name in self.nodes])[0]
        message.abandoned = self._one_in(ABANDONED)
        if self._one_in(WITH_META):
            message.meta = self._meta()
        if self._one_in(WITH_REPLY):
            message.reply_to = f"01REPLY{self.random.getrandbits(80):020X}"[:26]
        message.id = self._id()
        if self._one_in(REFUSED):
            return self._refused(message)
        if self._one_in(STRANGER):
            message.kind, message.to = "stranger", Key(self.random.randbytes(32)).hex
        elif self._one_in(AGAIN):
            message.kind, message.earlier = "again", self.random.random() ** 2
        elif self._one_in(CONFLICT):
            message.kind, message.earlier = "conflict", self.random.random() ** 2
        elif self._one_in(MINTED):
            # Nobody can send it again under its id, and only its body says which one it is.
            message.id, message.abandoned = None, True
            message.body += f"\n[{self.node} {self.thread} {self.number}]"
        return message


@dataclasses.dataclass
class Blow:
    """Kill `targets` as soon as the count of `trigger` at `node` has grown by `count`, `delay_us` later; start them again `down_ms` later, and kill the first of them again while it
    starts, as often as `again` has entries, each so many µs after its exec."""
    targets: tuple
    trigger: str
    node: str
    count: int
    delay_us: int
    down_ms: int
    again: tuple

    @property
    def kills(self):
        return len(self.targets) + len(self.again)

    def __str__(self):
        text = f"kill -9 {' and '.join(self.targets)} after {self.count} more {self.trigger} at {self.node}"
        text += f" + {self.delay_us} µs" if self.delay_us else ""
        text += f", down {self.down_ms} ms" if self.down_ms else ""
        return text + "".join(f", again {delay} µs into its start" for delay in self.again)


def _log_uniform(generator, low, high):
    return int(low * (high / low) ** generator.random())


def _blow(generator, nodes):
    trigger = generator.choice(TRIGGERS)
    node = generator.choice(nodes)
    # Mostly one that has a hand in what just happened: between a step and the next is where it hurts.
    near = {"posted": (node,), "answered": (node, node, "broker"), "done": (node, "broker", "broker"), "received": (node, node, "broker")}[trigger]
    everybody = [*nodes, "broker"]
    targets = [generator.choice(near if generator.random() < 0.7 else everybody)]
    while len(targets) < len(everybody) and generator.random() < 0.15:
        targets.append(generator.choice([name for name in everybody if name not in targets]))
    delay = 0 if generator.random() < 0.5 else _log_uniform(generator, 20, 20000)
    down = 0 if generator.random() < 0.75 else _log_uniform(generator, 5, 800)
    again = []
    while len(again) < 3 and generator.random() < 0.25:
        again.append(_log_uniform(generator, 500, 60000))
    return Blow(tuple(targets), trigger, node, _log_uniform(generator, 1, 500), delay, down, tuple(again))


def blows(seed, nodes, kills):
    """Blows with `kills` kills in all, or a few more."""
    generator = random.Random(f"{seed}/blows")
    found = []
    while sum(blow.kills for blow in found) < kills:
        found.append(_blow(generator, nodes))
    return found


def settings(seed, node):
    """A daemon's config.toml: most runs as it comes, some with a narrow window, so that more waits in more places, some without syncs, which a kill must not need."""
    generator = random.Random(f"{seed}/settings/{node}")
    window = generator.choice((256, 256, 256, 16, 3))
    fsync = generator.choice(("strict", "strict", "strict", "batched"))
    return f'[drain]\nwindow = {window}\n\n[outbox]\nfsync = "{fsync}"\n'


def slowest_disk_us(seed, name):
    """How long the write and the sync of a commit may take in this process, beyond what the disk takes. What happens during a commit is what a kill must meet."""
    return random.Random(f"{seed}/disk/{name}").choice((0, 1000, 3000, 10000))
