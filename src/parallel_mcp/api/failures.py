"""An answer or an exception of the HTTP layer -> one of our errors. The only place that does so."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import httpx

from parallel_mcp.api.foreign_json import parsed
from parallel_mcp.api.retry import retry_after_s
from parallel_mcp.errors import (
    InvalidKey,
    NotFound,
    NotPermitted,
    NotSent,
    OutOfCredit,
    RateLimited,
    RequestRejected,
    RunStillActive,
    UpstreamError,
    UpstreamUnavailable,
    UpstreamUnreadable,
)

_BY_STATUS: dict[int, tuple[type[UpstreamError], str]] = {
    401: (InvalidKey, "The Parallel API does not accept the API key"),
    402: (OutOfCredit, "The Parallel account has not enough free credit"),
    403: (NotPermitted, "The Parallel API does not permit this, usually because of the processor"),
    404: (NotFound, "The Parallel API knows no such thing for this API key"),
    408: (UpstreamUnavailable, "The Parallel API gave up waiting"),
    429: (RateLimited, "The Parallel API limits the rate of requests"),
}
_MAX_QUOTE_CHARS = 500


def error_from(response: httpx.Response, body: bytes) -> UpstreamError:
    """The error that an answer with a status of 300 or above stands for."""
    status = response.status_code
    kind, what = _BY_STATUS.get(status) or _by_class(status)
    message, ref_id = _message_of(body)
    return kind(
        f"{what} (HTTP {status})",
        status=status,
        quote=message,
        ref_id=ref_id,
        retry_after_s=retry_after_s(response.headers.get("retry-after")),
    )


def still_active(error: UpstreamError) -> RunStillActive:
    """The 408 of the result endpoint, which says nothing went wrong."""
    return RunStillActive("The run is still active", status=error.status, quote=error.quote, ref_id=error.ref_id)


@contextmanager
def connection_failures(doing: str) -> Generator[None]:
    """Turn every exception of httpx, and a passed deadline, into `NotSent` or `UpstreamUnavailable`."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise NotSent(f"No connection to the Parallel API ({doing}: {type(error).__name__})") from None
    except (httpx.TimeoutException, TimeoutError):
        raise UpstreamUnavailable(f"The Parallel API did not answer in time ({doing})") from None
    except httpx.DecodingError:
        raise UpstreamUnreadable(f"The answer of the Parallel API cannot be decoded ({doing})") from None
    except httpx.TransportError as error:
        raise UpstreamUnavailable(
            f"The connection to the Parallel API broke ({doing}: {type(error).__name__})"
        ) from None


def _by_class(status: int) -> tuple[type[UpstreamError], str]:
    if status >= 500:
        return UpstreamUnavailable, "The Parallel API has a problem of its own"
    if status >= 400:
        return RequestRejected, "The Parallel API rejected the request"
    return UpstreamUnreadable, "The Parallel API answered with a redirect, which is not followed"


def _message_of(body: bytes) -> tuple[str, str]:
    """Message and reference id of an error body in either documented form, or of an HTML page of a gateway."""
    try:
        data = parsed(body)
    except ValueError:
        return _text_of_page(body), ""
    if not isinstance(data, dict):
        return "", ""
    fields = cast("dict[str, Any]", data)
    error = fields.get("error", fields)
    if isinstance(error, dict) and "message" in error:
        return _from_error_object(cast("dict[str, Any]", error))
    detail = fields.get("detail")
    if isinstance(detail, list):
        return _from_detail(cast("list[Any]", detail)), ""
    return (detail if isinstance(detail, str) else "")[:_MAX_QUOTE_CHARS], ""


def _from_error_object(error: dict[str, Any]) -> tuple[str, str]:
    message = str(error.get("message") or "")
    detail = error.get("detail")
    if isinstance(detail, dict) and isinstance(errors := cast("dict[str, Any]", detail).get("errors"), list):
        message = f"{message}: {_from_detail(cast('list[Any]', errors))}"
    return message[:_MAX_QUOTE_CHARS], str(error.get("ref_id") or "")[:100]


def _from_detail(problems: Sequence[Any]) -> str:
    """FastAPI's list of problems: place and message of each, never the `input` it echoes."""
    readable = [_problem(cast("dict[str, Any]", problem)) for problem in problems if isinstance(problem, dict)]
    return "; ".join(readable)[:_MAX_QUOTE_CHARS]


def _problem(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in cast("list[Any]", problem.get("loc") or []) if part != "body")
    return f"{place}: {problem.get('msg', '')}" if place else str(problem.get("msg", ""))


def _text_of_page(body: bytes) -> str:
    """The title of an HTML error page, or the first line of plain text."""
    text = body[:4096].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>([^<]{1,200})", text, re.IGNORECASE)
    if title:
        return title[1].strip()
    return "" if "<" in text else text.strip().partition("\n")[0][:200]
