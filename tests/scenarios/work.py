"""The work of the conformance suite, the same for every type of worker.

`python -I -S work.py WHAT DIRECTORY` does it as a child process; `work_app` has it as handlers. It
meets the test in files of the directory: `begun.<run>.<delivery>` tells that it has begun and has
its process id, `stopped.<run>.<delivery>` that it was asked to stop, `go.<run>` lets it end.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

STEP_S = 0.02
ODD = b"\xff\xfe\x00\xc3( no end"  # no UTF-8, a zero, no end of a line
LINE = b"of ten megabytes " + b"." * 1_006 + b"\n"
LINES = 10_240


class Work:
    """One delivery of a run, as its work sees it; `write` is its output, `wait_stop` waits."""

    def __init__(
        self,
        directory: str,
        run_id: str,
        *,
        delivery: int,
        token: str,
        payload: bytes,
        write: Callable[[bytes], object],
        wait_stop: Callable[[float], bool],
    ) -> None:
        self._directory = Path(directory)
        self.run_id, self.delivery, self.token, self.payload = run_id, delivery, token, payload
        self.write, self._wait_stop = write, wait_stop

    def tell(self, what: str) -> None:
        """Write a file that the test waits for."""
        file = self._directory / f"{what}.{self.run_id}.{self.delivery}"
        file.with_suffix(".new").write_text(str(os.getpid()))
        file.with_suffix(".new").rename(file)

    def hold(self, told: str = "begun", awaited: str = "go") -> None:
        """Work until the test lets it go, or somebody asks it to stop."""
        self.tell(told)
        while not (self._directory / f"{awaited}.{self.run_id}").exists():
            if self._wait_stop(STEP_S):
                self.tell("stopped")
                return


def echo(work: Work) -> None:
    """Tell what it was given."""
    seen = {
        "token": work.token,
        "delivery": work.delivery,
        "sha256": hashlib.sha256(work.payload).hexdigest(),
    }
    work.write(json.dumps(seen).encode())


def hold(work: Work) -> None:
    """Work until it may go; what it was given is told then."""
    work.hold()
    echo(work)


def fail(work: Work) -> None:
    """Raise an error, with which a program ends."""
    raise ValueError("no luck")


def odd(work: Work) -> None:
    """Write what is no text."""
    work.write(ODD)


def loud(work: Work) -> None:
    """Write ten megabytes when the test says so, and only then go on."""
    work.hold("ready", "write")
    for _ in range(LINES):
        work.write(LINE)
    work.hold()


WORKS: dict[str, Callable[[Work], None]] = {
    each.__name__: each for each in (echo, hold, fail, odd, loud)
}


def main(what: str, directory: str) -> None:
    """Do it as a child process; SIGTERM ends it as it ends any program."""
    environ, output = os.environ, sys.stdout.buffer
    WORKS[what](
        Work(
            directory,
            environ["DISPATCHER_RUN_ID"],
            delivery=int(environ["DISPATCHER_RUN_DELIVERY"]),
            token=environ["DISPATCHER_RUN_FENCING_TOKEN"],
            payload=Path(environ["DISPATCHER_RUN_PAYLOAD_FILE"]).read_bytes(),
            write=output.write,
            wait_stop=threading.Event().wait,
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
