"""The Tasks extension: a call answered with a task, which any process can be asked about."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import INTERNAL_ERROR, ElicitRequestParams, ElicitResult, EmptyResult

from parallel_mcp.api.models import TaskRun
from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.tasks.processors import ProcessorName
from parallel_mcp.tools.task_states import LONGEST_POLL_S, SHORTEST_POLL_S, poll_interval_s
from tests.conftest import Upstream
from tests.connecting import (
    KEY,
    LEGACY,
    MODERN,
    Transport,
    connected,
    create,
    failure,
    serving_http,
    stdio_server,
    structured,
    text_of,
)
from tests.faults import ScriptedFault, cut_body, faulty, reset_before_read, respond, slow
from tests.faults.kinds import Fault as ByteFault
from tests.specs import EXAMPLES, write_spec
from tests.task_client import (
    PATIENCE_S,
    TASKS,
    TakesTasks,
    TaskParams,
    TaskRequest,
    TaskState,
    UpdateParams,
    for_a_moment,
    task_created,
    task_state,
)

RUNS = "/v1/tasks/runs"
TASK: dict[str, Any] = {"input": "What does grid-scale battery storage cost?", "processor": "core"}
NEVER: dict[str, Any] = {**TASK, "metadata": {"sim": "never"}}
MISSING_CAPABILITY, HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND = -32021, -32020, -32602, -32601
METHODS = ["tasks/get", "tasks/update", "tasks/cancel"]


@asynccontextmanager
async def task_client(transport: Transport, base_url: str, takes: TakesTasks, **flags: Any) -> AsyncGenerator[Client]:
    """A client that takes tasks, of a new server."""
    async with AsyncExitStack() as stack:
        match transport:
            case "memory":
                server: Any = build_server(load_settings(in_memory(base_url, **flags)))
            case "stdio":
                server = stdio_client(stdio_server(base_url, KEY))
            case "http":
                address = stack.enter_context(serving_http(load_settings(in_memory(base_url, **flags))))
                http = await stack.enter_async_context(httpx2.AsyncClient(headers={"x-api-key": KEY}, timeout=60))
                server = streamable_http_client(f"{address}/mcp", http_client=http)
        yield await stack.enter_async_context(Client(server, mode=MODERN, extensions=[takes]))


def in_memory(base_url: str, **flags: Any) -> dict[str, Any]:
    """The settings of a server that keeps nothing."""
    return {"base_url": base_url, "ledger": "memory", "api_key": KEY, **flags}


@asynccontextmanager
async def replica(address: str, key: str = KEY, *, takes_tasks: bool = True) -> AsyncGenerator[Client]:
    """A client of a server that is being served."""
    async with (
        httpx2.AsyncClient(headers={"x-api-key": key}, timeout=60) as http,
        Client(
            streamable_http_client(f"{address}/mcp", http_client=http),
            mode=MODERN,
            extensions=[TakesTasks()] if takes_tasks else [],
        ) as client,
    ):
        yield client


async def asked(client: Client, method: str, task_id: str) -> Any:
    """What a method of the extension answers."""
    params = TaskParams(task_id=task_id)
    if method == "tasks/update":
        params = UpdateParams(task_id=task_id, input_responses={"nobody asked": {"action": "accept"}})
    return await client.session.send_request(TaskRequest(method=method, params=params), EmptyResult)


# ---- a call becomes a task


@pytest.mark.parametrize("transport", ["memory", "stdio", "http"])
async def test_client_that_takes_tasks_gets_the_result_as_if_it_had_waited(
    upstream: Upstream, transport: Transport
) -> None:
    """Its user sees one call with one answer, however long the run takes and however often the client must look."""
    takes = TakesTasks()
    async with task_client(transport, upstream.url, takes) as client:
        result = await client.call_tool("run_task", TASK)

    assert not result.is_error
    assert "Sources" in text_of(result)
    assert result.structured_content["untrusted"]["citations"]
    created, *looks = takes.seen
    assert created.status == "working"
    assert created.status_message.startswith(f"Started {created.task_id} (core, queued) for $0.025.")
    assert [look.status for look in looks][-1] == "completed"
    assert {look.task_id for look in looks} == {created.task_id} == {result.structured_content["id"]}


async def test_status_message_tells_how_far_the_run_is(upstream: Upstream) -> None:
    """It is all that a person sees meanwhile: percent, time against the usual time, and the last step, on one line."""

    async def waits(state: TaskState) -> None:
        if " %, for " in state.status_message and ": " in state.status_message:
            upstream.simulator.finish(state.task_id)
        await for_a_moment(state)

    takes = TakesTasks(waits)
    async with task_client("memory", upstream.url, takes) as client:
        await client.call_tool("run_task", {**TASK, "metadata": {"sim": "never latency=60"}})

    told = [state.status_message for state in takes.seen[1:-1]]
    assert any(" %, for " in message and "(usually 60 s to 5 min)" in message for message in told), told
    assert any("Read " in message or "Searching" in message or ": " in message for message in told), told
    assert all(len(message) <= 200 and "\n" not in message for message in told)


async def test_dear_run_becomes_a_task_once_its_price_is_approved(upstream: Upstream) -> None:
    """The question comes with the call, in which the client can answer it: a run asks nothing any more."""
    takes, questions = TakesTasks(), list[str]()

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content={"approve": True})

    server = build_server(load_settings(in_memory(upstream.url)))
    async with Client(server, mode=MODERN, extensions=[takes], elicitation_callback=answer) as client:
        dear = {**TASK, "processor": "ultra4x", "metadata": {"sim": "latency=60"}}
        result = await client.call_tool("run_task", dear)

    assert len(questions) == 1
    assert "$1.200" in questions[0]
    assert takes.seen[0].status_message.startswith(f"Started {takes.seen[0].task_id} (ultra4x, queued) for $1.200.")
    assert "Sources" in text_of(result)
    assert upstream.simulator.accepted_runs == 1


async def test_result_of_a_task_is_the_result_of_the_tool(upstream: Upstream) -> None:
    """A client may take tasks one day and not the next; the model must not notice."""
    async with connected("memory", upstream.url) as waiting:
        plain = (await waiting.call_tool("run_task", {**TASK, "processor": "lite"})).structured_content
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        polled = (await client.call_tool("run_task", {**TASK, "processor": "lite"})).structured_content

    own = {"id", "link", "resource", "price_usd", "deduplicated"}
    assert {name: value for name, value in plain.items() if name not in own} == {
        name: value for name, value in polled.items() if name not in own
    }


async def test_tool_of_a_spec_gives_its_own_kind_of_result(upstream: Upstream) -> None:
    """The client checks it against the output schema that this tool, and no other, has published."""
    takes = TakesTasks()
    async with task_client("memory", upstream.url, takes, specs=EXAMPLES) as client:
        result = await client.call_tool("fact_check", {"claim": "Battery storage became cheaper in 2024."})

    assert takes.seen[0].status == "working"
    assert "verdict" in result.structured_content["untrusted"]["output"]


async def test_task_of_a_spec_that_is_gone_still_has_its_result(upstream: Upstream, tmp_path: Path) -> None:
    """The run is paid for; what is left is the form of run_task."""
    write_spec(tmp_path)
    async with task_client("memory", upstream.url, TakesTasks(), specs=tmp_path) as client:
        created = await task_created(client, "find_leader", {"organisation": "Acme"})
    upstream.simulator.finish(created.task_id)
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        state = await task_state(client, created.task_id)

    assert state.status == "completed"
    assert state.result
    assert state.result["structuredContent"]["untrusted"]["output"]["leader_name"]


async def test_nobody_else_can_say_which_spec_a_run_is_of(upstream: Upstream) -> None:
    """Its result would be put into a form that has nothing to do with it."""
    async with connected("memory", upstream.url) as client:
        text = await failure(client, "create_task", {**TASK, "metadata": {"mcp_tool": "fact_check"}})

    assert "`metadata` cannot have the key `mcp_tool`" in text


async def test_failed_run_is_a_completed_task_whose_result_is_an_error(upstream: Upstream) -> None:
    """`failed` is for errors of the protocol; the model must read why the run failed, and what to do."""
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        result = await client.call_tool("run_task", {**TASK, "metadata": {"sim": "fails"}})

    assert result.is_error
    assert result.structured_content is None
    assert "Code: run_failed." in text_of(result)


@pytest.mark.parametrize(("ending", "status", "said"), [
    ("cancelled", "cancelled", "The run is cancelled."),
    ("action_required", "working", "The user must look at https://platform.parallel.ai/"),
])  # fmt: skip
async def test_run_that_stops_otherwise_says_so(upstream: Upstream, ending: str, status: str, said: str) -> None:
    """One that waits for the user has not ended, and a cancelled one has no result."""
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        created = await task_created(client, "run_task", {**TASK, "metadata": {"sim": f"status={ending}"}})
        await client.call_tool("watch_progress", {"id": created.task_id})
        state = await task_state(client, created.task_id)

    assert state.status == status
    assert said in state.status_message
    assert state.result is None


@pytest.mark.parametrize(("ended_s_ago", "status"), [(5, "working"), (600, "completed")])
async def test_run_that_ended_in_a_way_of_tomorrow_is_no_task_for_ever(
    upstream: Upstream, ended_s_ago: int, status: str
) -> None:
    """Whatever the API calls it, what is no longer active and has no result ends with what the tool would say of it."""
    with faulty(upstream.url) as proxy:
        async with task_client("memory", proxy.url, TakesTasks()) as client:
            created = await task_created(client, "run_task", NEVER)
            modified = (datetime.now(UTC) - timedelta(seconds=ended_s_ago)).isoformat()
            run = {"run_id": created.task_id, "status": "expired", "is_active": False, "modified_at": modified}
            expired = respond(200, json.dumps(run).encode())
            proxy.add(
                ScriptedFault(path=f".*/{created.task_id}/result", fault=respond(404, b"{}"), times=None),
                ScriptedFault(path=f"{RUNS}/{created.task_id}", fault=expired, times=None),
            )
            state = await task_state(client, created.task_id)
            said = text_of(await client.call_tool("get_result", {"id": created.task_id}))

    assert state.status == status
    assert "The run is expired" in state.status_message
    assert "The user must look" not in state.status_message
    if state.result is not None:
        assert state.result["content"][0]["text"] == said
        assert state.result["structuredContent"]["status"] == "expired"


async def test_equal_call_gives_the_same_task_and_buys_nothing(upstream: Upstream) -> None:
    """A client that lost the first answer asks again."""
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        first = await task_created(client, "run_task", NEVER)
        second = await task_created(client, "run_task", NEVER)

    assert first.task_id == second.task_id
    assert "Nothing was created or charged" in second.status_message
    assert upstream.simulator.accepted_runs == 1


UNREADABLE: dict[str, tuple[ByteFault, int]] = {
    "no server behind the gateway": (respond(503), 3),
    "the gateway's own page": (respond(200, b"<html></html>", {"content-type": "text/html"}), 1),
    "not there yet": (respond(404, b"{}"), 1),
    "still active there": (respond(408, b"{}"), 1),
    "not yours for a moment": (respond(403, b"{}"), 1),
}


@pytest.mark.parametrize("fault", UNREADABLE)
async def test_end_is_told_however_late_the_result_can_be_read(upstream: Upstream, fault: str) -> None:
    """A poll that meets a fault upstream must neither fail the task nor end it without its result."""
    with faulty(upstream.url) as proxy:
        async with task_client("memory", proxy.url, TakesTasks()) as client:
            created = await task_created(client, "run_task", NEVER)
            upstream.simulator.finish(created.task_id)
            answer, times = UNREADABLE[fault]
            proxy.add(ScriptedFault(path=f"{RUNS}/{created.task_id}/result", fault=answer, times=times))
            before = await task_state(client, created.task_id)
            after = await task_state(client, created.task_id)

    assert before.status == "working"
    assert "completed, but its result could not be read" in before.status_message
    assert after.status == "completed"
    assert after.result


PASSING: dict[str, ByteFault] = {
    "no server behind the gateway": respond(503),
    "the gateway's own page as an error": respond(502, b"<html></html>", {"content-type": "text/html"}),
    "the gateway's own page": respond(200, b"<html></html>", {"content-type": "text/html"}),
    "too many requests": respond(429, b"{}", {"retry-after": "0.1"}),
    "no answer": reset_before_read(),
}


@pytest.mark.parametrize("fault", PASSING)
async def test_outage_at_a_look_does_not_end_the_call(upstream: Upstream, fault: str) -> None:
    """A client takes an error for the end of the call, and its model would buy the answer that is on its way again."""
    takes = TakesTasks()
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="GET", path=f"{RUNS}/trun_[^/]*", fault=PASSING[fault], times=3))
        async with task_client("memory", proxy.url, takes) as client:
            result = await client.call_tool("run_task", {**TASK, "processor": "lite"})

    assert not result.is_error
    assert "Sources" in text_of(result)
    unread = takes.seen[1]
    assert unread.status == "working"
    assert unread.status_message.startswith("How the run stands could not be read just now: ")
    assert "Next" not in unread.status_message
    assert unread.poll_interval_ms == LONGEST_POLL_S * 1000
    assert upstream.simulator.accepted_runs == 1


@pytest.mark.parametrize(("told_s", "after_s"), [("40", 40), ("4000", 60)])
async def test_next_look_comes_no_sooner_than_the_api_says(upstream: Upstream, told_s: str, after_s: int) -> None:
    """Looking sooner would be refused again; but a task is not left alone for an hour."""
    with faulty(upstream.url) as proxy:
        async with task_client("memory", proxy.url, TakesTasks()) as client:
            created = await task_created(client, "run_task", NEVER)
            busy = respond(429, b"{}", {"retry-after": told_s})
            proxy.add(ScriptedFault(path=f"{RUNS}/{created.task_id}", fault=busy))
            state = await task_state(client, created.task_id)

    assert state.status == "working"
    assert state.poll_interval_ms == after_s * 1000


@pytest.mark.parametrize("method", METHODS)
async def test_lasting_error_of_a_look_leads_to_the_run_and_not_to_another_one(upstream: Upstream, method: str) -> None:
    """The run is paid for and goes on; advice to call again would be followed by calling the tool again."""
    with faulty(upstream.url) as proxy:
        async with task_client("memory", proxy.url, TakesTasks()) as client:
            created = await task_created(client, "run_task", NEVER)
            refused = respond(401, b'{"error": {"message": "no such key", "ref_id": "r1"}}')
            proxy.add(ScriptedFault(path=f"{RUNS}/{created.task_id}", fault=refused))
            with pytest.raises(MCPError) as error:
                await asked(client, method, created.task_id)

    text = error.value.error.message
    assert error.value.error.code == INTERNAL_ERROR
    assert "no such key" in text
    assert f"Next: The run {created.task_id} is not affected. Ask for this task again, or call " in text
    assert f'get_result(id="{created.task_id}")' in text
    assert text.count("Next: ") == 1


async def test_look_at_progress_that_fails_is_no_fault_of_the_task(upstream: Upstream) -> None:
    """The status was read; how far the run is would only be nice to know."""
    with faulty(upstream.url) as proxy:
        async with task_client("memory", proxy.url, TakesTasks()) as client:
            created = await task_created(client, "run_task", NEVER)
            run = f"{RUNS}/{created.task_id}"
            proxy.add(ScriptedFault(path=f".*/{created.task_id}/events", fault=respond(404, b"{}"), times=None))
            proxy.add(ScriptedFault(path=run, skip=1, fault=respond(403, b"{}")))
            state = await task_state(client, created.task_id)

    assert state.status == "working"
    assert upstream.sent("GET", run)


async def test_first_look_in_another_process_tells_the_newest_step(upstream: Upstream) -> None:
    """The stream begins with what happened first; to tell that as what happens now would mislead."""
    async with connected("memory", upstream.url) as watching:
        run_id = await create(watching, "latency=60 messages=10 never", processor="core")
        steps: list[str] = []
        with anyio.fail_after(PATIENCE_S):
            while len(steps) < 10:
                watched = await watching.call_tool("watch_progress", {"id": run_id, "timeout_s": 0.5})
                steps = [] if watched.is_error else structured(watched)["untrusted_messages"]

    message = ""
    with faulty(upstream.url) as proxy, anyio.fail_after(PATIENCE_S):
        proxy.add(ScriptedFault(path=".*/events", fault=slow(10_000, 0.003), times=None))  # one event after the other
        while f": {steps[-1]}" not in message:  # a look has little time for the stream: another process may have enough
            async with task_client("memory", proxy.url, TakesTasks()) as client:
                message = (await task_state(client, run_id)).status_message

    assert steps[-1] not in steps[:-1]
    assert " %, for " in message


async def test_looks_share_one_stream(upstream: Upstream) -> None:
    """Opening one for each look would read the whole history of a run again and again."""
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        created = await task_created(client, "run_task", {**TASK, "metadata": {"sim": "never queue=1000 latency=2000"}})
        for _ in range(3):
            await task_state(client, created.task_id)
            await anyio.sleep(created.poll_interval_ms / 4000)  # clients pause, each as it likes

    streams = [request for request in upstream.simulator.requests if request.path.endswith("/events")]
    assert len(streams) == 1


# ---- who sees tasks


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_client_without_the_extension_sees_no_difference(upstream: Upstream, mode: str) -> None:
    """It cannot know what to do with a task."""
    async with connected("memory", upstream.url, mode=mode) as client:
        result = await client.call_tool("run_task", {**TASK, "processor": "lite"})

    assert "Sources" in text_of(result)


@pytest.mark.parametrize("method", METHODS)
async def test_methods_need_the_capability_in_the_very_request(upstream: Upstream, method: str) -> None:
    """Nothing about a client is remembered between its requests."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "never")
        with pytest.raises(MCPError) as refused:
            await asked(client, method, run_id)

    assert refused.value.error.code == MISSING_CAPABILITY
    assert refused.value.error.data == {"requiredCapabilities": {"extensions": {TASKS: {}}}}


