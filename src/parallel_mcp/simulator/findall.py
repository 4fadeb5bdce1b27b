"""FindAll runs: their search, the log behind their event stream, and what may be done to them (section 16)."""

from __future__ import annotations

import heapq
import math
import re
import threading
from dataclasses import dataclass
from itertools import count
from random import Random

from parallel_mcp.simulator.clock import Changes, Clock
from parallel_mcp.simulator.entities import Entities, bare_address
from parallel_mcp.simulator.errors import CANNOT_CANCEL, Invalid, Problem, Refused
from parallel_mcp.simulator.findall_bodies import EnrichRequest, FindAllRequest
from parallel_mcp.simulator.findall_candidates import CandidateState, CandidateWriter
from parallel_mcp.simulator.findall_plan import CUT_SHORT, Planner, Step
from parallel_mcp.simulator.generators import GENERATORS, Generator
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.processors import PROCESSORS
from parallel_mcp.simulator.runs import ACTIVE, LONGEST_QUEUE_S, QUEUE_SHARE, SHORTEST_REAL_S, Status
from parallel_mcp.simulator.stories import Story, TerminationReason

CANCELLING_S = 2.0
TERMINAL: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})
IDS_PER_ENTRY = 4096  # the ids between those of two entries are for heartbeats, and lead back to the first of the two


@dataclass(frozen=True)
class Turn:
    """The run gets another status."""

    status: Status
    reason: TerminationReason | None = None


@dataclass(frozen=True)
class Enriching:
    """An enrichment of a match is ready."""

    place: int
    number: int


@dataclass(frozen=True)
class RunState:
    """A run as of some moment."""

    status: Status
    reason: TerminationReason | None
    generated: int
    matched: int
    modified_at: float


@dataclass(frozen=True)
class SchemaState:
    """The schema of a run as of some moment."""

    match_limit: int
    enrichments: int


@dataclass(frozen=True)
class LogEntry:
    """One event, as small as it can be kept; `FindAll.event` writes it."""

    at: float
    type: str
    state: RunState | CandidateState | SchemaState


