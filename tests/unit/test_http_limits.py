"""What one request may cost: size, depth, the time to send it and the time to answer it."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from dispatcher.http.access import Access, Requests
from dispatcher.http.limits import Limits, is_deeper
from tests.edge import asked, some_options

SHORT = {"chunk_timeout_s": 0.05, "body_timeout_s": 0.2, "request_timeout_s": 0.05}
LONG_S = 30.0


def app_with(**options: Any) -> FastAPI:
    app = FastAPI()
    app.state.requests = Requests()

    @app.post("/size")
    @app.post("/api/flow_runs")
    @app.post("/api/work_pools/a/claim")
    async def size(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/api/flow_runs/stream")
    async def streamed(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(chunk) async for chunk in request.stream()])}

    @app.post("/slow")
    @app.post("/api/work_pools/slow/claim")
    async def slow(request: Request, wait: float = LONG_S) -> dict[str, str]:
        await asyncio.wait_for(asyncio.Event().wait(), wait)
        return {}

    @app.post("/long")
    async def long() -> StreamingResponse:
        async def lines():
            for i in range(4):
                yield f"{i}\n"
                await waited(0.05)

        return StreamingResponse(lines())

    @app.post("/fails")
    async def fails(what: str) -> None:
        raise {"value": ValueError("s3cret"), "deep": RecursionError(), "text": half()}[what]

    app.add_middleware(Limits, options=some_options(**options))
    app.add_middleware(Access, options=some_options())
    return app


def half() -> UnicodeEncodeError:
    return UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")


async def waited(seconds: float) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), seconds)


def post(app, path, **options):
    return asyncio.run(asked(app, "POST", path, **options))


def pieces(*sizes: int, pause_s: float = 0.0):
    async def produced():
        for size in sizes:
            yield b"x" * size
            if pause_s:
                await waited(pause_s)

    return produced()


@pytest.mark.parametrize("size", [0, 1, 4_096])
def test_a_body_within_the_bound_arrives_whole(size):
    answer = post(app_with(max_body_bytes=4_096), "/size", content=b"x" * size)
    assert answer.json() == {"bytes": size}


def test_a_body_in_pieces_arrives_whole():
    answer = post(app_with(max_body_bytes=4_096), "/size", content=pieces(10, 0, 20))
    assert answer.json() == {"bytes": 30}


@pytest.mark.parametrize("content", [b"x" * 4_097, None], ids=["told", "not told"])
def test_a_body_over_the_bound_is_refused_whether_its_length_was_told_or_not(content):
    answer = post(
        app_with(max_body_bytes=4_096), "/size", content=content or pieces(4_000, 97, 10**6)
    )

    assert answer.status_code == 413
    assert answer.json()["detail"] == "the body is over the limit of 4,096 bytes"


@pytest.mark.parametrize(("path", "status"), [("/size", 413), ("/api/flow_runs", 200)])
def test_only_what_takes_many_runs_takes_a_large_body(path, status):
    assert post(app_with(), path, content=b"x" * 4_194_305).status_code == status


def test_a_length_that_is_no_number_does_not_help():
    headers = {"content-length": "-1"}
    answer = post(app_with(max_body_bytes=10), "/size", content=pieces(20), headers=headers)
    assert answer.status_code == 413


def test_a_streamed_body_has_no_bound_for_all_of_it():
    answer = post(app_with(max_body_bytes=10), "/api/flow_runs/stream", content=pieces(20, 20))
    assert answer.json() == {"bytes": 40}


def test_an_answer_may_stream_while_the_body_does():
    app = FastAPI()

    @app.post("/api/flow_runs/stream")
    async def echoed(request: Request) -> StreamingResponse:
        async def pieces_back():
            async for chunk in request.stream():
                yield chunk

        return StreamingResponse(pieces_back())

    app.add_middleware(Limits, options=some_options())
    answer = post(app, "/api/flow_runs/stream", content=pieces(1, 2, 3, pause_s=0.05))
    assert answer.text == "xxxxxx"


@pytest.mark.parametrize("path", ["/size", "/api/work_pools/a/claim", "/api/flow_runs/stream"])
def test_a_body_that_stops_coming_is_answered_408_and_the_connection_closed(path):
    answer = post(app_with(**SHORT), path, content=pieces(1, 1, pause_s=0.2))

    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"


def test_a_body_that_never_ends_is_answered_408():
    app = app_with(**SHORT | {"chunk_timeout_s": 5.0})
    assert post(app, "/size", content=pieces(*[1] * 50, pause_s=0.02)).status_code == 408


def test_an_answer_that_does_not_come_is_503_with_when_to_try_again():
    answer = post(app_with(**SHORT), "/slow")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["detail"] == "no answer within 0.05 s; try again"


def test_an_answer_once_begun_may_go_on():
    assert post(app_with(**SHORT), "/long").text == "0\n1\n2\n3\n"


def test_a_held_claim_may_wait_for_longer():
    answer = post(app_with(**SHORT), "/api/work_pools/slow/claim", params={"wait": 0.2})
    assert answer.status_code == 500  # what the stand-in says at its end


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 5 + b"]" * 5, False),
        (b"[" * 6 + b"]" * 6, True),
        (b'{"a":' * 6, True),
        (b'[{"a":[{"b":[' + b"1" * 10, False),
        (b"[]" * 50, False),
        (b'"' + b"[" * 50 + b'"', False),
        (b'"a\\"' + b"[" * 50 + b'"', False),
        (b'"\\\\"' + b"[" * 6, True),
        (b'"' + b"[" * 50, False),
        (b"]" * 50 + b"[" * 5, False),
    ],
)
def test_depth_counts_what_is_open_at_once_and_no_text(body, deep):
    assert is_deeper(body, 5) is deep


@pytest.mark.parametrize("depth", [101, 200_000])
def test_a_body_nested_deeper_than_the_bound_is_refused_before_it_is_parsed(depth):
    answer = post(app_with(), "/size", content=b"[" * depth + b"]" * depth)

    assert answer.status_code == 400
    assert answer.json()["detail"] == "the JSON is nested deeper than 100 levels"


@pytest.mark.parametrize("body", [json.dumps([[]] * 40_000), '"' + "[" * 100_000 + '"'])
def test_a_body_with_many_brackets_is_not_deep(body):
    assert post(app_with(), "/size", content=body).status_code == 200


@pytest.mark.parametrize(
    ("what", "status", "detail"),
    [
        ("value", 500, "it failed here; the log says how"),
        ("deep", 400, "the body is nested too deep"),
        ("text", 422, "a text holds half of a surrogate pair"),
    ],
)
def test_what_fails_inside_is_answered_without_its_words(what, status, detail, capsys):
    answer = post(app_with(), "/fails", params={"what": what})

    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    assert answer.json()["instance"] == "/fails"