@pytest.mark.parametrize("method", [*METHODS, "tasks/result", "tasks/list"])
async def test_older_revisions_have_no_such_methods(upstream: Upstream, method: str) -> None:
    """Extensions came with 2026-07-28."""
    async with connected("memory", upstream.url, mode=LEGACY) as client:
        with pytest.raises(MCPError) as refused:
            await asked(client, method, "trun_1")

    assert refused.value.error.code == METHOD_NOT_FOUND


@pytest.mark.parametrize("method", ["tasks/result", "tasks/list"])
async def test_methods_that_the_extension_dropped_are_unknown(upstream: Upstream, method: str) -> None:
    """A list would show the tasks of others; a result comes with its task."""
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        with pytest.raises(MCPError) as refused:
            await asked(client, method, "trun_1")

    assert refused.value.error.code == METHOD_NOT_FOUND


async def test_chatgpt_profile_has_no_tasks(upstream: Upstream) -> None:
    """It has two tools, and neither starts anything."""
    async with task_client("memory", upstream.url, TakesTasks(), profile="chatgpt") as client:
        assert TASKS not in (client.server_capabilities.extensions or {})


# ---- whose task it is


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task_id", ["trun_00000000000000000000000000000000", "tgrp_1", "no/handle", "é" * 30])
async def test_unknown_ids_are_invalid_parameters(upstream: Upstream, method: str, task_id: str) -> None:
    """Also those that are no handles: none of them is sent anywhere."""
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        with pytest.raises(MCPError) as refused:
            await asked(client, method, task_id)

    assert refused.value.error.code == INVALID_PARAMS
    paths = {request.path for request in upstream.simulator.requests}
    assert paths <= {f"{RUNS}/trun_00000000000000000000000000000000"}


