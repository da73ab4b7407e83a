"""Who gets in: a login in constant time, the health checks, and no web page from elsewhere."""

import asyncio
import base64

import pytest
from fastapi import FastAPI

from dispatcher.http.auth import Auth
from tests.edge import asked, some_options

BOTH = 'Basic realm="dispatcher", charset="UTF-8", Bearer realm="dispatcher"'


def basic(login):
    return "Basic " + base64.b64encode(login.encode()).decode()


def app_with(**options):
    app = FastAPI()

    @app.get("/{path:path}")
    async def there(path: str) -> dict[str, str]:
        return {"path": path}

    app.add_middleware(Auth, options=some_options(**options))
    return app


def ask(app, path="/api/work_pools", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(asked(app, "GET", path, headers=named))


@pytest.mark.parametrize(
    "given",
    [basic("me:s3cret"), basic("me:s3cret").replace("Basic", "bAsIc"), "Bearer t0ken"],
)
def test_either_login_lets_in(given):
    app = app_with(auth_string="me:s3cret", token="t0ken")
    assert ask(app, authorization=given).status_code == 200


def test_a_login_may_be_any_text():
    app = app_with(auth_string="größe:pass wörd 🏊", token="tökén 🏊")
    assert ask(app, authorization=basic("größe:pass wörd 🏊")).status_code == 200
    assert ask(app, authorization="Bearer tökén 🏊".encode()).status_code == 200


@pytest.mark.parametrize(
    "given",
    [None, "", "Basic", basic("me:wrong"), basic("me:s3cret").lower(), "Bearer", "Bearer s3cret",
     "Bearer t0ken2", "Basic t0ken", "t0ken", "Basic ÿÿ", "Bearer t0ke"],
)  # fmt: skip
def test_anything_else_is_answered_401_with_what_to_send(given):
    app = app_with(auth_string="me:s3cret", token="t0ken")

    answer = ask(app, **({} if given is None else {"authorization": given.encode("latin-1")}))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == BOTH
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "the credentials are missing or wrong; send them as the Authorization header",
        "instance": "/api/work_pools",
    }


def test_the_route_of_prefect_answers_401_as_prefect_does():
    answer = ask(app_with(auth_string="me:s3cret"), "/api/work_pools/a b/get_scheduled_flow_runs")

    assert answer.status_code == 401
    assert answer.json() == {"exception_message": "Unauthorized"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_the_health_checks_need_no_login(path):
    assert ask(app_with(token="t0ken"), path).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json", "/healthz/x", "//healthz"])
def test_all_else_needs_one(path):
    assert ask(app_with(token="t0ken"), path).status_code == 401


def test_without_a_login_this_machine_is_let_in():
    assert ask(app_with()).status_code == 200


@pytest.mark.parametrize("host", ["localhost:4200", "127.0.0.1", "[::1]:4200", "127.0.0.2:1"])
def test_every_name_of_this_machine_is_one(host):
    assert ask(app_with(), host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:4200", "10.0.0.1:4200", "[fe80::1]:4200"])
def test_a_web_page_that_calls_this_machine_by_a_name_of_its_own_is_refused(host):
    answer = ask(app_with(), host=host)
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")


@pytest.mark.parametrize("options", [{"token": "t0ken"}, {"without_auth": True}])
def test_with_a_login_or_when_told_so_any_name_will_do(options):
    answer = ask(app_with(**options), host="edge.example:80", authorization="Bearer t0ken")
    assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:4200", "x"])
@pytest.mark.parametrize("options", [{}, {"token": "t0ken"}, {"without_auth": True}])
def test_a_web_page_from_elsewhere_is_refused_even_with_a_login(origin, options):
    answer = ask(app_with(**options), origin=origin, authorization="Bearer t0ken")
    assert answer.status_code == 403


def test_a_web_page_of_ours_is_not_from_elsewhere():
    assert ask(app_with(), origin="http://127.0.0.1:4200").status_code == 200
