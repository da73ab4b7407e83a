"""Each row of "When a queue stalls" in docs/operations.md: its cause, and what shows it there."""

import re
from collections.abc import Callable

import pytest

from dispatcher.records import Registration
from tests.commands import Commands, Hands, a_run, ndjson, run_id
from tests.probes import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
LONG_AGO = "2020-01-01T00:00:00Z"
LAST = run_id(9)


class Stall:
    """A pool with a worker by hand, brought to a stop by one of the causes."""

    def __init__(self, cli: Commands, hands: Hands) -> None:
        self.cli, self.hands = cli, hands

    def submit(self, *numbers: int, at: str = LONG_AGO, **fields: str) -> None:
        """Submit these runs and the one that will be asked about."""
        runs = [a_run(number, **fields) for number in (*numbers, 9)]
        done = self.cli("submit", "-", "--pool", "etl", "--at", at, given=ndjson(*runs))
        assert done.code == 0

    def dispatch(self) -> None:
        """Dispatch what is due."""
        self.hands.store.dispatch("etl", ["default"])

    def set(self, *words: str) -> None:
        """Run a command that changes a setting."""
        done = self.cli(*words)
        assert done.code == 0, done.err


def paused(stall: Stall) -> str:
    stall.set("queue", "pause", "default", "--pool", "etl", "--reason", "upgrade")
    stall.submit()
    return "is_paused"


def no_dispatcher(stall: Stall) -> str:
    stall.submit()
    return "scheduled"


def stream_full(stall: Stall) -> str:
    stall.set("queue", "set", "default", "--pool", "etl", "--max-unclaimed", "1")
    stall.submit(1)
    stall.dispatch()
    return "scheduled"


def waiting(stall: Stall) -> str:
    stall.set("deployment", "set", run_id(8), "--pool", "etl", "--limit", "1")
    stall.submit(1, deployment_id=run_id(8))
    stall.dispatch()
    return "waiting"


def pool_full(stall: Stall) -> str:
    stall.set("pool", "set", "etl", "--limit", "0")
    stall.submit()
    stall.dispatch()
    return "unclaimed"


def queue_full(stall: Stall) -> str:
    stall.set("queue", "set", "default", "--pool", "etl", "--limit", "0")
    stall.submit()
    stall.dispatch()
    return "unclaimed"


def unserved(stall: Stall) -> str:
    stall.cli("worker", "drain", "hands", "--timeout", "0")
    stall.submit()
    stall.dispatch()
    return "unclaimed"


def workers_full(stall: Stall) -> str:
    stall.cli("worker", "drain", "hands", "--timeout", "0")
    stall.submit(1)
    stall.dispatch()
    holder = stall.hands.store.register("etl", Registration("small", "1", slots=1)).holder
    stall.hands.store.claim("etl", holder, number=1, slots=1)
    return "unclaimed"


def running(stall: Stall) -> str:
    stall.submit()
    stall.hands.start(stall.hands.claim())
    return "claimed"


def ended(stall: Stall) -> str:
    stall.set("queue", "set", "default", "--pool", "etl", "--late-drop", "1s")
    stall.submit()
    stall.dispatch()
    return "skipped"


CAUSES: dict[str, Callable[[Stall], str]] = {
    cause.__name__: cause
    for cause in (
        *(paused, no_dispatcher, stream_full, waiting, pool_full, queue_full, unserved),
        *(workers_full, running, ended),
    )
}


def rows() -> dict[str, tuple[str, str]]:
    """The page's rows by what `explain` says: what `queue ls` shows, and what to look at."""
    table = PAGE.split("<!-- stalls -->\n")[1].split("\n<!-- /stalls -->")[0]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    return {code.strip("`"): (shown, look) for shown, look, code, _ in cells}


@pytest.fixture
def stall(real_server, prefix):
    cli = Commands(real_server.url, prefix)
    assert cli("pool", "create", "etl").code == 0
    with real_server.client() as client:
        yield Stall(cli, Hands(client, prefix))


def test_each_row_has_its_cause():
    assert rows().keys() == CAUSES.keys()


@pytest.mark.parametrize("code", CAUSES)
def test_the_cause_is_seen_where_its_row_says(stall, code):
    counted = CAUSES[code](stall)
    shown, look = rows()[code]

    (queue,) = stall.cli("queue", "ls", "--pool", "etl", "--json").objects
    assert queue[counted]
    assert {"is_paused": "PAUSED"}.get(counted, counted) in shown
    first, *_ = stall.cli("explain", LAST, "--json").objects[0]["reasons"]
    assert first["code"] == code
    for command in re.findall(r"`dispatcher ([^`]+)`", look):
        words = [{"P": "etl", "Q": "default"}.get(word, word) for word in command.split()]
        assert stall.cli(*words).code == 0
