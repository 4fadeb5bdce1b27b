"""Nothing paid is lost or bought twice: across processes, restarts, cancellations and deaths."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import anyio
import anyio.to_thread
import pytest
from mcp import Client
from mcp.types import ElicitRequestParams, ElicitResult

from parallel_mcp.api.connections import Timeouts
from parallel_mcp.errors import SettingsError
from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Fault
from tests.conftest import Upstream
from tests.connecting import (
    KEY,
    LEGACY,
    MODERN,
    asked_client,
    connected,
    create,
    failure,
    http_client,
    serving_http,
    structured,
    text_of,
)
from tests.faults import (
    ScriptedFault,
    close_without_answer,
    cut_body,
    faulty,
    replace_body,
    reset_after_accept,
    respond,
    respond_after_forward,
    stall,
)
from tests.faults.kinds import Fault as ByteFault
from tests.faults.wire import Ending, Exchange
from tests.patience import PATIENCE_S

RUNS = "/v1/tasks/runs"
CREATES = f"{RUNS}|/v1/tasks/groups/[^/]+/runs"
TASK: dict[str, Any] = {"input": "What does grid-scale battery storage cost?", "processor": "core-fast"}
NEVER: dict[str, Any] = {**TASK, "metadata": {"sim": "never"}}
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Server:
    """A server process in the hands of a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._number = 0

    def send(self, method: str, **params: Any) -> int:
        """Send a request; its number."""
        self._number += 1
        self._write({"jsonrpc": "2.0", "id": self._number, "method": method, "params": {**params, "_meta": META}})
        return self._number

    def cancel(self, number: int) -> None:
        """Say that the answer to a request is no longer wanted."""
        self._write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool and wait for its result."""
        number = self.send("tools/call", name=tool, arguments=arguments)
        for line in cast("IO[str]", self.process.stdout):
            message = json.loads(line)
            if message.get("id") == number:
                return cast("dict[str, Any]", message["result"])
        raise AssertionError("the server closed stdout before it answered")

    def _write(self, message: dict[str, Any]) -> None:
        stdin = cast("IO[str]", self.process.stdin)
        stdin.write(json.dumps(message) + "\n")
        stdin.flush()


@contextmanager
def serving_stdio(url: str, ledger: Path, **settings: str) -> Generator[Server]:
    """A server process with a ledger in a file."""
    environment = {"PARALLEL_BASE_URL": url, "PARALLEL_API_KEY": KEY, "PARALLEL_MCP_LEDGER": str(ledger)}
    environment |= {f"PARALLEL_MCP_{name.upper()}": value for name, value in settings.items()}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # what is being tested
    command = [sys.executable, "-W", "error", "-m", "parallel_mcp"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe) as process:
        overdue = threading.Timer(2 * PATIENCE_S, process.kill)  # a server that hangs must not halt the tests
        overdue.start()
        try:
            yield Server(process)
        finally:
            overdue.cancel()
            process.kill()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where a ledger file will be."""
    return tmp_path / "data" / "ledger.sqlite3"


def test_same_key_gives_the_same_run_in_two_processes_and_after_a_restart(upstream: Upstream, ledger: Path) -> None:
    """The model, the client or the machine may have been restarted in between."""
    keyed = {**TASK, "idempotency_key": "report-1"}
    with serving_stdio(upstream.url, ledger) as one, serving_stdio(upstream.url, ledger) as other:
        first = one.call("create_task", keyed)["structuredContent"]
        second = other.call("create_task", keyed)["structuredContent"]
        changed = other.call("create_task", {**keyed, "input": "something else"})
    with serving_stdio(upstream.url, ledger) as restarted:
        third = restarted.call("create_task", keyed)["structuredContent"]
        listed = restarted.call("get_status", {})["structuredContent"]

    assert (first["deduplicated"], second["deduplicated"], third["deduplicated"]) == (False, True, True)
    assert first["run_id"] == second["run_id"] == third["run_id"]
    assert changed["isError"]
    assert "idempotency_conflict" in changed["content"][0]["text"]
    assert [item["id"] for item in listed["items"]] == [first["run_id"]]
    assert listed["spent_usd_last_hour"] == 0.025
    assert upstream.simulator.accepted_runs == 1
    assert len(upstream.sent("POST", RUNS)) == 1


