"""Resources that tell when they change: in both eras, to many clients, from any process, and to nobody else."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx
import pytest
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp.client.stdio import stdio_client
from mcp.client.subscriptions import Subscription
from mcp.server.subscriptions import ResourceUpdated
from mcp.types import (
    EmptyResult,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
    TextResourceContents,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from parallel_mcp.resources.definition import ResourceDefinition
from parallel_mcp.server import ParallelServer, build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from parallel_mcp.tools.call import Call
from tests.bare_client import META
from tests.conftest import Upstream
from tests.connecting import (
    KEY,
    LEGACY,
    MODERN,
    Transport,
    connected,
    create,
    http_client,
    serving_http,
    stdio_server,
    structured,
)
from tests.faults import Fault, FaultyProxy, ScriptedFault, faulty, late, respond, stall
from tests.faults.kinds import pass_through
from tests.faults.wire import Ending, Exchange
from tests.patience import PATIENCE_S
from tests.test_leaving import streams
from tests.test_slow_readers import serving_through_narrow_sockets

IN_TIME_S = 2.0
BEAT_S = 0.05
QUIET = "never queue=0 latency=900000 messages=0"  # it runs, and has nothing to say for minutes
QUEUED = "never queue=90000 latency=900000 messages=0"  # until it is told to start
Hear = Callable[[str], Any]


class Heard:
    """What one client was told, in order: the addresses of resources that have changed."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._changed = anyio.Event()

    def note(self, uri: str) -> None:
        """The resource has changed."""
        self.uris.append(uri)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def __call__(self, message: IncomingMessage) -> None:
        """What a legacy client does with a message."""
        if isinstance(message, ResourceUpdatedNotification):
            self.note(message.params.uri)

    async def listen(self, updates: Subscription) -> None:
        """What a modern client does with its stream, until that ends."""
        async for event in updates:
            assert isinstance(event, ResourceUpdated)
            self.note(event.uri)

    async def until(self, is_enough: Callable[[], bool]) -> None:
        """Wait for more."""
        with anyio.fail_after(PATIENCE_S):
            while not is_enough():
                await self._changed.wait()

    async def times(self, uri: str, times: int) -> None:
        """Wait until a resource was told so often."""
        await self.until(lambda: self.uris.count(uri) >= times)


async def subscribe(client: Client, uri: str) -> None:
    """In the way of the legacy era, which the SDK's client calls deprecated."""
    await client.session.send_request(SubscribeRequest(params=SubscribeRequestParams(uri=uri)), EmptyResult)


async def unsubscribe(client: Client, uri: str) -> None:
    """As `subscribe`."""
    await client.session.send_request(UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri)), EmptyResult)


@asynccontextmanager
async def hearing(client: Client, mode: str, heard: Heard, uris: Sequence[str]) -> AsyncGenerator[None]:
    """Subscribe in the way of the era while the block lasts. A legacy client must have `heard` for its handler."""
    if mode == LEGACY:
        for uri in uris:
            await subscribe(client, uri)
        yield
        for uri in uris:
            await unsubscribe(client, uri)
        return
    async with client.listen(resource_subscriptions=uris) as updates, anyio.create_task_group() as listening:
        assert updates.honored.resource_subscriptions == list(uris)
        listening.start_soon(heard.listen, updates)
        yield
        listening.cancel_scope.cancel()


@asynccontextmanager
async def client_of(transport: Transport, url: str, mode: str, heard: Heard) -> AsyncGenerator[Client]:
    """A client of a new server; what a legacy one is told unasked is heard."""
    handler = heard if mode == LEGACY else None
    match transport:
        case "memory":
            server = build_server(load_settings({"base_url": url, "ledger": "memory", "api_key": KEY}))
            async with Client(server, mode=mode, message_handler=handler) as client:
                yield client
        case "stdio":
            async with Client(stdio_client(stdio_server(url, KEY)), mode=mode, message_handler=handler) as client:
                yield client
        case "http":
            async with connected("http", url, mode=mode) as client:
                yield client


ERAS: list[tuple[Transport, str]] = [
    ("memory", MODERN),
    ("stdio", MODERN),
    ("http", MODERN),
    ("memory", LEGACY),
    ("stdio", LEGACY),
]


def status_uri(run_id: str) -> str:
    """Where the status of a run is read."""
    return f"parallel://runs/{run_id}"


async def read(client: Client, uri: str) -> dict[str, Any]:
    """A resource that is JSON."""
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return cast("dict[str, Any]", json.loads(content.text))


def since_change_s(upstream: Upstream, run_id: str) -> float:
    """Seconds since the state of a run changed last, by the simulator's own account."""
    now, run = datetime.now(UTC), json.loads(upstream.run_now(run_id))
    return (now - datetime.fromisoformat(run["modified_at"])).total_seconds()


