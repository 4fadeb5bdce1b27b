"""Creating the runs of a group so that no row is bought twice.

As for a single run: look into the ledger, reserve the price of all rows, send each batch once, write the outcome down.
Unlike single runs, those of a group can be counted afterwards: each is labelled with its row, and the group lists them.
So whatever happens to an answer, the group is read back before anything is said of it, or added to it.

A group counts as one of the active runs that are allowed: that limit is there to stop a caller who starts one thing
after the other, and a group is one thing, whose size the budgets bound.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar, cast

import anyio

from parallel_mcp.api.models import SourcePolicy, TaskRunInput, TaskSpec
from parallel_mcp.errors import (
    LedgerUnavailable,
    NotFound,
    OutcomeUnknown,
    OverBudget,
    ResearchError,
    StillChanging,
    StillCreating,
    UpstreamError,
)
from parallel_mcp.ledger import SAME_REQUEST_S, Entry, EntryState, Intent, Known, Limits, New
from parallel_mcp.tasks.creating import (
    ACTIVE_FACTOR,
    LONGEST_CREATE_S,
    NOTHING_NEW,
    SHOWN_WITHIN_S,
    Creator,
    Outcome,
    Send,
    at_once,
)
from parallel_mcp.tasks.group_rows import Held, held_by, key_of, numbered
from parallel_mcp.tasks.processors import Processor, processor_named
from parallel_mcp.tasks.rows import CREATE_LABEL, KEY_LABEL, ROW_LABEL, RowInput, in_words
from parallel_mcp.tasks.turns import LONGEST_ADDITION_S, check_age, open_in_turn

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

BATCH = 1_000  # the most that the API takes in one request; so at most four are sent at once, and the last one alone
READ_BACK_TIMEOUT_S = 30.0

_Made = TypeVar("_Made")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupOrder:
    """The rows to be researched, and what they have in common."""

    owner: str
    inputs: tuple[RowInput, ...]
    spec: TaskSpec
    processor: Processor
    source_policy: SourcePolicy | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    idempotency_key: str = ""
    title: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """The same for equal orders, whichever group they are for."""
        common = self._run("").body() | {"task_spec": self.spec.body(), "rows": self.inputs}
        canonical = json.dumps(common, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def run(self, number: int, value: RowInput, entry_id: str) -> TaskRunInput:
        """One row, labelled with its number, what its input is and which create sends it. The spec is sent once."""
        labels = {ROW_LABEL: str(number), KEY_LABEL: key_of(value), CREATE_LABEL: entry_id}
        return self._run(value).model_copy(update={"metadata": self.metadata | labels})

    def _run(self, value: RowInput) -> TaskRunInput:
        return TaskRunInput(
            processor=self.processor.name,
            input=value,
            metadata=self.metadata or None,
            source_policy=self.source_policy,
        )

    def intent(self, rows: int, *, group_id: str = "") -> Intent:
        """The intent to buy so many of the rows, in a new group or in that one."""
        return Intent(
            owner=self.owner,
            fingerprint=f"{self.fingerprint}+{group_id}" if group_id else self.fingerprint,
            idempotency_key="" if group_id else self.idempotency_key,
            processor=self.processor.name,
            price_usd=rows * self.processor.price_usd,
            lasts_s=self.processor.slowest_s * ACTIVE_FACTOR,
            title=self.title,
            group_id=group_id,
        )


@dataclass(frozen=True)
class FilledGroup:
    """What became of each row, by the numbers that the rows have in the group.

    `created` were created by this call, `missing` surely were not; of `unknown` nobody can say. What is in none of the
    three was in the group before. `failure` is why some were not created. Of a group that `is_gone` nothing is known.
    """

    group_id: str
    created: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()
    unknown: frozenset[int] = frozenset()
    failure: ResearchError | None = None
    deduplicated: bool = False
    is_gone: bool = False


@dataclass
class _Batch:
    """Rows that are sent together, and which of them are known to be created, or lost with the answer."""

    rows: dict[int, RowInput]
    created: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()
    error: ResearchError | None = None

    def take_shown(self, shown: Collection[int]) -> None:
        """Take note of the rows that the group shows."""
        self.created |= frozenset(self.rows).intersection(shown)
        self.lost -= self.created
        if len(self.created) == len(self.rows):
            self.error = None


@dataclass
class GroupCreating:
    """One call that creates a group, or adds to one.

    `is_on_its_way` says of a call that was cut off that it had begun the rows, or found them begun by an equal one.
    """

    creator: Creator
    api: ParallelApi
    order: GroupOrder
    group_id: str = ""
    force_new: bool = False
    is_on_its_way: bool = field(default=False, init=False)

    async def price_usd(self) -> float:
        """What `create` would buy now, in dollars: nothing if an earlier call answers it.

        Raises:
            ResearchError: As `create`.
        """
        if self.group_id:
            rows = {} if await self._equal_addition() else (await self._lacking())[0]
            return len(rows) * self.order.processor.price_usd
        intent = self.order.intent(len(self.order.inputs))
        try:
            await self._begun(intent, NOTHING_NEW)
        except OverBudget:
            return intent.price_usd
        return 0

    async def create(self, *, approved_usd: float = 0) -> FilledGroup:
        """Create the rows, or give the group that an equal call created; with a `group_id`, add what it lacks.

        Equal is as for single runs. A group that lacks rows answers an equal call too, active or not; they are
        created only in a call that names the group. Rows that the group shows are never created in it again;
        `force_new` creates there those whose outcome is unknown. A caller who leaves does not abort a create.
        Above the limit of one call nothing is bought for more than `approved_usd`.

        Raises:
            OverBudget, IdempotencyConflict, LedgerUnavailable: Before anything is sent.
            StillCreating: An equal call is on its way in another process; nothing was sent.
            StillChanging: Another process is filling the group, or it does not show yet what it was given; nothing
                was sent.
            OutcomeUnknown: The group lacks rows, and what was sent to it before may still appear; nothing was sent.
            UpstreamError: None of the rows were created, or the group cannot be read.
        """
        if self.group_id:
            return await self._add(approved_usd=approved_usd)
        intent = self.order.intent(len(self.order.inputs))
        limits = self.creator.limits(intent.price_usd, approved_usd=approved_usd)
        begun = await self._begun(intent, limits)
        if isinstance(begun, FilledGroup):
            return begun
        prepare = at_once(partial(self._sent_to_new_group, begun.entry_id))
        return await self._answered(self.creator.send_once(begun.entry_id, prepare))

    async def _answered(self, create: Awaitable[_Made]) -> _Made:
        self.is_on_its_way = True
        made = await create  # whoever is cut off here has begun it, or found it begun
        self.is_on_its_way = False
        return made

    async def _found_on_its_way(self, made: Callable[[], Awaitable[object]]) -> FilledGroup:
        """What an equal create of this process makes."""
        group = cast("FilledGroup", await self._answered(made()))
        return replace(group, created=frozenset(), deduplicated=True)

    # ---- a new group

    async def _begun(self, intent: Intent, limits: Limits) -> New | FilledGroup:
        """A new intent, or the group of an earlier call.

        Raises:
            ResearchError: Neither; see `create`.
        """
        passed_over: frozenset[str] = frozenset()
        while True:
            match await self.creator.begun(intent, limits, passed_over):
                case New() as new:
                    return new
                case Known(entry=entry, by_key=by_key):
                    found = None if self.force_new and not by_key else await self._made_by(entry, by_key=by_key)
                    if found is not None:
                        return found
                    passed_over |= {entry.entry_id}
                case no:
                    raise self.creator.refusal(no, intent, limits, self._what(len(self.order.inputs)))

    async def _made_by(self, entry: Entry, *, by_key: bool) -> FilledGroup | None:
        """The group of an earlier, equal call; None if it made none, or if that is complete and has ended, or gone."""
        if made := self.creator.on_its_way(entry.entry_id):
            return await self._found_on_its_way(made)
        settled = await self._answered(self.creator.settled_elsewhere(entry))
        if settled is None or settled.state == "failed":
            return None
        if settled.state == "intent" and settled.age_s < LONGEST_CREATE_S:
            raise StillCreating("An equal create is on its way in another process; nothing was sent now")
        if not settled.group_id:  # the group is written down before the first row is sent
            if not await self.creator.ledger.give_up(settled.entry_id):
                raise StillCreating("An equal create has just gone on in another process; nothing was sent now")
            return None
        try:
            found = await self._read_back(settled)
            is_active = await self._is_active(settled)
        except NotFound:
            await self._check_gone(settled)
            return FilledGroup(settled.group_id, deduplicated=True, is_gone=True) if by_key else None
        is_complete = not (found.missing or found.unknown)
        return found if by_key or is_active or not is_complete else None

    async def _check_gone(self, entry: Entry) -> None:
        """Whether nothing of a group that the API does not know can matter any more.

        Raises:
            StillChanging: It may not be shown yet.
            OutcomeUnknown: Rows were sent to it of which nobody knows.
        """
        if entry.age_s <= SHOWN_WITHIN_S:
            raise StillChanging("The API does not show the group of an equal create yet")
        if any(map(self._is_equal, await self._still_open(entry.group_id))):
            raise OutcomeUnknown(
                "The answer to an equal create was lost, and the API does not know its group any more; "
                "nothing was sent now"
            )

    async def _read_back(self, entry: Entry) -> FilledGroup:
        """What the group of an earlier call holds of its rows; if it holds them all, nothing is open any more."""
        group_id = entry.group_id
        if entry.state == "created" and _rows_bought(entry) == len(self.order.inputs):
            return FilledGroup(group_id, deduplicated=True)
        still_open = await self._still_open(group_id)
        held, shows_all = await self._shown(group_id)
        lacking = frozenset(numbered(self.order.inputs, held))
        if not lacking:
            await self._close(group_id, held)
        unknown = lacking if still_open or not shows_all else frozenset[int]()
        return FilledGroup(group_id, missing=lacking - unknown, unknown=unknown, deduplicated=True)

    async def _is_active(self, entry: Entry) -> bool:
        """Whether the group of an entry is active. One that cannot be read just now counts as active.

        Raises:
            NotFound: The API does not know it, though it had time to.
        """
        try:
            return (await self.api.retrieve_group(entry.group_id)).status.is_active
        except UpstreamError as error:
            if isinstance(error, NotFound) and entry.age_s > SHOWN_WITHIN_S:
                raise
            logger.info("A known group could not be read: %s", error)
            return True

    async def _sent_to_new_group(self, entry_id: str) -> Outcome[FilledGroup]:
        group = await self.api.create_group({CREATE_LABEL: entry_id})
        if not await self.creator.ledger.attach_group(entry_id, group.taskgroup_id):
            # this process slept so long that another took it for dead
            raise StillCreating("Another process has taken this create over; nothing was sent by this one")
        return await self._sent(entry_id, group.taskgroup_id, dict(enumerate(self.order.inputs, 1)))

    # ---- a group that is there

    async def _equal_addition(self) -> FilledGroup | None:
        """What an equal call adds that this process has on its way."""
        fingerprint = self.order.intent(0, group_id=self.group_id).fingerprint
        for entry in await self.creator.ledger.of_group(self.order.owner, self.group_id):
            if entry.fingerprint == fingerprint and (made := self.creator.on_its_way(entry.entry_id)):
                return await self._found_on_its_way(made)
        return None

    async def _add(self, *, approved_usd: float) -> FilledGroup:
        if equal := await self._equal_addition():
            return equal
        passed_over: frozenset[str] = frozenset()
        while True:
            rows, _ = await self._lacking()
            if not rows:
                return FilledGroup(self.group_id, deduplicated=True)
            intent = self.order.intent(len(rows), group_id=self.group_id)
            limits = self.creator.limits(intent.price_usd, approved_usd=approved_usd)
            match await self.creator.begun(intent, limits, passed_over):
                case New(entry_id=entry_id):
                    prepare = partial(self._prepared_in_turn, entry_id, len(rows))
                    return await self._answered(self.creator.send_once(entry_id, prepare))
                case Known(entry=entry):
                    if made := self.creator.on_its_way(entry.entry_id):
                        return await self._found_on_its_way(made)
                    if entry.state == "intent" and entry.age_s < LONGEST_CREATE_S:
                        raise StillCreating("An equal create is on its way in another process; nothing was sent now")
                    passed_over |= {entry.entry_id}
                case no:
                    raise self.creator.refusal(no, intent, limits, self._what(len(rows)))

    async def _prepared_in_turn(self, entry_id: str, reserved: int) -> Send[FilledGroup]:
        """Look once more, now that others see that this is on its way: who began before decides what is lacking.

        Of that no more is bought than has been reserved, and approved.
        """
        rows, held = await self._lacking(entry_id)
        if len(rows) > reserved:
            raise StillChanging("The group has changed meanwhile")
        await check_age(self.creator, entry_id)
        return partial(self._sent_in_turn, entry_id, rows, held)

    async def _sent_in_turn(
        self, entry_id: str, rows: dict[int, RowInput], held: Sequence[Held]
    ) -> Outcome[FilledGroup]:
        """Send the rows that the group lacked; where these were sent once more, the first create holds up nothing."""
        outcome = await self._sent(entry_id, self.group_id, rows)
        if self.force_new and not (outcome.made.missing or outcome.made.unknown):
            try:
                await self._close(self.group_id, held)
            except LedgerUnavailable as error:
                logger.info("That rows were sent once more is not written down: %s", error)
        return outcome

    async def _lacking(self, entry_id: str = "") -> tuple[dict[int, RowInput], list[Held]]:
        """The rows that the group lacks, if that can be said for certain, and those that it holds.

        `entry_id` is the call's own intent. Without one it only finds out what to reserve, and gives way to nobody: in
        its turn it looks once more. What is still open is looked up first: what is settled by then, the list shows.
        """
        still_open = await open_in_turn(self.creator, self.order.owner, self.group_id, entry_id)
        held, shows_all = await self._shown(self.group_id)
        if not shows_all:
            raise StillChanging("The group does not show all of its rows yet")
        rows = numbered(self.order.inputs, held)
        if not rows:
            await self._close(self.group_id, held)
        lost = [entry for entry in still_open if _is_lost(entry)]
        if rows and entry_id and len(lost) < len(still_open):
            raise StillChanging("The group is just being added to")
        if rows and lost and not self.force_new:
            raise self._may_appear(rows, lost)
        return rows, held

    def _may_appear(self, rows: Collection[int], lost: Iterable[Entry]) -> OutcomeUnknown:
        """Why rows are not sent: a lost create may have been about them; about which it was is known of equal ones."""
        why = "may be among those of another create, whose answer was lost"
        if any(map(self._is_equal, lost)):
            why = "the answer to an earlier create was lost: they may still appear there"
        return OutcomeUnknown(
            f"Rows {in_words(rows)} are not in the group, and {why}. Nothing was sent now. {SAME_REQUEST_S / 60:.0f} "
            "minutes after that create the same call creates those that have not appeared; before, only with "
            "force_new=true"
        )

    async def _shown(self, group_id: str) -> tuple[list[Held], bool]:
        """What a group shows, and whether that is as much as it must: to trust a list that lags would buy rows twice.

        How much it must show is asked first: what others add meanwhile is no sign of a list that lags.
        """
        group = await self.api.retrieve_group(group_id)
        entries = await self.creator.ledger.of_group(self.order.owner, group_id)
        held = await held_by(self.api, group_id)
        return held, len(held) >= max(group.status.num_task_runs, _rows_created(entries))

    # ---- sending

    async def _sent(self, entry_id: str, group_id: str, rows: dict[int, RowInput]) -> Outcome[FilledGroup]:
        """Send the rows in batches, the last one alone, so that its answer counts all; stop at a failure that stays.

        Raises:
            ResearchError: None of them were created.
        """
        numbers = list(rows)
        parts = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
        batches = [_Batch({number: rows[number] for number in part}) for part in parts]
        for wave in (batches[:-1], batches[-1:]):
            async with anyio.create_task_group() as sending:
                for batch in wave:
                    sending.start_soon(self._send, entry_id, group_id, batch, batch is batches[-1])
            await self._look_again(group_id, [batch for batch in wave if batch.error])
            if any(batch.error for batch in wave):
                break
        group = _filled(group_id, batches)
        return Outcome(group, group_id, *await self._charged(entry_id, group))

    async def _send(self, entry_id: str, group_id: str, batch: _Batch, refresh_status: bool) -> None:
        inputs = [self.order.run(number, value, entry_id) for number, value in batch.rows.items()]
        try:
            added = await self.api.add_runs(
                group_id, inputs, default_task_spec=self.order.spec, refresh_status=refresh_status
            )
            if len(added.run_ids) != len(inputs):
                raise OutcomeUnknown(
                    f"{len(inputs):,} rows were sent, and the answer names {len(added.run_ids):,} runs"
                )
            batch.created = frozenset(batch.rows)
        except OutcomeUnknown as error:
            batch.lost, batch.error = frozenset(batch.rows), error
        except UpstreamError as error:
            batch.error = error

    async def _look_again(self, group_id: str, failed: Sequence[_Batch]) -> None:
        """Ask the group which rows it has after all. Those whose answer was lost may take a while to appear."""
        pauses_s = self.api.read_back_s if any(batch.lost for batch in failed) else (0.0,)
        for pause_s in pauses_s if failed else ():
            await anyio.sleep(pause_s)
            try:
                with anyio.move_on_after(READ_BACK_TIMEOUT_S):
                    shown = {row.number for row in await held_by(self.api, group_id)}
                    for batch in failed:
                        batch.take_shown(shown)
            except UpstreamError as error:
                logger.info("A task group could not be read back: %s", error)
            if not any(batch.lost for batch in failed):
                return

    async def _charged(self, entry_id: str, group: FilledGroup) -> tuple[EntryState, float | None]:
        """How the create is settled: created rows are charged for good, unknown ones reserved for an hour.

        If there are both, the unknown ones get an entry of their own, by which later calls see that they are open.
        """
        price_usd = self.order.processor.price_usd
        if not group.unknown:
            return "created" if group.created else "failed", len(group.created) * price_usd
        if not group.created:
            return "unknown", len(group.unknown) * price_usd
        intent = self.order.intent(len(group.unknown), group_id=group.group_id)
        try:
            await self._reserve(replace(intent, fingerprint=f"{intent.fingerprint} {entry_id}"), group.group_id)
        except LedgerUnavailable:
            return "unknown", None
        return "created", len(group.created) * price_usd

    # ---- the ledger

    async def _still_open(self, group_id: str) -> list[Entry]:
        """What was sent to a group within ten minutes without a known outcome; after that what it shows is all."""
        entries = await self.creator.ledger.of_group(self.order.owner, group_id)
        return [entry for entry in entries if entry.state != "created"]

    async def _close(self, group_id: str, held: Sequence[Held]) -> None:
        """What was open about these very rows is so no more, now that the group has them all.

        What it shows of a create is charged. If there is less, another create made the rest, be it with `force_new` or
        somebody else's: then the lost ones stay reserved for an hour, but apart from the group.
        """
        for entry in filter(self._is_equal, await self._still_open(group_id)):
            arrived = await self._arrived(entry, held)
            lost = _rows_bought(entry) - arrived
            if self.creator.on_its_way(entry.entry_id) or (lost and not _is_lost(entry)):
                continue
            if lost:
                intent = self.order.intent(lost, group_id=group_id)
                fingerprint = f"{entry.fingerprint} {entry.entry_id}"
                await self._reserve(replace(intent, fingerprint=fingerprint, group_id="", lasts_s=0), group_id)
            await self.creator.settle(entry.entry_id, "created", group_id, arrived * self.order.processor.price_usd)

    async def _arrived(self, entry: Entry, held: Iterable[Held]) -> int:
        """How many of the rows of an entry that is open the group shows, by the create that they name."""
        _, _, sent_by = entry.fingerprint.rpartition(" ")
        if sent_by == entry.fingerprint:
            sent_by = entry.entry_id
        shown = sum(row.create == sent_by for row in held)
        if sent_by != entry.entry_id and (first := await self.creator.ledger.entry(sent_by)):
            shown -= _rows_created([first])
        return max(0, min(shown, _rows_bought(entry)))

    async def _reserve(self, intent: Intent, handle: str) -> None:
        """Reserve for an hour, whatever the limits, what may have been bought; once for each fingerprint."""
        ledger = self.creator.ledger
        begun = await ledger.begin(intent, Limits())
        if isinstance(begun, New):
            await ledger.settle(begun.entry_id, "unknown", handle)

    def _is_equal(self, entry: Entry) -> bool:
        """Whether an entry is about the same rows."""
        return entry.fingerprint.startswith(self.order.fingerprint)

    def _what(self, rows: int) -> str:
        return f"{self.order.processor.name} for {rows:,} rows"


def _filled(group_id: str, batches: Sequence[_Batch]) -> FilledGroup:
    """What became of the rows of all batches.

    Raises:
        ResearchError: None of them were created, and why.
    """
    rows = frozenset(number for batch in batches for number in batch.rows)
    created = frozenset(number for batch in batches for number in batch.created)
    lost = frozenset(number for batch in batches for number in batch.lost)
    failure = next((batch.error for batch in batches if batch.error), None)
    if failure is not None and not created and not lost:
        raise failure
    missing = rows - created - lost
    return FilledGroup(group_id, created, missing, lost, failure, deduplicated=not rows)


def _is_lost(entry: Entry) -> bool:
    """Whether nobody knows what became of an entry; what is just being sent is not lost."""
    return entry.state == "unknown" or (entry.state == "intent" and entry.age_s >= LONGEST_ADDITION_S)


def _rows_created(entries: Iterable[Entry]) -> int:
    """How many rows were surely created by what the ledger knows of a group."""
    return sum(_rows_bought(entry) for entry in entries if entry.state == "created")


def _rows_bought(entry: Entry) -> int:
    """How many rows an entry stands for, by what they cost."""
    processor = processor_named(entry.processor)
    return round(entry.price_usd / processor.price_usd) if processor else 0
