"""One story over every transport and protocol era: what a user of the server does."""

import pytest

from tests.conftest import Upstream
from tests.connecting import LEGACY, MODERN, Transport, connected, create, structured, text_of

TOOLS = [
    "search",
    "extract",
    "create_task",
    "run_task",
    "create_task_group",
    "get_status",
    "get_result",
    "watch_progress",
    "view_run",
]


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_research_from_search_to_cited_result(upstream: Upstream, transport: Transport, mode: str) -> None:
    """The same server serves both eras over both transports, with live progress."""
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        if len(seen) == 3:
            upstream.simulator.finish(run_id)

    async with connected(transport, upstream.url, mode=mode) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        found = structured(await client.call_tool("search", {"objective": "cost of grid-scale battery storage"}))
        run_id = await create(client, "never latency=150 messages=20")
        watched = structured(await client.call_tool("watch_progress", {"id": run_id}, progress_callback=note))
        result = await client.call_tool("get_result", {"id": run_id})

    assert listed == TOOLS
    assert "battery" in found["untrusted"]["results"][0]["title"]
    assert watched["status"] == "completed"
    values = [progress for progress, _, _ in seen]
    assert len(values) >= 4
    assert values == sorted(set(values)), "progress must rise strictly"
    assert values[-1] == 100
    assert all(total == 100 and message for _, total, message in seen)
    citations = structured(result)["untrusted"]["citations"]
    assert citations
    assert citations[0]["url"] in text_of(result)
