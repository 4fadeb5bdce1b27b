"""Finding all entities that fulfil conditions: starting, extending, enriching and cancelling FindAll runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import anyio
from mcp.types import CallToolResult
from pydantic import Field

from parallel_mcp.api.findall_models import EnrichInput, ExcludedCandidate, FindAllSchema, MatchCondition
from parallel_mcp.api.models import JsonSchemaSpec
from parallel_mcp.errors import (
    AdditionUnknown,
    InvalidArguments,
    OutcomeUnknown,
    RequestRejected,
    UpstreamUnavailable,
)
from parallel_mcp.render.untrusted import marked, one_line
from parallel_mcp.tasks.buying import Purchase
from parallel_mcp.tasks.creating import is_dear
from parallel_mcp.tasks.findall_buying import (
    Addition,
    FindAllOrder,
    StartedFindAll,
    enrichment,
    extension,
    new_findall,
)
from parallel_mcp.tasks.generators import GENERATORS, LEAST_MATCHES, MOST_MATCHES, GeneratorName
from parallel_mcp.tasks.handles import checked_handle, platform_link
from parallel_mcp.tasks.processors import ProcessorName
from parallel_mcp.tasks.specs import PreparedSpec, metadata, task_spec
from parallel_mcp.tools.approval import above_limit, can_be_asked
from parallel_mcp.tools.arguments import Arguments
from parallel_mcp.tools.call import Call, Offer
from parallel_mcp.tools.definition import ToolDefinition
from parallel_mcp.tools.findall_status import candidate_counts, next_for_findall, why_ended
from parallel_mcp.tools.purchases import offer_of_purchase, purchased_by
from parallel_mcp.tools.reply import Output, next_call, reply
from parallel_mcp.tools.tasks import (
    MAX_TITLE_CHARS,
    IdempotencyKey,
    chosen_processor,
    schema_remarks,
    what_starts_another,
)
from parallel_mcp.tools.waiting import allowed_wait_s

MAX_OBJECTIVE_CHARS = 5_000
MAX_CONDITIONS = 50
MAX_EXCLUDED = 1_000
MAX_CONDITION_CHARS = 300

_UNREAD = "What the run has already could not be read in time. Nothing was sent"
_FINDALL_ID = "Handle of the FindAll run (findall_…)."


class WantedCondition(Arguments):
    """A condition of the caller's."""

    name: str = Field(min_length=1, max_length=200)
    description: str = Field(min_length=1, max_length=2_000)


class Excluded(Arguments):
    """An entity that the caller knows already."""

    name: str = Field(min_length=1, max_length=500)
    url: str = Field(min_length=1, max_length=2_000)


class CreateFindallArguments(Arguments):
    """Arguments of `create_findall`."""

    objective: str = Field(
        min_length=1,
        max_length=MAX_OBJECTIVE_CHARS,
        description="What to find, with all conditions: Find all AI companies that raised Series A funding in 2024.",
    )
    generator: GeneratorName = Field(default="preview", description="Depth and price.")
    match_limit: int = Field(
        default=10,
        ge=LEAST_MATCHES,
        le=MOST_MATCHES,
        description="Most matches to find; at most 10 with preview. Each match costs.",
    )
    entity_type: str = Field(
        default="", max_length=200, description="Such as companies. Left out: derived from the objective."
    )
    match_conditions: list[WantedCondition] = Field(
        default=[],
        max_length=MAX_CONDITIONS,
        description="What each match must fulfil. Left out: derived from the objective.",
    )
    exclude: list[Excluded] = Field(default=[], max_length=MAX_EXCLUDED, description="Entities not to be given.")
    metadata: dict[str, Any] = Field(default={}, description="Labels: keys up to 16 characters, values up to 512.")
    idempotency_key: IdempotencyKey = Field(
        default="", description="Same key, same run. At most 64 letters, digits, _ or -."
    )
    force_new: bool = Field(default=False, description="Start another run although an equal one is active.")


class ExtendFindallArguments(Arguments):
    """Arguments of `extend_findall`."""

    id: str = Field(description=_FINDALL_ID)
    match_limit: int = Field(
        ge=LEAST_MATCHES, le=MOST_MATCHES, description="Most matches in all, those found already included."
    )


