"""What one client is still to be told."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from parallel_mcp.listening.topics import News, Topic


@dataclass
class _Unsent:
    news: News
    due: float


class Outbox:
    """The newest news of each topic. A client that does not read is told less, and nobody waits for it."""

    def __init__(self) -> None:
        self._unsent: dict[Topic, _Unsent] = {}
        self._sent_at: dict[Topic, float] = {}
        self._wake = anyio.Event()
        self._closed = False

    def put(self, topic: Topic, news: News) -> None:
        """Tell this when it is due, in place of what is still unsent of the topic."""
        due = self._sent_at.get(topic, -float("inf")) + news.every_s
        before = self._unsent.get(topic)
        self._unsent[topic] = _Unsent(news, min(due, before.due) if before else due)
        self._wake.set()

    def close(self) -> None:
        """Nothing more is to be told; what is unsent is due now."""
        self._closed = True
        self._wake.set()

    async def deliveries(self) -> AsyncGenerator[News]:
        """What is to be told, when it is due; ends once the outbox is closed and empty."""
        while True:
            self._wake = anyio.Event()
            while (topic := self._next_due()) is not None:
                news = self._unsent.pop(topic).news
                self._sent_at[topic] = anyio.current_time()
                yield news
            if self._closed:
                return
            with anyio.CancelScope(deadline=min((one.due for one in self._unsent.values()), default=float("inf"))):
                await self._wake.wait()

    def _next_due(self) -> Topic | None:
        now = float("inf") if self._closed else anyio.current_time()
        return next((topic for topic, one in self._unsent.items() if one.due <= now), None)
