"""Settings in, a ready server out."""

import hashlib
import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server import MCPServer
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.extension import Extension
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool, ToolManager
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import (
    INTERNAL_ERROR,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    InputRequiredResult,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
)

from parallel_mcp import __version__
from parallel_mcp.errors import InvalidArguments, MissingKey, ResearchError, SettingsError
from parallel_mcp.extensions.tasks import TasksExtension, TaskSource
from parallel_mcp.instructions import instructions
from parallel_mcp.ledger.choice import chosen_ledger
from parallel_mcp.listeners import Listeners
from parallel_mcp.prompts import chosen_prompts
from parallel_mcp.prompts.completions import completions
from parallel_mcp.resources import chosen_resources
from parallel_mcp.resources.definition import ResourceDefinition, resource_at, resource_error
from parallel_mcp.resources.page import ServesPage
from parallel_mcp.settings import Settings, env_name, unknown_variables
from parallel_mcp.tasks.changes import ListChanges
from parallel_mcp.tasks.creating import FINISH_S, creating
from parallel_mcp.tasks.feeds import sharing_feeds
from parallel_mcp.tasks.processors import processor_named
from parallel_mcp.tools import chosen_tools, has_page
from parallel_mcp.tools.call import App, call_of
from parallel_mcp.tools.reply import failed
from parallel_mcp.tools.runs_as_tasks import RunsAsTasks

if TYPE_CHECKING:
    from parallel_mcp.api.connections import Timeouts
    from parallel_mcp.tools.spec_tools import SpecTools

USAGE_ERROR = 2
_LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover")
_LISTS_CHANGE_RARELY = CacheHint(ttl_ms=3_600_000, scope="public")
_TOOLS_MAY_CHANGE = CacheHint(ttl_ms=2_000, scope="public")  # for clients that do not listen for changes

logger = logging.getLogger(__name__)


