"""The ledger in Redis: several servers over it, and what happens when it goes away and comes back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from socket import AddressFamily
from typing import cast
from urllib.parse import quote

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from parallel_mcp.errors import LedgerUnavailable
from parallel_mcp.ledger import HOUR_S, KEPT_S, Begun, Known, Ledger, Limits, New, OverSpent, Spent, TooManyActive
from parallel_mcp.ledger.redis import RedisLedger
from tests.ledger.conftest import FakeClock, RedisServer, redis_running
from tests.ledger.intents import NO_LIMITS, an_intent, at_once, begun, created, known, spent

OWNER = "owner-1"
PASSWORD = "hush/qu@ck?brown"


async def test_two_servers_at_once_share_one_budget_and_one_run_a_key(
    redis_server: RedisServer, clock: FakeClock
) -> None:
    """A balancer spreads one user's calls over replicas; they must act as one."""
    replicas = [RedisLedger(redis_server.url, clock) for _ in range(2)]
    limits = Limits(usd_per_hour=1.0)

    def calls(ledger: Ledger, name: int) -> list[Callable[[], Awaitable[Begun]]]:
        priced = [an_intent(f"{name} {number}", price_usd=0.1) for number in range(20)]
        keyed = [an_intent("the same", owner="owner-2", key="k")] * 20
        return [partial(ledger.begin, intent, limits) for intent in priced + keyed]

    answers = await at_once([call for name, replica in enumerate(replicas) for call in calls(replica, name)])

    assert Counter(type(answer) for answer in answers) == {New: 11, OverSpent: 30, Known: 39}
    assert await replicas[0].spent(OWNER) == await replicas[1].spent(OWNER)
    for replica in replicas:
        await replica.aclose()


async def test_entry_of_one_server_is_settled_and_seen_by_another(redis_server: RedisServer, clock: FakeClock) -> None:
    """A repeat of a call may arrive anywhere; it waits for what the first one is doing."""
    one, other = RedisLedger(redis_server.url, clock), RedisLedger(redis_server.url, clock)
    entry_id = await begun(one, an_intent(key="k"))

    assert known(await other.begin(an_intent(key="k"), NO_LIMITS)).state == "intent"
    await other.settle(entry_id, "created", "trun_1")

    entry = await one.entry(entry_id)
    assert entry is not None
    assert (entry.state, entry.handle) == ("created", "trun_1")
    await one.aclose()
    await other.aclose()


