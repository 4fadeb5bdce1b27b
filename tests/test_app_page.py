"""The page as a person meets it, in a real browser inside a test host, on a real server and the simulated API.

Needs Chromium (on the path, or named by `CHROMIUM`). In the directory that `MCP_NODE_MODULES` names, the packages
`@modelcontextprotocol/ext-apps`, to whose schema every message is then held, and `axe-core`. Pictures are kept in the
folder that `TEST_ARTIFACTS` names.
"""

import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from playwright.async_api import Browser, Locator, Page

from parallel_mcp.simulator import Fault
from parallel_mcp.tools.view_run import ViewRunOutput
from tests.app_host import CAPABILITIES, Host, Message, as_sent, chromium, hosting, launched
from tests.conftest import Upstream
from tests.connecting import connected, create, structured, text_of
from tests.node_programs import NODE_MODULES, needs_node
from tests.patience import PATIENCE_S
from tests.specs import write_spec

pytestmark = pytest.mark.skipif(not chromium(), reason="there is no Chromium")

QUESTION = "What does grid-scale battery storage cost, and what drives the cost?"
TALKS_ON = "never latency=6000 messages=600"
"""A run with something new several times a second, until the test ends it."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "usd_per_kwh": {"type": "number", "description": "Installed cost in dollars per kWh"},
        "vendors": {
            "type": "array",
            "description": "Vendors",
            "items": {
                "type": "object",
                "properties": {
                    "vendor": {"type": "string", "description": "Name"},
                    "employees": {"type": "integer", "description": "Head count"},
                },
            },
        },
    },
}
SCRIPT = "<script>window.taken = 1</script><img src=x onerror='window.taken = 2'><svg onload='window.taken = 3'>"
HOSTILE_REPORT = f"""# Hostile {SCRIPT}

{SCRIPT} **bold {SCRIPT}** `code {SCRIPT}` \u202ereversed\u202c zero\u200bwidth

