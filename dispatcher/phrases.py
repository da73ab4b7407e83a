"""How facts about runs read: the words and phrases that the sentences of `reasons` share."""

from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote

from dispatcher.probing import Holding, InRq, QueueCount, Slots

MOST_NAMED = 5  # queues that a sentence lists


@dataclass(frozen=True, slots=True)
class Say:
    """What sentences need beside their facts: which run, what time it is, how times are written."""

    run: str
    pool: str
    queue: str
    now_ms: int
    time: Callable[[int], str]
    span: Callable[[int], str]

    def since(self, at_ms: int) -> str:
        """Return how long ago a time was, and the time."""
        return f"for {self.span(max(0, self.now_ms - at_ms))}, since {self.time(at_ms)}"

    def until(self, at_ms: int) -> str:
        """Return a time to come, and in how long it comes."""
        return f"in {self.span(at_ms - self.now_ms)}, at {self.time(at_ms)}"

    def of_pool(self, verb: str, options: str = "") -> str:
        """Return a command about the run's pool."""
        return f"`dispatcher pool {verb} {quote(self.pool)}{options}`"

    def of_queue(self, verb: str, options: str = "") -> str:
        """Return a command about the run's queue."""
        return f"`dispatcher queue {verb} {quote(self.queue)} --pool {quote(self.pool)}{options}`"

    def lease(self, holding: Holding) -> str:
        """Return how long a claim's lease still holds, or what happens after its end."""
        end_ms = holding.lease_end_ms
        if not holding.worker:
            return "that worker is not registered any more: ask `dispatcher doctor`"
        if end_ms and end_ms > self.now_ms:
            return f"its lease holds for another {self.span(end_ms - self.now_ms)}"
        ended = f"ended at {self.time(end_ms)}" if end_ms else "has ended"
        return f"its lease {ended}, and a dispatcher takes the run back"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun; `many` when that takes more than an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def verb(number: int, word: str) -> str:
    """Return the verb of that many."""
    return f"{word}s" if number == 1 else word


def because(message: str) -> str:
    """Return a message as it stands behind what it explains."""
    return f" ({message})" if message else ""


def at_limit(limit: int, slots: Slots) -> str:
    """Return what is said of something that has used up its limit."""
    if not limit:
        return "has a limit of 0"
    listed = [f"{o.id} ({o.state_name if o.is_claimed else 'unclaimed'})" for o in slots.first]
    if slots.held > len(listed):
        listed.append(f"{slots.held - len(listed):,} more")
    who = f"{listing(listed)} {verb(slots.held, 'hold')} its slots"
    return f"is full at its limit of {limit:,}: {who}"


def listing(items: list[str]) -> str:
    """Return items as a list in a sentence."""
    return " and ".join([", ".join(items[:-1])] * (len(items) > 1) + items[-1:])


def ahead(same: int, others: tuple[QueueCount, ...] = (), *, is_least: bool = False) -> str:
    """Return how many go first, of other queues and of the same one; `is_least` if not all."""
    told = []
    if total := sum(each.runs for each in others):
        named = [f"{each.queue} {each.runs:,}" for each in others[:MOST_NAMED]]
        named += ["…"] * (len(others) > MOST_NAMED)
        told.append(f"{count(total, 'run')} of queues with higher priority ({', '.join(named)})")
    if same:
        told.append(f"{'at least ' if is_least else ''}{count(same, 'run')} of its own queue")
    return f"ahead of it: {listing(told)}" if told else "it is the next one"


def held_by(holding: Holding) -> str:
    """Return who has a claim."""
    if isinstance(holding, InRq):
        queue = f"RQ queue {holding.rq_queue}"
        return f"RQ worker {holding.rq_worker} ({queue})" if holding.rq_worker else queue
    if not holding.worker:
        return f"worker {holding.holder}"
    where = f" ({holding.host}, pid {holding.pid})" if holding.host else ""
    return f"worker {holding.worker}{where}"
