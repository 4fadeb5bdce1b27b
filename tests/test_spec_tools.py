"""Task specs as tools: called like any other, checked on both sides, and there as soon as their file is."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import anyio
import pytest
from jsonschema import Draft202012Validator
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.client.stdio import stdio_client
from mcp.types import ElicitRequestParams, ElicitResult, ServerCapabilities, ToolListChangedNotification

from parallel_mcp.render.budget import MAX_RESULT_BYTES
from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Fault, Simulator, SimulatorConfig, serving
from parallel_mcp.tasks.spec_files import read_specs
from parallel_mcp.tools import CORE_TOOLS
from tests.conftest import Upstream
from tests.connecting import (
    KEY,
    LEGACY,
    MODERN,
    Transport,
    connected,
    failure,
    http_client,
    stdio_server,
    structured,
    text_of,
)
from tests.faults import ScriptedFault, faulty, replace_body
from tests.patience import PATIENCE_S
from tests.specs import EXAMPLES, SHORT, with_broken_and_hostile, with_examples, write_spec

RUNS = "/v1/tasks/runs"
CALLS: dict[str, dict[str, Any]] = {
    "company_profile": {"company_name": "Acme Battery Storage"},
    "fact_check": {"claim": "Grid-scale battery storage became cheaper in 2024."},
    "vendor_risk": {"vendor_name": "Okta", "product_or_service": "single sign-on", "data_sensitivity": "personal"},
}
GOOD = {"organisation": "Acme"}


async def spec_tools(client: Client) -> list[str]:
    """The names of the tools that are not our own."""
    own = {definition.run.__name__ for definition in CORE_TOOLS}
    return [tool.name for tool in (await client.list_tools()).tools if tool.name not in own]


def sent_run(upstream: Upstream) -> dict[str, Any]:
    """The one run that was created."""
    (body,) = upstream.sent("POST", RUNS)
    return cast("dict[str, Any]", json.loads(body))


# ---- what is offered


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_good_specs_are_tools_and_the_others_are_reported(
    upstream: Upstream, tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Three good files, a broken one and a hostile one: one mistake must not cost the other tools."""
    async with connected("memory", upstream.url, mode=mode, specs=with_broken_and_hostile(tmp_path)) as client:
        offered = await spec_tools(client)

    assert offered == ["company_profile", "fact_check", "vendor_risk"]
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 2
    assert "broken.json is left out: processor (processor): a processor, such as core-fast" in told[0]
    assert "hostile.json is left out: the file (size): it is nested deeper than" in told[1]
    assert "\x1b" not in "".join(told)


async def test_report_reaches_stderr_of_a_real_server(upstream: Upstream, tmp_path: Path) -> None:
    """Where an operator looks; stdout stays the protocol's."""
    with (tmp_path / "stderr").open("w+") as stderr:
        directory = tmp_path / "specs"
        directory.mkdir()
        environment = {"PARALLEL_MCP_SPECS": str(with_broken_and_hostile(directory))}
        async with Client(stdio_client(stdio_server(upstream.url, KEY, environment), stderr), mode=MODERN) as client:
            assert len(await spec_tools(client)) == 3
        stderr.seek(0)
        assert "The task spec broken.json is left out" in stderr.read()


@pytest.mark.parametrize("flags", [{"toolsets": "core"}, {"profile": "chatgpt"}])
async def test_specs_are_left_out_where_the_settings_say_so(upstream: Upstream, flags: dict[str, Any]) -> None:
    """A toolset that is off is off."""
    async with connected("memory", upstream.url, specs=EXAMPLES, **flags) as client:
        assert not set(await spec_tools(client)) & set(CALLS)


async def test_description_names_price_duration_and_what_to_do_next(upstream: Upstream) -> None:
    """The author of a spec need not know what every caller of a paid tool must know."""
    async with connected("memory", upstream.url, specs=EXAMPLES) as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "vendor_risk"]

    assert tool.description
    assert tool.description.startswith("Public risks of buying from a vendor")
    assert "$0.100" in tool.description
    assert "30 s to 5 min" in tool.description
    assert "watch_progress" in tool.description
    assert len(tool.description) <= 1_000


