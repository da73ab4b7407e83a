"""What the OpenAPI document says of answers is what `shapes` makes, field by field."""

import pytest

from dispatcher import shapes
from dispatcher.errors import InvalidRun
from dispatcher.http import answers
from dispatcher.records import Receipt, Word
from dispatcher.stored import Delivery, Deployment, Event, Holder, Place, Pool, Queue, RunRecord

ID = answers.RUN
T0 = 1_700_000_000_000
RUN = RunRecord(
    *(ID, "etl", "default", "nightly", Place.SCHEDULED, "SCHEDULED", "Scheduled", "", T0, T0),
    *(0, 0, 0, "", "", None, None, None, None, "", ()),
)
HOLDER = Holder("h.1", "etl", "h", "here", 7, "process", ("default",), 1, 0, T0, T0, False, False)
EVENT = Event("etl", "1-1", {"at_ms": str(T0), "event": "submitted", "run": ID, "queue": "default"})
CASES = [
    (answers.RunAnswer, shapes.run_fields(RUN, T0)),
    (answers.DeliveryAnswer, shapes.delivery_fields(Delivery(1, "h.1", T0, None, None, ""))),
    (answers.PoolAnswer, shapes.pool_fields(Pool("etl", ID, "process"))),
    (answers.QueueAnswer, shapes.queue_fields(Queue("default", "etl", ID, 1))),
    (answers.DeploymentAnswer, shapes.deployment_fields(Deployment(ID, "etl", 1, "ENQUEUE"))),
    (answers.WorkerAnswer, shapes.worker_fields(HOLDER, T0)),
    (
        answers.ReceiptAnswer,
        shapes.receipt_fields(Receipt(ID, Word.DUPLICATE, "etl", "default"), answers.POOL),
    ),
    (answers.RefusalAnswer, shapes.refusal_fields("line 1", InvalidRun("id", "is required"))),
]


@pytest.mark.parametrize(("model", "fields"), CASES, ids=[case[0].__name__ for case in CASES])
def test_an_answer_has_the_fields_that_the_document_names_and_no_others(model, fields):
    assert fields.keys() == model.model_fields.keys()
    model.model_validate(fields)


def test_an_event_has_the_fields_of_every_event_and_may_have_its_own():
    fields = {**shapes.event_fields(EVENT), "cursor": "1-1"}
    assert answers.EventAnswer.model_fields.keys() <= fields.keys()
    answers.EventAnswer.model_validate(fields)
