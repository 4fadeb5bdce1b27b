"""What every ledger does, whatever keeps it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallel_mcp.ledger import (
    DAY_S,
    HOUR_S,
    KEPT_S,
    SAME_REQUEST_S,
    Entry,
    EntryState,
    KeyConflict,
    Known,
    Ledger,
    Limits,
    New,
    OverSpent,
    Spent,
    TooManyActive,
)
from tests.ledger.conftest import FakeClock
from tests.ledger.intents import NO_LIMITS, an_intent, at_once, begun, created, known, spent

OWNER = "owner-1"


# ---- writing down


async def test_intent_is_written_down_in_full(ledger: Ledger, clock: FakeClock) -> None:
    """A server that starts again has nothing else to go by."""
    entry_id = await begun(ledger, an_intent("trees", key="k-1", price_usd=0.3, title="Bäume 🌲 'quoted'"))
    clock.advance(7)

    assert await ledger.entry(entry_id) == Entry(
        entry_id=entry_id,
        fingerprint="fingerprint of trees",
        idempotency_key="k-1",
        processor="core",
        price_usd=0.3,
        title="Bäume 🌲 'quoted'",
        state="intent",
        handle="",
        group_id="",
        created_at=1_800_000_000.0,
        age_s=7,
    )


async def test_outcome_and_group_are_written_to_the_entry(ledger: Ledger) -> None:
    """The handle is what the user gets back; the group is where a lost run is looked for."""
    entry_id = await begun(ledger, an_intent())

    await ledger.attach_group(entry_id, "tgrp_1")
    await ledger.settle(entry_id, "created", "trun_1")

    entry = await ledger.entry(entry_id)
    assert entry is not None
    assert (entry.state, entry.handle, entry.group_id) == ("created", "trun_1", "tgrp_1")


@pytest.mark.parametrize("entry_id", ["nothing", "owner-1.nothing"])
async def test_entry_that_was_never_begun_is_none_and_is_not_made_by_settling(ledger: Ledger, entry_id: str) -> None:
    """A swept entry may be settled late; that must neither fail nor bring half an entry back."""
    await ledger.settle(entry_id, "created", "trun_1")

    assert not await ledger.attach_group(entry_id, "tgrp_1")
    assert not await ledger.give_up(entry_id)
    assert await ledger.entry(entry_id) is None
    assert await ledger.recent(OWNER, 10) == []
    assert await spent(ledger) == Spent(0, 0)


@pytest.mark.parametrize("state", ["created", "failed"])
async def test_unknown_never_overwrites_a_known_outcome(ledger: Ledger, state: EntryState) -> None:
    """The answer may arrive while somebody else gives up waiting for it."""
    entry_id = await begun(ledger, an_intent())
    await ledger.settle(entry_id, state, "trun_1")

    await ledger.settle(entry_id, "unknown")

    entry = await ledger.entry(entry_id)
    assert entry is not None
    assert (entry.state, entry.handle) == (state, "trun_1")


async def test_run_found_later_turns_unknown_into_created(ledger: Ledger) -> None:
    """A lost answer can be read back; from then on the run is known and paid for."""
    entry_id = await begun(ledger, an_intent(key="k"))
    await ledger.settle(entry_id, "unknown")

    await ledger.settle(entry_id, "created", "trun_1")

    assert known(await ledger.begin(an_intent(key="k"), NO_LIMITS)).handle == "trun_1"


async def test_price_of_what_was_created_takes_the_place_of_the_reserved_one(ledger: Ledger) -> None:
    """Of a thousand rows eight hundred were refused: they must not fill the budget."""
    entry_id = await begun(ledger, an_intent(price_usd=10))

    await ledger.settle(entry_id, "created", "tgrp_1", price_usd=2.0)

    assert await spent(ledger) == Spent(2, 2)


async def test_what_was_put_into_a_group_is_found_by_its_group(ledger: Ledger) -> None:
    """Whoever adds to a group must know what is still open there; what was refused is not."""
    numbers = [await begun(ledger, an_intent(f"batch {number}")) for number in range(4)]
    for entry_id in numbers[:3]:
        await ledger.attach_group(entry_id, "tgrp_1")
    await ledger.settle(numbers[0], "created", "tgrp_1")
    await ledger.settle(numbers[1], "failed")

    found = await ledger.of_group(OWNER, "tgrp_1")

    assert [(entry.entry_id, entry.state) for entry in found] == [(numbers[2], "intent"), (numbers[0], "created")]
    assert await ledger.of_group("somebody else", "tgrp_1") == []


async def test_addition_is_seen_from_its_first_moment_and_in_its_turn(ledger: Ledger) -> None:
    """Of two processes that add to the same thing at once, each must know which of them came first."""
    intents = [an_intent(f"addition {number}", group_id="findall_1") for number in range(8)]
    answers = await at_once([partial(ledger.begin, intent, NO_LIMITS) for intent in intents])
    begun_ids = {answer.entry_id for answer in answers if isinstance(answer, New)}

    found = [entry.entry_id for entry in await ledger.of_group(OWNER, "findall_1")]
    last = await begun(ledger, an_intent("one more", group_id="findall_1"))

    assert set(found) == begun_ids
    assert len(found) == len(intents)
    assert [entry.entry_id for entry in await ledger.of_group(OWNER, "findall_1")] == [last, *found]


async def test_group_is_told_of_the_last_ten_minutes_only(ledger: Ledger, clock: FakeClock) -> None:
    """By then a group shows what it was given, and nobody should have to read a month of entries for it."""
    for number in range(3):
        await begun(ledger, an_intent(f"early {number}", group_id="tgrp_1"))
    clock.advance(1)
    late = [await begun(ledger, an_intent(f"late {number}", group_id="tgrp_1")) for number in range(150)]
    clock.advance(SAME_REQUEST_S - 1)

    found = await ledger.of_group(OWNER, "tgrp_1")
    clock.advance(1)

    assert [entry.entry_id for entry in found] == late[::-1]
    assert await ledger.of_group(OWNER, "tgrp_1") == []


async def test_create_is_given_up_or_goes_on_into_its_group_never_both(ledger: Ledger) -> None:
    """A process that was taken for dead may wake up at that very moment."""
    for number in range(20):
        entry_id = await begun(ledger, an_intent(f"rows {number}"))
        calls: list[Callable[[], Awaitable[bool]]] = [
            partial(ledger.attach_group, entry_id, "tgrp_1"),
            partial(ledger.give_up, entry_id),
        ]

        said = await at_once(calls if number % 2 else calls[::-1])

        entry = await ledger.entry(entry_id)
        assert entry is not None
        assert sum(said) == 1
        assert await ledger.give_up(entry_id) == (entry.state == "failed")


@pytest.mark.parametrize(("state", "is_given_up"), [("unknown", True), ("created", False), ("failed", True)])
async def test_known_outcome_is_not_given_up(ledger: Ledger, state: EntryState, is_given_up: bool) -> None:
    """And what is given up is paid by nobody."""
    entry_id = await begun(ledger, an_intent(price_usd=0.3))
    await ledger.settle(entry_id, state)

    assert await ledger.give_up(entry_id) == is_given_up
    assert await spent(ledger) == (Spent(0, 0) if is_given_up else Spent(0.3, 0.3))
    assert not await ledger.attach_group(entry_id, "tgrp_1")


# ---- the same again


async def test_same_key_is_answered_with_the_first_entry(ledger: Ledger, clock: FakeClock) -> None:
    """A key promises one run, for as long as the ledger remembers."""
    await created(ledger, an_intent(key="k"), "trun_1")
    clock.advance(29 * DAY_S)

    answer = await ledger.begin(an_intent(key="k"), NO_LIMITS)

    assert isinstance(answer, Known)
    assert (answer.by_key, answer.entry.handle, answer.entry.state) == (True, "trun_1", "created")


async def test_same_key_with_another_request_is_a_conflict(ledger: Ledger) -> None:
    """To hand out the first run would answer a question that was not asked."""
    await begun(ledger, an_intent("trees", key="k"))

    assert await ledger.begin(an_intent("birds", key="k"), NO_LIMITS) == KeyConflict()


@pytest.mark.parametrize("key", ["", "k"])
async def test_failed_create_frees_its_key_and_its_request(ledger: Ledger, key: str) -> None:
    """It surely created nothing, so a repeat must be sent, with another request even."""
    first = await begun(ledger, an_intent("trees", key=key))
    await ledger.settle(first, "failed")

    assert isinstance(await ledger.begin(an_intent("birds" if key else "trees", key=key), NO_LIMITS), New)


@pytest.mark.parametrize("key", ["", "k"])
async def test_intent_that_never_settles_answers_as_an_intent(ledger: Ledger, clock: FakeClock, key: str) -> None:
    """The process died: nobody knows, so it must not be sent again."""
    entry_id = await begun(ledger, an_intent(key=key))
    clock.advance(SAME_REQUEST_S - 1)

    entry = known(await ledger.begin(an_intent(key=key), NO_LIMITS))

    assert (entry.entry_id, entry.state) == (entry_id, "intent")


async def test_same_request_without_key_is_answered_for_ten_minutes(ledger: Ledger, clock: FakeClock) -> None:
    """A client that timed out asks again at once; somebody who asks tomorrow wants a new answer."""
    await created(ledger, an_intent(), "trun_1")

    clock.advance(SAME_REQUEST_S - 1)
    within = await ledger.begin(an_intent(), NO_LIMITS)
    clock.advance(1)
    after = await ledger.begin(an_intent(), NO_LIMITS)

    assert isinstance(within, Known)
    assert (within.by_key, within.entry.handle) == (False, "trun_1")
    assert isinstance(after, New)


async def test_another_request_is_not_answered(ledger: Ledger) -> None:
    """Only equal requests may share a run."""
    await begun(ledger, an_intent("trees"))

    assert isinstance(await ledger.begin(an_intent("birds"), NO_LIMITS), New)


async def test_request_without_key_is_answered_by_one_that_had_a_key(ledger: Ledger) -> None:
    """A model that leaves the key out when it repeats must not buy twice."""
    await created(ledger, an_intent(key="k"), "trun_1")

    answer = await ledger.begin(an_intent(), NO_LIMITS)

    assert isinstance(answer, Known)
    assert (answer.by_key, answer.entry.handle) == (False, "trun_1")


async def test_new_key_begins_a_new_create_of_the_same_request(ledger: Ledger) -> None:
    """A key of one's own says: this one is meant."""
    await created(ledger, an_intent(key="k-1"), "trun_1")

    assert isinstance(await ledger.begin(an_intent(key="k-2"), NO_LIMITS), New)


