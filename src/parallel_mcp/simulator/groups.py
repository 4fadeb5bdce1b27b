"""Task groups: their runs, their status, and the log behind their event stream (API reference, section 12)."""

from __future__ import annotations

import heapq
import math
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from parallel_mcp.simulator.clock import Changes, Clock
from parallel_mcp.simulator.errors import GROUP_NOT_FOUND, Invalid, Problem, Refused
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.payloads import Json, JsonObject
from parallel_mcp.simulator.runs import ACTIVE, Run, Status

FIRST_EVENT_ID = 1_000_000


@dataclass(frozen=True)
class LogEntry:
    """One event of a group: its status after a change (`run` is None), or the end of a run."""

    event_id: str
    at: float
    run: Run | None
    status: JsonObject


class Group:
    """A growing list of runs.

    Event ids of `/events` start at 1,000,000 and those of `/runs` at 1, so that a cursor used with the wrong stream
    is noticed (checklist 30).
    """

    def __init__(self, owner: str, taskgroup_id: str, metadata: Json, clock: Clock) -> None:
        self.owner = owner
        self.taskgroup_id = taskgroup_id
        self.changes = Changes()
        self.runs: list[Run] = []
        self._metadata = metadata
        self._clock = clock
        self._created_at = clock.now()
        self._modified_at = self._created_at
        self._log: list[LogEntry] = []
        self._logged: list[Status] = []
        self._counts: Counter[Status] = Counter()
        self._due: list[tuple[float, int]] = []
        self._last_shown = self._status()
        self._lock = threading.Lock()

    def add(self, runs: Sequence[Run]) -> None:
        """Append runs. Their creation is one change of the group's status."""
        self.settle()
        with self._lock:
            for run in runs:
                self._schedule(run, len(self.runs), run.created_at)
                self.runs.append(run)
                self._logged.append("queued")
            self._counts["queued"] += len(runs)
            if runs:
                self._write(runs[0].created_at, None)
        self.changes.announce()

    def run_changed(self, run: Run, at: float) -> None:
        """Take note that a run was started or ended from outside its schedule, at that moment."""
        with self._lock:
            heapq.heappush(self._due, (at, self.runs.index(run)))
        self.changes.announce()

    def settle(self) -> None:
        """Write every transition that is due into the log, in order of time."""
        now = self._clock.now()
        with self._lock:
            while self._due and self._due[0][0] <= now:
                at, place = heapq.heappop(self._due)
                self._note(at, place)

    def next_change(self) -> float:
        """Return the moment of the next transition, infinite when none is planned."""
        with self._lock:
            return self._due[0][0] if self._due else math.inf

    @property
    def is_active(self) -> bool:
        return any(count for status, count in self._counts.items() if status in ACTIVE)

    @property
    def last_event_id(self) -> str | None:
        return self._log[-1].event_id if self._log else None

    @property
    def last_run_id(self) -> str | None:
        """Return the event id of the last run in the stream of runs."""
        return str(len(self.runs)) if self.runs else None

    def runs_after(self, cursor: str | None) -> list[tuple[str, Run]]:
        """Return the runs behind a cursor of the stream of runs, with their event ids."""
        first = _place(cursor, 0, len(self.runs))
        return [(str(place + 1), self.runs[place]) for place in range(first, len(self.runs))]

    def log_after(self, cursor: str | None) -> list[LogEntry]:
        """Return the events behind a cursor of the event stream."""
        return self._log[_place(cursor, FIRST_EVENT_ID, len(self._log)) :]

    def status(self, *, refresh: bool = True) -> JsonObject:
        """Return the status; without `refresh` the one that was returned last (checklist 28)."""
        if refresh:
            self.settle()
            self._last_shown = self._status()
        return self._last_shown

    def as_object(self) -> JsonObject:
        return {
            "taskgroup_id": self.taskgroup_id,
            "metadata": self._metadata,
            "status": self.status(),
            "created_at": self._clock.stamp(self._created_at),
        }

    def _status(self) -> JsonObject:
        return {
            "num_task_runs": len(self.runs),
            "task_run_status_counts": {status: count for status, count in self._counts.items() if count},
            "is_active": self.is_active,
            "status_message": "",
            "modified_at": self._clock.stamp(self._modified_at),
        }

    def _note(self, at: float, place: int) -> None:
        run, before = self.runs[place], self._logged[place]
        after = run.status_at(at)
        self._schedule(run, place, at)
        if after == before:
            return
        self._logged[place] = after
        self._counts[before] -= 1
        self._counts[after] += 1
        if after not in ACTIVE:
            self._write(at, run)
        self._write(at, None)

    def _schedule(self, run: Run, place: int, moment: float) -> None:
        change = run.next_change_after(moment)
        if math.isfinite(change):
            heapq.heappush(self._due, (change, place))

    def _write(self, at: float, run: Run | None) -> None:
        self._modified_at = at
        event_id = str(FIRST_EVENT_ID + len(self._log) + 1)
        self._log.append(LogEntry(event_id, at, run, self._status()))


def _place(cursor: str | None, start: int, length: int) -> int:
    """Return how many entries a cursor has seen.

    Raises:
        Invalid: The cursor was not given by this stream.
    """
    if not cursor:
        return 0
    seen = int(cursor) - start if re.fullmatch("[0-9]{1,15}", cursor) else -1
    if not 0 <= seen <= length:
        raise Invalid([Problem(("query", "last_event_id"), "not an event id of this stream")])
    return seen


class Groups:
    """All groups."""

    def __init__(self, clock: Clock, identities: Identities) -> None:
        self._clock = clock
        self._identities = identities
        self._groups: dict[str, Group] = {}

    def create(self, owner: str, metadata: Json) -> Group:
        group = Group(owner, self._identities.new("tgrp_", 48), metadata, self._clock)
        self._groups[group.taskgroup_id] = group
        return group

    def get(self, owner: str, taskgroup_id: str) -> Group:
        """Return a group of this owner.

        Raises:
            Refused: 404, there is none with this id, or it is somebody else's.
        """
        group = self._groups.get(taskgroup_id)
        if group is None or group.owner != owner:
            raise Refused(404, GROUP_NOT_FOUND)
        return group

    def run_changed(self, run: Run, at: float) -> None:
        if run.taskgroup_id is not None:
            self._groups[run.taskgroup_id].run_changed(run, at)
