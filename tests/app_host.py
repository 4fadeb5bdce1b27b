"""A host of MCP Apps for tests: headless Chromium shows the page in a sandboxed frame of another origin, under the
content security policy of the specification, and this process answers its messages with a real server's answers.
"""

import json
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import anyio
import jsonschema
from mcp import Client
from mcp.types import CallToolResult, TextResourceContents
from playwright.async_api import Browser, ConsoleMessage, Frame, Page, Route, async_playwright

from tests.node_programs import NODE_MODULES
from tests.patience import PATIENCE_S

PAGE = "ui://parallel-mcp/research-v1.html"
HOST_URL = "https://host.test/"
VIEW_URL = "https://view.test/"
WIDTH = 760
HEIGHT = "Math.ceil(document.querySelector('main').getBoundingClientRect().height)"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

# What a host must enforce for a page that declares no domains.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; media-src 'self' data:; connect-src 'none'; frame-src 'none'; object-src 'none'; base-uri 'self'"
)
HOST_PAGE = f"""<!doctype html><html lang="en"><head><title>Host</title></head>
<body style="margin: 0; background: #888">
<iframe title="View" sandbox="allow-scripts" style="border: 0; width: 100%; height: 900px"></iframe>
<script>
  const view = document.querySelector("iframe");
  const deliver = (message) => view.contentWindow.postMessage(message, "*");
  addEventListener("message", ({{ source, data }}) => {{
    if (source !== view.contentWindow) return;
    if (data.method === "ui/notifications/size-changed") view.style.height = `${{data.params.height}}px`;
    received(data);
  }});
  view.src = "{VIEW_URL}";
</script></body></html>"""

CAPABILITIES: Mapping[str, Any] = {"openLinks": {}, "serverTools": {}, "serverResources": {}, "updateModelContext": {}}

# The part of the schema that a message must fit; what is not here belongs to MCP itself.
ASKED_BY_VIEW = {
    "ui/initialize": "McpUiInitializeRequest",
    "ui/notifications/initialized": "McpUiInitializedNotification",
    "ui/notifications/size-changed": "McpUiSizeChangedNotification",
    "ui/open-link": "McpUiOpenLinkRequest",
    "ui/request-display-mode": "McpUiRequestDisplayModeRequest",
    "ui/update-model-context": "McpUiUpdateModelContextRequest",
}
TOLD_BY_HOST = {
    "ui/notifications/tool-input": "McpUiToolInputNotification",
    "ui/notifications/tool-input-partial": "McpUiToolInputPartialNotification",
    "ui/notifications/tool-result": "McpUiToolResultNotification",
    "ui/notifications/tool-cancelled": "McpUiToolCancelledNotification",
    "ui/notifications/host-context-changed": "McpUiHostContextChangedNotification",
    "ui/resource-teardown": "McpUiResourceTeardownRequest",
}
ANSWERED_BY_HOST = {
    "ui/initialize": "McpUiInitializeResult",
    "ui/open-link": "McpUiOpenLinkResult",
    "ui/request-display-mode": "McpUiRequestDisplayModeResult",
}
OF_MCP = {"tools/call"}

Message = dict[str, Any]


