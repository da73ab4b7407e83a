"""What RQ workers run: functions that get the run, as handlers do."""

import json

from consumers import Retry, Run


def report(run: Run) -> dict[str, object]:
    """What is returned is kept with the run, as JSON."""
    rows = run.parameters.get("rows", [])
    return {"rows": len(rows), "total": sum(rows)}


def fetch(run: Run) -> str:
    """A `Retry` hands the run back: it comes again after the delay, to whichever worker."""
    if run.run_count == 1:
        raise Retry(0.5, "the source is not ready")
    return json.dumps(run.parameters)
