"""Creating runs so that nothing is bought twice: look into the ledger, reserve, send once, write the outcome down."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import anyio
import anyio.abc
from pydantic import SecretStr

from parallel_mcp.api.models import RunStateEvent, TaskGroup, TaskRun, TaskRunInput
from parallel_mcp.errors import (
    IdempotencyConflict,
    LedgerUnavailable,
    NotFound,
    NotSent,
    OutcomeUnknown,
    OverBudget,
    ResearchError,
    StillCreating,
    TooManyRuns,
    UpstreamError,
)
from parallel_mcp.ledger import (
    FREE_USD,
    Begun,
    Entry,
    EntryState,
    Intent,
    KeyConflict,
    Known,
    Ledger,
    Limits,
    New,
    OverSpent,
    Period,
    TooManyActive,
)
from parallel_mcp.settings import Settings, env_name
from parallel_mcp.tasks.changes import ListChanges
from parallel_mcp.tasks.processors import Processor

if TYPE_CHECKING:
    from parallel_mcp.api.client import ParallelApi

FINISH_S = 15.0  # how long a create on its way may take when the server is being stopped
OTHER_PROCESS_S = 20.0  # how long to wait for a create that another process has on its way
LONGEST_CREATE_S = 60.0  # after that, the process that had it on its way must have died
SETTLE_AGAIN_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0)
READ_BACK_TIMEOUT_S = 15.0
SHOWN_WITHIN_S = 60.0  # a new run may be unknown to a machine upstream for a moment, not for longer
NOTE_S = 0.3
ACTIVE_FACTOR = 1.25
NOTHING_NEW = Limits(usd_per_hour=1e-6)  # a limit that no price fits in: only what exists already is answered

_Made = TypeVar("_Made")

_OWNER_SALT = b"parallel-mcp ledger owner v1"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Creation:
    """A run that exists, whether an earlier call created it, and if so, whether the idempotency key has led to it."""

    run: TaskRun
    deduplicated: bool
    by_key: bool = False


@dataclass(frozen=True)
class Outcome(Generic[_Made]):
    """What a create has made, and what the ledger is told of it. Without a price, all that was reserved is charged."""

    made: _Made
    handle: str
    state: EntryState = "created"
    price_usd: float | None = None


# A create has two steps. All that is looked at before anything is sent belongs to the first: it gives the second.
Send = Callable[[], Awaitable[Outcome[_Made]]]
Prepare = Callable[[], Awaitable[Send[_Made]]]


@dataclass
class _OnItsWay(Generic[_Made]):
    """A create that has been sent; whoever waits for it may leave, it goes on."""

    scope: anyio.CancelScope = field(default_factory=lambda: anyio.CancelScope(shield=True))
    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Outcome[_Made] | None = None
    error: ResearchError | None = None
    is_being_sent: bool = False

    async def made(self) -> _Made:
        """What it has made, once it is done; raises why it has not."""
        await self.done.wait()
        if self.outcome is not None:
            return self.outcome.made
        if self.error is None and not self.is_being_sent:
            raise NotSent("The create was given up before anything was sent")
        raise self.error or OutcomeUnknown("The create was not finished, and its outcome is unknown")


def at_once(send: Send[_Made]) -> Prepare[_Made]:
    """A create that looks at nothing before it is sent."""

    async def prepare() -> Send[_Made]:
        return send

    return prepare


def owner_of(key: SecretStr) -> str:
    """Who an entry belongs to: a hash of the API key, from which the key cannot be read back."""
    return hmac.new(_OWNER_SALT, key.get_secret_value().encode(), hashlib.sha256).hexdigest()[:32]


def fingerprint_of(request: TaskRunInput) -> str:
    """A digest of the request as it would be sent: equal requests, equal fingerprints."""
    canonical = json.dumps(request.body(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def intent_for(
    request: TaskRunInput, processor: Processor, *, owner: str, idempotency_key: str = "", title: str = ""
) -> Intent:
    """The intent to create one run."""
    return Intent(
        owner=owner,
        fingerprint=fingerprint_of(request),
        idempotency_key=idempotency_key,
        processor=processor.name,
        price_usd=processor.price_usd,
        lasts_s=processor.slowest_s * ACTIVE_FACTOR,
        title=title,
    )


@asynccontextmanager
async def creating(
    open_ledger: Callable[[], Ledger],
    settings: Settings,
    finish_s: float = FINISH_S,
    changes: ListChanges | None = None,
) -> AsyncGenerator[Creator]:
    """A creator for as long as the server runs; when it stops, creates on their way have `finish_s` to be finished.

    Whoever has created something is told so through `changes`.
    """
    creator: Creator | None = None
    try:
        async with anyio.create_task_group() as sending:
            creator = Creator(open_ledger, settings, sending, changes or ListChanges())
            try:
                yield creator
            finally:
                creator.finish_within(finish_s)
    finally:
        if creator is not None:
            with anyio.CancelScope(shield=True):
                await creator.aclose()


class Creator:
    """Creates runs; one for all callers of a process."""

    def __init__(
        self,
        open_ledger: Callable[[], Ledger],
        settings: Settings,
        tasks: anyio.abc.TaskGroup,
        changes: ListChanges,
    ) -> None:
        self._open_ledger = open_ledger
        self._settings = settings
        self._tasks = tasks
        self._changes = changes
        self._owners: dict[str, str] = {}  # of what was begun here and is not settled
        self._on_their_way: dict[str, _OnItsWay[object]] = {}
        self._settling: set[anyio.CancelScope] = set()
        self._stop_at = float("inf")

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, made at its first use: a server that only lists its tools needs none.

        Raises:
            LedgerUnavailable: The setting names none that can be made.
        """
        try:
            return self._open_ledger()
        except Exception as error:  # whatever a wrong address makes a library raise; it may hold a password
            raise LedgerUnavailable(f"The ledger cannot be made ({type(error).__name__})") from None

    async def aclose(self) -> None:
        """Let go of the ledger, if it was used."""
        if "ledger" in vars(self):
            await self.ledger.aclose()

    async def create(
        self,
        api: ParallelApi,
        intent: Intent,
        request: TaskRunInput,
        *,
        force_new: bool = False,
        approved_usd: float = 0,
    ) -> Creation:
        """Create a run, or return the one that an earlier, equal create made.

        Equal is: the same idempotency key; without one, the same request within ten minutes, while its run is active.
        `force_new` sets the second rule aside; `approved_usd` is a price that the user allows above the limit of one
        call. A caller who is cancelled meanwhile does not abort a create: it is finished and written down, and the next
        equal call finds its run.

        Raises:
            OverBudget: Before anything is sent.
            IdempotencyConflict: The key belongs to another request; nothing is sent.
            OutcomeUnknown: Sent, now or by the earlier equal create, with an answer that was lost.
            LedgerUnavailable: What was created before cannot be known; nothing is sent.
            UpstreamError: Refused; nothing was created.
        """
        limits = self.limits(intent.price_usd, approved_usd=approved_usd)
        passed_over: frozenset[str] = frozenset()
        while True:
            match await self.begun(intent, limits, passed_over):
                case New(entry_id=entry_id):
                    run = await self.send_once(entry_id, at_once(partial(self._sent, api, entry_id, request)))
                    return Creation(run, deduplicated=False)
                case Known(entry=entry, by_key=by_key):
                    if not by_key and force_new:
                        passed_over |= {entry.entry_id}
                        continue
                    run = await self._run_of(api, entry)
                    if run is not None and (by_key or run.is_active):
                        return Creation(run, deduplicated=True, by_key=by_key)
                    if run is not None:
                        passed_over |= {entry.entry_id}
                case KeyConflict() | OverSpent() | TooManyActive() as no:
                    raise self.refusal(no, intent, limits, intent.processor)

    async def is_answered(self, api: ParallelApi, intent: Intent) -> bool:
        """Whether an earlier create answers this one, so that nothing will be bought.

        Raises:
            LedgerUnavailable: Nobody can say.
        """
        match await self.begun(intent, NOTHING_NEW, frozenset()):
            case Known(entry=entry, by_key=False) if entry.state == "created":
                return (await _remembered(api, entry)).is_active
            case begun:
                return isinstance(begun, Known | KeyConflict)

    async def note(self, owner: str, run: TaskRun) -> None:
        """Free the place of a run that has been seen to have ended, waiting only a moment for the ledger."""
        if not run.is_active:
            await self.note_end(owner, run.run_id)

    async def note_group(self, owner: str, group: TaskGroup) -> None:
        """Free the place of a group none of whose runs is active, as `note` does."""
        if group.status.num_task_runs and not group.status.is_active:
            await self.note_end(owner, group.taskgroup_id)

    async def note_end(self, owner: str, handle: str) -> None:
        """Free the place of what has been seen to have ended, as `note` does."""
        noted = anyio.Event()
        self._tasks.start_soon(self._note_ended, owner, handle, noted)
        with anyio.move_on_after(NOTE_S):
            await noted.wait()

    async def _note_ended(self, owner: str, handle: str, noted: anyio.Event) -> None:
        try:
            await self.ledger.note_ended(owner, handle)
        except Exception as error:  # a read is not worth failing for it, still less the server
            logger.info("The end of a run was not noted: %s", type(error).__name__)
        noted.set()

    def limits(self, price_usd: float, *, approved_usd: float) -> Limits:
        """The limits for a create: above the limit of one call nothing new is begun for more than the user approved."""
        settings = self._settings
        if is_dear(price_usd, settings) and price_usd > approved_usd + FREE_USD:
            return NOTHING_NEW
        return Limits(settings.max_usd_per_hour, settings.max_usd_per_day, settings.max_active_runs)

    def refusal(
        self, no: KeyConflict | OverSpent | TooManyActive, intent: Intent, limits: Limits, what: str
    ) -> ResearchError:
        """Why nothing was begun, for the caller; `what` is that which would have been bought."""
        match no:
            case KeyConflict():
                return IdempotencyConflict("This idempotency_key was already used for another request")
            case OverSpent() if limits is NOTHING_NEW:
                return OverBudget(
                    f"{what} costs ${intent.price_usd:.3f}, above the limit of ${self._settings.max_usd_per_call:.2f} "
                    f"for one call ({env_name('max_usd_per_call')}). "
                    + (never_fits(intent.price_usd, self._settings) or "Nothing was sent")
                )
            case OverSpent() as exceeded:
                return _over_budget(intent, exceeded, self._settings)
            case TooManyActive() as exceeded:
                return TooManyRuns(
                    f"{exceeded.active} runs are active, and {env_name('max_active_runs')} allows "
                    f"{exceeded.limit}. Nothing was sent"
                )

    def finish_within(self, seconds: float) -> None:
        """Give the creates on their way so much time; what is not answered by then has an unknown outcome."""
        self._stop_at = anyio.current_time() + seconds
        for scope in (*(on_its_way.scope for on_its_way in self._on_their_way.values()), *self._settling):
            scope.deadline = self._stop_at

    async def begun(self, intent: Intent, limits: Limits, passed_over: frozenset[str]) -> Begun:
        """What the ledger says; a caller who leaves meanwhile must not leave an intent behind that nobody sends."""
        begun: Begun | None = None
        with anyio.CancelScope(shield=True):
            begun = await self.ledger.begin(intent, limits, ignore=passed_over)
        assert begun is not None  # the scope has no deadline
        if isinstance(begun, New):
            self._owners[begun.entry_id] = intent.owner
        return begun

    # ---- sending

    async def send_once(self, entry_id: str, prepare: Prepare[_Made]) -> _Made:
        """Send the create in a task of its own, which outlives the caller, and wait for its outcome."""
        on_its_way = _OnItsWay[_Made]()
        self._on_their_way[entry_id] = cast("_OnItsWay[object]", on_its_way)
        self._tasks.start_soon(self._send_and_settle, entry_id, prepare, on_its_way)
        return await on_its_way.made()

    def on_its_way(self, entry_id: str) -> Callable[[], Awaitable[object]] | None:
        """What to wait for, for the outcome of a create that this process has sent and that is not answered yet."""
        on_its_way = self._on_their_way.get(entry_id)
        return on_its_way.made if on_its_way else None

    async def _send_and_settle(self, entry_id: str, prepare: Prepare[_Made], on_its_way: _OnItsWay[_Made]) -> None:
        state: EntryState = "failed"
        try:
            # neither a caller who leaves nor a server that stops cuts it off
            with on_its_way.scope:
                send = await prepare()
                state, on_its_way.is_being_sent = "unknown", True
                on_its_way.outcome = await send()
                state = on_its_way.outcome.state
        except OutcomeUnknown as error:
            on_its_way.error = error
        except ResearchError as error:
            on_its_way.error, state = error, "failed"
        except Exception:  # a fault of ours, in a task of its own: it must not end the server
            logger.exception("A create failed in this server")
        finally:
            try:
                made = on_its_way.outcome
                with anyio.CancelScope(shield=True):
                    await self.settle(entry_id, state, made.handle if made else "", made.price_usd if made else None)
            finally:
                on_its_way.done.set()
                del self._on_their_way[entry_id]

    async def settle(self, entry_id: str, state: EntryState, handle: str = "", price_usd: float | None = None) -> None:
        """Write an outcome down, now or, if the ledger cannot be used, later."""
        try:
            await self.ledger.settle(entry_id, state, handle, price_usd=price_usd)
        except Exception as error:  # also a fault of ours: the outcome must not be lost, nor the server ended
            logger.warning("The outcome of a create is not written down yet: %s", type(error).__name__)
            self._tasks.start_soon(self._settle_later, entry_id, state, handle, price_usd)
        if owner := self._owners.pop(entry_id, ""):
            self._changes.tell(owner)

    async def _settle_later(self, entry_id: str, state: EntryState, handle: str, price_usd: float | None) -> None:
        """Try again while the server runs: until then a repeat finds an intent, which counts as unknown."""
        reason = "the server is being stopped"
        with anyio.CancelScope(shield=True, deadline=self._stop_at) as scope:
            self._settling.add(scope)
            for pause_s in SETTLE_AGAIN_S:
                await anyio.sleep(pause_s)
                try:
                    await self.ledger.settle(entry_id, state, handle, price_usd=price_usd)
                except Exception as error:  # also a fault of ours: it must not end the server, nor other creates
                    reason = type(error).__name__
                else:
                    self._settling.discard(scope)
                    return
        self._settling.discard(scope)
        logger.error(
            "The create %s ended as %s (%s), which the ledger could not be told: %s", entry_id, state, handle, reason
        )

    async def _sent(self, api: ParallelApi, entry_id: str, request: TaskRunInput) -> Outcome[TaskRun]:
        if self._settings.safe_create == "plain":
            run = await api.create_run(request)
        else:
            run = await self._sent_into_group(api, entry_id, request)
        return Outcome(run, run.run_id)

    async def _sent_into_group(self, api: ParallelApi, entry_id: str, request: TaskRunInput) -> TaskRun:
        """Put the run into a group of its own, whose id is written down first: a lost answer can be read back."""
        group = await api.create_group({"mcp_op": entry_id})
        await self.ledger.attach_group(entry_id, group.taskgroup_id)
        try:
            added = await api.add_runs(group.taskgroup_id, [request], refresh_status=False)
            run_id = added.run_ids[0] if added.run_ids else await self._read_back(api, group.taskgroup_id)
        except OutcomeUnknown:
            run_id = await self._read_back(api, group.taskgroup_id)
            if not run_id:
                raise
        if not run_id:
            raise OutcomeUnknown("The create was sent into a task group, but the answer names no run")
        await self.settle(entry_id, "created", run_id)  # before the next request, which may take its time
        return await _retrieved(api, run_id, request.processor)

    async def _read_back(self, api: ParallelApi, group_id: str) -> str:
        """The run that a lost answer was about, if it appears in its group; a group may take a while to show it."""
        for pause_s in api.read_back_s:
            await anyio.sleep(pause_s)
            if run_id := await _run_in_group(api, group_id):
                return run_id
        return ""

    # ---- finding what an earlier create made

    async def _run_of(self, api: ParallelApi, entry: Entry) -> TaskRun | None:
        """The run of an earlier create; None if that turned out to have failed, so that another may be begun.

        Raises:
            OutcomeUnknown: Nobody knows whether there is one.
        """
        if on_its_way := self._on_their_way.get(entry.entry_id):
            return cast("TaskRun", await on_its_way.made())  # equal requests make the same kind of thing
        settled = await self.settled_elsewhere(entry)
        if settled is None or settled.state == "failed":
            return None
        if settled.state == "created":
            return await _remembered(api, settled)
        if settled.group_id and (run_id := await _run_in_group(api, settled.group_id)):
            await self.ledger.settle(settled.entry_id, "created", run_id)
            return await _retrieved(api, run_id, settled.processor)
        if settled.state == "intent" and settled.age_s < LONGEST_CREATE_S:
            raise StillCreating("An equal create is on its way in another process; nothing was sent now")
        raise OutcomeUnknown("An equal create was sent before, and its outcome is unknown; nothing was sent now")

    async def settled_elsewhere(self, entry: Entry) -> Entry | None:
        """The entry once another process has settled it, or as it stands if that takes too long or never comes."""
        current: Entry | None = entry
        pause_s = 0.05
        with anyio.move_on_after(max(0.0, OTHER_PROCESS_S - entry.age_s)):
            while current is not None and current.state == "intent":
                await anyio.sleep(pause_s)
                pause_s = min(1.0, pause_s * 2)
                current = await self.ledger.entry(entry.entry_id)
        return current