async def test_newest_entry_answers(ledger: Ledger) -> None:
    """After a forced new run, that is the one that a repeat means."""
    first = await created(ledger, an_intent(), "trun_1")
    again = await ledger.begin(an_intent(), NO_LIMITS, ignore=frozenset({first}))
    assert isinstance(again, New)
    await ledger.settle(again.entry_id, "created", "trun_2")

    assert known(await ledger.begin(an_intent(), NO_LIMITS)).handle == "trun_2"
    assert known(await ledger.begin(an_intent(), NO_LIMITS, ignore=frozenset({again.entry_id}))).handle == "trun_1"


@pytest.mark.parametrize("key", ["", "k"])
async def test_ignored_entries_do_not_answer(ledger: Ledger, key: str) -> None:
    """The caller has looked at them: their runs have ended, or a new one is wanted."""
    first = await created(ledger, an_intent(key=key), "trun_1")

    assert isinstance(await ledger.begin(an_intent(key=key), NO_LIMITS, ignore=frozenset({first})), New)


async def test_answer_by_an_earlier_create_comes_before_any_limit(ledger: Ledger) -> None:
    """It costs nothing; refusing it would hide a run that has been paid."""
    limits = Limits(usd_per_hour=0.1, usd_per_day=0.1, active_runs=1)
    await begun(ledger, an_intent(key="k"), limits)

    assert isinstance(await ledger.begin(an_intent(key="k"), limits), Known)


