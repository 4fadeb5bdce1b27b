"""Progress notifications that spare the client: rising, at most two a second, one at least every ten seconds."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from parallel_mcp.render.untrusted import one_line
from parallel_mcp.tasks.progress import RisingPercent
from parallel_mcp.tools.call import Call

MIN_INTERVAL_S = 0.5
HEARTBEAT_S = 8.0
SEND_LIMIT_S = 1.0
MAX_MESSAGE_CHARS = 200


class ProgressReporter:
    """Takes every update and sends the newest. The SDK sends nothing to a client that gave no progress token."""

    def __init__(self, call: Call, first_message: str) -> None:
        self._call = call
        self._percent = RisingPercent()
        self._meter: float | None = None
        self._message = one_line(first_message, MAX_MESSAGE_CHARS)
        self._completed = False
        self._unsent = False
        self._wake = anyio.Event()
        self._closing = False

    def update(self, message: str, meter: float | None = None) -> None:
        """Note where things stand; `meter` is the API's own percentage, if there is one."""
        self._message = one_line(message, MAX_MESSAGE_CHARS)
        self._meter = meter
        self._unsent = True
        self._wake.set()

    def finish(self, message: str) -> None:
        """Note that the work is complete: the last thing to be sent."""
        self._completed = True
        self.update(message)

    async def keep_sending(self) -> None:
        """Send at once, then as often as allowed and needed, until `close`; what is unsent by then goes out last."""
        await self._send()
        while self._unsent or not self._closing:  # what came while sending is unsent
            not_before = anyio.current_time() + MIN_INTERVAL_S
            with anyio.move_on_after(HEARTBEAT_S):
                await self._wake.wait()
            if self._unsent or not self._closing:
                await anyio.sleep_until(not_before)
                await self._send()

    def close(self) -> None:
        """Let `keep_sending` end."""
        self._closing = True
        self._wake.set()

    async def _send(self) -> None:
        self._unsent = False
        self._wake = anyio.Event()
        value = self._percent.finish() if self._completed else self._percent.next(self._meter)
        with anyio.move_on_after(SEND_LIMIT_S):  # a client that does not read must not stall the watch
            await self._call.ctx.report_progress(value, 100.0, self._message)


@asynccontextmanager
async def reporting(call: Call, first_message: str) -> AsyncGenerator[ProgressReporter]:
    """Report progress while the block runs; the last update is out before it ends, and nothing comes after."""
    reporter = ProgressReporter(call, first_message)
    # A plain task: a group around it would add a twentieth to the memory of a watch.
    sending = asyncio.create_task(reporter.keep_sending())
    try:
        yield reporter
        reporter.close()
        await sending
    finally:
        sending.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([sending])
