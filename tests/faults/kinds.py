"""The faults. Each is a function of one exchange: it decides what is forwarded, what is sent, and how it ends.

"Forwarded" means that upstream has answered before the fault shows, so a repeated POST is a second, paid one.
"""

import asyncio
import random
import zlib
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from itertools import cycle
from typing import Literal

from tests.faults.wire import Answer, Ending, Exchange, Head

Fault = Callable[[Exchange], Awaitable[Ending]]


async def pass_through(exchange: Exchange) -> Ending:
    """No fault: the answer travels on as it comes."""
    async with exchange.forward() as answer, aclosing(answer.wire()) as wire:
        async for data in wire:
            await exchange.send(data)
        return answer.ending


def reset_before_read() -> Fault:
    """RST, not forwarded: nobody has seen the request.

    The proxy waits for the request first. An RST right at accept races with the client's handshake, and shows there
    as a failed connect, write or read by chance.
    """
    return raw_stream(b"", then="reset")


def reset_after_accept() -> Fault:
    """Forwarded, the answer swallowed, then RST."""
    return _instead(lambda _: b"", "reset")


def close_without_answer() -> Fault:
    """Forwarded, the answer swallowed, then FIN."""
    return _instead(lambda _: b"", "close")


def garbage(data: bytes = b"\x15\x03\x01\x00\x02\x02\x28 this is not HTTP\r\n\r\n") -> Fault:
    """Forwarded; the answer is bytes of some other protocol, then FIN."""
    return _instead(lambda _: data, "close")


