"""Any mix of runs, watchers, cancels and broken connections: no end or message lost, none repeated, nothing late."""

from __future__ import annotations

import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest
from httpx_sse import aconnect_sse

from parallel_mcp.api.connections import Timeouts
from parallel_mcp.render.untrusted import one_line
from tests.bare_client import BareClient, bare_client
from tests.conftest import Upstream
from tests.connecting import KEY
from tests.faults import (
    Fault,
    FaultyProxy,
    ScriptedFault,
    chop,
    close_without_answer,
    cut_body,
    cut_headers,
    cut_status_line,
    faulty,
    garbage,
    raw_stream,
    reset_after_accept,
    reset_before_read,
    respond,
    stall,
    stall_after,
)
from tests.faults.wire import Ending, Exchange
from tests.watch_history import History, Note, Probe, Strike, Truth, Watch

RUNS = 36
CHAINS = 140
WATCHES = 150  # about 250, but fewer where runs end before their watchers come: one for each chain, and those cancelled
STRIKES = 10  # at least; about 150
LASTING = 12  # one run in so many goes on until all is healed, so that its messages can all be heard
HEALED_AFTER_S = 3.0  # or later, when the machine had no time for faults before
LONGEST_S = 180.0
PATIENCE_S = 30.0
RUN_PATH = re.compile(r"/v1/tasks/runs/(trun_[^/]+)(/events)?")

ENDINGS = ["", "", "", "fails", "status=cancelled", "status=action_required"]
VARIATIONS = ["", "", "crlf", "multiline", "u2028", "pings", "ids", "chunk=7", "meter=missing", "meter=drops"]
ODDITIES = ["", "", "", "null_counts", "legacy_events", "unknown_events", "error_event", "no_trace_after_end"]
BREAKS = ["drop_after=3 drops=2", "half_event=5 drops=2", "half_event_eof=4 drops=1", "clean_close_after=4 drops=3"]
REFUSALS = ["stream_status=502 drops=2", "stream_status=503"]

