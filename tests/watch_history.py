"""What happened in many watches of many runs, and the rules that no such history may break. Knows no server."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

STREAM_STALLS = frozenset({"stall_after"})
STATUS_OF_COMPLETED = "completed"

ANSWER_ALLOWANCE_S = 1.0  # the promise
BUSY_MACHINE_S = 0.5  # ours: tests share their machine; and what probes took meanwhile
PROBES_IN_A_WATCH = 2  # a watch starts and ends with turns of the event loop where a probe has one
CLOCKS_DIFFER_S = 0.1

# How long after the end of a run a watch may still call it active, by what its requests met with.
UNDISTURBED_S = 1.0
BROKEN_S = 14.0  # the longest pause between polls, a request that times out, the last words of the stream
STALLED_S = 15.0 + BROKEN_S

LAGS_TOO_MUCH_S = 1.0  # to read a status in the 0.9 s that a watch has for its last look, or to send in one second
OPENS_TOO_LATE_S = 2.0  # a stream that has not opened by then counts as broken; after the end none is opened again

ERROR_LOOKS_BACK_S = 10.0  # a request that began before a watch joined may fail it: three attempts and their pauses


@dataclass(frozen=True)
class Note:
    """One progress notification."""

    at: float
    value: float
    message: str


@dataclass
class Watch:
    """One call of `watch_progress`. `chain`: calls that go on with each other's cursors."""

    chain: int
    run_id: str
    timeout_s: float
    invoked_at: float
    notes: list[Note] = field(default_factory=list[Note])
    notes_after_answer: list[Note] = field(default_factory=list[Note])
    answered_at: float | None = None
    answer: dict[str, Any] | None = None
    error: str = ""
    cancelled_at: float | None = None

    @property
    def deadline(self) -> float:
        return self.invoked_at + self.timeout_s

    @property
    def ended_at(self) -> float | None:
        return self.answered_at if self.cancelled_at is None else self.cancelled_at

    @property
    def found_the_end(self) -> bool:
        return self.answer is not None and not self.answer["is_active"]


@dataclass(frozen=True)
class Truth:
    """How a run went, by the simulator's own word.

    `messages` is None where the simulator does not tell them afterwards; `stream_breaks`: its story broke the stream.
    """

    run_id: str
    status: str
    ended_at: float
    messages: tuple[str, ...] | None
    stream_breaks: bool = False

    def is_complete_at(self, moment: float) -> bool:
        return self.status == STATUS_OF_COMPLETED and moment >= self.ended_at - CLOCKS_DIFFER_S


@dataclass(frozen=True)
class Strike:
    """A fault that struck a request about a run; `is_stream`: its event stream, else its status."""

    at: float
    run_id: str
    kind: str
    is_stream: bool


@dataclass(frozen=True)
class Probe:
    """A question that waits for nothing: what it takes from when it was due is how far the machine lags behind."""

    due_at: float
    answered_at: float


