import pytest

from dispatcher.http.preferences import MOST_WAIT_S, wait_of


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=10", 10),
        ("Wait = 10", 10),
        ('wait="10"', 10),
        ("wait=0", 0),
        ("respond-async, wait=7", 7),
        ("wait=7; x=1, return=minimal", 7),
        ("wait=3, wait=9", 3),
        ("wait=soon, wait=9", 9),
        ("wait=300", 300),
    ],
)
def test_the_first_wait_that_can_be_understood_counts(header, seconds):
    assert wait_of([header]) == seconds


@pytest.mark.parametrize(
    "header", ["", "wait", "wait=", "wait=-1", "wait=1.5", "await=3", "wait=٣"]
)
def test_what_cannot_be_understood_is_passed_over(header):
    assert wait_of([header]) is None


def test_several_headers_are_read_as_one():
    assert wait_of(["return=minimal", "wait=5"]) == 5


@pytest.mark.parametrize("asked", ["301", "86400", "9" * 5000])
def test_nobody_waits_longer_than_the_bound(asked):
    assert wait_of([f"wait={asked}"]) == MOST_WAIT_S