@asynccontextmanager
async def pulse(client: Client, uri: str) -> AsyncGenerator[list[float]]:
    """What requests that go all the way to the API take while the block lasts, in seconds, one after the other.

    News go the same way: on a machine that halts, they are no sooner to be had than promised and that later.
    """
    took_s: list[float] = []
    is_over = anyio.Event()

    async def beat() -> None:
        while not is_over.is_set():
            began = anyio.current_time()
            with anyio.move_on_after(BEAT_S):
                await is_over.wait()
            await read(client, uri)
            took_s.append(max(0.0, anyio.current_time() - began - BEAT_S))

    async with anyio.create_task_group() as beating:
        beating.start_soon(beat)
        yield took_s
        is_over.set()


@pytest.fixture
def proxy(upstream: Upstream) -> Generator[FaultyProxy]:
    """What counts our connections to the API."""
    with faulty(upstream.url) as proxy:
        yield proxy


@contextmanager
def api_in_real_time() -> Generator[tuple[Simulator, FaultyProxy]]:
    """The API behind a proxy, at its own speed: at the usual one of these tests it ends a stream after ten seconds."""
    simulator = Simulator(SimulatorConfig(speed=1))
    with serving(simulator) as url, faulty(url) as proxy:
        yield simulator, proxy


# ---- what is told, and when


@pytest.mark.parametrize(("transport", "mode"), ERAS)
async def test_each_state_is_heard_within_two_seconds_and_the_last_one_once(
    upstream: Upstream, transport: Transport, mode: str
) -> None:
    """A host that shows a run need not ask again and again. The stream of the API says nothing of a start."""
    heard = Heard()
    async with client_of(transport, upstream.url, mode, heard) as client:
        run_id = await create(client, QUEUED)
        marker = await create(client, QUIET, input="What do heat pumps cost?")
        uri, result, report = status_uri(run_id), f"{status_uri(run_id)}/result.json", f"{status_uri(run_id)}/report.md"
        async with hearing(client, mode, heard, [uri, result, report, f"{status_uri(marker)}/result.json"]):
            before = (await read(client, uri))["status"]
            async with pulse(client, status_uri(marker)) as start_took_s:
                upstream.simulator.start(run_id)
                await heard.times(uri, 1)
                started_s = since_change_s(upstream, run_id)
            between = (await read(client, uri))["status"]
            heard_before_the_end = set(heard.uris)

            async with pulse(client, status_uri(marker)) as end_took_s:
                upstream.simulator.finish(run_id)
                await heard.until(lambda: {uri, result, report} <= set(heard.uris[1:]))
                ended_s = since_change_s(upstream, run_id)
            after = (await read(client, uri))["status"]
            (content,) = (await client.read_resource(report)).contents

            upstream.simulator.finish(marker)  # whatever else there was to say of the first run comes before this
            await heard.times(f"{status_uri(marker)}/result.json", 1)

    assert [before, between, after] == ["queued", "running", "completed"]
    assert heard_before_the_end == {uri}
    assert started_s < IN_TIME_S + sum(start_took_s)
    assert ended_s < IN_TIME_S + sum(end_took_s)
    assert isinstance(content, TextResourceContents)
    assert run_id in content.text
    assert [heard.uris.count(address) for address in (uri, result, report)] == [2, 1, 1]


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("ending", ["fails", "status=cancelled", "status=action_required"])
async def test_every_way_to_end_is_told_once(upstream: Upstream, ending: str, mode: str) -> None:
    """A run that fails is no less over."""
    heard = Heard()
    async with client_of("memory", upstream.url, mode, heard) as client:
        run_id = await create(client, f"latency=60 messages=0 {ending}")
        result = f"{status_uri(run_id)}/result.json"
        async with hearing(client, mode, heard, [result]):
            await heard.times(result, 1)
            assert not (await read(client, status_uri(run_id)))["is_active"]

    assert heard.uris == [result]


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_what_has_ended_before_is_told_once(upstream: Upstream, mode: str) -> None:
    """A client that has read `running` just before it subscribes must not wait for ever."""
    heard = Heard()
    async with client_of("memory", upstream.url, mode, heard) as client:
        run_id = await create(client, "latency=6")
        await client.call_tool("watch_progress", {"id": run_id})
        marker = await create(client, "never", input="What do heat pumps cost?")
        async with hearing(client, mode, heard, [status_uri(run_id), f"{status_uri(marker)}/report.md"]):
            await heard.times(status_uri(run_id), 1)
            upstream.simulator.finish(marker)
            await heard.times(f"{status_uri(marker)}/report.md", 1)

    assert heard.uris == [status_uri(run_id), f"{status_uri(marker)}/report.md"]


