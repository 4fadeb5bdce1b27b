"""The research page and the tool that it asks, through the protocol. How the page behaves is in `test_app_page.py`."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult, TextResourceContents

from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.conftest import Upstream
from tests.connecting import (
    KEY,
    LEGACY,
    MODERN,
    ROOT,
    connected,
    create,
    http_client,
    serving_http,
    structured,
    text_of,
)
from tests.patience import PATIENCE_S
from tests.specs import EXAMPLES

PAGE = "ui://parallel-mcp/research-v1.html"
MIME_TYPE = "text/html;profile=mcp-app"
FILE = ROOT / "src" / "parallel_mcp" / "app" / "research-v1.html"
SHOWN = {"create_task", "run_task", "watch_progress", "get_result"}
EXTENSION = "io.modelcontextprotocol/ui"


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_page_is_listed_and_read_as_hosts_expect(upstream: Upstream, transport: Any, mode: str) -> None:
    """A host shows nothing under another type, and enforces what the metadata say."""
    async with connected(transport, upstream.url, mode=mode) as client:
        (listed,) = [one for one in (await client.list_resources()).resources if str(one.uri).startswith("ui://")]
        (content,) = (await client.read_resource(PAGE)).contents

    assert (str(listed.uri), listed.mime_type) == (PAGE, MIME_TYPE)
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == MIME_TYPE
    assert content.text == FILE.read_text(encoding="utf-8")
    expected: dict[str, Any] = {"ui": {"csp": {}, "permissions": {"clipboardWrite": {}}, "prefersBorder": True}}
    assert content.meta == listed.meta == expected


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_tools_name_their_page_and_the_page_its_tool(upstream: Upstream, mode: str) -> None:
    """That is all a host needs to show it, also an older one, and to hide from the model what is not for it."""
    async with connected("memory", upstream.url, mode=mode) as client:
        metas = {tool.name: tool.meta for tool in (await client.list_tools()).tools if tool.meta}

    assert metas.keys() == SHOWN | {"view_run"}
    assert all(metas[name] == {"ui": {"resourceUri": PAGE}, "ui/resourceUri": PAGE} for name in SHOWN)
    assert metas["view_run"] == {"ui": {"visibility": ["app"]}}


@pytest.mark.parametrize("toolsets", ["core,specs", "specs"])
async def test_results_of_tools_of_specs_are_shown(upstream: Upstream, toolsets: str) -> None:
    """They have the form of those of `run_task`, and the tool that the page asks is there wherever runs are made."""
    async with connected("memory", upstream.url, specs=EXAMPLES, toolsets=toolsets) as client:
        metas = {tool.name: tool.meta for tool in (await client.list_tools()).tools}

    assert metas["company_profile"] == {"ui": {"resourceUri": PAGE}, "ui/resourceUri": PAGE}
    assert "view_run" in metas


async def test_extension_is_declared() -> None:
    """Since 2026-07-28 both sides declare one; before, the protocol has no place for it in what a server says."""
    async with Client(build_server(load_settings()), mode="auto") as client:
        assert (client.server_capabilities.extensions or {})[EXTENSION] == {}


@pytest.mark.parametrize("flags", [{"profile": "chatgpt"}, {"toolsets": "monitor"}])
async def test_nothing_is_promised_where_no_tool_is_shown(flags: dict[str, Any]) -> None:
    """A host may offer a page on the strength of it."""
    async with Client(build_server(load_settings(flags)), mode="auto") as client:
        addresses = [str(resource.uri) for resource in (await client.list_resources()).resources]
        tools = (await client.list_tools()).tools
        extensions = client.server_capabilities.extensions or {}

    assert PAGE not in addresses
    assert EXTENSION not in extensions
    assert not any(tool.meta for tool in tools)


def test_page_is_small_and_loads_nothing() -> None:
    """It is shown under a policy that allows nothing else, and reviewed by people."""
    page = FILE.read_text(encoding="utf-8")
    script = page.partition("<script>")[2]

    assert len(page.encode()) < 40_000
    assert page.startswith("<!doctype html>")
    assert page.count("<script") == 1
    for loading in (
        r"\bsrc\s*=",
        r"\bhref\s*=",
        r"@import",
        r"url\(",
        r"<(?:link|base|iframe|object|embed|img|form)\b",
    ):
        assert not re.search(loading, page), loading
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "srcdoc", "on="):
        assert unsafe not in page, unsafe
    for sending in (
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "sendBeacon",
        "EventSource",
        "import(",
        "localStorage",
        "cookie",
    ):
        assert sending not in script, sending
    assert not re.search(r"https?://(?!\[)", page), "no address of its own"


def test_page_is_read_only_when_it_is_asked_for() -> None:
    """Clients start the server anew for every conversation, and most have no pages."""
    code = (
        "import sys\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and opened.append(str(args[0])))\n"
        "from parallel_mcp.server import build_server\n"
        "from parallel_mcp.settings import load_settings\n"
        "build_server(load_settings())\n"
        "print([name for name in opened if name.endswith('.html')])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout

    assert printed.strip() == "[]"


def test_wheel_holds_the_page(tmp_path: Path) -> None:
    """What is not Python is easily forgotten."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert files.read("parallel_mcp/app/research-v1.html") == FILE.read_bytes()


