"""`pause` and `resume` of pools and queues: what stops, what is shown, and when it ends."""

import re

import pytest

from dispatcher.clock import Clock, from_ms
from tests.commands import Commands, Hands, a_run, ndjson, run_id

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LATER = "2035-01-31T08:00:00.000Z"
POOL = ("pool", "etl")
QUEUE = ("queue", "default", "--pool", "etl")
BOTH = pytest.mark.parametrize("what", [POOL, QUEUE], ids=["pool", "queue"])


@pytest.fixture
def cli(real_server, prefix, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "engine")
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl").code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


def do(cli, verb, what, *options):
    kind, *where = what
    return cli(kind, verb, *where, *options)


def submit(cli, *numbers):
    return cli("submit", "-", "--pool", "etl", given=ndjson(*map(a_run, numbers)))


def one(done):
    (found,) = done.objects
    return found


def places(client, hands, *numbers):
    keys = hands.store.keys("etl")
    return [client.hget(keys["run"] + run_id(number), "place").decode() for number in numbers]


@BOTH
def test_a_pause_hands_out_nothing_and_puts_back_what_nobody_has_claimed(etl, client, prefix, what):
    submit(etl, 1, 2, 3)
    hands = Hands(client, prefix)
    hands.claim()
    assert places(client, hands, 1, 2, 3) == ["claimed", "stream", "stream"]

    done = do(etl, "pause", what)

    assert done.code == 0
    assert places(client, hands, 1, 2, 3) == ["claimed", "scheduled", "scheduled"]
    assert hands.store.dispatch("etl", ["default"]).moved == []
    assert do(etl, "resume", what).code == 0
    assert [moved.run_id for moved in hands.store.dispatch("etl", ["default"]).moved] == [
        run_id(2),
        run_id(3),
    ]


@BOTH
def test_a_pause_of_intake_refuses_submits_with_its_reason(etl, client, prefix, what):
    submit(etl, 1)
    do(etl, "pause", what, "--intake", "--reason", "moving house")

    done = submit(etl, 2)

    where = "etl/default"
    assert (done.code, done.lines) == (
        1,
        [f"refused line 1 run {run_id(2)}: intake of {where} is paused: moving house"],
    )
    assert Hands(client, prefix).claim().run_id == run_id(1)
    do(etl, "resume", what, "--intake")
    assert submit(etl, 2).code == 0


@BOTH
def test_programs_see_both_pauses_wherever_the_pool_or_queue_is_shown(etl, what):
    do(etl, "pause", what, "--until", LATER, "--reason", "deploy")
    paused = one(do(etl, "pause", what, "--intake", "--json"))

    since = [paused[name].pop("since") for name in ("pause", "intake_pause")]
    assert all(TIME.fullmatch(each) for each in since)
    names = ("is_paused", "pause", "intake_paused", "intake_pause")
    assert {name: paused[name] for name in names} == {
        "is_paused": True,
        "pause": {"by": "ada@engine", "until": LATER, "reason": "deploy"},
        "intake_paused": True,
        "intake_pause": {"by": "ada@engine", "until": None, "reason": None},
    }
    for listed in (do(etl, "show", what, "--json"), etl(what[0], "ls", *what[2:], "--json")):
        found = one(listed)
        assert [found[name]["since"] for name in ("pause", "intake_pause")] == since


@BOTH
def test_people_see_since_when_by_whom_until_when_and_why(etl, what):
    named = "etl" if what is POOL else "etl/default"
    first = do(etl, "pause", what, "--until", LATER, "--reason", "deploy")
    assert re.fullmatch(
        rf"{named}: paused since \S+Z by ada@engine until {LATER}: deploy\n", first.out
    )
    do(etl, "pause", what, "--intake")
    text = f"paused since TIME by ada@engine until {LATER}: deploy; " + (
        "intake paused since TIME by ada@engine"
    )
    pattern = re.escape(text).replace("TIME", r"\S+Z")
    for shown in (do(etl, "show", what).out, etl(what[0], "ls", *what[2:]).out):
        assert re.search(pattern + "$", shown, re.MULTILINE)


def test_a_pool_shows_the_pauses_of_its_queues(etl):
    etl("queue", "pause", "default", "--pool", "etl", "--reason", "why")
    shown = etl("pool", "show", "etl")
    assert "pause  " not in shown.out
    assert shown.lines[-1].endswith(" by ada@engine: why")
    assert one(etl("pool", "show", "etl", "--json"))["work_queues"][0]["is_paused"]


@BOTH
def test_a_pause_ends_by_itself(etl, client, prefix, what):
    do(etl, "pause", what, "--until", LATER, "--reason", "short")
    store = Hands(client, prefix).store
    key = store.keys("etl")["pool"] if what is POOL else store.keys("etl")["queue"] + "default"
    client.hset(key, "paused_until_ms", Clock().now_ms() - 1)
    assert one(do(etl, "show", what, "--json"))["is_paused"] is False
    assert one(do(etl, "show", what, "--json"))["pause"] is None


@BOTH
def test_resuming_says_what_it_did(etl, what):
    named = "etl" if what is POOL else "etl/default"
    do(etl, "pause", what)
    do(etl, "pause", what, "--intake")
    lines = [do(etl, "resume", what, *kind).lines for kind in ([], [], ["--intake"], ["--intake"])]
    assert lines == [
        [f"resumed {named}"],
        [f"unchanged: {named} is not paused"],
        [f"resumed intake of {named}"],
        [f"unchanged: intake of {named} is not paused"],
    ]
    assert do(etl, "resume", what).code == 0


@BOTH
def test_a_pause_is_told_in_the_events_with_who_and_why(etl, what):
    do(etl, "pause", what, "--reason", "deploy", "--until", LATER)
    do(etl, "resume", what)
    *_, paused, resumed = etl("event", "--json").objects
    assert [(each["event"], each["by"], each["reason"]) for each in (paused, resumed)] == [
        ("paused", "ada@engine", "deploy"),
        ("resumed", "ada@engine", None),
    ]
    assert paused["until"] == LATER
    assert paused["work_queue_name"] == (None if what is POOL else "default")


@BOTH
@pytest.mark.parametrize(
    ("until", "error"),
    [
        ("2035-01-31T08:00:00", "has no time zone offset"),
        ("2020-01-31T08:00:00Z", "has passed already; give a later one"),
        ("now", "has passed already; give a later one"),
        ("soon", "is not understood"),
    ],
)
def test_an_end_that_makes_no_sense_is_one_line_and_pauses_nothing(etl, what, until, error):
    done = do(etl, "pause", what, "--until", until)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"error: time '{until}' {re.escape(error)}.*\n", done.err)
    assert one(do(etl, "show", what, "--json"))["is_paused"] is False


def test_an_end_may_be_a_delay(etl):
    now_ms = Clock().now_ms()
    until = one(etl("pool", "pause", "etl", "--until", "+10m", "--json"))["pause"]["until"]
    assert from_ms(now_ms + 590_000).isoformat() < until < from_ms(now_ms + 660_000).isoformat()


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_what_is_not_there_cannot_be_paused(etl, verb):
    for what, error in ((("pool", "no"), "pool 'no'"), (("queue", "no", *QUEUE[2:]), "queue 'no'")):
        done = do(etl, verb, what)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"error: {error} does not exist")
