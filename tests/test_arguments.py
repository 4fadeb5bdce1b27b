"""Arguments as models really send them."""

import json
from typing import Any

import pytest
from mcp import Client

from tests.conftest import Upstream
from tests.connecting import LEGACY, MODERN, connected, create, failure, structured, text_of

BAD_HANDLES = {
    "traversal": "../x",
    "too long": "x" * 10_240,
    "empty": "",
    "line break": "trun_1\n",
    "slash": "trun_/events",
    "percent": "trun_%2e",
    "blank": "trun_ 1",
    "not ASCII": "trun_é",
}


def nested(levels: int) -> dict[str, Any]:
    """An object in an object, and so on."""
    value: dict[str, Any] = {"a": 1}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("handle", BAD_HANDLES.values(), ids=BAD_HANDLES.keys())
async def test_malformed_handle_is_refused_before_any_request(upstream: Upstream, client: Client, handle: str) -> None:
    """It would become part of a path; and its text must not come back to the model."""
    for tool, arguments in (
        ("get_status", {"ids": [handle]}),
        ("get_result", {"id": handle}),
        ("watch_progress", {"id": handle}),
        ("create_task", {"input": "x", "previous_interaction_id": handle or "?"}),
    ):
        text = await failure(client, tool, arguments)
        assert "is not a handle" in text
        assert "Code: invalid_arguments" in text
        assert len(text) < 600
        if len(handle) > 3:
            assert handle not in text
    assert upstream.simulator.requests == []


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_unknown_handle_is_an_error_of_the_tools_and_a_line_of_the_status(upstream: Upstream, mode: str) -> None:
    """One unknown id among several must not spoil the others."""
    async with connected("memory", upstream.url, mode=mode) as client:
        run_id = await create(client)
        for tool in ("get_result", "watch_progress"):
            assert "Code: not_found" in await failure(client, tool, {"id": "trun_nobody"})
        items = structured(await client.call_tool("get_status", {"ids": [run_id, "trun_nobody"]}))["items"]

    assert [(item["id"], item["status"] == "not_found") for item in items] == [(run_id, False), ("trun_nobody", True)]


@pytest.mark.parametrize(
    ("tool", "arguments", "advice"),
    [
        ("watch_progress", {"id": "trun_1", "timeout": 5}, "did you mean `timeout_s`"),
        ("get_result", {"run_id": "trun_1"}, "did you mean `id`"),
        ("search", {"query": "x"}, "did you mean `objective`"),
        ("create_task", {"input": "x", "output_shema": {}}, "did you mean `output_schema`"),
    ],
)
async def test_unknown_argument_names_the_nearest_known_one(
    upstream: Upstream, client: Client, tool: str, arguments: dict[str, Any], advice: str
) -> None:
    """Silently ignoring it would do something else than asked."""
    assert advice in await failure(client, tool, arguments)
    assert upstream.simulator.requests == []


async def test_null_counts_as_absent(client: Client) -> None:
    """Many models fill optional arguments with null."""
    arguments = {
        "objective": "grid storage",
        "search_queries": None,
        "include_domains": None,
        "after_date": None,
        "session_id": None,
    }
    assert structured(await client.call_tool("search", arguments))["result_count"] > 0
    run_id = await create(client, output_schema=None, metadata=None, force_new=None, idempotency_key=None)
    assert structured(await client.call_tool("watch_progress", {"id": run_id, "cursor": None, "timeout_s": None}))


async def test_empty_text_counts_as_absent_where_no_text_is_meant(client: Client) -> None:
    """Some models fill what they do not use with empty texts."""
    assert await create(client, processor="", output_schema="", include_domains="", metadata="", after_date="")


@pytest.mark.parametrize("fields", ['{"a": "\\ud800"}', '{"a": NaN}'])
async def test_what_cannot_be_sent_is_refused_before_a_price_is_reserved(
    upstream: Upstream, client: Client, fields: str
) -> None:
    """It would fail in the middle of the create and leave a purchase that never was."""
    text = await failure(client, "create_task", {"input_fields": fields})
    spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]

    assert "cannot be sent" in text
    assert spent == 0
    assert upstream.simulator.requests == []


async def test_containers_are_accepted_as_json_text(upstream: Upstream, client: Client) -> None:
    """Many models send objects and arrays as strings."""
    await client.call_tool("search", {"search_queries": json.dumps(["grid storage", "battery cost"])})
    await client.call_tool("extract", {"urls": "https://a.example/page"})
    run_id = await create(client, input="", input_fields=json.dumps({"company": "Acme"}))
    status = structured(await client.call_tool("get_status", {"ids": json.dumps([run_id])}))

    assert json.loads(upstream.sent("POST", "/v1/search")[0])["search_queries"] == ["grid storage", "battery cost"]
    assert json.loads(upstream.sent("POST", "/v1/extract")[0])["urls"] == ["https://a.example/page"]
    assert json.loads(upstream.sent("POST", "/v1/tasks/runs")[0])["input"] == {"company": "Acme"}
    assert status["items"][0]["id"] == run_id


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", "null", "true", "3"])
async def test_text_that_looks_like_json_stays_text(upstream: Upstream, client: Client, text: str) -> None:
    """The user's question may well be about a JSON document."""
    await create(client, input=text)

    assert json.loads(upstream.sent("POST", "/v1/tasks/runs")[0])["input"] == text