async def test_mere_progress_is_told_every_few_seconds_only(upstream: Upstream) -> None:
    """Nobody reads a status ten times a second; the end comes at once all the same."""
    heard = Heard()
    async with client_of("memory", upstream.url, MODERN, heard) as client:
        run_id = await create(client, "never queue=0 latency=9000 messages=2000")
        uri, started = status_uri(run_id), anyio.current_time()
        async with hearing(client, MODERN, heard, [uri, f"{uri}/report.md"]):
            await heard.times(uri, 3)
            three_took_s = anyio.current_time() - started
            async with pulse(client, uri) as took_s:
                upstream.simulator.finish(run_id)
                await heard.times(f"{uri}/report.md", 1)
                late_s = since_change_s(upstream, run_id)

    assert three_took_s > 6  # three seconds after the first, and after the second
    assert late_s < IN_TIME_S + sum(took_s)


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_group_is_told_as_its_rows_end_and_at_its_end(upstream: Upstream, mode: str) -> None:
    """The table can be shown as it fills."""
    heard = Heard()
    async with client_of("memory", upstream.url, mode, heard) as client:
        arguments = {"inputs": ["a", "b"], "processor": "lite", "metadata": {"sim": "never queue=0"}}
        group_id = structured(await client.call_tool("create_task_group", arguments))["group_id"]
        runs = rows_of(upstream, group_id)
        status, table = f"parallel://groups/{group_id}", f"parallel://groups/{group_id}/result.csv"
        async with hearing(client, mode, heard, [status, table]):
            started = anyio.current_time()
            upstream.simulator.finish(runs[0])
            await heard.until(lambda: {status, table} <= set(heard.uris))
            between = await read(client, status)
            async with pulse(client, status) as took_s:
                all_ended = anyio.current_time()
                upstream.simulator.finish(runs[1])
                for uri in (status, table):
                    await heard.times(uri, 2)
                late_s = anyio.current_time() - all_ended
            after = await read(client, status)
            lasted_s = anyio.current_time() - started

    assert [between["status"], after["status"]] == ["running", "completed"]
    assert between["counts"]["completed"] == 1
    assert max(heard.uris.count(uri) for uri in (status, table)) <= 2 + lasted_s / 3  # rows are told now and then
    assert late_s < IN_TIME_S + sum(took_s)


def rows_of(upstream: Upstream, group_id: str) -> list[str]:
    """The runs of a group."""
    address = f"{upstream.url}/v1/tasks/groups/{group_id}/runs"
    lines = httpx.get(address, headers={"x-api-key": KEY}, timeout=PATIENCE_S).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return [event["run"]["run_id"] for event in events]


async def test_list_is_told_what_its_owner_creates_and_what_is_seen_to_end(upstream: Upstream) -> None:
    """And nothing of others."""
    mine, theirs = Heard(), Heard()
    with serving_http(load_settings({"base_url": upstream.url, "ledger": "memory"})) as address:
        async with (
            http_client(address, KEY) as client,
            http_client(address, "other") as other,
            hearing(client, MODERN, mine, ["parallel://runs"]),
            hearing(other, MODERN, theirs, ["parallel://runs"]),
        ):
            run_id = await create(client, "never queue=0")
            await mine.times("parallel://runs", 1)
            created = await read(client, "parallel://runs")
            async with hearing(client, MODERN, Heard(), [status_uri(run_id)]):
                upstream.simulator.finish(run_id)
                await mine.times("parallel://runs", 2)
            ended = await read(client, "parallel://runs")
            await create(other, "never")
            await theirs.times("parallel://runs", 1)

    assert [item["id"] for item in created["items"]] == [run_id]
    assert ended["items"][0]["status"] == "completed"
    assert len(theirs.uris) == 1


async def test_what_cannot_be_followed_any_more_is_told_so_that_it_is_read(
    upstream: Upstream, proxy: FaultyProxy
) -> None:
    """The reader then learns why; silence would say that all is well."""
    heard = Heard()
    async with client_of("memory", proxy.url, MODERN, heard) as client:
        run_id = await create(client, "never clean_close_after=1 drops=1 queue=0")
        gone = respond(404, b'{"error": {"message": "gone"}}', {"content-type": "application/json"})
        proxy.add(ScriptedFault(method="GET", path=f"/v1/tasks/runs/{run_id}.*", skip=1, fault=gone, times=None))
        async with hearing(client, MODERN, heard, [f"{status_uri(run_id)}/result.json"]):
            await heard.times(f"{status_uri(run_id)}/result.json", 1)
            with pytest.raises(MCPError, match="not_found"):
                await client.read_resource(status_uri(run_id))


@pytest.mark.parametrize("ending", ["completed", "failed"])
async def test_end_that_was_told_is_what_is_read_though_the_api_lags_behind(
    upstream: Upstream, proxy: FaultyProxy, ending: str
) -> None:
    """It is told once. Who then reads `running` from another machine of the API would show it for ever."""
    heard = Heard()
    async with client_of("memory", proxy.url, MODERN, heard) as client:
        run_id = await create(client, "never queue=0")
        uri, report = status_uri(run_id), f"{status_uri(run_id)}/report.md"
        old = respond(200, upstream.run_now(run_id))
        proxy.add(ScriptedFault(path=f"/v1/tasks/runs/{run_id}", fault=old, times=None))
        proxy.add(ScriptedFault(path=f"/v1/tasks/runs/{run_id}/result", fault=behind_by(2.0), times=None))
        async with hearing(client, MODERN, heard, [uri, report]):
            if ending == "completed":
                upstream.simulator.finish(run_id)
            else:
                upstream.simulator.fail(run_id)
            await heard.until(lambda: {uri, report} <= set(heard.uris))
            status = (await read(client, uri))["status"]
            try:
                (content,) = (await client.read_resource(report)).contents
                said = cast("TextResourceContents", content).text
            except MCPError as refusal:
                said = refusal.error.message
        status_later = (await read(client, uri))["status"]

    assert [status, status_later] == [ending, ending]
    assert (run_id in said) if ending == "completed" else ("run_failed" in said)


