"""A request that does not say what to research: the user is asked, where that is possible, and else it is refused."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitRequestParams, ElicitResult, InputRequiredResult

from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from tests.conftest import Upstream
from tests.connecting import KEY, LEGACY, MODERN, connected, failure, serving_http, structured

VAGUE = ["", "   ", "?", "research", "Please do some research.", "Find information about it", "help me", "TEST"]
CLEAR = ["Acme", "AMD", "Is it true?", "储能成本", "Was kostet das?", "search engines", "2024"]
QUESTION = "What does grid-scale battery storage cost?"
RUNS = "/v1/tasks/runs"


@asynccontextmanager
async def answering_client(
    base_url: str, answers: list[ElicitResult], questions: list[str], *, mode: str = MODERN, **settings: Any
) -> AsyncGenerator[Client]:
    """A client whose user answers one question after the other; the questions are noted."""

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return answers[len(questions) - 1]

    loaded = load_settings({"base_url": base_url, "api_key": KEY, "ledger": "memory", **settings})
    async with Client(build_server(loaded), mode=mode, elicitation_callback=answer) as client:
        yield client


def accepted(**content: Any) -> ElicitResult:
    """What a user fills in."""
    return ElicitResult(action="accept", content=content)


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("tool", ["create_task", "run_task"])
@pytest.mark.parametrize("vague", ["", "Please do some research."])
async def test_user_is_asked_what_to_research(upstream: Upstream, tool: str, mode: str, vague: str) -> None:
    """The person knows what they meant; a run on a guess costs their money."""
    questions: list[str] = []
    async with answering_client(upstream.url, [accepted(input=QUESTION)], questions, mode=mode) as client:
        result = structured(await client.call_tool(tool, {"input": vague, "processor": "lite"}))

    assert len(questions) == 1
    assert "What should be researched?" in questions[0]
    assert result["price_usd"] == 0.005
    assert QUESTION.encode() in upstream.sent("POST", RUNS)[0]


@pytest.mark.parametrize("answer", [ElicitResult(action="decline"), ElicitResult(action="cancel"), accepted(input="?")])
async def test_user_who_does_not_say_it_buys_nothing(upstream: Upstream, answer: ElicitResult) -> None:
    """Nor is the user asked twice."""
    questions: list[str] = []
    async with answering_client(upstream.url, [answer], questions) as client:
        text = await failure(client, "create_task", {"input": "research"})

    assert len(questions) == 1
    assert "`input` does not say what to research" in text
    assert not upstream.simulator.requests


@pytest.mark.parametrize("vague", VAGUE)
async def test_client_that_cannot_ask_is_told_plainly(upstream: Upstream, client: Client, vague: str) -> None:
    """The model corrects it, or asks the user in its own words; nothing was sent."""
    text = await failure(client, "create_task", {"input": vague})

    assert "`input`" in text
    assert "Code: invalid_arguments." in text
    assert not upstream.simulator.requests


@pytest.mark.parametrize("clear", CLEAR)
async def test_short_questions_are_questions(upstream: Upstream, client: Client, clear: str) -> None:
    """A name, a number or another language says enough; only what is empty in plain sight is refused."""
    structured(await client.call_tool("create_task", {"input": clear}))


@pytest.mark.parametrize(
    "said_elsewhere",
    [
        {"output": "The price of Acme's shares since 2020."},
        {"input": "", "input_fields": {"company": "Acme"}},
        {"output_schema": {"type": "object", "properties": {"ceo_of_acme": {"type": "string"}}}},
    ],
)
async def test_request_that_says_it_elsewhere_is_not_vague(
    upstream: Upstream, client: Client, said_elsewhere: dict[str, Any]
) -> None:
    """The wished output can be the whole question."""
    structured(await client.call_tool("create_task", {"input": "Do the research", **said_elsewhere}))


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_price_is_asked_after_the_question_is_known(upstream: Upstream, mode: str) -> None:
    """In that order: nobody can judge a price for they know not what."""
    questions: list[str] = []
    answers = [accepted(input=QUESTION), accepted(approve=True)]
    async with answering_client(upstream.url, answers, questions, mode=mode) as client:
        created = structured(await client.call_tool("create_task", {"processor": "ultra4x"}))

    assert [question.split("?")[0] for question in questions] == [
        "What should be researched",
        "Start a research task with ultra4x for $1.200",
    ]
    assert created["price_usd"] == 1.2
    assert QUESTION.encode() in upstream.sent("POST", RUNS)[0]


# ---- the answer may come to another process


async def asked_once(client: Client, **answer: Any) -> Any:
    """A call as a client makes it that knows of questions: the first answer, or that to the user's answers."""
    arguments = {"input": QUESTION, "processor": "ultra4x"}
    return await client.session.call_tool("create_task", arguments, allow_input_required=True, **answer)


@asynccontextmanager
async def able_to_ask(address: str, key: str) -> AsyncGenerator[Client]:
    """A client over HTTP that says it can ask; the tests answer in its place."""

    async def never(context: Any, params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError("the test answers itself")

    async with (
        httpx2.AsyncClient(headers={"x-api-key": key}, timeout=60) as http,
        Client(
            streamable_http_client(f"{address}/mcp", http_client=http), mode=MODERN, elicitation_callback=never
        ) as client,
    ):
        yield client


async def test_answer_of_the_user_may_reach_another_replica_but_not_another_key(upstream: Upstream) -> None:
    """Behind a load balancer the two halves of a question rarely meet the same process."""
    settings = load_settings({"base_url": upstream.url, "ledger": "memory"})
    with serving_http(settings) as one, serving_http(settings) as other:
        async with able_to_ask(one, KEY) as here, able_to_ask(other, KEY) as there, able_to_ask(other, "b") as stranger:
            question = await asked_once(here)
            assert isinstance(question, InputRequiredResult)
            assert question.input_requests
            answers = {name: accepted(approve=True) for name in question.input_requests}
            given: dict[str, Any] = {"input_responses": answers, "request_state": question.request_state}
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await asked_once(stranger, **given)
            created = await asked_once(there, **given)

    assert structured(created)["price_usd"] == 1.2
    assert upstream.simulator.accepted_runs == 1


async def test_question_is_not_asked_without_a_key(upstream: Upstream) -> None:
    """What is missing first is the key, and the user is told how to set it."""
    async with connected("memory", upstream.url, key="") as client:
        assert "PARALLEL_API_KEY" in await failure(client, "create_task", {"input": QUESTION})