[script](javascript:window.taken=4) [data](data:text/html,<script>window.taken=5</script>) ![pixel](https://evil.example/p.png)
[bank](https://bank.example@evil.example/login) [https://bank.example](https://evil.example/x) <https://evil.example/auto>

<iframe src="https://evil.example"></iframe><form action="https://evil.example"><input name=a></form>
<style>body {{ background: url(https://evil.example/s) }}</style><base href="https://evil.example/">

| a{SCRIPT} | b |
|---|---|
| [x](vbscript:window.taken=6) | {SCRIPT} |

- item {SCRIPT}
  > quoted {SCRIPT}

```html
{SCRIPT}
```
"""
RUN_ID = "trun_hostile"
RUN: dict[str, Any] = {
    "run_id": RUN_ID,
    "status": "completed",
    "is_active": False,
    "processor": "lite",
    "created_at": "2026-05-01T10:00:00Z",
    "modified_at": "2026-05-01T10:01:00Z",
}
SOURCES: list[dict[str, Any]] = [
    {"url": "javascript:window.taken=7", "title": SCRIPT, "excerpts": [SCRIPT]},
    {"url": "https://evil.example/source", "title": f"Source {SCRIPT}", "excerpts": []},
]


@pytest.fixture(scope="module")
async def browser() -> AsyncGenerator[Browser]:
    """One browser for all tests; each opens a context of its own."""
    async with launched() as browser:
        yield browser


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Where pictures are kept."""
    folder = Path(os.environ.get("TEST_ARTIFACTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def with_clock(page: Page) -> None:
    """Let the test move the page's time on; it goes by itself as well."""
    await page.clock.install()


async def with_still_clock(page: Page) -> None:
    """Let the page's time stand still, unless the test moves it on."""
    await page.clock.install(time="2026-05-01T10:00:00Z")
    await page.clock.pause_at("2026-05-01T11:00:00Z")


async def passing(host: Host, condition: Callable[[], Awaitable[bool]]) -> None:
    """Let the page's time pass until it holds, but not while the page waits for an answer: its patience has an end."""
    with anyio.fail_after(PATIENCE_S):
        while not await condition():
            await all_answered(host)
            await host.page.clock.run_for(1_000)


def answer(upstream: Upstream, path: str, body: object, status: int = 200) -> None:
    """Let the API answer so."""
    upstream.simulator.add_fault(Fault("*", path, times=None, status=status, body=json.dumps(body)))


def give_result(upstream: Upstream, kind: str, content: object, fields: list[str]) -> None:
    """Let the API have this result."""
    basis = [{"field": field, "reasoning": SCRIPT, "confidence": "low", "citations": SOURCES} for field in fields]
    output = {"type": kind, "content": content, "basis": basis}
    answer(upstream, "/v1/tasks/runs/[^/]+/result", {"run": RUN, "output": output})


async def shown_result(host: Host, untrusted: Message, **others: Any) -> None:
    """Let the page show this result."""
    content = {"id": RUN_ID, "status": "completed", "is_final": True, "untrusted": untrusted, **others}
    await host.tell("ui/notifications/tool-result", {"content": [], "structuredContent": content})
    await host.view.locator("#result").wait_for()


def asks_for(message: Message, tool: str) -> bool:
    """Whether the page calls this tool."""
    return message["method"] == "tools/call" and message["params"]["name"] == tool


def page_answer(content: str, **others: Any) -> Message:
    """An answer of `get_result`."""
    found = {"id": RUN_ID, "status": "completed", "is_final": True, "untrusted": {"content": content}, **others}
    return {"content": [], "structuredContent": found}


def notice_with(host: Host, text: str) -> Locator:
    """The notice, once it says this."""
    return host.view.locator("#notice").filter(has_text=text)


async def all_answered(host: Host) -> None:
    """Whatever the page has asked so far is answered, and the page has taken the answers."""
    await host.settle()
    await host.until(lambda: not host.answering)
    await host.settle()


async def nothing_taken(host: Host) -> None:
    """No word of others has become anything but text."""
    found = await host.view.evaluate(
        """() => ({
            taken: window.taken ?? null,
            elements: document.querySelectorAll("main :is(script, img, svg, iframe, form, input, style, base)").length,
            links: [...document.querySelectorAll("a")].map((link) => link.getAttribute("href")),
        })"""
    )
    assert found["taken"] is None
    assert found["elements"] == 0
    assert all(address.startswith(("https://", "http://", "#source-")) for address in found["links"]), found["links"]
    assert not any("@" in address for address in found["links"])


async def no_barrier(host: Host) -> None:
    """axe finds nothing serious; nothing is asked of it where it is not at hand."""
    if NODE_MODULES.name:
        rules = anyio.Path(NODE_MODULES / "axe-core" / "axe.min.js")
        await host.view.evaluate(await rules.read_text(encoding="utf-8"))
        found = await host.view.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
        assert serious == [], json.dumps(serious, indent=1)[:4000]


# ---- from the start to the report


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_run_is_followed_to_its_cited_report(
    browser: Browser, client: Client, upstream: Upstream, scheme: str, artifacts: Path
) -> None:
    """What the page is for; and the model is told of the end once."""
    async with hosting(browser, client, scheme=scheme) as host:
        created = await host.called("create_task", input=QUESTION, metadata={"sim": TALKS_ON})
        run_id = created["structuredContent"]["run_id"]
        await host.until(lambda: len({call["cursor"] for call in host.calls("view_run")}) > 2)

        meter = host.view.get_by_role("progressbar")
        await host.view.locator("progress[value]").wait_for()
        assert await host.view.get_by_role("heading", level=1).inner_text() == QUESTION
        assert 0 <= float(await meter.get_attribute("value") or -1) <= 100
        assert "percent" in (await meter.get_attribute("aria-valuetext") or "")
        progress = await host.text()
        assert "sources read of" in progress
        assert "usually 15 s to 100 s" in progress
        assert await host.view.locator("#messages li").count() in range(1, 6)
        await host.picture(f"progress-{scheme}", artifacts)
        await no_barrier(host)

        upstream.simulator.finish(run_id)
        await host.view.locator("#content h3").first.wait_for()
        await host.picture(f"report-{scheme}", artifacts)
        await no_barrier(host)
        cursors = [cursor for cursor, _ in groupby(call["cursor"] for call in host.calls("view_run"))]
        assert cursors[0] == ""
        assert len(set(cursors)) == len(cursors), "each view goes on where the last one ended"
        assert not await host.view.locator("#progress").is_visible()
        entries = host.view.locator("#source-list li")
        result = structured(await client.call_tool("get_result", {"id": run_id}))
        assert await entries.count() == len(result["untrusted"]["citations"])
        assert result["untrusted"]["citations"][0]["title"] in await entries.first.inner_text()

        await host.view.locator("#content").get_by_role("link", name="Source 1").first.click()
        assert await host.view.evaluate("document.activeElement.id") == "source-1"
        await entries.first.get_by_role("link").click()
        await host.until(lambda: bool(host.named("ui/open-link")))
        assert host.named("ui/open-link")[0]["params"] == {"url": result["untrusted"]["citations"][0]["url"]}

    (update,) = host.named("ui/update-model-context")
    (block,) = update["params"]["content"]
    assert block["text"].startswith(f"{run_id} is completed.")
    assert f'get_result(id="{run_id}")' in block["text"]
    assert len(block["text"]) < 400
    sizes = [message["params"]["height"] for message in host.named("ui/notifications/size-changed")]
    assert max(sizes) > min(sizes)


@needs_node
async def test_messages_fit_the_schema_of_the_specification(browser: Browser, client: Client) -> None:
    """A host may refuse others. All tests check each message if they have the schema; this one insists on it."""
    async with hosting(browser, client, context={"theme": "dark", "availableDisplayModes": ["fullscreen"]}) as host:
        await host.tell("ui/notifications/tool-input-partial", {"arguments": {"input": "What does"}})
        await host.called("run_task", input=QUESTION, processor="lite", metadata={"sim": "latency=10"})
        await host.view.locator("#content h3").first.wait_for()
        await host.view.get_by_role("button", name="Full screen").click()
        await host.tell("ui/notifications/host-context-changed", {"theme": "light"})
        await host.tear_down()

    heard = {message["method"] for message in host.asked}
    assert {"ui/initialize", "ui/notifications/initialized", "ui/request-display-mode"} <= heard


async def test_waiting_tool_is_shown_with_what_it_was_asked(browser: Browser, client: Client) -> None:
    """Arguments arrive bit by bit, the user may be asked about the price first, and the call may be cancelled."""
    async with hosting(browser, client) as host:
        await host.tell("ui/notifications/tool-input-partial", {"arguments": {"input": "What do"}})
        await host.view.get_by_role("heading", name="What do").wait_for()
        await host.tell("ui/notifications/tool-input", {"arguments": {"input_fields": {"company": SCRIPT}}})
        await host.view.get_by_role("heading", name="company: <script>").wait_for()
        assert "Waiting for the tool" in await host.text()

        await host.tell("ui/notifications/tool-cancelled", {"reason": "user"})
        await notice_with(host, "goes on and is billed").wait_for()
        await nothing_taken(host)

    assert host.calls("view_run") == []


async def test_watch_is_shown_while_it_lasts(browser: Browser, client: Client) -> None:
    """The result of a long wait would be the first thing to be seen, and its run is known before."""
    run_id = await create(client, "never")

    async with hosting(browser, client, prepare=with_clock) as host:
        await host.tell("ui/notifications/tool-input", {"arguments": {"id": run_id}})
        await host.page.clock.run_for(3_000)
        await host.view.locator("#messages li").first.wait_for()
        before = await host.view.locator("#messages li").all_inner_texts()
        await host.called("watch_progress", id=run_id, timeout_s=0.5)
        await host.until(lambda: host.calls("view_run")[-1]["cursor"] != "")
        after = await host.view.locator("#messages li").all_inner_texts()
        await host.tear_down()

    assert host.calls("view_run")[0]["id"] == run_id
    assert host.named("ui/update-model-context") == []
    assert 0 < len(before) <= len(set(after)) == len(after), "no step is told twice"


async def test_end_that_the_model_has_seen_is_not_told_again(browser: Browser, client: Client) -> None:
    """The context of a model is dear."""
    run_id = await create(client, "latency=1", processor="lite")

    async with hosting(browser, client) as host:
        await host.called("watch_progress", id=run_id)
        await host.view.locator("#content h3").first.wait_for()

    assert host.calls("get_result") == [{"id": run_id}]
    assert host.named("ui/update-model-context") == []


async def test_page_uses_every_field_that_it_is_given(browser: Browser, client: Client) -> None:
    """A field that is renamed in the server must not leave the page blank."""
    first = ViewRunOutput(
        id=RUN_ID,
        status="running",
        is_active=True,
        result_ready=False,
        percent=41.4,
        elapsed_s=3_725,
        usual_duration="3 to 9 min",
        sources_read=12,
        sources_considered=34,
        rows=56,
        counts={"queued": 78},
        cursor="where-it-was",
        remark="A remark.",
        next="",
        untrusted_messages=["A step."],
        link="https://platform.example/run",
        poll_after_s=7,
    )
    end = {"status": "failed", "is_active": False, "next": "what_to_do()", "untrusted_error": "Too bad."}
    views = [first, first.model_copy(update=end), first.model_copy(update={"is_active": False, "result_ready": True})]

    async def instead(message: Message) -> Message | None:
        if asks_for(message, "get_result"):
            return page_answer("the report")
        if not asks_for(message, "view_run"):
            return None
        view = views[len(host.calls("view_run")) - 1]
        return {"content": [], "structuredContent": view.model_dump(mode="json", exclude_none=True)}

    async with hosting(browser, client, instead=instead, prepare=with_still_clock) as host:
        await host.tell("ui/notifications/tool-result", {"content": [], "structuredContent": {"run_id": RUN_ID}})
        await host.view.get_by_text("Researching").wait_for()
        progress = await host.text()
        meter = await host.view.get_by_role("progressbar").get_attribute("value")
        platform = await host.view.get_by_role("link", name="Open on platform").get_attribute("href")
        await host.page.clock.run_for(6_500)
        await host.settle()
        looks = len(host.calls("view_run"))
        await host.page.clock.run_for(1_000)
        await notice_with(host, "Failed: there is no result.").wait_for()
        failure = await host.view.locator("#notice").inner_text()
        await host.settle()
        (update,) = host.named("ui/update-model-context")
        told = update["params"]["content"][0]["text"]
        await host.tell("ui/notifications/tool-result", {"content": [], "structuredContent": {"run_id": RUN_ID}})
        await host.view.get_by_text("the report").wait_for()

    used = {
        "id": told.startswith(RUN_ID),
        "status": "Researching" in progress,
        "is_active": len(host.calls("view_run")) == 3,
        "result_ready": host.calls("get_result") == [{"id": RUN_ID}],
        "percent": "41 %" in progress and meter == "41.4",
        "elapsed_s": "1:02:05" in progress,
        "usual_duration": "usually 3 to 9 min" in progress,
        "sources_read": "12 sources read" in progress,
        "sources_considered": "of 34 considered" in progress,
        "rows": "56 rows" in progress,
        "counts": "78 queued" in progress,
        "cursor": [call["cursor"] for call in host.calls("view_run")] == ["", "where-it-was", ""],
        "remark": "A remark." in progress,
        "next": told.endswith("Next: what_to_do()"),
        "untrusted_messages": "A step." in progress,
        "untrusted_error": "Too bad." in failure,
        "link": platform == "https://platform.example/run",
        "poll_after_s": looks == 1,
    }
    assert used == dict.fromkeys(ViewRunOutput.model_fields, True)


async def test_end_before_the_first_look_is_not_told(browser: Browser, client: Client) -> None:
    """A conversation that is opened again shows its pages anew, and each would tell of the end of long ago."""
    created = await client.call_tool("create_task", {"input": QUESTION, "processor": "lite"})
    await client.call_tool("watch_progress", {"id": structured(created)["run_id"]})

    async with hosting(browser, client) as host:
        await host.tell("ui/notifications/tool-result", as_sent(created))
        await host.view.locator("#content h3").first.wait_for()

    assert host.calls("view_run")
    assert host.named("ui/update-model-context") == []


async def test_early_look_gives_way_to_the_answer_of_the_tool(browser: Browser, client: Client) -> None:
    """The page may be loading the result itself by then, with other arguments than those of the model."""
    run_id = await create(client, "latency=1 size=12000", processor="lite")
    given = {"id": run_id, "wait_s": 40, "format": "json", "max_chars": 4_000}
    answered = await client.call_tool("get_result", given)
    is_answered = anyio.Event()

    async def instead(message: Message) -> None:
        if asks_for(message, "get_result"):
            await is_answered.wait()

    async with hosting(browser, client, instead=instead, prepare=with_clock) as host:
        await host.tell("ui/notifications/tool-input", {"arguments": given})
        await host.page.clock.run_for(3_000)
        await host.until(lambda: bool(host.calls("get_result")))
        await host.tell("ui/notifications/tool-result", as_sent(answered))
        shown = host.view.locator("#content > pre")
        await shown.wait_for()
        first = await shown.inner_text()
        is_answered.set()
        await host.view.get_by_role("button", name="Load more").click()
        await host.until(lambda: len(host.calls("get_result")) == 2)
        await host.view.locator("#more:not([disabled])").wait_for(state="attached")
        both = await shown.inner_text()
        assert not await host.view.locator("#notice").is_visible()
        assert not await host.view.locator("#progress").is_visible()

    assert len(both) > len(first)
    assert both.startswith(first)
    assert host.calls("get_result")[1]["format"] == "json"


async def test_page_that_comes_too_late_belongs_to_no_other_result(browser: Browser, client: Client) -> None:
    """Load more of one result must not end up in the next."""
    is_next = anyio.Event()

    async def instead(message: Message) -> Message | None:
        if not asks_for(message, "get_result"):
            return None
        if message["params"]["arguments"]["cursor"] == "of-the-first":
            await is_next.wait()
            return page_answer("late")
        return page_answer("its end")

    async with hosting(browser, client, instead=instead) as host:
        await host.tell("ui/notifications/tool-result", page_answer("first\n\n", cursor="of-the-first"))
        more = host.view.get_by_role("button", name="Load more")
        await more.click()
        await host.until(lambda: bool(host.calls("get_result")))
        await host.tell("ui/notifications/tool-result", page_answer("second\n\n", cursor="of-the-second"))
        await host.view.get_by_text("second").wait_for()
        is_next.set()
        await more.click()
        await host.view.get_by_text("its end").wait_for()
        assert await host.view.locator("#content").inner_html() == "<p>second</p><p>its end</p>"


# ---- results


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_fields_are_a_table_with_confidence_in_words(
    browser: Browser, client: Client, scheme: str, artifacts: Path
) -> None:
    """What each value rests on, not by colour alone."""
    async with hosting(browser, client, scheme=scheme) as host:
        shown = await host.called(
            "run_task", input=QUESTION, output_schema=SCHEMA, processor="base", metadata={"sim": "latency=20"}
        )
        await host.view.locator("#content table").first.wait_for()
        await host.picture(f"fields-{scheme}", artifacts)
        await no_barrier(host)
        headings = host.view.locator("#content > .scroll > table > thead th")
        row = host.view.get_by_role("rowheader", name="usd_per_kwh").locator("..")

        found = shown["structuredContent"]["untrusted"]
        level = next(entry["confidence"] for entry in found["evidence"] if entry["field"] == "usd_per_kwh")
        assert await headings.all_inner_texts() == ["Field", "Value", "Confidence", "Sources"]
        assert {await heading.get_attribute("scope") for heading in await headings.all()} == {"col"}
        assert level in await row.inner_text()
        assert str(found["output"]["usd_per_kwh"]) in await row.inner_text()
        assert await host.view.get_by_role("columnheader", name="employees").count() == 1

    assert host.named("tools/call") == [], "what is there need not be asked for"


async def test_tool_of_a_spec_is_shown_like_any_other(browser: Browser, upstream: Upstream, tmp_path: Path) -> None:
    """Whatever its arguments are called: an `id` of theirs names no run."""
    arguments = {"id": {"type": "string", "description": "Number in the register."}, "year": {"type": "integer"}}
    write_spec(tmp_path, input_schema={"type": "object", "properties": arguments})

    async with (
        connected("memory", upstream.url, specs=tmp_path) as client,
        hosting(browser, client, prepare=with_clock) as host,
    ):
        await host.tell("ui/notifications/tool-input", {"arguments": {"id": "HRB 6684", "year": 2026}})
        await host.page.clock.run_for(10_000)
        assert await host.view.get_by_role("heading", level=1).inner_text() == "id: HRB 6684, year: 2026"
        await host.called("find_leader", id="HRB 6684", year=2026)
        await host.view.get_by_role("rowheader", name="leader_name").wait_for()

    assert host.named("tools/call") == []


async def test_group_is_a_table_and_more_of_it_is_asked_for(browser: Browser, client: Client, artifacts: Path) -> None:
    """A table of many rows comes page by page, with the arguments of the call that began it."""
    csv = "company,country\n" + "".join(f"Company {number},Country {number}\n" for number in range(1, 41))
    group = await client.call_tool("create_task_group", {"csv": csv, "output_schema": SCHEMA, "processor": "lite"})
    group_id = structured(group)["group_id"]

    async with hosting(browser, client) as host:
        await host.called("watch_progress", id=group_id)
        await host.view.locator("#content table").first.wait_for()
        await host.picture("group", artifacts)
        await no_barrier(host)
        await host.called("get_result", id=group_id, max_chars=4_000)
        rows = host.view.locator("#content tbody > tr")
        few = await rows.count()
        extent = await host.view.locator("#extent").inner_text()
        more = host.view.get_by_role("button", name="Load more")
        await more.click()
        await host.view.locator(f"#content tbody > tr:nth-child({few + 1})").wait_for()
        first_cells = await host.view.locator("#content tbody > tr > th").all_inner_texts()

    assert extent == f"Up to row {few} of 40."
    assert first_cells == [str(number) for number in range(1, len(first_cells) + 1)]
    assert host.calls("get_result")[-1]["max_chars"] == 4_000
    assert host.calls("get_result")[-1]["cursor"]


async def test_pages_of_a_report_are_the_report(browser: Browser, client: Client) -> None:
    """Nothing is lost between two pages, and what is there is not unbounded."""
    run_id = await create(client, "latency=1 size=12000", processor="lite")
    await client.call_tool("watch_progress", {"id": run_id})
    whole = structured(await client.call_tool("get_result", {"id": run_id, "max_chars": 40_000}))["untrusted"][
        "content"
    ]

    async with hosting(browser, client) as host:
        await host.called("get_result", id=run_id, max_chars=5_000)
        more = host.view.get_by_role("button", name="Load more")
        while await more.is_visible():
            await more.click()
            await host.view.locator("#more:not([disabled])").wait_for(state="attached")
        headings = await host.view.locator("#content :is(h3, h4, h5)").all_inner_texts()
        text = await host.view.locator("#content").inner_text()

    assert len(host.calls("get_result")) >= 2
    assert headings == [
        line.lstrip("# ") for line in whole.partition("\n## Sources\n1. ")[0].splitlines() if line[:1] == "#"
    ]
    assert text.count("165 dollars") == whole.count("165 dollars")


def give_many_sources(upstream: Upstream, kind: str, content: object) -> None:
    """Let the API have a result that rests on 120 sources, the first half of them under `first`."""
    cited = [{"url": f"https://{number}.example/", "title": f"Title {number}"} for number in range(1, 121)]
    halves = {"first": cited[:60], "second": cited[60:]} if kind == "json" else {"output": cited}
    basis = [{"field": name, "confidence": "high", "reasoning": "", "citations": half} for name, half in halves.items()]
    output = {"type": kind, "content": content, "basis": basis}
    answer(upstream, "/v1/tasks/runs/[^/]+/result", {"run": RUN, "output": output})


@pytest.mark.parametrize("max_chars", [40_000, 2_000])
async def test_every_source_of_a_report_is_listed(
    browser: Browser, client: Client, upstream: Upstream, max_chars: int
) -> None:
    """The structured half names fifty at most, the document all of them; until it is read to its end, how many."""
    give_many_sources(upstream, "text", "# Report\n\nOf [the last](https://120.example/)." + "\n\nMore." * 300)

    async with hosting(browser, client, prepare=with_still_clock) as host:
        await host.called("get_result", id=RUN_ID, max_chars=max_chars)
        heading = host.view.locator("#sources-title")
        entries = host.view.locator("#source-list li")
        more = host.view.get_by_role("button", name="Load more")
        while await more.is_visible():
            assert await heading.inner_text() == "Sources (50 of 120)"
            assert await entries.count() == 50
            await more.click()
            await host.view.locator("#more:not([disabled])").wait_for(state="attached")
        assert await heading.inner_text() == "Sources"
        assert await entries.count() == 120
        assert (await entries.last.inner_text()).startswith("Title 120 ")
        assert await host.view.locator("#content").get_by_text("Title").count() == 0
        await host.view.locator("#content").get_by_role("link", name="Source 120").click()
        assert await host.view.evaluate("document.activeElement.id") == "source-120"

        await host.view.evaluate("document.addEventListener('copy', () => { window.copied = String(getSelection()); })")
        await host.view.get_by_role("button", name="Copy").click()
        await host.view.get_by_role("button", name="Copied").wait_for()
        copied = await host.view.evaluate("window.copied")
        assert copied.count("## Sources\n1. ") == 1
        assert copied.endswith("\n120. Title 120 - https://120.example/")


@pytest.mark.parametrize(("fmt", "listed"), [("markdown", 120), ("json", 50)])
async def test_every_source_of_a_field_is_named(
    browser: Browser, client: Client, upstream: Upstream, fmt: str, listed: int, artifacts: Path
) -> None:
    """A value that looks certain and rests on nothing would be taken for an error of the research."""
    give_many_sources(upstream, "json", {"first": "a", "second": "b"})

    async with hosting(browser, client) as host:
        await host.called("get_result", id=RUN_ID, format=fmt)
        row = host.view.get_by_role("rowheader", name="second").locator("..")
        await host.picture(f"many-sources-{fmt}", artifacts)
        assert (await row.inner_text()).rstrip().endswith(" ".join(f"[{number}]" for number in range(61, 121)))
        assert await row.get_by_role("link").count() == max(0, listed - 60)
        assert await host.view.locator("#source-list li").count() == listed
        heading = await host.view.locator("#sources-title").inner_text()

    assert heading == ("Sources" if listed == 120 else "Sources (50 of 120)")


async def test_sources_that_a_table_quotes_are_not_taken_for_its_own(
    browser: Browser, client: Client, upstream: Upstream
) -> None:
    """Any text of the web may end like a document of this server; only such a document lists what it rests on."""
    quoted = "A report.\n\n## Sources\n1. Its own - https://its.example/\n3. Another - https://another.example/"
    give_result(upstream, "json", [{"report": quoted}], ["0"])

    async with hosting(browser, client) as host:
        await host.called("get_result", id=RUN_ID, format="csv")
        text = await host.view.locator("#content > pre").inner_text()
        assert await host.view.locator("#source-list li").count() == len(SOURCES)

    assert "3. Another" in text


async def test_result_that_a_tool_had_no_room_for_is_loaded(
    browser: Browser, client: Client, upstream: Upstream
) -> None:
    """Of a long one that does not fit the schema of its spec, the structured half holds nothing."""
    give_result(upstream, "text", "Of the depths.", ["output"])

    async with hosting(browser, client) as host:
        found: Message = {"id": RUN_ID, "status": "completed", "is_final": True, "untrusted": {"citations": []}}
        await host.tell("ui/notifications/tool-result", {"content": [], "structuredContent": found})
        await host.view.locator("#content").get_by_text("Of the depths.").wait_for()

    assert host.calls("get_result") == [{"id": RUN_ID}]


async def test_result_on_show_stays_when_a_newer_one_cannot_be_loaded(browser: Browser, client: Client) -> None:
    """What is known is worth more than why no more is."""

    def refuse(message: Message) -> str:
        return "not allowed" if asks_for(message, "get_result") else ""

    async with hosting(browser, client, refuse=refuse) as host:
        await shown_result(host, {"content": "Of the depths."})
        over: Message = {"id": RUN_ID, "status": "completed", "is_active": False, "result_ready": True}
        over["untrusted_messages"] = []
        await host.tell("ui/notifications/tool-result", {"content": [], "structuredContent": over})
        await notice_with(host, "not allowed").wait_for()
        assert await host.view.locator("#content").inner_text() == "Of the depths."


async def test_copy_gives_the_result_with_its_sources(browser: Browser, client: Client) -> None:
    """Hosts that grant no clipboard leave a selection, which is enough."""
    async with hosting(browser, client, prepare=with_still_clock) as host:
        await host.called("run_task", input=QUESTION, processor="lite", metadata={"sim": "latency=10"})
        await host.view.evaluate("document.addEventListener('copy', () => { window.copied = String(getSelection()); })")
        await host.view.get_by_role("button", name="Copy").click()
        await host.view.get_by_role("button", name="Copied").wait_for()
        copied = await host.view.evaluate("window.copied ?? ''")
        assert await host.view.get_by_role("status").inner_text() == "Copied"

    assert "## Summary" in copied
    assert copied.count("## Sources\n1. ") == 1


# ---- results of any size

HUGE: dict[str, tuple[dict[str, Any], str]] = {
    "cells-that-are-missing": (
        {"content": "|a" * 50 + "\n" + "|-" * 50 + "\n" + "|\n" * 10_000 + "\nthe end"},
        "… 9,000 more\nthe end",
    ),
    "wide-rows": (
        {"content": "|a" * 50 + "\n" + "|-" * 50 + "\n" + ("|b" * 50 + "\n") * 1_500 + "\nthe end"},
        " more\nthe end",
    ),
    "paragraphs": ({"content": "a\n\n" * 66_000 + "the end"}, "the end"),
    "items": ({"content": "- a\n" * 50_000 + "\nthe end"}, "the end"),
    "quotes": ({"content": (">" * 8 + "a\n\n") * 18_000 + "the end"}, "the end"),
    "links": ({"content": "[a](http://b.example) " * 9_000 + "the end"}, "the end"),
    "objects": ({"output": [{f"key {number}": 1 for number in range(30)}, *[{}] * 8_000]}, "… 7,001 more"),
    "lists": ({"output": [[[1] * 200] * 20] * 20}, " more"),
    "keys": ({"output": {f"key {number}": number for number in range(5_000)}}, "… 4,000 more"),
    "links-in-a-value": ({"output": "http://a.example " * 25_000 + "the end"}, "the end"),
    "rows": (
        {"columns": [f"column {number}" for number in range(100)], "rows": [{"column 99": 1}] * 900},
        " more",
    ),
}


@pytest.mark.parametrize("name", HUGE)
async def test_huge_results_do_not_freeze_the_page(browser: Browser, client: Client, name: str) -> None:
    """A browser needs some seconds for a hundred thousand elements, and a few kilobytes could ask for a million."""
    content, end = HUGE[name]
    async with hosting(browser, client) as host:
        await shown_result(host, content)
        elements = await host.view.evaluate("document.querySelectorAll('*').length")
        text = await host.view.locator("#content").inner_text()

    assert 1_000 < elements < 21_000
    assert text.replace("\t", "").rstrip().replace("\n\n", "\n").endswith(end)


async def test_page_that_is_full_asks_for_no_more(browser: Browser, client: Client) -> None:
    """All that is loaded is drawn anew with each page."""
    async with hosting(browser, client) as host:
        await shown_result(host, {"content": "a\n\n" * 30_000}, cursor="next", page={"start": 0, "end": 9, "total": 99})
        extent = await host.view.locator("#extent").inner_text()
        assert not await host.view.get_by_role("button", name="Load more").is_visible()

    assert extent == "Up to character 9 of 99. The rest is on the platform."


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**bold** and **both *of*** them", "<p><strong>bold</strong> and <strong>both <em>of</em></strong> them</p>"),
        ("*a* * b * c_d_e `f*g*` ``h`i``", "<p><em>a</em> * b * c_d_e <code>f*g*</code> <code>h`i</code></p>"),
        ("**" + "long " * 200 + "bold**", "<p><strong>" + "long " * 200 + "bold</strong></p>"),
        ("a | b\nc", "<p>a | b\nc</p>"),
    ],
)
async def test_markdown_becomes_what_it_means(browser: Browser, client: Client, text: str, html: str) -> None:
    """And what it does not mean stays text."""
    async with hosting(browser, client) as host:
        await shown_result(host, {"content": text})
        assert await host.view.locator("#content").inner_html() == html


async def test_names_of_a_value_mean_nothing_to_the_page(browser: Browser, client: Client) -> None:
    """Each object of the language has a `constructor`; one that research found has only what it says."""
    async with hosting(browser, client) as host:
        await shown_result(host, {"output": [{"constructor": "Voith", "year": 1867}, {"year": 1925}]})
        rows = host.view.locator("#content tbody tr")
        assert await rows.all_inner_texts() == ["Voith\t1867", "\t1925"]


# ---- hostile words


@pytest.mark.parametrize(
    ("kind", "content", "fields"),
    [
        ("text", HOSTILE_REPORT, ["output"]),
        (
            "json",
            {SCRIPT: SCRIPT, "list": [{SCRIPT: "javascript:window.taken=8"}], "deep": [[[[[[[SCRIPT]]]]]]]},
            [SCRIPT],
        ),
    ],
)
async def test_hostile_results_are_shown_as_text(
    browser: Browser, client: Client, upstream: Upstream, kind: str, content: Any, fields: list[str], artifacts: Path
) -> None:
    """Nothing of it runs, loads, leads elsewhere than it says, or hides."""
    give_result(upstream, kind, content, fields)

    async with hosting(browser, client) as host:
        await host.called("get_result", id=RUN_ID)
        await host.view.locator("#content > *").first.wait_for()
        await host.picture(f"hostile-{kind}", artifacts)
        text = await host.text()
        await nothing_taken(host)

        assert SCRIPT in text
        assert "\u202e" not in text
        assert "\u200b" not in text
        if kind == "text":
            assert "https://bank.example (evil.example)" in " ".join(text.split())
            assert await host.view.get_by_role("link", name="bank", exact=True).count() == 0
            assert await host.view.locator("blockquote").inner_text() == f"quoted {SCRIPT}"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[mybank.com](https://k.com/login)", "mybank.com (k.com)"),
        ("[https://accounts.bank.example/k.com](https://k.com/login)", "https://accounts.bank.example/k.com (k.com)"),
        ("[k.com.evil.example](https://k.com/)", "k.com.evil.example (k.com)"),
        ("[k.com@evil.example](https://k.com/)", "k.com@evil.example (k.com)"),
        ("https://b\u0430nk.example/", "https://b\u0430nk.example/ (xn--bnk-6cd.example)"),
        ("[login](https://k.com)", "login (k.com)"),
        ("[k.com](https://www.k.com/login)", "k.com"),
        ("https://k.com/login", "https://k.com/login"),
        ("https://www.k.com:8080/?q", "https://www.k.com:8080/?q"),
        ("[Storage, 3.5 percent](https://cited.example/a)", "Storage, 3.5 percent [1]"),
        ("[mybank.com](https://cited.example/a)", "mybank.com [1] (cited.example)"),
        ("https://cited.example/a", "https://cited.example/a [1]"),
    ],
)
async def test_links_say_where_they_lead(browser: Browser, client: Client, written: str, shown: str) -> None:
    """Unless their label is an address of just that host, whoever it speaks of."""
    sources = [{"number": 1, "url": "https://cited.example/a", "title": "Cited"}]
    async with hosting(browser, client) as host:
        await shown_result(host, {"content": written, "citations": sources})
        assert await host.view.locator("#content").inner_text() == shown


async def test_hostile_progress_and_errors_are_shown_as_text(
    browser: Browser, client: Client, upstream: Upstream
) -> None:
    """What a run says while it works is no safer than its result."""
    events = [
        {"type": "task_run.progress_msg.plan", "message": SCRIPT, "timestamp": ""},
        {"type": "task_run.state", "run": {**RUN, "status": "failed", "error": {"ref_id": "1", "message": SCRIPT}}},
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    upstream.simulator.add_fault(
        Fault("*", ".*/events", times=None, status=200, body=body, content_type="text/event-stream")
    )
    answer(upstream, "/v1/tasks/runs/[^/]+", {**RUN, "status": "running", "is_active": True})
    answer(upstream, "/v1/tasks/runs/[^/]+/result", {"type": "error", "error": {"ref_id": "1", "message": SCRIPT}}, 422)

    async with hosting(browser, client) as host:
        await host.called("watch_progress", id=RUN_ID)
        await notice_with(host, "Failed: there is no result.").wait_for()
        assert SCRIPT in await host.view.locator("#messages").inner_text()
        assert SCRIPT in await host.view.locator("#notice").inner_text()
        await nothing_taken(host)
        shown = await host.called("get_result", id=RUN_ID)
        await host.view.get_by_text("The tool reports an error.").wait_for()
        await nothing_taken(host)
        notice = await host.view.locator("#notice").inner_text()

    assert shown["isError"]
    assert "untrusted-web-content" not in notice
    assert "Code: request_rejected" in notice


# ---- what goes wrong


async def test_failed_run_says_why(browser: Browser, client: Client, upstream: Upstream, artifacts: Path) -> None:
    """And the model hears that it has ended."""
    async with hosting(browser, client) as host:
        created = await host.called("create_task", input=QUESTION, metadata={"sim": TALKS_ON})
        await host.view.locator("#messages li").first.wait_for()
        upstream.simulator.fail(created["structuredContent"]["run_id"])
        await notice_with(host, "Failed: there is no result.").wait_for()
        await host.picture("failed", artifacts)
        await no_barrier(host)
        assert "too many of its sources were unavailable" in await host.text()
        assert not await host.view.get_by_role("progressbar").is_visible()

    (update,) = host.named("ui/update-model-context")
    text = update["params"]["content"][0]["text"]
    assert "is failed" in text
    assert "unavailable" not in text, "no word of others"


@pytest.mark.parametrize("tool", ["create_task", "run_task", "watch_progress"])
async def test_run_that_waits_for_the_user_can_be_looked_at_again(
    browser: Browser, client: Client, upstream: Upstream, tool: str, artifacts: Path
) -> None:
    """It has not ended: the user decides on the platform, and what the model is told of is the end."""
    task = {"input": QUESTION, "processor": "lite", "metadata": {"sim": "latency=1 status=action_required"}}
    if tool == "watch_progress":
        task = {"id": structured(await client.call_tool("create_task", task))["run_id"]}

    async with hosting(browser, client) as host:
        shown = await host.called(tool, **task)
        run_id = task.get("id") or shown["structuredContent"].get("run_id") or shown["structuredContent"]["id"]
        again = host.view.get_by_role("button", name="Look again")
        await again.wait_for()
        await host.picture("waiting", artifacts)
        await no_barrier(host)
        text = await host.text()
        assert "It waits for you on the platform." in text
        assert "no result" not in text
        assert await host.view.get_by_role("link", name="Open on platform").is_visible()

        looks = len(host.calls("view_run"))
        await again.click()
        await host.until(lambda: len(host.calls("view_run")) > looks)
        await again.wait_for()
        assert host.named("ui/update-model-context") == []

        run = {**RUN, "run_id": run_id}
        answer(upstream, f"/v1/tasks/runs/{run_id}", run)
        output: dict[str, Any] = {"type": "text", "content": "# Found", "basis": []}
        answer(upstream, f"/v1/tasks/runs/{run_id}/result", {"run": run, "output": output})
        state = json.dumps({"type": "task_run.state", "run": run})
        events = Fault(
            "*", ".*/events", times=None, status=200, body=f"data: {state}\n\n", content_type="text/event-stream"
        )
        upstream.simulator.add_fault(events)
        await again.click()
        await host.view.get_by_role("heading", name="Found").wait_for()
        assert not await host.view.locator("#notice").is_visible()

    (update,) = host.named("ui/update-model-context")
    assert update["params"]["content"][0]["text"].startswith(f"{run_id} is completed.")


async def test_error_of_a_tool_is_shown(browser: Browser, client: Client, artifacts: Path) -> None:
    """In the words that the model got."""
    async with hosting(browser, client) as host:
        await host.called("get_result", id="trun_of_somebody_else")
        await notice_with(host, "Code: not_found").wait_for()
        await host.picture("error", artifacts)
        await no_barrier(host)

    assert host.named("tools/call") == []


@pytest.mark.parametrize("way", ["undeclared", "refused"])
async def test_host_that_forbids_calls_gets_the_text(browser: Browser, client: Client, way: str) -> None:
    """The page then shows what a client without pages would."""
    capabilities = {name: value for name, value in CAPABILITIES.items() if name != "serverTools" or way == "refused"}

    def refuse(message: Message) -> str:
        return "not allowed" if message["method"] == "tools/call" else ""

    async with hosting(browser, client, capabilities=capabilities, refuse=refuse) as host:
        shown = await host.called("create_task", input=QUESTION, metadata={"sim": "latency=600"})
        await host.view.locator("#notice").wait_for()
        text = await host.text()

    assert "tools" in text
    assert f"Started {shown['structuredContent']['run_id']}" in text
    assert len(host.named("tools/call")) == (1 if way == "refused" else 0)


@pytest.mark.parametrize("way", ["undeclared", "refused"])
async def test_end_is_told_as_text_where_the_host_forbids_calls(browser: Browser, client: Client, way: str) -> None:
    """The result cannot be loaded, so the words that the model got are all there is to show."""
    capabilities = {name: value for name, value in CAPABILITIES.items() if name != "serverTools" or way == "refused"}
    run_id = await create(client, "latency=1", processor="lite")

    def refuse(message: Message) -> str:
        return "not allowed" if message["method"] == "tools/call" else ""

    async with hosting(browser, client, capabilities=capabilities, refuse=refuse) as host:
        await host.called("watch_progress", id=run_id)
        await host.view.locator("#content").get_by_text(f"{run_id}: completed").wait_for()
        assert "tools" in await host.view.locator("#notice").inner_text()

    assert len(host.named("tools/call")) == (1 if way == "refused" else 0)


async def test_cancelled_call_leaves_no_progress_that_stands_still(
    browser: Browser, client: Client, artifacts: Path
) -> None:
    """The page looks no more, and the run goes on: one can look again."""
    run_id = await create(client, "never")

    async with hosting(browser, client, prepare=with_clock) as host:
        await host.tell("ui/notifications/tool-input", {"arguments": {"id": run_id}})
        await host.page.clock.run_for(3_000)
        await host.view.get_by_role("progressbar").wait_for()
        await host.tell("ui/notifications/tool-cancelled", {"reason": "user"})
        again = host.view.get_by_role("button", name="Look again")
        await again.wait_for()
        assert not await host.view.locator("#progress").is_visible()
        await host.picture("cancelled", artifacts)

        looks = len(host.calls("view_run"))
        await again.click()
        await host.view.get_by_role("progressbar").wait_for()
        assert len(host.calls("view_run")) > looks
        assert not await host.view.locator("#notice").is_visible()
        await host.tear_down()


async def test_run_that_is_gone_is_not_asked_for_again(browser: Browser, client: Client, artifacts: Path) -> None:
    """The tool says that retrying will not help; until then the page believed that it waits in the queue."""
    created = {"run_id": "trun_gone", "status": "queued", "processor": "core", "usual_duration": "60 s to 5 min"}

    async with hosting(browser, client, prepare=with_clock) as host:
        await host.tell("ui/notifications/tool-result", {"content": [], "structuredContent": created})
        await notice_with(host, "Code: not_found").wait_for()
        looks = len(host.calls("view_run"))
        await host.page.clock.run_for(60_000)
        assert not await host.view.locator("#progress").is_visible()
        assert await host.view.get_by_role("button").count() == 0
        await host.picture("gone", artifacts)

    assert len(host.calls("view_run")) == looks


async def test_failure_to_load_more_is_over_once_more_is_there(browser: Browser, client: Client) -> None:
    """An old error above a whole result would make it doubtful."""

    async def instead(message: Message) -> Message | None:
        return page_answer("the end") if asks_for(message, "get_result") else None

    def refuse(message: Message) -> str:
        return "lost" if asks_for(message, "get_result") and len(host.calls("get_result")) == 1 else ""

    async with hosting(browser, client, instead=instead, refuse=refuse) as host:
        await host.tell("ui/notifications/tool-result", page_answer("first\n\n", cursor="next"))
        more = host.view.get_by_role("button", name="Load more")
        await more.click()
        await notice_with(host, "lost").wait_for()
        await more.press("Enter")
        await host.view.get_by_text("the end").wait_for()
        assert not await host.view.locator("#notice").is_visible()


async def test_failed_look_is_repeated(browser: Browser, client: Client, upstream: Upstream) -> None:
    """One lost answer must not end the view of a run that goes on."""
    refused: list[Message] = []

    def refuse(message: Message) -> str:
        if message["method"] != "tools/call" or len(host.calls("view_run")) != 2 or refused:
            return ""
        refused.append(message)
        return "lost"

    async with hosting(browser, client, refuse=refuse, prepare=with_still_clock) as host:
        created = await host.called("create_task", input=QUESTION, metadata={"sim": "never"})
        await passing(host, notice_with(host, "lost").filter(has_text="Trying again").is_visible)
        upstream.simulator.finish(created["structuredContent"]["run_id"])
        await passing(host, host.view.locator("#content h3").first.is_visible)
        assert not await host.view.locator("#notice").is_visible()


async def test_looking_ends_after_some_failures_until_asked(browser: Browser, client: Client) -> None:
    """A page that is left open does not knock for ever."""
    broken = True

    def refuse(message: Message) -> str:
        return "broken" if message["method"] == "tools/call" and broken and len(host.calls("view_run")) > 1 else ""

    async def instead(message: Message) -> Message | None:
        if not asks_for(message, "view_run") or len(host.calls("view_run")) > 1:
            return None
        return {"content": [], "structuredContent": {"status": "running", "is_active": True, "cursor": ""}}

    async with hosting(browser, client, refuse=refuse, instead=instead, prepare=with_still_clock) as host:
        await host.called("create_task", input=QUESTION, metadata={"sim": "never"})
        again = host.view.get_by_role("button", name="Try again")
        await passing(host, again.is_visible)
        looks = len(host.calls("view_run"))
        await host.page.clock.run_for(600_000)
        await host.settle()
        assert len(host.calls("view_run")) == looks == 7
        broken = False
        await again.click()
        await host.until(lambda: len(host.calls("view_run")) > looks)
        await host.tear_down()


async def test_torn_down_or_hidden_page_asks_nothing(browser: Browser, client: Client) -> None:
    """Nobody looks at it."""

    async def has_looked_again() -> bool:
        return len(host.calls("view_run")) > looks

    async with hosting(browser, client, prepare=with_still_clock) as host:
        await host.called("create_task", input=QUESTION, metadata={"sim": "never"})
        await passing(host, host.view.locator("#messages li").first.is_visible)
        await host.view.evaluate(
            "Object.defineProperty(document, 'hidden', { get: () => window.isHidden, configurable: true })"
        )
        await host.view.evaluate("window.isHidden = true")
        await all_answered(host)  # a look may be on its way
        looks = len(host.calls("view_run"))
        await host.page.clock.run_for(600_000)
        await host.settle()
        assert len(host.calls("view_run")) == looks

        await host.view.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
        await passing(host, has_looked_again)
        await host.tear_down()
        await all_answered(host)
        looks = len(host.calls("view_run"))
        await host.page.clock.run_for(600_000)
        await host.settle()
        assert len(host.calls("view_run")) == looks


# ---- how it looks and is used


@needs_node
async def test_barrier_would_be_found(browser: Browser, client: Client) -> None:
    """All tests look for barriers if they have axe; this one insists on it, and that it sees the page."""
    async with hosting(browser, client) as host:
        await no_barrier(host)
        await host.view.evaluate("document.querySelector('#copy').hidden = false")
        await host.view.evaluate("document.querySelector('#copy').textContent = ''")
        with pytest.raises(AssertionError, match="button-name"):
            await no_barrier(host)


async def test_every_control_is_reached_by_keyboard(browser: Browser, client: Client) -> None:
    """In the order of reading, and it can be seen where one is."""
    async with hosting(browser, client, context={"availableDisplayModes": ["inline", "fullscreen"]}) as host:
        await host.called("run_task", input=QUESTION, processor="lite", metadata={"sim": "latency=10"})
        await host.view.locator("#content h3").first.wait_for()
        await host.view.evaluate("document.body.focus()")
        reached: list[str] = []
        for _ in range(40):
            await host.page.keyboard.press("Tab")
            name, outline = await host.view.evaluate(
                "() => { const at = document.activeElement; "
                "return [at.closest('#source-list') ? 'source' : at.textContent, getComputedStyle(at).outlineStyle]; }"
            )
            if await host.view.evaluate("document.activeElement === document.body"):
                break
            reached.append(name)
            assert outline == "solid", name
        assert reached[:3] == ["Copy", "Full screen", "Open on platform"]
        assert reached[-1] == "source"

        await host.view.get_by_role("button", name="Full screen").focus()
        await host.page.keyboard.press("Enter")
        await host.view.get_by_role("button", name="Back to the chat").wait_for()

    assert host.named("ui/request-display-mode")[0]["params"] == {"mode": "fullscreen"}


async def test_page_wears_what_the_host_gives(browser: Browser, client: Client) -> None:
    """Theme, colours and safe areas, at once and when they change; the system's theme is only the default."""

    async def worn(host: Host) -> tuple[str, str, str]:
        style = "getComputedStyle(document.body)"
        padding = "getComputedStyle(document.querySelector('main')).paddingTop"
        return (
            await host.view.evaluate(f"{style}.backgroundColor"),
            await host.view.evaluate(f"{style}.color"),
            await host.view.evaluate(padding),
        )

    context = {
        "theme": "dark",
        "styles": {"variables": {"--color-background-primary": "light-dark(#ffeedd, #112233)"}},
        "safeAreaInsets": {"top": 20, "right": 0, "bottom": 0, "left": 0},
    }
    async with hosting(browser, client, scheme="light", context=context) as host:
        at_first = await worn(host)
        await host.tell("ui/notifications/host-context-changed", {"theme": "light"})
        await host.view.locator("html[data-theme=light]").wait_for()
        changed = await worn(host)
    async with hosting(browser, client, scheme="dark") as host:
        by_system = await worn(host)

    assert at_first == ("rgb(17, 34, 51)", "rgb(240, 239, 235)", "34px")
    assert changed == ("rgb(255, 238, 221)", "rgb(27, 27, 25)", "34px")
    assert by_system == ("rgb(29, 29, 27)", "rgb(240, 239, 235)", "14px")


async def test_page_says_the_same_as_the_text(browser: Browser, client: Client) -> None:
    """Clients without pages lose nothing: results are what they were."""
    async with hosting(browser, client) as host:
        shown = await host.called("run_task", input=QUESTION, processor="lite", metadata={"sim": "latency=10"})
        await host.view.locator("#content h3").first.wait_for()
        page = " ".join((await host.text()).split())
    again = await client.call_tool("get_result", {"id": shown["structuredContent"]["id"]})

    for sentence in ("Summary", "31 percent less than two years earlier"):
        assert sentence in page
        assert sentence in text_of(again)