def chromium() -> str:
    """The browser, named by `CHROMIUM` or found; empty if there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or ""


def as_sent(result: CallToolResult) -> Message:
    """A result of a tool as a host passes it on."""
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def served(_message: Message) -> None:
    """Let the server answer at once."""


@asynccontextmanager
async def launched() -> AsyncGenerator[Browser]:
    """A browser without windows, closed with the block."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(), headless=True, args=FLAGS, timeout=PATIENCE_S * 1000
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Host:
    """What the page has asked and been told, and how its questions are answered."""

    page: Page
    client: Client
    capabilities: Mapping[str, Any] = field(default_factory=lambda: CAPABILITIES)
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    refuse: Callable[[Message], str] = lambda message: ""
    """Why the host answers a question with an error; empty if it does not."""
    instead: Callable[[Message], Awaitable[Message | None]] = served
    """What answers a question in place of the server, and when; nothing if the server does."""
    asked: list[Message] = field(default_factory=list[Message])
    answers: list[Message] = field(default_factory=list[Message])
    """What the page answered."""
    complaints: list[str] = field(default_factory=list[str])
    requests: list[str] = field(default_factory=list[str])
    """Requests of the frame, or of the host page, for anything but their documents."""
    answering: int = 0
    """How many of its messages are being answered."""
    _heard: anyio.Event = field(default_factory=anyio.Event)
    _pings: int = 0

    @property
    def view(self) -> Frame:
        """The frame with the page."""
        (frame,) = self.page.frames[1:]
        return frame

    def named(self, method: str) -> list[Message]:
        """What the page has asked or told by this method."""
        return [message for message in self.asked if message.get("method") == method]

    def calls(self, tool: str) -> list[dict[str, Any]]:
        """The arguments of the page's calls of a tool."""
        return [call["params"]["arguments"] for call in self.named("tools/call") if call["params"]["name"] == tool]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds of what was heard."""
        with anyio.fail_after(PATIENCE_S):
            while not condition():
                assert self.complaints == []
                self._heard = anyio.Event()
                await self._heard.wait()

    async def settle(self) -> None:
        """Wait until the page has taken all that it was told, and what it has asked and told by then was heard."""
        self._pings += 1
        ping = {"jsonrpc": "2.0", "id": f"ping-{self._pings}"}
        await self._deliver({**ping, "method": "ping"})
        await self.until(lambda: {**ping, "result": {}} in self.answers)

    async def called(self, tool: str, **arguments: Any) -> Message:
        """Let the model call a tool: the page gets its input and its result, as it was given to the model."""
        await self.tell("ui/notifications/tool-input", {"arguments": arguments})
        result = await self.client.call_tool(tool, arguments)
        shown = as_sent(result)
        await self.tell("ui/notifications/tool-result", shown)
        return shown

    async def tell(self, method: str, params: Message) -> None:
        """Send a notification; the page has taken it when this returns."""
        check(TOLD_BY_HOST[method], {"method": method, "params": params})
        await self._deliver({"jsonrpc": "2.0", "method": method, "params": params})
        await self.settle()

    async def tear_down(self) -> None:
        """Announce the end of the page, and wait for its answer."""
        check(TOLD_BY_HOST["ui/resource-teardown"], {"method": "ui/resource-teardown", "params": {}})
        await self._deliver({"jsonrpc": "2.0", "id": 99, "method": "ui/resource-teardown", "params": {}})
        await self.until(lambda: {"jsonrpc": "2.0", "id": 99, "result": {}} in self.answers)

    async def text(self) -> str:
        """What the page shows."""
        return await self.view.locator("main").inner_text()

    async def picture(self, name: str, folder: Path) -> None:
        """Keep a picture of the whole page, which may be changing."""
        height = await self._height()
        with anyio.fail_after(PATIENCE_S):
            while self.named("ui/notifications/size-changed")[-1]["params"]["height"] != height:
                height = await self._height()
        await self.page.set_viewport_size({"width": WIDTH, "height": max(200, height)})
        await self.view.evaluate(DRAWN)
        await self.page.screenshot(path=folder / f"{name}.png")

    async def _height(self) -> int:
        height = int(await self.view.evaluate(HEIGHT))
        await self.settle()
        return height

    async def hear(self, message: Message) -> None:
        """Take a message of the page, and answer it if it is a question."""
        (self.asked if "method" in message else self.answers).append(message)
        self.answering += 1
        self._heard.set()
        try:
            assert message["jsonrpc"] == "2.0"
            if "method" in message:
                await self._answer(message)
        except Exception as error:
            self.complaints.append(repr(error))
            raise
        finally:
            self.answering -= 1
            self._heard.set()

    async def _answer(self, message: Message) -> None:
        method, params = message["method"], message.get("params", {})
        assert method in ASKED_BY_VIEW or method in OF_MCP, method
        if method in ASKED_BY_VIEW:
            check(ASKED_BY_VIEW[method], {key: message[key] for key in ("method", "params") if key in message})
        if "id" not in message:
            return
        if reason := self.refuse(message):
            await self._deliver({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32000, "message": reason}})
            return
        result = await self.instead(message) or await self._result(method, params)
        if method in ANSWERED_BY_HOST:
            check(ANSWERED_BY_HOST[method], result)
        await self._deliver({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def _result(self, method: str, params: Message) -> Message:
        match method:
            case "ui/initialize":
                return {
                    "protocolVersion": "2026-01-26",
                    "hostInfo": {"name": "test-host", "version": "1"},
                    "hostCapabilities": dict(self.capabilities),
                    "hostContext": dict(self.context),
                }
            case "tools/call":
                result = await self.client.call_tool(params["name"], params["arguments"])
                return as_sent(result)
            case "ui/request-display-mode":
                return {"mode": params["mode"]}
            case _:
                return {}

    async def _deliver(self, message: Message) -> None:
        await self.page.evaluate("message => deliver(message)", message)


@asynccontextmanager
async def hosting(
    browser: Browser,
    client: Client,
    *,
    scheme: str = "light",
    prepare: Callable[[Page], Awaitable[None]] | None = None,
    **options: Any,
) -> AsyncGenerator[Host]:
    """Show the page and shake hands with it; nothing may have been wrong with it when the block ends."""
    (content,) = (await client.read_resource(PAGE)).contents
    assert isinstance(content, TextResourceContents)
    context = await browser.new_context(
        viewport={"width": WIDTH, "height": 900}, color_scheme=cast("Any", scheme), reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_S * 1000)
    try:
        page = await context.new_page()
        host = Host(page, client, **options)

        async def serve(route: Route) -> None:
            documents = {HOST_URL: HOST_PAGE, VIEW_URL: content.text}
            if route.request.url not in documents:
                host.requests.append(route.request.url)
                await route.abort()
                return
            headers = {"content-security-policy": POLICY} if route.request.url == VIEW_URL else {}
            await route.fulfill(
                body=documents[route.request.url], content_type="text/html; charset=utf-8", headers=headers
            )

        def complain(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                host.complaints.append(message.text)

        page.on("console", complain)
        page.on("pageerror", lambda error: host.complaints.append(str(error)))
        await page.route("**/*", serve)
        await cast("Any", page).expose_function("received", host.hear)
        if prepare is not None:
            await prepare(page)
        await page.goto(HOST_URL)
        await host.until(lambda: bool(host.named("ui/notifications/initialized")))
        yield host
        await host.settle()
        assert host.complaints == []
        assert host.requests == []
        assert len(page.frames) == 2, "the frame is where it was"
        assert host.view.url == VIEW_URL
    finally:
        await context.close()


@cache
def _schema() -> dict[str, Any]:
    """The schema of all messages, from the npm package `@modelcontextprotocol/ext-apps`; nothing without it."""
    if not NODE_MODULES.name:
        return {}
    path = NODE_MODULES / "@modelcontextprotocol" / "ext-apps" / "dist" / "src" / "generated" / "schema.json"
    return json.loads(path.read_text(encoding="utf-8"), object_hook=_any_subset)["$defs"]


def _any_subset(schema: dict[str, Any]) -> dict[str, Any]:
    """Of named style variables a host may give any subset; the schema says so in words and then requires them all."""
    if "propertyNames" in schema:
        schema.pop("required", None)
    return schema


def check(name: str, message: object) -> None:
    """The message fits its schema, if that is at hand."""
    if schema := _schema():
        jsonschema.validate(message, schema[name], cls=jsonschema.Draft202012Validator)
