"""The HTTP application: routers, errors, and what every request passes on its way in."""

from typing import Any

from fastapi import FastAPI

from dispatcher import __version__
from dispatcher.http import (
    claims,
    dead_letters,
    deployments,
    events,
    health,
    metrics,
    openapi,
    pools,
    problems,
    queues,
    run_changes,
    runs,
    scheduled,
    workers,
)
from dispatcher.http.access import Access, Requests
from dispatcher.http.auth import Auth
from dispatcher.http.doors import Doors
from dispatcher.http.limits import Limits
from dispatcher.http.options import Options

ROUTERS = (
    *(scheduled, claims, runs, run_changes, pools, queues, deployments),
    *(dead_letters, workers, events, health, metrics, openapi),
)
DESCRIPTION = """Hands out due flow runs and takes new ones.

Errors are problem details (RFC 9457); the route of Prefect answers as Prefect does."""


def create_app(doors: Doors, options: Options) -> FastAPI:
    """Return the application; what it needs is in `app.state.doors` and `app.state.options`."""
    app = FastAPI(
        title="dispatcher",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.doors = doors
    app.state.options = options
    app.state.requests = Requests()
    problems.add_handlers(app)
    for module in ROUTERS:
        app.include_router(module.router)
    # The last one added is the first that a request meets.
    added: tuple[Any, ...] = (Limits, Auth, Access)
    for middleware in added:
        app.add_middleware(middleware, options=options)
    openapi.describe(app, [module.router for module in ROUTERS])
    return app