class EnrichFindallArguments(Arguments):
    """Arguments of `enrich_findall`."""

    id: str = Field(description=_FINDALL_ID)
    output_schema: dict[str, Any] = Field(
        description="A flat JSON Schema (root object) of the fields to answer for each match, each described."
    )
    processor: Annotated[
        ProcessorName | None, Field(description="Left out: the server's default, core-fast unless set otherwise.")
    ] = None


AdditionArguments = ExtendFindallArguments | EnrichFindallArguments


class CancelFindallArguments(Arguments):
    """Arguments of `cancel_findall`."""

    id: str = Field(description=_FINDALL_ID)


class CreateFindallOutput(Output):
    """Structured half of `create_findall`."""

    findall_id: str = Field(description="Handle of the run, valid for good and in other conversations. Keep it.")
    status: str
    generator: str
    match_limit: int
    most_usd: float = Field(description="The most that this call costs; 0 if the run existed already.")
    deduplicated: bool = Field(description="True: an equal run existed and was returned; nothing was created.")
    link: str
    next: str = Field(description="The next call.")
    untrusted_conditions: list[str] | None = Field(
        default=None, description="What is searched for, as derived from the objective."
    )


class AddToFindallOutput(Output):
    """Structured half of `extend_findall` and `enrich_findall`."""

    id: str
    match_limit: int | None = None
    enrichments: int = Field(description="How many enrichments the run has.")
    most_usd: float = Field(description="The most that this call costs.")
    deduplicated: bool = Field(description="True: the run had it already; nothing was bought.")
    next: str = Field(description="The next call.")
    warnings: list[str] | None = Field(default=None, description="What could be better about output_schema.")


class CancelFindallOutput(Output):
    """Structured half of `cancel_findall`."""

    id: str
    status: str
    counts: dict[str, int] = Field(description="Candidates found so far, and matches among them.")
    next: str = Field(description="The next call.")
    remark: str | None = None


async def create_findall(request: CreateFindallArguments, call: Call) -> CallToolResult:
    """Search the web for all entities that fulfil conditions (companies, people, products, ...); returns a findall_id.

    Costs money: preview $0.10 (about 10 candidates, to check the conditions; cannot be extended or enriched), base
    $0.25 + $0.03 a match, core $2 + $0.15 a match, pro $10 + $1 a match, up to match_limit matches. Start with preview
    unless the user wants it all. Takes minutes: then call watch_progress with the findall_id, and get_result for the
    table. For the same question about entities you know already, use a task each.
    """
    purchase = _new(request, call)
    by = anyio.current_time() + allowed_wait_s(None, call)
    started = await purchased_by(by, purchase, call, force_new=request.force_new)
    run, ordered = started.made.run, started.made.ordered
    structured = CreateFindallOutput(
        findall_id=run.findall_id,
        status=run.status.status,
        generator=run.generator or request.generator,
        match_limit=request.match_limit,
        most_usd=0 if started.deduplicated else purchase.intent.price_usd,
        deduplicated=started.deduplicated,
        link=platform_link(run.findall_id),
        next=next_for_findall(run),
        untrusted_conditions=_in_words(ordered.entity_type, ordered.match_conditions) if ordered else None,
    )
    return reply(_created_text(structured, by_key=started.by_key), structured)


async def extend_findall(request: ExtendFindallArguments, call: Call) -> CallToolResult:
    """Let a FindAll run look for more matches, up to match_limit in all. Costs as much a match as the run does.

    Repeating the call buys nothing. Not for previews and cancelled runs. Then call watch_progress.
    """
    return await _added(request, call)


async def enrich_findall(request: EnrichFindallArguments, call: Call) -> CallToolResult:
    """Answer further questions about each match of a FindAll run, also about matches still to come.

    Costs the price of a task with that processor for each match: $0.005 lite, $0.025 core, to $2.40 ultra8x. Repeating
    the call buys nothing. Not for previews and cancelled runs. Then call watch_progress, and get_result for the table
    with the new columns.
    """
    prepared = _enrichment_spec(request, call)
    return await _added(request, call, warnings=prepared.warnings)


