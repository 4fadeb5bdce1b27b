"""When a monitor looks, and what it comes upon: its executions (API reference, section 17)."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from random import Random

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.identities import hex_token
from parallel_mcp.simulator.stories import Story

MOST_KEPT = 300
HOUR_S = 3600.0
LATENCY_S = {"lite": (5.0, 20.0), "base": (15.0, 60.0)}  # not published
EVENTS_AT_FIRST_WITH_BACKFILL = 2
USUAL_EVENTS = (0, 0, 1, 1, 2)


@dataclass(frozen=True)
class Execution:
    """One time the monitor looked.

    Attributes:
        number: Its place among all executions, from 0.
        at: The moment it was over.
        first_event: How many events there were before it.
        events: How many it detected.
    """

    number: int
    at: float
    first_event: int
    events: int
    failed: bool

    def group_id(self, monitor_id: str) -> str:
        return "mevtgrp_" + hex_token(Random(f"{monitor_id}:{self.number}:group"), 48)


class Schedule:
    """The executions of one monitor, the last 300 of which are kept. Nothing runs in the background."""

    def __init__(
        self, monitor_id: str, story: Story, clock: Clock, *, hours: int, backfills: bool, most_events: int
    ) -> None:
        self.executions: deque[Execution] = deque(maxlen=MOST_KEPT)
        self._monitor_id = monitor_id
        self._story = story
        self._clock = clock
        self._hours = hours
        self._backfills = backfills
        self._most_events = most_events
        self._next_start = math.inf if story.never else clock.now()
        self._ends: list[float] = []
        self._started = 0
        self._events = 0
        self._executed = 0

    def settle(self, processor: str) -> None:
        """Execute what is due."""
        now = self._clock.now()
        interval = self._clock.real_seconds(self._hours * HOUR_S)
        self._skip(now, interval)
        while self._next_start <= now:
            self._start(self._next_start, processor)
            self._next_start += interval
        while self._ends and self._ends[0] <= now:
            self._execute(heapq.heappop(self._ends))

    def trigger(self, processor: str) -> None:
        """Look once more, now; the regular executions stay as they are."""
        if not self._story.never:
            self._start(self._clock.now(), processor)

    def change_frequency(self, hours: int) -> None:
        """Reckon the next execution from the last one that was due."""
        last_start = self._next_start - self._clock.real_seconds(self._hours * HOUR_S)
        self._hours = hours
        self._next_start = max(self._clock.now(), last_start + self._clock.real_seconds(hours * HOUR_S))

    def stop(self) -> None:
        self._next_start = math.inf
        self._ends.clear()

    def _skip(self, now: float, interval: float) -> None:
        """Leave out executions that would have been forgotten by now."""
        if now - self._next_start > (MOST_KEPT + 1) * interval:
            skipped = int((now - self._next_start) / interval) - MOST_KEPT
            self._next_start += skipped * interval
            self._started += skipped
            self._executed += skipped

    def _start(self, at: float, processor: str) -> None:
        shortest, longest = LATENCY_S[processor]
        drawn = Random(f"{self._monitor_id}:{self._started}:latency").uniform(shortest, longest)
        latency_s = drawn if self._story.latency is None else self._story.latency
        self._started += 1
        heapq.heappush(self._ends, at + self._clock.real_seconds(latency_s))

    def _execute(self, at: float) -> None:
        failed = self._story.ending == "failed"
        events = 0 if failed else min(self._events_of(self._executed), self._most_events)
        self.executions.append(Execution(self._executed, at, self._events, events, failed))
        self._executed += 1
        self._events += events

    def _events_of(self, number: int) -> int:
        """Detect as many as the story says; without one the first execution finds older events if asked for them."""
        if self._story.events is not None:
            return self._story.events
        if number == 0:
            return EVENTS_AT_FIRST_WITH_BACKFILL if self._backfills else 0
        return Random(f"{self._monitor_id}:{number}:events").choice(USUAL_EVENTS)
