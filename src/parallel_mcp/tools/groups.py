"""Starting the same research for many rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import east_asian_width

import anyio
from mcp.types import CallToolResult
from pydantic import Field

from parallel_mcp.errors import InvalidArguments, OverBudget, StillCreating, UpstreamUnavailable
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.tasks.group_creating import FilledGroup, GroupCreating, GroupOrder
from parallel_mcp.tasks.handles import handle_kind, platform_link
from parallel_mcp.tasks.rows import CREATE_LABEL, KEY_LABEL, ROW_LABEL, RowInput, in_words, read_rows
from parallel_mcp.tasks.specs import metadata, source_policy, task_input, task_spec
from parallel_mcp.tools.arguments import Arguments
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import Output, next_call, reply
from parallel_mcp.tools.search import Day, Domains
from parallel_mcp.tools.status import gone
from parallel_mcp.tools.tasks import MAX_TITLE_CHARS, IdempotencyKey, chosen_processor
from parallel_mcp.tools.waiting import allowed_wait_s

MAX_QUOTE_CHARS = 500

_LABELS = {
    ROW_LABEL: "the number of each row",
    KEY_LABEL: "a digest of the input of each row",
    CREATE_LABEL: "the call that created each row",
}

LONGEST_NAME_WORDS = 4  # such as "Bank of America Corporation"
LONGEST_NAME_CHARS = 60
LONGEST_DENSE_NAME_CHARS = 10  # in scripts of wide signs, which put a question into so few, without spaces
_QUESTION_MARK = re.compile("[?\uff1f\u061f\u037e](?!\\w)")  # not that in an address


class CreateTaskGroupArguments(Arguments):
    """Arguments of `create_task_group`."""

    rows: list[dict[str, Any]] = Field(default=[], description="An object a row.")
    inputs: list[str] = Field(default=[], description="Or: a text a row.")
    csv: str = Field(default="", description="Or: CSV with a header line.")
    output: str = Field(default="", description="As create_task.")
    output_schema: dict[str, Any] = Field(default={}, description="The columns wanted.")
    processor: str = Field(default="", description="As create_task.")
    include_domains: Domains = Field(default=[], description="As create_task.")
    exclude_domains: Domains = Field(default=[], description="As create_task.")
    after_date: Day = Field(default="", description="As create_task.")
    metadata: dict[str, Any] = Field(default={}, description="As create_task.")
    idempotency_key: IdempotencyKey = Field(default="", description="As create_task.")
    force_new: bool = Field(default=False, description="As create_task.")
    group_id: str = Field(default="", description="Add the rows that this group lacks.")


class CreateTaskGroupOutput(Output):
    """Structured half of `create_task_group`."""

    group_id: str = Field(description="Handle of the group, valid for good and in other conversations. Keep it.")
    status: str = Field(
        description="started, existing (nothing was bought), incomplete (see rows_missing) or not_found."
    )
    rows: int = Field(description="Rows given in this call.")
    rows_created: int = Field(description="Rows that this call bought.")
    rows_missing: str | None = Field(default=None, description="Numbers of the rows that surely were not created.")
    rows_unknown: str | None = Field(default=None, description="Numbers of the rows whose answer was lost.")
    processor: str
    price_usd: float = Field(description="What this call cost, without rows_unknown.")
    usual_duration: str = Field(description="Of one row.")
    deduplicated: bool = Field(description="True: an equal call made this group before; nothing was created.")
    link: str = Field(description="Page where the user sees the group.")
    next: str = Field(description="The next call.")
    remark: str | None = None
    reason: str | None = Field(default=None, description="Why rows are missing or unknown.")
    untrusted_reason: str | None = Field(default=None, description="The same in the words of the API.")


async def create_task_group(request: CreateTaskGroupArguments, call: Call) -> CallToolResult:
    """Start one task for each of up to 5,000 rows, each at the price of create_task; try one there first.

    Parameters as create_task. Next: watch_progress with the group_id, then get_result. Rows missing? Repeat with
    group_id: none is bought twice.
    """
    asked = prepared_group(request, call)
    if call.approval == "declined":
        raise OverBudget("The user was asked and declined the price of this group. Nothing was sent")
    with anyio.CancelScope(deadline=anyio.current_time() + allowed_wait_s(None, call)):
        group = await asked.creating.create(approved_usd=call.approved_usd)
        return _filled_reply(group, asked)
    if asked.creating.is_on_its_way:
        raise StillCreating("The rows are on their way, and the API has not answered yet")
    raise UpstreamUnavailable("What the group holds already could not be read in time. Nothing was sent")


@dataclass(frozen=True)
class PreparedGroup:
    """What a request asks for, ready to be created, and what could be better about it."""

    creating: GroupCreating
    remarks: list[str]


def prepared_group(request: CreateTaskGroupArguments, call: Call) -> PreparedGroup:
    """The group to ask the API for.

    Raises:
        InvalidArguments: The arguments contradict each other or exceed a limit.
    """
    processor = chosen_processor(request, call.settings)
    prepared = task_spec(request.output, request.output_schema, processor)
    rows = read_rows(request.rows, request.inputs, request.csv)
    if not (request.output or request.output_schema):
        _check_that_something_is_asked(rows.inputs)
    for number, value in enumerate(rows.inputs, 1):
        try:
            task_input(*(("", value) if isinstance(value, dict) else (value, {})), prepared.spec)
        except InvalidArguments as error:
            raise InvalidArguments(f"Row {number}: {error}") from None
    for label, holds in _LABELS.items():
        if label in request.metadata:
            raise InvalidArguments(f"`metadata` cannot have the key `{label}`: it holds {holds}.")
    if request.group_id and handle_kind(request.group_id, "group_id") != "group":
        raise InvalidArguments("`group_id` is the handle of a group (tgrp_…).")
    order = GroupOrder(
        owner=call.owner,
        inputs=rows.inputs,
        spec=prepared.spec,
        processor=processor,
        source_policy=source_policy(request.include_domains, request.exclude_domains, request.after_date),
        metadata=metadata(request.metadata) or {},
        idempotency_key=request.idempotency_key,
        title=_title(rows.inputs) if call.settings.ledger_titles else "",
    )
    creating = GroupCreating(call.app.creator, call.api, order, request.group_id, request.force_new)
    return PreparedGroup(creating, [*([rows.remark] if rows.remark else []), *prepared.warnings])


def _title(inputs: tuple[RowInput, ...]) -> str:
    first = inputs[0]
    words = first if isinstance(first, str) else ", ".join(f"{name}: {value}" for name, value in first.items())
    return one_line(f"{len(inputs):,} rows, the first: {words}", MAX_TITLE_CHARS)


def _is_name(text: str) -> bool:
    """Whether a text is too short for a question, and has no mark of one."""
    if _QUESTION_MARK.search(text):
        return False
    is_dense = any(east_asian_width(sign) == "W" for sign in text)
    longest = LONGEST_DENSE_NAME_CHARS if is_dense else LONGEST_NAME_CHARS
    return len(text) <= longest and len(text.split()) <= LONGEST_NAME_WORDS


def _check_that_something_is_asked(inputs: Sequence[RowInput]) -> None:
    """A table of names alone would be paid for, row by row, without a question.

    Raises:
        InvalidArguments: No column and no value in it is more than a name.
    """
    tables = [row for row in inputs if isinstance(row, dict)]
    cells = (str(cell) for row in tables for cell in (*row, *row.values()))
    if tables and all(map(_is_name, cells)):
        raise InvalidArguments(
            "The rows hold no question: say in `output_schema`, or in words in `output`, what to find out about each."
        )


def _filled_reply(group: FilledGroup, asked: PreparedGroup) -> CallToolResult:
    failure, order = group.failure, asked.creating.order
    structured = CreateTaskGroupOutput(
        group_id=group.group_id,
        status=_status(group),
        rows=len(order.inputs),
        rows_created=len(group.created),
        rows_missing=in_words(group.missing) or None,
        rows_unknown=in_words(group.unknown) or None,
        processor=order.processor.name,
        price_usd=round(len(group.created) * order.processor.price_usd, 6),
        usual_duration=order.processor.usual_duration,
        deduplicated=group.deduplicated,
        link=platform_link(group.group_id),
        next=_next_step(group),
        remark="\n".join(asked.remarks) or None,
        reason=f"{failure}. {failure.retry}" if failure else None,
        untrusted_reason=one_line(failure.quote, MAX_QUOTE_CHARS) or None if failure else None,
    )
    return reply(_filled_text(structured), structured)


def _status(group: FilledGroup) -> str:
    if group.is_gone:
        return "not_found"
    if group.missing or group.unknown:
        return "incomplete"
    return "started" if group.created else "existing"


def _next_step(group: FilledGroup) -> str:
    if group.is_gone:
        return gone("group", "create_task_group")
    again = f"create_task_group with exactly the same arguments and group_id={json.dumps(group.group_id)}"
    if group.unknown:
        return (
            f"{next_call('get_status', ids=[group.group_id])} in a minute: the rows may still appear. After ten "
            f"minutes {again} creates those that have not. Do not repeat the call without group_id."
        )
    if group.missing:
        advice = f" {group.failure.next_step}" if group.failure else ""
        return f"{again}: it creates the missing rows and buys nothing twice.{advice}"
    return next_call("watch_progress", id=group.group_id)


def _filled_text(made: CreateTaskGroupOutput) -> str:
    lines = [_headline(made)]
    if made.rows_missing:
        lines.append(f"Not created: rows {made.rows_missing}. Nothing was charged for them.")
    if made.rows_unknown:
        lines.append(
            f"Unknown: rows {made.rows_unknown} were sent, the answer was lost, and the group does not show them."
        )
    if made.reason:
        lines.append(f"Why: {made.reason}")
    if made.untrusted_reason:
        lines.append(f"The API says: {marked(made.untrusted_reason)}")
    if made.remark:
        lines.append(made.remark)
    return "\n".join([*lines, f"The user can see it at {made.link}", f"Next: {made.next}"])


def _headline(made: CreateTaskGroupOutput) -> str:
    group = f"{made.group_id} ({made.processor})"
    if made.deduplicated and made.status == "existing":
        return f"The {made.rows:,} rows are in {group} already. Nothing was created or charged."
    if made.status == "not_found":
        return f"An equal earlier call made {group}. Nothing was created or charged now."
    if made.deduplicated:
        return f"An equal earlier call made {group}, which lacks some of the {made.rows:,} rows. Nothing was sent now."
    already = made.rows - made.rows_created
    there = f"; the other {already:,} were there already" if made.status == "started" and already else ""
    return (
        f"Started {made.rows_created:,} of {made.rows:,} rows in {group} for ${made.price_usd:.3f}{there}. "
        f"A row usually takes {made.usual_duration}."
    )
