"""Examples and schemas that the OpenAPI document takes as they are."""

import json
from typing import Any

from dispatcher.http.answers import AT, DEPLOYMENT, RUN

FLOW = "41cb79e5-03c6-4e96-b376-a10cb852f0d9"
TOKEN = "1764057600000-0.3f0c1d2e4b5a.1"
FLOW_RUN: dict[str, Any] = {
    "id": RUN,
    "flow_id": FLOW,
    "name": "nightly",
    "parameters": {"day": "2026-11-25"},
    "next_scheduled_start_time": AT,
    "job_variables": {"command": "python flow.py"},
}
LINES = "".join(
    json.dumps({"id": run_id, "flow_id": FLOW, "name": name}) + "\n"
    for run_id, name in ((RUN, "first"), ("0199f0a2-6d2c-4f0e-9f6e-2b9f0d6a1c12", "second"))
)
PARAMETERS = {
    "name": "etl",
    "queue": "default",
    "id": RUN,
    "work_pool_name": "etl",
    "work_queue_name": "default",
    "deployment_id": DEPLOYMENT,
    "flow_run_id": RUN,
    "at": "+10m",
    "state_type": ["SCHEDULED"],
    "prefer": "wait=2",
}
BODIES: dict[str, dict[str, Any]] = {
    "cancel_flow_run": {"reason": "wrong parameters"},
    "cancel_flow_runs": {
        "work_pool_name": "etl",
        "filter": {"work_queue_name": "default", "only_unclaimed": True},
        "dry_run": True,
    },
    "retime_flow_run": {"at": "+10m"},
    "create_work_pool": {
        "name": "etl",
        "type": "process",
        "concurrency_limit": 50,
        "command": "python flow.py",
    },
    "set_work_pool": {"concurrency_limit": 20, "handout": "poll"},
    "pause_work_pool": {"until": "+1h", "reason": "database upgrade"},
    "resume_work_pool": {"intake": False},
    "create_work_queue": {"name": "critical", "priority": 1},
    "set_work_queue": {"concurrency_limit": 5, "timeout_seconds": 3600},
    "pause_work_queue": {"intake": True, "reason": "too many"},
    "resume_work_queue": {"intake": True},
    "set_deployment": {
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
    },
    "requeue_dead_letter": {"at": "now"},
    "purge_dead_letter": {"work_pool_name": "etl"},
    "requeue_dead_letters": {"work_pool_name": "etl", "filter": {"older_than_seconds": 3600}},
    "purge_dead_letters": {"work_pool_name": "etl", "filter": {"flow_run_ids": [RUN]}},
    "claim": {"worker": "host-7", "slots": 2},
    "start": {"token": TOKEN},
    "renew": {"token": TOKEN},
    "finish": {"token": TOKEN, "state": {"type": "COMPLETED"}},
    "release": {"token": TOKEN, "reason": "the host is going down"},
}
_TIME = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}
RUN_BODY: dict[str, dict[str, Any]] = {
    "submit": {
        "examples": {
            "one": {"summary": "A bare flow run", "value": FLOW_RUN},
            "many": {
                "summary": "The endpoint's objects",
                "value": [
                    {
                        "work_pool_id": "57789097-a1ba-45da-819b-5a238accc0d6",
                        "work_queue_id": "8be8187c-ba50-45f0-b8ae-4c1833afb7a4",
                        "flow_run": {**FLOW_RUN, "deployment_id": DEPLOYMENT},
                    }
                ],
            },
        }
    },
    "poll": {
        "schema": {
            "anyOf": [
                {
                    "type": "object",
                    "title": "Body_get_scheduled_flow_runs",
                    "properties": {
                        "work_queue_names": {
                            "anyOf": [
                                {"type": "array", "items": {"type": "string"}},
                                {"type": "null"},
                            ],
                            "description": "The names of work pool queues; empty means all.",
                        },
                        "scheduled_before": {
                            **_TIME,
                            "description": "The maximum time to look for scheduled flow runs.",
                        },
                        "scheduled_after": {
                            **_TIME,
                            "description": "The minimum time to look for scheduled flow runs.",
                        },
                        "limit": {
                            "anyOf": [
                                {"type": "integer", "minimum": 0, "maximum": 200},
                                {"type": "null"},
                            ],
                            "description": "Most runs; 200 if not given.",
                        },
                    },
                },
                {"type": "null"},
            ]
        },
        "example": {"work_queue_names": ["critical"], "scheduled_before": AT, "limit": 20},
    },
}
POLL_ERRORS: dict[str, Any] = {
    "title": "PrefectError",
    "description": "What a Prefect server answers: `detail`, or what was wrong with the body.",
    "anyOf": [
        {
            "type": "object",
            "required": ["detail"],
            "properties": {
                "detail": {"type": "string", "examples": ['Work pool "etl" not found.']}
            },
        },
        {
            "type": "object",
            "required": ["exception_message"],
            "properties": {
                "exception_message": {
                    "type": "string",
                    "examples": ["Invalid request received."],
                },
                "exception_detail": {"type": "array", "items": {"type": "object"}},
                "request_body": {},
            },
        },
    ],
}
