"""Feeding runs to a producer, and the line that each of them gets."""

import json
from collections import deque
from collections.abc import Iterable, Iterator

import click

from dispatcher.cli.output import clean, shown_time
from dispatcher.cli.progress import Screen
from dispatcher.errors import DispatcherError, InvalidInput, InvalidRun, RedisUnavailable
from dispatcher.intake import Element, Offer, parse_offer
from dispatcher.producer import Producer, Target, with_new_id
from dispatcher.records import Receipt, Word
from dispatcher.shapes import receipt_fields, refusal_fields, run_fields
from dispatcher.stored import RunRecord


class Receipts:
    """Turns answers into lines and counts them; `followed` has the ids by pool when asked for."""

    def __init__(self, *, as_json: bool, follow: bool = False) -> None:
        self.accepted = self.retimed = self.duplicate = self.refused = 0
        self.followed: dict[str, list[str]] = {}
        self._as_json = as_json
        self._follow = follow

    def counts(self) -> str:
        """Say how many there were of each."""
        retimed = f"{self.retimed:,} retimed, " if self.retimed else ""
        others = f"{self.duplicate:,} duplicate, {self.refused:,} refused"
        return f"{self.accepted:,} accepted, {retimed}{others}"

    def line(self, where: str, answer: Receipt | DispatcherError, *, offered: str = "") -> str:
        """Count an answer and return its line; `offered` is the id that the run came with."""
        if isinstance(answer, DispatcherError):
            self.refused += 1
            return self._refusal(where, answer)
        if answer.word is Word.ACCEPTED:
            self.accepted += 1
        elif answer.word is Word.RETIMED:
            self.retimed += 1
        else:
            self.duplicate += 1
        if self._follow:
            self.followed.setdefault(answer.pool, []).append(answer.run_id)
        return self._receipt(answer, offered)

    def end(self, run_id: str, run: RunRecord | None) -> str:
        """Return the line of a followed run that has ended, or whose record is gone."""
        if self._as_json:
            known = {"id": run_id} if run is None else run_fields(run, run.ended_ms or 0)
            return json.dumps({"result": "gone" if run is None else "ended", **known})
        if run is None:
            return f"gone {run_id} nothing is known of it any more"
        return clean(f"ended {run_id} {run.state_type} {run.message}".rstrip())

    def _receipt(self, receipt: Receipt, offered: str) -> str:
        word, due_ms = receipt.word.value, receipt.due_ms
        is_other = offered not in ("", receipt.run_id)  # known by its idempotency key
        if self._as_json:
            return json.dumps(receipt_fields(receipt, offered))
        if receipt.word is Word.DUPLICATE:
            key = f"; {offered} has its idempotency key" if is_other else ""
            return clean(f"duplicate {receipt.run_id} is known in pool {receipt.pool}{key}")
        due = shown_time(due_ms)
        return clean(f"{word} {receipt.run_id} {receipt.pool}/{receipt.queue} due {due}")

    def _refusal(self, where: str, error: DispatcherError) -> str:
        if not self._as_json:
            return clean(f"refused {where} {error}")
        return json.dumps(refusal_fields(where, error))


class Feed:
    """Feeds runs to a producer as they are read, and writes what became of each.

    Ends early when the server cannot go on, or nobody reads the lines; what was sent by then is
    counted all the same.
    """

    def __init__(
        self, producer: Producer, receipts: Receipts, screen: Screen, *, new_id: bool = False
    ) -> None:
        self._producer = producer
        self._receipts = receipts
        self._screen = screen
        self._new_id = new_id
        self._unanswered: deque[tuple[str, str]] = deque()  # where it stood, and the run's id
        self._lines: list[str] = []
        self._failure: RedisUnavailable | BrokenPipeError | None = None

    def run(self, elements: Iterable[Element], *, target: Target, due_ms: int | None) -> None:
        """Submit all elements, and write on standard error how many became what.

        Raises what ended it early: RedisUnavailable, or BrokenPipeError.
        """
        try:
            with self._screen:
                self._feed(elements, target, due_ms)
        finally:
            closed = isinstance(self._failure, BrokenPipeError)
            stopped = "; stopped: nobody reads the results" if closed else ""
            click.echo(self._receipts.counts() + stopped, err=True)
        if self._failure:
            raise self._failure

    def _feed(self, elements: Iterable[Element], target: Target, due_ms: int | None) -> None:
        offers = self._offers(iter(elements))
        try:
            for answer in self._producer.offer_many(offers, target=target, due_ms=due_ms):
                where, offered = self._unanswered.popleft()
                self._lines.append(self._receipts.line(where, answer, offered=offered))
                if isinstance(answer, RedisUnavailable) and not self._failure:
                    self._failure = _told(answer, where)
        except RedisUnavailable as error:
            self._failure = _told(error, self._unanswered[0][0] if self._unanswered else "the end")
        finally:
            self._flush()

    def _offers(self, elements: Iterator[Element]) -> Iterator[Offer | DispatcherError]:
        while True:
            if not self._unanswered:
                self._flush()  # reading on may take a while
            element = None if self._failure else _next(elements)
            if element is None:
                return
            offer = self._offer(element)
            offered = "" if isinstance(offer, DispatcherError) else str(offer.run.id)
            self._unanswered.append((element.where, offered))
            yield offer

    def _offer(self, element: Element) -> Offer | DispatcherError:
        if element.problem:
            return InvalidRun("", element.problem)
        try:
            return parse_offer(with_new_id(element.raw) if self._new_id else element.raw)
        except InvalidInput as error:
            return error

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if isinstance(self._failure, BrokenPipeError):
            return
        try:
            self._screen.write(lines, counts=self._receipts.counts())
        except BrokenPipeError as error:
            self._failure = error


def _next(elements: Iterator[Element]) -> Element | None:
    try:
        return next(elements, None)
    except OSError as error:
        return Element("input", b"", f"cannot be read on: {error.strerror}")


def _told(error: RedisUnavailable, where: str) -> RedisUnavailable:
    return type(error)(f"{error}; ended at {where}: submit again, what was accepted is known then")