async def test_owners_share_nothing(ledger: Ledger) -> None:
    """Two callers of one server: neither sees the other's runs, keys or budget."""
    limits = Limits(usd_per_hour=0.1, active_runs=1)
    await created(ledger, an_intent(key="k"), "trun_1")

    other = an_intent(owner="owner-2", key="k")
    assert await spent(ledger, "owner-2") == Spent(0, 0)
    assert await ledger.recent("owner-2", 10) == []
    assert isinstance(await ledger.begin(other, limits), New)

    await ledger.note_ended("owner-2", "trun_1")
    assert isinstance(await ledger.begin(an_intent("birds"), Limits(active_runs=1)), TooManyActive)


# ---- money


async def test_hour_limit_refuses_what_would_exceed_it(ledger: Ledger, clock: FakeClock) -> None:
    """A model in a loop must not spend more than its operator allowed."""
    limits = Limits(usd_per_hour=1.0)
    for number in range(3):
        await begun(ledger, an_intent(f"ultra {number}", price_usd=0.3), limits)
        clock.advance(60)

    refused = await ledger.begin(an_intent("ultra 3", price_usd=0.3), limits)

    assert isinstance(refused, OverSpent)
    assert (refused.period, refused.limit_usd) == ("hour", 1.0)
    assert refused.spent_usd == pytest.approx(0.9)
    assert refused.frees_in_s == pytest.approx(HOUR_S - 180)
    assert await spent(ledger) == Spent(0.9, 0.9)


