"""How events are written to a connection, well or badly as the run's story wants it (checklist 17 and 26)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, Literal

import anyio.lowlevel

from parallel_mcp.simulator.payloads import JsonObject, compact
from parallel_mcp.simulator.stories import Story

EVENT_STREAM = "text/event-stream"
PING: Final = "ping"
Item = JsonObject | Literal["ping"]
Style = Callable[[JsonObject], JsonObject]


class ConnectionDropped(Exception):
    """Raised out of the application to end a connection without an orderly end of the response.

    A server closes the connection on it; an in-process transport should report a broken connection.
    """


def encode(event: JsonObject, story: Story | None = None, number: int = 0) -> bytes:
    """Write one event; `number` is its `id:` where the story wants one."""
    lines = [f"event: {event['type']}"]
    if story and story.ids:
        lines += [f"id: {number}", "retry: 1000"]
    text = json.dumps(event, ensure_ascii=False, indent=1) if story and story.multiline else compact(event)
    lines += [f"data: {line}" for line in text.split("\n")]
    line_end = "\r\n" if story and story.crlf else "\n"
    return "".join(line + line_end for line in [*lines, ""]).encode()


async def written(
    items: AsyncGenerator[Item], story: Story, *, breaks: bool, style: Style = dict
) -> AsyncGenerator[bytes]:
    """Write the events of one connection, and break it off where the story says so.

    Raises:
        ConnectionDropped: The connection ends here, in the middle of the response.
    """
    sent = 0
    ping = b": ping\r\n\r\n" if story.crlf else b": ping\n\n"
    if breaks and _is_over(story, sent):
        return
    async with aclosing(items):
        async for item in items:
            if item == PING:
                yield ping
                continue
            block = encode(style(item), story, sent + 1)
            if breaks and sent in (story.half_event, story.half_event_eof):
                yield _first_half(block)
                if sent == story.half_event:
                    raise ConnectionDropped
                return
            for piece in _pieces((ping if story.pings else b"") + block, story.chunk):
                yield piece
                await anyio.lowlevel.checkpoint()  # to notice a client that has left, and to let others be answered
            sent += 1
            if breaks and _is_over(story, sent):
                return


def _is_over(story: Story, sent: int) -> bool:
    """Whether the response ends after that many events; a lost connection is raised."""
    if sent == story.drop_after:
        raise ConnectionDropped
    return sent == story.clean_close_after


def _first_half(block: bytes) -> bytes:
    """Cut inside the JSON of an event, past its first bytes."""
    start = block.index(b"data: ")
    return block[: start + (len(block) - start) // 2]


def _pieces(block: bytes, size: int | None) -> list[bytes]:
    if size is None:
        return [block]
    return [block[start : start + size] for start in range(0, len(block), size)]
