"""The app of the handler workers in scenarios; what its handlers do is told by their parameters.

They meet the test in files of a directory: `begun.<run>.<delivery>` tells that a handler has begun
and has its process id, `go` lets it end.
"""

import asyncio
import ctypes
import os
import sys
import threading
from pathlib import Path

from consumers import App, Retry, Run
from dispatcher import Clock

STEP_S = 0.02
app = App()


def tell(run: Run, what: str = "begun") -> None:
    """Write a file that the test waits for."""
    file = Path(run.parameters["directory"]) / f"{what}.{run.id}.{run.delivery}"
    file.with_suffix(".new").write_text(str(os.getpid()))
    file.with_suffix(".new").rename(file)


def may_go(run: Run) -> bool:
    """Whether the test lets handlers end."""
    return (Path(run.parameters["directory"]) / "go").exists()


@app.handler()
def echo(run: Run) -> dict[str, object]:
    app.log.info("echoed", day=run.parameters.get("day"))
    return {
        "name": run.name,
        "parameters": dict(run.parameters),
        "token": run.fencing_token,
        "counts": [run.run_count, run.delivery],
        "tags": run.payload.flow_run.tags,
    }


@app.handler("hold")
def hold(run: Run) -> str:
    """Works until it may go, or is asked to stop."""
    tell(run)
    while not may_go(run):
        if run.cancelled.wait(STEP_S):
            tell(run, "stopped")
            return f"stopped: {run.cancelled.reason}"
    return "went"


@app.handler("stubborn")
def stubborn(run: Run) -> str:
    """Works until it may go, whoever asks it to stop."""
    tell(run)
    while not may_go(run):
        threading.Event().wait(STEP_S)
    return "went"


@app.handler("hold aio")
async def hold_aio(run: Run) -> str:
    tell(run)
    while not may_go(run):
        if await run.cancelled.wait_async(STEP_S):
            tell(run, "stopped")
            return f"stopped: {run.cancelled.reason}"
    return "went"


@app.handler("stubborn aio")
async def stubborn_aio(run: Run) -> str:
    """Works until it is cancelled, and cleans up then."""
    tell(run)
    try:
        while not may_go(run):
            await asyncio.sleep(STEP_S)
        return "went"
    finally:
        tell(run, "cleaned")


@app.handler("busy")
def busy(run: Run) -> int:
    """A pure Python loop, which never waits."""
    clock, rounds = Clock(), 0
    until_s = clock.monotonic_s() + run.parameters["seconds"]
    while clock.monotonic_s() < until_s:
        rounds += sum(i * i for i in range(1_000)) > 0
    return rounds


@app.handler("busy aio")
async def busy_aio(run: Run) -> int:
    return busy(run)


@app.handler("hold the interpreter")
def hold_interpreter(run: Run) -> int:
    """The first time it lets no other thread run, as some extensions in C do."""
    if run.delivery == 1:
        tell(run)
        ctypes.PyDLL(None).usleep(int(run.parameters["seconds"] * 1_000_000))
    return run.delivery


@app.handler("fail")
def fail(run: Run) -> str:
    if run.run_count <= run.parameters["times"]:
        raise ValueError(f"start {run.run_count}")
    return "at last"


@app.handler("ask again")
async def ask_again(run: Run) -> int:
    if run.run_count <= run.parameters["times"]:
        raise Retry(run.parameters["delay_s"], "no room yet")
    return run.run_count


@app.handler("exit")
async def leave(run: Run) -> None:
    sys.exit("enough")


@app.handler("print")
def say(run: Run) -> None:
    print("said by a handler", flush=True)