async def test_any_process_answers_and_only_the_same_key(upstream: Upstream) -> None:
    """Behind a load balancer no two requests need meet the same process; and a run id is no secret."""
    settings = load_settings({"base_url": upstream.url, "ledger": "memory"})
    with serving_http(settings) as one, serving_http(settings) as other:
        async with replica(one) as here, replica(other) as there, replica(other, "another-key") as stranger:
            created = await task_created(here, "run_task", NEVER)
            working = [await task_state(client, created.task_id) for client in (there, here, there)]
            for method in METHODS:
                with pytest.raises(MCPError) as refused:
                    await asked(stranger, method, created.task_id)
                assert refused.value.error.code == INVALID_PARAMS
            upstream.simulator.finish(created.task_id)
            ended = [await task_state(client, created.task_id) for client in (there, here)]

    assert {state.status for state in working} == {"working"}
    assert {state.status for state in ended} == {"completed"}
    assert ended[0].result
    assert ended[0].result["structuredContent"] == (ended[1].result or {})["structuredContent"]


async def test_header_that_names_another_task_is_refused(upstream: Upstream) -> None:
    """Proxies route and authorise by the header, so it must be true."""
    with serving_http(load_settings({"base_url": upstream.url, "ledger": "memory"})) as address:
        async with replica(address) as client:
            created = await task_created(client, "run_task", NEVER)
        meta: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}},
        }
        params: dict[str, Any] = {"taskId": created.task_id, "_meta": meta}
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": params}
        headers = {
            "x-api-key": KEY,
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": "tasks/get",
        }
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
            answers = [
                await http.post(f"{address}/mcp", json=body, headers={"mcp-name": name} if name else {})
                for name in (created.task_id, "trun_other", "")
            ]

    assert [answer.status_code for answer in answers] == [200, 400, 400]
    assert [answer.json().get("error", {}).get("code") for answer in answers] == [
        None,
        HEADER_MISMATCH,
        HEADER_MISMATCH,
    ]


