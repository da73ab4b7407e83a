"""A subscription that another thread ends."""

import fakeredis
import pytest

from dispatcher.connection import Connection, Subscription
from dispatcher.errors import RedisUnavailable


def test_a_subscription_that_is_closed_between_two_messages_says_that_it_has_ended():
    with fakeredis.FakeRedis(version=(7,), protocol=2) as client:
        subscription = Subscription(Connection(client), ["changes"], [])
        messages = subscription.messages()
        assert next(messages) is None
        client.publish("changes", "default 0")
        assert next(messages) == ("changes", "default 0")

        subscription.close()

        with pytest.raises(RedisUnavailable):
            next(messages)
