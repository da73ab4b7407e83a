"""What a program does that polls with prefect-client; runs in its own environment, not in ours."""

import asyncio
import json
import sys
from datetime import datetime

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound


async def poll(pool, queues, before):
    async with get_client() as client:
        try:
            return await client.get_scheduled_flow_runs_for_work_pool(
                work_pool_name=pool, work_queue_names=queues, scheduled_before=before
            )
        except ObjectNotFound:
            return None


def shown(answer):
    return None if answer is None else [row.model_dump(mode="json") for row in answer]


async def main():
    pool, queue, soon = sys.argv[1:]
    answers = {
        "all": shown(await poll(pool, None, None)),
        "soon": shown(await poll(pool, [queue], datetime.fromisoformat(soon))),
        "unknown queue": shown(await poll(pool, ["nope"], None)),
        "unknown pool": shown(await poll("nope", None, None)),
    }
    print(json.dumps(answers))


asyncio.run(main())
