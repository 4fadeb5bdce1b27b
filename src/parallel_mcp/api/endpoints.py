"""What the methods of every part of the API are made of: reads, creates and event streams for one caller's key."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from parallel_mcp.api.connections import Connections, Request
from parallel_mcp.api.event_stream import KEPT_EVENT_BYTES, read_events
from parallel_mcp.api.foreign_json import parsed
from parallel_mcp.api.retry import retry_create, retry_read, with_retries
from parallel_mcp.errors import (
    InvalidKey,
    NotFound,
    NotPermitted,
    OutcomeUnknown,
    OutOfCredit,
    RateLimited,
    RequestRejected,
    UpstreamError,
    UpstreamUnreadable,
)

# Answers that say for certain that a create was not carried out.
_REFUSALS = (InvalidKey, OutOfCredit, NotPermitted, NotFound, RateLimited)

_Model = TypeVar("_Model", bound=BaseModel)
_Event = TypeVar("_Event", bound=BaseModel)


class Endpoints:
    """Base of the clients. All methods raise `UpstreamError`; creates also `OutcomeUnknown`."""

    def __init__(self, connections: Connections, key: SecretStr) -> None:
        self._connections = connections
        self._key = key.get_secret_value()
        self._timeouts = connections.timeouts
        self.read_back_s = connections.timeouts.read_back_s

    async def _read(self, request: Request, model: type[_Model]) -> _Model:
        return parsed_as(model, await self._answered(request))

    async def _answered(self, request: Request) -> bytes:
        """The body of the answer to a request that may be repeated."""
        return await with_retries(self._sending(request), may_retry=retry_read)

    async def _create(
        self,
        path: str,
        body: object,
        model: type[_Model],
        *,
        query: dict[str, str] | None = None,
        betas: tuple[str, ...] = (),
    ) -> _Model:
        request = Request("POST", path, self._timeouts.create_s, fresh=True, json=body, query=query, betas=betas)
        try:
            answer = await with_retries(self._sending(request), may_retry=retry_create)
            return parsed_as(model, answer)
        except UpstreamError as error:
            if _surely_not_created(error):
                raise
            raise OutcomeUnknown(
                f"The create was sent, but its outcome is unknown. {error}", quote=error.quote, ref_id=error.ref_id
            ) from error

    @asynccontextmanager
    async def _events(
        self, request: Request, model_of: Callable[[str], type[_Event]], kept_bytes: int = KEPT_EVENT_BYTES
    ) -> AsyncGenerator[AsyncGenerator[_Event]]:
        async with (
            self._connections.stream(request, self._key) as response,
            aclosing(read_events(response, model_of, kept_bytes=kept_bytes)) as events,
        ):
            yield events

    def _sending(self, request: Request) -> Callable[[], Awaitable[bytes]]:
        async def send() -> bytes:
            return await self._connections.fetch(request, self._key)

        return send


def parsed_as(model: type[_Model], body: bytes) -> _Model:
    """An answer as what the API documents.

    Raises:
        UpstreamUnreadable: It is something else.
    """
    try:
        return model.model_validate(parsed(body))
    except ValidationError:
        what = f"has another shape than the documented {model.__name__}"
    except ValueError:
        what = "is not JSON"
    raise UpstreamUnreadable(f"The answer of the Parallel API {what}")


def _surely_not_created(error: UpstreamError) -> bool:
    """Whether an error of a create leaves no doubt that nothing was created (and nothing will be billed)."""
    from_redirect = isinstance(error, UpstreamUnreadable) and error.status is not None
    rejected = isinstance(error, RequestRejected) and error.status != 409
    return retry_create(error) or from_redirect or rejected or isinstance(error, _REFUSALS)
