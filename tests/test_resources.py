"""Results as resources: the same as through tools, for people who attach them and clients that read them."""

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from mcp import Client, MCPError
from mcp.types import TextResourceContents

from parallel_mcp.api.models import TaskOutput
from parallel_mcp.render.documents import document_of
from parallel_mcp.render.untrusted import MARK, marked
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.conftest import Upstream
from tests.connecting import (
    KEY,
    LEGACY,
    MODERN,
    ROOT,
    Transport,
    connected,
    create,
    http_client,
    serving_http,
    structured,
    text_of,
)
from tests.faults import ScriptedFault, faulty, respond

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "cost": {"type": "number", "description": "Cost in dollars"},
        "drivers": {"type": "array", "items": {"type": "string"}, "description": "What drives it"},
    },
    "required": ["cost", "drivers"],
    "additionalProperties": False,
}


async def read(client: Client, uri: str) -> TextResourceContents:
    """The one content of a resource."""
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content


async def finished(client: Client, story: str = "", **arguments: Any) -> str:
    """A run that has completed."""
    run_id = await create(client, f"latency=6 {story}", **arguments)
    await client.call_tool("watch_progress", {"id": run_id})
    return run_id


async def pages_of(client: Client, run_id: str, **arguments: Any) -> AsyncGenerator[str]:
    """The pages of a result, as its structured half gives them."""
    cursor = ""
    while True:
        result = structured(await client.call_tool("get_result", {"id": run_id, "cursor": cursor, **arguments}))
        yield result["untrusted"]["content"]
        cursor = result.get("cursor", "")
        if not cursor:
            return


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_report_is_the_joined_pages_and_result_is_exact(
    upstream: Upstream, transport: Transport, mode: str
) -> None:
    """Whoever reads the resource needs no other call."""
    async with connected(transport, upstream.url, mode=mode) as client:
        long = await finished(client, "size=200000")
        exact = await finished(client, output_schema=SCHEMA)

        report = await read(client, f"parallel://runs/{long}/report.md")
        pages = [page async for page in pages_of(client, long)]
        result = await read(client, f"parallel://runs/{exact}/result.json")
        value = structured(await client.call_tool("get_result", {"id": exact}))["untrusted"]["output"]

    heading, _, rest = report.text.partition("\n")
    assert long in heading
    assert len(pages) > 5
    assert rest == f"<{MARK}>\n{''.join(pages)}\n</{MARK}>\n"
    assert report.mime_type == "text/markdown"
    assert "## Sources" in rest
    assert json.loads(result.text) == value
    assert result.mime_type == "application/json"
    for content in (report, result):
        assert content.meta == {"ifc": {"integrity": "untrusted", "confidentiality": "private"}}


async def test_result_names_its_resource_in_both_halves(client: Client) -> None:
    """As text: clients of older revisions know no content block for it, and some break on one."""
    run_id = await finished(client, "size=50000")

    first = await client.call_tool("get_result", {"id": run_id})
    as_json = await client.call_tool("get_result", {"id": run_id, "format": "json"})
    uri = structured(first)["resource"]

    assert uri == f"parallel://runs/{run_id}/report.md"
    assert uri in text_of(first)
    assert structured(as_json)["resource"] == f"parallel://runs/{run_id}/result.json"
    assert [block.type for block in first.content] == ["text"]
    assert structured(first)["untrusted"]["content"] in (await read(client, uri)).text


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_templates_are_listed(upstream: Upstream, mode: str) -> None:
    """So that clients can offer them."""
    async with connected("memory", upstream.url, mode=mode) as client:
        templates = (await client.list_resource_templates()).resource_templates
        resources = (await client.list_resources()).resources

    assert [(template.uri_template, template.mime_type) for template in templates] == [
        ("parallel://runs/{run_id}", "application/json"),
        ("parallel://runs/{run_id}/report.md", "text/markdown"),
        ("parallel://runs/{run_id}/result.json", "application/json"),
        ("parallel://groups/{group_id}", "application/json"),
        ("parallel://groups/{group_id}/result.csv", "text/csv"),
    ]
    assert all(template.title and template.description for template in templates)
    assert [(resource.uri, resource.mime_type) for resource in resources] == [
        ("parallel://runs", "application/json"),
        ("ui://parallel-mcp/research-v1.html", "text/html;profile=mcp-app"),
    ]
    assert all(resource.title and resource.description for resource in resources)
    assert [resource.size for resource in resources] == [
        None,
        (ROOT / "src/parallel_mcp/app/research-v1.html").stat().st_size,
    ]