async def test_cancel_and_update_are_acknowledged_and_the_run_goes_on(upstream: Upstream) -> None:
    """The API has no cancel, so to call a task cancelled that is still billed would be a lie; also twice, also late."""
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        created = await task_created(client, "run_task", NEVER)
        for method in ("tasks/cancel", "tasks/cancel", "tasks/update"):
            await asked(client, method, created.task_id)
        state = await task_state(client, created.task_id)
        upstream.simulator.finish(created.task_id)
        await asked(client, "tasks/cancel", created.task_id)
        ended = await task_state(client, created.task_id)

    assert (state.status, ended.status) == ("working", "completed")


async def test_no_task_state_is_kept_by_the_server(upstream: Upstream) -> None:
    """A restart loses none: a task is what the API says of the run, also of one that was not started as a task."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "never")
    async with task_client("memory", upstream.url, TakesTasks()) as client:
        state = await task_state(client, run_id)

    assert state.status == "working"


# ---- being told


@asynccontextmanager
async def told_of(address: str, *task_ids: str, **extensions: Any) -> AsyncGenerator[AsyncGenerator[dict[str, Any]]]:
    """The messages on a stream of `subscriptions/listen` for tasks, or the one that refuses it."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {"extensions": extensions or {TASKS: {}}},
    }
    params: dict[str, Any] = {"notifications": {"taskIds": task_ids}, "_meta": meta}
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": "mine", "method": "subscriptions/listen", "params": params}
    headers = {
        "x-api-key": KEY,
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": "subscriptions/listen",
    }

    async def messages(response: httpx2.Response) -> AsyncGenerator[dict[str, Any]]:
        if response.status_code != 200:
            yield json.loads(await response.aread())
            return
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))

    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        http.stream("POST", f"{address}/mcp", json=body) as response,
        aclosing(messages(response)) as told,
    ):
        yield told


