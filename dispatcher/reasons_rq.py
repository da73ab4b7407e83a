"""What `explain` says of runs that were handed over to RQ; see `reasons.py`."""

from dataclasses import dataclass
from typing import ClassVar

from dispatcher.phrases import Say
from dispatcher.probing import InRq
from dispatcher.reasons import Code, Reason


@dataclass(frozen=True, slots=True)
class HandedOver(Reason):
    """The run is in an RQ queue, or an RQ worker has just taken it and has not started it."""

    code: ClassVar[Code] = Code.HANDED_OVER
    handed_ms: int
    delivery: int
    holding: InRq

    def _tell(self, say: Say) -> str:
        worker = self.holding.rq_worker
        waits = "waits there for an RQ worker (`rq info` lists them)"
        what = f"RQ worker {worker} has it and has not started it" if worker else waits
        return (
            f"It has been handed over to RQ queue {self.holding.rq_queue} "
            f"{say.since(self.handed_ms)}, in delivery {self.delivery:,}, and {what}; "
            f"{say.lease(self.holding)}; `dispatcher flow-run release {say.run}` takes it away "
            "from there."
        )