# ---- calling


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("name", CALLS)
async def test_call_gives_a_cited_output_of_the_specs_schema(upstream: Upstream, name: str, mode: str) -> None:
    """That is what a spec is for. The client checks it as well, against what was published."""
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with connected("memory", upstream.url, mode=mode, specs=EXAMPLES) as client:
        result = await client.call_tool(name, CALLS[name], progress_callback=note)

    (spec,) = [report.spec for report in read_specs(EXAMPLES, default_processor="lite") if report.file.startswith(name)]
    assert spec
    answer = structured(result)
    output = answer["untrusted"]["output"]
    assert answer["status"] == "completed"
    assert answer["price_usd"] == spec.processor.price_usd
    assert "warnings" not in answer
    assert answer["untrusted"]["citations"]
    assert set(spec.output_schema["required"]) - set(output) <= {"founding_year", "employee_count"}  # pyright: ignore
    assert all(str(value) in text_of(result) for value in output.values() if isinstance(value, str))
    assert seen == sorted(set(seen))
    assert seen[-1] == 100
    sent = sent_run(upstream)
    assert sent["processor"] == spec.processor.name
    assert sent["input"] == CALLS[name]
    assert sent["task_spec"]["output_schema"]["json_schema"] == spec.output_schema
    assert sent["task_spec"]["input_schema"]["json_schema"] == spec.input_schema
    assert sent.get("source_policy") == ({"after_date": "2021-01-01"} if name == "vendor_risk" else None)


BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "`organisation` is required"),
    "empty text": ({"organisation": " "}, "`organisation` is required"),
    "misspelt": ({"organization": "x"}, "`organization` is not an argument of this tool; did you mean `organisation`?"),
    "wrong kind": ({**GOOD, "year": "secret"}, "`year`: a whole number"),
    "no choice": ({**GOOD, "kind": "secret"}, "`kind`: one of firm, state"),
    "wrong item": ({**GOOD, "places": ["a", 7]}, "`places[1]`: a text"),
    "missing inside": ({**GOOD, "address": {"lines": []}}, "`address.city` is required"),
    "null inside": ({**GOOD, "address": {"city": None}}, "`address.city` is required"),
    "misspelt inside": ({**GOOD, "address": {"town": "secret", "city": "x"}}, "`address` has no `town`"),
    "wrong kind deep inside": ({**GOOD, "address": {"city": "x", "lines": [["secret"]]}}, "`address.lines[0]`: a text"),
    "text for an object": ({**GOOD, "address": "secret"}, "`address`: an object"),
    "too long": ({"organisation": "x" * 25_001}, "more than 25,000 characters"),
    "half a character": ({"organisation": "\ud800"}, "cannot be sent"),
}