async def test_listening_client_is_told_of_progress_and_once_of_the_end(upstream: Upstream) -> None:
    """On another process than the one that started the run; with the end comes the whole result."""
    settings = load_settings({"base_url": upstream.url, "ledger": "memory"})
    with serving_http(settings) as one, serving_http(settings) as other:
        async with replica(one) as client:
            talks_on = {"sim": "never latency=6000 messages=600"}
            created = await task_created(client, "run_task", {**TASK, "metadata": talks_on})
        seen: list[dict[str, Any]] = []
        async with told_of(other, created.task_id, "trun_of_nobody") as told:
            acknowledged = await anext(told)
            with anyio.fail_after(PATIENCE_S):
                async for message in told:
                    seen.append(message)
                    if message["params"]["status"] != "working":
                        break
                    if len({message["params"]["statusMessage"] for message in seen}) > 1:
                        upstream.simulator.finish(created.task_id)

    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"] == {"taskIds": [created.task_id]}
    assert {message["method"] for message in seen} == {"notifications/tasks"}
    assert {message["params"]["taskId"] for message in seen} == {created.task_id}
    marks = [message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] for message in seen]
    assert set(marks) == {"mine"}
    *progress, last = [message["params"] for message in seen]
    assert len({state["statusMessage"] for state in progress}) > 1
    assert last["status"] == "completed"
    assert last["result"]["structuredContent"]["untrusted"]["citations"]


