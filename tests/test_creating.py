"""Creating a run: whatever happens to its answer, it is bought at most once."""

import json
from collections.abc import Callable

import anyio
import pytest

from parallel_mcp.api.connections import Timeouts
from parallel_mcp.simulator import Fault
from tests.conftest import Upstream
from tests.connecting import connected, create, failure, structured
from tests.faults import (
    ScriptedFault,
    close_without_answer,
    cut_body,
    cut_headers,
    cut_status_line,
    faulty,
    garbage,
    gzip_bomb,
    redirect,
    replace_body,
    reset_after_accept,
    respond_after_forward,
    stall,
    stall_after,
)
from tests.faults.kinds import Fault as ByteFault

RUNS = "/v1/tasks/runs"
TASK = {"input": "What does grid-scale battery storage cost?"}

LOST_ANSWERS: dict[str, Callable[[], ByteFault]] = {
    "reset after sending": reset_after_accept,
    "closed without answer": close_without_answer,
    "status line cut": cut_status_line,
    "headers cut": cut_headers,
    "body cut": lambda: cut_body(20),
    "stalled": stall,
    "stalled in the body": lambda: stall_after(20),
    "not HTTP": garbage,
    "408": lambda: respond_after_forward(408, b"{}"),
    "409": lambda: respond_after_forward(409, b"{}"),
    "500": lambda: respond_after_forward(500, b"{}"),
    "502": lambda: respond_after_forward(502, b"<html>"),
    "503": lambda: respond_after_forward(503, b"{}"),
    "504": lambda: respond_after_forward(504, b""),
    "success with HTML": lambda: replace_body(b"<html>", "text/html"),
    "success without a run id": lambda: replace_body(b'{"status": "queued"}', "application/json"),
    "compressed": lambda: gzip_bomb(64, status=202),
}


@pytest.mark.parametrize("fault", LOST_ANSWERS.values(), ids=LOST_ANSWERS.keys())
async def test_lost_answer_is_reported_as_unknown_and_never_sent_again(
    upstream: Upstream, fault: Callable[[], ByteFault]
) -> None:
    """The API has no idempotency key: a repeat would buy a second run."""
    with faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path=RUNS, fault=fault(), times=None))
        async with connected("memory", proxy.url, timeouts=Timeouts(create_s=5)) as client:
            text = await failure(client, "create_task", TASK)
            again = await failure(client, "create_task", TASK)
            (listed,) = structured(await client.call_tool("get_status", {}))["items"]

    assert listed["status"] == "outcome_unknown"
    assert listed["title"] == TASK["input"]
    assert upstream.simulator.accepted_runs == 1
    assert len([request for request in proxy.requests if request.path == RUNS]) == 1
    assert "outcome is unknown" in text
    assert "Code: outcome_unknown" in text
    assert "Do not repeat the call blindly" in text
    assert "https://platform.parallel.ai" in text
    assert "nothing was sent now" in again


async def test_redirect_is_refused_without_following_it(upstream: Upstream) -> None:
    """A redirect would carry the key to another host."""
    with faulty(upstream.url) as elsewhere, faulty(upstream.url) as proxy:
        proxy.add(ScriptedFault(method="POST", path=RUNS, fault=redirect(f"{elsewhere.url}{RUNS}"), times=None))
        async with connected("memory", proxy.url) as client:
            text = await failure(client, "create_task", TASK)

    assert "redirect" in text
    assert elsewhere.requests == []
    assert upstream.simulator.accepted_runs == 0


async def test_rate_limited_create_is_sent_again_after_the_time_told(upstream: Upstream) -> None:
    """429 says for certain that nothing was created."""
    upstream.simulator.add_fault(Fault("POST", RUNS, times=2, status=429, headers={"Retry-After": "0"}))
    async with connected("memory", upstream.url) as client:
        await create(client)

    assert len(upstream.sent("POST", RUNS)) == 3
    assert upstream.simulator.accepted_runs == 1


async def test_rate_limit_longer_than_a_call_is_handed_to_the_model(upstream: Upstream) -> None:
    """Waiting longer than the client waits would lose the answer."""
    upstream.simulator.add_fault(Fault("POST", RUNS, times=None, status=429, headers={"Retry-After": "55"}))
    async with connected("memory", upstream.url) as client:
        with anyio.fail_after(20):
            text = await failure(client, "create_task", TASK)

    assert "may succeed after 55 seconds" in text
    assert len(upstream.sent("POST", RUNS)) == 1


