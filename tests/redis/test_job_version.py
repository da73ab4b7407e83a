"""The version of what a pool makes jobs of: it changes with each change, and nothing slips by."""

import json

import pytest

from dispatcher.errors import InvalidSettings, PoolChanged
from dispatcher.inspector import Inspector
from dispatcher.records import Word
from tests.builders import T0, Fleet, a_pool, a_submission, changed, shown
from tests.templates import PROCESS_TEXT, a_template

OTHER = a_template({"command": "other"})


def version(fleet: Fleet) -> int:
    return Inspector(fleet.store.connection, fleet.store.prefix).pool(fleet.pool).job_version


def test_a_pool_is_stored_and_read_with_its_template(client, prefix):
    fleet = Fleet(client, prefix, base_job_template=PROCESS_TEXT)
    found = Inspector(fleet.store.connection, prefix).pool("pool")
    assert (found.base_job_template, found.job_version) == (PROCESS_TEXT, T0)


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"command": "run me"}, {"command": "run me"}),
        ({"base_job_template": OTHER}, {"base_job_template": OTHER}),
    ],
    ids=["command", "template"],
)
def test_the_version_is_another_one_after_each_change(fleet, fields, stored):
    before = fleet.dump()

    fleet.set_pool(**fields)

    told = " ".join(f"{name}={value}" for name, value in stored.items())
    assert changed(before, fleet.dump()) == {
        "pool": stored | {"job_version": str(T0 + 1)},
        "events": [shown("pool-set", reason=told)],
    }
    fleet.set_pool(**fields)
    assert version(fleet) == T0 + 2
    fleet.advance(1_000)
    fleet.set_pool(**dict.fromkeys(fields))
    assert version(fleet) == T0 + 1_000


def test_other_settings_do_not_change_the_version(fleet):
    fleet.set_pool(limit=5, lease_ms=9_000, keep_payload=1)
    assert version(fleet) == T0


def test_a_pool_made_again_under_its_name_has_a_later_version(fleet):
    fleet.set_pool(command="a")
    before = version(fleet)
    fleet.pause(intake=True)
    fleet.pause()
    fleet.store.delete_pool(fleet.pool)
    fleet.advance(2)

    fleet.store.create_pool(a_pool(), default_queue_id="q")

    assert version(fleet) > before


def test_a_long_value_is_told_by_its_size(fleet):
    template = a_template({"a": "x" * 1_000})
    fleet.set_pool(base_job_template=template)
    told = f"base_job_template={len(template)} bytes"
    assert fleet.dump()["events"][-1] == shown("pool-set", reason=told)


@pytest.mark.parametrize("text", ["no json", "[]", '{"a": 1}', OTHER + " " * 262_144])
def test_a_template_that_cannot_be_used_is_not_stored(fleet, text):
    before = fleet.dump()
    with pytest.raises(InvalidSettings, match="base_job_template"):
        fleet.set_pool(base_job_template=text)
    with pytest.raises(InvalidSettings, match="base_job_template"):
        fleet.store.create_pool(a_pool("new", base_job_template=text), default_queue_id="q")
    assert fleet.dump() == before


def test_a_template_of_256_kib_passes_through_whole(fleet):
    size = 262_144 - len(a_template({"a": ""}))
    text = json.dumps(json.loads(a_template({"a": "é" * (size // 2)})), ensure_ascii=False)

    fleet.set_pool(base_job_template=text)

    found = Inspector(fleet.store.connection, fleet.store.prefix).pool(fleet.pool)
    assert found.base_job_template == text
    assert len(text.encode()) > 260_000


# --- Claims


def test_a_claim_carries_the_version_of_that_moment_also_when_it_is_repeated(fleet):
    holder = fleet.register()
    fleet.put("a")
    (first,) = fleet.claim(holder)
    fleet.set_pool(command="other")
    (again,) = fleet.claim(holder, number=1)
    fleet.put("b")
    (second,) = fleet.claim(holder, number=2)

    assert (first.job_version, again.job_version, second.job_version) == (T0, T0 + 1, T0 + 1)


# --- Submits


def test_a_run_that_was_checked_against_an_earlier_version_changes_nothing(fleet):
    fleet.set_pool(command="other")
    before = fleet.dump()

    with pytest.raises(PoolChanged, match="pool 'pool' keeps changing its command or template"):
        fleet.submit("a", job_version=T0)

    assert fleet.dump() == before
    (receipt,) = fleet.submit("a", job_version=T0 + 1)
    assert receipt.word is Word.ACCEPTED


def test_a_submit_whose_reply_was_lost_is_accepted_again_although_the_pool_has_changed(fleet):
    fleet.submit("a", job_version=T0)
    fleet.set_pool(command="other")
    before = fleet.dump()

    (again,) = fleet.submit("a", job_version=T0)

    assert again.word is Word.ACCEPTED
    assert fleet.dump() == before


def test_a_run_that_is_known_is_a_duplicate_under_any_version(fleet):
    fleet.submit("a")
    fleet.set_pool(command="other")
    (again,) = fleet.submit("a", job_version=T0, request="another")
    assert again.word is Word.DUPLICATE


def test_a_submit_that_names_no_version_is_accepted_under_any(fleet):
    fleet.set_pool(command="other")
    assert fleet.store.submit("pool", a_submission("a")).word is Word.ACCEPTED


def test_a_run_of_a_pool_without_a_version_is_accepted_under_none(fleet):
    fleet.client.hdel(fleet.keys["pool"], "job_version")
    assert version(fleet) == 0
    (receipt,) = fleet.submit("a", job_version=0)
    assert receipt.word is Word.ACCEPTED
    fleet.dispatch()
    assert fleet.claim_one(fleet.register()).job_version == 0