async def test_listening_client_is_told_of_the_end_also_when_the_stream_fails_for_good(upstream: Upstream) -> None:
    """The acknowledgement was a promise."""
    with ExitStack() as serving:
        proxy = serving.enter_context(faulty(upstream.url))
        address = serving.enter_context(serving_http(load_settings({"base_url": proxy.url, "ledger": "memory"})))
        async with replica(address) as client:
            created = await task_created(client, "run_task", NEVER)
        run = f"{RUNS}/{created.task_id}"
        proxy.add(ScriptedFault(path=f".*/{created.task_id}/events", fault=cut_body(600)))
        proxy.add(ScriptedFault(path=run, skip=1, fault=respond(403, b"{}")))
        async with told_of(address, created.task_id) as told:
            await proxy.wait_for(lambda: sum(request.path == run for request in proxy.requests) > 1)
            upstream.simulator.finish(created.task_id)
            with anyio.fail_after(PATIENCE_S):
                while "result" not in (state := (await anext(told))["params"]):
                    pass

    assert state["status"] == "completed"


async def test_listening_client_is_told_how_a_run_goes_on_that_had_waited_for_the_user(upstream: Upstream) -> None:
    """Nobody else tells it: a stream that ended there would be opened again and again, or never."""
    with ExitStack() as serving:
        proxy = serving.enter_context(faulty(upstream.url))
        address = serving.enter_context(serving_http(load_settings({"base_url": proxy.url, "ledger": "memory"})))
        async with replica(address) as client:
            created = await task_created(client, "run_task", NEVER)
        stopped = {"run_id": created.task_id, "status": "action_required", "is_active": False, "processor": "core"}
        event = json.dumps({"type": "task_run.state", "run": stopped}).encode()
        stream = respond(200, b"data: " + event + b"\n\n", {"content-type": "text/event-stream"})
        status = respond(200, json.dumps(stopped).encode())
        proxy.add(ScriptedFault(path=f".*/{created.task_id}/events", fault=stream, times=None))
        proxy.add(ScriptedFault(path=f"{RUNS}/{created.task_id}", fault=status, times=None))
        async with told_of(address, created.task_id) as told:
            with anyio.fail_after(PATIENCE_S):
                await anext(told)
                waits = (await anext(told))["params"]
                proxy.clear()
                upstream.simulator.finish(created.task_id)
                while "result" not in (state := (await anext(told))["params"]):
                    pass

    assert waits["status"] == "working"
    assert "The user must look at https://platform.parallel.ai/" in waits["statusMessage"]
    assert waits["pollIntervalMs"] == LONGEST_POLL_S * 1000
    assert state["status"] == "completed"