def test_cancelled_create_is_finished_and_found_by_the_repeat(upstream: Upstream, ledger: Path) -> None:
    """The client gave up on a create that the API answered later."""
    with held_answers(upstream) as (url, answer), serving_stdio(url, ledger) as server:
        number = server.send("tools/call", name="create_task", arguments=NEVER)
        wait_for_create(upstream)
        server.cancel(number)
        server.call("get_status", {})  # by then it has read the cancellation
        answer.set()
        repeated = server.call("create_task", NEVER)["structuredContent"]

    assert repeated["deduplicated"]
    assert upstream.simulator.accepted_runs == 1


@pytest.mark.parametrize("end", ["end of input", "SIGTERM"])
def test_server_that_is_stopped_finishes_and_records_a_create_on_its_way(
    upstream: Upstream, ledger: Path, end: str
) -> None:
    """The money is spent; the run must be found when the assistant starts again."""
    with held_answers(upstream) as (url, answer), serving_stdio(url, ledger) as server:
        server.send("tools/call", name="create_task", arguments=NEVER)
        wait_for_create(upstream)
        if end == "SIGTERM":
            server.process.send_signal(signal.SIGTERM)
        else:
            cast("IO[str]", server.process.stdin).close()
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(timeout=2)
        answer.set()
        assert server.process.wait(timeout=PATIENCE_S) == 0
    with serving_stdio(upstream.url, ledger) as restarted:
        repeated = restarted.call("create_task", NEVER)["structuredContent"]

    assert repeated["deduplicated"]
    assert upstream.simulator.accepted_runs == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_repeated_signal_does_not_cut_a_create_off(upstream: Upstream, ledger: Path, number: signal.Signals) -> None:
    """Wrappers forward signals that the process got already; people press Ctrl-C twice."""
    with held_answers(upstream) as (url, answer), serving_stdio(url, ledger) as server:
        server.send("tools/call", name="create_task", arguments=NEVER)
        wait_for_create(upstream)
        for _ in range(3):
            server.process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(timeout=0.5)
        answer.set()
        assert server.process.wait(timeout=PATIENCE_S) == (0 if number == signal.SIGTERM else 130)
    with serving_stdio(upstream.url, ledger) as restarted:
        repeated = restarted.call("create_task", NEVER)["structuredContent"]

    assert repeated["deduplicated"]
    assert upstream.simulator.accepted_runs == 1


def test_create_that_is_never_answered_delays_the_end_by_fifteen_seconds_at_most(
    upstream: Upstream, ledger: Path
) -> None:
    """Clients kill what does not end; what is not answered by then is written down as unknown."""
    with faulty(upstream.url) as proxy, serving_stdio(proxy.url, ledger) as server:
        proxy.add(ScriptedFault(method="POST", path=RUNS, fault=stall()))
        server.send("tools/call", name="create_task", arguments=NEVER)
        wait_for_create(upstream)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=25) == 0  # without the limit it would be the thirty of the create itself
    db = sqlite3.connect(ledger)
    assert db.execute("SELECT state FROM entries").fetchall() == [("unknown",)]
    db.close()


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_create_of_an_http_caller_who_disconnects_is_found_by_the_repeat(upstream: Upstream, mode: str) -> None:
    """In the 2026 protocol, closing the stream cancels the call, and clients send it again by themselves."""
    with (
        held_answers(upstream) as (url, answer),
        serving_http(load_settings({"base_url": url, "ledger": "memory"})) as address,
    ):
        async with http_client(address, KEY, mode=mode) as client, anyio.create_task_group() as creating:
            creating.start_soon(client.call_tool, "create_task", NEVER)
            await anyio.to_thread.run_sync(wait_for_create, upstream)
            creating.cancel_scope.cancel()
        async with http_client(address, KEY, mode=mode) as client:
            await client.call_tool("get_status", {})  # by then it has seen the other one leave
            answer.set()
            repeated = structured(await client.call_tool("create_task", NEVER))

    assert repeated["deduplicated"]
    assert upstream.simulator.accepted_runs == 1


