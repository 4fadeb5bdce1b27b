"""What all routes share: who may ask, how refusals are answered, and query parameters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import anyio
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.errors import UNAUTHORIZED, Invalid, InvalidAnswer, Problem, Refused
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.payloads import JsonObject, sparse

Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


@dataclass(frozen=True)
class Answering:
    """Turns handlers, which raise what they refuse, into endpoints, which answer it."""

    config: SimulatorConfig
    identities: Identities

    def endpoint(self, handler: Handler, when_invalid: InvalidAnswer) -> Handler:
        """Wrap a handler: the caller must be known, and a refusal becomes its answer."""

        async def answer(request: Request) -> Response:
            try:
                self.caller(request)
                return await handler(request)
            except Invalid as error:
                return when_invalid(error.problems, self.identities.ref_id)
            except Refused as error:
                return self.refusal(error)

        return answer

    def refusal(self, error: Refused) -> Response:
        error_object: JsonObject = {"ref_id": self.identities.ref_id(), "message": error.message, "detail": None}
        return self.json({"type": "error", "error": error_object}, error.status, error.headers)

    def json(self, body: JsonObject, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """Answer with JSON, in the style the configuration asks for."""
        return JSONResponse(self.styled(body), status, headers)

    def styled(self, body: JsonObject) -> JsonObject:
        """Leave out optional nulls if the configuration says so (checklist 4)."""
        return sparse(body) if self.config.omit_nulls else body

    def caller(self, request: Request) -> str:
        """Return the key of the caller, which is who a FindAll run or a monitor belongs to.

        Raises:
            Refused: 401, it is missing or not known.
        """
        key = request.headers.get("x-api-key", "")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not key and self.config.accept_bearer and scheme.lower() == "bearer":
            key = token.strip()
        if not key or (self.config.api_keys is not None and key not in self.config.api_keys):
            raise Refused(401, UNAUTHORIZED)
        return key


def query_value(request: Request, name: str, shape: TypeAdapter[T], default: T) -> T:
    """Read a query parameter.

    Raises:
        Invalid: It is given and has another shape.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        return shape.validate_strings(text)
    except ValidationError as error:
        problems = [Problem(("query", name), item["msg"], item["type"]) for item in error.errors()]
        raise Invalid(problems) from None


def query_values(request: Request, name: str, shape: TypeAdapter[T]) -> list[T]:
    """Read a query parameter that may be repeated, or hold values between commas as the official SDK sends them.

    Raises:
        Invalid: One of them has another shape.
    """
    texts = [text for given in request.query_params.getlist(name) for text in given.split(",")]
    try:
        return [shape.validate_strings(text) for text in texts]
    except ValidationError as error:
        raise Invalid([Problem(("query", name), item["msg"], item["type"]) for item in error.errors()]) from None


def gateway_page(status: int) -> Response:
    """Answer as something between the caller and the API does when the API cannot be reached."""
    name = {502: "Bad Gateway", 503: "Service Unavailable"}.get(status, "Error")
    return HTMLResponse(f"<html><body><h1>{status} {name}</h1></body></html>", status)


async def while_connected(request: Request, work: Callable[[], Awaitable[None]]) -> None:
    """Do something that may take long, and stop when the caller hangs up."""
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await work()
        tasks.cancel_scope.cancel()
