"""What holds for every command: shared options, settings, help, versions, unknown variables."""

import os
import pty
import subprocess
import sys

import click
import pytest

import dispatcher
from dispatcher import cli as command_line
from dispatcher.embedded import EmbeddedServer
from tests.commands import COMMAND, Commands, a_run, ndjson
from tests.probes import ROOT


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


def by_name(done):
    return {row["name"]: (row["value"], row["source"]) for row in done.objects}


# --- Shared options


@pytest.mark.parametrize(
    "args",
    [
        ("--redis-url", "URL", "--key-prefix", "PREFIX", "pool", "ls"),
        ("pool", "--redis-url", "URL", "--key-prefix", "PREFIX", "ls"),
        ("pool", "ls", "--redis-url", "URL", "--key-prefix", "PREFIX"),
        (
            "--redis-url",
            "unix:///nowhere",
            "pool",
            "ls",
            "--redis-url",
            "URL",
            "--key-prefix",
            "PREFIX",
        ),
    ],
    ids=["before", "between", "behind", "twice"],
)
def test_shared_options_may_stand_on_any_level(cli, args):
    cli("pool", "create", "etl")
    given = {"URL": cli.environ.pop("DISPATCHER_REDIS_URL")}
    given["PREFIX"] = cli.environ.pop("DISPATCHER_KEY_PREFIX")
    done = cli(*(given.get(arg, arg) for arg in args), "--json")
    assert [pool["name"] for pool in done.objects] == ["etl"]


def test_flags_beat_the_environment_and_the_environment_beats_defaults(cli, prefix):
    cli.environ["DISPATCHER_SWEEP_S"] = "2"
    found = by_name(cli("settings", "--json", "--key-prefix", "other"))
    assert found["DISPATCHER_KEY_PREFIX"] == ("other", "flag")
    assert found["DISPATCHER_SWEEP_S"] == ("2.0", "environment")
    assert found["DISPATCHER_LOG_LEVEL"] == ("info", "default")


@pytest.mark.parametrize("args", [("settings",), ("settings", "--json")])
def test_settings_show_no_password(args, cli):
    cli.environ["DISPATCHER_REDIS_URL"] = "redis://me:s3cret@example.org:6379/0?password=s3cret"
    shown = cli(*args).out
    assert "redis://me:***@example.org:6379/0?***" in shown
    assert "s3cret" not in shown


def test_settings_tell_of_a_file_of_the_url_and_mask_what_is_in_it(cli, tmp_path):
    (tmp_path / "url").write_text("redis://:s3cret@example.org\n")
    cli.environ["DISPATCHER_REDIS_URL"] = ""
    cli.environ["DISPATCHER_REDIS_URL_FILE"] = str(tmp_path / "url")
    found = by_name(cli("settings", "--json"))["DISPATCHER_REDIS_URL"]
    assert found == ("redis://:***@example.org", "DISPATCHER_REDIS_URL_FILE")


def test_settings_and_other_commands_find_a_running_dev(cli, tmp_path, monkeypatch):
    cli.environ["DISPATCHER_REDIS_URL"] = ""
    monkeypatch.setenv("DISPATCHER_DEV_DIR", str(tmp_path / "dev"))
    without = cli("settings", "--json")
    with EmbeddedServer() as server:
        found = by_name(cli("settings", "--json"))["DISPATCHER_REDIS_URL"]
        assert cli("pool", "create", "etl").code == 0
        assert found == (server.url, "dispatcher dev")
    assert by_name(without)["DISPATCHER_REDIS_URL"] == ("", "default")
    assert without.err.startswith("warning: no Redis: set DISPATCHER_REDIS_URL")


def test_a_setting_that_cannot_be_used_is_one_line(cli):
    cli.environ["DISPATCHER_SWEEP_S"] = "soon"
    done = cli("pool", "ls")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: DISPATCHER_SWEEP_S: ")
    assert done.err.count("\n") == 1


