"""A claim over HTTP, at once and held, on a real server behind a real HTTP server."""

import json
import socket
import threading
from contextlib import closing

import pytest

from dispatcher.http.doors import Doors
from dispatcher.http.options import Address, Options
from dispatcher.http.serving import HttpServer
from dispatcher.settings import read_settings
from tests.builders import POOL
from tests.held import LEASE_MS, RENEW_MS
from tests.probes import wait_until
from tests.served import CLAIM, Served, problem, read_answer
from tests.servers import RealServer

PAYLOAD = b'{ "work_pool_id":"p",  "flow_run" :{"id":"a","x":1.50,"y":"\xc3\xa9"}\n}'


# --- Claim


def test_a_claim_answers_with_the_endpoints_object_and_all_that_the_claim_is(served):
    served.store.set_queue(POOL, "default", {"timeout_ms": 5_000})
    served.put_json("a")
    answer = served.claim(worker="host-7")
    (one,) = answer.json()
    claim = one.pop("claim")
    assert one == {"work_pool_id": "p", "flow_run": {"id": "a"}}
    run = served.inspector.run("a", POOL)
    assert claim == {
        "token": run.token,
        "holder": run.holder,
        "work_pool_name": POOL,
        "work_queue_name": "default",
        "delivery": 1,
        "run_count": 0,
        "due_ms": run.due_ms,
        "lease_ms": LEASE_MS,
        "renew_ms": RENEW_MS,
        "timeout_ms": 5_000,
        "cancel_grace_ms": 30_000,
        "retry_delay_ms": 0,
    }
    assert run.holder.startswith("host-7~")
    assert run.state_type == "PENDING"


def test_the_bytes_of_a_payload_are_those_that_were_accepted(served):
    served.put("a", payload=PAYLOAD)
    assert PAYLOAD.removesuffix(b"}") in served.claim().content


def test_a_single_run_is_told_in_headers_as_well(served):
    served.put_json("a", "b", "c")
    answer = served.claim()
    claim = answer.json()[0]["claim"]
    told = {k: v for k, v in answer.headers.items() if k.startswith("dispatcher-")}
    assert told == {
        "dispatcher-run-id": "a",
        "dispatcher-fencing-token": claim["token"],
        "dispatcher-delivery": "1",
        "dispatcher-renew-ms": str(RENEW_MS),
    }
    assert "dispatcher-run-id" not in served.claim(slots=2).headers


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (None, 1),
        ({}, 1),
        ({"slots": 3}, 3),
        ({"slots": 3, "limit": 2}, 2),
        ({"limit": 200}, 1),
        ({"slots": 2, "limit": None, "work_queue_names": None}, 2),
        ({"slots": 2, "work_queue_names": [], "scheduled_before": None}, 2),
        ({"slots": 100}, 5),
        ({"limit": 0}, 0),
    ],
)
def test_as_many_runs_as_the_smaller_of_slots_and_limit(served, body, number):
    served.put_json(*"abcde")
    assert len(served.post(CLAIM, body).json()) == number
    assert served.client.post(CLAIM, content=b"").status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"slots": 0}, "body.slots"),
        ({"slots": 101}, "body.slots"),
        ({"slots": "1"}, "body.slots"),
        ({"limit": 201}, "body.limit"),
        ({"limit": -1}, "body.limit"),
        ({"scheduled_before": "2026-01-01T00:00:00Z"}, "body.scheduled_before"),
        ({"scheduled_after": "2026-01-01T00:00:00Z"}, "body.scheduled_after"),
        ({"work_queue_names": "default"}, "body.work_queue_names"),
        ({"work_queue_names": ["a/b"]}, "body.work_queue_names.0"),
        ({"slot": 1}, "body.slot"),
        ({"worker": ""}, "body.worker"),
    ],
)
def test_a_body_that_is_not_as_it_should_be_is_refused_with_its_field(served, body, field):
    served.put_json("a")
    wrong = problem(served.post(CLAIM, body), 422)
    assert [error["field"] for error in wrong["errors"]] == [field]
    assert served.place("a") == "stream"


def test_a_worker_name_with_a_slash_is_refused(served):
    assert "worker name" in problem(served.claim(worker="a/b"), 422)["detail"]


def test_unknown_pools_and_queues_are_not_found(served):
    problem(served.post("/api/work_pools/nowhere/claim"), 404)
    problem(served.post("/api/work_pools/nowhere/claim", {"limit": 0}), 404)
    assert "elsewhere" in problem(served.claim(work_queue_names=["elsewhere"]), 404)["detail"]


def test_a_pool_that_is_polled_says_what_to_call(served):
    served.store.set_pool(POOL, {"handout": "poll"})
    assert "get_scheduled_flow_runs" in problem(served.claim(), 409)["detail"]


def test_only_of_the_queues_that_it_names(served):
    served.queue("slow")
    served.put_json("a")
    served.put_json("b", queue="slow")
    assert served.claim_one(work_queue_names=["slow"])["flow_run"]["id"] == "b"


# --- Waiting


