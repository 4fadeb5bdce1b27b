"""What is sent again, how often and after how long.

Reads and searches change nothing and cost nothing twice worth fearing, so they are repeated on every transient failure.
A create has no idempotency key upstream: it is repeated only when it surely never arrived, or was refused with 429.
"""

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay

from parallel_mcp.errors import NotSent, RateLimited, UpstreamError, UpstreamUnavailable

MAX_ATTEMPTS = 3
MAX_RETRY_AFTER_S = 60.0
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 8.0
# No attempt starts later than this after the first: most clients give up on a call after 60 s.
DEADLINE_S = 25.0

_T = TypeVar("_T")


def retry_read(error: BaseException) -> bool:
    """Whether a read or a search may be sent again."""
    return isinstance(error, UpstreamUnavailable | RateLimited)


def retry_create(error: BaseException) -> bool:
    """Whether a create may be sent again: never when it may have been carried out."""
    return isinstance(error, NotSent | RateLimited)


async def with_retries(send: Callable[[], Awaitable[_T]], *, may_retry: Callable[[BaseException], bool]) -> _T:
    """The result of `send`, tried at most three times.

    Raises:
        ResearchError: The last failure.
    """
    attempts = AsyncRetrying(
        sleep=anyio.sleep,
        retry=retry_if_exception(may_retry),
        wait=_delay_s,
        stop=stop_after_attempt(MAX_ATTEMPTS) | stop_before_delay(DEADLINE_S),
        reraise=True,
    )
    return await attempts(send)


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or a date; None when absent or senseless."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if 0 <= seconds < 86_400 else None


def _delay_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    told = error.retry_after_s if isinstance(error, UpstreamError) else None
    if told is not None and told <= MAX_RETRY_AFTER_S:
        return told
    if told is not None:
        return float("inf")  # longer than anybody waits here: the deadline ends the attempts
    ceiling = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (state.attempt_number - 1))
    return random.uniform(0, ceiling)  # full jitter, so that callers refused together do not come back together