@pytest.mark.parametrize("status", [404, 401])
async def test_stream_ends_where_a_run_can_never_be_read_again(upstream: Upstream, status: int) -> None:
    """The client asks for the task and learns why; else it would be told for ever that the run is at work."""
    with ExitStack() as serving:
        proxy = serving.enter_context(faulty(upstream.url))
        address = serving.enter_context(serving_http(load_settings({"base_url": proxy.url, "ledger": "memory"})))
        async with replica(address) as client:
            created = await task_created(client, "run_task", {**NEVER, "processor": "lite"})
        gone = respond(status, b"{}")
        proxy.add(ScriptedFault(path=f".*/{created.task_id}/events", fault=gone, times=None))
        proxy.add(ScriptedFault(path=f"{RUNS}/{created.task_id}", skip=1, fault=gone, times=None))
        async with told_of(address, created.task_id) as told:
            with anyio.fail_after(PATIENCE_S):
                messages = [message async for message in told]

    acknowledged, *news, result = messages
    assert acknowledged["params"]["notifications"] == {"taskIds": [created.task_id]}
    assert {message["params"]["status"] for message in news} <= {"working"}
    assert result["id"] == "mine"
    assert "error" not in result


async def test_listening_to_tasks_needs_the_capability(upstream: Upstream) -> None:
    """As every other method of the extension."""
    with serving_http(load_settings({"base_url": upstream.url, "ledger": "memory"})) as address:
        async with told_of(address, "trun_1", **{"com.example/other": {}}) as told:
            refusal = await anext(told)

    assert refusal["error"]["code"] == MISSING_CAPABILITY