FAULTS: dict[str, Callable[[], Fault]] = {
    "reset_before_read": reset_before_read,
    "reset_after_accept": reset_after_accept,
    "close_without_answer": close_without_answer,
    "cut_status_line": cut_status_line,
    "cut_headers": cut_headers,
    "cut_body": lambda: cut_body(30),
    "reset_body": lambda: cut_body(30, then="reset"),
    "garbage": garbage,
    "not_events": lambda: raw_stream(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<h1>Log in</h1>"),
    "502": lambda: respond(502, b"<html>", {"content-type": "text/html"}),
    "503": lambda: respond(503),
    "429": lambda: respond(429, b"{}", {"retry-after": "1"}),
    "stall": stall,
    "chop": lambda: chop(seed=1),
}


def _cut_later(after_s: float) -> Fault:
    """Forwarded live, and reset in the middle; an answer that is complete by then stays whole."""

    async def fault(exchange: Exchange) -> Ending:
        async with exchange.forward() as answer, aclosing(answer.wire()) as wire:
            with anyio.move_on_after(after_s):
                async for data in wire:
                    await exchange.send(data)
                return answer.ending
        return "reset"

    return fault


@dataclass
class World:
    """A server in this process, a simulator behind a proxy that a nemesis spoils, and the log of what happens.

    `unspoilt` asks through the proxy too, for what the nemesis lets alone.
    """

    dice: random.Random
    upstream: Upstream
    proxy: FaultyProxy
    client: BareClient
    unspoilt: httpx.AsyncClient
    stories: dict[str, str] = field(default_factory=dict[str, str])
    watches: list[Watch] = field(default_factory=list[Watch])
    strikes: list[Strike] = field(default_factory=list[Strike])
    probes: list[Probe] = field(default_factory=list[Probe])
    started_at: float = field(default_factory=time.monotonic)
    started_on: datetime = field(default_factory=lambda: datetime.now(UTC))
    watching: int = CHAINS
    healed_at: float = float("inf")

    async def create_runs(self) -> None:
        """Runs of all kinds, created past the proxy."""
        async with api_at(self.upstream.url) as api:
            for number in range(RUNS):
                story = self.random_story() if number % LASTING else self.lasting_story()
                body = {"input": f"question {number}", "processor": "core-fast", "enable_events": True}
                answer = await api.post("/v1/tasks/runs", json={**body, "metadata": {"sim": story}})
                self.stories[answer.json()["run_id"]] = story

    def random_story(self) -> str:
        """One run in ten is refused its stream, two break it by themselves."""
        words = [f"latency={self.dice.randint(20, 330)}", f"messages={self.dice.randint(0, 60)}"]
        words += [self.dice.choice(ENDINGS), self.dice.choice(VARIATIONS), self.dice.choice(ODDITIES)]
        lot = self.dice.random()
        words.append(self.dice.choice(REFUSALS) if lot < 0.1 else self.dice.choice(BREAKS) if lot < 0.3 else "")
        return " ".join(filter(None, words))

    def lasting_story(self) -> str:
        """A run that is ended when nothing is spoilt any more, and whose stream is whole."""
        return f"never latency=150 messages={self.dice.randint(20, 60)} {self.dice.choice(VARIATIONS)}".strip()

    async def spoil(self, stalls: int) -> None:
        """Break connections here and there, sometimes all of them, and stop after `HEALED_AFTER_S`."""
        run_ids = list(self.stories)
        for run_id in self.dice.sample(run_ids, stalls):
            self._break(f"{run_id}/events", "stall_after", stall_after(30))
        until = time.monotonic() + HEALED_AFTER_S
        while time.monotonic() < until or (len(self.strikes) < STRIKES and self.watching):
            for run_id in self.dice.sample(run_ids, 7):
                kind = self.dice.choice(list(FAULTS))
                path = self.dice.choice([run_id, f"{run_id}/events"])
                self._break(path, kind, FAULTS[kind](), times=self.dice.randint(1, 4))
                self._break(f"{run_id}/events", "cut_later", _cut_later(self.dice.uniform(0.1, 1.5)))
            if self.dice.random() < 0.1:
                self._break("trun_[^/]+/events", "close_without_answer", close_without_answer(), times=10)
            await anyio.sleep(self.dice.uniform(0.05, 0.3))
        self.proxy.clear()
        self.healed_at = time.monotonic()
        for run_id, story in self.stories.items():
            if story.startswith("never"):
                self.upstream.simulator.finish(run_id)

    def _break(self, path: str, kind: str, fault: Fault, times: int = 1) -> None:
        async def strike(exchange: Exchange) -> Ending:
            match = RUN_PATH.fullmatch(exchange.request.path)
            assert match
            self.strikes.append(Strike(time.monotonic(), match[1], kind, is_stream=bool(match[2])))
            return await fault(exchange)

        self.proxy.add(ScriptedFault(method="GET", path=f"/v1/tasks/runs/{path}", fault=strike, times=times))

    async def watch_in_slices(self, chain: int, dice: random.Random) -> None:
        """Watch a run to its end, in calls that go on with each other's cursors; some are cancelled, some fail."""
        try:
            await self._watch_in_slices(chain, dice)
        finally:
            self.watching -= 1

    async def _watch_in_slices(self, chain: int, dice: random.Random) -> None:
        run_id = dice.choice(list(self.stories))
        cursor = ""
        await anyio.sleep(dice.uniform(0, 4))
        while True:
            watch = Watch(chain, run_id, dice.choice([0, 0.3, 1, 1, 2, 2, 4, 20]), time.monotonic())
            self.watches.append(watch)
            if dice.random() < 0.15:
                await self._watch_and_cancel(watch, cursor, dice.uniform(0, 1))
                continue
            await self._watch(watch, cursor)
            if watch.answer is not None:
                cursor = watch.answer["cursor"]
                if watch.found_the_end:
                    return

    async def _watch(self, watch: Watch, cursor: str) -> None:
        def answered() -> None:
            watch.answered_at = time.monotonic()

        call = await self.client.call("watch_progress", _arguments(watch, cursor), _noting(watch), answered)
        result = await call.answer()
        if result.get("isError"):
            watch.error = result["content"][0]["text"]
        else:
            watch.answer = result["structuredContent"]

    async def _watch_and_cancel(self, watch: Watch, cursor: str, after_s: float) -> None:
        call = await self.client.call("watch_progress", _arguments(watch, cursor), _noting(watch))
        with anyio.move_on_after(after_s):
            await call.answer()
        watch.cancelled_at = time.monotonic()
        await self.client.cancel(call)

    async def probe(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Keep asking something that waits for nothing, to see how busy the machine is.

        What counts is when a probe was due, not when it was sent: the machine may lag in between.
        """
        due_at = time.monotonic()
        while True:
            try:
                await anyio.sleep(max(0, due_at - time.monotonic()))
                await ask()
            finally:  # also one that is still waiting when all else is over
                self.probes.append(Probe(due_at, time.monotonic()))
            due_at = time.monotonic() + 0.05

    async def ask_server(self) -> None:
        """A call that comes to nothing."""
        call = await self.client.call("watch_progress", {"id": "no handle"}, lambda value, message: None)
        await call.answer()

    async def ask_api(self) -> None:
        """A request that comes to nothing, through the proxy: what the server hears comes this way."""
        assert (await self.unspoilt.get("/v1/tasks/runs/trun_nobody")).status_code == 404

    async def history(self) -> History:
        """The log, with what the simulator says of each run."""
        async with api_at(self.upstream.url) as api:
            truths = [await self._truth(api, run_id, story) for run_id, story in self.stories.items()]
        by_id = {truth.run_id: truth for truth in truths}
        return History(self.watches, by_id, self.strikes, self.healed_at, self.probes)

    async def _truth(self, api: httpx.AsyncClient, run_id: str, story: str) -> Truth:
        run = (await api.get(f"/v1/tasks/runs/{run_id}")).json()
        ended_on = datetime.fromisoformat(run["modified_at"])
        ended_at = self.started_at + (ended_on - self.started_on).total_seconds()
        told_afterwards = "no_trace_after_end" not in story and "stream_status" not in story
        return Truth(
            run_id,
            run["status"],
            ended_at,
            await _messages(api, run_id) if told_afterwards else None,
            stream_breaks=any(word in story for word in ("drop", "half", "close", "stream_status")),
        )


def api_at(url: str) -> httpx.AsyncClient:
    """A client of the API itself."""
    return httpx.AsyncClient(base_url=url, headers={"x-api-key": KEY}, timeout=PATIENCE_S)


async def _messages(api: httpx.AsyncClient, run_id: str) -> tuple[str, ...]:
    """All messages of a run that has ended, on the first connection that tells them to the end."""
    for _ in range(5):
        messages: list[str] = []
        states = 0
        try:
            async with aconnect_sse(api, "GET", f"/v1/tasks/runs/{run_id}/events") as source:
                async for message in source.aiter_sse():
                    event = message.json()
                    states += event["type"] == "task_run.state"
                    if event["type"].startswith("task_run.progress_msg."):
                        messages.append(one_line(event["message"], 240))
        except (httpx.TransportError, ValueError):
            continue
        if states == 2:  # at the beginning and at the end
            return tuple(messages)
    raise AssertionError("the simulator does not tell its messages")


def _state(status: str, *messages: str) -> dict[str, Any]:
    """What the rules look at in an answer."""
    is_active = status in ("queued", "running")
    ready = status == "completed"
    return {"status": status, "is_active": is_active, "result_ready": ready, "untrusted_messages": list(messages)}


def _arguments(watch: Watch, cursor: str) -> dict[str, Any]:
    return {"id": watch.run_id, "timeout_s": watch.timeout_s, "cursor": cursor}


def _noting(watch: Watch) -> Callable[[float, str], None]:
    def note(value: float, message: str) -> None:
        notes = watch.notes if watch.answered_at is None else watch.notes_after_answer
        notes.append(Note(time.monotonic(), value, message))

    return note


@asynccontextmanager
async def world(seed: int, upstream: Upstream) -> AsyncGenerator[World]:
    """A fresh one."""
    with faulty(upstream.url) as proxy:
        async with bare_client(proxy.url, timeouts=Timeouts(read_s=2)) as client, api_at(proxy.url) as unspoilt:
            yield World(random.Random(seed), upstream, proxy, client, unspoilt)


@pytest.mark.parametrize(("seed", "stalls"), [(1, 0), (2, 0), (3, 3)])
async def test_no_history_of_watches_breaks_a_rule(upstream: Upstream, seed: int, stalls: int) -> None:
    """Each single fault is shown elsewhere; what users meet is all of them at once."""
    async with world(seed, upstream) as around:
        await around.create_runs()
        with anyio.move_on_after(LONGEST_S):
            async with anyio.create_task_group() as probing:
                probing.start_soon(around.probe, around.ask_server)
                probing.start_soon(around.probe, around.ask_api)
                async with anyio.create_task_group() as acting:
                    acting.start_soon(around.spoil, stalls)
                    for chain in range(CHAINS):
                        acting.start_soon(around.watch_in_slices, chain, random.Random(f"{seed}:{chain}"))
                probing.cancel_scope.cancel()
        history = await around.history()

    violations = history.violations()
    assert not violations, f"seed {seed}:\n" + "\n".join(violations)
    assert len(history.watches) >= WATCHES
    assert len(history.strikes) >= STRIKES
    assert history.chains_compared_whole >= 1


TRUTH = Truth("trun_1", "completed", ended_at=110.0, messages=("one", "two", "two", "three"))
FAULTLESS = History(
    [
        Watch(
            chain=1,
            run_id="trun_1",
            timeout_s=5,
            invoked_at=100.0,
            notes=[Note(100.0, 0.0, "starting"), Note(101.0, 10.0, "running: one"), Note(104.0, 20.0, "running: two")],
            answered_at=105.0,
            answer=_state("running", "one", "two"),
        ),
        Watch(chain=1, run_id="trun_1", timeout_s=5, invoked_at=105.0, cancelled_at=106.0),
        Watch(
            chain=1,
            run_id="trun_1",
            timeout_s=40,
            invoked_at=106.0,
            notes=[Note(106.0, 20.0, "running"), Note(110.0, 100.0, "completed: three")],
            answered_at=110.5,
            answer=_state("completed", "two", "three"),
        ),
        Watch(chain=2, run_id="trun_1", timeout_s=5, invoked_at=90.0, answered_at=90.1, error="no status"),
        Watch(chain=2, run_id="trun_1", timeout_s=0, invoked_at=120.0, answered_at=120.1, answer=_state("completed")),
    ],
    {"trun_1": TRUTH},
    strikes=[Strike(89.0, "trun_1", "502", is_stream=False)],
    healed_at=95.0,
)


def test_faultless_history_breaks_no_rule() -> None:
    """Or the checker finds fault with everything."""
    assert FAULTLESS.violations() == []
    assert FAULTLESS.chains_compared_whole == 1


def _doctored(place: int, **changes: Any) -> History:
    watches = [replace(watch, notes=[*watch.notes]) for watch in FAULTLESS.watches]
    watches[place] = replace(watches[place], **changes)
    return replace(FAULTLESS, watches=watches)


def _noted(place: int, *notes: Note) -> History:
    return _doctored(place, notes=[*FAULTLESS.watches[place].notes, *notes])


@pytest.mark.parametrize(
    ("rules", "history"),
    [
        ("never answered, never came to the end", _doctored(2, answered_at=None, answer=None)),
        ("answered late", _doctored(0, answered_at=106.6)),
        ("left early", _doctored(0, answered_at=104.0)),
        (
            "missed the end, never came to the end",
            _doctored(2, answered_at=146.0, answer=_state("running", "two", "three")),
        ),
        ("never came to the end", _doctored(2, answered_at=None, answer=None, notes=[], cancelled_at=106.9)),
        ("ended before its run", _doctored(2, answered_at=109.0)),
        ("ended wrongly", _doctored(2, answer=_state("failed", "two", "three"))),
        ("ended wrongly", _doctored(2, answer={**_state("completed", "two", "three"), "result_ready": False})),
        ("ended without its last notification", _doctored(2, notes=FAULTLESS.watches[2].notes[:1])),
        ("failed without a fault", _doctored(3, invoked_at=100.0, answered_at=101.0)),
        ("repeated a message", _doctored(2, answer=_state("completed", "two", "two", "three"))),
        ("mixed up messages", _doctored(2, answer=_state("completed", "three", "two"))),
        ("lost a message", _doctored(2, answer=_state("completed", "three"))),
        ("went on after cancel", _noted(1, Note(108.0, 1.0, "running"))),
        ("notified after answer", _doctored(2, notes_after_answer=[Note(110.6, 100.0, "completed")])),
        ("progress did not rise", _noted(0, Note(104.5, 20.0, "running: two"))),
        ("progress did not rise", _noted(0, Note(104.5, 19.0, "running: two"))),
        ("progress out of bounds", _noted(0, Note(104.5, 101.0, "running: two"))),
        ("claimed to be complete", _noted(0, Note(104.5, 100.0, "running: two"))),
        ("unfit line", _noted(0, Note(104.5, 30.0, "x" * 201))),
        ("unfit line", _noted(0, Note(104.5, 30.0, "two\nlines"))),
        ("too many notifications", _noted(0, *(Note(104.5, 21.0 + n, "running") for n in range(12)))),
        ("silent at first", _doctored(0, notes=[])),
        ("silent at first", _doctored(0, notes=[Note(101.1, 0.0, "starting")])),
    ],
)
def test_checker_finds_the_broken_rule(rules: str, history: History) -> None:
    """A checker that finds nothing proves nothing."""
    assert [violation.splitlines()[0] for violation in history.violations()] == rules.split(", ")


def test_machine_that_answered_nobody_in_time_excuses_a_late_answer() -> None:
    """Then, and only then."""
    late = _doctored(0, answered_at=106.6)

    assert replace(late, probes=[Probe(104.0, 104.5)]).violations() == []
    assert replace(late, probes=[Probe(90.0, 90.5), Probe(112.0, 112.5)]).violations() != []


@pytest.mark.parametrize(
    "history",
    [
        _doctored(2, notes=FAULTLESS.watches[2].notes[:1]),
        _doctored(2, answer=_state("completed", "three")),
        _doctored(3, invoked_at=100.0, answered_at=101.0),
    ],
    ids=["last notification", "message", "error"],
)
def test_machine_that_stood_still_for_long_excuses_what_there_was_no_time_for(history: History) -> None:
    """To send, to open a stream, or to ask for a status; a short halt excuses nothing."""
    during = {"due_at": 100.0, "answered_at": 110.0}

    assert replace(history, probes=[Probe(**during)]).violations() == []
    assert replace(history, probes=[Probe(100.0, 100.3), Probe(107.0, 107.3)]).violations() != []


@pytest.mark.parametrize(
    "excuse",
    [
        replace(FAULTLESS, healed_at=111.0),
        replace(FAULTLESS, truths={"trun_1": replace(TRUTH, stream_breaks=True)}),
        replace(FAULTLESS, strikes=[*FAULTLESS.strikes, Strike(95.0, "trun_1", "stall_after", is_stream=True)]),
    ],
)
def test_only_a_stream_that_could_not_be_read_excuses_missing_messages(excuse: History) -> None:
    """The end comes without them then, rather than late."""
    assert replace(excuse, watches=_doctored(2, answer=_state("completed", "three")).watches).violations() == []
