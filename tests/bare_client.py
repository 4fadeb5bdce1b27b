"""A client that speaks JSON-RPC by hand: it sees each message of the server in the order in which it was sent."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from parallel_mcp.api.connections import Timeouts
from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from tests.connecting import KEY, MODERN

META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}

Note = Callable[[float, str], None]


class BareCall:
    """One `tools/call` on its way."""

    def __init__(self, number: int, note: Note, answered: Callable[[], None]) -> None:
        self.number = number
        self.note = note
        self.result: dict[str, Any] | None = None
        self._answered = answered
        self._done = anyio.Event()

    def take_answer(self, result: dict[str, Any]) -> None:
        """The answer has arrived."""
        self.result = result
        self._answered()
        self._done.set()

    async def answer(self) -> dict[str, Any]:
        """The `CallToolResult`, as JSON."""
        await self._done.wait()
        assert self.result is not None
        return self.result


class BareClient:
    """Sends calls, and hands each notification to its call at the moment it arrives, before and after the answer."""

    def __init__(
        self, incoming: ReadStream[SessionMessage | Exception], outgoing: WriteStream[SessionMessage | Exception]
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._numbers = count(1)
        self._calls: dict[int, BareCall] = {}

    async def listen(self) -> None:
        """Read what the server sends, until it is gone."""
        async for item in self._incoming:
            assert isinstance(item, SessionMessage)
            match item.message:
                case JSONRPCNotification(method="notifications/progress", params=dict(params)):
                    self._calls[int(params["progressToken"])].note(params["progress"], params["message"])
                case JSONRPCResponse(id=int(number), result=result):
                    self._calls[number].take_answer(result)
                case JSONRPCError() as error:
                    raise AssertionError(f"a protocol error: {error}")
                case _:
                    pass

    async def call(
        self, tool: str, arguments: dict[str, Any], note: Note, answered: Callable[[], None] = lambda: None
    ) -> BareCall:
        """Send a call that wants progress; `answered` is called in the moment in which its answer arrives."""
        number = next(self._numbers)
        call = self._calls[number] = BareCall(number, note, answered)
        params = {"name": tool, "arguments": arguments, "_meta": {**META, "progressToken": number}}
        request = JSONRPCRequest(jsonrpc="2.0", id=number, method="tools/call", params=params)
        await self._outgoing.send(SessionMessage(request))
        return call

    async def cancel(self, call: BareCall) -> None:
        """Tell the server that nobody waits for this call any more."""
        notification = JSONRPCNotification(
            jsonrpc="2.0", method="notifications/cancelled", params={"requestId": call.number, "_meta": META}
        )
        await self._outgoing.send(SessionMessage(notification))


@asynccontextmanager
async def bare_client(base_url: str, *, timeouts: Timeouts | None = None, **flags: Any) -> AsyncGenerator[BareClient]:
    """A bare client of a new server in this process."""
    settings = load_settings({"base_url": base_url, "ledger": "memory", "api_key": KEY, **flags})
    server = build_server(settings, timeouts=timeouts)
    async with (
        create_client_server_memory_streams() as (client_streams, server_streams),
        anyio.create_task_group() as connection,
    ):
        client = BareClient(*client_streams)
        connection.start_soon(server.serve, *server_streams)
        connection.start_soon(client.listen)
        yield client
        connection.cancel_scope.cancel()
