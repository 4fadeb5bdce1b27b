"""The rows of a group as the API has them, and which rows of a table are not among them."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import anyio
from pydantic import JsonValue

from parallel_mcp.api.models import ErrorEvent, Event, RunStateEvent, TaskOutput, TaskRun
from parallel_mcp.errors import RateLimited, UpstreamUnavailable
from parallel_mcp.tasks.rows import CREATE_LABEL, KEY_LABEL, RowInput, row_number

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

CONNECTIONS = 3
SILENCE_S = 15.0

_KEY_CHARS = 24
_KEY = re.compile(rf"[0-9a-f]{{{_KEY_CHARS}}}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupRow:
    """One run of a group. `place` is its position in the order in which runs were added, from 1."""

    place: int
    run: TaskRun
    input: JsonValue = None
    output: TaskOutput | None = None

    @property
    def number(self) -> int:
        """Which row it is: by its label, else by its place."""
        return row_number(self.run.metadata) or self.place

    @property
    def label(self) -> str | None:
        """What its input was when we sent it; None if it has no such label, or one that others wrote."""
        label = self.run.metadata.get(KEY_LABEL)
        return label if isinstance(label, str) and _KEY.fullmatch(label) else None

    @property
    def key(self) -> str | None:
        """What its input is, as the API gives it back, perhaps otherwise than it got it."""
        return None if self.input is None else key_of(self.input)

    @property
    def order(self) -> tuple[int, int]:
        """By this, rows stand in row order; a number that is there twice in the order of addition."""
        return self.number, self.place


@dataclass(frozen=True)
class Held:
    """What a group is known to hold: the number of each row, and which input it has, by what it tells and its label.

    Each may be None; if both are, nobody knows. `create` is whatever its metadata names as the create that sent it.
    """

    number: int
    key: str | None
    label: str | None = None
    create: object = None


async def rows_of_group(api: ParallelApi, group_id: str, *, with_output: bool = False) -> AsyncGenerator[GroupRow]:
    """All rows of a group as they stand now, each once, in the order of addition; a broken stream is resumed.

    Raises:
        UpstreamError: The list could not be read to its end.

    Source: GET /v1/tasks/groups/{taskgroup_id}/runs
    """
    seen: set[str] = set()
    last_event_id = ""
    for attempt in range(1, CONNECTIONS + 1):
        try:
            async with api.group_runs(
                group_id, last_event_id=last_event_id, include_input=True, include_output=with_output
            ) as events:
                while (event := await _next(events)) is not None:
                    if isinstance(event, ErrorEvent):
                        raise UpstreamUnavailable("The list of the group's runs ended with an error")
                    if isinstance(event, RunStateEvent):
                        last_event_id = event.event_id or last_event_id
                        if event.run.run_id not in seen:
                            seen.add(event.run.run_id)
                            yield GroupRow(len(seen), event.run, _submitted(event.input), event.output)
                return
        except (UpstreamUnavailable, RateLimited) as error:
            if attempt == CONNECTIONS:
                raise
            logger.info("The list of a group's runs broke off: %s", error)
        await anyio.sleep(random.uniform(0.2, 0.5) * attempt)


async def held_by(api: ParallelApi, group_id: str) -> list[Held]:
    """What a group holds.

    Raises:
        UpstreamError: It could not be read to its end.
    """
    async with aclosing(rows_of_group(api, group_id)) as rows:
        return [Held(row.number, row.key, row.label, row.run.metadata.get(CREATE_LABEL)) async for row in rows]


def key_of(value: object) -> str:
    """The same for equal inputs, in whatever order their fields are and however their numbers are written."""
    canonical = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_KEY_CHARS]


def numbered(inputs: Sequence[RowInput], held: Collection[Held]) -> dict[int, RowInput]:
    """The rows of a table that a group does not hold, by the number that each is to have there.

    Row n is held if the group has a row n with the same input, or else another row with the same input, each of which
    answers for one. The numbers of the table are kept as long as none of them belongs to another input; otherwise the
    table is more of the same, and its rows are numbered behind those of the group.
    """
    lacking = {number: key_of(value) for number, value in enumerate(inputs, 1)}
    left = list(held)
    for place_of, place_for in _WAYS_TO_KNOW:
        lacking, left = _not_found(lacking, left, place_of, place_for)
    taken = {row.number for row in held}
    if taken.isdisjoint(lacking):
        return {number: inputs[number - 1] for number in lacking}
    return {max(taken) + place: inputs[number - 1] for place, number in enumerate(lacking, 1)}


# How a row is known, the surest way first: what a row is held by, and what to look for, given number and key.
_WAYS_TO_KNOW: list[tuple[Callable[[Held], object], Callable[[int, str], object]]] = [
    (lambda row: row.label and (row.number, row.label), lambda number, key: (number, key)),
    (lambda row: row.number if row.label is row.key is None else None, lambda number, _: number),
    (lambda row: row.label, lambda _, key: key),
    (lambda row: row.key and (row.number, row.key), lambda number, key: (number, key)),
    (lambda row: row.key, lambda _, key: key),
]


def _not_found(
    lacking: Mapping[int, str],
    held: Iterable[Held],
    place_of: Callable[[Held], object],
    place_for: Callable[[int, str], object],
) -> tuple[dict[int, str], list[Held]]:
    """Which rows of a table, and of the group, have no counterpart known in this way. Each has one at most."""
    places: defaultdict[object, list[Held]] = defaultdict(list)
    for row in held:
        places[place_of(row)].append(row)
    rest: dict[int, str] = {}
    for number, key in lacking.items():
        if there := places[place_for(number, key)]:
            there.pop()
        else:
            rest[number] = key
    return rest, list(chain.from_iterable(places.values()))


async def _next(events: AsyncGenerator[Event]) -> Event | None:
    with anyio.move_on_after(SILENCE_S):
        return await anext(events, None)
    raise UpstreamUnavailable("The list of the group's runs came to a halt")


def _submitted(value: JsonValue) -> JsonValue:
    """The input of a row, out of the whole request in which the API gives it back."""
    return value.get("input") if isinstance(value, dict) else None


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value
