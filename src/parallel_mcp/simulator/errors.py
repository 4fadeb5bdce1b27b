"""What the API refuses, as exceptions, and the two body shapes it answers with (API reference, section 3).

Invalid   422: the request breaks a rule; the route decides which of the two shapes is written
Refused   any other status, always in the main shape
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from starlette.responses import JSONResponse, Response

UNAUTHORIZED = "Unauthorized: invalid or missing credentials"
PAYMENT_REQUIRED = "Payment required: insufficient credit in account"
FORBIDDEN_PROCESSOR = "Forbidden: invalid processor in request"
RUN_NOT_FOUND = "Run id not found"
NO_RESULT = "Run failed or run id not found"
GROUP_NOT_FOUND = "TaskGroup not found"
FINDALL_NOT_FOUND = "FindAll run not found"
CANNOT_CANCEL = "Cannot cancel a terminated FindAll run"
MONITOR_NOT_FOUND = "Monitor not found"
STILL_ACTIVE = "Request timed out; run still active"
UNPROCESSABLE = "Unprocessable content: request validation error"
VALIDATION = "Request validation error"
ENRICHMENT = "Validation error"
EXTENSION = "Additional match limit must be greater than 0"
MONITOR_EVENTS = "Unprocessable content: invalid cursor or request validation error"
TOO_MANY = "Too many requests: quota temporarily exceeded"


@dataclass(frozen=True)
class Problem:
    """One broken rule: where in the request, in words, and as a short machine-readable type."""

    loc: tuple[str | int, ...]
    message: str
    kind: str = "value_error"


class Invalid(Exception):
    """The request breaks at least one rule."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = list(problems)


@dataclass
class Refused(Exception):
    """The request is understood and turned down."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def invalid(message: str, *loc: str | int, kind: str = "value_error") -> Invalid:
    """Name a single broken rule."""
    return Invalid([Problem(loc, message, kind)])


RefIds: TypeAlias = Callable[[str], str]
InvalidAnswer: TypeAlias = Callable[[Sequence[Problem], RefIds], Response]


def invalid_answer(message: str, ref_id: str, problems: Sequence[Problem]) -> Response:
    """Write a 422 in the main error shape; the inside of `detail` is unspecified and holds the problems."""
    detail = {"errors": _problem_objects(problems)}
    return JSONResponse({"type": "error", "error": {"ref_id": ref_id, "message": message, "detail": detail}}, 422)


def unprocessable(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer an invalid creation of a run or a FindAll run, and any invalid write about a monitor."""
    return invalid_answer(UNPROCESSABLE, ref_ids(""), problems)


def invalid_request(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer any other invalid request about a run."""
    return invalid_answer(VALIDATION, ref_ids(""), problems)


def invalid_search(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer an invalid search; its reference reads like a search id."""
    return invalid_answer(VALIDATION, ref_ids("search_"), problems)


def invalid_extract(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer an invalid extract; its reference reads like an extract id."""
    return invalid_answer(VALIDATION, ref_ids("extract_"), problems)


def invalid_enrichment(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer an invalid enrichment of a FindAll run."""
    return invalid_answer(ENRICHMENT, ref_ids(""), problems)


def invalid_extension(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer an invalid extension of a FindAll run; the API has a sentence for the likeliest mistake only."""
    too_small = any(problem.kind == "greater_than" for problem in problems)
    return invalid_answer(EXTENSION if too_small else VALIDATION, ref_ids(""), problems)


def invalid_monitor_events(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer an invalid request for the events of a monitor."""
    return invalid_answer(MONITOR_EVENTS, ref_ids(""), problems)


def invalid_in_second_shape(problems: Sequence[Problem], ref_ids: RefIds) -> Response:
    """Answer what the API checks before its own code does: groups, most of FindAll, lists (section 3.1)."""
    return JSONResponse({"detail": _problem_objects(problems)}, 422)


def _problem_objects(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return [{"loc": list(problem.loc), "msg": problem.message, "type": problem.kind} for problem in problems]