async def _run_in_group(api: ParallelApi, group_id: str) -> str:
    """The id of the first run in a group, or nothing if it has none or cannot be read."""
    try:
        with anyio.move_on_after(READ_BACK_TIMEOUT_S):
            async with api.group_runs(group_id) as events:
                async for event in events:
                    if isinstance(event, RunStateEvent):
                        return event.run.run_id
    except UpstreamError as error:
        logger.info("A task group could not be read back: %s", error)
    return ""


async def _remembered(api: ParallelApi, entry: Entry) -> TaskRun:
    """The state of a run that an entry names. One that the API does not know, though it had time to, is gone."""
    try:
        return await api.retrieve_run(entry.handle)
    except NotFound:
        is_gone = entry.age_s > SHOWN_WITHIN_S
        return _unread(entry.handle, entry.processor, "not_found" if is_gone else "queued", is_active=not is_gone)
    except UpstreamError as error:
        logger.info("A known run could not be read: %s", error)
        return _unread(entry.handle, entry.processor)


async def _retrieved(api: ParallelApi, run_id: str, processor: str) -> TaskRun:
    """The state of a run that is known to exist. One that cannot be read just now counts as active: it is not lost."""
    try:
        return await api.retrieve_run(run_id)
    except UpstreamError as error:
        logger.info("A known run could not be read: %s", error)
        return _unread(run_id, processor)