@pytest.mark.parametrize("safe_create", ["plain", "group"])
def test_killed_server_never_buys_twice(upstream: Upstream, ledger: Path, safe_create: str) -> None:
    """With a plain create the repeat says that the outcome is unknown; with a group it finds the run."""
    keyed = {**NEVER, "idempotency_key": "k"}
    with held_answers(upstream) as (url, _), serving_stdio(url, ledger, safe_create=safe_create) as server:
        server.send("tools/call", name="create_task", arguments=keyed)
        wait_for_create(upstream)
        server.process.kill()
        server.process.wait()
    db = sqlite3.connect(ledger)
    assert db.execute("SELECT state FROM entries").fetchall() == [("intent",)]
    db.execute("UPDATE entries SET at = at - 60")  # another process may take twenty seconds over it; that is over
    db.commit()
    db.close()
    with serving_stdio(upstream.url, ledger, safe_create=safe_create) as restarted:
        repeated = restarted.call("create_task", keyed)
        again = restarted.call("create_task", keyed)

    reads = [request for request in upstream.simulator.requests if request.path.endswith("/runs")]
    assert upstream.simulator.accepted_runs == 1
    if safe_create == "plain":
        assert "outcome is unknown; nothing was sent now" in repeated["content"][0]["text"]
    else:
        assert repeated["structuredContent"]["deduplicated"]
        assert again["structuredContent"]["run_id"] == repeated["structuredContent"]["run_id"]
        assert len([request for request in reads if request.method == "GET"]) == 1, "adopted for good"


LOST: dict[str, Callable[[], ByteFault]] = {
    "reset after sending": reset_after_accept,
    "closed without answer": close_without_answer,
    "body cut": lambda: cut_body(20),
    "stalled": stall,
    "502": lambda: respond_after_forward(502, b"<html>"),
    "success with HTML": lambda: replace_body(b"<html>", "text/html"),
}


@pytest.mark.parametrize("fault", LOST.values(), ids=LOST.keys())
async def test_lost_answer_is_read_back_from_the_group(upstream: Upstream, fault: Callable[[], ByteFault]) -> None:
    """The group's id was written down before the run was put into it."""
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path=r"/v1/tasks/groups/[^/]+/runs", fault=fault(), times=None))
        async with connected("memory", proxy.url, timeouts=Timeouts(create_s=5), safe_create="group") as client:
            created = structured(await client.call_tool("create_task", NEVER))
            again = structured(await client.call_tool("create_task", NEVER))

    assert upstream.simulator.accepted_runs == 1
    assert created["run_id"] == again["run_id"]
    assert not created["deduplicated"]


async def test_task_whose_create_is_late_answers_in_time_and_the_repeat_finds_it(upstream: Upstream) -> None:
    """The bound holds for the whole call; the create goes on."""
    with held_answers(upstream) as (url, answer):
        async with connected("memory", url) as client:
            with anyio.fail_after(3):  # the wait, the second after it that is promised, and as much for the machine
                text = await failure(client, "run_task", {**NEVER, "timeout_s": 0.5})
            answer.set()
            repeated = structured(await client.call_tool("create_task", NEVER))

    assert "Code: still_creating" in text
    assert repeated["deduplicated"]
    assert upstream.simulator.accepted_runs == 1


async def test_run_id_survives_odd_values_beside_it(upstream: Upstream) -> None:
    """It is paid for, whatever the API writes into its other fields."""
    body = '{"run_id": "trun_odd", "warnings": "x", "metadata": [], "created_at": 7, "error": "boom", "status": {}}'
    upstream.simulator.add_fault(Fault("POST", RUNS, status=202, body=body))
    async with connected("memory", upstream.url) as client:
        created = structured(await client.call_tool("create_task", TASK))

    assert created["run_id"] == "trun_odd"


def test_address_of_an_unknown_kind_is_no_ledger_file() -> None:
    """A file named after a mistyped address would share nothing, and have the password in its name."""
    with pytest.raises(SettingsError, match="--ledger must be a file"):
        load_settings({"ledger": "mysql://:secret@host"})
    assert load_settings({"ledger": "Redis://host"}).ledger == "redis://host"


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_answer_of_another_form_to_a_question_is_refused_and_buys_nothing(upstream: Upstream, mode: str) -> None:
    """It is the client's mistake, and no fault of this server."""

    async def answer(context: object, params: object) -> ElicitResult:
        return ElicitResult(action="accept", content={"confirm": True})

    settings = load_settings({"base_url": upstream.url, "api_key": KEY, "ledger": "memory"})
    async with Client(build_server(settings), mode=mode, elicitation_callback=answer) as client:
        text = await failure(client, "create_task", {**TASK, "processor": "ultra8x"})

    assert "not of the form asked for" in text
    assert "Code: invalid_arguments" in text
    assert upstream.simulator.accepted_runs == 0