async def test_creating_works_again_when_the_refusal_said_so(ledger: Ledger, clock: FakeClock) -> None:
    """The wait that a refusal names is told to the user, so it has to be true to the second."""
    limits = Limits(usd_per_hour=1.0)
    for number in range(3):
        await created(ledger, an_intent(f"ultra {number}", price_usd=0.3), f"trun_{number}")
        clock.advance(60)
    refused = await ledger.begin(an_intent("big", price_usd=0.6), limits)
    assert isinstance(refused, OverSpent)
    assert refused.frees_in_s == pytest.approx(HOUR_S - 120), "two of the three have to leave"

    clock.advance(refused.frees_in_s - 1)
    assert isinstance(await ledger.begin(an_intent("big", price_usd=0.6), limits), OverSpent)
    clock.advance(1)

    assert isinstance(await ledger.begin(an_intent("big", price_usd=0.6), limits), New)


async def test_day_limit_holds_when_the_hour_has_passed(ledger: Ledger, clock: FakeClock) -> None:
    """Twenty-four allowed hours may be more than a day may cost."""
    limits = Limits(usd_per_hour=1.0, usd_per_day=1.5)
    await created(ledger, an_intent("first", price_usd=1.0), "trun_1")
    clock.advance(HOUR_S)

    refused = await ledger.begin(an_intent("second", price_usd=0.6), limits)

    assert refused == OverSpent("day", 1.5, 1.0, DAY_S - HOUR_S)
    assert await spent(ledger) == Spent(0, 1.0)
    assert isinstance(await ledger.begin(an_intent("second", price_usd=0.5), limits), New)
    clock.advance(DAY_S - HOUR_S)
    assert isinstance(await ledger.begin(an_intent("third", price_usd=1.0), limits), New)


