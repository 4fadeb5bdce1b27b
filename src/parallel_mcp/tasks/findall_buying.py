"""Buying FindAll runs, further matches and enrichments, each once.

An extension names the limit to be reached, not the difference, and an enrichment what is to be answered: both can be
read back from the schema of the run, so repeating them is free, and so is finding out what a lost answer was about.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from parallel_mcp.api.findall_models import (
    EnrichInput,
    ExcludedCandidate,
    FindAllInput,
    FindAllRun,
    FindAllSchema,
    MatchCondition,
)
from parallel_mcp.errors import (
    InvalidArguments,
    LedgerUnavailable,
    OutcomeUnknown,
    OverBudget,
    StillChanging,
    UpstreamError,
    UpstreamUnreadable,
)
from parallel_mcp.ledger import FREE_USD, SAME_REQUEST_S, Entry, Intent
from parallel_mcp.tasks.buying import Found, Purchase, fingerprint, is_gone
from parallel_mcp.tasks.creating import Creator, Outcome, Send
from parallel_mcp.tasks.generators import GENERATORS, USUAL_S, Generator
from parallel_mcp.tasks.processors import Processor, processor_named
from parallel_mcp.tasks.turns import LONGEST_ADDITION_S

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi
    from parallel_mcp.api.findall import FindAllApi

LEDGER_NAME = "findall {}"  # beside the names of processors in the ledger
_REACHED = "findall {} to {} matches (+{}), {} enrichments (+{})"  # by an addition
_REACHED_IN = re.compile(r"findall \S+ to (\d+) matches \(\+(\d+)\), (\d+) enrichments \(\+(\d+)\)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FindAllOrder:
    """What to search for. Without an entity type and conditions the API derives them from the objective."""

    objective: str
    generator: Generator
    match_limit: int
    entity_type: str = ""
    conditions: tuple[MatchCondition, ...] = ()
    excluded: tuple[ExcludedCandidate, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def price_usd(self) -> float:
        """The most that it costs."""
        return self.generator.most_usd(self.match_limit)

    def as_given(self) -> dict[str, Any]:
        """The order as its caller gave it, to tell equal ones: what the API makes of it may differ each time."""
        return {
            "objective": self.objective,
            "generator": self.generator.name,
            "match_limit": self.match_limit,
            "entity_type": self.entity_type,
            "conditions": [condition.body() for condition in self.conditions],
            "excluded": [candidate.body() for candidate in self.excluded],
            "metadata": self.metadata,
        }


@dataclass(frozen=True)
class StartedFindAll:
    """A run, and what was ordered, if that was now."""

    run: FindAllRun
    ordered: FindAllInput | None = None


@dataclass(frozen=True)
class Addition:
    """What a run is to be given further. Without a purchase it has it already."""

    schema: FindAllSchema
    price_usd: float = 0
    most_matches: int = 0
    purchase: Purchase[FindAllSchema] | None = None


def new_findall(
    api: ParallelApi, order: FindAllOrder, *, owner: str, idempotency_key: str = "", title: str = ""
) -> Purchase[StartedFindAll]:
    """A run that searches."""
    intent = Intent(
        owner=owner,
        fingerprint=fingerprint("findall", order.as_given()),
        idempotency_key=idempotency_key,
        processor=LEDGER_NAME.format(order.generator.name),
        price_usd=order.price_usd,
        lasts_s=USUAL_S,
        title=title,
    )
    what = f"A FindAll run with {order.generator.name} for up to {order.match_limit:,} matches"
    return Purchase(intent, what, partial(_prepared, api.findall, order), partial(_found, api.findall))


async def extension(
    creator: Creator, api: ParallelApi, findall_id: str, match_limit: int, *, owner: str, keep_title: bool
) -> Addition:
    """Further matches, until there are `match_limit` in all.

    Raises:
        InvalidArguments: The run is a preview.
        UpstreamError: The run cannot be read, or does not say how many matches it looks for.
    """
    look = partial(_further_matches, api.findall, findall_id, match_limit)
    found = await look()

    async def extend() -> FindAllSchema:
        return await api.findall.extend(findall_id, found.most_matches)

    def shows(now: FindAllSchema) -> bool:
        return (now.match_limit or 0) >= match_limit

    reached = _Reached(match_limit, found.most_matches, len(found.schema.enrichments), 0)
    intent = _addition_intent(found, reached, findall_id, {"match_limit": match_limit}, owner, keep_title)
    what = f"Up to {found.most_matches:,} further matches with {found.schema.generator}"
    sending = partial(_sent_or_seen, extend, shows, api.findall, findall_id)
    return await _addition(creator, api.findall, intent, what, look, found, sending)


async def enrichment(
    creator: Creator,
    api: ParallelApi,
    findall_id: str,
    wanted: EnrichInput,
    processor: Processor,
    *,
    owner: str,
    keep_title: bool,
) -> Addition:
    """Further questions about each match; of a run that has ended, about those that there are.

    Raises:
        InvalidArguments: The run is a preview.
        UpstreamError: The run cannot be read.
    """
    look = partial(_further_answers, api.findall, findall_id, wanted, processor)
    found = await look()

    async def enrich() -> FindAllSchema:
        return await api.findall.enrich(findall_id, wanted)

    def shows(now: FindAllSchema) -> bool:
        return _has_enrichment(now, wanted)

    reached = _Reached(found.schema.match_limit or 0, 0, len(found.schema.enrichments) + 1, 1)
    intent = _addition_intent(found, reached, findall_id, wanted.body(), owner, keep_title)
    what = f"Enriching up to {found.most_matches:,} matches with {processor.name}"
    sending = partial(_sent_or_seen, enrich, shows, api.findall, findall_id)
    return await _addition(creator, api.findall, intent, what, look, found, sending)


async def _addition(
    creator: Creator,
    api: FindAllApi,
    intent: Intent,
    what: str,
    look: Callable[[], Awaitable[_Lacking]],
    found: _Lacking,
    sending: Send[FindAllSchema],
) -> Addition:
    if found.is_there:
        await _settle_lost(creator, intent, found.schema)
        return Addition(found.schema)
    preparing = partial(_prepared_as_found, creator, intent, look, found, sending)
    purchase = Purchase(intent, what, preparing, partial(_schema_found, api))
    return Addition(found.schema, found.price_usd, found.most_matches, purchase)


# ---- what an addition costs


@dataclass(frozen=True)
class _Lacking:
    """What a run lacks of an addition just now, and the most that it costs."""

    schema: FindAllSchema
    is_there: bool = False
    most_matches: int = 0
    price_usd: float = 0


async def _further_matches(api: FindAllApi, findall_id: str, match_limit: int) -> _Lacking:
    schema = await api.schema(findall_id)
    generator = _generator_of(schema)
    additional = match_limit - _limit_of(schema)
    if additional <= 0:
        return _Lacking(schema, is_there=True)
    each_usd = generator.match_usd + sum(_processor_of(known.processor).price_usd for known in schema.enrichments)
    return _Lacking(schema, most_matches=additional, price_usd=round(additional * each_usd, 6))


async def _further_answers(api: FindAllApi, findall_id: str, wanted: EnrichInput, processor: Processor) -> _Lacking:
    schema = await api.schema(findall_id)
    _generator_of(schema)
    if _has_enrichment(schema, wanted):
        return _Lacking(schema, is_there=True)
    run = await api.retrieve(findall_id)
    most = max(run.matched, _limit_of(schema)) if run.is_active else run.matched
    return _Lacking(schema, most_matches=most, price_usd=round(most * processor.price_usd, 6))


# ---- sending


async def _prepared(api: FindAllApi, order: FindAllOrder) -> Send[StartedFindAll]:
    return partial(_started, api, await _input_of(api, order))


async def _started(api: FindAllApi, ordered: FindAllInput) -> Outcome[StartedFindAll]:
    run = await api.create(ordered)
    return Outcome(StartedFindAll(run, ordered), run.findall_id)


async def _prepared_as_found(
    creator: Creator,
    intent: Intent,
    look: Callable[[], Awaitable[_Lacking]],
    found: _Lacking,
    send: Send[FindAllSchema],
) -> Send[FindAllSchema]:
    """Look once more at all that the price is made of; it may have been reserved, and approved, a while ago.

    Raises:
        StillChanging: Another addition came in between, or the run does not show yet what an earlier one has added.
    """
    now = await look()
    if not await _shows_all(creator, intent, now.schema):
        raise StillChanging("The run does not show yet all that was added to it")
    is_other = now.is_there or now.schema.match_limit != found.schema.match_limit
    if is_other or now.price_usd > found.price_usd + FREE_USD:
        raise StillChanging("Something else has just been added to the run, which changes what this adds or costs")
    return send


async def _shows_all(creator: Creator, intent: Intent, schema: FindAllSchema) -> bool:
    """Whether a schema shows what was added in the last minutes: one machine upstream may lag behind another."""
    match_limit = enrichments = 0
    for entry in reversed(await creator.ledger.of_group(intent.owner, intent.group_id)):
        if entry.state == "created" and entry.age_s < SAME_REQUEST_S:
            reached = _Reached.by(entry)
            match_limit = max(match_limit, reached.match_limit)
            # of two that were looked up side by side, each reckoned without the other
            enrichments = max(enrichments + reached.enrichments_added, reached.enrichments)
    return match_limit <= (schema.match_limit or 0) and enrichments <= len(schema.enrichments)


async def _input_of(api: FindAllApi, order: FindAllOrder) -> FindAllInput:
    entity_type, conditions = order.entity_type, order.conditions
    if not (entity_type and conditions):
        derived = await api.ingest(order.objective)
        entity_type = entity_type or derived.entity_type
        conditions = conditions or tuple(
            MatchCondition(name=condition.name, description=condition.description)
            for condition in derived.match_conditions
        )
    if not (entity_type and conditions):
        raise InvalidArguments(
            "The API could not derive what to search for from `objective`. Give `entity_type` and `match_conditions`."
        )
    return FindAllInput(
        objective=order.objective,
        entity_type=entity_type,
        match_conditions=list(conditions),
        generator=order.generator.name,
        match_limit=order.match_limit,
        exclude_list=list(order.excluded) or None,
        metadata=order.metadata or None,
    )


async def _sent_or_seen(
    send: Callable[[], Awaitable[FindAllSchema]],
    shows: Callable[[FindAllSchema], bool],
    api: FindAllApi,
    findall_id: str,
) -> Outcome[FindAllSchema]:
    """The schema after an addition. If the answer is lost, the run itself may tell that it was carried out."""
    try:
        return Outcome(await send(), findall_id)
    except OutcomeUnknown:
        try:
            schema = await api.schema(findall_id)
        except UpstreamError as error:
            logger.info("A FindAll run could not be read back: %s", error)
        else:
            if shows(schema):
                return Outcome(schema, findall_id)
        raise


# ---- finding what an earlier purchase made


async def _found(api: FindAllApi, entry: Entry) -> Found[StartedFindAll]:
    """A run that is known to have been made. One that cannot be read just now counts as active."""
    try:
        run = await api.retrieve(entry.handle)
    except UpstreamError as error:
        status = {"status": "not_found", "is_active": False} if is_gone(entry, error) else {"is_active": True}
        run = FindAllRun.model_validate({"findall_id": entry.handle, "status": status})
    return Found(StartedFindAll(run), run.is_active)


async def _schema_found(api: FindAllApi, entry: Entry) -> Found[FindAllSchema]:
    """The schema of a run that was added to: an equal addition is the same one, whether or not it shows yet."""
    return Found(await api.schema(entry.handle), is_active=True)


async def _settle_lost(creator: Creator, intent: Intent, schema: FindAllSchema) -> None:
    """Note that an addition whose answer was lost was carried out: the run shows it. Of several it is the last."""
    try:
        last_first = await creator.ledger.of_group(intent.owner, intent.group_id)
    except LedgerUnavailable as error:  # nothing is to be bought, so nothing need be known
        logger.info("Whether an addition is still open could not be read: %s", error)
        return
    place = next((place for place, entry in enumerate(last_first) if entry.fingerprint == intent.fingerprint), None)
    if place is None:
        return
    last, later = last_first[place], last_first[:place]
    is_lost = last.state == "unknown" or (last.state == "intent" and last.age_s >= LONGEST_ADDITION_S)
    if is_lost and _shows_beside(later, _Reached.by(last), schema):
        await creator.settle(last.entry_id, "created", intent.group_id)


def _shows_beside(later: list[Entry], lost: _Reached, schema: FindAllSchema) -> bool:
    """Whether a schema that shows what was lost would show it without the matches that were added later, too."""
    added_later = sum(_Reached.by(entry).matches_added for entry in later if entry.state == "created")
    return not lost.matches_added or lost.match_limit <= (schema.match_limit or 0) - added_later


# ---- what a run says of itself


@dataclass(frozen=True)
class _Reached:
    """What a run has after an addition, at least. The ledger keeps it in the name of the addition."""

    match_limit: int = 0
    matches_added: int = 0
    enrichments: int = 0
    enrichments_added: int = 0

    def named(self, generator: str) -> str:
        return _REACHED.format(generator, *astuple(self))

    @classmethod
    def by(cls, entry: Entry) -> _Reached:
        told = _REACHED_IN.fullmatch(entry.processor)
        return cls(*map(int, told.groups())) if told else cls()


def _addition_intent(
    found: _Lacking, reached: _Reached, findall_id: str, request: dict[str, Any], owner: str, keep_title: bool
) -> Intent:
    schema = found.schema
    return Intent(
        owner=owner,
        fingerprint=fingerprint("findall addition", {"id": findall_id, **request}),
        idempotency_key="",
        processor=reached.named(schema.generator),
        price_usd=found.price_usd,
        lasts_s=0,
        title=schema.objective[:120] if keep_title else "",
        runs=0,  # it is part of a run that counts already
        group_id=findall_id,
    )


def _generator_of(schema: FindAllSchema) -> Generator:
    generator = GENERATORS.get(schema.generator)
    if generator is None:
        raise OverBudget(f"The price of the generator {schema.generator} is not known here. Nothing was sent")
    if generator.name == "preview":
        raise InvalidArguments(
            "`id` names a preview, which cannot be extended or enriched: create_findall with generator base, core or "
            "pro starts a full run."
        )
    return generator


def _processor_of(name: str) -> Processor:
    processor = processor_named(name)
    if processor is None:
        raise OverBudget(f"The price of the processor {name} is not known here. Nothing was sent")
    return processor


def _limit_of(schema: FindAllSchema) -> int:
    if schema.match_limit is None:
        raise UpstreamUnreadable("The API does not say how many matches the run looks for, so nothing was sent")
    return schema.match_limit


def _has_enrichment(schema: FindAllSchema, wanted: EnrichInput) -> bool:
    return any(
        known.processor == wanted.processor and known.output_schema.get("json_schema") == wanted.output_schema
        for known in schema.enrichments
    )
