"""What has happened in a FindAll run, and how it is told: the log behind the event stream (section 16)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from random import Random

from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.errors import Invalid, Problem
from parallel_mcp.simulator.findall_bodies import EnrichRequest, FindAllRequest
from parallel_mcp.simulator.findall_candidates import CandidateState, CandidateWriter
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.runs import ACTIVE, Status
from parallel_mcp.simulator.stories import TerminationReason

IDS_PER_ENTRY = 4096  # the ids between those of two entries are for heartbeats, and lead back to the first of the two


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


State = RunState | CandidateState | SchemaState


@dataclass(frozen=True)
class _Entry:
    """One event, as small as it can be kept."""

    at: float
    type: str
    state: State


class FindAllLog:
    """The events of one run, kept as states and written as JSON when somebody asks.

    Attributes:
        enrichments: What was asked of the matches so far, in order; states say how many of them they know.
    """

    def __init__(
        self, findall_id: str, body: FindAllRequest, candidates: CandidateWriter, clock: Clock, created_at: float
    ) -> None:
        self.enrichments: list[EnrichRequest] = []
        self._findall_id = findall_id
        self._body = body
        self._candidates = candidates
        self._clock = clock
        self._created_at = created_at
        self._entries: list[_Entry] = []
        self._first_id = Random(f"{findall_id}:events").randrange(2**50, 2**51)
        self._heartbeats = count(1)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def last_event_id(self) -> str:
        return self._id(len(self))

    def add(self, at: float, event_type: str, state: State) -> None:
        self._entries.append(_Entry(at, event_type, state))

    def entries_seen(self, cursor: str | None) -> int:
        """Return how many entries a cursor has seen.

        Raises:
            Invalid: The cursor was not given by this run.
        """
        if not cursor:
            return 0
        if re.fullmatch("[0-9a-f]{1,16}", cursor):
            seen = (int(cursor, 16) - self._first_id) // IDS_PER_ENTRY
            if 1 <= seen <= len(self):
                return seen
        raise Invalid([Problem(("query", "last_event_id"), "not an event id of this run")])

    def event(self, place: int) -> JsonObject:
        """Write the event at a place."""
        entry = self._entries[place]
        match entry.state:
            case RunState():
                data = self.run_object(entry.state)
            case CandidateState():
                data = self.candidate_object(entry.state)
            case SchemaState():
                data = self.schema_object(entry.state)
        return self._event(entry.type, entry.at, self._id(place + 1), data)

    def heartbeat(self, state: RunState) -> JsonObject:
        """Write a status that is told again because nothing else happened; its id resumes behind the last entry."""
        event_id = self._id(len(self), next(self._heartbeats) % IDS_PER_ENTRY)
        return self._event("findall.status", self._clock.now(), event_id, self.run_object(state))

    def candidate_object(self, state: CandidateState) -> JsonObject:
        return self._candidates.write(state, self.enrichments)

    def run_object(self, state: RunState) -> JsonObject:
        """Write the `FindAllRun`."""
        return {
            "findall_id": self._findall_id,
            "status": {
                "status": state.status,
                "is_active": state.status in ACTIVE,
                "metrics": {
                    "generated_candidates_count": state.generated,
                    "matched_candidates_count": state.matched,
                },
                "termination_reason": state.reason,
            },
            "generator": self._body.generator,
            "metadata": self._body.metadata or {},
            "created_at": self._clock.stamp(self._created_at),
            "modified_at": self._clock.stamp(state.modified_at),
        }

    def schema_object(self, state: SchemaState) -> JsonObject:
        """Write the `FindAllSchema`."""
        enrichments = [_shown(enrichment) for enrichment in self.enrichments[: state.enrichments]]
        return {
            "objective": self._body.objective,
            "entity_type": self._body.entity_type,
            "match_conditions": [condition.model_dump() for condition in self._body.match_conditions],
            "enrichments": enrichments or None,
            "generator": self._body.generator,
            "match_limit": state.match_limit,
        }

    def _id(self, entries: int, heartbeat: int = 0) -> str:
        """Return the id of the event with which so many entries have been told; ids rise, and look like the API's."""
        return f"{self._first_id + entries * IDS_PER_ENTRY + heartbeat:x}"

    def _event(self, event_type: str, at: float, event_id: str, data: JsonObject) -> JsonObject:
        return {"type": event_type, "timestamp": self._clock.stamp(at), "event_id": event_id, "data": data}


def _shown(enrichment: EnrichRequest) -> JsonObject:
    """Write an enrichment; header values of MCP servers are write-only, as in the input of a run."""
    servers = [server.model_dump(exclude={"headers"}) for server in enrichment.mcp_servers or []]
    return {
        "processor": enrichment.processor,
        "output_schema": enrichment.output_schema.model_dump(),
        "mcp_servers": servers or None,
    }
