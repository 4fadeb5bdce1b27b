"""A tool function and what clients are told of it -> a tool of the MCP SDK."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import BaseModel

from parallel_mcp.tools.arguments import Arguments, read_arguments
from parallel_mcp.tools.call import App, Call
from parallel_mcp.tools.schemas import published_schema


@dataclass(frozen=True)
class ToolDefinition:
    """One tool. Its description is the docstring of `run`; its schemas are those of the two models.

    The hints are promises: everything but creating is read-only and may be repeated; nothing destroys anything. A
    create says that it is not read-only, because it costs money, although some clients then ask the user each time.
    """

    run: Callable[[Any, Call], Awaitable[CallToolResult]]
    title: str
    arguments: type[Arguments]
    output: type[BaseModel]
    reads_web: bool = False
    creates: bool = False

    def tool(self) -> Tool:
        """The tool as the SDK serves it."""
        run = self.run

        async def call_with_context(request: Arguments, context: Context[App]) -> CallToolResult:
            return await run(request, Call(context.request_context.lifespan_context, context))

        return Tool(
            fn=call_with_context,
            name=run.__name__,
            title=self.title,
            description=inspect.getdoc(run) or "",
            parameters=published_schema(self.arguments, closed=True),
            fn_metadata=_OneModel(arg_model=self.arguments, output_schema=published_schema(self.output)),
            is_async=True,
            context_kwarg="context",
            annotations=ToolAnnotations(
                title=self.title,
                read_only_hint=not self.creates,
                destructive_hint=False,
                idempotent_hint=not self.creates,
                open_world_hint=self.reads_web or self.creates,
            ),
        )


class _OneModel(FuncMetadata):
    """Hands a tool its arguments as one checked model. Results need no check here: tools build them from models."""

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        """See `read_arguments` for the rules."""
        return {"request": read_arguments(self.arg_model, arguments_to_validate)}
