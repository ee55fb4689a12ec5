"""Any packet at any hook: both engines do the same, nothing raises, and what they do is right.

One case is the life of a director of one family or both: either configured with services of every kind and left alone,
or a random story (``tests/helpers/story.py``), whose commands, packets and clock jumps come in between.
"""
from __future__ import annotations

import random
from collections import Counter, namedtuple
from collections.abc import Iterator

from lbq import conntrack
from lbq._fastpath import FastDirector
from lbq.conntrack import ADDRESSES, FIELDS, RECORD
from lbq.director import Director
from lbq.model import AF_INET
from tests.fuzz import families, mutate
from tests.fuzz.judge import Judge
from tests.fuzz.traced import Watched
from tests.helpers.engines import FORWARD, LOCAL_IN, LOCAL_OUT, NS, POSTROUTING, PREROUTING
from tests.helpers.steered import Steered
from tests.helpers.story import JUMPS, Step, Teller, story

STEPS = 600             # of a case
STORY_STEPS = 150       # of them in one that follows a story
LOOK_AT_TABLE = 20      # steps between two looks at which connections there are
LOOK_AT_MOST = 32       # connections at a time
LISTINGS = 150          # steps between two comparisons of all that is listed
Live = namedtuple("Live", FIELDS)       # a connection as it is listed
HOOKS_THERE = (PREROUTING, PREROUTING, PREROUTING, LOCAL_OUT)
HOOKS_BACK = (POSTROUTING, POSTROUTING, LOCAL_IN)
HOOKS = (PREROUTING, LOCAL_IN, FORWARD, LOCAL_OUT, POSTROUTING, 5, 255)
FORMS = [0] * 8 + [1, 2, 3, 3, 4, 5, 6, 7, 8, 0x7FFFFFFF, -1]


def play(seed: int, counted: Counter, tell=None) -> None:
    """Play case *seed*; *tell* is called with each step before it happens, and all is compared after each."""
    choose = random.Random(seed)
    corpus = families.of_case(seed)
    options = {"max_connections": choose.choice((3, 40, 1000, 1000)), "profile": choose.choice(("new", "classic"))}
    kind = choose.choice((FastDirector, FastDirector, Steered))
    reference, fast = Teller(Director(**options)), Teller(kind(**options))
    judge = Judge(reference.engine, fast.engine)
    watched = Watched(choose, fast.engine) if choose.random() < 0.3 else None
    for number, step in enumerate(steps(choose, corpus, reference.engine, seed)):
        if tell:
            tell(step)
        try:
            judge.before()
            seen, expected = fast.tell(step), reference.tell(step)
            assert seen == expected, f"fast: {seen}, reference: {expected}"
            if watched and step.kind == "packet":
                watched.see(step.arguments[0], fast.verdict)
            outcome = judge.after(step, fast.verdict, seen[-1] if step.kind == "packet" else None)
            if tell or number % LISTINGS == LISTINGS - 1:
                judge.listings(fast.state(), reference.state())
        except Exception as error:
            error.add_note(f"in step {number} of case {seed}")
            raise
        counted["packets"] += step.kind == "packet"
        counted[outcome] += 1
    judge.listings(fast.state(), reference.state())


def steps(choose: random.Random, corpus: families.Corpus, director, seed: int) -> Iterator[Step]:
    """Give the steps of a case; which come depends on the connections that *director* has."""
    if choose.random() < 0.4:
        between = iter(story(seed, STORY_STEPS))
    else:
        yield from corpus.world(choose)
        between = iter(lambda: corpus.command(choose), None)
    live: list = []
    last = b""
    for number in range(STEPS):
        if number % LOOK_AT_TABLE == 0:
            live = some_connections(choose, director)
        what = choose.random()
        if what < 0.02:
            yield Step("advance", (choose.choice([*JUMPS, 1000 * NS]),))
        elif what < (0.25 if number < STORY_STEPS else 0.04) and (step := next(between, None)):
            yield step
        else:
            before = last
            last, to_client = corpus.packet(choose, live)
            content = last if choose.random() < 0.5 else hostile(choose, last, before)
            yield queued(choose, content, to_client)


def some_connections(choose: random.Random, director) -> list[Live]:
    """Return up to a page of the connections that *director* has."""
    page, _ = director.list_connections(choose.randrange(1 + director.statistics()["connections"]), LOOK_AT_MOST)
    return [_live(record) for record in conntrack.split(page)]


def _live(record: bytes) -> Live:
    """Return what *record* says, with the addresses that follow it when one is IPv6's."""
    connection = Live._make(RECORD.unpack_from(record))
    if len(record) == RECORD.size:
        return connection
    sizes = [4 if family == AF_INET else 16 for family in (
        connection.family, connection.family, conntrack.server_family(connection.family, connection.flags))]
    caddr, vaddr, daddr = (int.from_bytes(content[:size], "big") for content, size in zip(
        ADDRESSES.unpack_from(record, RECORD.size), sizes, strict=True))
    return connection._replace(caddr=caddr, vaddr=vaddr, daddr=daddr)


def hostile(choose: random.Random, valid: bytes, other: bytes) -> bytes:
    """Return a packet that is wrong: *valid* mutated, or, more rarely, random from the start."""
    if choose.random() < 0.95:
        return mutate.packet(choose, valid, other)
    data = bytearray(choose.randbytes(choose.choice((0, 1, 19, 20, 21, 27, 28, 39, 40, 41, 48, 100, 1500))))
    if choose.random() < 0.8:
        data[:10] = valid[:10][:len(data)]         # a header that begins well
    return bytes(data)


def queued(choose: random.Random, content: bytes, to_client: bool) -> Step:
    """Return *content* as a step, seen at some hook, with whatever else the kernel may say of it."""
    hook = choose.choice((HOOKS_BACK if to_client else HOOKS_THERE) if choose.random() < 0.9 else HOOKS)
    mark = choose.choice((0, 0, 0, 1, 2, 3, choose.getrandbits(32)))
    return Step("packet", (content, hook, choose.choice(FORMS), choose.choice((0, 1, 2, 3, 0x7FFFFFFF)),
                           choose.random() < 0.01, mark))
