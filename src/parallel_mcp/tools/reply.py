"""The two halves of a tool result. Each stands alone, since some clients show the model only one of them."""

import json

from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict


class Output(BaseModel):
    """Base of the structured half of results, and of its parts. Built at its first use, not at start."""

    model_config = ConfigDict(defer_build=True, hide_input_in_errors=True)


def reply(text: str, structured: Output) -> CallToolResult:
    """A result with its Markdown text and its typed content; what is None is left out of the latter."""
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=structured.model_dump(mode="json", exclude_none=True),
    )


def next_call(tool: str, **arguments: object) -> str:
    """The exact next call, for a model to copy: `watch_progress(id="trun_1", timeout_s=45)`."""
    given = ", ".join(f"{name}={_literal(value)}" for name, value in arguments.items() if value not in ("", None))
    return f"{tool}({given})"


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | list) else str(value)
