"""Base job templates for tests: Prefect's own for process pools, and small ones."""

import json
from typing import Any

# What `prefect work-pool get-default-base-job-template --type process` prints, without its prose.
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
PROCESS: dict[str, Any] = {
    "job_configuration": {
        name: f"{{{{ {name} }}}}"
        for name in ("command", "env", "labels", "name", "stream_output", "working_dir")
    },
    "variables": {
        "type": "object",
        "properties": {
            "name": {"title": "Name", "type": "string"},
            "env": {"title": "Environment Variables", **TEXTS},
            "labels": {"title": "Labels", **TEXTS},
            "command": {"title": "Command", "type": "string"},
            "stream_output": {"title": "Stream Output", "type": "boolean", "default": True},
            "working_dir": {"title": "Working Directory", "type": "string", "format": "path"},
        },
    },
}
PROCESS_TEXT = json.dumps(PROCESS)


def a_template(configuration: dict[str, Any], /, **properties: Any) -> str:
    """A stored template with these variables; `required` lists those that are."""
    variables = {"required": properties.pop("required", []), "properties": properties}
    return json.dumps({"job_configuration": configuration, "variables": variables})