def test_directory_is_no_ledger_file(tmp_path: Path) -> None:
    """Better said at the start than at the first create."""
    with pytest.raises(SettingsError, match="--ledger must be a file; this is a directory"):
        load_settings({"ledger": str(tmp_path)})
    assert load_settings({"ledger": "Memory"}).ledger == "memory"


async def test_budget_of_a_dollar_an_hour_ends_with_the_third_ultra(upstream: Upstream) -> None:
    """Three cost 90 cents; the fourth and fifth are refused before anything is sent."""
    async with connected("memory", upstream.url, max_usd_per_hour=1) as client:
        for number in range(3):
            await create(client, input=f"question {number}", processor="ultra")
        refused = [
            await failure(client, "create_task", {"input": f"question {number}", "processor": "ultra"})
            for number in (4, 5)
        ]

    assert upstream.simulator.accepted_runs == 3
    assert len(upstream.sent("POST", RUNS)) == 3
    for text in refused:
        assert "$0.900 are spent or reserved" in text
        assert "Retrying now will not help" in text


async def test_fifty_creates_at_once_cannot_overshoot_the_budget(upstream: Upstream) -> None:
    """Checking and reserving are one step."""
    async with (
        connected("memory", upstream.url, max_usd_per_hour=0.25) as client,
        anyio.create_task_group() as creating,
    ):
        for number in range(50):
            arguments = {"input": f"question {number}", "processor": "core-fast"}
            creating.start_soon(client.call_tool, "create_task", arguments)

    assert upstream.simulator.accepted_runs == 10


EQUAL_CREATES: dict[str, dict[str, Any]] = {
    "create_task": NEVER,
    "create_task_group": {"inputs": ["Acme"], "processor": "lite", "metadata": {"sim": "never"}},
    "create_findall": {"objective": "Find all dams in Norway", "metadata": {"sim": "never"}},
    "create_monitor": {"query": "dams in Norway", "metadata": {"sim": "never"}},
}
HANDLES = {
    "create_task": "run_id",
    "create_task_group": "group_id",
    "create_findall": "findall_id",
    "create_monitor": "id",
}


@pytest.mark.parametrize("tool", ["create_task", "create_findall", "create_monitor"])
async def test_what_is_gone_answers_no_repeat(upstream: Upstream, tmp_path: Path, tool: str) -> None:
    """It was deleted, or was a simulator's; a repeat would lead to it again and again. What is new may only be late."""
    ledger = tmp_path / "ledger.sqlite3"
    handle = HANDLES[tool]
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url, toolsets="core,findall,monitor", ledger=str(ledger)) as client:
            first = structured(await client.call_tool(tool, EQUAL_CREATES[tool]))
            gone = ScriptedFault(method="GET", path=f".*/{first[handle]}", fault=respond(404, b"{}"), times=2)
            proxy.add(gone)
            late = structured(await client.call_tool(tool, EQUAL_CREATES[tool]))
            with sqlite3.connect(ledger) as db:
                db.execute("UPDATE entries SET at = at - 61")
            db.close()
            second = structured(await client.call_tool(tool, EQUAL_CREATES[tool]))

    assert (late[handle], late["deduplicated"]) == (first[handle], True)
    assert second[handle] != first[handle]
    assert not second["deduplicated"]


@pytest.mark.parametrize("tool", ["create_task", "create_findall", "create_monitor"])
async def test_what_a_key_has_made_says_that_another_key_is_needed(
    upstream: Upstream, tmp_path: Path, tool: str
) -> None:
    """The key goes before force_new; and of what is gone nothing more is to be expected."""
    ledger = tmp_path / "ledger.sqlite3"
    request = {**EQUAL_CREATES[tool], "idempotency_key": "dams-1"}
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url, toolsets="core,findall,monitor", ledger=str(ledger)) as client:
            await client.call_tool(tool, request)
            again = text_of(await client.call_tool(tool, {**request, "force_new": True}))
            proxy.add(ScriptedFault(method="GET", path=".*", fault=respond(404, b"{}"), times=None))
            with sqlite3.connect(ledger) as db:
                db.execute("UPDATE entries SET at = at - 61")
            db.close()
            gone = text_of(await client.call_tool(tool, request))

    assert "another idempotency_key starts another" in again
    assert "force_new" not in again
    assert "not_found" in gone
    assert "any more: create_" in gone
    assert "waits there" not in gone
    assert "goes on" not in gone


