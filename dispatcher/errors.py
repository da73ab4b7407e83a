"""Every error of the package; each message is one line: what is wrong, where, what to do.

DispatcherError
├── InvalidInput          what was given is malformed or breaks a rule
│   ├── InvalidName       a pool, queue or worker name with forbidden characters
│   ├── InvalidSettings   a setting or environment variable that cannot be used
│   └── InvalidRun        a flow run that cannot be accepted, with its field path
├── Refused               well formed, but the present state forbids it
│   ├── NotFound          no such pool, queue or run
│   │   ├── PoolNotFound
│   │   └── QueueNotFound
│   ├── PoolChanged       its command or template is another one than was checked against
│   ├── NotEmpty          a pool or queue that still has something cannot be deleted
│   └── AlreadyExists     a pool, queue or id that is taken
├── ClaimLost             the fencing token is no longer valid: stop that run's work
├── HolderLost            the worker's incarnation is no longer registered
└── RedisUnavailable      the server cannot serve now; every step may be repeated
    ├── RedisRefused      it answers, but not to us: password, permission, wrong version
    └── RedisFull         it is out of memory: submits are refused until runs have ended
"""


class DispatcherError(Exception):
    """Root of every error raised by dispatcher; `str()` of it is one line for a person."""


class InvalidInput(DispatcherError):
    """What was given is malformed or breaks a rule; repeating it cannot help."""


class InvalidName(InvalidInput):
    """A name of a pool, queue or worker breaks Prefect's naming rule."""

    def __init__(self, kind: str, name: str, problem: str) -> None:
        super().__init__(f"{kind} name {name[:80]!r} {problem}")


class InvalidSettings(InvalidInput):
    """A setting or environment variable cannot be used."""


class InvalidRun(InvalidInput):
    """A flow run cannot be accepted; `path` is the field at fault, such as `flow_run.id`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


class Refused(DispatcherError):
    """The request is well formed, but the present state forbids it."""


class NotFound(Refused):
    """There is no such pool, queue or run."""


class PoolNotFound(NotFound):
    """There is no pool of this name."""

    def __init__(self, pool: str) -> None:
        super().__init__(f"pool {pool!r} does not exist; create it with `dispatcher pool create`")


class QueueNotFound(NotFound):
    """The pool has no queue of this name."""

    def __init__(self, pool: str, queue: str) -> None:
        super().__init__(
            f"queue {queue!r} does not exist in pool {pool!r}; "
            "create it with `dispatcher queue create`"
        )
        self.queue = queue


class AlreadyExists(Refused):
    """The pool, queue or id is taken."""


class PoolChanged(Refused):
    """The pool's command or template is not the one that the run was checked against."""

    def __init__(self, pool: str) -> None:
        super().__init__(f"pool {pool!r} keeps changing its command or template; submit again")


class NotEmpty(Refused):
    """A pool or queue that still has something cannot be deleted."""


class ClaimLost(DispatcherError):
    """The fencing token is no longer valid: stop the run's work and report nothing for it."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id}: the claim was lost, its work must stop")
        self.run_id = run_id


class HolderLost(DispatcherError):
    """The incarnation is no longer registered; `displaced` when its name has a newer one."""

    def __init__(self, holder: str, *, displaced: bool) -> None:
        reason = "another worker runs under this name" if displaced else "its lease had ended"
        super().__init__(f"worker {holder} is no longer registered: {reason}")
        self.holder = holder
        self.displaced = displaced


class RedisUnavailable(DispatcherError):
    """Redis cannot serve now; every step may be repeated as it was."""


class RedisRefused(RedisUnavailable):
    """Redis answers, but not to us: wrong password, missing permission, unusable server."""


class RedisFull(RedisUnavailable):
    """Redis is out of memory: nothing was written, submits are refused until runs have ended."""