def behind_by(lag_s: float) -> Fault:
    """A machine of the API that hears of the end so much later than others: in vain for who does not wait so long."""

    async def fault(exchange: Exchange) -> Ending:
        asked_s = float(parse_qs(exchange.request.query)["timeout"][0])
        await anyio.sleep(min(asked_s, lag_s))
        if asked_s < lag_s:
            return await respond(408, b'{"error": {"message": "still running"}}')(exchange)
        return await pass_through(exchange)

    return fault


# ---- what is not


async def test_only_what_the_caller_may_read_is_honoured() -> None:
    """The acknowledgement says what will be told; each listening has the key of its own request."""
    simulator = Simulator(SimulatorConfig(speed=60, api_keys=frozenset({KEY, "the-operators-own-key"})))
    settings = {"ledger": "memory", "api_key": "the-operators-own-key"}
    with serving(simulator) as url, serving_http(load_settings({"base_url": url, **settings})) as address:
        async with http_client(address, KEY) as client, http_client(address, "other") as other:
            run_id = await create(client, "never")
            asked = [
                status_uri("trun_nobody"),
                status_uri(run_id),
                status_uri("tgrp_1"),
                "parallel://groups/tgrp_nobody",
                "parallel://runs/..%2Fsecrets",
                "parallel://runs/trun_1/other",
                "file:///etc/passwd",
                "parallel://runs",
                status_uri(run_id),
            ]
            honoured = [await honoured_of(one, asked) for one in (client, other)]

    assert honoured == [[status_uri(run_id), "parallel://runs"], ["parallel://runs"]]


async def test_run_of_another_key_is_an_unknown_resource() -> None:
    """An id may leak; what happens to the run is its owner's matter, also where the same process follows it already."""
    theirs = Heard()
    simulator = Simulator(SimulatorConfig(speed=60, api_keys=frozenset({KEY, "other"})))
    with serving(simulator) as url, serving_http(load_settings({"base_url": url, "ledger": "memory"})) as address:
        async with (
            http_client(address, KEY) as owner,
            http_client(address, "other") as stranger,
            connected("memory", url, key="other", mode=LEGACY) as legacy_stranger,
        ):
            run_id = await create(owner, "never")
            async with hearing(owner, MODERN, Heard(), [status_uri(run_id)]):
                async with stranger.listen(resource_subscriptions=[status_uri(run_id)]) as updates:
                    assert updates.honored.model_dump(exclude_none=True) == {}
                    await theirs.listen(updates)
                with pytest.raises(MCPError, match="not_found") as refusal:
                    await subscribe(legacy_stranger, status_uri(run_id))

    assert refusal.value.error.code == -32602
    assert theirs.uris == []


async def test_page_which_never_changes_can_be_subscribed_to(upstream: Upstream) -> None:
    """It is listed like the others; whoever subscribes to all that is listed must not be told that it is unknown."""
    async with connected("memory", upstream.url) as modern, connected("memory", upstream.url, mode=LEGACY) as legacy:
        (page,) = [str(one.uri) for one in (await modern.list_resources()).resources if one.uri.startswith("ui://")]
        async with modern.listen(resource_subscriptions=[page]) as updates:
            assert updates.honored.resource_subscriptions == [page]
        for _ in range(2):
            await subscribe(legacy, page)
        await unsubscribe(legacy, page)


async def honoured_of(client: Client, uris: list[str]) -> list[str] | None:
    """What a listener that asks for everything is promised: of a server without specs, resources only."""
    async with client.listen(
        tools_list_changed=True, prompts_list_changed=True, resources_list_changed=True, resource_subscriptions=uris
    ) as updates:
        granted = updates.honored.model_dump(exclude_none=True)
    assert granted.keys() == {"resource_subscriptions"}
    return updates.honored.resource_subscriptions


async def test_resource_that_cannot_be_read_is_not_subscribed_to(upstream: Upstream) -> None:
    """A legacy client is told why."""
    async with connected("memory", upstream.url, mode=LEGACY) as client:
        for uri, said in {
            status_uri("trun_nobody"): "not_found",
            status_uri("tgrp_1"): "names a group",
            "file:///etc/passwd": "Unknown resource",
        }.items():
            with pytest.raises(MCPError, match=said) as refusal:
                await subscribe(client, uri)
            assert refusal.value.error.code == -32602
            assert refusal.value.error.data == {"uri": uri}
            await unsubscribe(client, uri)