def _unread(run_id: str, processor: str, status: str = "queued", *, is_active: bool = True) -> TaskRun:
    return TaskRun(run_id=run_id, interaction_id=run_id, status=status, is_active=is_active, processor=processor)


def is_dear(price_usd: float, settings: Settings) -> bool:
    """Whether a create costs more than one call may without the user's approval."""
    return 0 < settings.max_usd_per_call < price_usd - FREE_USD


def never_fits(price_usd: float, settings: Settings) -> str:
    """Why waiting makes no room for a price: it exceeds all that an hour or a day may cost. Empty if it does not."""
    limits: dict[Period, float] = {"hour": settings.max_usd_per_hour, "day": settings.max_usd_per_day}
    for period, limit_usd in limits.items():
        if 0 < limit_usd < price_usd - FREE_USD:
            return (
                f"${price_usd:.3f} is more than all that one {period} may cost, ${limit_usd:.2f} "
                f"({env_name(f'max_usd_per_{period}')}), so waiting makes no room for it. Nothing was sent"
            )
    return ""


def _over_budget(intent: Intent, exceeded: OverSpent, settings: Settings) -> OverBudget:
    if never := never_fits(intent.price_usd, settings):
        return OverBudget(never)
    minutes = exceeded.frees_in_s / 60
    wait = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return OverBudget(
        f"${intent.price_usd:.3f} more would exceed the limit of ${exceeded.limit_usd:.2f} per {exceeded.period} "
        f"({env_name(f'max_usd_per_{exceeded.period}')}): ${exceeded.spent_usd:.3f} are spent or reserved. "
        f"Nothing was sent. Room for it is free in {wait} at the earliest"
    )