MISFITS: list[tuple[str, dict[str, Any], str]] = [
    ("search", {}, "Give `objective`"),
    ("search", {"search_queries": ["x"] * 6}, "`search_queries`"),
    ("search", {"objective": "x", "after_date": "31.12.2025"}, "`after_date`: a day written YYYY-MM-DD"),
    ("extract", {}, "`urls` is required"),
    ("extract", {"urls": ["ftp://a.example"]}, "http:// or https://"),
    ("extract", {"urls": ["https://a.example"] * 21}, "`urls`"),
    ("create_task", {}, "exactly one of `input` (text) and `input_fields`"),
    ("create_task", {"input": "x", "input_fields": {"a": "b"}}, "exactly one of"),
    ("create_task", {"input": "x", "processor": "mega"}, "`processor`: one of 'lite', 'lite-fast'"),
    (
        "create_task_group",
        {"csv": "company,city\nBank of America Corporation,New York"},
        "no question: say in `output_schema`",
    ),
    ("create_task_group", {"csv": "/home/me/companies.csv"}, "not the path of a file"),
    ("extract", {"urls": ["https://a.example", "b.example"]}, "number 2 does not"),
    ("create_task", {"input": "x", "output": "a", "output_schema": {"type": "object"}}, "not both"),
    ("create_task", {"input": "x", "output_schema": {"type": "array"}}, "root has type `object`"),
    ("create_task", {"input": "x", "metadata": {"a_key_that_is_long": "x"}}, "at most 16 characters"),
    ("create_task", {"input": "x" * 24_990}, "the limit is 25,000"),
    ("create_task", {"input": "x", "idempotency_key": "a b"}, "at most 64 letters"),
    ("create_task", {"input": "x", "output_schema": "company name"}, "`output_schema` is an object"),
    ("create_task", {"input": "x", "previous_interaction_id": "tgrp_1"}, "takes the handle of a run"),
    ("create_task", {"input_fields": json.dumps(nested(300))}, "nested deeper than 64"),
    ("create_task", {"input_fields": nested(63)}, "nested deeper than 64"),
    ("create_task_group", {"rows": json.dumps([nested(300)])}, "nested deeper than 64"),
    ("create_task_group", {}, "exactly one of `rows` (objects), `inputs` (texts) and `csv`"),
    ("create_task_group", {"inputs": ["a"], "csv": "a\nb"}, "exactly one of"),
    ("create_task_group", {"inputs": ["a", " "]}, "Row 2 of `inputs` is empty"),
    ("create_task_group", {"rows": [{}]}, "Row 1 of `rows` is empty"),
    ("create_task_group", {"inputs": ["a"] * 5_001}, "at most 5,000"),
    ("create_task_group", {"inputs": ["a", "x" * 24_990]}, "Row 2: "),
    ("create_task_group", {"inputs": ["a"], "metadata": {"row": "1"}}, "the number of each row"),
    ("create_task_group", {"inputs": ["a"], "metadata": {"row_key": "1"}}, "a digest of the input of each row"),
    ("create_task_group", {"inputs": ["a"], "metadata": {"mcp_op": "1"}}, "the call that created each row"),
    ("create_task_group", {"inputs": ["a"], "processor": "mega"}, "lite, lite-fast"),
    ("create_task_group", {"inputs": ["a"], "group_id": "trun_1"}, "`group_id` is the handle of a group"),
    ("create_task_group", {"csv": "a,b\n1,2\n3"}, "Line 3 of `csv` has 1 cells, and the header 2"),
    ("watch_progress", {"id": "monitor_1"}, "get_monitor_events gives what it found"),
    ("get_result", {"id": "monitor_1"}, "get_monitor_events gives what it found"),
    ("get_status", {"ids": ["../runs"]}, "`ids` is not a handle"),
]


async def test_arguments_may_be_nested_as_deep_as_is_said(client: Client) -> None:
    """The arguments themselves are the first level, and the value in the innermost object is none."""
    result = await client.call_tool("create_task", {"input_fields": nested(62), "processor": "lite"})

    assert not result.is_error, text_of(result)


@pytest.mark.parametrize(("tool", "arguments", "named"), MISFITS)
async def test_argument_that_does_not_fit_is_named_with_what_is_accepted(
    upstream: Upstream, client: Client, tool: str, arguments: dict[str, Any], named: str
) -> None:
    """The model corrects itself in one step, and nothing is sent or charged."""
    text = await failure(client, tool, arguments)

    assert named in text
    assert "Nothing was sent and nothing was charged" in text
    assert upstream.simulator.requests == []


async def test_unknown_tool_is_answered_with_the_known_ones(client: Client) -> None:
    """Models mix up servers."""
    assert "create_task, run_task, create_task_group, get_status" in await failure(client, "deep_research", {})