async def test_who_subscribes_while_another_request_for_it_is_undecided_gets_the_same_answer(
    upstream: Upstream, proxy: FaultyProxy
) -> None:
    """A client that is told yes, and then nothing because the other one was told no, would wait for ever."""
    unknown = status_uri("trun_nobody")
    proxy.add(ScriptedFault(method="GET", path="/v1/tasks/runs/trun_nobody.*", fault=late(0.5), times=None))
    refusals: list[str] = []

    async def be_refused() -> None:
        try:
            await subscribe(client, unknown)
        except MCPError as refusal:
            refusals.append(refusal.error.message)

    async with connected("memory", proxy.url, mode=LEGACY) as client, anyio.create_task_group() as asking:
        for _ in range(3):
            asking.start_soon(be_refused)

    assert len(refusals) == 3
    assert all("not_found" in refusal for refusal in refusals)


async def test_who_subscribes_while_another_request_leaves_is_subscribed_all_the_same(
    upstream: Upstream, proxy: FaultyProxy
) -> None:
    """One part of a client that gives up must not take the news from another."""
    heard = Heard()
    async with client_of("memory", proxy.url, LEGACY, heard) as client:
        run_id = await create(client, "never queue=0")
        report = f"{status_uri(run_id)}/report.md"
        proxy.add(ScriptedFault(method="GET", path=f"/v1/tasks/runs/{run_id}/events", fault=late(1.5)))
        leaving = anyio.CancelScope()

        async def leave() -> None:
            with leaving:
                await subscribe(client, report)

        async with anyio.create_task_group() as asking:
            asking.start_soon(leave)
            await proxy.wait_for(lambda: streams(proxy) == 1)
            asking.start_soon(subscribe, client, report)
            await anyio.wait_all_tasks_blocked()  # it has asked
            leaving.cancel()
        upstream.simulator.finish(run_id)
        await heard.times(report, 1)


async def test_fault_of_the_server_is_no_subscription() -> None:
    """Whatever it is: a client that is told yes relies on it."""
    with serving(Simulator()) as url:
        settings = load_settings({"base_url": url, "ledger": "memory", "api_key": KEY})
        server = ParallelServer(
            tools=[], offered_resources=[faulty_resource()], lifespan=build_server(settings).settings.lifespan
        )
        async with Client(server, mode=LEGACY) as client:
            with pytest.raises(MCPError, match="fault in this server") as refusal:
                await subscribe(client, "test://faulty")

    assert refusal.value.error.code == -32603


def faulty_resource() -> ResourceDefinition:
    """One whose changes cannot be followed, for no reason that anybody has thought of."""

    async def read_text(call: Call) -> str:
        return ""

    @asynccontextmanager
    async def follow(call: Call) -> AsyncGenerator[AsyncGenerator[float]]:
        raise RuntimeError
        yield  # pyright: ignore[reportUnreachable]

    return ResourceDefinition("test://faulty", "faulty", "Faulty", "", "text/plain", read_text, follow)


async def test_legacy_client_over_http_is_told_that_it_cannot_subscribe(upstream: Upstream) -> None:
    """It has no connection on which it could be told anything, so nothing is promised."""
    async with connected("http", upstream.url, mode=LEGACY) as client:
        run_id = await create(client, "never")
        assert client.server_capabilities is not None
        assert client.server_capabilities.resources is not None
        promised = client.server_capabilities.resources.subscribe
        for ask in (subscribe, unsubscribe):
            with pytest.raises(MCPError, match="keeps no sessions") as refusal:
                await ask(client, status_uri(run_id))
            assert refusal.value.error.code == -32601

    assert promised is False


async def test_profile_without_resources_promises_no_updates(upstream: Upstream) -> None:
    """There is nothing to subscribe to."""
    async with connected("memory", upstream.url, mode="auto", profile="chatgpt") as client:
        assert client.server_capabilities.resources is not None
        assert client.server_capabilities.resources.subscribe is False
        async with client.listen(resource_subscriptions=["parallel://runs"]) as updates:
            assert updates.honored.resource_subscriptions is None


async def test_run_that_cannot_be_read_in_time_is_not_honoured_and_holds_nothing_up(
    upstream: Upstream, proxy: FaultyProxy
) -> None:
    """A client waits for the acknowledgement before it does anything else."""
    async with connected("memory", proxy.url) as client:
        run_id, stalled = await create(client, "never"), await create(client, "never", input="What else?")
        proxy.add(ScriptedFault(method="GET", path=f"/v1/tasks/runs/{stalled}.*", fault=stall(), times=None))
        with anyio.fail_after(15):
            async with client.listen(resource_subscriptions=[status_uri(stalled), status_uri(run_id)]) as updates:
                assert updates.honored.resource_subscriptions == [status_uri(run_id)]


# ---- what it costs


@pytest.mark.parametrize("subscribers", [2, 300])
async def test_subscribers_of_a_run_share_one_upstream_stream(subscribers: int) -> None:
    """A run that everybody looks at costs the API no more than one that nobody does."""
    ended: list[int] = []
    with api_in_real_time() as (simulator, proxy):
        async with connected("memory", proxy.url) as client, anyio.create_task_group() as listening:
            run_id = await create(client, "never queue=0")
            all_listen = anyio.Event()
            open_now: list[int] = []

            async def listen(number: int) -> None:
                heard = Heard()
                async with hearing(client, MODERN, heard, [f"{status_uri(run_id)}/report.md"]):
                    open_now.append(number)
                    if len(open_now) == subscribers:
                        all_listen.set()
                    await heard.times(f"{status_uri(run_id)}/report.md", 1)
                    ended.append(number)

            for number in range(subscribers):
                listening.start_soon(listen, number)
            with anyio.fail_after(PATIENCE_S):
                await all_listen.wait()
            simulator.finish(run_id)

    assert len(ended) == subscribers
    assert streams(proxy) == 1


