"""Upstream failures as the model reads them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import stdio_client

from parallel_mcp.errors import ResearchError, UpstreamError
from parallel_mcp.simulator import Fault
from tests.conftest import Upstream
from tests.connecting import KEY, connected, failure, stdio_server, structured, text_of
from tests.faults import refused_url

VALUE = "canary-argument-5ca1ab1e"
MESSAGE = "upstream says so"
REFERENCE = "fcb2b4f3-c75e-4186-87bc-caa1a8381331"
ERROR_BODY = json.dumps({"type": "error", "error": {"ref_id": REFERENCE, "message": MESSAGE, "detail": None}})
FASTAPI_BODY = json.dumps(
    {"detail": [{"loc": ["body", "inputs", 0, "processor"], "msg": MESSAGE, "type": "missing", "input": VALUE}]}
)
PAGE = "<html><head><title>upstream says so</title></head><body>502</body></html>"


@dataclass(frozen=True)
class Expectation:
    """An upstream answer, and what must be in the tool error."""

    status: int
    body: str
    code: str
    advice: str
    reference: bool = True
    content_type: str = "application/json"


EXPECTATIONS = {
    "401": Expectation(401, ERROR_BODY, "invalid_api_key", "Retrying will not help"),
    "402": Expectation(402, ERROR_BODY, "out_of_credit", "until credit is added"),
    "403": Expectation(403, ERROR_BODY, "not_permitted", "Retrying will not help"),
    "404": Expectation(404, ERROR_BODY, "not_found", "Retrying will not help"),
    "422": Expectation(422, ERROR_BODY, "request_rejected", "Retrying unchanged will not help"),
    "422 of groups": Expectation(422, FASTAPI_BODY, "request_rejected", "unchanged", reference=False),
    "429": Expectation(429, ERROR_BODY, "rate_limited", "may succeed after"),
    "500": Expectation(500, ERROR_BODY, "upstream_unavailable", "may succeed in a minute"),
    "502 with HTML": Expectation(502, PAGE, "upstream_unavailable", "in a minute", False, "text/html"),
}


@pytest.mark.parametrize("expected", EXPECTATIONS.values(), ids=EXPECTATIONS.keys())
async def test_upstream_error_reaches_the_model_with_code_message_reference_and_next_step(
    upstream: Upstream, expected: Expectation
) -> None:
    """All that a model needs to decide what to do, and nothing secret."""
    upstream.simulator.add_fault(
        Fault("*", ".*", times=None, status=expected.status, body=expected.body, content_type=expected.content_type)
    )
    calls: list[tuple[str, dict[str, Any]]] = [
        ("search", {"objective": VALUE}),
        ("get_status", {"ids": ["trun_1"]}) if expected.status != 404 else ("get_result", {"id": "trun_1"}),
        ("watch_progress", {"id": "trun_1", "timeout_s": 20}),
    ]
    async with connected("memory", upstream.url) as client:
        texts = [await failure(client, tool, arguments) for tool, arguments in calls]

    for text in texts:
        assert f"Code: {expected.code}" in text
        assert f"HTTP {expected.status}" in text
        assert MESSAGE in text
        assert (REFERENCE in text) == expected.reference
        assert expected.advice in text
        assert "Next: " in text
        assert KEY not in text
        assert VALUE not in text


async def test_garbage_in_a_success_is_named_as_such(upstream: Upstream) -> None:
    """A captive portal answers 200 with a page of its own."""
    upstream.simulator.add_fault(Fault("POST", "/v1/search", status=200, body=PAGE, content_type="text/html"))
    upstream.simulator.add_fault(Fault("POST", "/v1/search", status=200, body='{"results": 3}'))
    async with connected("memory", upstream.url) as client:
        page = await failure(client, "search", {"objective": VALUE})
        shape = await failure(client, "search", {"objective": VALUE})

    assert "is not JSON" in page
    assert "another shape" in shape
    assert "Code: upstream_unreadable" in page
    assert VALUE not in page + shape


async def test_refused_connection_says_that_nothing_was_sent() -> None:
    """The one failure after which even a create may simply be repeated."""
    with refused_url() as url:
        async with connected("memory", url) as client:
            searched = await failure(client, "search", {"objective": VALUE})
            created = await failure(client, "create_task", {"input": VALUE})

    for text in (searched, created):
        assert "Code: not_sent" in text
        assert "nothing was sent, created or charged" in text
        assert VALUE not in text


async def test_key_and_arguments_appear_in_no_log_even_at_debug(upstream: Upstream, tmp_path: Path) -> None:
    """A canary key and a canary argument, through successes and failures, in a real process that logs everything."""
    upstream.simulator.add_fault(Fault("POST", "/v1/extract", times=None, status=500, body=ERROR_BODY))
    upstream.simulator.add_fault(Fault("POST", "/v1/search", times=1, status=422, body=FASTAPI_BODY))
    server = stdio_server(upstream.url, KEY, {"PARALLEL_MCP_LOG_LEVEL": "debug"})
    texts: list[str] = []
    log = tmp_path / "stderr.txt"
    with log.open("w") as stderr:
        async with Client(stdio_client(server, stderr)) as client:
            for tool, arguments in [
                ("search", {"objective": VALUE}),
                ("search", {"objective": "grid storage"}),
                ("extract", {"urls": [f"https://{VALUE}.example"]}),
                ("create_task", {"input": VALUE, "unknown": VALUE}),
                ("create_task", {"input": VALUE, "processor": VALUE}),
                ("create_task", {"input": VALUE, "metadata": VALUE}),
                ("watch_progress", {"id": f"{VALUE}/.."}),
            ]:
                result = await client.call_tool(tool, arguments)
                texts.append(result.model_dump_json())
    logged = log.read_text()

    assert "DEBUG" in logged
    for text in [*texts, logged]:
        assert KEY not in text
        assert VALUE not in text


def test_every_error_says_whether_to_retry_and_what_to_do_next() -> None:
    """A class without advice would leave the model to guess."""

    def classes(base: type[ResearchError]) -> list[type[ResearchError]]:
        return [base, *(found for child in base.__subclasses__() for found in classes(child))]

    found = classes(ResearchError)[1:]
    codes = [kind.code for kind in found]
    assert len(set(codes)) == len(codes), "two classes share a code"
    for kind in found:
        assert "next_step" in vars(kind) or kind is UpstreamError, f"{kind.__name__} gives no advice of its own"
        assert kind.retry_advice


HALF = "\\ud83d"  # an emoji cut in two, as web pages have them


async def test_half_characters_from_the_api_break_neither_errors_nor_results_nor_progress(upstream: Upstream) -> None:
    """They cannot be written as UTF-8: one of them in an answer would otherwise end the server."""
    body = f'{{"type": "error", "error": {{"ref_id": "r", "message": "cut {HALF} here"}}}}'
    page = f'{{"url": "https://a.example", "excerpts": ["{HALF}", null]}}'
    found = f'{{"search_id": "s", "session_id": "t", "results": [{page}]}}'
    upstream.simulator.add_fault(Fault("POST", "/v1/search", status=422, body=body))
    upstream.simulator.add_fault(Fault("POST", "/v1/search", status=200, body=found))
    async with Client(stdio_client(stdio_server(upstream.url, KEY))) as client:
        refused = await client.call_tool("search", {"objective": "x"})
        answered = structured(await client.call_tool("search", {"objective": "x"}))

    assert "cut" in text_of(refused)
    assert answered["untrusted"]["results"][0]["excerpts"] == ["\ufffd"]


async def test_lost_create_names_the_upstream_message_and_reference(upstream: Upstream) -> None:
    """With them the user can ask Parallel what became of it."""
    upstream.simulator.add_fault(Fault("POST", "/v1/tasks/runs", status=500, body=ERROR_BODY))
    async with connected("memory", upstream.url) as client:
        text = await failure(client, "create_task", {"input": "x"})

    assert "outcome_unknown" in text
    assert MESSAGE in text
    assert REFERENCE in text
