"""The two halves of a tool result. Each stands alone, since some clients show the model only one of them."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict

from parallel_mcp.errors import ResearchError
from parallel_mcp.render.budget import MAX_RESULT_BYTES
from parallel_mcp.render.errors import error_text

Confidentiality = Literal["public", "private"]


class Output(BaseModel):
    """Base of the structured half of results, and of its parts. Built at its first use, not at start."""

    model_config = ConfigDict(defer_build=True, hide_input_in_errors=True)


def reply(text: str, structured: Output, *, confidentiality: Confidentiality = "private") -> CallToolResult:
    """A result with its Markdown text and its typed content; what is None is left out of the latter.

    One that carries text of others says so to the client, too: see `origin`.
    """
    content = structured.model_dump(mode="json", exclude_none=True)
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=content,
        _meta=origin(confidentiality) if _holds_untrusted(content) else None,
    )


def failed(error: ResearchError) -> CallToolResult:
    """A tool error that a model can act on. It has no typed content, which several clients would reject."""
    return CallToolResult(content=[TextContent(type="text", text=error_text(error))], is_error=True)


def origin(confidentiality: Confidentiality) -> dict[str, Any]:
    """`_meta` for what others wrote, in the form that policy engines of clients know from GitHub's server.

    Public is what anybody finds on the web; private is also the answer to a question of the caller.
    """
    return {"ifc": {"integrity": "untrusted", "confidentiality": confidentiality}}


def fitted(build: Callable[[int], CallToolResult], budget: int) -> CallToolResult:
    """What `build` makes of the largest budget, in characters of content, with which the result is not too large."""
    while True:
        result = build(budget)
        excess = result_bytes(result) / MAX_RESULT_BYTES
        if excess <= 1 or budget <= 0:
            return result
        budget = min(budget - 1, int(budget / excess))


def result_bytes(result: CallToolResult) -> int:
    """The size of a result on the wire: JSON in UTF-8."""
    return len(result.model_dump_json(by_alias=True, exclude_none=True).encode())


def next_call(tool: str, **arguments: object) -> str:
    """The exact next call, for a model to copy: `watch_progress(id="trun_1", timeout_s=45)`."""
    given = ", ".join(f"{name}={_literal(value)}" for name, value in arguments.items() if value not in ("", None))
    return f"{tool}({given})"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | list) else str(value)


def _holds_untrusted(content: object) -> bool:
    if isinstance(content, Mapping):
        members = cast("Mapping[str, object]", content)
        return any(
            (name.startswith("untrusted") and bool(value)) or _holds_untrusted(value) for name, value in members.items()
        )
    if isinstance(content, list):
        return any(map(_holds_untrusted, cast("list[object]", content)))
    return False