async def test_lists_may_be_kept_and_shared(client: Client) -> None:
    """They are the same for every caller, and never change while the server runs."""
    lists = [
        await client.list_tools(),
        await client.list_prompts(),
        await client.list_resources(),
        await client.list_resource_templates(),
    ]

    assert [(one.ttl_ms, one.cache_scope) for one in lists] == [(3_600_000, "public")] * 4


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_each_caller_reads_with_the_own_key_only(mode: str) -> None:
    """Over HTTP one server serves many, and its own key is nobody's: the API accepts that of one caller here."""
    simulator = Simulator(SimulatorConfig(speed=60, api_keys=frozenset({KEY, "the-operators-own-key"})))
    with (
        serving(simulator) as url,
        serving_http(
            load_settings({"base_url": url, "ledger": "memory", "api_key": "the-operators-own-key"})
        ) as address,
    ):
        async with http_client(address, KEY, mode=mode) as owner, http_client(address, "other", mode=mode) as other:
            uri = f"parallel://runs/{await finished(owner)}/report.md"
            read_before = len(simulator.requests)

            async def read_own() -> None:
                assert MARK in (await read(owner, uri)).text

            async def read_foreign() -> None:
                with pytest.raises(MCPError, match="invalid_api_key"):
                    await other.read_resource(uri)

            async with anyio.create_task_group() as reading:
                for _ in range(10):
                    reading.start_soon(read_own)
                    reading.start_soon(read_foreign)

    keys = [request.headers["x-api-key"] for request in simulator.requests[read_before:]]
    assert sorted(keys) == [KEY] * 10 + ["other"] * 10


@pytest.mark.parametrize(
    ("uri", "code", "said"),
    [
        ("parallel://runs/trun_nobody/report.md", -32602, "not_found"),
        ("parallel://runs/tgrp_1/report.md", -32602, "names a group"),
        ("parallel://runs/..%2F..%2Fsecrets/report.md", -32602, "not a handle"),
        ("parallel://runs/trun_nobody", -32602, "not_found"),
        ("parallel://runs/tgrp_1", -32602, "names a group"),
        ("parallel://groups/trun_1", -32602, "names a run"),
        ("parallel://runs/", -32602, "not a handle"),
        ("parallel://runs/trun_1/other", -32602, "Unknown resource"),
        ("file:///etc/passwd", -32602, "Unknown resource"),
    ],
)
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_unknown_resource_is_refused_with_the_reason(
    upstream: Upstream, mode: str, uri: str, code: int, said: str
) -> None:
    """Nothing is guessed, and nothing but runs can be reached."""
    async with connected("memory", upstream.url, mode=mode) as client:
        with pytest.raises(MCPError) as refusal:
            await client.read_resource(uri)

    assert refusal.value.error.code == code
    assert said in refusal.value.error.message


async def test_run_without_a_result_says_why(client: Client) -> None:
    """A reader is told whether to wait."""
    active, failed = await create(client, "never"), await finished(client, "fails")

    with pytest.raises(MCPError) as too_early:
        await client.read_resource(f"parallel://runs/{active}/report.md")
    with pytest.raises(MCPError) as in_vain:
        await client.read_resource(f"parallel://runs/{failed}/result.json")

    assert too_early.value.error.code == in_vain.value.error.code == -32603
    assert "run_still_active" in too_early.value.error.message
    assert "run_failed" in in_vain.value.error.message
    assert f"<{MARK}>" in in_vain.value.error.message


async def test_missing_key_is_explained(upstream: Upstream) -> None:
    """As it is for tools."""
    async with connected("memory", upstream.url, key="") as client:
        with pytest.raises(MCPError, match="PARALLEL_API_KEY"):
            await client.read_resource("parallel://runs/trun_1/report.md")


async def test_report_too_large_for_the_connection_is_offered_in_pages(upstream: Upstream) -> None:
    """Clients of older revisions drop the connection over an answer of more than a megabyte."""
    async with connected("http", upstream.url, mode=LEGACY) as client:
        run_id = await finished(client, "size=1200000")
        with pytest.raises(MCPError, match="get_result") as refusal:
            await client.read_resource(f"parallel://runs/{run_id}/report.md")
        page = structured(await client.call_tool("get_result", {"id": run_id}))

    assert refusal.value.error.code == -32602
    assert page["page"]["total"] > 1_100_000


