"""The work of the conformance suite as handlers: what it writes is what they return."""

from collections.abc import Callable
from functools import partial

from consumers import App, Run
from tests.scenarios.work import WORKS, Work

app = App()


def _do(what: Callable[[Work], None], run: Run) -> str:
    written = bytearray()
    what(
        Work(
            run.parameters["directory"],
            run.id,
            delivery=run.delivery,
            token=run.fencing_token,
            payload=run.raw,
            write=written.extend,
            wait_stop=run.cancelled.wait,
        )
    )
    return written.decode(errors="surrogateescape")


for name, each in WORKS.items():
    app.handler(name)(partial(_do, each))
