"""Time: a clock that runs `speed` times faster than the wall, and waiting that any thread can end."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import anyio


class Clock:
    """Moments are real seconds of the monotonic clock; durations given to it are simulated seconds."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._started_at = time.monotonic()
        self._started_on = datetime.now(UTC)

    def now(self) -> float:
        return time.monotonic()

    def real_seconds(self, simulated_seconds: float) -> float:
        return simulated_seconds / self._speed

    def after(self, simulated_seconds: float) -> float:
        """Return the moment that many simulated seconds from now."""
        return self.now() + self.real_seconds(simulated_seconds)

    def stamp(self, moment: float) -> str:
        """Write a moment as the API writes timestamps: RFC 3339, UTC, microseconds, `Z`."""
        at = self._started_on + timedelta(seconds=moment - self._started_at)
        return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Changes:
    """Announces that something changed to every coroutine waiting for it, from any thread.

    Read `version` before looking at the state, then `wait` for a later one: no change is missed in between.
    """

    def __init__(self) -> None:
        self.version = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, anyio.Event]] = set()
        self._lock = threading.Lock()

    def announce(self) -> None:
        with self._lock:
            self.version += 1
            waiting = list(self._waiting)
        for loop, changed in waiting:
            with suppress(RuntimeError):  # the waiter's event loop closed meanwhile
                loop.call_soon_threadsafe(changed.set)

    async def wait(self, seen: int, until: float) -> None:
        """Return once `version` is no longer `seen`, at the latest at the moment `until`."""
        waiter = (asyncio.get_running_loop(), anyio.Event())
        with self._lock:
            if self.version != seen:
                return
            self._waiting.add(waiter)
        try:
            with anyio.move_on_after(max(0.0, until - time.monotonic())):
                await waiter[1].wait()
        finally:
            with self._lock:
                self._waiting.discard(waiter)
