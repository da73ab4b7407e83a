"""Held claims without HTTP: who waits, who gets what, and what is left when nobody waits."""

from collections.abc import Callable, Iterator
from threading import Event

import pytest

from dispatcher.errors import InvalidName, PoolNotFound, QueueNotFound, Refused
from dispatcher.http.holders import Claimed, Wanted, claim_once, leave, new_ticket
from dispatcher.http.holding import Holding
from dispatcher.records import Registration, Word
from tests.builders import COMPLETED, POOL, a_queue
from tests.held import ALL, LEASE_MS, RENEW_MS, Caller, Edge
from tests.probes import wait_until
from tests.servers import RealServer


@pytest.fixture
def edge(real_server: RealServer, prefix: str) -> Iterator[Edge]:
    it = Edge(real_server, prefix)
    yield it
    it.close()


@pytest.fixture
def holding(edge: Edge) -> Holding:
    return edge.holding()


@pytest.fixture
def call(edge: Edge, holding: Holding) -> Callable[..., Caller]:
    return lambda *queues, slots=1, at=holding: Caller(edge, at, Wanted("w", queues, slots))


# --- At once


def test_what_is_there_is_claimed_at_once_by_a_holder_of_its_own_that_claims_no_more(edge, holding):
    edge.put("a", "b")
    claimed = holding.ask(POOL, ALL)
    (claim,) = claimed.claims
    assert claim.run_id == "a"
    assert (claimed.lease_ms, claimed.renew_ms) == (LEASE_MS, RENEW_MS)
    (holder,) = edge.inspector.holders(POOL)
    assert (holder.id, holder.held, holder.draining, holder.type) == (
        claimed.holder,
        1,
        True,
        "http",
    )


def test_up_to_as_many_runs_as_it_has_slots(edge, call):
    edge.put(*"abcde")
    assert call(slots=3).wait() == ["a", "b", "c"]


def test_a_claim_that_does_not_wait_and_finds_nothing_leaves_nothing_behind(edge, holding):
    edge.queue("other")
    edge.put("a", queue="other")
    assert holding.ask(POOL, Wanted("w", ("default",), 1)).claims == ()
    assert edge.inspector.holders(POOL) == []
    edge.store.pause(POOL, None)
    assert holding.ask(POOL, ALL).claims == ()
    assert edge.inspector.holders(POOL) == []


def test_the_same_ticket_again_gets_the_same_runs_again(edge):
    edge.put("a", "b")
    ticket = new_ticket()
    first = claim_once(edge.store, POOL, ALL, ticket)
    assert claim_once(edge.store, POOL, ALL, ticket) == first
    assert [claim.run_id for claim in first.claims] == ["a"]


def test_a_ticket_whose_holder_was_recovered_gets_nothing(edge):
    ticket = new_ticket()
    holder = claim_once(edge.store, POOL, ALL, ticket).holder
    edge.store.connection.read(
        lambda c: c.hset(edge.store.keys(POOL)["holder"] + holder, "dead", 1)
    )
    assert claim_once(edge.store, POOL, ALL, ticket) == Claimed(POOL)


def test_what_cannot_be_claimed_is_said(edge, holding):
    with pytest.raises(PoolNotFound):
        holding.ask("nowhere", ALL)
    with pytest.raises(QueueNotFound, match="elsewhere"):
        holding.ask(POOL, Wanted("w", ("default", "elsewhere"), 1))
    for name in ("a/b", "rq.queue", "x" * 250):
        with pytest.raises(InvalidName):
            holding.ask(POOL, Wanted(name, (), 1))
    edge.store.set_pool(POOL, {"handout": "poll"})
    with pytest.raises(Refused, match="get_scheduled_flow_runs"):
        holding.ask(POOL, ALL)


# --- Waiting


def test_a_held_claim_gets_the_run_that_comes(edge, call):
    caller = call()
    edge.wait_listening()
    assert caller.given == []
    edge.put("a")
    assert caller.wait() == ["a"]
    assert edge.claimers() == [caller.given[0].holder]
    wait_until(lambda: edge.draining() == edge.claimers(), "it claims no more")