@pytest.mark.parametrize("status", [404, 429, 502, 503])
@pytest.mark.parametrize("tool", EQUAL_CREATES)
async def test_what_cannot_be_read_just_now_is_not_bought_again(upstream: Upstream, tool: str, status: int) -> None:
    """It exists, and has most likely not ended: what is not known of it must not cost a second time."""
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url, toolsets="core,findall,monitor") as client:
            first = structured(await client.call_tool(tool, EQUAL_CREATES[tool]))
            proxy.add(ScriptedFault(method="GET", path=".*", fault=respond(status, b"{}"), times=None))
            again = structured(await client.call_tool(tool, EQUAL_CREATES[tool]))

    handle = HANDLES[tool]
    simulator = upstream.simulator
    assert again["deduplicated"]
    assert again[handle] == first[handle]
    assert simulator.accepted_runs + simulator.accepted_findalls + simulator.accepted_monitors == 1
    assert tool == "create_monitor" or "watch_progress" in again["next"]


async def test_no_more_runs_than_allowed_are_active_at_once(upstream: Upstream) -> None:
    """A place is free again when a run was seen to have ended."""
    async with connected("memory", upstream.url, max_active_runs=2) as client:
        first = await create(client, "never", input="Acme")
        await create(client, "never", input="Borealis")
        text = await failure(client, "create_task", {"input": "Cobalt"})
        upstream.simulator.finish(first)
        await client.call_tool("watch_progress", {"id": first})
        await when_there_is_room(client, "create_task", {**NEVER, "input": "Cobalt"})

    assert "PARALLEL_MCP_MAX_ACTIVE_RUNS" in text
    assert upstream.simulator.accepted_runs == 3


async def test_question_about_the_price_waits_for_no_run_that_cannot_be_read(upstream: Upstream) -> None:
    """Whether an equal run is active still is worth a look, and no more."""
    questions: list[str] = []
    dear = {**TASK, "processor": "ultra4x"}
    with faulty(upstream.url) as proxy:
        async with asked_client(proxy.url, questions, approves=True, max_wait_s=4) as client:
            structured(await client.call_tool("create_task", dear))
            proxy.add(ScriptedFault(method="GET", path="/v1/tasks/runs/[^/]+", fault=stall(), times=None))
            with anyio.fail_after(12):  # six in two requests; the run itself would be waited for for fifteen
                await client.call_tool("create_task", dear)

    assert len(questions) == 2
    assert upstream.simulator.accepted_runs == 1


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("approve", [True, False, None])
async def test_dear_create_asks_the_user_where_the_client_can(
    upstream: Upstream, mode: str, approve: bool | None
) -> None:
    """Above the limit of one call the person decides, not the model."""
    questions: list[str] = []

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        if approve is None:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"approve": approve})

    settings = load_settings({"base_url": upstream.url, "api_key": KEY, "ledger": "memory"})
    async with Client(build_server(settings), mode=mode, elicitation_callback=answer) as client:
        result = await client.call_tool("create_task", {**TASK, "processor": "ultra4x", "idempotency_key": "k"})
        cheap = await client.call_tool("create_task", {**TASK, "processor": "lite"})
        if approve:
            again = await client.call_tool("create_task", {**TASK, "processor": "ultra4x", "idempotency_key": "k"})
            assert structured(again)["deduplicated"], "what is bought already is not asked about again"
            upstream.simulator.finish(structured(result)["run_id"])
            await client.call_tool("create_task", {**TASK, "processor": "ultra4x"})
            assert len(questions) == 2, "what has ended is bought anew, so the user is asked"
            questions.pop()
        else:
            assert "declined" in text_of(result)

    assert len(questions) == 1
    assert "ultra4x for $1.200" in questions[0]
    assert not cheap.is_error
    assert bool(result.is_error) is not bool(approve)
    assert upstream.simulator.accepted_runs == (3 if approve else 1)


DEAR: dict[str, dict[str, Any]] = {
    "create_task": {**NEVER, "processor": "ultra4x"},
    "create_findall": {"objective": "Find all dams", "generator": "core", "metadata": {"sim": "never"}},
    "create_monitor": {"query": "dams", "frequency": "1h", "processor": "base", "metadata": {"sim": "never"}},
}


