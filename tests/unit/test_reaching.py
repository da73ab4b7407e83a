"""What a URL says about how Redis is reached, and what is said of one that cannot be used."""

from pathlib import Path
from typing import Any

import pytest

from dispatcher.connection import Connection
from dispatcher.errors import InvalidSettings, RedisUnavailable
from dispatcher.producer import find_url
from dispatcher.reaching import ASK_TIMEOUT_S, READ_TIMEOUT_S, open_client, open_cluster, shown
from dispatcher.settings import Settings, masked

SECRET = "s3cret"
URLS = [
    f"redis://user:{SECRET}@host:1/2",
    f"rediss://:{SECRET}@host",
    f"unix://user:{SECRET}@/run/redis.sock",
    f"redis+sentinel://user:{SECRET}@a:1,b,[::1]:3/service/4?sentinel_password={SECRET}",
    f"rediss+sentinel://:{SECRET}@a/service",
    f"redis+cluster://user:{SECRET}@a:1,b",
    f"rediss+cluster://:{SECRET}@a?ssl_check_hostname=no",
]
TORN = [
    "redis://user:s3/cret@host",
    "redis://user:12/s3@host:1",
    "redis://:12#s3@host",
    "redis://:12?s3@host",
    "unix://:s3/cret@/run/redis.sock",
    "redis+cluster://user:s3/cret@a:1,b",
    "redis+cluster://user:12/s3@a,b",
    "redis+sentinel://user:s3#cret@a:1/service",
    "redis+sentinel:///service",
    "redis+cluster://a:x",
    "redis+cluster://a,,b",
    "redis://[::1",
]


@pytest.mark.parametrize("url", URLS)
def test_each_kind_of_url_is_taken_and_no_message_shows_its_secrets(url):
    connection = Connection.open(url)
    assert find_url(Settings(redis_url=url)) == url
    assert SECRET not in f"{connection.where} {shown(url)} {masked('redis_url', url)}"
    assert "***" in masked("redis_url", url)


@pytest.mark.parametrize("url", TORN)
def test_a_url_that_cannot_be_read_is_told_without_a_piece_of_it_that_may_be_secret(url):
    with pytest.raises(InvalidSettings) as opened:
        Connection.open(url)
    with pytest.raises(InvalidSettings) as found:
        find_url(Settings(redis_url=url))
    for told in (str(opened.value), str(found.value)):
        assert "s3" not in told
        assert "has no host and port that can be read; percent-encode" in told
        assert "\n" not in told


@pytest.mark.parametrize("url", TORN)
def test_what_is_shown_of_such_a_url_is_no_secret_either(url):
    assert "s3" not in shown(url)
    assert "s3" not in masked("redis_url", url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://host", "begins with http; use redis://"),
        ("host:6379", "begins with host; use redis://"),
        ("redis+sentinel://a", r"name the service"),
        ("redis+sentinel://a/service/x", r"name the service"),
        ("redis+sentinel://a/service/1/2", r"name the service"),
        ("redis+cluster://a/1", "a cluster has no databases"),
        ("redis+cluster://a?db=1", "db cannot be chosen in the URL"),
        ("redis+sentinel://a/s?socket_timeout=1", "socket_timeout cannot be chosen in the URL"),
        ("redis://a?socket_timeout=1", "socket_timeout cannot be chosen in the URL"),
        ("redis://a?no_such=1", "no_such"),
        ("redis+cluster://a?ssl_ca_certs=/x", "ssl_ca_certs cannot be chosen in the URL"),
        ("rediss://a?ssl_ca_certs=/no/such", "ssl_ca_certs /no/such cannot be read: No such"),
        ("rediss+cluster://a?ssl_certfile=/no/such", "ssl_certfile /no/such cannot be read"),
        ("rediss+sentinel://a/s?ssl_keyfile=/no/such", "ssl_keyfile /no/such cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_in_one_line(url, problem):
    with pytest.raises(InvalidSettings, match=problem) as caught:
        Connection.open(url)
    assert "\n" not in str(caught.value)


def test_a_certificate_that_is_none_is_told_before_anything_is_sent(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("this is no certificate")
    for name in ("ssl_ca_certs", "ssl_certfile"):
        with pytest.raises(InvalidSettings, match=f"{name} {file} cannot be used: "):
            Connection.open(f"rediss://host?{name}={file}")


def options(client: Any) -> dict[str, Any]:
    return dict(client.connection_pool.connection_kwargs)


def test_a_sentinel_url_says_where_the_sentinels_are_and_who_we_are_to_both():
    url = "redis+sentinel://us%40er:p%2Fw@a:1,b,[::1]:3/service/4?sentinel_username=s&sentinel_password=x"
    client = open_client(url)
    pool: Any = client.connection_pool

    asked = [options(each) for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("a", 1), ("b", 26_379), ("::1", 3)]
    assert {(each["username"], each["password"]) for each in asked} == {("s", "x")}
    assert {each["socket_timeout"] for each in asked} == {ASK_TIMEOUT_S}
    mine = options(client)
    assert (pool.service_name, mine["db"]) == ("service", 4)
    assert (mine["username"], mine["password"]) == ("us@er", "p/w")
    assert mine["socket_timeout"] == READ_TIMEOUT_S


def test_a_cluster_url_says_where_some_nodes_are_and_who_we_are_to_all():
    cluster = open_cluster("rediss+cluster://user:p%2Fw@a:1,b?ssl_check_hostname=no")
    assert cluster
    node = cluster.node(("c", 9))
    mine = options(node.client)
    assert (mine["host"], mine["port"]) == ("c", 9)
    assert (mine["username"], mine["password"]) == ("user", "p/w")
    assert mine["ssl_check_hostname"] is False
    assert "SSL" in node.client.connection_pool.connection_class.__name__


@pytest.mark.parametrize("url", [u for u in URLS if "cluster" not in u])
def test_no_command_is_repeated_below_a_step(url):
    retry = options(open_client(url))["retry"]
    assert retry.get_retries() == 0


def test_the_url_may_be_in_a_file(tmp_path: Path):
    file = tmp_path / "url"
    file.write_text("redis+cluster://a:1,b:2\n")
    assert find_url(Settings(redis_url_file=str(file))) == "redis+cluster://a:1,b:2"


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://u:{SECRET}@127.0.0.1:1,127.0.0.1:2/svc?sentinel_password={SECRET}",
        f"redis+cluster://u:{SECRET}@127.0.0.1:1,127.0.0.1:2",
    ],
)
def test_when_nobody_says_where_a_master_is_that_is_an_outage_of_one_short_line(url):
    connection = Connection.open(url)
    with pytest.raises(RedisUnavailable, match="cannot be reached: ") as caught:
        connection.read(lambda client: client.ping())
    connection.close()
    assert type(caught.value) is RedisUnavailable
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