def test_who_came_first_is_served_first(edge, call):
    callers = [call() for _ in range(3)]
    edge.put("a", "b", "c")
    assert [caller.wait() for caller in callers] == [["a"], ["b"], ["c"]]


def test_of_many_held_claims_exactly_one_gets_the_only_run(edge, call):
    callers = [call() for _ in range(200)]
    edge.put("a")
    assert callers[0].wait() == ["a"]
    edge.put("b")
    assert callers[1].wait() == ["b"]
    assert all(caller.given == [] for caller in callers[2:])


def test_a_claim_of_some_queues_waits_for_those_alone(edge, call):
    edge.queue("slow")
    slow, default = call("slow"), call("default")
    edge.put("a")
    assert default.wait() == ["a"]
    edge.put("b", queue="slow")
    assert slow.wait() == ["b"]


def test_a_queue_that_is_first_wanted_while_others_wait_is_heard_as_well(edge, call):
    edge.renew_rarely()
    edge.queue("slow")
    call("default")
    edge.wait_listening()
    slow = call("slow")
    edge.put("b", queue="slow")
    assert slow.wait() == ["b"]


def test_a_pool_knows_which_queues_held_claims_serve(edge, call):
    for name in ("one", "two"):
        edge.queue(name)

    def serve(*queues: str) -> None:
        wait_until(lambda: edge.served() == [queues], f"{queues or 'all'} are served")

    call("one")
    serve("one")
    call("one")
    call("two", "one")
    serve("one", "two")
    call()
    serve()


def test_a_queue_that_is_created_while_a_claim_of_all_waits_is_served(edge, call):
    caller = call()
    edge.wait_listening()
    edge.queue("new")
    edge.put("a", queue="new")
    assert caller.wait() == ["a"]


def test_the_queue_of_the_higher_priority_comes_first(edge, call):
    edge.store.create_queue(a_queue("urgent"), priority=1)
    edge.store.pause(POOL, None)
    edge.put("a")
    edge.put("b", queue="urgent")
    callers = [call(), call()]
    edge.wait_listening()
    edge.store.resume(POOL, None)
    edge.store.dispatch(POOL, ["urgent", "default"])
    assert [caller.wait() for caller in callers] == [["b"], ["a"]]


@pytest.mark.parametrize("queue", [None, "default"])
def test_a_pause_holds_claims_until_it_is_lifted(edge, call, queue):
    edge.store.pause(POOL, queue)
    caller = call()
    edge.wait_listening()
    edge.put("a")
    assert caller.given == []
    edge.store.resume(POOL, queue)
    edge.store.dispatch(POOL, ["default"])
    assert caller.wait() == ["a"]


@pytest.mark.parametrize("limited", ["pool", "queue"])
def test_a_limit_holds_for_claims_and_who_ends_makes_room(edge, call, limited):
    if limited == "pool":
        edge.store.set_pool(POOL, {"limit": 1})
    else:
        edge.store.set_queue(POOL, "default", {"limit": 1})
    first, second = call(), call()
    edge.put("a", "b")
    assert first.wait() == ["a"]
    edge.wait_listening()
    assert second.given == []
    (claim,) = first.given[0].claims
    edge.steps.start(POOL, "a", claim.token)
    assert edge.steps.finish(POOL, "a", claim.token, COMPLETED) is Word.FINISHED
    assert second.wait() == ["b"]


# --- Going away


def test_who_has_left_gets_nothing_and_the_next_one_does(edge, holding, call):
    left, other = call(), call()
    assert not holding.stop_waiting(left.waiter, gone=True)
    edge.put("a")
    assert other.wait() == ["a"]
    assert left.given == []


def test_a_wake_for_nobody_is_passed_on_to_a_worker(edge, holding, call):
    edge.renew_rarely()
    caller = call()
    edge.wait_listening()
    holder = edge.store.register(POOL, Registration("stream", "1", 1)).holder
    holding.stop_waiting(caller.waiter, gone=True)  # the listener still blocks on its queue
    edge.put("a")
    assert edge.store.wait(POOL, holder, ["default"], timeout_s=5) == "default"


