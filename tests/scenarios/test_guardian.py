"""The guardian ends what its parent leaves behind: real processes, real kill -9."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from dispatcher import guardian as guardian_module
from dispatcher.guardian import Guardian
from tests.probes import ROOT, Program, process_state, wait_until

# A parent tells the pids of what it started, the guardian's first.
PARENT = """
import os, signal, subprocess, sys
from dispatcher.guardian import Guardian

def tell(*words):
    print(*words, flush=True)

def group(script):
    child = subprocess.Popen(
        ["/bin/sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    tell(child.pid, *child.stdout.readline().split())
    return child.pid

guardian = Guardian()
guardian.start()
tell(guardian.pid)
"""
PATIENT = "echo; exec sleep 1000"
WITH_GRANDCHILD = "sleep 1000 & echo $!; wait"
STUBBORN = "trap '' TERM; echo; while :; do sleep 1; done"


def wait_until_gone(pid: int, what: str) -> None:
    wait_until(lambda: not process_state(pid), f"{what} has ended")


@pytest.fixture
def start_parent() -> Iterator[Callable[[str], Program]]:
    with ExitStack() as running:

        def start(body: str) -> Program:
            parent = Program(f"{PARENT}\n{body}")
            running.callback(parent.clean_up)
            return parent

        yield start


@pytest.fixture
def start_group() -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    with ExitStack() as running:

        def start() -> "subprocess.Popen[bytes]":
            group = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
            running.enter_context(group)
            running.callback(group.kill)
            return group

        yield start


def test_kill_9_of_the_parent_ends_its_groups(start_parent):
    parent = start_parent(f"for _ in 1, 2: guardian.add(group({PATIENT!r}), grace_s=60)")
    _, first, second = parent.pids

    parent.kill()

    wait_until_gone(first, "the first group")
    wait_until_gone(second, "the second group")


def test_a_grandchild_ends_with_its_group(start_parent):
    parent = start_parent(f"guardian.add(group({WITH_GRANDCHILD!r}), grace_s=60)")
    *_, grandchild = parent.pids

    parent.kill()

    wait_until_gone(grandchild, "the grandchild")


def test_a_group_that_ignores_sigterm_is_killed_after_its_grace(start_parent):
    parent = start_parent(f"guardian.add(group({STUBBORN!r}), grace_s=0.5)")
    _, stubborn = parent.pids

    parent.kill()

    wait_until_gone(stubborn, "the stubborn group")


def test_a_group_that_ignores_sigterm_has_its_whole_grace(start_parent):
    parent = start_parent(
        f"guardian.add(group({STUBBORN!r}), grace_s=60)\n"
        f"guardian.add(group({PATIENT!r}), grace_s=60)"
    )
    _, stubborn, patient = parent.pids

    parent.kill()

    wait_until_gone(patient, "the group that obeys SIGTERM")
    assert process_state(stubborn)


def test_the_guardian_ends_after_the_last_group(start_parent):
    parent = start_parent(f"guardian.add(group({STUBBORN!r}), grace_s=0.5)")
    own, stubborn = parent.pids

    parent.kill()

    wait_until_gone(own, "the guardian")
    assert not process_state(stubborn)


def test_a_removed_group_is_left_alone(start_parent):
    parent = start_parent(
        f"removed = group({PATIENT!r})\n"
        "guardian.add(removed, grace_s=0)\n"
        f"guardian.add(group({PATIENT!r}), grace_s=0)\n"
        "guardian.remove(removed)"
    )
    own, removed, guarded = parent.pids

    parent.kill()

    wait_until_gone(guarded, "the guarded group")
    wait_until_gone(own, "the guardian")
    assert process_state(removed)


def test_a_frozen_parent_breaks_its_promise_and_its_group_ends(start_parent):
    parent = start_parent(
        f"guardian.add(group({PATIENT!r}), grace_s=60)\n"
        "guardian.alive(1.0)\n"
        "import threading\n"
        "def promise():\n"
        "    while True:\n"
        "        guardian.alive(1.0)\n"
        "        threading.Event().wait(0.1)\n"
        "threading.Thread(target=promise, daemon=True).start()"
    )
    _, group = parent.pids

    parent.process.send_signal(signal.SIGSTOP)

    wait_until_gone(group, "the frozen parent's group")
    assert process_state(parent.process.pid) == "T"


def test_a_stubborn_group_of_a_frozen_parent_is_killed_after_its_grace(start_parent):
    parent = start_parent(f"guardian.add(group({STUBBORN!r}), grace_s=0.3)\nguardian.alive(0.3)")
    _, stubborn = parent.pids

    parent.process.send_signal(signal.SIGSTOP)

    wait_until_gone(stubborn, "the stubborn group")


def test_after_a_broken_promise_the_guardian_serves_on(start_parent):
    parent = start_parent(
        f"first = group({PATIENT!r})\n"
        "guardian.add(first, grace_s=0)\n"
        "guardian.alive(0.1)\n"
        "os.waitpid(first, 0)\n"
        f"guardian.add(group({PATIENT!r}), grace_s=0)\n"
        "tell(guardian.pid)"
    )
    own, _, second, own_later = parent.pids
    assert (own, bool(process_state(second))) == (own_later, True)

    parent.kill()

    wait_until_gone(second, "the group that was added later")


def test_a_promise_that_is_taken_back_cannot_be_broken(start_parent):
    parent = start_parent(
        f"guardian.add(group({PATIENT!r}), grace_s=0)\n"
        "guardian.alive(0.1)\n"
        "guardian.alive(0)\n"
        "other = Guardian()\n"
        "other.start()\n"
        "tell(other.pid)\n"
        f"other.add(group({PATIENT!r}), grace_s=0)\n"
        "other.alive(0.5)"
    )
    _, group, _, group_of_the_other = parent.pids

    wait_until_gone(group_of_the_other, "the group of a later promise")

    assert process_state(group)


@pytest.mark.parametrize(
    "sibling",
    [
        "subprocess.Popen(['/bin/sleep', '1000'], close_fds=False).pid",
        "os.fork() or signal.pause()",
    ],
    ids=["started", "forked"],
)
def test_a_sibling_that_inherits_the_pipe_does_not_hide_the_parents_end(start_parent, sibling):
    parent = start_parent(f"guardian.add(group({PATIENT!r}), grace_s=0)\ntell({sibling})")
    _, group, inheritor = parent.pids

    parent.kill()

    wait_until_gone(group, "the group")
    assert process_state(inheritor)


def test_signals_do_not_end_the_guardian(start_parent):
    parent = start_parent(
        f"first = group({PATIENT!r})\n"
        "guardian.add(first, grace_s=0)\n"
        "guardian.alive(0.1)\n"
        "os.waitpid(first, 0)  # from now on it is known to be up\n"
        f"guardian.add(group({PATIENT!r}), grace_s=0)"
    )
    own, _, second = parent.pids

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(own, number)
    parent.kill()

    wait_until_gone(second, "the group")


def test_the_guardian_is_replaced_when_it_died_and_knows_its_groups(start_group):
    group = start_group()
    with Guardian() as guardian:
        guardian.add(group.pid, grace_s=0.2)
        first = guardian.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until_gone(first, "the first guardian")

        guardian.alive(60)

        assert guardian.pid != first
    assert group.wait(10) == -signal.SIGTERM


def test_a_guardian_that_hangs_is_replaced(start_group):
    group = start_group()
    with Guardian() as guardian:
        first = guardian.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        wait_until(lambda: process_state(first) == "T", "the guardian hangs")

        for _ in range(10_000):
            guardian.alive(60)
        guardian.add(group.pid, grace_s=0.2)

        assert guardian.pid != first
    assert group.wait(10) == -signal.SIGTERM


def test_close_ends_what_is_still_guarded(start_group):
    group = start_group()
    guardian = Guardian()
    guardian.start()
    guardian.add(group.pid, grace_s=0.2)

    guardian.close()

    assert group.wait(10) == -signal.SIGTERM


def test_the_own_process_group_cannot_be_guarded():
    with Guardian() as guardian, pytest.raises(ValueError, match="not one to guard"):
        guardian.add(os.getpgrp(), grace_s=0)


def test_a_guardian_that_is_not_started_guards_nothing():
    with pytest.raises(RuntimeError, match="not started"):
        Guardian().add(12345, grace_s=0)


def test_lines_that_make_no_sense_do_not_stop_the_guardian(start_group):
    group = start_group()
    lines = f"add -1 0\nadd 0 0\nadd x y\n\nnonsense\n\xff\nalive\nadd {group.pid} 200\n"

    subprocess.run(
        [sys.executable, "-m", "dispatcher.guardian"],
        input=lines.encode("latin-1"),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        timeout=30,
        check=True,
    )

    assert group.wait(10) == -signal.SIGTERM


def test_the_guardian_imports_nothing_of_this_package():
    program = (
        "import runpy, sys\n"
        f"runpy.run_path({guardian_module.__file__!r}, run_name='__main__')\n"
        "print(*sorted({'dispatcher', 'pydantic', 'redis', 'subprocess'} & set(sys.modules)))"
    )

    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], input="", capture_output=True, text=True
    )

    assert (ran.stdout, ran.stderr) == ("\n", "")
