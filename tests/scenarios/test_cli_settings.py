"""Settings of pools, queues and deployments: what is given holds from now on, and is shown."""

import pytest

from dispatcher.clock import Clock
from tests.commands import Commands, Hands, a_run, ndjson, run_id

DEPLOYMENT = run_id(8)


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl").code == 0
    assert cli("queue", "create", "q", "--pool", "etl").code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


def one(done):
    assert done.code == 0
    (found,) = done.objects
    return found


def difference(before, after):
    return {name: value for name, value in after.items() if before[name] != value}


def pool(cli):
    return one(cli("pool", "ls", "--json"))


def queue(cli, name="q"):
    return one(cli("queue", "show", name, "--pool", "etl", "--json"))


POOL_SETTINGS = [
    (["--handout", "poll"], {"handout": "poll"}),
    (["--limit", "5"], {"concurrency_limit": 5}),
    (["--limit", "0"], {"concurrency_limit": 0}),
    (["--command", "python -m etl"], {"command": "python -m etl"}),
    (["--lease", "3s"], {"lease_seconds": 3.0, "heartbeat_interval_seconds": 1.0}),
    (["--retention", "2h"], {"retention_seconds": 7200.0}),
    (["--keep-payload"], {"keep_payload": True}),
    (["--late-after", "1m"], {"late_after_seconds": 60.0}),
    (["--idempotency-ttl", "2d"], {"idempotency_ttl_seconds": 172_800.0}),
    (["--dead-retention", "1d"], {"dead_retention_seconds": 86_400.0}),
]
QUEUE_SETTINGS = [
    (["--priority", "9"], {"priority": 9}),
    (["--limit", "5"], {"concurrency_limit": 5}),
    (["--limit", "0"], {"concurrency_limit": 0}),
    (["--max-unclaimed", "7"], {"max_unclaimed": 7}),
    (["--max-deliveries", "9"], {"max_deliveries": 9}),
    (["--on-worker-lost", "crash"], {"on_worker_lost": "crash"}),
    (["--timeout", "90s"], {"timeout_seconds": 90.0}),
    (["--cancel-grace", "5s"], {"cancel_grace_seconds": 5.0}),
    (["--late-policy", "latest"], {"late_policy": "latest"}),
    (["--late-drop", "1h"], {"late_drop_seconds": 3600.0}),
]


@pytest.mark.parametrize(("options", "changed"), POOL_SETTINGS, ids=str)
def test_a_setting_of_a_pool_is_changed_alone(etl, options, changed):
    before = pool(etl)
    after = one(etl("pool", "set", "etl", *options, "--json"))
    assert difference(before, after) == changed
    assert pool(etl) == after


@pytest.mark.parametrize(("options", "changed"), QUEUE_SETTINGS, ids=str)
def test_a_setting_of_a_queue_is_changed_alone(etl, options, changed):
    before = queue(etl)
    after = one(etl("queue", "set", "q", "--pool", "etl", *options, "--json"))
    assert difference(before, after) == changed
    assert queue(etl) == after


def test_all_settings_of_a_pool_can_be_given_when_it_is_created(cli):
    cli("pool", "create", "plain")
    created = one(
        cli("pool", "create", "etl", "--json", *(o for given, _ in POOL_SETTINGS for o in given))
    )
    plain = one(cli("pool", "show", "plain", "--json"))
    expected = {name: value for _, each in POOL_SETTINGS for name, value in each.items()}
    own = {"id", "name", "created"}
    assert difference(plain, {n: v for n, v in created.items() if n not in own}) == expected


def test_all_settings_of_a_queue_can_be_given_when_it_is_created(etl):
    given = (option for options, _ in QUEUE_SETTINGS for option in options)
    created = one(etl("queue", "create", "new", "--pool", "etl", "--json", *given))
    expected = {name: value for _, each in QUEUE_SETTINGS for name, value in each.items()}
    own = {"id", "name", "created"}
    assert difference(queue(etl), {n: v for n, v in created.items() if n not in own}) == expected


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--limit", "5", "concurrency_limit"),
        ("--timeout", "5s", "timeout_seconds"),
        ("--late-drop", "5s", "late_drop_seconds"),
    ],
)
def test_none_takes_a_setting_of_a_queue_away(etl, option, value, name):
    before = queue(etl)
    etl("queue", "set", "q", "--pool", "etl", option, value)
    assert queue(etl)[name] == 5
    assert etl("queue", "set", "q", "--pool", "etl", option, "none").lines == ["changed etl/q"]
    assert queue(etl) == before


def test_none_takes_the_limit_of_a_pool_away(etl):
    before = pool(etl)
    etl("pool", "set", "etl", "--limit", "5", "--keep-payload", "--command", "true")
    done = etl("pool", "set", "etl", "--limit", "none", "--drop-payload", "--command", "")
    assert done.lines == ["changed etl"]
    assert pool(etl) == before


def test_a_taken_priority_moves_the_others(etl):
    etl("queue", "set", "q", "--pool", "etl", "--priority", "1")
    queues = etl("queue", "ls", "--pool", "etl", "--json").objects
    assert [(each["name"], each["priority"]) for each in queues] == [("q", 1), ("default", 2)]