def test_what_cannot_be_handed_over_goes_back_uncounted(edge, holding):
    edge.put("a")
    claimed = holding.ask(POOL, ALL)
    holding.give_back(claimed)
    wait_until(lambda: edge.inspector.holders(POOL) == [], "the holder has left")
    run = edge.inspector.run("a", POOL)
    assert (run.place, run.state_type, run.run_count, run.losses, run.unstarted) == (
        "scheduled",
        "SCHEDULED",
        0,
        0,
        0,
    )


def test_a_loop_that_has_ended_is_not_handed_anything(edge, holding):
    def ended(_: Claimed) -> None:
        raise RuntimeError("Event loop is closed")

    holding.ask(POOL, ALL, ended)
    edge.put("a")
    wait_until(lambda: edge.inspector.run("a", POOL).delivery == 1, "it was claimed")
    wait_until(lambda: edge.place("a") == "scheduled", "it is given back")


def test_closing_answers_all_with_nothing_and_leaves_the_pool(edge, holding, call):
    callers = [call() for _ in range(20)]
    edge.wait_listening()
    holding.close(timeout_s=5)
    assert [caller.wait() for caller in callers] == [[]] * 20
    assert edge.inspector.holders(POOL) == []
    assert call().wait() == []


def test_the_listener_stays_for_a_lease_after_the_last_one_and_then_leaves(edge, call):
    caller = call()
    edge.put("a")
    caller.wait()
    assert len(edge.listeners()) == 1
    wait_until(lambda: edge.listeners() == [], "the listener leaves")
    again = call()
    edge.put("b")
    assert again.wait() == ["b"]


def test_an_operator_who_drains_the_listener_has_all_answered(edge, call):
    caller = call()
    edge.wait_listening()
    (listener,) = edge.listeners()
    edge.store.drain(POOL, listener, reason="maintenance")
    assert caller.wait() == []
    wait_until(lambda: listener not in edge.listeners(), "it has left")


def test_a_pool_that_is_deleted_answers_all_that_wait(edge, call):
    caller = call()
    edge.wait_listening()
    edge.store.pause(POOL, None)
    edge.store.pause(POOL, None, intake=True)
    edge.store.delete_pool(POOL)
    assert caller.wait() == []


# --- Several


def test_nothing_is_sent_while_claims_are_held(edge, call):
    edge.renew_rarely()
    for _ in range(10):
        call()
    edge.wait_listening()
    renewed = edge.inspector.leases(POOL).ends
    reader = edge.open_store().connection.client
    with reader.monitor() as watching:
        edge.store.connection.client.echo("begin")
        Event().wait(1)
        edge.store.connection.client.echo("end")
        sent = []
        while (row := watching.next_command())["command"] != "ECHO end":
            sent.append(row["command"])
    assert sent == ["ECHO begin"]
    assert edge.inspector.leases(POOL).ends == renewed


def test_two_dispatchers_with_held_claims_share_what_comes(edge, call):
    two = [edge.holding(), edge.holding()]
    callers = [call(at=two[i % 2]) for i in range(40)]
    edge.wait_listening(2)
    runs = [f"r{i}" for i in range(40)]
    edge.put(*runs)
    got = [run for caller in callers for run in caller.wait()]
    assert sorted(got) == sorted(runs)
    assert len(edge.claimers()) == 40


def test_a_stream_worker_and_held_claims_share_what_comes(edge, call):
    holder = edge.store.register(POOL, Registration("stream", "1", 10)).holder
    callers = [call() for _ in range(5)]
    edge.put(*"abcdefgh")
    got = [run for caller in callers for run in caller.wait()]
    wait_until(lambda: edge.store.wait(POOL, holder, ["default"], timeout_s=1), "it is woken")
    got += [c.run_id for c in edge.store.claim(POOL, holder, number=1, slots=10).claims]
    assert sorted(got) == list("abcdefgh")


def test_a_holder_leaves_only_when_it_has_nothing(edge, holding):
    edge.put("a", "b")
    claimed = holding.ask(POOL, Wanted("w", (), 2))
    a, b = claimed.claims
    assert not leave(edge.store, POOL, claimed.holder)
    edge.steps.finish(POOL, "a", a.token, COMPLETED)
    assert edge.claimers() == [claimed.holder]
    edge.steps.finish(POOL, "b", b.token, COMPLETED)
    assert edge.claimers() == []