@pytest.mark.parametrize(("arguments", "told"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
async def test_bad_arguments_are_refused_by_path_before_anything_is_sent(
    upstream: Upstream, tmp_path: Path, arguments: dict[str, Any], told: str
) -> None:
    """The API would take some of them, and charge; values are not repeated."""
    write_spec(tmp_path)
    async with Client(_server(upstream.url, specs=tmp_path), mode=LEGACY) as client:
        text = await failure(client, "find_leader", arguments)

    assert told in text
    assert "secret" not in text
    assert "Code: invalid_arguments" in text
    assert upstream.simulator.requests == []


async def test_optional_arguments_alone_must_not_all_be_missing(upstream: Upstream, tmp_path: Path) -> None:
    """A run about nothing costs as much as any."""
    write_spec(tmp_path, **SHORT)
    async with connected("memory", upstream.url, specs=tmp_path) as client:
        assert "Give at least one argument: topic" in await failure(client, "find_leader", {"topic": None})


async def test_arguments_are_read_as_models_send_them(upstream: Upstream, tmp_path: Path) -> None:
    """Null for absent, JSON text for a container, one item for a list, and a text that only looks like JSON."""
    write_spec(tmp_path)
    arguments = {
        "organisation": '{"a": 1}',
        "year": None,
        "places": "Paris",
        "address": '{"city": "x", "lines": null}',
    }
    async with connected("memory", upstream.url, specs=tmp_path) as client:
        structured(await client.call_tool("find_leader", arguments))

    assert sent_run(upstream)["input"] == {
        "organisation": '{"a": 1}',
        "places": ["Paris"],
        "address": {"city": "x"},
    }


def _with_output(run_id: str, content: Any) -> bytes:
    output: dict[str, Any] = {"type": "json", "content": content, "basis": []}
    run = {"run_id": run_id, "status": "completed", "is_active": False, "processor": "lite"}
    return json.dumps({"run": run, "output": output}).encode()


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("content", [{"leader_name": 7}, {"leader_name": "x", "other": 1}, ["x"], "x", {}])
async def test_output_that_does_not_fit_becomes_text_with_a_remark(
    upstream: Upstream, tmp_path: Path, content: Any, mode: str
) -> None:
    """The client would refuse structured content of another shape, and the answer is paid for."""
    write_spec(tmp_path)
    with faulty(upstream.url) as proxy:
        proxy.add(
            ScriptedFault(method="GET", path=f"{RUNS}/[^/]+/result", fault=replace_body(_with_output("t", content)))
        )
        async with connected("memory", proxy.url, mode=mode, specs=tmp_path) as client:
            result = await client.call_tool("find_leader", GOOD)

    answer = structured(result)
    assert answer["warnings"] == ["The result does not fit the output schema of this tool, so it is given as text."]
    assert "output" not in answer["untrusted"]
    assert json.loads(answer["untrusted"]["content"]) == content
    assert answer["warnings"][0] in text_of(result)


@pytest.mark.parametrize(("letter", "times"), [('"', 19_000), ("\\", 19_000), ("\u0001", 15_000), ("é", 19_000)])
async def test_long_output_that_does_not_fit_keeps_to_the_size(
    upstream: Upstream, tmp_path: Path, letter: str, times: int
) -> None:
    """JSON as a text is escaped once more, which makes four bytes of a quote; nothing of the result may be lost."""
    write_spec(tmp_path)
    content = {"leader_name": letter * times, "leader_since_year": "no number"}
    with faulty(upstream.url) as proxy:
        answered = replace_body(_with_output("trun_1", content))
        proxy.add(ScriptedFault(method="GET", path=f"{RUNS}/[^/]+/result", fault=answered, times=None))
        async with connected("memory", proxy.url, specs=tmp_path) as client:
            result = await client.call_tool("find_leader", GOOD)
            (run,) = structured(await client.call_tool("get_status", {}))["items"]
            exact = structured(await client.call_tool("get_result", {"id": run["id"]}))["untrusted"]["output"]

    answer = structured(result)
    assert len(result.model_dump_json(by_alias=True, exclude_none=True).encode()) <= MAX_RESULT_BYTES
    assert answer["warnings"][0] in text_of(result)
    assert "output" not in answer["untrusted"]
    assert exact == content
    if letter == "é":
        assert json.loads(answer["untrusted"]["content"]) == content
    else:
        assert answer["next"] == 'get_result(id="trun_1")'


async def test_null_is_left_out_where_the_published_schema_has_no_null(upstream: Upstream, tmp_path: Path) -> None:
    """Not every client can be told of null; the field is optional instead."""
    write_spec(tmp_path)
    content = {"leader_name": "Ada", "leader_since_year": None}
    with faulty(upstream.url) as proxy:
        proxy.add(
            ScriptedFault(method="GET", path=f"{RUNS}/[^/]+/result", fault=replace_body(_with_output("t", content)))
        )
        async with connected("memory", proxy.url, specs=tmp_path) as client:
            answer = structured(await client.call_tool("find_leader", GOOD))

    assert answer["untrusted"]["output"] == {"leader_name": "Ada"}
    assert "warnings" not in answer


async def test_long_output_is_paged_as_text(tmp_path: Path) -> None:
    """One page is what a model can take; get_result has the rest."""
    write_spec(tmp_path)
    with serving(Simulator(SimulatorConfig(speed=60, default_story="size=60000"))) as url:
        async with connected("memory", url, specs=tmp_path) as client:
            answer = structured(await client.call_tool("find_leader", GOOD))

    assert "output" not in answer["untrusted"]
    assert answer["page"]["total"] > 60_000
    assert "get_result(" in answer["next"]


async def test_run_that_takes_longer_gives_its_handle_and_is_found_again(tmp_path: Path) -> None:
    """The spec says how long a call waits; an equal call while the run is active buys nothing."""
    write_spec(tmp_path, timeout_s=2)
    simulator = Simulator(SimulatorConfig(speed=60, default_story="never"))
    with serving(simulator) as url:
        async with connected("memory", url, specs=tmp_path) as client:
            first = structured(await client.call_tool("find_leader", GOOD))
            again = await client.call_tool("find_leader", GOOD)
            other = structured(await client.call_tool("find_leader", {"organisation": "Globex"}))
            status = text_of(await client.call_tool("get_status", {}))

    assert first["is_final"] is False
    assert first["next"].startswith(f'watch_progress(id="{first["id"]}"')
    assert structured(again)["id"] == first["id"]
    assert structured(again)["deduplicated"]
    assert "force_new" not in text_of(again)
    assert other["id"] != first["id"]
    assert "Find the leader: organisation: Acme" in status
    assert simulator.accepted_runs == 2


async def test_failed_run_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """As with run_task."""
    write_spec(tmp_path)
    with serving(Simulator(SimulatorConfig(speed=60, default_story="fails"))) as url:
        async with connected("memory", url, specs=tmp_path) as client:
            assert "Code: run_failed" in await failure(client, "find_leader", GOOD)


async def test_lost_answer_names_no_argument_that_the_tool_has_not(upstream: Upstream, tmp_path: Path) -> None:
    """Its arguments are the spec's alone, so there is no force_new to give."""
    write_spec(tmp_path)
    upstream.simulator.add_fault(Fault("POST", "/v1/tasks/runs", status=502, body="{}"))
    async with connected("memory", upstream.url, specs=tmp_path) as client:
        text = await failure(client, "find_leader", GOOD)

    assert "Code: outcome_unknown" in text
    assert "where the tool takes neither, by the same call ten minutes later" in text


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("approve", [True, False])
async def test_dear_spec_asks_the_user_first(tmp_path: Path, mode: str, approve: bool) -> None:
    """A file in a directory must not spend more than the user allows for one call."""
    write_spec(tmp_path, processor="ultra4x", timeout_s=2)
    simulator = Simulator(SimulatorConfig(speed=60, default_story="never"))
    questions: list[str] = []

    async def answer(context: object, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content={"approve": approve})

    with serving(simulator) as url:
        async with Client(_server(url, specs=tmp_path), mode=mode, elicitation_callback=answer) as client:
            result = await client.call_tool("find_leader", GOOD)
            if approve:
                assert structured(await client.call_tool("find_leader", GOOD))["deduplicated"]

    assert len(questions) == 1
    assert "ultra4x for $1.200" in questions[0]
    assert bool(result.is_error) is not approve
    assert simulator.accepted_runs == int(approve)


async def test_dear_spec_is_refused_where_nobody_can_be_asked(upstream: Upstream, tmp_path: Path) -> None:
    """With the name of the setting."""
    write_spec(tmp_path, processor="ultra4x")
    async with connected("memory", upstream.url, specs=tmp_path) as client:
        assert "PARALLEL_MCP_MAX_USD_PER_CALL" in await failure(client, "find_leader", GOOD)
    assert upstream.simulator.accepted_runs == 0


# ---- changes


class Told:
    """Counts what a legacy client is told without having asked."""

    def __init__(self) -> None:
        self._told = anyio.Event()

    async def __call__(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._told.set()

    async def once(self) -> None:
        """Wait until it was told, once more than before."""
        with anyio.fail_after(PATIENCE_S):
            await self._told.wait()
        self._told = anyio.Event()


async def test_legacy_client_over_stdio_is_told_of_files_that_come_change_and_go(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Its list is never asked for again unless it is told."""
    told = Told()
    parameters = stdio_server(upstream.url, KEY, {"PARALLEL_MCP_SPECS": str(with_examples(tmp_path))})
    async with Client(stdio_client(parameters), mode=LEGACY, message_handler=told) as client:
        before = await spec_tools(client)
        path = write_spec(tmp_path)
        await told.once()
        with_new = await spec_tools(client)
        answer = structured(await client.call_tool("find_leader", GOOD))
        path.write_text('{"name": "find_leader"', encoding="utf-8")
        await told.once()
        while_broken = await spec_tools(client)
        write_spec(tmp_path, title="Who leads")
        await told.once()
        titles = {tool.name: tool.title for tool in (await client.list_tools()).tools}
        path.unlink()
        await told.once()
        after = await spec_tools(client)

    assert before == while_broken == after == sorted(CALLS)
    assert with_new == sorted([*CALLS, "find_leader"])
    assert answer["untrusted"]["output"]["leader_name"]
    assert titles["find_leader"] == "Who leads"


@pytest.mark.parametrize("transport", ["memory", "stdio", "http"])
async def test_modern_client_that_listens_is_told_of_a_new_file(
    upstream: Upstream, tmp_path: Path, transport: Transport
) -> None:
    """Over every transport, and the tool can be called at once."""
    async with _listening(upstream, tmp_path, transport) as (client, next_change):
        assert await spec_tools(client) == []
        write_spec(tmp_path)
        await next_change()
        assert await spec_tools(client) == ["find_leader"]
        answer = structured(await client.call_tool("find_leader", GOOD))
        (tmp_path / "find_leader.json").unlink()
        await next_change()
        assert await spec_tools(client) == []
        gone = await failure(client, "find_leader", GOOD)

    assert answer["status"] == "completed"
    assert "There is no such tool" in gone


@asynccontextmanager
async def _listening(
    upstream: Upstream, directory: Path, transport: Transport
) -> AsyncGenerator[tuple[Client, Callable[[], Any]]]:
    """A modern client that listens, and how to wait for the next change."""
    async with _connected(upstream, directory, transport) as client, client.listen(tools_list_changed=True) as changes:

        async def next_change() -> None:
            with anyio.fail_after(PATIENCE_S):
                await anext(aiter(changes))

        yield client, next_change


@asynccontextmanager
async def _connected(upstream: Upstream, directory: Path, transport: Transport) -> AsyncGenerator[Client]:
    if transport == "stdio":
        parameters = stdio_server(upstream.url, KEY, {"PARALLEL_MCP_SPECS": str(directory)})
        async with Client(stdio_client(parameters), mode=MODERN) as client:
            yield client
    else:
        async with connected(transport, upstream.url, specs=directory) as client:
            yield client


async def test_directory_that_is_made_later_is_noticed(upstream: Upstream, tmp_path: Path) -> None:
    """A mount that comes late is no reason to restart every assistant."""
    async with _listening(upstream, tmp_path / "specs", "memory") as (client, next_change):
        assert await spec_tools(client) == []
        (tmp_path / "specs").mkdir()
        write_spec(tmp_path / "specs")
        await next_change()
        assert await spec_tools(client) == ["find_leader"]


async def test_client_that_does_not_listen_may_keep_the_list_for_two_seconds_only(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Without specs the list keeps for an hour."""
    async with connected("memory", upstream.url, specs=tmp_path) as client:
        assert (await client.list_tools()).ttl_ms == 2_000
    async with connected("memory", upstream.url) as client:
        assert (await client.list_tools()).ttl_ms == 3_600_000


def promises(capabilities: ServerCapabilities | None) -> dict[str, bool | None]:
    """What is promised to be told."""
    assert capabilities is not None
    assert capabilities.tools is not None
    assert capabilities.prompts is not None
    assert capabilities.resources is not None
    return {
        "tools": capabilities.tools.list_changed,
        "prompts": capabilities.prompts.list_changed,
        "resources": capabilities.resources.list_changed,
        "subscribe": capabilities.resources.subscribe,
    }


@pytest.mark.parametrize(
    ("transport", "mode", "told"),
    [("stdio", "auto", True), ("stdio", LEGACY, True), ("http", "auto", True), ("http", LEGACY, False)],
)
async def test_changes_are_promised_only_where_they_are_told(
    upstream: Upstream, tmp_path: Path, transport: Transport, mode: str, told: bool
) -> None:
    """A client that trusts the promise does not look again. A legacy client over HTTP has no open connection here.

    `auto` asks a modern server what it promises.
    """
    environment = {"PARALLEL_MCP_SPECS": str(tmp_path)}
    if transport == "stdio":
        async with Client(stdio_client(stdio_server(upstream.url, KEY, environment)), mode=mode) as client:
            with_specs = promises(client.server_capabilities)
    else:
        async with connected("http", upstream.url, mode=mode, specs=tmp_path) as client:
            with_specs = promises(client.server_capabilities)
    async with connected(transport, upstream.url, mode=mode) as client:
        without_specs = promises(client.server_capabilities)

    assert with_specs == {"tools": told, "prompts": False, "resources": False, "subscribe": told}
    assert without_specs == {"tools": False, "prompts": False, "resources": False, "subscribe": told}


async def test_stopped_server_lets_listening_clients_go_in_order(upstream: Upstream, tmp_path: Path) -> None:
    """A stream without end would hold the stop up for ten seconds, and then break."""
    with http_process(upstream, tmp_path) as (process, address):
        async with http_client(address, KEY) as client, client.listen(tools_list_changed=True) as changes:
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(PATIENCE_S):
                async for _ in changes:  # raises SubscriptionLost if it is cut off
                    raise AssertionError("nothing has changed")
        status = await anyio.to_thread.run_sync(process.wait)

    assert status == 0


@contextmanager
def http_process(upstream: Upstream, specs: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A server over HTTP with a directory of specs, and its address."""
    command = [sys.executable, "-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
    environment = {
        "PARALLEL_BASE_URL": upstream.url,
        "PARALLEL_MCP_LEDGER": "memory",
        "PARALLEL_MCP_SPECS": str(specs),
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, cast("IO[str]", process.stderr).readline().split()[-1].removesuffix("/mcp")
        finally:
            process.kill()


def _server(url: str, **flags: Any) -> Any:
    return build_server(load_settings({"base_url": url, "api_key": KEY, "ledger": "memory", **flags}))


def test_published_output_schema_holds_the_specs_own() -> None:
    """Beside id, status and citations."""
    (report, *_) = read_specs(EXAMPLES, default_processor="lite")
    assert report.spec
    from parallel_mcp.tools.spec_tools import output_schema_of

    schema = output_schema_of(report.spec)

    assert {"id", "status", "untrusted", "price_usd"} <= set(schema["properties"])
    untrusted = schema["properties"]["untrusted"]["properties"]
    assert {"output", "citations"} <= set(untrusted)
    assert untrusted["output"]["properties"].keys() == report.spec.output_schema["properties"].keys()  # pyright: ignore
    Draft202012Validator.check_schema(schema)