async def test_killed_redis_refuses_loses_nothing_and_is_used_again_when_it_is_back(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Without a ledger a create may be bought twice, so there is none until it is back; then all is known."""
    with redis_running(tmp_path) as server:
        ledger = RedisLedger(server.url, clock)
        await created(ledger, an_intent("trees", key="k", price_usd=0.3), "trun_1")
        on_its_way = await begun(ledger, an_intent("birds", price_usd=0.2))
        server.kill()

        with pytest.raises(LedgerUnavailable):
            await ledger.begin(an_intent("moss"), NO_LIMITS)
        with pytest.raises(LedgerUnavailable):
            await ledger.settle(on_its_way, "created", "trun_2")
        with pytest.raises(LedgerUnavailable):
            await ledger.recent(OWNER, 10)
        clock.advance(60)
        server.start()

        assert known(await ledger.begin(an_intent("trees", key="k"), NO_LIMITS)).handle == "trun_1"
        assert known(await ledger.begin(an_intent("birds"), NO_LIMITS)).age_s == 60
        await ledger.settle(on_its_way, "created", "trun_2")
        assert [entry.handle for entry in await ledger.recent(OWNER, 10)] == ["trun_2", "trun_1"]
        assert await spent(ledger) == Spent(0.5, 0.5)
        assert await ledger.begin(an_intent("moss"), Limits(active_runs=2)) == TooManyActive(2, 2)
        await ledger.aclose()


async def test_redis_killed_and_back_between_two_calls_is_not_noticed(tmp_path: Path, clock: FakeClock) -> None:
    """The connections in the pool are dead then, and the scripts unknown; neither is worth an error."""
    with redis_running(tmp_path) as server:
        ledger = RedisLedger(server.url, clock)
        await at_once([partial(ledger.begin, an_intent(f"{number}"), NO_LIMITS) for number in range(20)])

        server.kill()
        server.start()

        answers = await at_once([partial(ledger.begin, an_intent(f"more {number}"), NO_LIMITS) for number in range(20)])
        assert {type(answer) for answer in answers} == {New}
        assert await spent(ledger) == Spent(4.0, 4.0)
        await ledger.aclose()


async def test_begin_whose_answer_was_lost_writes_one_entry(redis_server: RedisServer, clock: FakeClock) -> None:
    """The connection breaks after Redis has carried it out: the repeat must not reserve twice, nor find itself."""
    lost: list[bytes] = []

    async def lose_the_first_new(client: SocketStream) -> None:
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", redis_server.port) as redis,
            anyio.create_task_group() as relaying,
        ):

            async def relay_requests() -> None:
                async for request in client:
                    await redis.send(request)
                relaying.cancel_scope.cancel()

            relaying.start_soon(relay_requests)
            async for answer in redis:
                if b"new" in answer and not lost:
                    lost.append(answer)
                    break
                await client.send(answer)
            relaying.cancel_scope.cancel()

    async with _serving(lose_the_first_new) as port:
        ledger = RedisLedger(f"redis://127.0.0.1:{port}", clock)

        entry_id = await begun(ledger, an_intent(key="k", price_usd=0.3))

        assert len(lost) == 1
        assert await spent(ledger) == Spent(0.3, 0.3)
        assert known(await ledger.begin(an_intent(key="k"), NO_LIMITS)).entry_id == entry_id
        await ledger.aclose()


async def test_caller_who_is_cancelled_still_leaves_the_outcome_written_down(
    redis_server: RedisServer, clock: FakeClock
) -> None:
    """A client that leaves must not cost the user the handle of a run that was paid."""
    ledger, connecting = RedisLedger(redis_server.url, clock), RedisLedger(redis_server.url, clock)
    entry_id = await begun(ledger, an_intent())

    async with anyio.create_task_group() as caller:
        caller.start_soon(connecting.settle, entry_id, "created", "trun_1")
        await anyio.lowlevel.cancel_shielded_checkpoint()
        caller.cancel_scope.cancel()

    entry = await ledger.entry(entry_id)
    assert entry is not None
    assert entry.handle == "trun_1"
    await ledger.aclose()
    await connecting.aclose()


async def test_wrong_password_is_reported_without_any_password(tmp_path: Path) -> None:
    """The error is shown to a model, and logged."""
    with redis_running(tmp_path, password="right") as server:
        ledger = RedisLedger(f"redis://default:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/0")

        with pytest.raises(LedgerUnavailable, match="AuthenticationError") as failure:
            await ledger.begin(an_intent(), NO_LIMITS)

        _tells_nothing(failure.value)
        await ledger.aclose()
        right = RedisLedger(server.url)
        await begun(right, an_intent())
        await right.aclose()


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}@127.0.0.1:1/0",
        f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={quote(PASSWORD, safe='')}",
        f"unix:///nowhere/{PASSWORD.replace('/', '-')}.sock",
        f"redis://{quote(PASSWORD, safe='')}.invalid:6379",
        f"other://:{quote(PASSWORD, safe='')}@127.0.0.1",
    ],
)
async def test_address_that_leads_nowhere_is_reported_without_any_password(url: str) -> None:
    """Also where the password was not quoted and so is taken for a host or a port."""
    ledger = RedisLedger(url)

    with pytest.raises(LedgerUnavailable) as failure:
        await ledger.begin(an_intent(), NO_LIMITS)

    _tells_nothing(failure.value)
    await ledger.aclose()


async def test_server_that_is_no_redis_is_reported(clock: FakeClock) -> None:
    """Another service may listen on that port."""

    async def answer_in_http(client: SocketStream) -> None:
        async with client:
            await client.receive()
            await client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with _serving(answer_in_http) as port:
        ledger = RedisLedger(f"redis://127.0.0.1:{port}", clock)
        with pytest.raises(LedgerUnavailable):
            await ledger.spent(OWNER)
        await ledger.aclose()


async def test_machines_with_different_wall_clocks_do_not_push_the_time_forward(redis_server: RedisServer) -> None:
    """A difference of a minute that counted at every turn would refill an hour's budget in minutes."""
    one, other = FakeClock("one", 100), FakeClock("other", 90_000, FakeClock().wall_s + 60)
    replicas = [RedisLedger(redis_server.url, clock) for clock in (one, other)]
    entry_id = await begun(replicas[0], an_intent())

    for _ in range(50):
        for replica in replicas:
            await replica.spent(OWNER)
        one.advance(1)
        other.advance(1)

    entry = await replicas[0].entry(entry_id)
    assert entry is not None
    assert 50 <= entry.age_s <= 50 + 60
    for replica in replicas:
        await replica.aclose()


async def test_machine_whose_wall_clock_was_far_ahead_does_not_stop_the_time_when_it_is_gone(
    redis_server: RedisServer,
) -> None:
    """Time that stood still until the others caught up would keep the budget used up for days."""
    one, other = FakeClock("one"), FakeClock("other", 90_000, FakeClock().wall_s + 30 * HOUR_S)
    staying, leaving = (RedisLedger(redis_server.url, clock) for clock in (one, other))
    await staying.spent(OWNER)
    entry_id = await begun(leaving, an_intent())
    await leaving.aclose()

    await staying.spent(OWNER)
    one.advance(HOUR_S)

    entry = await staying.entry(entry_id)
    assert entry is not None
    assert entry.age_s == HOUR_S
    await staying.aclose()


async def test_reading_that_arrives_late_changes_nothing(redis_server: RedisServer) -> None:
    """Calls overtake each other on the way to Redis; their clocks were read before."""
    late, early = FakeClock(), FakeClock()
    early.advance(5)
    earlier, later = RedisLedger(redis_server.url, early), RedisLedger(redis_server.url, late)
    entry_id = await begun(earlier, an_intent())

    late.set_wall(HOUR_S)
    await later.spent(OWNER)
    early.advance(10)

    entry = await earlier.entry(entry_id)
    assert entry is not None
    assert entry.age_s == 10
    await earlier.aclose()
    await later.aclose()


async def test_keys_of_an_owner_share_a_cluster_slot_and_expire(redis_server: RedisServer, clock: FakeClock) -> None:
    """A script may touch one node only; and who never comes back leaves nothing behind."""
    ledger = RedisLedger(redis_server.url, clock)

    await created(ledger, an_intent(key="k"), "trun_1")
    await begun(ledger, an_intent("birds"))

    keys: list[str] = redis_server.command("KEYS", "*")
    assert len(keys) == 10
    assert all(key.startswith("parallel-mcp:{owner-1}:") for key in keys), keys
    assert all(redis_server.command("TTL", key) > KEPT_S for key in keys)
    await ledger.aclose()


@asynccontextmanager
async def _serving(answer: Callable[[SocketStream], Awaitable[None]]) -> AsyncGenerator[int]:
    """A server for the length of the block; gives its port."""
    listener = cast(
        "SocketListener", await anyio.create_tcp_listener(local_host="127.0.0.1", family=AddressFamily.AF_INET)
    )
    async with listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, answer)
        yield listener.extra(SocketAttribute.local_port)
        serving.cancel_scope.cancel()


def _tells_nothing(error: LedgerUnavailable) -> None:
    chain = f"{error} {error!r} {error.__cause__!r}"
    for part in (PASSWORD, quote(PASSWORD, safe=""), *re.split(r"\W", PASSWORD)):
        assert part not in chain