async def test_price_above_the_whole_limit_never_fits(ledger: Ledger) -> None:
    """Then the whole period is named: waiting less is surely in vain."""
    refused = await ledger.begin(an_intent(price_usd=1.01), Limits(usd_per_day=1.0))

    assert refused == OverSpent("day", 1.0, 0, DAY_S)


async def test_prices_that_add_up_to_the_limit_fit(ledger: Ledger) -> None:
    """Ten dimes are a dollar, also in binary fractions."""
    limits = Limits(usd_per_hour=1.0)
    for number in range(10):
        await begun(ledger, an_intent(f"dime {number}", price_usd=0.1), limits)

    assert isinstance(await ledger.begin(an_intent("one more", price_usd=0.005), limits), OverSpent)


async def test_refused_create_leaves_nothing_behind(ledger: Ledger) -> None:
    """Nothing was reserved, and the same request is not answered by the refusal."""
    limits = Limits(usd_per_hour=0.1)
    assert isinstance(await ledger.begin(an_intent(key="k", price_usd=0.2), limits), OverSpent)

    assert await spent(ledger) == Spent(0, 0)
    assert isinstance(await ledger.begin(an_intent(key="k", price_usd=0.2), NO_LIMITS), New)


async def test_failed_create_gives_its_money_back_at_once(ledger: Ledger) -> None:
    """A refusal of the API costs nothing."""
    limits = Limits(usd_per_hour=1.0, usd_per_day=1.0)
    entry_id = await begun(ledger, an_intent("trees", price_usd=1.0), limits)

    await ledger.settle(entry_id, "failed")

    assert await spent(ledger) == Spent(0, 0)
    assert isinstance(await ledger.begin(an_intent("birds", price_usd=1.0), limits), New)


@pytest.mark.parametrize("settled", [True, False], ids=["unknown", "intent of a process that died"])
async def test_unknown_outcome_keeps_its_reservation_for_exactly_an_hour(
    ledger: Ledger, clock: FakeClock, settled: bool
) -> None:
    """It may have been bought; but a day's budget must not be lost to a broken connection."""
    limits = Limits(usd_per_day=1.0)
    entry_id = await begun(ledger, an_intent("trees", price_usd=0.7), limits)
    if settled:
        await ledger.settle(entry_id, "unknown")

    clock.advance(HOUR_S - 1)
    refused = await ledger.begin(an_intent("birds", price_usd=0.7), limits)
    clock.advance(1)

    assert refused == OverSpent("day", 1.0, 0.7, 1.0)
    assert await spent(ledger) == Spent(0, 0)
    assert isinstance(await ledger.begin(an_intent("birds", price_usd=0.7), limits), New)


async def test_run_found_after_the_hour_counts_for_the_day_again(ledger: Ledger, clock: FakeClock) -> None:
    """It was bought when its create was begun, and that was today."""
    entry_id = await begun(ledger, an_intent(price_usd=0.7))
    await ledger.settle(entry_id, "unknown")
    clock.advance(2 * HOUR_S)

    await ledger.settle(entry_id, "created", "trun_1")

    assert await spent(ledger) == Spent(0, 0.7)


@pytest.mark.parametrize("price_usd", [0.005, 0.3, 2.4])
async def test_fifty_at_once_use_the_budget_up_and_never_exceed_it(ledger: Ledger, price_usd: float) -> None:
    """Agents start fifty tasks at once; each looks at a budget that the others are spending."""
    limits = Limits(usd_per_hour=10.5 * price_usd)
    intents = [an_intent(f"request {number}", price_usd=price_usd) for number in range(50)]

    answers = await at_once([partial(ledger.begin, intent, limits) for intent in intents])

    assert Counter(type(answer) for answer in answers) == {New: 10, OverSpent: 40}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prices=st.lists(st.sampled_from([0.005, 0.01, 0.025, 0.1, 0.3, 1.2, 2.4]), min_size=50, max_size=50),
    hour_usd=st.floats(0.01, 20),
    day_usd=st.floats(0.01, 20),
)
async def test_fifty_at_once_of_any_price_never_exceed_any_limit(
    ledger: Ledger, prices: list[float], hour_usd: float, day_usd: float
) -> None:
    """The rule is about sums, so no choice of prices may get around it."""
    owner = uuid.uuid4().hex
    limits = Limits(hour_usd, day_usd)
    intents = [an_intent(f"{number}", owner=owner, price_usd=price) for number, price in enumerate(prices)]

    answers = await at_once([partial(ledger.begin, intent, limits) for intent in intents])

    total = (await ledger.spent(owner)).usd_last_hour
    assert total <= min(hour_usd, day_usd) + 1e-6
    refused = sum(isinstance(answer, OverSpent) for answer in answers)
    assert refused or total == pytest.approx(sum(prices))