@dataclass(frozen=True)
class History:
    """All of it. Moments are of one monotonic clock; from `healed_at` on nothing is struck any more."""

    watches: Sequence[Watch]
    truths: Mapping[str, Truth]
    strikes: Sequence[Strike]
    healed_at: float
    probes: Sequence[Probe] = ()

    def violations(self) -> list[str]:
        """Each broken rule, with everything about the chain and the run that broke it."""
        found: list[str] = []
        for chain in self._chains():
            rules = [rule for watch in chain for rule in self._broken_by(watch)] + list(self._broken_by_chain(chain))
            found += [f"{rule}\n{self._account_of(chain)}" for rule in rules]
        return found

    @property
    def chains_compared_whole(self) -> int:
        """In how many chains a lost message would have been found, had the machine the time."""
        return sum(self._could_tell_all(chain[-1], self.truths[chain[0].run_id]) for chain in self._chains())

    def _chains(self) -> list[list[Watch]]:
        chains: dict[int, list[Watch]] = {}
        for watch in self.watches:
            chains.setdefault(watch.chain, []).append(watch)
        return list(chains.values())

    def _account_of(self, chain: Sequence[Watch]) -> str:
        truth = self.truths[chain[0].run_id]
        strikes = [strike for strike in self.strikes if strike.run_id == truth.run_id]
        lines = [f"chain {chain[0].chain}, healed at {self.healed_at:.2f}", str(truth), *map(str, strikes)]
        return "\n".join("  " + line for line in [*lines, *map(str, chain)])

    def _broken_by(self, watch: Watch) -> Iterator[str]:
        yield from _progress_rules(watch, self.truths[watch.run_id], within_s=1 + self._lag_s(watch))
        if watch.cancelled_at is not None:
            if any(note.at > watch.cancelled_at + self._allowance_s(watch) for note in watch.notes):
                yield "went on after cancel"
            return
        if watch.answered_at is None:
            yield "never answered"
            return
        if watch.notes_after_answer:
            yield "notified after answer"
        if watch.answered_at > watch.deadline + self._allowance_s(watch):
            yield "answered late"
        yield from self._end_rules(watch, watch.answered_at) if watch.answer else self._error_rules(watch)

    def _allowance_s(self, watch: Watch) -> float:
        return ANSWER_ALLOWANCE_S + BUSY_MACHINE_S + self._lag_s(watch)

    def _lag_s(self, watch: Watch) -> float:
        """How far the machine may have held up a watch, by the slowest probe that was due or on its way meanwhile."""
        until = math.inf if watch.ended_at is None else watch.ended_at
        during = [probe for probe in self.probes if probe.due_at < until and probe.answered_at > watch.invoked_at]
        return PROBES_IN_A_WATCH * max((probe.answered_at - probe.due_at for probe in during), default=0.0)

    def _end_rules(self, watch: Watch, answered_at: float) -> Iterator[str]:
        truth = self.truths[watch.run_id]
        assert watch.answer is not None
        if watch.found_the_end:
            if answered_at < truth.ended_at - CLOCKS_DIFFER_S:
                yield "ended before its run"
            told = (watch.answer["status"], watch.answer["result_ready"])
            if told != (truth.status, truth.status == STATUS_OF_COMPLETED):
                yield "ended wrongly"
            could_send = self._had_time(watch) and self._lag_s(watch) < LAGS_TOO_MUCH_S
            if watch.answer["result_ready"] and could_send and watch.notes[-1].value != 100:
                yield "ended without its last notification"
        else:
            if answered_at < watch.deadline - CLOCKS_DIFFER_S:
                yield "left early"
            if truth.ended_at + self._may_lag_s(truth) + self._lag_s(watch) < watch.deadline:
                yield "missed the end"

    def _error_rules(self, watch: Watch) -> Iterator[str]:
        """Without a status nothing can be said; a broken stream alone is no reason to fail."""
        since, until = watch.invoked_at - ERROR_LOOKS_BACK_S - self._lag_s(watch), watch.answered_at or 0.0
        statuses = [strike for strike in self.strikes if strike.run_id == watch.run_id and not strike.is_stream]
        was_struck = any(since <= strike.at <= until for strike in statuses)
        if not was_struck and self._lag_s(watch) < LAGS_TOO_MUCH_S:
            yield "failed without a fault"

    def _may_lag_s(self, truth: Truth) -> float:
        kinds = self._kinds(truth)
        if kinds & STREAM_STALLS:
            return STALLED_S
        return BROKEN_S if kinds or truth.stream_breaks else UNDISTURBED_S

    def _kinds(self, truth: Truth) -> set[str]:
        return {strike.kind for strike in self.strikes if strike.run_id == truth.run_id}

    def _broken_by_chain(self, chain: Sequence[Watch]) -> Iterator[str]:
        truth = self.truths[chain[0].run_id]
        told = [message for watch in chain if watch.answer for message in watch.answer["untrusted_messages"]]
        if not chain[-1].found_the_end:
            yield "never came to the end"
        if truth.messages is None:
            return
        if Counter(told) - Counter(truth.messages):
            yield "repeated a message"
        elif not _in_order(told, truth.messages):
            yield "mixed up messages"
        had_time = all(self._lag_s(watch) < OPENS_TOO_LATE_S for watch in chain)
        if had_time and self._could_tell_all(chain[-1], truth) and Counter(truth.messages) - Counter(told):
            yield "lost a message"

    def _had_time(self, last: Watch) -> bool:
        """Whether a watch ended because its run did."""
        return last.answered_at is not None and last.answered_at < last.deadline - CLOCKS_DIFFER_S

    def _could_tell_all(self, last: Watch, truth: Truth) -> bool:
        """Whether the stream could be read whole when the run ended, in the time of the watch that came to the end.

        Otherwise the end is told without the last steps: it never waits for the stream.
        """
        could_read = truth.ended_at > self.healed_at and not truth.stream_breaks
        return (
            last.found_the_end
            and self._had_time(last)
            and could_read
            and bool(truth.messages)
            and not self._kinds(truth) & STREAM_STALLS
        )


def _progress_rules(watch: Watch, truth: Truth, within_s: float) -> Iterator[str]:
    values = [note.value for note in watch.notes]
    if any(later <= earlier for earlier, later in pairwise(values)):
        yield "progress did not rise"
    if any(not 0 <= value <= 100 for value in values):
        yield "progress out of bounds"
    if any(note.value == 100 and not truth.is_complete_at(note.at) for note in watch.notes):
        yield "claimed to be complete"
    if any(len(note.message) > 200 or not note.message.isprintable() for note in watch.notes):
        yield "unfit line"
    if watch.ended_at is None:
        return
    took_s = watch.ended_at - watch.invoked_at
    noted_s = max([watch.ended_at, *(note.at for note in watch.notes)]) - watch.invoked_at
    if len(values) > 2 + noted_s / 0.5:
        yield "too many notifications"
    if watch.timeout_s and took_s > within_s and (not watch.notes or watch.notes[0].at > watch.invoked_at + within_s):
        yield "silent at first"


def _in_order(some: Sequence[str], whole: Sequence[str]) -> bool:
    rest = iter(whole)
    return all(message in rest for message in some)
