"""`dispatcher pool`: create, set, ls, show, pause, resume, delete."""

from typing import Any
from uuid import UUID, uuid4

import click

from dispatcher.cli.deleting import delete_options, delete_pool
from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.options import (
    as_json,
    count,
    duration,
    given_settings,
    job_template,
    or_none,
    pool_name,
    with_options,
)
from dispatcher.cli.output import echo_fields, echo_json, echo_table, shown_span, shown_time
from dispatcher.cli.pauses import intake_option, pause_options, shown_pauses
from dispatcher.cli.pauses import pause as pause_what
from dispatcher.cli.pauses import resume as resume_what
from dispatcher.cli.queues import COLUMNS as QUEUE_COLUMNS
from dispatcher.cli.queues import row as queue_row
from dispatcher.cli.session import Session
from dispatcher.errors import InvalidRun
from dispatcher.job_configuration import check_template, process_job
from dispatcher.job_templates import parse_template
from dispatcher.shapes import pool_fields, queue_fields
from dispatcher.stored import HANDOUTS, Pool

_settings = with_options(
    click.option(
        "--handout",
        type=click.Choice(HANDOUTS),
        help="How runs get to workers: pushed into streams and claimed, or listed for those that "
        "poll and taken by id.  [stream]",
    ),
    click.option("--command", help="What runs of a process pool run that bring none."),
    click.option(
        "--base-job-template",
        type=job_template,
        metavar="FILE|none",
        help="What is made of job variables: a template as JSON, or a Prefect pool that has one.",
    ),
    click.option(
        "--limit",
        type=or_none(count),
        metavar="N|none",
        help="Most runs that workers have at a time; 0 stops hand-out.",
    ),
    click.option(
        "--lease",
        "lease_ms",
        type=duration(500),
        metavar="DURATION",
        help="How long a silent worker keeps its runs; it renews three times as often.  [15s]",
    ),
    click.option(
        "--retention",
        "retention_ms",
        type=duration(1_000),
        metavar="DURATION",
        help="How long ended runs are kept, and their ids recognised.  [24h]",
    ),
    click.option(
        "--keep-payload/--drop-payload",
        default=None,
        help="Keep what was accepted beyond the end, or not.",
    ),
    click.option(
        "--late-after",
        "late_after_ms",
        type=duration(1),
        metavar="DURATION",
        help="How long past its due time a run that has not started is late.  [15s]",
    ),
    click.option(
        "--idempotency-ttl",
        "idempotency_ttl_ms",
        type=duration(1_000),
        metavar="DURATION",
        help="How long an idempotency key is recognised after the end of its run.  [30d]",
    ),
    click.option(
        "--dead-retention",
        "dead_retention_ms",
        type=duration(1_000),
        metavar="DURATION",
        help="How long dead letters are kept.  [7d]",
    ),
)


@click.group(cls=Group)
def pool() -> None:
    """Pools: where runs go, and what claims them."""