async def test_same_key_twenty_at_once_begins_one_create(ledger: Ledger) -> None:
    """Twenty equal calls are one run; the others are told which."""
    answers = await at_once([partial(ledger.begin, an_intent(key="k"), NO_LIMITS)] * 20)

    new = [answer.entry_id for answer in answers if isinstance(answer, New)]
    others = [answer.entry.entry_id for answer in answers if isinstance(answer, Known)]
    assert len(new) == 1
    assert others == new * 19


# ---- active runs


async def test_as_many_runs_as_the_limit_may_be_active(ledger: Ledger) -> None:
    """Whatever starts several at once must fit in as a whole."""
    limits = Limits(active_runs=5)
    await begun(ledger, an_intent("one"), limits)
    await begun(ledger, an_intent("three at once", runs=3), limits)

    assert await ledger.begin(an_intent("two at once", runs=2), limits) == TooManyActive(5, 4)
    assert isinstance(await ledger.begin(an_intent("another"), limits), New)
    assert await ledger.begin(an_intent("one too many"), limits) == TooManyActive(5, 5)


async def test_run_counts_as_active_for_as_long_as_it_may_last(ledger: Ledger, clock: FakeClock) -> None:
    """Nobody may ever look at it; its place must come free all the same."""
    limits = Limits(active_runs=1)
    await created(ledger, an_intent("trees", lasts_s=9_000), "trun_1")

    clock.advance(9_000 - 1)
    assert await ledger.begin(an_intent("birds"), limits) == TooManyActive(1, 1)
    clock.advance(1)

    assert isinstance(await ledger.begin(an_intent("birds"), limits), New)


async def test_run_that_was_seen_to_end_is_no_longer_active(ledger: Ledger) -> None:
    """Its place is free at once, not when it might have ended at the latest."""
    limits = Limits(active_runs=2)
    await created(ledger, an_intent("trees"), "trun_1")
    await created(ledger, an_intent("birds"), "trun_2")

    await ledger.note_ended(OWNER, "trun_1")
    await ledger.note_ended(OWNER, "trun_unheard_of")

    assert isinstance(await ledger.begin(an_intent("fish"), limits), New)
    assert await ledger.begin(an_intent("moss"), limits) == TooManyActive(2, 2)


async def test_end_of_a_group_frees_all_that_was_put_into_it(ledger: Ledger) -> None:
    """Rows may be added to a group several times, under one handle."""
    limits = Limits(active_runs=1)
    await created(ledger, an_intent("rows"), "tgrp_1")
    await created(ledger, an_intent("more rows", group_id="tgrp_1"), "tgrp_1")
    assert await ledger.begin(an_intent("trees"), limits) == TooManyActive(1, 1)

    await ledger.note_ended(OWNER, "tgrp_1")

    assert isinstance(await ledger.begin(an_intent("trees"), limits), New)


