"""Prompts and completions: what a person chooses from, and what is offered while they type."""

import pytest
from mcp import Client
from mcp.types import PromptReference, ResourceTemplateReference, TextContent

from tests.conftest import Upstream
from tests.connecting import LEGACY, MODERN, connected, create

ARGUMENTS = {
    "deep_research": {"question": "How do cities finance heat networks?"},
    "enrich_table": {"columns": "CEO, headcount", "rows": "company\nAcme\nGlobex"},
    "fact_check": {"claim": "The Eiffel Tower grows in summer."},
}


async def rendered(client: Client, name: str, **arguments: str) -> str:
    messages = (await client.get_prompt(name, ARGUMENTS[name] | arguments)).messages
    assert [message.role for message in messages] == ["user"]
    assert isinstance(messages[0].content, TextContent)
    return messages[0].content.text


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_each_prompt_says_which_tools_to_use_and_what_it_costs(upstream: Upstream, mode: str) -> None:
    """A person chooses one in a menu and is not asked about money again."""
    async with connected("memory", upstream.url, mode=mode) as client:
        prompts = (await client.list_prompts()).prompts
        tools = {tool.name for tool in (await client.list_tools()).tools} | {"create_task_group"}
        for prompt in prompts:
            text = await rendered(client, prompt.name)
            assert prompt.title
            assert prompt.description
            assert all(argument.description for argument in prompt.arguments or [])
            assert sum(tool in text for tool in tools) >= 2
            assert "$0." in text
            assert all(value in text for value in ARGUMENTS[prompt.name].values())

    assert [prompt.name for prompt in prompts] == list(ARGUMENTS)


async def test_chosen_processor_is_named_with_its_price(client: Client) -> None:
    """And a name that does not exist falls back to the usual one."""
    assert "processor pro-fast ($0.100 a run" in await rendered(client, "deep_research", processor="pro-fast")
    assert "processor core-fast ($0.025 a run" in await rendered(client, "fact_check", processor="enormous")


async def test_completions_offer_processors_and_the_callers_own_runs(upstream: Upstream) -> None:
    """Nobody types a run id by hand, and nobody sees another caller's."""
    prompt = PromptReference(type="ref/prompt", name="deep_research")
    template = ResourceTemplateReference(type="ref/resource", uri="parallel://runs/{run_id}/report.md")
    async with connected("memory", upstream.url) as client:
        run_id = await create(client, "latency=1")
        processors = await client.complete(prompt, {"name": "processor", "value": "pro"})
        runs = await client.complete(template, {"name": "run_id", "value": "trun_"})
        other = await client.complete(template, {"name": "run_id", "value": "trun_nobody"})
        free_text = await client.complete(prompt, {"name": "question", "value": "p"})

    assert processors.completion.values == ["pro", "pro-fast"]
    assert runs.completion.values == [run_id]
    assert other.completion.values == []
    assert free_text.completion.values == []


async def test_completion_without_a_key_offers_nothing(upstream: Upstream) -> None:
    """It is a courtesy: an error would be shown while a person types."""
    template = ResourceTemplateReference(type="ref/resource", uri="parallel://runs/{run_id}/report.md")
    async with connected("memory", upstream.url, key="") as client:
        assert (await client.complete(template, {"name": "run_id", "value": ""})).completion.values == []