@pool.command()
@click.argument("name", type=pool_name)
@click.option("--type", "kind", default="process", show_default=True, help="What runs its runs.")
@click.option("--id", "pool_id", type=click.UUID, help="Its id, such as that of a Prefect pool.")
@_settings
@as_json
@pass_session
def create(
    session: Session,
    /,
    *,
    name: str,
    kind: str,
    pool_id: UUID | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Create a pool with its queue `default`."""
    settings = _checked(given)
    settings["base_job_template"] = settings.get("base_job_template") or ""
    wanted = Pool(name=name, id=str(pool_id or uuid4()), type=kind, **settings)
    is_new = session.store.create_pool(wanted, default_queue_id=str(uuid4()))
    line = f"{'created' if is_new else 'unchanged'} {name} {wanted.id}"
    _tell(session, line, name=name, as_json=as_json)


@pool.command("set")
@click.argument("name", type=pool_name)
@_settings
@as_json
@pass_session
def set_settings(session: Session, /, *, name: str, as_json: bool, **given: Any) -> None:
    """Change settings of a pool; they hold from now on."""
    settings = _checked(given)
    if not settings:
        raise click.UsageError("give at least one setting to change")
    if settings.get("base_job_template"):
        check_template(settings["base_job_template"], session.inspector.pool(name).type)
    if "keep_payload" in settings:
        settings["keep_payload"] = int(settings["keep_payload"])
    session.store.set_pool(name, settings, by=session.by)
    _tell(session, f"changed {name}", name=name, as_json=as_json)


@pool.command()
@as_json
@pass_session
def ls(session: Session, *, as_json: bool) -> None:
    """List all pools."""
    pools = session.inspector.pools()
    if as_json:
        for each in pools:
            echo_json(pool_fields(each))
        return
    columns = ("NAME", "TYPE", "HANDOUT", "LIMIT", "CLAIMED", "LEASE", "COMMAND", "ID", "PAUSED")
    echo_table(columns, map(_row, pools))


@pool.command()
@click.argument("name", type=pool_name)
@as_json
@pass_session
def show(session: Session, *, name: str, as_json: bool) -> None:
    """Show a pool with its queues."""
    found = session.inspector.pool(name)
    queues = session.inspector.queues(name)
    if as_json:
        default = next((queue.id for queue in queues if queue.name == "default"), None)
        listed = [queue_fields(queue) for queue in queues]
        echo_json({**pool_fields(found), "default_queue_id": default, "work_queues": listed})
        return
    echo_fields(
        (
            ("name", found.name),
            ("id", found.id),
            ("type", found.type),
            ("hand-out", found.handout),
            ("command", found.command),
            ("job template", _shown_template(found)),
            ("limit", "none" if found.limit is None else found.limit),
            ("claimed", found.claimed),
            ("pause", shown_pauses(found)),
            ("lease", f"{shown_span(found.lease_ms)}, renewed every {shown_span(found.renew_ms)}"),
            ("retention", shown_span(found.retention_ms)),
            ("keep payload", "yes" if found.keep_payload else "no"),
            ("late after", shown_span(found.late_after_ms)),
            ("idempotency", shown_span(found.idempotency_ttl_ms)),
            ("dead letters", shown_span(found.dead_retention_ms)),
            ("created", shown_time(found.created_ms)),
        )
    )
    click.echo()
    echo_table(QUEUE_COLUMNS, map(queue_row, queues))


@pool.command()
@click.argument("name", type=pool_name)
@pause_options
@as_json
@pass_session
def pause(session: Session, /, *, name: str, as_json: bool, **options: Any) -> None:
    """Hand out nothing of a pool, or with --intake accept nothing into it, until it is resumed."""
    pause_what(session, name, **options)
    shown = shown_pauses(session.inspector.pool(name))
    _tell(session, f"{name}: {shown}", name=name, as_json=as_json)


@pool.command()
@click.argument("name", type=pool_name)
@intake_option
@as_json
@pass_session
def resume(session: Session, *, name: str, intake: bool, as_json: bool) -> None:
    """End a pause of a pool."""
    line = resume_what(session, name, intake=intake)
    _tell(session, line, name=name, as_json=as_json)


@pool.command()
@click.argument("name", type=pool_name)
@delete_options
@as_json
@pass_session
def delete(session: Session, *, name: str, force: bool, timeout_ms: int, as_json: bool) -> None:
    """Delete a pool that has nothing left, or with --force cancel what it has first."""
    delete_pool(session, name, force=force, timeout_s=timeout_ms / 1000, as_json=as_json)


def _tell(session: Session, line: str, *, name: str, as_json: bool) -> None:
    if as_json:
        echo_json(pool_fields(session.inspector.pool(name)))
    else:
        click.echo(line)


def _row(pool: Pool) -> tuple[object, ...]:
    limit = "none" if pool.limit is None else pool.limit
    counts = (limit, pool.claimed, shown_span(pool.lease_ms))
    what = (pool.name, pool.type, pool.handout)
    return (*what, *counts, pool.command, pool.id, shown_pauses(pool))


def _shown_template(pool: Pool) -> str:
    template = parse_template(pool.base_job_template)
    if template is None:
        return ""
    names = ", ".join(sorted(template.names)) or "none"
    locked = "" if "command" in template.names else "; nobody can override the command"
    return f"variables: {names}{locked}"


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were given as they are stored; the lease says how often to renew."""
    settings = given_settings(given)
    if settings.get("command"):
        _check_command(settings["command"])
    if "lease_ms" in settings:
        settings["renew_ms"] = settings["lease_ms"] // 3
    return settings


def _check_command(command: str) -> None:
    try:
        process_job(None, command)
    except InvalidRun as error:
        raise click.BadParameter(error.problem, param_hint="'--command'") from None
