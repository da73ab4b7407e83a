"""Settings of `rq worker --config rq_settings`: where Redis is, and what each job imports, once."""

import consumers.runners.rq  # noqa: F401  in the worker, so that no job waits for it
from dispatcher import find_url, read_settings

REDIS_URL = find_url(read_settings()[0])  # DISPATCHER_REDIS_URL, or a running `dispatcher dev`
