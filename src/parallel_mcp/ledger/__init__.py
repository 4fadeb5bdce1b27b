"""What we have created and spent.

A create is written down as an intent before it is sent, with its price reserved in the same step. It ends as `created`
(the run is known), `failed` (surely not created; the reservation is released) or `unknown` (sent, answer lost; the
reservation stays for an hour). An intent whose process died stays an intent, and counts as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

EntryState = Literal["intent", "created", "failed", "unknown"]
Period = Literal["hour", "day"]

HOUR_S = 3_600.0
DAY_S = 86_400.0
PERIODS: dict[Period, float] = {"hour": HOUR_S, "day": DAY_S}
SAME_REQUEST_S = 600.0
KEPT_S = 30 * DAY_S
FREE_USD = 1e-9  # sums of prices in binary fractions: a billionth of a dollar is nothing


@dataclass(frozen=True)
class Intent:
    """A create about to be sent: a run, the rows of a group, or an addition.

    `owner` is a keyed hash of the API key, never the key. `lasts_s` is how long it counts as active at most, and `runs`
    as how many active runs: a group counts as one, however often it is added to. `group_id` is the group or FindAll run
    that it adds to, if that is there already: whoever else adds to it finds this intent from its first moment.
    """

    owner: str
    fingerprint: str
    idempotency_key: str
    processor: str
    price_usd: float
    lasts_s: float
    title: str = ""
    runs: int = 1
    group_id: str = ""


@dataclass(frozen=True)
class Entry:
    """A create as the ledger knows it. `created_at` is wall-clock time in seconds, for display; `age_s` is its age."""

    entry_id: str
    fingerprint: str
    idempotency_key: str
    processor: str
    price_usd: float
    title: str
    state: EntryState
    handle: str
    group_id: str
    created_at: float
    age_s: float


@dataclass(frozen=True)
class Limits:
    """Most that one owner's creates may cost within a rolling hour and day, and most active runs; 0 = no limit."""

    usd_per_hour: float = 0
    usd_per_day: float = 0
    active_runs: int = 0


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
class OverSpent:
    """The price would exceed a limit. `frees_in_s`: when enough of it will have been freed; the period if never."""

    period: Period
    limit_usd: float
    spent_usd: float
    frees_in_s: float


@dataclass(frozen=True)
class TooManyActive:
    """So many runs are active that no more may be started."""

    limit: int
    active: int


Begun = New | Known | KeyConflict | OverSpent | TooManyActive


class Ledger(Protocol):
    """The interface every ledger has. All methods raise `LedgerUnavailable` when it cannot be reached."""

    async def begin(self, intent: Intent, limits: Limits, *, ignore: frozenset[str] = frozenset()) -> Begun:
        """Write an intent down and reserve its price, in one step, unless an earlier create answers it.

        `ignore` names entries that do not count as an answer.
        """
        ...

    async def attach_group(self, entry_id: str, group_id: str) -> bool:
        """Note the task group into which the runs of an intent will be put, if it was not there at the begin.

        Says whether it is an intent still; if another process has given it up, nothing may be sent.
        """
        ...

    async def give_up(self, entry_id: str) -> bool:
        """Settle as failed what no group was attached to and what has no known outcome, in one step.

        Says whether it has failed, so that nothing was sent and nothing will be.
        """
        ...

    async def settle(
        self, entry_id: str, state: EntryState, handle: str = "", *, price_usd: float | None = None
    ) -> None:
        """Write the outcome of a create down. A known outcome is never overwritten by `unknown`.

        A price takes the place of the reserved one: a part of a group may have been refused.
        """
        ...

    async def of_group(self, owner: str, group_id: str) -> list[Entry]:
        """What an owner has added, or may have added, to a task group or FindAll run in the last ten minutes.

        The last to begin comes first.
        """
        ...

    async def entry(self, entry_id: str) -> Entry | None:
        """One entry as it stands."""
        ...

    async def note_ended(self, owner: str, handle: str) -> None:
        """A run was seen to have ended: it no longer counts as active."""
        ...

    async def recent(self, owner: str, limit: int) -> list[Entry]:
        """The newest creates of an owner that made something, each handle once, or may have, without a handle."""
        ...

    async def spent(self, owner: str) -> Spent:
        """What an owner's creates cost in the last hour and day."""
        ...

    async def aclose(self) -> None:
        """Let go of the file or the connection."""
        ...


def wait_for_room(charges: list[tuple[float, float]], room_usd: float, period_s: float) -> float:
    """Seconds until charges (age, price), oldest first, fit into the room: 0 if they do, the period if never."""
    spent = sum(price for _, price in charges)
    if spent <= room_usd + FREE_USD:
        return 0
    for age_s, price in charges:
        spent -= price
        if spent <= room_usd + FREE_USD:
            return period_s - age_s
    return period_s