async def test_group_counts_as_one_however_often_it_is_added_to(ledger: Ledger) -> None:
    """What is added while it is active is no other thing; another group is."""
    limits = Limits(active_runs=2)
    first = await begun(ledger, an_intent("rows"), limits)
    await ledger.attach_group(first, "tgrp_1")
    await begun(ledger, an_intent("trees"), limits)

    for number in range(3):
        await begun(ledger, an_intent(f"more rows {number}", group_id="tgrp_1"), limits)

    assert await ledger.begin(an_intent("birds"), limits) == TooManyActive(2, 2)
    assert await ledger.begin(an_intent("other rows", group_id="tgrp_2"), limits) == TooManyActive(2, 2)


async def test_only_what_may_exist_is_active(ledger: Ledger, clock: FakeClock) -> None:
    """A failed create never ran; an unknown one is given up after an hour, as its reservation is."""
    limits = Limits(active_runs=1)
    failed = await begun(ledger, an_intent("failed", lasts_s=9_000))
    await ledger.settle(failed, "failed")
    unknown = await begun(ledger, an_intent("unknown", lasts_s=9_000), limits)
    await ledger.settle(unknown, "unknown")

    assert await ledger.begin(an_intent("birds"), limits) == TooManyActive(1, 1)
    clock.advance(HOUR_S)

    assert isinstance(await ledger.begin(an_intent("birds"), limits), New)


# ---- what there is


async def test_recent_gives_the_newest_handles_first_and_each_once(ledger: Ledger, clock: FakeClock) -> None:
    """This is how a new conversation finds the runs of the last one."""
    await created(ledger, an_intent("1"), "trun_1")
    await created(ledger, an_intent("2"), "tgrp_2")
    await begun(ledger, an_intent("intent"))
    await ledger.settle(await begun(ledger, an_intent("failed")), "failed")
    await created(ledger, an_intent("3"), "trun_3")
    clock.advance(5)
    more_rows = await created(ledger, an_intent("4"), "tgrp_2")
    await created(ledger, an_intent("5"), "trun_5")

    recent = await ledger.recent(OWNER, 10)

    assert [entry.handle for entry in recent] == ["trun_5", "tgrp_2", "trun_3", "", "trun_1"]
    assert recent[3].state == "intent", "what may have been bought is listed as well"
    assert recent[1].entry_id == more_rows, "the newest of a handle stands for it"
    assert await ledger.recent(OWNER, 2) == recent[:2]


async def test_recent_is_ordered_by_begin_not_by_answer(ledger: Ledger) -> None:
    """Answers overtake each other; what the user asked last comes first."""
    first, second = await begun(ledger, an_intent("1")), await begun(ledger, an_intent("2"))
    await ledger.settle(second, "created", "trun_2")
    await ledger.settle(first, "created", "trun_1")

    assert [entry.handle for entry in await ledger.recent(OWNER, 10)] == ["trun_2", "trun_1"]


async def test_recent_looks_past_any_number_of_failures(ledger: Ledger) -> None:
    """A hundred refusals while the credit was out must not hide the runs before them."""
    await created(ledger, an_intent("wanted"), "trun_1")
    for number in range(120):
        await ledger.settle(await begun(ledger, an_intent(f"{number}")), "failed")

    assert [entry.handle for entry in await ledger.recent(OWNER, 1)] == ["trun_1"]


async def test_what_is_older_than_thirty_days_is_forgotten(ledger: Ledger, clock: FakeClock) -> None:
    """A ledger is no archive: titles and keys of long ago are nobody's business."""
    old = await created(ledger, an_intent("old", key="k", lasts_s=KEPT_S * 2), "trun_1")
    clock.advance(1)
    younger = await created(ledger, an_intent("younger"), "trun_2")
    clock.advance(KEPT_S - 0.5)

    await begun(ledger, an_intent("new"), Limits(active_runs=1))

    assert await ledger.entry(old) is None
    assert await ledger.entry(younger) is not None
    assert [entry.handle for entry in await ledger.recent(OWNER, 10)] == ["", "trun_2"]
    assert isinstance(await ledger.begin(an_intent("another", key="k"), NO_LIMITS), New), "its key is free"


# ---- time


