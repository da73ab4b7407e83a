"""Structured logs on standard error: one event per fact; readable on a terminal, JSON otherwise."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logs(level: str = "info", style: str = "auto") -> None:
    """Set up logging for this process; `style` is auto, console or json."""
    console = sys.stderr.isatty() if style == "auto" else style == "console"
    milliseconds: list[Any] = [_milliseconds] if console else []
    renderer: Any = structlog.processors.JSONRenderer()
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=12, sort_keys=False
        )
    # Local time with milliseconds for people, UTC for machines.
    stamp = structlog.processors.TimeStamper(
        fmt="%H:%M:%S.%f" if console else "iso", utc=not console, key="timestamp"
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            stamp,
            *milliseconds,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")


def logger(**always: Any) -> Any:
    """Return a logger whose every event carries `always`, such as the pool."""
    return structlog.get_logger(**always)


def _milliseconds(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event["timestamp"] = event["timestamp"][:-3]
    return event
