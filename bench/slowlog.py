"""The longest script of a measurement, by the server's slow log."""

from bench.figures import Figure
from dispatcher import Connection
from dispatcher.scripts import load, names

BOUND_MS = 20
_FROM_US = 2_000  # shorter ones are not looked at


class SlowLog:
    """What scripts took from here on."""

    def __init__(self, url: str) -> None:
        self._connection = Connection.open(url)
        self._connection.read(lambda c: c.config_set("slowlog-log-slower-than", _FROM_US))
        self._connection.read(lambda c: c.config_set("slowlog-max-len", 100_000))
        self._connection.read(lambda c: c.slowlog_reset())

    def longest(self) -> Figure:
        """Return the longest script in ms; 0 when all were short."""
        by_sha = {load(name).sha: name for name in names()}
        found = [(0.0, "")]
        for entry in self._connection.read(lambda c: c.slowlog_get(100_000)):
            command = entry["command"].decode(errors="replace").split()
            if command[0] == "EVALSHA":
                found.append((entry["duration"] / 1000, by_sha.get(command[1], "?")))
        longest_ms, name = max(found)
        title = f"longest script ({name})" if name else "longest script"
        return Figure(title, [longest_ms], at_most=BOUND_MS, digits=1)