async def cancel_findall(request: CancelFindallArguments, call: Call) -> CallToolResult:
    """Stop a FindAll run for good: matches found so far are kept and charged; it cannot be extended or enriched."""
    findall_id = checked_handle(request.id, "findall")
    remark = None
    try:
        await call.api.findall.cancel(findall_id)
    except RequestRejected as error:
        if error.status != 409:
            raise
        remark = "It had ended already, so there was nothing to cancel."
    run = await call.api.findall.retrieve(findall_id)
    await call.note_findall(run)
    structured = CancelFindallOutput(
        id=findall_id,
        status=run.status.status,
        counts=candidate_counts(run),
        next=next_for_findall(run),
        remark=" ".join(filter(None, [remark, why_ended(run)])) or None,
    )
    found = f"{run.matched} matches among {run.generated} candidates are kept"
    lines = [f"{findall_id} is {structured.status}; {found}.", structured.remark, f"Next: {structured.next}"]
    return reply("\n".join(filter(None, lines)), structured)


# ---- asking the user


async def offer_of_findall(request: CreateFindallArguments, call: Call) -> Offer:
    """With a question, if the price calls for one and the client can be asked."""
    if not can_be_asked(call.ctx):
        return Offer()
    purchase = _new(request, call)
    return await offer_of_purchase(purchase, _question(purchase, call), call, anew=request.force_new)


async def offer_of_addition(request: AdditionArguments, call: Call) -> Offer:
    """As `offer_of_findall`, with the addition as it was looked up: that one is bought, or none.

    Who was asked is asked again if it has become something else meanwhile, even if that costs little.
    """
    if not can_be_asked(call.ctx) or not call.settings.max_usd_per_call:
        return Offer()
    with anyio.move_on_after(allowed_wait_s(None, call)):
        addition = await _looked_up(request, call)
        purchase = addition.purchase
        if purchase is None:
            return Offer(addition=addition)
        if call.brings_answer and not is_dear(addition.price_usd, call.settings):
            changed = "The run has changed since the last question, and this is what it lacks now."
            return Offer(_question(purchase, call, changed), addition.price_usd, addition)
        return replace(await offer_of_purchase(purchase, _question(purchase, call), call), addition=addition)
    raise UpstreamUnavailable(_UNREAD)


def _question(purchase: Purchase[Any], call: Call, why: str = "") -> str:
    price = f"at most ${purchase.intent.price_usd:.3f}"
    return f"{purchase.what} for {price}? {why or f'It is {above_limit(call.settings)}.'}"


# ---- what is to be bought


def _new(request: CreateFindallArguments, call: Call) -> Purchase[StartedFindAll]:
    generator = GENERATORS[request.generator]
    if request.match_limit > generator.most_matches:
        raise InvalidArguments(f"`match_limit` is at most {generator.most_matches} with {generator.name}.")
    if not request.objective.strip():
        raise InvalidArguments("`objective` is empty.")
    order = FindAllOrder(
        objective=request.objective,
        generator=generator,
        match_limit=request.match_limit,
        entity_type=request.entity_type.strip(),
        conditions=tuple(MatchCondition(name=c.name, description=c.description) for c in request.match_conditions),
        excluded=tuple(ExcludedCandidate(name=e.name, url=e.url) for e in request.exclude),
        metadata=metadata(request.metadata) or {},
    )
    title = one_line(request.objective, MAX_TITLE_CHARS) if call.settings.ledger_titles else ""
    key = request.idempotency_key
    return new_findall(call.api, order, owner=call.owner, idempotency_key=key, title=title)


async def _looked_up(request: AdditionArguments, call: Call) -> Addition:
    is_extension = isinstance(request, ExtendFindallArguments)
    return await (_extension(request, call) if is_extension else _enrichment(request, call))


async def _extension(request: ExtendFindallArguments, call: Call) -> Addition:
    findall_id = checked_handle(request.id, "findall")
    keep_title = call.settings.ledger_titles
    creator = call.app.creator
    return await extension(creator, call.api, findall_id, request.match_limit, owner=call.owner, keep_title=keep_title)