async def test_large_report_is_whole_where_the_connection_takes_it(upstream: Upstream) -> None:
    """The present revision answers plainly, without a limit."""
    async with connected("http", upstream.url) as client:
        run_id = await finished(client, "size=1200000")
        report = await read(client, f"parallel://runs/{run_id}/report.md")

    assert len(report.text.encode()) > 1_200_000


async def test_large_result_halts_nobody_while_it_is_written(upstream: Upstream) -> None:
    """A thousand watches share the process with the one caller who reads it, which is free."""
    rows = [
        {"name": f"n{number}", "price": number, "why": "because of *this* and <b>that</b>"} for number in range(90_000)
    ]
    output: dict[str, Any] = {"type": "json", "content": {"rows": rows}, "basis": []}

    def takes_s() -> float:
        before = time.thread_time()
        marked(document_of(TaskOutput.model_validate(output), "markdown", "brief"))
        return time.thread_time() - before

    took_s = takes_s()
    with faulty(upstream.url) as proxy:
        async with connected("memory", proxy.url) as client:
            run_id = await finished(client)
            run = {"run_id": run_id, "status": "completed", "is_active": False, "processor": "core"}
            body = json.dumps({"run": run, "output": output}).encode()
            proxy.add(ScriptedFault(method="GET", path=".*/result", fault=respond(200, body), times=None))
            turns_s: list[float] = []
            async with anyio.create_task_group() as meanwhile:
                meanwhile.start_soon(note_turns, turns_s)
                report = await read(client, f"parallel://runs/{run_id}/report.md")
                page = structured(await client.call_tool("get_result", {"id": run_id}))["page"]
                assert len(report.text) > page["total"] > 5_000_000
                meanwhile.cancel_scope.cancel()

    took_s = max(took_s, takes_s())  # busy neighbours cost processor time as well, which comes and goes
    assert max(turns_s) < 0.7 * took_s  # a third, for reading and sending it


async def note_turns(turns_s: list[float]) -> None:
    """What everything else on the event loop took of the processor before others had their turn, each time."""
    while True:
        asked = time.thread_time()
        await anyio.lowlevel.checkpoint()
        turns_s.append(time.thread_time() - asked)


async def test_large_report_that_took_long_to_read_is_offered_in_pages(upstream: Upstream) -> None:
    """After 15 s without an answer it goes out as an event, of which clients take no more than a megabyte."""
    busy = respond(503, b"{}", {"content-type": "application/json", "retry-after": "16"})
    with faulty(upstream.url) as proxy:
        async with connected("http", proxy.url) as client:
            run_id = await finished(client, "size=1200000")
            short = await finished(client, input="What do heat pumps cost?")
            proxy.add(ScriptedFault(method="GET", path=f".*/{run_id}/result", fault=busy))
            proxy.add(ScriptedFault(method="GET", path=f".*/{short}/result", fault=busy))

            async def refused() -> None:
                with pytest.raises(MCPError, match=f'get_result\\(id="{run_id}"\\)'):
                    await client.read_resource(f"parallel://runs/{run_id}/result.json")

            async with anyio.create_task_group() as reading:
                reading.start_soon(refused)
                assert MARK in (await read(client, f"parallel://runs/{short}/report.md")).text


async def test_table_of_a_group_is_the_joined_pages_of_its_csv(client: Client) -> None:
    """A person wants the file, not pages of it."""
    rows = [{"city": f"City {number}"} for number in range(30)]
    group_id = structured(
        await client.call_tool("create_task_group", {"rows": rows, "output": "Who leads it?", "processor": "lite"})
    )["group_id"]
    await client.call_tool("watch_progress", {"id": group_id})
    pages = [page async for page in pages_of(client, group_id, format="csv", max_chars=1_000)]

    table = await read(client, f"parallel://groups/{group_id}/result.csv")

    assert table.mime_type == "text/csv"
    assert len(pages) > 1
    assert "".join(pages) == table.text
    with pytest.raises(MCPError, match="group_id"):
        await read(client, "parallel://groups/trun_1/result.csv")


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        ([{"city": f"City {number}"} for number in range(18)], 1_000_000),
        ([{f"{number} {name}": 1 for name in range(500)} for number in range(190)], 100),
    ],
    ids=["large rows", "each row with columns of its own"],
)
async def test_table_that_would_take_too_much_memory_is_offered_in_pages(
    client: Client, rows: list[dict[str, Any]], size: int
) -> None:
    """All of it is held several times over, for anybody who reads it again and again, which is free."""
    table = {
        "rows": rows,
        "output": "Who leads it?",
        "processor": "lite",
        "metadata": {"sim": f"latency=1 size={size}"},
    }
    group_id = structured(await client.call_tool("create_task_group", table))["group_id"]
    await client.call_tool("watch_progress", {"id": group_id})

    with pytest.raises(MCPError, match=f'16 MiB.*get_result\\(id="{group_id}", format="csv"\\)'):
        await client.read_resource(f"parallel://groups/{group_id}/result.csv")


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_status_is_what_get_status_says_of_a_run_and_of_a_group(upstream: Upstream, mode: str) -> None:
    """A host can show how things stand without a tool, and without a model."""
    async with connected("memory", upstream.url, mode=mode) as client:
        completed, failed = await finished(client), await finished(client, "fails", input="What do heat pumps cost?")
        group = structured(await client.call_tool("create_task_group", {"inputs": ["a", "b"], "processor": "lite"}))
        await client.call_tool("watch_progress", {"id": group["group_id"]})

        listed = structured(await client.call_tool("get_status", {"ids": [completed, failed, group["group_id"]]}))
        addresses = [f"runs/{completed}", f"runs/{failed}", f"groups/{group['group_id']}"]
        contents = [await read(client, f"parallel://{address}") for address in addresses]

    assert [json.loads(content.text) for content in contents] == [without_nulls(item) for item in listed["items"]]
    assert {content.mime_type for content in contents} == {"application/json"}
    assert "untrusted_error" in contents[1].text
    for content in contents:
        assert "\n" not in content.text
        assert content.meta == {"ifc": {"integrity": "untrusted", "confidentiality": "private"}}


