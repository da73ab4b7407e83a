"""Settings of `rq worker --config rq_settings`: where Redis is, read from the secret's file."""

import os
from pathlib import Path

REDIS_URL = Path(os.environ["DISPATCHER_REDIS_URL_FILE"]).read_text(encoding="utf-8").strip()
