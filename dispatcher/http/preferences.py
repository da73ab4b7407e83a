"""The Prefer header (RFC 7240): how long a client is willing to wait."""

import re
from collections.abc import Iterable

MOST_WAIT_S = 300
_WAIT = re.compile(r'\s*wait\s*=\s*(?:"(\d+)"|(\d+))\s*(?:;.*)?', re.IGNORECASE | re.ASCII)


def wait_of(values: Iterable[str]) -> int | None:
    """Return the seconds of the first `wait` in the Prefer headers, 300 at most; None for none.

    What cannot be understood is passed over, as the RFC wants it.
    """
    for value in values:
        for preference in value.split(","):
            if found := _WAIT.fullmatch(preference):
                digits = found[1] or found[2]
                return min(MOST_WAIT_S, int(digits[:6]) if len(digits) < 7 else MOST_WAIT_S)
    return None
