"""A tool function and what clients are told of it -> a tool of the MCP SDK."""

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Resolve, build_resolver_plans, find_resolved_parameters
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import BaseModel

from parallel_mcp.tools.approval import Approval, asking_about, asking_first, call_after, offer_of_task
from parallel_mcp.tools.arguments import Arguments, read_arguments
from parallel_mcp.tools.call import App, Call, Offer
from parallel_mcp.tools.missing_input import AnswerAboutInput, offer_of_complete, with_input
from parallel_mcp.tools.schemas import names_in, published_schema
from parallel_mcp.tools.tasks import TaskRequest

PUBLISHED = Path(__file__).parent / "published"

RESEARCH_PAGE = "ui://parallel-mcp/research-v1.html"
"""The page that shows results of tools, in clients that show such pages. They may keep it, so another page is a v2."""

ON_PAGE: Mapping[str, Any] = MappingProxyType({"ui": {"resourceUri": RESEARCH_PAGE}, "ui/resourceUri": RESEARCH_PAGE})
"""The `_meta` of a tool whose results it shows: the form of SEP-1865, and the one before, which older hosts read."""


@dataclass(frozen=True)
class ToolDefinition:
    """One tool. Its description is the docstring of `run`; its schemas are those of the two models.

    The hints are promises: everything but creating and cancelling is read-only and may be repeated. A create says that
    it is not read-only, because it costs money, although some clients then ask the user each time. Cancelling is
    destructive, because what was cancelled cannot be resumed; doing it twice does no more than once.
    """

    run: Callable[[Any, Call], Awaitable[CallToolResult]]
    title: str
    arguments: type[Arguments]
    output: type[BaseModel]
    reads_web: bool = False
    creates: bool = False
    parameters_of: type[Arguments] | None = None  # of the tool that tells about parameters of these names
    cancels: bool = False
    offering: Callable[[Any, Call], Awaitable[Offer]] = offer_of_task
    needs_input: bool = False  # which the user is asked for if it is missing
    folder: str = ""
    """Where its published definition is, for tools of a profile that share names with others."""
    output_told_by: type[BaseModel] | None = None  # the output of another tool that tells about fields of these names
    on_page: bool = False
    """Whether `RESEARCH_PAGE` shows its results."""
    for_page: bool = False
    """Whether that page alone calls it. Clients that know of pages hide it from the model; to others it is harmless."""

    def schemas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Input and output schema, made from the models."""
        known = self.parameters_of.model_fields if self.parameters_of else ()
        arguments = published_schema(self.arguments, closed=True, told_elsewhere=known)
        if self.for_page:  # the page is ours and knows what it gets
            return arguments, {"type": "object"}
        told = names_in(self.output_told_by) if self.output_told_by else set[str]()
        return arguments, published_schema(self.output, told_elsewhere=told - {"untrusted"})  # that is a warning

    def tool(self) -> Tool:
        """The tool as the SDK serves it.

        Its schemas are read from the file that a test compares with the models: making them at each start would take
        as long as all the rest of this package.
        """
        published = json.loads((PUBLISHED / self.folder / f"{self.run.__name__}.json").read_text(encoding="utf-8"))
        return served(
            self._function(),
            _OneModel(arg_model=self.arguments, output_schema=published["outputSchema"]),
            name=self.run.__name__,
            title=self.title,
            description=inspect.getdoc(self.run) or "",
            parameters=published["inputSchema"],
            hints=ToolAnnotations(
                read_only_hint=not (self.creates or self.cancels),
                destructive_hint=self.cancels,
                idempotent_hint=not self.creates,
                open_world_hint=self.reads_web or self.creates or self.cancels,
            ),
            meta=self._meta(),
        )

    def _function(self) -> Callable[..., Awaitable[CallToolResult]]:
        if self.needs_input:
            return self._asking_for_input_first()
        return asking_first(self.run, self.offering) if self.creates else self._directly()

    def _meta(self) -> Mapping[str, Any] | None:
        if self.for_page:
            return {"ui": {"visibility": ["app"]}}
        return ON_PAGE if self.on_page else None

    def _directly(self) -> Callable[..., Awaitable[CallToolResult]]:
        async def call(request: Arguments, context: Context[App]) -> CallToolResult:
            return await self.run(request, Call(context.request_context.lifespan_context, context))

        return call

    def _asking_for_input_first(self) -> Callable[..., Awaitable[CallToolResult]]:
        """As `asking_first`, after the user was asked what to research, where that is needed and possible."""

        async def call(
            request: TaskRequest,
            context: Context[App],
            told: AnswerAboutInput,
            offer: Annotated[Offer, Resolve(offer_of_complete)],
            answer: Annotated[ElicitationResult[Approval], Resolve(asking_about(offer_of_complete))],
        ) -> CallToolResult:
            return await self.run(with_input(request, told), call_after(offer, answer, context))

        return call


def served(
    function: Callable[..., Awaitable[CallToolResult]],
    checking: FuncMetadata,
    *,
    name: str,
    title: str,
    description: str,
    parameters: dict[str, Any],
    hints: ToolAnnotations,
    meta: Mapping[str, Any] | None,
) -> Tool:
    """A function of one checked `request` and what its `Resolve` parameters ask for, as a tool of the SDK."""
    resolved = find_resolved_parameters(function)
    return Tool(
        fn=function,
        name=name,
        title=title,
        description=description,
        parameters=parameters,
        fn_metadata=checking,
        is_async=True,
        context_kwarg="context",
        resolved_params=dict(resolved),
        resolver_plans=build_resolver_plans(resolved, {"request"}),
        annotations=hints,
        meta=dict(meta) if meta else None,
    )


class _OneModel(FuncMetadata):
    """Hands a tool its arguments as one checked model. Results need no check here: tools build them from models."""

    def validate_arguments(self, arguments_to_validate: dict[str, Any]) -> dict[str, Any]:
        """See `read_arguments` for the rules."""
        return {"request": read_arguments(self.arg_model, arguments_to_validate)}