# ---- view_run


async def viewed(client: Client, run_id: str, cursor: str = "") -> CallToolResult:
    """A view. It waits for the API for a second or two; the page looks again when that was too short."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            view = await client.call_tool("view_run", {"id": run_id, "cursor": cursor})
            if "did not say in time" not in text_of(view):
                return view


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_views_follow_a_run_to_its_end(upstream: Upstream, transport: Any, mode: str) -> None:
    """Each goes on where the last one ended, answers soon, and says when to look again."""
    views: list[dict[str, Any]] = []
    told = 0
    async with connected(transport, upstream.url, mode=mode) as client:
        run_id = await create(client, "never latency=120 messages=12")
        cursor = ""
        with anyio.fail_after(PATIENCE_S):
            while not views or views[-1]["is_active"]:
                views.append(structured(await viewed(client, run_id, cursor)))
                cursor = views[-1]["cursor"]
                told += len(views[-1]["untrusted_messages"])
                if told == 12:
                    upstream.simulator.finish(run_id)
        again = structured(await client.call_tool("watch_progress", {"id": run_id}))

    messages = [message for view in views for message in view["untrusted_messages"]]
    assert len(views) > 1
    assert messages == again["untrusted_messages"]
    assert [view["result_ready"] for view in views] == [False] * (len(views) - 1) + [True]
    assert all(view["link"].endswith(run_id) and 1 <= view["poll_after_s"] <= 10 for view in views)
    assert views[-1]["status"] == "completed"
    assert views[-1]["next"] == f'get_result(id="{run_id}")'


async def test_view_says_the_same_in_its_text(client: Client) -> None:
    """A model that sees the tool after all can use it, and does no harm with it."""
    run_id = await create(client, "latency=1 fails", processor="lite")
    await client.call_tool("watch_progress", {"id": run_id})

    view = await viewed(client, run_id)

    assert structured(view)["status"] == "failed"
    assert structured(view)["untrusted_error"]
    assert f"{run_id}: failed" in text_of(view)
    assert "<untrusted-web-content>" in text_of(view)
    assert (view.meta or {})["ifc"]["integrity"] == "untrusted"


async def test_view_of_a_group_counts_its_rows(client: Client) -> None:
    """A page shows groups as well."""
    group = structured(await client.call_tool("create_task_group", {"inputs": ["one", "two"], "processor": "lite"}))
    await client.call_tool("watch_progress", {"id": group["group_id"]})

    view = structured(await viewed(client, group["group_id"]))

    assert (view["rows"], view["counts"], view["result_ready"]) == (2, {"completed": 2}, True)


async def test_views_of_one_run_share_a_stream(client: Client, upstream: Upstream) -> None:
    """A page that looks every few seconds must not open a stream each time."""
    run_id = await create(client, "never")
    cursors = [""]
    with anyio.fail_after(PATIENCE_S):
        while len([cursor for cursor in cursors if cursor]) < 3:  # a cursor comes from the stream
            cursors.append(structured(await viewed(client, run_id, cursors[-1]))["cursor"])

    streams = [request for request in upstream.simulator.requests if request.path.endswith(f"{run_id}/events")]
    assert len(streams) == 1


async def test_view_of_what_is_not_there_is_an_error(client: Client) -> None:
    """In words that the page can show."""
    views = [await viewed(client, run_id) for run_id in ("trun_nobodys", "../x", "monitor_1")]

    assert all(view.is_error for view in views)
    for view, told in zip(views, ("Code: not_found", "`id` is not a handle", "never ends"), strict=True):
        assert told in text_of(view)


async def test_another_process_goes_on_with_a_view() -> None:
    """Any replica answers any request."""
    with serving(Simulator(SimulatorConfig(speed=60))) as url:
        settings = load_settings({"base_url": url, "ledger": "memory"})
        with serving_http(settings) as first, serving_http(settings) as second:
            async with http_client(first, KEY) as one, http_client(second, KEY) as other:
                run_id = await create(one, "latency=180 messages=12")
                before = structured(await viewed(one, run_id))
                after = structured(await viewed(other, run_id, before["cursor"]))
                await other.call_tool("watch_progress", {"id": run_id})
                whole = structured(await one.call_tool("watch_progress", {"id": run_id}))

    told = before["untrusted_messages"] + after["untrusted_messages"]
    assert told == whole["untrusted_messages"][: len(told)]
    assert "remark" not in after
