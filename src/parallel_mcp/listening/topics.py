"""What a client can be told of: topics, which can be followed, and the news of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from mcp.shared.exceptions import MCPError

from parallel_mcp.errors import ResearchError

if TYPE_CHECKING:
    from parallel_mcp.listening.filters import Asked
    from parallel_mcp.listening.outbox import Outbox
    from parallel_mcp.tools.call import Call

HONOURED_WITHIN_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """A notification, without `_meta`. It comes no sooner than `every_s` seconds after the last one of its topic."""

    method: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    every_s: float = 0.0


Follow = Callable[[], AbstractAsyncContextManager[AsyncGenerator[News]]]


@dataclass(frozen=True, eq=False)
class Topic:
    """One thing that a client asks to be told of.

    Attributes:
        kind: Its field in the filter of `subscriptions/listen`.
        item: Which one of the list in that field; empty if the field is a flag.
        follow: Entering it makes sure that there is such a thing and that this caller may know of it (`ResearchError`
            or `MCPError` if not); it gives the news, each standing for those before it.
    """

    kind: str
    item: str
    follow: Follow


Source = Callable[["Asked", "Call"], Iterable[Topic]]
"""The topics of one kind that a client asks for. May raise `MCPError`, which refuses the whole request."""


@asynccontextmanager
async def following(topics: Sequence[Topic], outbox: Outbox) -> AsyncGenerator[list[Topic]]:
    """Follow topics while the block lasts, and put their news into the outbox; gives those that can be followed.

    What cannot be read within five seconds is not followed: the client waits meanwhile, and is told so.
    """
    honoured: set[Topic] = set()
    undecided = set(topics)
    decided = anyio.Event()

    def decide(topic: Topic) -> bool:
        """Whether that came in time."""
        if topic not in undecided:
            return False
        undecided.remove(topic)
        if not undecided:
            decided.set()
        return True

    async def follow(topic: Topic) -> None:
        try:
            async with topic.follow() as news, aclosing(news):
                if decide(topic):
                    honoured.add(topic)
                    async for one in news:
                        outbox.put(topic, one)
        except (ResearchError, MCPError) as error:
            logger.info("%s is not followed: %s", topic.kind, error)
        except Exception:  # a fault of ours, in a task of its own: the other topics go on
            logger.exception("A topic cannot be followed because of a fault in this server")
        decide(topic)

    async with anyio.create_task_group() as tasks:
        for topic in topics:
            tasks.start_soon(follow, topic)
        if topics:
            with anyio.move_on_after(HONOURED_WITHIN_S):
                await decided.wait()
        undecided.clear()
        yield [topic for topic in topics if topic in honoured]
        tasks.cancel_scope.cancel()
