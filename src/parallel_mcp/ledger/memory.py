"""The ledger of one process, forgotten when it ends."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio

from parallel_mcp.ledger import (
    Begun,
    Entry,
    EntryState,
    Intent,
    KeyConflict,
    Known,
    LimitReached,
    Limits,
    New,
    Spent,
)

HOUR_S = 3_600.0
DAY_S = 86_400.0
SAME_REQUEST_S = 600.0


@dataclass
class _Record:
    entry: Entry
    at: float
    settled: anyio.Event = field(default_factory=anyio.Event)


class MemoryLedger:
    """Entries in the order of their creation. No step awaits between looking and writing, so each is atomic.

    Ages are measured on a monotonic clock: setting the machine's clock frees no budget.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}

    async def begin(self, intent: Intent, limits: Limits, *, ignore: frozenset[str] = frozenset()) -> Begun:
        """See `Ledger.begin`."""
        self._sweep()
        known = self._answering(intent, ignore)
        if known is not None:
            return known
        reached = self._reached(intent, limits)
        if reached is not None:
            return reached
        entry = Entry(uuid.uuid4().hex, intent, "intent", "", time.time())
        self._records[entry.entry_id] = _Record(entry, self._clock())
        return New(entry.entry_id)

    async def settle(self, entry_id: str, state: EntryState, handle: str = "") -> None:
        """See `Ledger.settle`."""
        record = self._records[entry_id]
        record.entry = replace(record.entry, state=state, handle=handle)
        record.settled.set()

    async def settled(self, entry_id: str) -> None:
        """See `Ledger.settled`."""
        if record := self._records.get(entry_id):
            await record.settled.wait()

    async def recent(self, owner: str, limit: int) -> list[Entry]:
        """See `Ledger.recent`."""
        entries = (record.entry for record in reversed(self._records.values()))
        named = [entry for entry in entries if entry.intent.owner == owner and entry.handle]
        return list({entry.handle: entry for entry in named}.values())[:limit]

    async def spent(self, owner: str) -> Spent:
        """See `Ledger.spent`."""
        return Spent(
            usd_last_hour=sum(price for _, price in self._charges(owner, HOUR_S)),
            usd_last_day=sum(price for _, price in self._charges(owner, DAY_S)),
        )

    def _answering(self, intent: Intent, ignore: frozenset[str]) -> Known | KeyConflict | None:
        for record in reversed(self._records.values()):
            entry = record.entry
            if entry.intent.owner != intent.owner or entry.state == "failed" or entry.entry_id in ignore:
                continue
            if intent.idempotency_key:
                if entry.intent.idempotency_key == intent.idempotency_key:
                    same = entry.intent.fingerprint == intent.fingerprint
                    return Known(entry, by_key=True) if same else KeyConflict()
            elif entry.intent.fingerprint == intent.fingerprint and self._clock() - record.at < SAME_REQUEST_S:
                return Known(entry, by_key=False)
        return None

    def _reached(self, intent: Intent, limits: Limits) -> LimitReached | None:
        if limits.usd_per_hour:
            charges = self._charges(intent.owner, HOUR_S)
            if (frees_in_s := _wait_for(charges, limits.usd_per_hour - intent.price_usd, HOUR_S)) > 0:
                return LimitReached("hour", limits.usd_per_hour, sum(price for _, price in charges), frees_in_s)
        if limits.usd_per_day:
            charges = self._charges(intent.owner, DAY_S)
            if (frees_in_s := _wait_for(charges, limits.usd_per_day - intent.price_usd, DAY_S)) > 0:
                return LimitReached("day", limits.usd_per_day, sum(price for _, price in charges), frees_in_s)
        return None

    def _charges(self, owner: str, period_s: float) -> list[tuple[float, float]]:
        """Age and price of each create of the period that may have to be paid."""
        now = self._clock()
        return [
            (now - record.at, record.entry.intent.price_usd)
            for record in self._records.values()
            if record.entry.intent.owner == owner and record.entry.state != "failed" and now - record.at < period_s
        ]

    def _sweep(self) -> None:
        now = self._clock()
        for entry_id in [key for key, record in self._records.items() if now - record.at >= DAY_S]:
            del self._records[entry_id]


def _wait_for(charges: list[tuple[float, float]], room_usd: float, period_s: float) -> float:
    """Seconds until the charges of a period, oldest first, fit into the room; 0 if they do, the period if never."""
    spent = sum(price for _, price in charges)
    if spent <= room_usd + 1e-9:
        return 0
    for age, price in charges:
        spent -= price
        if spent <= room_usd + 1e-9:
            return period_s - age
    return period_s