@pytest.mark.parametrize("status", [401, 402, 403, 422])
async def test_refused_create_is_sent_once_and_leaves_the_budget_free(upstream: Upstream, status: int) -> None:
    """A definite refusal must not be reported as unknown, nor keep its reservation."""
    upstream.simulator.add_fault(Fault("POST", RUNS, status=status, body="{}"))
    async with connected("memory", upstream.url) as client:
        text = await failure(client, "create_task", TASK)
        spent = structured(await client.call_tool("get_status", {}))["spent_usd_last_hour"]
        await create(client, **TASK)

    assert "outcome_unknown" not in text
    assert spent == 0
    assert len(upstream.sent("POST", RUNS)) == 2


async def test_same_idempotency_key_gives_the_same_run(upstream: Upstream) -> None:
    """Also for twenty calls at once, of which only one may be sent."""
    async with connected("memory", upstream.url) as client:
        run_ids: list[str] = []

        async def create_keyed() -> None:
            run_ids.append(await create(client, idempotency_key="report-1"))

        async with anyio.create_task_group() as creating:
            for _ in range(20):
                creating.start_soon(create_keyed)
        text = await failure(client, "create_task", {"input": "something else", "idempotency_key": "report-1"})

    assert len(run_ids) == 20
    assert len(set(run_ids)) == 1
    assert upstream.simulator.accepted_runs == 1
    assert "Code: idempotency_conflict" in text
    assert len(upstream.sent("POST", RUNS)) == 1


async def test_equal_create_returns_the_active_run_until_it_has_ended(upstream: Upstream) -> None:
    """Models repeat calls; a repeat while the work goes on is never wanted, unless they say so."""
    async with connected("memory", upstream.url) as client:
        first = await create(client, "never")
        repeated = structured(await client.call_tool("create_task", _never_ending()))
        forced = structured(await client.call_tool("create_task", {**_never_ending(), "force_new": True}))
        upstream.simulator.finish(first)
        upstream.simulator.finish(forced["run_id"])
        later = structured(await client.call_tool("create_task", _never_ending()))

    assert (repeated["run_id"], repeated["deduplicated"], repeated["price_usd"]) == (first, True, 0)
    assert not forced["deduplicated"]
    assert not later["deduplicated"]
    assert len({first, forced["run_id"], later["run_id"]}) == 3
    assert upstream.simulator.accepted_runs == 3


def _never_ending() -> dict[str, object]:
    return {
        "input": "What does grid-scale battery storage cost?",
        "processor": "core-fast",
        "metadata": {"sim": "never"},
    }


async def test_price_above_the_limit_of_a_call_is_refused_before_sending(upstream: Upstream) -> None:
    """A person sets the limit; a model must not spend past it, nor try again."""
    async with connected("memory", upstream.url) as client:
        text = await failure(client, "create_task", {**TASK, "processor": "ultra4x"})

    assert "PARALLEL_MCP_MAX_USD_PER_CALL" in text
    assert "$1.00" in text
    assert "Do not try again" in text
    assert upstream.sent("POST", RUNS) == []


async def test_hourly_budget_ends_creating_and_says_when_it_frees(upstream: Upstream) -> None:
    """A looping model must not spend without bound."""
    async with connected("memory", upstream.url, max_usd_per_hour=0.06) as client:
        for number in range(2):
            await create(client, input=f"question {number}")
        text = await failure(client, "create_task", {"input": "question 3", "processor": "core-fast"})

    assert "PARALLEL_MCP_MAX_USD_PER_HOUR" in text
    assert "60 minutes" in text
    assert upstream.simulator.accepted_runs == 2


async def test_request_says_what_the_arguments_said(upstream: Upstream) -> None:
    """The wrapping that the API wants is ours to make, also of objects that come as JSON text."""
    schema = {"type": "object", "properties": {"ceo_name": {"type": "string"}}}
    completed = {**schema, "required": ["ceo_name"], "additionalProperties": False}
    async with connected("memory", upstream.url) as client:
        await client.call_tool(
            "create_task",
            {
                "input_fields": json.dumps({"company": "Acme"}),
                "output_schema": json.dumps(schema),
                "processor": "base",
                "include_domains": ["acme.example"],
                "after_date": "2026-01-01",
                "metadata": {"row": 17},
                "output": None,
            },
        )

    assert json.loads(upstream.sent("POST", RUNS)[0]) == {
        "processor": "base",
        "input": {"company": "Acme"},
        "task_spec": {"output_schema": {"type": "json", "json_schema": completed}},
        "metadata": {"row": "17"},
        "source_policy": {"include_domains": ["acme.example"], "after_date": "2026-01-01"},
        "enable_events": True,
    }