@pytest.mark.parametrize("jump_s", [HOUR_S, 400 * DAY_S, -HOUR_S, -400 * DAY_S])
async def test_setting_the_wall_clock_frees_nothing(ledger: Ledger, clock: FakeClock, jump_s: float) -> None:
    """Neither a time server nor a user who sets the clock may refill a budget, or keep it from being refilled."""
    limits = Limits(usd_per_hour=1.0, usd_per_day=1.0)
    entry_id = await begun(ledger, an_intent("trees", price_usd=1.0), limits)
    await ledger.settle(entry_id, "unknown")

    clock.set_wall(jump_s)
    refused = await ledger.begin(an_intent("birds", price_usd=1.0), limits)
    assert isinstance(refused, OverSpent)
    assert refused.frees_in_s == pytest.approx(HOUR_S)
    assert known(await ledger.begin(an_intent("trees"), limits)).age_s == 0

    clock.advance(HOUR_S / 2)
    clock.set_wall(-jump_s)
    clock.advance(HOUR_S / 2 - 1)
    assert isinstance(await ledger.begin(an_intent("birds", price_usd=1.0), limits), OverSpent)
    clock.advance(1)
    assert isinstance(await ledger.begin(an_intent("birds", price_usd=1.0), limits), New)


async def test_reboot_counts_what_the_wall_clock_says_has_passed(ledger: Ledger, clock: FakeClock) -> None:
    """Uptime begins anew; who comes back the next morning finds the budget refilled."""
    limits = Limits(usd_per_hour=1.0)
    await created(ledger, an_intent("trees", price_usd=1.0), "trun_1")
    clock.advance(600)
    await ledger.spent(OWNER)

    clock.reboot(takes_s=HOUR_S - 700)
    refused = await ledger.begin(an_intent("birds", price_usd=1.0), limits)
    clock.advance(100)

    assert refused == OverSpent("hour", 1.0, 1.0, 100)
    assert isinstance(await ledger.begin(an_intent("birds", price_usd=1.0), limits), New)


async def test_reboot_counts_in_full_when_the_machine_was_left_alone_for_long_after_it(
    ledger: Ledger, clock: FakeClock
) -> None:
    """By then its uptime may be larger than before, and yet is not to be compared with it."""
    entry_id = await begun(ledger, an_intent())

    clock.reboot(takes_s=60)
    clock.advance(3 * clock.uptime_s + 2 * HOUR_S)

    entry = await ledger.entry(entry_id)
    assert entry is not None
    assert entry.age_s == 60 + 36 + 2 * HOUR_S


async def test_reboot_with_a_wall_clock_set_back_frees_nothing(ledger: Ledger, clock: FakeClock) -> None:
    """A machine whose battery is flat starts in another year; that must not turn ages negative."""
    await created(ledger, an_intent(price_usd=1.0), "trun_1")
    clock.advance(600)
    await ledger.spent(OWNER)

    clock.reboot(takes_s=-400 * DAY_S)

    assert await spent(ledger) == Spent(1.0, 1.0)
    clock.advance(HOUR_S - 600)
    assert await spent(ledger) == Spent(0, 1.0)


async def test_uptime_that_begins_anew_under_the_same_name_is_a_reboot(ledger: Ledger, clock: FakeClock) -> None:
    """Not every system names its boots; a smaller uptime says it as well."""
    await created(ledger, an_intent(price_usd=1.0), "trun_1")

    clock.uptime_s = 30
    clock.wall_s += HOUR_S

    assert await spent(ledger) == Spent(0, 1.0)


# ---- letting go


async def test_closed_ledger_can_be_used_again(open_ledger: Callable[[], Ledger]) -> None:
    """Closing lets go of the file or the connection, nothing else."""
    ledger = open_ledger()
    await ledger.spent(OWNER)

    await ledger.aclose()
    await ledger.aclose()

    assert await spent(ledger) == Spent(0, 0)
    await ledger.aclose()
