"""What we have created and spent.

A create is written down as an intent before it is sent, with its price reserved in the same step. It ends as `created`
(the run is known), `failed` (surely not created; the reservation is released) or `unknown` (sent, answer lost).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

EntryState = Literal["intent", "created", "failed", "unknown"]


@dataclass(frozen=True)
class Intent:
    """A create about to be sent. `owner` is a keyed hash of the API key, never the key."""

    owner: str
    fingerprint: str
    idempotency_key: str
    processor: str
    price_usd: float
    title: str


@dataclass(frozen=True)
class Entry:
    """A create as the ledger knows it. `created_at` is wall-clock time in seconds, for display."""

    entry_id: str
    intent: Intent
    state: EntryState
    handle: str
    created_at: float


@dataclass(frozen=True)
class Limits:
    """Most dollars of one owner's creates within a rolling hour and day; 0 = no limit."""

    usd_per_hour: float
    usd_per_day: float


@dataclass(frozen=True)
class Spent:
    """Dollars of one owner's creates, reservations included."""

    usd_last_hour: float
    usd_last_day: float


@dataclass(frozen=True)
class New:
    """The intent is written down and its price reserved: send it, then settle `entry_id`."""

    entry_id: str


@dataclass(frozen=True)
class Known:
    """An earlier create answers this one: the same idempotency key, or the same request within ten minutes."""

    entry: Entry
    by_key: bool


@dataclass(frozen=True)
class KeyConflict:
    """The idempotency key belongs to another request."""


@dataclass(frozen=True)
class LimitReached:
    """The price would exceed a limit. `frees_in_s`: when enough of it will have been freed."""

    period: Literal["hour", "day"]
    limit_usd: float
    spent_usd: float
    frees_in_s: float


Begun = New | Known | KeyConflict | LimitReached


class Ledger(Protocol):
    """The interface every ledger has."""

    async def begin(self, intent: Intent, limits: Limits, *, ignore: frozenset[str] = frozenset()) -> Begun:
        """Write an intent down and reserve its price, in one step, unless an earlier create answers it.

        `ignore` names entries that do not count as an answer.
        """
        ...

    async def settle(self, entry_id: str, state: EntryState, handle: str = "") -> None:
        """Write the outcome of a create down."""
        ...

    async def settled(self, entry_id: str) -> None:
        """Wait until the outcome of a create is known, however it ended."""
        ...

    async def recent(self, owner: str, limit: int) -> list[Entry]:
        """The newest creates of an owner that have a handle."""
        ...

    async def spent(self, owner: str) -> Spent:
        """What an owner's creates cost in the last hour and day."""
        ...