class ParallelServer(MCPServer[App]):
    """The MCP server. Its additions to the SDK's: errors that a model can act on, resources and completions that know
    their caller, tools that come and go, clients that are told what changes, and a clean end over stdio.
    """

    def __init__(
        self,
        *,
        tools: list[Tool],
        offered_resources: Sequence[ResourceDefinition],
        specs: "SpecTools | None" = None,
        tasks: TaskSource | None = None,
        extensions: Sequence[Extension] = (),
        **options: Any,
    ) -> None:
        of_tasks = [TasksExtension(tasks)] if tasks is not None else []
        all_tools = [*tools, *(specs.load() if specs else ())]
        super().__init__(tools=all_tools, extensions=[*extensions, *of_tasks], **options)
        self._offered_resources = offered_resources
        self._own_tools = tools
        self._specs = specs
        server = self._lowlevel_server
        server.add_request_handler("completion/complete", CompleteRequestParams, self._complete)
        server.add_request_handler("resources/read", ReadResourceRequestParams, self._read_resource)
        self._listeners = Listeners(server, offered_resources, tasks, tools_may_change=specs is not None)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[App, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; whatever goes wrong becomes the text of a tool error, here and nowhere else."""
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as failure:
            cause = failure.__cause__
            if isinstance(cause, ResearchError):
                return failed(cause)
            if isinstance(cause, ToolError):  # of the SDK, about what a client made of a question to the user
                return failed(InvalidArguments("The answer to the question of this tool is not of the form asked for"))
            text = self._fault_text(name, cause)
            return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)

    def _fault_text(self, name: str, cause: BaseException | None) -> str:
        if cause is None:  # the SDK's own: no such tool
            names = ", ".join(tool.name for tool in self._tool_manager.list_tools())
            return f"There is no such tool. The tools are: {names}."
        logger.error("Tool %s crashed", name, exc_info=cause)
        return (
            f"{name} failed because of a fault in this server ({type(cause).__name__}).\n"
            "Code: internal_error. Retrying is unlikely to help.\n"
            "Next: tell the user; if a task was being created, check get_status without ids before creating it again."
        )

    async def _complete(self, ctx: ServerRequestContext[App], params: CompleteRequestParams) -> CompleteResult:
        """Offer values for an argument of a prompt or of a resource address."""
        return await completions(params.argument.name, params.argument.value, call_of(ctx))

    async def list_resources(self) -> list[Resource]:
        """The resources with a fixed address."""
        return [definition.listed() for definition in self._offered_resources if not definition.is_template]

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """The resources whose address has variables."""
        return [definition.listed_template() for definition in self._offered_resources if definition.is_template]

    async def _read_resource(
        self, ctx: ServerRequestContext[App], params: ReadResourceRequestParams
    ) -> ReadResourceResult | InputRequiredResult:
        """Read a resource with the caller's key; whatever goes wrong becomes the text of a resource error."""
        found = resource_at(params.uri, self._offered_resources)
        if found is None:
            return await self._handle_read_resource(ctx, params)
        definition, variables = found
        try:
            return await definition.read(call_of(ctx), params.uri, variables)
        except ResearchError as error:
            raise resource_error(error, params.uri) from error
        except MCPError:
            raise
        except Exception as error:
            logger.exception("The resource %s failed", definition.name)
            what = f"{definition.name} failed because of a fault in this server"
            raise MCPError(INTERNAL_ERROR, what, {"uri": params.uri}) from error

    async def serve(
        self, incoming: ReadStream[SessionMessage | Exception], outgoing: WriteStream[SessionMessage]
    ) -> None:
        """Serve one connection until it closes."""
        server = self._lowlevel_server
        await server.run(incoming, outgoing, server.create_initialization_options())

    @asynccontextmanager
    async def telling_clients(self, app: App) -> AsyncGenerator[None]:
        """Tell clients what changes while the block runs, and keep the tools of the specs as their files are."""
        async with anyio.create_task_group() as telling:
            app.background = telling
            if self._specs is not None:
                telling.start_soon(self._follow_specs, self._specs, app)
            try:
                yield
            finally:
                telling.cancel_scope.cancel()

    async def _follow_specs(self, specs: "SpecTools", app: App) -> None:
        async with aclosing(specs.changes()) as changes:
            async for tools in changes:
                self._tool_manager = ToolManager(tools=[*self._own_tools, *tools])
                await self._listeners.tell_that_tools_changed(app)

    def let_listeners_go(self) -> None:
        """End the streams of clients that listen for changes, which nothing else ends before the connection does."""
        self._listeners.close()


def build_server(
    settings: Settings, *, timeouts: "Timeouts | None" = None, finish_s: float = FINISH_S
) -> ParallelServer:
    """A server with all tools; its connections open at the first request and close with it.

    When it is stopped, creates on their way have `finish_s` to be finished and written down.

    Raises:
        SettingsError: The default processor is not a processor.
    """
    if processor_named(settings.default_processor) is None:
        raise SettingsError(f"{env_name('default_processor')} is not the name of a processor, such as core-fast")

    @asynccontextmanager
    async def lifespan(_: MCPServer[App]) -> AsyncGenerator[App]:
        app: App | None = None
        try:
            open_ledger, changes = partial(chosen_ledger, settings), ListChanges()
            async with (
                creating(open_ledger, settings, finish_s, changes) as creator,
                sharing_feeds(changes=changes) as feeds,
            ):
                app = App(settings, creator, feeds, changes, timeouts)
                async with server.telling_clients(app):
                    yield app
        finally:  # after the last create, which needs its connection
            if app is not None:
                with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                    await app.aclose()

    specs = _chosen_specs(settings)
    server = ParallelServer(
        name="parallel-mcp",
        title="Parallel web research",
        instructions=instructions(settings),
        website_url="https://github.com/parallel-mcp/parallel-mcp",
        version=__version__,
        tools=[definition.tool() for definition in chosen_tools(settings)],
        offered_resources=chosen_resources(settings),
        specs=specs,
        request_state_security=_request_state_security(settings),
        tasks=RunsAsTasks(specs) if settings.profile == "research" else None,
        extensions=[ServesPage()] if has_page(settings) else [],
        lifespan=lifespan,
        log_level="WARNING",
        subscriptions=False,  # the SDK's own would promise all changes, and knows no callers; see `listeners`
        cache_hints=dict.fromkeys(_LISTS, _LISTS_CHANGE_RARELY) | ({"tools/list": _TOOLS_MAY_CHANGE} if specs else {}),
    )
    for prompt in chosen_prompts(settings):
        server.add_prompt(prompt)
    return server


def _request_state_security(settings: Settings) -> RequestStateSecurity:
    """What a client brings back with the user's answer is sealed for the caller, with a key that replicas share.

    It is made of what they have in common, since every replica must accept what another has asked. That it may be
    guessed where no key or ledger address is secret does no harm: the state says only what the client may say anyway.
    """
    api_key = settings.api_key.get_secret_value() if settings.api_key else ""
    shared = "\0".join(("request-state", settings.base_url, settings.ledger, api_key))
    return RequestStateSecurity(keys=[hashlib.sha256(shared.encode()).digest()], bind_principal=_principal)


def _principal(ctx: ServerRequestContext[App]) -> str | None:
    try:
        return call_of(ctx).owner
    except MissingKey:
        return None


def _chosen_specs(settings: Settings) -> "SpecTools | None":
    """The tools of the directory of specs, if there is one and the settings let its tools be seen."""
    if settings.profile != "research":
        return None
    if settings.specs is None:
        if "core" not in settings.toolsets and "specs" in settings.toolsets:
            logger.warning("There are no task specs: %s names no directory", env_name("specs"))
        return None
    if "specs" not in settings.toolsets:
        logger.warning("The task specs are left out: %s does not name `specs`", env_name("toolsets"))
        return None
    from parallel_mcp.tools.spec_tools import SpecTools  # most servers have no specs, and start the sooner

    return SpecTools(settings.specs, settings)


def configure_logging(settings: Settings) -> None:
    """Log to stderr; libraries that log requests stay quiet."""
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in unknown_variables():
        logger.warning("%s is set, but there is no such setting", name)
    for name in ("httpx", "httpcore", "mcp"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def refuse_to_start(error: SettingsError) -> int:
    """Say why on stderr; the exit status for wrong usage."""
    sys.stderr.write(f"parallel-mcp cannot start: {error}\n")
    return USAGE_ERROR