async def _enrichment(request: EnrichFindallArguments, call: Call) -> Addition:
    findall_id = checked_handle(request.id, "findall")
    processor = chosen_processor(request, call.settings)
    spec = _enrichment_spec(request, call).spec.output_schema
    if not isinstance(spec, JsonSchemaSpec):
        raise InvalidArguments("`output_schema` is required.")
    wanted = EnrichInput(processor=processor.name, output_schema=spec.json_schema)
    keep_title = call.settings.ledger_titles
    creator = call.app.creator
    return await enrichment(creator, call.api, findall_id, wanted, processor, owner=call.owner, keep_title=keep_title)


def _enrichment_spec(request: EnrichFindallArguments, call: Call) -> PreparedSpec:
    return task_spec("", request.output_schema, chosen_processor(request, call.settings))


# ---- replies


async def _added(request: AdditionArguments, call: Call, *, warnings: list[str] | None = None) -> CallToolResult:
    by = anyio.current_time() + allowed_wait_s(None, call)
    addition = call.offer.addition
    with anyio.CancelScope(deadline=by):
        addition = addition or await _looked_up(request, call)
    if addition is None:
        raise UpstreamUnavailable(_UNREAD)
    schema, deduplicated = addition.schema, True
    if addition.purchase is not None:
        try:
            made = await purchased_by(by, addition.purchase, call)
        except OutcomeUnknown as error:
            raise AdditionUnknown(str(error), quote=error.quote, ref_id=error.ref_id) from error
        schema, deduplicated = made.made, made.deduplicated
    structured = AddToFindallOutput(
        id=request.id,
        match_limit=schema.match_limit,
        enrichments=len(schema.enrichments),
        most_usd=0 if deduplicated else addition.price_usd,
        deduplicated=deduplicated,
        next=next_call("watch_progress", id=request.id),
        warnings=warnings or None,
    )
    return reply(_added_text(structured, addition, schema), structured)


def _added_text(added: AddToFindallOutput, addition: Addition, schema: FindAllSchema) -> str:
    state = f"match limit {schema.match_limit}, enrichments: {added.enrichments}"
    if added.deduplicated:
        headline = f"{added.id} had this already ({state}). Nothing was bought or charged."
    else:
        most = f"for up to {addition.most_matches:,} matches, at most ${added.most_usd:.3f}"
        headline = f"Added to {added.id} ({state}) {most}."
    return "\n".join(filter(None, [headline, schema_remarks(added.warnings or []), f"Next: {added.next}"]))


def _created_text(made: CreateFindallOutput, *, by_key: bool) -> str:
    if made.deduplicated:
        lines = [
            f"This is the FindAll run of an equal earlier call, not a new one: {made.findall_id} ({made.status}). "
            f"Nothing was created or charged; {what_starts_another(by_key=by_key)}."
        ]
    else:
        lines = [
            f"Started {made.findall_id} ({made.generator}, {made.status}) for up to {made.match_limit:,} matches, "
            f"at most ${made.most_usd:.3f}."
        ]
    if made.untrusted_conditions:
        lines.append(f"It searches for: {marked(chr(10).join(f'- {text}' for text in made.untrusted_conditions))}")
    return "\n".join([*lines, f"Next: {made.next}"])


def _in_words(entity_type: str, conditions: list[MatchCondition]) -> list[str]:
    return [
        f"entity type: {one_line(entity_type, 100)}",
        *(one_line(f"{condition.name}: {condition.description}", MAX_CONDITION_CHARS) for condition in conditions),
    ]


FINDALL_TOOLS = [
    ToolDefinition(
        create_findall,
        "Find all that fit",
        CreateFindallArguments,
        CreateFindallOutput,
        creates=True,
        offering=offer_of_findall,
    ),
    ToolDefinition(
        extend_findall,
        "Find more matches",
        ExtendFindallArguments,
        AddToFindallOutput,
        creates=True,
        offering=offer_of_addition,
    ),
    ToolDefinition(
        enrich_findall,
        "Answer more about each match",
        EnrichFindallArguments,
        AddToFindallOutput,
        creates=True,
        offering=offer_of_addition,
    ),
    ToolDefinition(cancel_findall, "Stop a FindAll run", CancelFindallArguments, CancelFindallOutput, cancels=True),
]