def test_people_see_limits_and_what_holds_them(etl, client, prefix):
    etl("pool", "set", "etl", "--limit", "5")
    etl("queue", "set", "q", "--pool", "etl", "--limit", "2", "--timeout", "90s")
    etl("submit", "-", "--pool", "etl", "--queue", "q", given=ndjson(a_run(1)))
    Hands(client, prefix).claim("q")
    (row,) = etl("pool", "ls").lines[1:]
    assert row.split()[:5] == ["etl", "process", "stream", "5", "1"]
    assert "limit          5\nclaimed        1\n" in etl("pool", "show", "etl").out
    shown = etl("queue", "show", "q", "--pool", "etl").out
    assert "limit          2\n" in shown
    assert "timeout        90 s\n" in shown
    assert "late drop      none\n" in shown
    assert etl("queue", "ls", "--pool", "etl").lines[2].split()[:7] == ["q", "2", "2", *"0001"]


def test_who_changes_a_setting_is_told_in_its_event(etl, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "engine")
    etl("pool", "set", "etl", "--limit", "5")
    last = etl("event", "--json").objects[-1]
    assert (last["event"], last["by"], last["reason"]) == ("pool-set", "ada@engine", "limit=5")


def test_a_user_without_a_name_is_told_by_number(etl, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    etl("pool", "set", "etl", "--limit", "5")
    assert etl("event", "--json").objects[-1]["by"].startswith("4711@")


@pytest.mark.parametrize(
    "args",
    [
        ("pool", "set", "etl"),
        ("queue", "set", "q", "--pool", "etl"),
        ("pool", "set", "etl", "--limit", "-1"),
        ("pool", "set", "etl", "--limit", "5.5"),
        ("pool", "set", "etl", "--limit", "1000001"),
        ("pool", "set", "etl", "--limit", "٣"),
        ("pool", "set", "etl", "--lease", "none"),
        ("pool", "set", "etl", "--command", "a 'b"),
        ("queue", "set", "q", "--pool", "etl", "--timeout", "soon"),
        ("queue", "set", "q", "--pool", "etl", "--priority", "0"),
        ("queue", "set", "q", "--pool", "etl", "--late-policy", "some"),
        ("deployment", "set", DEPLOYMENT, "--pool", "etl"),
        ("deployment", "set", "nonsense", "--pool", "etl", "--limit", "1"),
    ],
    ids=" ".join,
)
def test_a_setting_that_makes_no_sense_is_wrong_usage_and_changes_nothing(etl, args):
    before = (pool(etl), queue(etl), len(etl("event", "--json").objects))
    done = etl(*args)
    assert (done.code, done.out) == (2, "")
    assert (pool(etl), queue(etl), len(etl("event", "--json").objects)) == before


@pytest.mark.parametrize(
    "args",
    [
        ("pool", "set", "nope", "--limit", "1"),
        ("queue", "set", "q", "--pool", "nope", "--limit", "1"),
        ("queue", "set", "nope", "--pool", "etl", "--limit", "1"),
        ("deployment", "set", DEPLOYMENT, "--pool", "nope", "--limit", "1"),
        ("deployment", "ls", "--pool", "nope"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_cannot_be_set(etl, args):
    done = etl(*args)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(("error: pool 'nope' does not", "error: queue 'nope' does not"))


# --- Deployments


def test_a_deployment_has_its_limit_and_who_holds_and_waits(etl, client, prefix):
    etl("deployment", "set", DEPLOYMENT, "--pool", "etl", "--limit", "1")
    runs = [a_run(number, deployment_id=DEPLOYMENT) for number in (1, 2, 3)]
    etl("submit", "-", "--pool", "etl", given=ndjson(*runs))
    Hands(client, prefix).claim()

    assert one(etl("deployment", "ls", "--pool", "etl", "--json")) == {
        "id": DEPLOYMENT,
        "work_pool_name": "etl",
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
        "held": 1,
        "waiting": 2,
    }
    header, row = etl("deployment", "ls", "--pool", "etl").lines
    assert header.split() == ["ID", "LIMIT", "HELD", "WAITING", "COLLISION", "STRATEGY"]
    assert row.split() == [DEPLOYMENT, "1", "1", "2", "ENQUEUE"]
    assert queue(etl, "default")["waiting"] == 2


def test_a_limit_of_a_deployment_is_changed_and_taken_away(etl):
    set_it = ("deployment", "set", DEPLOYMENT.upper(), "--pool", "etl", "--limit")
    first = etl(*set_it, "1000", "--collision-strategy", "cancel_new")
    strategy = one(etl("deployment", "ls", "--pool", "etl", "--json"))["concurrency_options"]
    changed = one(etl(*set_it, "0", "--json"))
    gone = etl(*set_it, "none")
    assert first.lines == [f"changed {DEPLOYMENT} in etl: limit 1,000 CANCEL_NEW"]
    assert strategy == {"collision_strategy": "CANCEL_NEW"}
    assert changed["concurrency_limit"] == 0
    assert gone.lines == [f"changed {DEPLOYMENT} in etl: no limit"]
    assert etl("deployment", "ls", "--pool", "etl", "--json").objects == []


def test_late_is_what_the_pool_says(etl, client, prefix):
    now_ms = Clock().now_ms()
    store = Hands(client, prefix).store
    etl("submit", "-", "--pool", "etl", given=ndjson(a_run(1)))
    store.retime("etl", run_id(1), now_ms - 20_000)

    def state_names():
        shown = one(etl("flow-run", "show", run_id(1), "--json"))["state_name"]
        text = etl("flow-run", "show", run_id(1)).out.split("state ")[1].split()[1]
        listed = [one(etl("flow-run", "ls", "--json"))["state_name"]]
        return {shown, text.strip("()"), *listed, etl("flow-run", "ls").lines[1].split()[2]}

    assert state_names() == {"Late"}
    etl("pool", "set", "etl", "--late-after", "1h")
    assert state_names() == {"Scheduled"}
