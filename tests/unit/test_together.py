"""Parts of a dispatcher that start and stop as one."""

import pytest

from dispatcher.errors import Refused
from dispatcher.service import Together


class Part:
    def __init__(self, name, told):
        self.name, self.told = name, told

    def start(self):
        self.told.append(f"start {self.name}")

    def stop(self):
        self.told.append(f"stop {self.name}")

    def check(self):
        self.told.append(f"check {self.name}")
        if self.name == "broken":
            raise Refused("it is broken")


def test_parts_start_in_order_and_stop_in_reverse():
    told = []
    both = Together(Part("loops", told), Part("http", told))

    both.start()
    both.check()
    both.stop()

    assert told == [
        *("start loops", "start http"),
        *("check loops", "check http"),
        *("stop http", "stop loops"),
    ]


def test_what_ends_a_part_ends_all():
    with pytest.raises(Refused, match="it is broken"):
        Together(Part("loops", []), Part("broken", [])).check()
