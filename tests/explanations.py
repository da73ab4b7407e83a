"""What `explain` says of a run of a fleet at its virtual time, as text or as codes."""

from dispatcher.cli.output import shown_span
from dispatcher.clock import utc
from dispatcher.explaining import Explanation, explain
from dispatcher.inspector import Inspector
from tests.builders import Fleet


def explained(fleet: Fleet, run_id: str = "a") -> Explanation:
    """The whole explanation."""
    inspector = Inspector(fleet.store.connection, fleet.store.prefix)
    return explain(inspector, run_id, now_ms=fleet.store.now_ms)


def told(fleet: Fleet, run_id: str = "a") -> list[str]:
    """The sentences, after a look at the line above them and at those in the JSON."""
    found = explained(fleet, run_id)
    title, *sentences = found.lines(time=utc, span=shown_span)
    place, state = f"{fleet.pool}/{found.run.queue}", f"{found.run.state_type} ({found.state_name})"
    assert title == f"Run {run_id} (name-of-{run_id}), queue {place}: {state}"
    reasons = found.as_json(time=utc, span=shown_span)["reasons"]
    assert [reason["text"] for reason in reasons] == sentences
    return sentences


def codes(fleet: Fleet, run_id: str = "a") -> list[str]:
    """The names of the answers."""
    return [reason.code.value for reason in explained(fleet, run_id).reasons]
