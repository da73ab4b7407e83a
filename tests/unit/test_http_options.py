"""`--http`: addresses, who is reached by them, and the logins that settings name."""

import pytest

from dispatcher.errors import InvalidSettings
from dispatcher.http.options import (
    Address,
    check_reach,
    is_loopback,
    parse_address,
    read_options,
)
from dispatcher.settings import read_settings
from tests.edge import some_options


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4200", Address("127.0.0.1", 4200)),
        ("localhost:0", Address("localhost", 0)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65_535)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("edge.example.org:80", Address("edge.example.org", 80)),
    ],
)
def test_an_address_is_a_host_and_a_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "4200", ":4200", "localhost", "localhost:", "::1:80", "[::1]", "a:65536", "a:b"]
)
def test_what_is_no_address_is_refused_with_an_example(text):
    with pytest.raises(InvalidSettings, match=r"is not HOST:PORT, such as 127\.0\.0\.1:4200"):
        parse_address(text)


@pytest.mark.parametrize("text", ["127.0.0.1:4200", "[::1]:8080"])
def test_an_address_is_shown_as_it_is_given(text):
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST."])
def test_loopback_is_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "fe80::1"])
def test_everything_else_is_reached_from_elsewhere(host):
    assert not is_loopback(host)


def test_other_machines_are_not_served_without_a_login():
    with pytest.raises(InvalidSettings) as caught:
        check_reach(some_options(address=Address("0.0.0.0", 4200)), "0.0.0.0")
    assert str(caught.value) == (
        "--http 0.0.0.0:4200 would let any machine that reaches it submit and claim runs: set "
        "DISPATCHER_API_AUTH_STRING=USER:PASSWORD or DISPATCHER_API_TOKEN, "
        "or say --http-without-auth"
    )


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ("127.0.0.1", {}),
        ("0.0.0.0", {"auth_string": "u:p"}),
        ("0.0.0.0", {"token": "t"}),
        ("0.0.0.0", {"without_auth": True}),
    ],
)
def test_this_machine_is_served_without_a_login_and_others_with_one_or_when_told_so(host, fields):
    check_reach(some_options(**fields), host)


def options_with(**environ):
    settings, _, _ = read_settings(environ)
    return read_options(settings, "127.0.0.1:0")


def test_a_login_comes_from_the_environment_or_from_files(tmp_path):
    (tmp_path / "login").write_text("me:a:b\n")
    (tmp_path / "token").write_text("s3cret\n")

    given = options_with(DISPATCHER_API_AUTH_STRING="you:pass", DISPATCHER_API_TOKEN="t0ken")
    read = options_with(
        DISPATCHER_API_AUTH_STRING_FILE=str(tmp_path / "login"),
        DISPATCHER_API_TOKEN_FILE=str(tmp_path / "token"),
    )

    assert (given.auth_string, given.token) == ("you:pass", "t0ken")
    assert (read.auth_string, read.token) == ("me:a:b", "s3cret")


@pytest.mark.parametrize("value", ["nobody", ":password", "user:"])
def test_half_a_login_is_refused_without_showing_it(value):
    with pytest.raises(InvalidSettings) as caught:
        options_with(DISPATCHER_API_AUTH_STRING=value)
    assert str(caught.value) == "DISPATCHER_API_AUTH_STRING: is not USER:PASSWORD"


def test_an_empty_file_is_no_login(tmp_path):
    (tmp_path / "token").write_text("\n")
    with pytest.raises(InvalidSettings, match=r"DISPATCHER_API_TOKEN_FILE: .*token is empty"):
        options_with(DISPATCHER_API_TOKEN_FILE=str(tmp_path / "token"))


def test_a_login_is_in_no_representation_of_the_options():
    options = options_with(DISPATCHER_API_AUTH_STRING="me:s3cret", DISPATCHER_API_TOKEN="t0ken")
    assert "s3cret" not in repr(options)
    assert "t0ken" not in repr(options)


@pytest.mark.parametrize("name", ["DISPATCHER_API_AUTH_STRING", "DISPATCHER_API_TOKEN"])
def test_a_login_is_masked_among_the_settings(name):
    _, effective, _ = read_settings({name: "me:s3cret"})
    shown = {row.name: row.value for row in effective}
    assert shown[name] == "***"
    assert "s3cret" not in str(effective)
