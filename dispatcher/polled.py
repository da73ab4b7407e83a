"""Why a run of a pool that is handed out by polling has not been taken: the last of the reasons."""

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.phrases import Say, ahead
from dispatcher.reasons import Code, Reason


@dataclass(frozen=True, slots=True)
class Polled(Reason):
    """The run is listed for whoever polls, after `same_queue` others, and nobody has taken it."""

    code: ClassVar[Code] = Code.POLLED
    due_ms: int
    same_queue: int

    def _tell(self, say: Say) -> str:
        return (
            f"It has been due {say.since(self.due_ms)}, and nobody has taken it: pool {say.pool} "
            f"is handed out by polling; {ahead(self.same_queue)}; "
            f"{say.of_pool('set', ' --handout stream')} lets workers claim instead."
        )
