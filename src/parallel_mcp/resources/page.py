"""The page that shows research in clients with MCP Apps (SEP-1865, revision 2026-01-26)."""

from pathlib import Path
from typing import Any

import anyio
from mcp.server.extension import Extension

from parallel_mcp.resources.definition import FinalText, ResourceDefinition
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.definition import RESEARCH_PAGE

_FILE = Path(__file__).parent.parent / "app" / "research-v1.html"

# No list of domains: the page loads nothing and sends nothing. The clipboard is for its copy button.
_META: dict[str, Any] = {"ui": {"csp": {}, "permissions": {"clipboardWrite": {}}, "prefersBorder": True}}


class ServesPage(Extension):
    """Says that there is a page to show. An extension is in use once both sides have declared it (SEP-2133)."""

    identifier = "io.modelcontextprotocol/ui"


async def research_page(call: Call) -> FinalText:
    """The page as it is; read when it is asked for. Another page would have another address."""
    return FinalText(await anyio.Path(_FILE).read_text(encoding="utf-8"))


RESEARCH_PAGE_RESOURCE = ResourceDefinition(
    RESEARCH_PAGE,
    "research_page",
    "Research",
    "Shows a research run: progress, then the cited result. For clients with MCP Apps.",
    "text/html;profile=mcp-app",
    research_page,
    meta=_META,
    size=_FILE.stat().st_size,
)