# ---- when to ask again


@given(
    processor=st.sampled_from((*get_args(ProcessorName), "", "of tomorrow")),
    ages_s=st.lists(st.integers(0, 10_000), min_size=2, max_size=2).map(sorted),
)
def test_longer_runs_are_looked_at_less_often(processor: str, ages_s: list[int]) -> None:
    """Within bounds, whatever the processor: each look costs a request, and a person waits for the last one."""
    young, old = (poll_interval_s(aged(processor, age_s)) for age_s in ages_s)

    assert SHORTEST_POLL_S <= young <= old <= LONGEST_POLL_S


def test_slow_processors_are_not_asked_at_every_turn() -> None:
    """Nothing can have happened yet."""
    assert poll_interval_s(aged("lite", 0)) == SHORTEST_POLL_S
    assert poll_interval_s(aged("ultra8x", 0)) == LONGEST_POLL_S


def aged(processor: str, age_s: int) -> TaskRun:
    """An ended run of that age: of one that is active the age grows while the test runs."""
    created = "2026-01-01T00:00:00+00:00"
    hours, rest = divmod(age_s, 3600)
    modified = f"2026-01-01T{hours:02}:{rest // 60:02}:{rest % 60:02}+00:00"
    text = json.dumps({"run_id": "trun_1", "status": "completed", "processor": processor, "is_active": False,
                       "created_at": created, "modified_at": modified})  # fmt: skip
    return TaskRun.model_validate_json(text)
