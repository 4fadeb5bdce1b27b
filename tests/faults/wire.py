"""HTTP/1.1 as bytes: reading a request or an answer off a connection, piece by piece, without losing its framing."""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import anyio

MAX_HEAD = 2**20
READ_SIZE = 2**16
LAST_CHUNK = b"0\r\n\r\n"
UPSTREAM_TAKES_S = 20  # at most, to be connected and to be sent a request

Ending = Literal["keep", "close", "reset"]
"""What becomes of the client's connection: it serves the next request, ends with FIN, or ends with RST."""


@dataclass(frozen=True)
class Head:
    raw: bytes
    start_line: str
    headers: Mapping[str, str]
    """Names in lower case; the values of a repeated name joined by a comma."""

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length(self) -> int | None:
        return int(self.headers["content-length"]) if "content-length" in self.headers else None


@dataclass(frozen=True)
class ProxiedRequest:
    """A request that arrived whole. `body` is without chunk framing; `forwarded`: upstream may have seen it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    forwarded: bool = False
    query: str = ""
    head: bytes = field(default=b"", repr=False)

    def to_bytes(self) -> bytes:
        if "transfer-encoding" in self.headers:
            return self.head + (frame_chunk(self.body) if self.body else b"") + LAST_CHUNK
        return self.head + self.body


@dataclass(frozen=True)
class Answer:
    """Upstream's answer: the head has arrived, the body is read as it comes."""

    head: Head
    has_body: bool
    reader: asyncio.StreamReader

    @property
    def ending(self) -> Ending:
        """How a connection goes on after this answer was passed on whole."""
        delimited = self.head.chunked or self.head.length is not None or not self.has_body
        return "keep" if delimited and self.head.headers.get("connection", "").lower() != "close" else "close"

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body without framing, each piece as soon as it is there; one piece a chunk if upstream sends chunks."""
        if self.has_body:
            async with aclosing(_body(self.reader, self.head, open_ended=True)) as pieces:
                async for piece in pieces:
                    yield piece

    async def wire(self, split: Callable[[bytes], Iterable[bytes]] | None = None) -> AsyncGenerator[bytes]:
        """Everything to send on: the head first, then each piece framed, `split` into smaller ones if asked."""
        yield self.head.raw
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                for part in split(piece) if split else (piece,):
                    yield self.frame(part)
        if self.has_body and self.head.chunked:
            yield LAST_CHUNK

    def frame(self, piece: bytes) -> bytes:
        return frame_chunk(piece) if self.head.chunked else piece


class WatchedReader(asyncio.StreamReader):
    """A stream reader that tells when the peer has left, without taking bytes out of the stream.

    A peer that only half-closes counts as gone.
    """

    def __init__(self) -> None:
        super().__init__(limit=MAX_HEAD)
        self.gone = asyncio.Event()
        self._scope = anyio.CancelScope()

    @contextmanager
    def while_connected(self) -> Generator[None]:
        """Abandon the block when the peer leaves."""
        with anyio.CancelScope() as self._scope:
            if self.gone.is_set():
                self._scope.cancel()
            yield

    def feed_eof(self) -> None:
        self._peer_left()
        super().feed_eof()

    def set_exception(self, exc: Exception) -> None:
        self._peer_left()
        super().set_exception(exc)

    def _peer_left(self) -> None:
        self.gone.set()
        self._scope.cancel()


class Exchange:
    """One request in the proxy's hands: what a fault can do with it."""

    def __init__(
        self,
        request: ProxiedRequest,
        reader: WatchedReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[str, int],
        on_forward: Callable[[], None],
    ) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer
        self._upstream = upstream
        self._on_forward = on_forward

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def hang(self) -> Ending:
        """Send nothing more and hold the connection until the client leaves or the proxy stops."""
        await self._reader.gone.wait()
        return "close"

    @asynccontextmanager
    async def forward(self) -> AsyncGenerator[Answer]:
        """Send the request upstream and wait for the head of the answer; the block holds the upstream connection.

        A client that has left meanwhile does not stop the sending: a server would have read the request too.
        """
        with anyio.fail_after(UPSTREAM_TAKES_S, shield=True):
            reader, writer = await asyncio.open_connection(*self._upstream, limit=MAX_HEAD)
        try:
            with anyio.fail_after(UPSTREAM_TAKES_S, shield=True):
                self._on_forward()
                writer.write(self.request.to_bytes())
                await writer.drain()
            yield await read_answer(reader, self.request.method)
        finally:
            writer.close()

    async def swallow(self) -> Head:
        """Forward the request and drop the answer: its head and, where the length is announced, its body."""
        async with self.forward() as answer:
            if answer.has_body and answer.head.length is not None:
                await answer.reader.readexactly(answer.head.length)
            return answer.head


async def read_request(reader: asyncio.StreamReader) -> ProxiedRequest:
    head = await _read_head(reader)
    method, target, _ = head.start_line.split(" ")
    path, _, query = target.partition("?")
    async with aclosing(_body(reader, head, open_ended=False)) as pieces:
        body = b"".join([piece async for piece in pieces])
    return ProxiedRequest(method, path, head.headers, body, query=query, head=head.raw)


async def read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    head = await _read_head(reader)
    status = int(head.start_line.split(" ")[1])
    return Answer(head, has_body=method != "HEAD" and status not in (204, 304), reader=reader)


def frame_chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN; bytes not yet written are lost."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader) -> Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    start_line, *lines = raw[:-4].decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(raw, start_line, headers)


async def _body(reader: asyncio.StreamReader, head: Head, *, open_ended: bool) -> AsyncGenerator[bytes]:
    """Without a length and without chunks, an `open_ended` body lasts until the connection ends; any other is empty."""
    if head.chunked:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif (left := head.length) is not None:
        while left:
            piece = await reader.read(min(left, READ_SIZE))
            if not piece:
                raise asyncio.IncompleteReadError(piece, left)
            left -= len(piece)
            yield piece
    elif open_ended:
        while piece := await reader.read(READ_SIZE):
            yield piece