async def test_many_queued_runs_are_looked_at_in_turn(upstream: Upstream, proxy: FaultyProxy) -> None:
    """Their streams do not tell when they start; a request a second for each is more than the API likes."""
    async with connected("memory", proxy.url) as client:
        runs = [
            await create(client, "never latency=900000 queue=90000", input=f"Question {number}") for number in range(30)
        ]
        paths = {f"/v1/tasks/runs/{run_id}" for run_id in runs}

        def looks() -> list[str]:
            return [request.path for request in proxy.requests if request.path in paths]

        started = anyio.current_time()
        async with client.listen(resource_subscriptions=list(map(status_uri, runs))) as updates:
            assert len(updates.honored.resource_subscriptions or ()) == 30
            await proxy.wait_for(lambda: len(looks()) >= 40, timeout_s=PATIENCE_S)
            lasted_s = anyio.current_time() - started
            await proxy.wait_for(lambda: set(looks()) == paths, timeout_s=PATIENCE_S)

    assert lasted_s > 6  # five a second, and five more at first


async def test_unsubscribing_ends_the_watch_and_the_news() -> None:
    """As does leaving the connection."""
    heard = Heard()
    with api_in_real_time() as (simulator, proxy):
        async with client_of("memory", proxy.url, LEGACY, heard) as client:
            run_id, other, left = [await create(client, QUIET, input=f"Question {number}") for number in range(3)]
            await proxy.wait_for(lambda: proxy.open_connections == 0)
            report, last = f"{status_uri(run_id)}/report.md", f"{status_uri(other)}/report.md"
            for uri in (status_uri(run_id), status_uri(run_id), report, last, status_uri(left)):
                await subscribe(client, uri)
            await proxy.wait_for(lambda: streams(proxy) == 3)
            connections = proxy.open_connections
            await unsubscribe(client, status_uri(left))
            await proxy.wait_for(lambda: proxy.open_connections < connections)
            await unsubscribe(client, status_uri(run_id))
            simulator.finish(run_id)
            await heard.times(report, 1)
            simulator.finish(other)  # whatever else there was to say of the first run comes before this
            await heard.times(last, 1)
            still = await create(client, QUIET, input="What else?")
            await subscribe(client, status_uri(still))
        await proxy.wait_for(lambda: proxy.open_connections == 0)

    assert heard.uris == [report, last]


async def test_listeners_that_leave_leave_no_task_and_no_connection(upstream: Upstream, proxy: FaultyProxy) -> None:
    """A server runs for weeks."""
    async with connected("memory", proxy.url) as client:
        runs = [await create(client, "never", input=f"Question {number}", processor="lite") for number in range(10)]
        await client.call_tool("get_status", {"ids": runs})
        async with client.listen(resource_subscriptions=["parallel://runs"]):
            pass
        await anyio.wait_all_tasks_blocked()
        before, connections = asyncio.all_tasks(), proxy.open_connections

        async def come_and_go(number: int) -> None:
            uris = [status_uri(run_id) for run_id in runs[number % 10 :]]
            with anyio.move_on_after(number / 100 if number % 2 else PATIENCE_S):
                async with client.listen(resource_subscriptions=uris) as updates:
                    while number % 2:
                        await anext(updates)

        async with anyio.create_task_group() as coming:
            for number in range(100):
                coming.start_soon(come_and_go, number)  # half of them leave whenever it is, the rest when they listen
        assert streams(proxy) >= 10
        await proxy.wait_for(lambda: proxy.open_connections <= connections)
        with anyio.fail_after(PATIENCE_S):
            for task in asyncio.all_tasks() - before:  # such as the timer of the streams, which ends with its next tick
                await asyncio.wait([task])


async def test_one_connection_subscribes_to_so_much_only(upstream: Upstream) -> None:
    """Each subscription may be a stream of the API; those of runs that have ended do not count."""
    async with httpx.AsyncClient(base_url=upstream.url, headers={"x-api-key": KEY}, timeout=PATIENCE_S) as api:

        async def run(number: int, story: str) -> str:
            body = {"input": f"question {number}", "processor": "lite", "metadata": {"sim": story}}
            return str((await api.post("/v1/tasks/runs", json=body)).json()["run_id"])

        ended = [await run(number, "latency=0") for number in range(20)]
        active = [await run(number, "never") for number in range(101)]
    heard = Heard()
    async with client_of("memory", upstream.url, LEGACY, heard) as client:
        for run_id in ended:
            await subscribe(client, status_uri(run_id))
            await heard.times(status_uri(run_id), 1)
        for run_id in active[:100]:
            await subscribe(client, status_uri(run_id))
        with pytest.raises(MCPError, match="unsubscribe"):
            await subscribe(client, status_uri(active[100]))
        await unsubscribe(client, status_uri(active[0]))
        await subscribe(client, status_uri(active[100]))
    uris = [f"{status_uri(run_id)}{part}" for run_id in active for part in ("", "/result.json", "/report.md")][:101]
    async with connected("memory", upstream.url) as client, client.listen(resource_subscriptions=uris) as updates:
        assert updates.honored.resource_subscriptions == uris[:100]