def test_without_a_preference_nothing_is_waited_for(served):
    answer = served.claim()
    assert (answer.status_code, answer.content) == (200, b"[]")
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize(("asked", "applied"), [(1, "wait=1"), (0, "wait=0")])
def test_a_wait_that_is_over_is_answered_with_nothing(served, asked, applied):
    answer = served.claim(asked)
    assert answer.json() == []
    assert answer.headers["preference-applied"] == applied


def test_a_wait_longer_than_the_bound_is_cut_to_it(served):
    served.put_json("a")
    assert served.claim(100_000).headers["preference-applied"] == "wait=300"


def test_a_held_claim_is_answered_when_a_run_is_there(served):
    client = served.hold()
    served.wait_held(1)
    served.put_json("a")
    (one,) = read_answer(client)
    assert served.inspector.run("a", POOL).token == one["claim"]["token"]


def test_the_end_of_serving_answers_what_is_held_with_nothing(served):
    clients = [served.hold() for _ in range(50)]
    served.wait_held(50)
    served.http.stop()
    assert [read_answer(client) for client in clients] == [[]] * 50
    assert served.inspector.holders(POOL) == []


# --- Clients that go away


def test_a_client_that_goes_away_ends_its_wait_within_a_second(served):
    client = served.hold()
    served.wait_held(1)
    client.close()
    wait_until(lambda: served.http.app.state.holding.held() == {}, "it is over", timeout_s=1)


def test_a_run_for_a_client_that_has_gone_is_somebody_elses(served):
    gone = [served.hold() for _ in range(20)]
    served.wait_held(20)
    for client in gone:
        client.close()
    served.put_json("a")

    def claimed():
        # It may have been claimed for one of them, and given back.
        served.store.dispatch(POOL, ["default"])
        return served.claim(1).json()

    (one,) = wait_until(claimed, "somebody else gets it")
    assert one["flow_run"]["id"] == "a"
    run = served.inspector.run("a", POOL)
    assert (run.run_count, run.losses, run.unstarted) == (0, 0, 0)


def test_a_claim_that_its_client_does_not_read_to_the_end_is_given_back_uncounted(served):
    """What does not fit into the buffers of a client that stands still, and then goes."""
    big = json.dumps({"flow_run": {"id": "big", "fill": "x" * 16_000_000}}).encode()
    client = served.hold(buffer_bytes=4_096)
    served.wait_held(1)
    served.put("big", payload=big)
    wait_until(lambda: served.inspector.run("big", POOL).delivery == 1, "it is claimed")
    assert client.recv(100)
    client.close()
    wait_until(lambda: served.place("big") == "scheduled", "it is given back")
    run = served.inspector.run("big", POOL)
    assert (run.run_count, run.losses, run.unstarted) == (0, 0, 0)
    wait_until(lambda: served.claimers() == [], "its holder has left")


def test_clients_that_go_before_they_have_read_anything_cost_no_run_anything(served):
    runs = [f"r{i}" for i in range(20)]
    served.put_json(*runs)
    for _ in runs:
        served.hold().close()

    def claimed() -> set[str]:
        served.store.dispatch(POOL, ["default"])
        return {each["flow_run"]["id"] for each in served.claim(slots=100).json()}

    got: set[str] = set()
    wait_until(
        lambda: got.update(claimed()) or got == set(runs) or served.recover(), "all are here"
    )
    assert {served.inspector.run(run, POOL).losses for run in runs} == {0}


def test_a_claim_while_redis_is_away_is_told_to_try_again(own_server):
    server = own_server()
    with closing(Served(server, "t")) as served:
        server.kill()
        answer = served.claim(20)
        problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
        server.start()


# --- Many


def test_of_two_thousand_held_claims_exactly_one_gets_the_only_run(served):
    clients: list[socket.socket] = []
    opened = threading.Lock()

    def open_some() -> None:
        for _ in range(250):
            client = served.hold(60)
            with opened:
                clients.append(client)

    threads = [threading.Thread(target=open_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served.wait_held(2_000)
    served.put_json("a")
    wait_until(lambda: served.http.app.state.holding.held() == {POOL: 1_999}, "one was given it")
    served.http.stop()
    answers = [read_answer(client) for client in clients]
    assert sorted(map(len, answers)) == [0] * 1_999 + [1]
    (claim,) = [each[0]["claim"] for each in answers if each]
    assert served.inspector.run("a", POOL).token == claim["token"]


def test_two_dispatchers_with_held_claims_share_what_comes(
    served: Served, real_server: RealServer, prefix: str
):
    settings, _, _ = read_settings({}, redis_url=real_server.url, key_prefix=prefix)
    other = HttpServer(Doors.open(real_server.url, settings), Options(Address("127.0.0.1", 0)))
    here = served.address
    clients = [served.hold() for _ in range(10)]
    try:
        served.address = other.bind()
        other.start()
        clients += [served.hold() for _ in range(10)]
        served.address = here
        served.wait_listening(2)
        runs = [f"r{i}" for i in range(20)]
        served.put_json(*runs)
        got = [each["flow_run"]["id"] for client in clients for each in read_answer(client)]
        assert sorted(got) == sorted(runs)
    finally:
        other.stop()