def test_an_unknown_variable_is_a_warning_with_the_nearest_name(cli):
    cli.environ["DISPATCHER_REDIS_URI"] = "redis://elsewhere"
    done = cli("pool", "ls", "--json")
    assert (done.code, done.out) == (0, "")
    assert done.err == (
        "warning: DISPATCHER_REDIS_URI is not a setting; did you mean DISPATCHER_REDIS_URL?\n"
    )


# --- The group


def test_the_version_is_told_without_loading_a_command():
    source = (
        "import sys\nfrom dispatcher.cli import main\nsys.argv[1:] = ['--version']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m in ('dispatcher.cli.submit', 'rich.progress')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == f"dispatcher, version {dispatcher.__version__}\n[]\n"


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_every_command_explains_itself_and_takes_the_shared_options(cli, name):
    done = cli(name, "--help")
    assert done.out.startswith(f"Usage: dispatcher {name} ")
    assert "--redis-url" in done.out


def test_every_option_has_a_line_of_help(cli):
    def walk(command):
        yield command
        for name in getattr(command, "commands", {}):
            yield from walk(command.commands[name])

    group = command_line.cli
    found = [
        each for name in group.list_commands(None) for each in walk(group.get_command(None, name))
    ]
    options = [
        (c.name, p.name, p.help) for c in found for p in c.params if isinstance(p, click.Option)
    ]
    assert len(options) > 60
    assert [option for option in options if not option[2]] == []


def test_an_unknown_command_is_wrong_usage(cli):
    done = cli("nonsense")
    assert (done.code, done.out) == (2, "")
    assert "No such command 'nonsense'" in done.err


def test_windows_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == "error: dispatcher runs on Linux and macOS; on Windows use WSL 2"


def test_a_letter_that_the_terminal_does_not_know_is_escaped(cli):
    cli("pool", "create", "池")
    cli.environ["PYTHONIOENCODING"] = "latin-1"
    done = cli.execute("pool", "ls")
    assert (done.code, done.err) == (0, "")
    assert "\\u6c60 " in done.out


# --- On a terminal


def on_terminal(cli, *args, given=b"", out=True):
    """Run a command with its streams on a terminal; return what that showed, and its output."""
    ours, theirs = pty.openpty()
    env = {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*COMMAND, *args],
        stdin=subprocess.PIPE,
        stdout=theirs if out else subprocess.PIPE,
        stderr=theirs,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]} | env | cli.environ,
    )
    os.close(theirs)
    process.stdin.write(given)
    process.stdin.close()
    piped = b"" if out else process.stdout.read()
    shown = b""
    try:
        while chunk := os.read(ours, 65_536):
            shown += chunk
    except OSError:  # what Linux says when the other end is closed
        pass
    os.close(ours)
    if process.stdout:
        process.stdout.close()
    assert process.wait(30) == 0
    return shown.decode(), piped.decode()


def test_a_submit_shows_a_bar_below_its_lines(cli):
    cli("pool", "create", "etl")
    shown, _ = on_terminal(
        cli, "submit", "-", "--pool", "etl", given=ndjson(*map(a_run, range(1, 301)))
    )
    assert shown.count("accepted 0000") == 300
    assert "━" in shown
    assert shown.endswith("300 accepted, 0 duplicate, 0 refused\r\n")


def test_a_bar_leaves_piped_lines_alone(cli, tmp_path):
    cli("pool", "create", "etl")
    (tmp_path / "runs").write_bytes(ndjson(*map(a_run, range(1, 301))))
    shown, piped = on_terminal(cli, "submit", tmp_path / "runs", "--pool", "etl", out=False)
    assert [line.split()[0] for line in piped.splitlines()] == ["accepted"] * 300
    assert "━" in shown
    assert "100%" in shown
    assert "accepted 0000" not in shown


def test_tables_have_colours_on_a_terminal_only(cli):
    cli("pool", "create", "etl")
    shown, _ = on_terminal(cli, "pool", "ls")
    assert "\x1b[1m" in shown
    assert "\x1b" not in cli.execute("pool", "ls").out