async def test_streams_are_bounded(upstream: Upstream) -> None:
    """Each holds a connection open, and anybody who reaches the server can ask for one."""
    runs = ["parallel://runs"]
    async with connected("memory", upstream.url) as client, AsyncExitStack() as streams_open:
        with anyio.fail_after(PATIENCE_S):
            async with client.listen(resource_subscriptions=runs):
                for _ in range(511):
                    await streams_open.enter_async_context(client.listen(resource_subscriptions=runs))
                with pytest.raises(MCPError, match="512 streams") as refusal:
                    await streams_open.enter_async_context(client.listen(resource_subscriptions=runs))
            while True:  # the server hears of the one that has left when it hears of it
                with suppress(MCPError):
                    await streams_open.enter_async_context(client.listen(resource_subscriptions=runs))
                    break

    assert refusal.value.error.code == 429


async def test_one_caller_leaves_streams_for_others(upstream: Upstream) -> None:
    """Over HTTP a server has many callers; one whose client opens streams in a loop must not shut the others out."""
    runs, mine = ["parallel://runs"], Heard()
    with serving_http(load_settings({"base_url": upstream.url, "ledger": "memory"})) as address:
        async with (
            http_client(address, KEY) as client,
            http_client(address, "other") as other,
            AsyncExitStack() as streams_open,
        ):
            with anyio.fail_after(PATIENCE_S):
                for _ in range(32):
                    await streams_open.enter_async_context(client.listen(resource_subscriptions=runs))
                with pytest.raises(MCPError, match="end one first") as refusal:
                    await streams_open.enter_async_context(client.listen(resource_subscriptions=runs))
                async with hearing(other, MODERN, mine, runs):
                    await create(other, "never")
                    await mine.times("parallel://runs", 1)

    assert refusal.value.error.code == 429


async def test_stream_that_can_tell_nothing_more_ends_in_order(upstream: Upstream) -> None:
    """It would hold one of the places for ever; its client knows from the result that nothing was lost."""
    heard = Heard()
    async with connected("http", upstream.url) as client:
        run_id = await create(client, QUIET)
        report = f"{status_uri(run_id)}/report.md"
        with anyio.fail_after(PATIENCE_S):
            for asked in ([], [status_uri("trun_nobody"), "file:///etc/passwd"]):
                async with client.listen(tools_list_changed=True, resource_subscriptions=asked) as updates:
                    await heard.listen(updates)  # raises SubscriptionLost if it is cut off
                    assert updates.honored.model_dump(exclude_none=True) == {}
            async with client.listen(resource_subscriptions=[status_uri(run_id), report]) as updates:
                upstream.simulator.finish(run_id)
                await heard.listen(updates)

    assert sorted(heard.uris) == [status_uri(run_id), report]


# ---- clients that do not read, and servers that end


@contextmanager
def listening_without_reading(address: str, uris: list[str]) -> Generator[socket.socket]:
    """A caller that listens under a very long id, which each notification repeats, and does not read."""
    body = {
        "jsonrpc": "2.0",
        "id": "i" * 100_000,
        "method": "subscriptions/listen",
        "params": {"notifications": {"resourceSubscriptions": uris}, "_meta": META},
    }
    text = json.dumps(body).encode()
    headers = {
        "host": urlsplit(address).netloc,
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "content-length": str(len(text)),
        "x-api-key": KEY,
        "mcp-protocol-version": MODERN,
        "mcp-method": "subscriptions/listen",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        caller.settimeout(PATIENCE_S)
        caller.connect((urlsplit(address).hostname, urlsplit(address).port))
        caller.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + text)
        yield caller


def told_late(caller: socket.socket, last: str) -> list[str]:
    """What was kept for a caller, up to the last thing it waits for."""
    told: list[str] = []
    with caller.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b"data: "):
                message = json.loads(line.removeprefix(b"data: "))
                told.append(message["params"].get("uri", message["method"]))
                if told[-1] == last:
                    return told
    raise AssertionError(f"never told: {told}")