def cut_status_line() -> Fault:
    """Forwarded; half of the status line, then FIN."""
    return _instead(lambda head: head.raw[: len(head.start_line) // 2], "close")


def cut_headers() -> Fault:
    """Forwarded; the status line and half of the headers, then FIN."""
    return _instead(lambda head: head.raw[: (len(head.start_line) + len(head.raw)) // 2], "close")


def cut_body(at: float, then: Literal["close", "reset"] = "close") -> Fault:
    """Forwarded; the head and the first `at` bytes of the body. A float below 1 is a fraction of the content-length.

    A body that ends before the cut is an error of the script: leaving the proxy raises.
    """

    async def fault(exchange: Exchange) -> Ending:
        async with exchange.forward() as answer:
            await _send_until(exchange, answer, at)
            return then

    return fault


def stall() -> Fault:
    """Forwarded, then silence on an open connection, until the client leaves or the proxy stops."""

    async def fault(exchange: Exchange) -> Ending:
        async with exchange.forward():
            return await exchange.hang()

    return fault


def stall_after(at: float) -> Fault:
    """Forwarded; the head and the first `at` bytes of the body (as in `cut_body`), then silence as in `stall`."""

    async def fault(exchange: Exchange) -> Ending:
        async with exchange.forward() as answer:
            await _send_until(exchange, answer, at)
            return await exchange.hang()

    return fault


def slow(size: int = 1, interval_s: float = 0.05, *, head: bool = False) -> Fault:
    """Forwarded; `size` bytes of the body every `interval_s`, of the head too if asked."""

    async def fault(exchange: Exchange) -> Ending:
        async with exchange.forward() as answer, aclosing(answer.wire()) as wire:
            if not head:
                await exchange.send(await anext(wire))
            async for data in wire:
                for part in _split(data, cycle([size])):
                    await exchange.send(part)
                    await asyncio.sleep(interval_s)
            return answer.ending

    return fault


def late(seconds: float) -> Fault:
    """Forwarded; the true answer, `seconds` after it came."""

    async def fault(exchange: Exchange) -> Ending:
        async with exchange.forward() as answer, aclosing(answer.wire()) as wire:
            first = await anext(wire)
            await asyncio.sleep(seconds)
            await exchange.send(first)
            async for data in wire:
                await exchange.send(data)
            return answer.ending

    return fault


def chop(sizes: Sequence[int] = (1,), *, seed: int | None = None) -> Fault:
    """Forwarded live, the body in pieces of these sizes over and over, or of random sizes from `seed`.

    Where upstream sends chunks (event streams) each piece is a chunk, so the client reads them apart. Otherwise TCP
    may join pieces on the way.
    """

    async def fault(exchange: Exchange) -> Ending:
        split = partial(_split, sizes=_endless(sizes, seed))
        async with exchange.forward() as answer, aclosing(answer.wire(split)) as wire:
            async for data in wire:
                await exchange.send(data)
            return answer.ending

    return fault


def respond(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
    """This answer, not forwarded. JSON unless the headers say otherwise."""

    async def fault(exchange: Exchange) -> Ending:
        await exchange.send(_answer(_status_line(status), body, headers))
        return "keep"

    return fault


def redirect(location: str, status: int = 307) -> Fault:
    """Not forwarded. The default status asks the client to repeat method and body at `location`."""
    return respond(status, headers={"location": location})


def respond_after_forward(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Fault:
    """Forwarded, the answer swallowed; then this answer, as in `respond`."""
    return _instead(lambda _: _answer(_status_line(status), body, headers), "keep")


def replace_body(body: bytes, content_type: str = "application/json") -> Fault:
    """Forwarded; upstream's status with this body: HTML, truncated JSON, JSON without the field that matters."""
    return _instead(lambda head: _answer(head.start_line, body, {"content-type": content_type}), "keep")


def gzip_bomb(mebibytes: int, status: int = 200) -> Fault:
    """Forwarded; a gzip body of about `mebibytes` KiB that inflates to as many MiB of zeros."""
    gzip = zlib.compressobj(level=9, wbits=16 + zlib.MAX_WBITS)
    body = b"".join([gzip.compress(bytes(2**20)) for _ in range(mebibytes)]) + gzip.flush()
    return respond_after_forward(status, body, {"content-type": "application/json", "content-encoding": "gzip"})


def raw_stream(
    data: bytes,
    sizes: Sequence[int] = (),
    *,
    seed: int | None = None,
    then: Literal["close", "reset", "hang"] = "close",
) -> Fault:
    """Exactly these bytes, head included, not forwarded; in pieces as in `chop`, or in one.

    Without a content-length in `data`, "close" is the clean end of the body. TCP may join pieces on the way.
    """

    async def fault(exchange: Exchange) -> Ending:
        for part in _split(data, _endless(sizes or (len(data),), seed)):
            await exchange.send(part)
        return await exchange.hang() if then == "hang" else then

    return fault


def _instead(say: Callable[[Head], bytes], then: Ending) -> Fault:
    """Forward, swallow the answer, and send what `say` makes of its head."""

    async def fault(exchange: Exchange) -> Ending:
        await exchange.send(say(await exchange.swallow()))
        return then

    return fault


async def _send_until(exchange: Exchange, answer: Answer, at: float) -> None:
    length = answer.head.length
    if isinstance(at, float):
        if length is None:
            raise ValueError("a fraction needs an answer with a content-length")
        at = int(at * length)
    if length is not None and at >= length:
        raise ValueError(f"nothing to cut at byte {at} of a body of {length}")
    await exchange.send(answer.head.raw)
    async with aclosing(answer.pieces()) as pieces:
        while at > 0:
            piece = await anext(pieces, None)
            if piece is None:
                raise ValueError(f"the body ended {at} bytes before the cut")
            await exchange.send(answer.frame(piece[:at]))
            at -= len(piece)


def _answer(status_line: str, body: bytes, headers: Mapping[str, str] | None) -> bytes:
    fields = {"content-type": "application/json", **(headers or {}), "content-length": str(len(body))}
    return "\r\n".join([status_line, *(f"{k}: {v}" for k, v in fields.items()), "", ""]).encode("latin-1") + body


def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"


def _endless(sizes: Sequence[int], seed: int | None) -> Iterator[int]:
    if seed is None:
        return cycle(sizes)
    dice = random.Random(seed)
    return iter(lambda: dice.randint(1, 16), 0)


def _split(data: bytes, sizes: Iterator[int]) -> Generator[bytes]:
    start = 0
    while start < len(data):
        size = next(sizes)
        yield data[start : start + size]
        start += size