@pytest.mark.parametrize("tool", DEAR)
async def test_user_who_declined_is_heard_though_another_has_bought_it_meanwhile(
    upstream: Upstream, tmp_path: Path, tool: str
) -> None:
    """In the modern era the call is made again with the answer, and puts the question that the answer belongs to."""
    shared: dict[str, Any] = {"ledger": str(tmp_path / "ledger.sqlite3"), "toolsets": "core,findall,monitor"}

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        async with connected("memory", upstream.url, max_usd_per_call=0, max_usd_per_hour=0, **shared) as other:
            structured(await other.call_tool(tool, DEAR[tool]))
        return ElicitResult(action="decline")

    settings = load_settings({"base_url": upstream.url, "api_key": KEY, **shared})
    async with Client(build_server(settings), mode=MODERN, elicitation_callback=answer) as client:
        assert "was asked and declined" in await failure(client, tool, DEAR[tool])


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("period", ["hour", "day"])
async def test_price_above_a_whole_budget_is_said_to_find_no_room_ever(
    upstream: Upstream, period: str, asks: bool
) -> None:
    """Nobody waits for it, and no user approves what is then refused."""
    questions: list[str] = []
    limits: dict[str, Any] = {"max_usd_per_hour": 0, f"max_usd_per_{period}": 1}
    dear = {**TASK, "processor": "ultra8x"}
    if asks:
        async with asked_client(upstream.url, questions, approves=True, max_usd_per_call=0.5, **limits) as client:
            text = await failure(client, "create_task", dear)
            group = await failure(client, "create_task_group", {"inputs": ["a", "b"], "processor": "ultra4x"})
            assert "makes no room for it" in group
    else:
        async with connected("memory", upstream.url, max_usd_per_call=0, **limits) as client:
            text = await failure(client, "create_task", dear)

    assert (
        f"$2.400 is more than all that one {period} may cost, $1.00 (PARALLEL_MCP_MAX_USD_PER_{period.upper()})" in text
    )
    assert "waiting makes no room for it. Nothing was sent" in text
    assert "at the earliest" not in text
    assert questions == []
    assert upstream.simulator.accepted_runs == 0


async def test_addition_to_a_group_that_fits_by_what_it_lacks_is_asked_about(
    upstream: Upstream, tmp_path: Path
) -> None:
    """The question names the most that it can cost, which no budget has room for; what is lacking costs less."""
    questions: list[str] = []
    ledger = tmp_path / "ledger.sqlite3"
    limits: dict[str, Any] = {"ledger": str(ledger), "max_usd_per_call": 0.25, "max_usd_per_hour": 1}
    rows: dict[str, Any] = {"inputs": ["a", "b", "c"], "processor": "ultra"}
    async with asked_client(upstream.url, questions, approves=True, **limits) as client:
        made = structured(await client.call_tool("create_task_group", rows))
        with sqlite3.connect(ledger) as db:
            db.execute("UPDATE entries SET at = at - 3601")
        db.close()
        more = {**rows, "inputs": [*rows["inputs"], "d"], "group_id": made["group_id"]}
        added = structured(await client.call_tool("create_task_group", more))

    assert "for at most $1.200 in all, less what the group has already" in questions[1]
    assert (added["rows_created"], added["price_usd"]) == (1, 0.3)


async def test_quick_task_is_answered_in_one_call(upstream: Upstream, client: Client) -> None:
    """With the run id in the first progress message, in case the call is cut off."""
    seen: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message or "")

    result = await client.call_tool("run_task", {**TASK, "metadata": {"sim": "latency=30"}}, progress_callback=note)

    typed = structured(result)
    assert typed["status"] == "completed"
    assert typed["price_usd"] == 0.025
    assert typed["untrusted"]["citations"]
    assert typed["untrusted"]["citations"][0]["url"] in text_of(result)
    assert typed["id"] in text_of(result)
    assert seen[0].startswith(typed["id"])


