"""Accepting runs: every check between a request and a run (checklist 5, 8, 10 and 15), in the order of the answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from parallel_mcp.simulator.account import Account
from parallel_mcp.simulator.bodies import McpServer, TaskRunInput
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.errors import (
    FORBIDDEN_PROCESSOR,
    NO_RESULT,
    RUN_NOT_FOUND,
    Invalid,
    Problem,
    Refused,
    invalid,
)
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.outputs import is_reachable
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.processors import PROCESSORS
from parallel_mcp.simulator.research import Research, question_of
from parallel_mcp.simulator.runs import Run
from parallel_mcp.simulator.specs import Review, input_warnings, review_size, review_spec, warning_objects
from parallel_mcp.simulator.stories import Story, read_story

EVENTS_BETA = "events-sse-2025-07-24"
MCP_BETA = "mcp-server-2025-07-17"
WEBHOOK_BETA = "webhook-2025-08-12"
ELEMENT_BASIS_BETA = "field-basis-2025-11-25"
STORY_KEY = "sim"
PAGES_READ = {"lite": 2, "base": 3, "core": 5, "core2x": 6}
MOST_PAGES_READ = 8


@dataclass(frozen=True)
class RunRequest:
    """A run as asked for: typed, as submitted, and where it stands in the request body."""

    body: TaskRunInput
    submitted: dict[str, JsonValue]
    loc: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class _Accepted:
    request: RunRequest
    story: Story
    warnings: list[JsonObject]


class Runs:
    """All runs, and the only way to make one."""

    def __init__(
        self, config: SimulatorConfig, clock: Clock, identities: Identities, library: Library, account: Account
    ) -> None:
        self._strict_beta = config.strict_beta
        self._default_story = read_story(config.default_story)
        self._clock = clock
        self._identities = identities
        self._library = library
        self._account = account
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, run_id: str) -> Run:
        return self._runs[run_id]

    def get(self, owner: str, run_id: str) -> Run:
        """Return a run of this owner.

        Raises:
            Refused: 404, there is none with this id, or it is somebody else's.
        """
        if (run := self._of(owner, run_id)) is None:
            raise Refused(404, RUN_NOT_FOUND)
        return run

    def get_for_result(self, owner: str, run_id: str) -> Run:
        """Return a run, where an unknown id is answered like a failed run (checklist 13)."""
        if (run := self._of(owner, run_id)) is None:
            raise Refused(404, NO_RESULT)
        return run

    def completed(self, owner: str, run_id: str) -> Run | None:
        """Return a run if it has completed."""
        run = self._of(owner, run_id)
        return run if run is not None and run.status_at(self._clock.now()) == "completed" else None

    def _of(self, owner: str, run_id: str) -> Run | None:
        run = self._runs.get(run_id)
        return run if run is not None and run.owner == owner else None

    def create(self, owner: str, request: RunRequest, betas: frozenset[str]) -> Run:
        """Create one run.

        Raises:
            Invalid: The request breaks a rule.
            Refused: 403 for the processor, 402 for want of credit.
        """
        return self.create_all(owner, [request], betas, None)[0]

    def create_all(
        self, owner: str, requests: Sequence[RunRequest], betas: frozenset[str], taskgroup_id: str | None
    ) -> list[Run]:
        """Create all of these runs, or none: the first bad one refuses them together."""
        accepted = [self._accept(owner, request, betas) for request in requests]
        self._account.require([PROCESSORS[request.body.processor].price_mills for request in requests])
        return [self._create(owner, one, betas, taskgroup_id) for one in accepted]

    def _accept(self, owner: str, request: RunRequest, betas: frozenset[str]) -> _Accepted:
        body = request.body
        if body.processor not in PROCESSORS:
            raise Refused(403, FORBIDDEN_PROCESSOR)
        warnings = self._reviewed(request)
        self._require_betas(request, betas)
        self._require_completed_interaction(owner, request)
        return _Accepted(request, story_in(request.body.metadata, self._default_story, *request.loc), warnings)

    def _reviewed(self, request: RunRequest) -> list[JsonObject]:
        """Apply the rules for specs; returns the warnings."""
        body = request.body
        submitted_spec = request.submitted.get("task_spec")
        review = Review()
        if body.task_spec is not None:
            review = review_spec(body.task_spec, submitted_spec, PROCESSORS[body.processor])
        problems = [*review.errors, *review_size(submitted_spec, body.input)]
        if problems:
            raise Invalid([_inside(problem, request.loc) for problem in problems])
        return [
            *warning_objects("spec_validation_warning", review.warnings),
            *warning_objects("input_validation_warning", input_warnings(body)),
            *(self._unreachable_warning(server) for server in body.mcp_servers or [] if not is_reachable(server)),
        ]

    def _unreachable_warning(self, server: McpServer) -> JsonObject:
        reference = self._identities.ref_id()
        message = f"Error listing tools from MCP server {server.name}. Reference ID: {reference}"
        return {"type": "warning", "message": message, "detail": {}}

    def _require_betas(self, request: RunRequest, betas: frozenset[str]) -> None:
        body = request.body
        used = (
            ("enable_events", EVENTS_BETA, bool(body.enable_events)),
            ("mcp_servers", MCP_BETA, bool(body.mcp_servers)),
            ("webhook", WEBHOOK_BETA, body.webhook is not None),
        )
        problems = [
            Problem(("body", *request.loc, member), f"{member} needs the header parallel-beta: {beta}")
            for member, beta, is_used in used
            if self._strict_beta and is_used and beta not in betas
        ]
        if problems:
            raise Invalid(problems)

    def _require_completed_interaction(self, owner: str, request: RunRequest) -> None:
        earlier_id = request.body.previous_interaction_id
        if earlier_id is None:
            return
        if self.completed(owner, earlier_id) is None:
            message = "previous_interaction_id must name a completed interaction"
            raise invalid(message, "body", *request.loc, "previous_interaction_id")

    def _create(self, owner: str, accepted: _Accepted, betas: frozenset[str], taskgroup_id: str | None) -> Run:
        request = accepted.request
        run = Run(
            owner,
            self._identities.new("trun_"),
            request.body,
            request.submitted,
            accepted.story,
            self._research(request.body),
            self._clock,
            warnings=accepted.warnings,
            taskgroup_id=taskgroup_id,
            wants_element_basis=ELEMENT_BASIS_BETA in betas,
        )
        with self._lock:
            self._runs[run.run_id] = run
        self._account.reserve(run)
        return run

    def _research(self, body: TaskRunInput) -> Research:
        earlier = self._runs.get(body.previous_interaction_id or "")
        return Research(
            self._library,
            question_of(body.input),
            context=earlier.research.question if earlier else "",
            policy=body.source_policy,
            most_pages=PAGES_READ.get(body.processor.removesuffix("-fast"), MOST_PAGES_READ),
        )


def story_in(metadata: Mapping[str, object] | None, default: Story, *loc: str | int) -> Story:
    """Read the story words in the metadata of something to be created, which stands at `loc` in the body.

    Raises:
        Invalid: A word is not understood.
    """
    words = (metadata or {}).get(STORY_KEY)
    if words is None:
        return default
    try:
        return read_story(str(words))
    except ValueError as error:
        raise invalid(str(error), "body", *loc, "metadata", STORY_KEY) from None


def _inside(problem: Problem, loc: tuple[str | int, ...]) -> Problem:
    """Move a problem found in a run to where the run stands in the body."""
    return replace(problem, loc=(problem.loc[0], *loc, *problem.loc[1:]))


def read_betas(header: str | None) -> frozenset[str]:
    """Read `parallel-beta`, a comma-separated list (checklist 5)."""
    return frozenset(value.strip() for value in (header or "").split(",") if value.strip())