async def test_client_that_does_not_read_stalls_nobody_and_still_gets_the_end_once(upstream: Upstream) -> None:
    """A laptop that sleeps must not be noticed by others, and finds out when it wakes."""
    heard = Heard()
    with serving_through_narrow_sockets(load_settings({"base_url": upstream.url})) as address, ExitStack() as idle:
        async with http_client(address, KEY) as client:
            run_id = await create(client, "never latency=9000 messages=2000")
            uri, report = status_uri(run_id), f"{status_uri(run_id)}/report.md"
            callers = [idle.enter_context(listening_without_reading(address, [uri, report])) for _ in range(5)]
            async with hearing(client, MODERN, heard, [uri, report]):
                await heard.times(uri, 2)
                async with pulse(client, uri) as took_s:
                    upstream.simulator.finish(run_id)
                    await heard.times(report, 1)
                    late_s = since_change_s(upstream, run_id)
                assert late_s < IN_TIME_S + sum(took_s)
        for caller in callers:
            acknowledged, *told = await anyio.to_thread.run_sync(told_late, caller, report)
            assert acknowledged == "notifications/subscriptions/acknowledged"
            assert told.count(report) == 1


@contextmanager
def http_process(upstream: Upstream, ledger: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A server over HTTP in a process of its own, and its address."""
    command = [sys.executable, "-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
    environment = {**os.environ, "PARALLEL_BASE_URL": upstream.url, "PARALLEL_MCP_LEDGER": ledger}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, cast("IO[str]", process.stderr).readline().split()[-1].removesuffix("/mcp")
        finally:
            process.kill()


async def test_replicas_answer_for_each_other(upstream: Upstream, tmp_path: Path) -> None:
    """Created on one, heard of from the other, read from either."""
    ledger, heard = str(tmp_path / "ledger.sqlite3"), Heard()
    with http_process(upstream, ledger) as (_, here), http_process(upstream, ledger) as (_, there):
        async with http_client(here, KEY) as one, http_client(there, KEY) as other:
            run_id = await create(other, QUEUED)
            uri, result = status_uri(run_id), f"{status_uri(run_id)}/result.json"
            async with hearing(one, MODERN, heard, [uri, result]):
                async with pulse(one, uri) as start_took_s:
                    upstream.simulator.start(run_id)
                    await heard.times(uri, 1)
                    started_s = since_change_s(upstream, run_id)
                running = await read(other, uri)
                async with pulse(one, uri) as end_took_s:
                    upstream.simulator.finish(run_id)
                    await heard.until(lambda: {uri, result} <= set(heard.uris[1:]))
                    ended_s = since_change_s(upstream, run_id)
                results = [await client.read_resource(result) for client in (one, other)]
                recent = [(await read(client, "parallel://runs"))["items"] for client in (one, other)]

    assert running["status"] == "running"
    assert started_s < IN_TIME_S + sum(start_took_s)
    assert ended_s < IN_TIME_S + sum(end_took_s)
    assert results[0].contents == results[1].contents
    assert [[item["id"] for item in items] for items in recent] == [[run_id], [run_id]]


async def test_stopped_server_acknowledges_what_it_knows_by_then(upstream: Upstream, proxy: FaultyProxy) -> None:
    """The acknowledgement comes before the end: without it, the client takes the end for a fault."""
    server = build_server(load_settings({"base_url": proxy.url, "ledger": "memory", "api_key": KEY}))
    async with Client(server, mode=MODERN) as client, anyio.create_task_group() as stopping:
        run_id = await create(client, "never")
        proxy.add(ScriptedFault(method="GET", path=f"/v1/tasks/runs/{run_id}.*", fault=stall(), times=None))

        async def stop_while_undecided() -> None:
            await proxy.wait_for(lambda: streams(proxy) == 1)
            server.let_listeners_go()

        stopping.start_soon(stop_while_undecided)
        with anyio.fail_after(PATIENCE_S):
            async with client.listen(resource_subscriptions=[status_uri(run_id), "parallel://runs"]) as updates:
                await Heard().listen(updates)  # raises SubscriptionLost if it is cut off
                assert updates.honored.resource_subscriptions == ["parallel://runs"]


@pytest.mark.parametrize("was_listened_to", [True, False])
async def test_server_that_stops_takes_no_new_listener(upstream: Upstream, *, was_listened_to: bool) -> None:
    """Its stream would hold up the stop until it is broken off; another server may take it."""
    server = build_server(load_settings({"base_url": upstream.url, "ledger": "memory", "api_key": KEY}))
    async with Client(server, mode=MODERN) as client:
        if was_listened_to:
            async with client.listen(resource_subscriptions=["parallel://runs"]):
                pass
        server.let_listeners_go()
        with pytest.raises(MCPError, match="stopping") as refusal:
            async with client.listen(resource_subscriptions=["parallel://runs"]):
                pass

    assert refusal.value.error.code == 503


async def test_stopped_server_lets_its_listeners_go_in_order(upstream: Upstream) -> None:
    """A stream without end would hold the stop up for ten seconds, and then break."""
    heard = Heard()
    with http_process(upstream, "memory") as (process, address):
        async with http_client(address, KEY) as client:
            run_id = await create(client, "never")
            async with client.listen(resource_subscriptions=[status_uri(run_id), "parallel://runs"]) as updates:
                process.send_signal(signal.SIGTERM)
                with anyio.fail_after(PATIENCE_S):
                    await heard.listen(updates)  # raises SubscriptionLost if it is cut off
        status = await anyio.to_thread.run_sync(process.wait)
        said = cast("IO[str]", process.stderr).read()

    assert status == 0
    assert said == ""
