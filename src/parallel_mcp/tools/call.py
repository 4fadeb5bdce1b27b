"""What a tool is given besides its arguments: settings, the ledger, the API with the caller's key, and the client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mcp.server.mcpserver import Context

from parallel_mcp.errors import MissingKey
from parallel_mcp.extensions.tasks import takes_tasks
from parallel_mcp.render.key_help import key_help
from parallel_mcp.settings import Settings, checked_key
from parallel_mcp.tasks.changes import ListChanges
from parallel_mcp.tasks.creating import Creator, owner_of
from parallel_mcp.tasks.feeds import Feeds
from parallel_mcp.tasks.watching import GroupSnapshot, RunSnapshot, watching_group, watching_run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup as BackgroundTasks
    from mcp.server.context import ServerRequestContext
    from mcp.server.session import ServerSession
    from pydantic import SecretStr

    from parallel_mcp.api.client import ParallelApi
    from parallel_mcp.api.connections import Connections, Timeouts
    from parallel_mcp.api.findall_models import FindAllRun
    from parallel_mcp.api.models import TaskGroup, TaskRun
    from parallel_mcp.tasks.findall_buying import Addition
    from parallel_mcp.tasks.findall_watching import FindAllSnapshot

PriceApproval = Literal["not asked", "approved", "declined"]


@dataclass(eq=False)
class App:
    """The open resources of the server: made when it starts, closed when it ends."""

    settings: Settings
    creator: Creator
    feeds: Feeds
    changes: ListChanges
    timeouts: Timeouts | None = None
    background: BackgroundTasks | None = None
    """What ends with these resources, and tells clients meanwhile what changes."""
    told_unasked: ServerSession | None = None
    """The client of a legacy connection that stays open: it is told of changes without having asked."""
    _connections: Connections | None = field(default=None, init=False)

    def api_for(self, key: SecretStr) -> ParallelApi:
        """The API for one key, on the connections that all keys share."""
        # Imported at the first request: listing tools needs no HTTP client, and importing one takes a while.
        from parallel_mcp.api.client import ParallelApi
        from parallel_mcp.api.connections import Connections

        if self._connections is None:
            self._connections = Connections(self.settings.base_url, self.timeouts)
        return ParallelApi(self._connections, key)

    async def aclose(self) -> None:
        """Close the connections, if any were opened."""
        if self._connections is not None:
            await self._connections.aclose()


@dataclass(frozen=True)
class Offer:
    """What was looked up to ask the user about a price: the call itself goes by it, and looks up nothing else.

    Without a `question` nobody is asked; `price_usd` is what the question names. `took_s` is what the look took of the
    time that the call has; the user's own time is not counted.
    """

    question: str = ""
    price_usd: float = 0.0
    addition: Addition | None = None  # to a FindAll run
    took_s: float = 0.0


@dataclass(frozen=True)
class Call:
    """One tool call of one caller."""

    app: App
    ctx: Context[App]
    approval: PriceApproval = "not asked"
    offer: Offer = Offer()

    @property
    def approved_usd(self) -> float:
        """The most that the user has let this call buy for; 0 where nobody was asked, or the answer was no."""
        return self.offer.price_usd if self.approval == "approved" else 0.0

    @property
    def brings_answer(self) -> bool:
        """Whether the client makes the call again with answers to its questions, as it does in the modern era.

        An answer counts only for a question that is put again in the same words.
        """
        return bool(self.ctx.input_responses)

    @property
    def settings(self) -> Settings:
        """The server's settings."""
        return self.app.settings

    @property
    def api(self) -> ParallelApi:
        """The API with the caller's key.

        Raises:
            MissingKey: There is none.
        """
        return self.app.api_for(self.key)

    @property
    def owner(self) -> str:
        """Whose runs and budget this call is about."""
        return owner_of(self.key)

    @property
    def client_name(self) -> str:
        """What the client calls itself, in `initialize` or in the request; over HTTP else its `User-Agent`."""
        client = self.ctx.session.client_params
        if client is not None:
            return client.client_info.name
        return (self.ctx.headers or {}).get("user-agent", "")

    @property
    def key(self) -> SecretStr:
        """The caller's key: over HTTP that of the request, else the server's own.

        Over HTTP the server's own key serves only a loopback server for one person (`AUTH=local`).
        """
        headers = self.ctx.headers
        key = key_in(headers) if headers is not None else None
        if key is None and (headers is None or self.settings.auth == "local"):
            key = self.settings.api_key
        if key is None:
            raise MissingKey(key_help(self.client_name))
        return key

    @property
    def takes_tasks(self) -> bool:
        """Whether the client takes a task for an answer, and will come back for its result."""
        return takes_tasks(self.ctx.protocol_version, self.ctx.client_capabilities)

    def watching_run(
        self, run_id: str, cursor: str, *, awaits_start: bool = False
    ) -> AbstractAsyncContextManager[AsyncGenerator[RunSnapshot]]:
        """Watch a run of the caller; see `tasks.watching`."""
        return watching_run(self.app.feeds, self.api, self.owner, run_id, cursor, awaits_start=awaits_start)

    def watching_group(self, group_id: str, cursor: str) -> AbstractAsyncContextManager[AsyncGenerator[GroupSnapshot]]:
        """Watch a group of the caller; see `tasks.watching`."""
        return watching_group(self.app.feeds, self.api, self.owner, group_id, cursor)

    def watching_findall(
        self, findall_id: str, cursor: str
    ) -> AbstractAsyncContextManager[AsyncGenerator[FindAllSnapshot]]:
        """Watch a FindAll run of the caller; see `tasks.findall_watching`."""
        from parallel_mcp.tasks.findall_watching import watching_findall

        return watching_findall(self.app.feeds, self.api, self.owner, findall_id, cursor)

    async def run_as_it_stands(self, run_id: str) -> TaskRun:
        """The state of a run. An end that was seen here stays: the machine upstream that answers may not know it yet.

        Raises:
            UpstreamError: It cannot be read.
        """
        run = await self.api.retrieve_run(run_id)
        return (self.app.feeds.ended_run(self.owner, run_id) or run) if run.is_active else run

    async def note(self, run: TaskRun) -> None:
        """Let the ledger know if a run was seen to have ended."""
        await self.app.creator.note(self.owner, run)

    async def note_group(self, group: TaskGroup) -> None:
        """Let the ledger know if a group was seen to have ended."""
        await self.app.creator.note_group(self.owner, group)

    async def note_findall(self, run: FindAllRun) -> None:
        """Let the ledger know if a FindAll run was seen to have ended."""
        if not run.is_active:
            await self.app.creator.note_end(self.owner, run.findall_id)


def call_of(ctx: ServerRequestContext[App]) -> Call:
    """A call of another method than `tools/call`."""
    return Call(ctx.lifespan_context, Context[App](request_context=ctx))


def key_in(headers: Mapping[str, str]) -> SecretStr | None:
    """The Parallel key of an HTTP request: `x-api-key`, else `Authorization: Bearer`. None if unusable.

    A bearer that looks like a JSON Web Token was issued for somebody else and is never passed on.
    """
    text = headers.get("x-api-key", "")
    if not text:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or (text.startswith("eyJ") and text.count(".") == 2):
            return None
    try:
        return checked_key(text)
    except ValueError:
        return None