class FindAll:
    """One FindAll run. It follows from its plan and the clock; nothing runs in the background.

    Its methods may be called from any thread.
    """

    def __init__(self, findall_id: str, body: FindAllRequest, story: Story, entities: Entities, clock: Clock) -> None:
        self.findall_id = findall_id
        self.body = body
        self.story = story
        self.changes = Changes()
        self.connections = 0
        self.match_limit = body.match_limit
        self.enrichments: list[EnrichRequest] = []
        self._clock = clock
        self._entities = entities
        self._writer = CandidateWriter(findall_id, body, story, entities)
        self._dice = Random(f"{findall_id}:search")
        self._first_id = Random(f"{findall_id}:events").randrange(2**50, 2**51)
        self._heartbeats = count(1)
        self._excluded = _excluded(body)
        self._created_at = clock.now()
        self._state = RunState("queued", None, 0, 0, self._created_at)
        self._candidates: dict[int, CandidateState] = {}
        self._next_place = 0
        self._log: list[LogEntry] = []
        self._due: list[tuple[float, int, Turn | Step | Enriching]] = []
        self._order = count()
        self._lock = threading.RLock()
        self._write(self._created_at, "findall.status", self._state)
        self._ends_at = self._start()

    @property
    def generator(self) -> Generator:
        return GENERATORS[self.body.generator]

    @property
    def status(self) -> Status:
        self.settle()
        return self._state.status

    @property
    def matched(self) -> int:
        return self._state.matched

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def log_length(self) -> int:
        return len(self._log)

    @property
    def last_event_id(self) -> str:
        return self._id(len(self._log))

    def enriched_with(self, number: int) -> int:
        """Return how many matches have an enrichment."""
        return sum(number in candidate.enriched for candidate in list(self._candidates.values()))

    def settle(self) -> None:
        """Let everything happen that is due, in order of time."""
        now = self._clock.now()
        with self._lock:
            while self._due and self._due[0][0] <= now:
                at, _, item = heapq.heappop(self._due)
                self._happen(at, item)

    def next_change(self) -> float:
        """Return the moment of the next event, infinite when none is planned."""
        with self._lock:
            return self._due[0][0] if self._due else math.inf

    def extend(self, additional: int) -> None:
        """Look for further matches: at once, or when the present search is over."""
        with self._lock:
            self.settle()
            now = self._clock.now()
            self.match_limit += additional
            self._write(now, "findall.schema.updated", self._schema_state())
            starts_at = now
            if self._state.status in ACTIVE:
                starts_at = max(now, self._ends_at)
                self._forget_the_end()
            else:
                self._happen(now, Turn("running"))
            self._ends_at = self._search(starts_at, additional)
        self.changes.announce()

    def enrich(self, enrichment: EnrichRequest) -> None:
        """Answer further questions about all matches, present and future."""
        with self._lock:
            self.settle()
            now = self._clock.now()
            self.enrichments.append(enrichment)
            self._write(now, "findall.schema.updated", self._schema_state())
            matches = [candidate.place for candidate in self._candidates.values() if candidate.status == "matched"]
            if matches and self._state.status not in ACTIVE:
                before = Turn(self._state.status, self._state.reason)
                self._happen(now, Turn("running"))
                self._plan(now, before)
            for place in matches:
                self._plan_enriching(now, place, len(self.enrichments) - 1)
        self.changes.announce()

    def cancel(self) -> None:
        """Stop looking for candidates; those already found are still judged, within moments.

        Raises:
            Refused: 409, the run has ended.
        """
        with self._lock:
            self.settle()
            if self._state.status in TERMINAL:
                raise Refused(409, CANNOT_CANCEL)
            if self._state.status != "cancelling":
                now = self._clock.now()
                self._happen(now, Turn("cancelling"))
                self._finish_active_work(now)
        self.changes.announce()

    def end(self, turn: Turn) -> None:
        """End the run now; one that has ended stays as it is."""
        with self._lock:
            self.settle()
            if self._state.status in ACTIVE:
                self._due.clear()
                self._happen(max(self._clock.now(), self._created_at + SHORTEST_REAL_S), turn)
        self.changes.announce()

    def created_object(self) -> JsonObject:
        """Write the `FindAllRun` as it was created: queued, however fast the clock."""
        return self._run_object(RunState("queued", None, 0, 0, self._created_at))

    def as_object(self) -> JsonObject:
        """Write the `FindAllRun` as it is now."""
        self.settle()
        return self._run_object(self._state)

    def schema_object(self) -> JsonObject:
        return self._schema_object(self._schema_state())

    def result_object(self) -> JsonObject:
        """Write the `FindAllRunResult`, a snapshot."""
        with self._lock:
            run, candidates = self.as_object(), list(self._candidates.values())
            last_event_id = self.last_event_id
        return {
            "run": run,
            "candidates": [self._writer.write(candidate, self.enrichments) for candidate in candidates],
            "last_event_id": last_event_id,
        }

    def entries_seen(self, cursor: str | None) -> int:
        """Return how many entries of the log a cursor has seen.

        Raises:
            Invalid: The cursor was not given by this run.
        """
        if not cursor:
            return 0
        if re.fullmatch("[0-9a-f]{1,16}", cursor):
            seen = (int(cursor, 16) - self._first_id) // IDS_PER_ENTRY
            if 1 <= seen <= len(self._log):
                return seen
        raise Invalid([Problem(("query", "last_event_id"), "not an event id of this run")])

    def event(self, place: int) -> JsonObject:
        """Write the event at a place of the log."""
        entry = self._log[place]
        match entry.state:
            case RunState():
                data = self._run_object(entry.state)
            case CandidateState():
                data = self._writer.write(entry.state, self.enrichments)
            case SchemaState():
                data = self._schema_object(entry.state)
        return self._event(entry.type, entry.at, self._id(place + 1), data)

    def heartbeat(self) -> JsonObject:
        """Write a status that is told again because nothing else happened; its id resumes behind the last event."""
        event_id = self._id(len(self._log), next(self._heartbeats) % IDS_PER_ENTRY)
        return self._event("findall.status", self._clock.now(), event_id, self._run_object(self._state))

    def _start(self) -> float:
        """Plan the first search; returns when it ends."""
        duration_s = self._duration_s()
        usual = min(LONGEST_QUEUE_S, QUEUE_SHARE * duration_s)
        queued_s = usual if self.story.queue is None else min(self.story.queue, duration_s)
        starts_at = self._created_at + max(self._clock.real_seconds(queued_s), SHORTEST_REAL_S)
        self._plan(starts_at, Turn("running"))
        return self._search(starts_at, self.match_limit, duration_s - queued_s)

    def _search(self, starts_at: float, wanted: int, lasts_s: float | None = None) -> float:
        """Plan a search and the end of the run behind it; returns when that is."""
        lasts = self._clock.real_seconds(self._duration_s() if lasts_s is None else lasts_s)
        planned = self._planner().plan(
            self._entities.places_without(*self._excluded, start=self._next_place),
            self._dice,
            wanted=wanted,
            generated=len(self._candidates),
            matched=self._state.matched,
        )
        self._next_place = planned.next_place
        for step in planned.steps:
            self._plan(starts_at + step.share * lasts, step)
        if not self.story.never:
            self._plan(starts_at + lasts, self._ending(planned.reason))
        return starts_at + lasts

    def _planner(self) -> Planner:
        most = self.generator.most_candidates if self.story.candidates is None else self.story.candidates
        ends = "error_occurred" if self.story.fails else self.story.ends
        return Planner(self.generator.match_share, most, self.story.matches, ends)

    def _ending(self, reason: TerminationReason) -> Turn:
        """Which status goes with which reason is not published, except where the names say so."""
        if self.story.status != "completed":
            return Turn(self.story.status, "user_cancelled" if self.story.status == "cancelled" else None)
        if reason == "user_cancelled":
            return Turn("cancelled", reason)
        return Turn("failed" if reason in CUT_SHORT else "completed", reason)

    def _duration_s(self) -> float:
        drawn = self.generator.latency_s(self._dice)
        return drawn if self.story.latency is None else self.story.latency

    def _plan(self, at: float, item: Turn | Step | Enriching) -> None:
        heapq.heappush(self._due, (at, next(self._order), item))

    def _plan_enriching(self, at: float, place: int, number: int) -> None:
        """An enrichment takes as long as a run of its processor, but never much of a short story."""
        processor = PROCESSORS[self.enrichments[number].processor]
        drawn = processor.latency_s(Random(f"{self.findall_id}:{place}:{number}"))
        most = drawn if self.story.latency is None else self.story.latency / 10
        self._plan(at + self._clock.real_seconds(min(drawn, most)), Enriching(place, number))

    def _happen(self, at: float, item: Turn | Step | Enriching) -> None:
        match item:
            case Turn():
                self._turn(at, item)
            case Step():
                self._judge(at, item)
            case Enriching():
                self._add_enrichment(at, item)

    def _turn(self, at: float, turn: Turn) -> None:
        """Change the status. The search is over only when the last enrichment is there."""
        pending = [due_at for due_at, _, item in self._due if isinstance(item, Enriching)]
        if turn.status == "completed" and pending:
            self._plan(max(pending), turn)
            return
        if turn.status not in ACTIVE:
            self._due.clear()
        self._change_state(at, turn.status, turn.reason)
        self._write(at, "findall.status", self._state)

    def _judge(self, at: float, step: Step) -> None:
        candidate = CandidateState(step.place, step.status)
        self._candidates[step.place] = candidate
        self._change_state(
            at,
            self._state.status,
            self._state.reason,
            generated=step.status == "generated",
            matched=step.status == "matched",
        )
        self._write(at, f"findall.candidate.{step.status}", candidate)
        if step.status == "matched" and self._state.status != "cancelling":
            for number in range(len(self.enrichments)):
                self._plan_enriching(at, step.place, number)

    def _add_enrichment(self, at: float, item: Enriching) -> None:
        before = self._candidates[item.place]
        candidate = CandidateState(item.place, before.status, (*before.enriched, item.number))
        self._candidates[item.place] = candidate
        self._change_state(at, self._state.status, self._state.reason)
        self._write(at, "findall.candidate.enriched", candidate)

    def _finish_active_work(self, now: float) -> None:
        """Keep of the plan what concerns candidates already generated, and let it happen soon."""
        ends_at = now + self._clock.real_seconds(CANCELLING_S)
        under_way = [
            (at, order, item)
            for at, order, item in sorted(self._due, key=lambda due: due[:2])
            if not isinstance(item, Turn) and item.place in self._candidates
        ]
        self._due.clear()
        for number, (_, _, item) in enumerate(under_way, 1):
            self._plan(now + (ends_at - now) * number / (len(under_way) + 1), item)
        self._plan(ends_at, Turn("cancelled", "user_cancelled"))

    def _forget_the_end(self) -> None:
        self._due = [due for due in self._due if not (isinstance(due[2], Turn) and due[2].status != "running")]
        heapq.heapify(self._due)

    def _change_state(
        self,
        at: float,
        status: Status,
        reason: TerminationReason | None,
        *,
        generated: bool = False,
        matched: bool = False,
    ) -> None:
        before = self._state
        self._state = RunState(status, reason, before.generated + generated, before.matched + matched, at)

    def _write(self, at: float, event_type: str, state: RunState | CandidateState | SchemaState) -> None:
        self._log.append(LogEntry(at, event_type, state))

    def _schema_state(self) -> SchemaState:
        return SchemaState(self.match_limit, len(self.enrichments))

    def _id(self, entries: int, heartbeat: int = 0) -> str:
        """Return the id of the event with which so many entries have been told; ids rise, and look like the API's."""
        return f"{self._first_id + entries * IDS_PER_ENTRY + heartbeat:x}"

    def _event(self, event_type: str, at: float, event_id: str, data: JsonObject) -> JsonObject:
        return {"type": event_type, "timestamp": self._clock.stamp(at), "event_id": event_id, "data": data}

    def _run_object(self, state: RunState) -> JsonObject:
        return {
            "findall_id": self.findall_id,
            "status": {
                "status": state.status,
                "is_active": state.status in ACTIVE,
                "metrics": {
                    "generated_candidates_count": state.generated,
                    "matched_candidates_count": state.matched,
                },
                "termination_reason": state.reason,
            },
            "generator": self.body.generator,
            "metadata": self.body.metadata or {},
            "created_at": self._clock.stamp(self._created_at),
            "modified_at": self._clock.stamp(state.modified_at),
        }

    def _schema_object(self, state: SchemaState) -> JsonObject:
        enrichments = [_shown(enrichment) for enrichment in self.enrichments[: state.enrichments]]
        return {
            "objective": self.body.objective,
            "entity_type": self.body.entity_type,
            "match_conditions": [
                {"name": condition.name, "description": condition.description}
                for condition in self.body.match_conditions
            ],
            "enrichments": enrichments or None,
            "generator": self.body.generator,
            "match_limit": state.match_limit,
        }


def _excluded(body: FindAllRequest) -> tuple[frozenset[str], frozenset[str]]:
    excluded = body.exclude_list or []
    names = frozenset(entry.name.strip().lower() for entry in excluded)
    return names, frozenset(bare_address(entry.url) for entry in excluded)


def _shown(enrichment: EnrichRequest) -> JsonObject:
    """Write an enrichment; header values of MCP servers are write-only, as in the input of a run."""
    servers = [server.model_dump(exclude={"headers"}) for server in enrichment.mcp_servers or []]
    return {
        "processor": enrichment.processor,
        "output_schema": enrichment.output_schema.model_dump(),
        "mcp_servers": servers or None,
    }
