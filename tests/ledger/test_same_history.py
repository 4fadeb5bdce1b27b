"""The ledgers compared with each other: whatever happens to them, they say the same."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallel_mcp.ledger import DAY_S, HOUR_S, Entry, EntryState, Known, Ledger, Limits, New, OverSpent, Spent
from parallel_mcp.ledger.redis import RedisLedger
from parallel_mcp.ledger.sqlite import IN_MEMORY, SqliteLedger
from tests.ledger.conftest import FakeClock, RedisServer
from tests.ledger.intents import an_intent

HISTORIES = 60
LIMITS = Limits(usd_per_hour=1.5, usd_per_day=4.0, active_runs=6)
STATES: tuple[EntryState, ...] = ("created", "failed", "unknown")


@dataclass
class Told:
    """A ledger, and its entries by the order in which it made them: their ids are its own affair."""

    ledger: Ledger
    owner: str
    entry_ids: list[str] = field(default_factory=list[str])

    def entry_id(self, number: int) -> str:
        return self.entry_ids[number % len(self.entry_ids)] if self.entry_ids else "nothing"

    def plain(self, answer: Any) -> Any:
        """An answer as every ledger should give it."""
        match answer:
            case New(entry_id=entry_id):
                self.entry_ids.append(entry_id)
                return "new"
            case Known(entry=entry, by_key=by_key):
                return by_key, self.plain(entry)
            case Entry(entry_id=entry_id):
                return replace(answer, entry_id=str(self.entry_ids.index(entry_id)), age_s=round(answer.age_s, 3))
            case OverSpent(frees_in_s=frees_in_s, spent_usd=spent_usd):
                return replace(answer, frees_in_s=round(frees_in_s, 3), spent_usd=round(spent_usd, 6))
            case Spent(usd_last_hour=hour, usd_last_day=day):
                return round(hour, 6), round(day, 6)
            case [*entries]:
                return [self.plain(entry) for entry in entries]
            case _:
                return answer


Step = Callable[[Told], Awaitable[Any]]
numbers = st.integers(0, 12)


def begin(request: int, key: str, usd: float, runs: int, lasts_s: float, group_id: str, ignored: list[int]) -> Step:
    async def step(told: Told) -> Any:
        of_run: dict[str, Any] = {"price_usd": usd, "runs": runs, "lasts_s": lasts_s}
        intent = an_intent(f"{request}", owner=told.owner, key=key, group_id=group_id, **of_run)
        return await told.ledger.begin(intent, LIMITS, ignore=frozenset(map(told.entry_id, ignored)))

    return step


def settle(number: int, state: EntryState, handle: str, price_usd: float | None) -> Step:
    return lambda told: told.ledger.settle(
        told.entry_id(number), state, handle if state == "created" else "", price_usd=price_usd
    )


def note_ended(handle: str) -> Step:
    return lambda told: told.ledger.note_ended(told.owner, handle)


def attach_group(number: int) -> Step:
    return lambda told: told.ledger.attach_group(told.entry_id(number), f"tgrp_{number}")


def give_up(number: int) -> Step:
    return lambda told: told.ledger.give_up(told.entry_id(number))


begins = st.builds(
    begin,
    st.integers(0, 5),
    st.sampled_from(["", "", "k-1", "k-2"]),
    st.sampled_from([0.005, 0.1, 0.3, 1.2]),
    st.sampled_from([1, 1, 3]),
    st.sampled_from([60.0, 1_000.0, 9_000.0]),
    st.sampled_from(["", "", "tgrp_1", "tgrp_2"]),
    st.lists(numbers, max_size=2),
)
handles = st.sampled_from(["trun_1", "trun_2", "trun_3", "tgrp_1"])
paid = st.sampled_from([None, None, 0.0, 0.05])
times = st.sampled_from([1.0, 60.0, 599.0, 601.0, HOUR_S / 2, HOUR_S, 5 * HOUR_S, DAY_S, 16 * DAY_S])
steps = st.one_of(
    begins,
    begins,
    st.builds(settle, numbers, st.sampled_from(STATES), handles, paid),
    st.builds(settle, numbers, st.just("created"), handles, paid),
    st.builds(note_ended, handles),
    st.builds(attach_group, numbers),
    st.builds(give_up, numbers),
    times,
)


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, min_size=5, max_size=40))
async def test_redis_tells_of_any_history_what_the_ledger_in_memory_tells(
    redis_server: RedisServer, history: list[Step | float]
) -> None:
    """They share no line of code, so that what one of them gets wrong the other contradicts."""
    clock = FakeClock()
    redis = Told(RedisLedger(redis_server.url, clock), uuid.uuid4().hex)
    memory = Told(SqliteLedger(IN_MEMORY, clock), redis.owner)

    for step in history:
        if isinstance(step, (int, float)):
            clock.advance(step)
        else:
            assert redis.plain(await step(redis)) == memory.plain(await step(memory))
        for look in (_recent, _spent, _entries, _of_groups):
            assert redis.plain(await look(redis)) == memory.plain(await look(memory))

    await redis.ledger.aclose()
    await memory.ledger.aclose()


async def _recent(told: Told) -> list[Entry]:
    return await told.ledger.recent(told.owner, 2)


async def _spent(told: Told) -> Spent:
    return await told.ledger.spent(told.owner)


async def _entries(told: Told) -> list[Entry | None]:
    return [await told.ledger.entry(entry_id) for entry_id in told.entry_ids[-4:]]


async def _of_groups(told: Told) -> list[Entry]:
    return [entry for number in range(4) for entry in await told.ledger.of_group(told.owner, f"tgrp_{number}")]
