"""The connections of one worker."""

from collections.abc import Callable

from dispatcher import Inspector, Store

BLOCK_S = 10.0
READ_TIMEOUT_S = BLOCK_S + 5.0


class Doors:
    """The connections of one worker: one per duty, so that none waits for another."""

    def __init__(self, open_doors: Callable[[float | None], tuple[Store, Inspector]]) -> None:
        self.claiming, self.inspector = open_doors(READ_TIMEOUT_S)
        self.reporting, _ = open_doors(None)
        self.renewing, _ = open_doors(None)

    def close(self) -> None:
        """Close all connections."""
        for store in (self.claiming, self.reporting, self.renewing):
            store.connection.close()
