"""What an idle dispatcher and an idle worker cost: commands that clients send, by MONITOR."""

import subprocess
import threading

from bench.fixture import answer, fresh_pool, pause, peer, ready
from dispatcher import Connection

WINDOW_S = 20.0
SETTLE_S = 2.0


def commands_per_second(url: str, who: str, *arguments: str) -> float:
    """Return the client commands per second while only `who` is connected and has no work."""
    fresh_pool(url)
    process = peer(who, url, *arguments)
    ready(process)
    pause(SETTLE_S)
    count = count_commands(url, WINDOW_S)
    if who == "dispatcher":
        answer(process)
    else:
        _kill(process)
    return count / WINDOW_S


def count_commands(url: str, window_s: float) -> int:
    """Count commands for a while; those inside scripts are marked `lua` and are not a client's."""
    monitor = Connection.open(url, read_timeout_s=None).client.monitor()
    count, over = 0, threading.Event()

    def listen() -> None:
        nonlocal count
        with monitor as m:
            for command in m.listen():
                if over.is_set():
                    return
                count += command["client_type"] != "lua"

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    pause(window_s)
    over.set()
    Connection.open(url).read(lambda c: c.ping())  # MONITOR hears it, and the thread ends
    thread.join()
    return count


def _kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()