async def test_slow_task_hands_back_its_run_in_time_and_a_repeat_costs_nothing(
    upstream: Upstream, client: Client
) -> None:
    """The repeat is what clients and models do after a time-out."""
    with anyio.fail_after(5):  # the wait, the second after it that is promised, and two for the machine
        result = await client.call_tool("run_task", {**NEVER, "timeout_s": 2})
    with anyio.move_on_after(0.3):
        await client.call_tool("run_task", {**NEVER, "timeout_s": 40})
    repeated = structured(await client.call_tool("run_task", {**NEVER, "timeout_s": 2}))

    typed = structured(result)
    assert typed["is_final"] is False
    assert typed["next"].startswith(f'watch_progress(id="{typed["id"]}"')
    assert (repeated["id"], repeated["price_usd"], repeated["deduplicated"]) == (typed["id"], 0, True)
    assert upstream.simulator.accepted_runs == 1


async def test_failed_task_says_so_with_its_run(client: Client) -> None:
    """The run id is in every outcome."""
    text = await failure(client, "run_task", {**TASK, "metadata": {"sim": "latency=6 fails"}})

    assert "Code: run_failed" in text
    assert "trun_" in text


async def test_task_that_cannot_be_followed_still_names_its_run(upstream: Upstream, client: Client) -> None:
    """It is paid for, whatever the network does next."""
    upstream.simulator.add_fault(Fault("GET", f"{RUNS}/.*", times=None, status=401, body="{}"))

    result = await client.call_tool("run_task", {**NEVER, "timeout_s": 2})

    typed = structured(result)
    assert typed["id"].startswith("trun_")
    assert "could not be followed" in text_of(result)


def test_ledger_holds_neither_the_key_nor_the_input(upstream: Upstream, ledger: Path) -> None:
    """The file outlives the conversation, and others may back it up."""
    secret_end = "the part behind the title"
    task = {"input": "x" * 130 + secret_end, "metadata": {"note": "canary-metadata"}}
    with serving_stdio(upstream.url, ledger) as server:
        created = server.call("create_task", task)
        stored = b"".join(path.read_bytes() for path in ledger.parent.iterdir())
    with serving_stdio(upstream.url, ledger, ledger_titles="false") as server:
        server.call("create_task", {"input": "an untitled question"})
        untitled = b"".join(path.read_bytes() for path in ledger.parent.iterdir())

    assert not created.get("isError")
    assert b"x" * 100 in stored
    for canary in (KEY, secret_end, "canary-metadata"):
        assert canary.encode() not in stored
    assert b"an untitled question" not in untitled
    assert ledger.stat().st_mode & 0o777 == 0o600


async def test_unusable_ledger_refuses_creates_and_lets_reads_go_on(upstream: Upstream, tmp_path: Path) -> None:
    """Without it, nobody knows what was bought before."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client)
    (tmp_path / "file").touch()
    async with connected("memory", upstream.url, ledger=str(tmp_path / "file" / "ledger")) as client:
        text = await failure(client, "create_task", TASK)
        status = structured(await client.call_tool("get_status", {"ids": [run_id]}))
        watched = structured(await client.call_tool("watch_progress", {"id": run_id}))

    assert "Code: ledger_unavailable" in text
    assert "PARALLEL_MCP_LEDGER=memory" in text
    assert status["items"][0]["id"] == run_id
    assert watched["status"] == "completed"
    assert upstream.simulator.accepted_runs == 1


@contextmanager
def held_answers(upstream: Upstream) -> Generator[tuple[str, threading.Event]]:
    """The API creates at once, and answers when it is told to."""
    answer = threading.Event()

    async def held_back(exchange: Exchange) -> Ending:
        async with exchange.forward() as answered, aclosing(answered.wire()) as wire:
            await anyio.to_thread.run_sync(answer.wait, 2 * PATIENCE_S, abandon_on_cancel=True)
            async for data in wire:
                await exchange.send(data)
            return answered.ending

    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path=CREATES, fault=held_back, times=None))
        try:
            yield proxy.url, answer
        finally:
            answer.set()


async def when_there_is_room(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a create makes as soon as it is not over the limits: that a place is free is written down in passing."""
    with anyio.fail_after(PATIENCE_S):
        while (result := await client.call_tool(tool, arguments)).is_error:
            assert "PARALLEL_MCP_MAX_ACTIVE_RUNS" in text_of(result)
    return structured(result)


def wait_for_create(upstream: Upstream) -> None:
    """Until the API has accepted a run."""
    deadline = time.monotonic() + PATIENCE_S
    while not upstream.simulator.accepted_runs:
        assert time.monotonic() < deadline, "no run was created"
        time.sleep(0.02)