def without_nulls(item: dict[str, Any]) -> dict[str, Any]:
    """An object without what is absent."""
    return {name: value for name, value in item.items() if value is not None}


async def test_status_of_a_watched_run_has_its_progress_cleaned_and_named_untrusted(upstream: Upstream) -> None:
    """The stream that is open anyway knows more than the status that the API gives."""
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "never latency=600 messages=90")
        uri = f"parallel://runs/{run_id}"
        unwatched = json.loads((await read(client, uri)).text)
        async with client.listen(resource_subscriptions=[uri]) as updates:
            watched = json.loads((await read(client, uri)).text)  # what is known by now need not be told
            with anyio.fail_after(60):
                while not watched.get("sources_considered"):
                    await anext(updates)
                    watched = json.loads((await read(client, uri)).text)

    assert unwatched.keys() & {"percent", "untrusted_message", "sources_read"} == set()
    assert 0 < watched["percent"] < 100
    assert watched["untrusted_message"]
    assert watched["status"] == "running"


async def test_recent_runs_are_those_of_the_caller_bounded_with_state_and_cost(upstream: Upstream) -> None:
    """Whoever has lost a run_id finds it there, and nobody else's."""
    with serving_http(load_settings({"base_url": upstream.url, "ledger": "memory"})) as address:
        async with http_client(address, KEY) as client, http_client(address, "other") as other:
            runs = [await create(client, "never", input=f"Question {number}", processor="lite") for number in range(22)]
            upstream.simulator.finish(runs[-1])
            foreign = await create(other, "never")
            own = json.loads((await read(client, "parallel://runs")).text)
            others = json.loads((await read(other, "parallel://runs")).text)

    assert [item["id"] for item in own["items"]] == runs[:-21:-1]
    assert [item["status"] == "completed" for item in own["items"]] == [True] + [False] * 19
    assert own["items"][0]["title"] == "Question 21"
    assert own["spent_usd_last_hour"] == pytest.approx(22 * 0.005)  # pyright: ignore[reportUnknownMemberType]
    assert [item["id"] for item in others["items"]] == [foreign]


async def test_only_what_never_changes_again_may_be_kept_and_by_its_reader_alone(client: Client) -> None:
    """A client that keeps a status would show a run as running that has ended."""
    active, ended = await create(client, "never"), await finished(client, input="What do heat pumps cost?")
    group = structured(await client.call_tool("create_task_group", {"inputs": ["a"], "processor": "lite"}))["group_id"]
    await client.call_tool("watch_progress", {"id": group})
    changing = ["runs", f"runs/{active}", f"groups/{group}", f"groups/{group}/result.csv"]
    lasting = [f"runs/{ended}", f"runs/{ended}/report.md", f"runs/{ended}/result.json"]

    hints = {address: await client.read_resource(f"parallel://{address}") for address in changing + lasting}

    assert {address for address, result in hints.items() if result.ttl_ms == 0} == set(changing)
    assert {hints[address].ttl_ms for address in lasting} == {3_600_000}
    assert {result.cache_scope for result in hints.values()} == {"private"}
