"""Holders of HTTP claims: each claim call that got something is one, with a lease of its own.

A holder's name has its incarnation in it, so it is nobody's successor. It claims once, is drained
at once, as it will claim nothing more, and leaves with its last run. One that is never heard of
again is recovered like a worker.
"""

from dataclasses import dataclass
from secrets import token_hex

from dispatcher.errors import InvalidName, Refused
from dispatcher.hand_overs import SHARED
from dispatcher.keys import check_name
from dispatcher.records import Claim, Registration, Word
from dispatcher.store import Store

KIND = "http"
DEFAULT_WORKER = "http"
MARK = "~"
HEX_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a claim call asks for; no `queues` means all of the pool, also later ones."""

    worker: str
    queues: tuple[str, ...]
    slots: int
    host: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim call got: its holder's lease in ms, and the claims, maybe none."""

    pool: str
    holder: str = ""
    lease_ms: int = 0
    renew_ms: int = 0
    claims: tuple[Claim, ...] = ()


def new_ticket() -> str:
    """Return what makes a holder unique; the same one again repeats the same claim."""
    return token_hex(HEX_DIGITS // 2)


def worker_name(name: str, ticket: str) -> str:
    """Return the name under which a claim call of `name` registers."""
    return f"{name}{MARK}{ticket}"


def check_worker(name: str) -> str:
    """Return a worker's name if it can be that of HTTP claims; raises InvalidName."""
    if name.startswith(SHARED):
        raise InvalidName("worker", name, f"begins with {SHARED}, as RQ queues do")
    check_name("worker", worker_name(name, "0" * HEX_DIGITS))
    return name


def is_http_holder(holder: str) -> bool:
    """Return whether a holder is that of an HTTP claim: its name ends with its incarnation."""
    worker, _, incarnation = holder.rpartition(".")
    return len(incarnation) == HEX_DIGITS and worker.endswith(f"{MARK}{incarnation}")


def claim_once(store: Store, pool: str, wanted: Wanted, ticket: str) -> Claimed:
    """Claim up to `slots` runs as a new holder; the same ticket again gets the same runs again.

    The holder stays, also when it got nothing: `leave` forgets it, `close_to_claims` keeps it from
    passing for one that would claim more. Raises InvalidName, NotFound for the pool.
    """
    registration = Registration(
        worker=worker_name(wanted.worker, ticket),
        incarnation=ticket,
        slots=wanted.slots,
        queues=wanted.queues,
        host=wanted.host,
        type=KIND,
    )
    try:
        me = store.register(pool, registration)
    except Refused as error:
        if type(error) is not Refused:  # the pool is gone
            raise
        return Claimed(pool)  # recovered between two tries of the same claim
    answer = store.claim(pool, me.holder, number=1, slots=wanted.slots)
    return Claimed(pool, me.holder, me.lease_ms, me.renew_ms, tuple(answer.claims))


def close_to_claims(store: Store, taken: Claimed) -> None:
    """Say that a holder claims nothing more; its lease and its runs go on."""
    store.drain(taken.pool, taken.holder, reason="an HTTP claim is made once")


def leave(store: Store, pool: str, holder: str) -> bool:
    """Forget a holder that has nothing any more; return whether it had nothing."""
    word = store.drain(pool, holder, reason="an HTTP claim is over")
    if word is Word.DRAINED:
        store.recover_all(pool, holder)
    return word is not Word.DRAINING
