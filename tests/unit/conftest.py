"""Fixtures of the handler runner: an app, what starts runners of it, and alarms for time limits."""

from collections.abc import Iterator

import pytest

from consumers.alarms import Alarms
from consumers.app import App
from dispatcher import Clock, logger
from tests.handlers import Runners, Start


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def start(app: App) -> Iterator[Start]:
    """A function that starts a runner of the app."""
    with Runners(app) as runners:
        yield runners.start


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms(Clock(), logger())
    alarms.start()
    yield alarms
    alarms.close()
