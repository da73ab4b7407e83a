import pytest

from dispatcher.http.claim_steps import OUTPUT_BYTES, tail
from dispatcher.http.holders import is_http_holder, new_ticket, worker_name


@pytest.mark.parametrize("name", ["http", "host-7", "a.b~c", "größe 池"])
def test_the_holder_of_an_http_claim_is_told_by_its_name(name):
    ticket = new_ticket()
    assert is_http_holder(f"{worker_name(name, ticket)}.{ticket}")


@pytest.mark.parametrize(
    "holder",
    ["", "w.1", "w.0123456789ab", "w~0123456789ab.ba9876543210", "~.", "w~.", "w~1.1"],
)
def test_any_other_holder_is_none_of_an_http_claim(holder):
    assert not is_http_holder(holder)


def test_no_two_tickets_are_the_same():
    assert len({new_ticket() for _ in range(1000)}) == 1000


def test_an_output_that_fits_is_kept_whole():
    assert tail("größe\n") == "größe\n".encode()


def test_of_a_long_output_the_end_is_kept_from_the_beginning_of_a_character():
    kept = tail("é" * OUTPUT_BYTES + "x")
    assert kept.decode() == "é" * (OUTPUT_BYTES // 2 - 1) + "x"


def test_half_a_surrogate_pair_is_written_out():
    assert tail("\ud800") == b"\\ud800"
