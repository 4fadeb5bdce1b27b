"""Several servers behind one address, each request to the next one: a load balancer that keeps nobody in place."""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.connecting import serving_app


@contextmanager
def behind_one_address(addresses: Sequence[str]) -> Generator[str]:
    """Serve what is at `addresses` (without a path) under one address."""
    turns = cycle(addresses)

    async def forward(request: Request) -> Response:
        headers = [(name, value) for name, value in request.headers.raw if name != b"host"]
        sent = http.build_request(
            request.method, f"{next(turns)}{request.url.path}", headers=headers, content=await request.body()
        )
        answer = await http.send(sent, stream=True)
        return StreamingResponse(pieces(answer), answer.status_code, dict(answer.headers))

    async def pieces(answer: httpx.Response) -> AsyncGenerator[bytes]:
        """The body as it comes; a client that leaves takes the request to the server with it."""
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with http:
            yield

    no_reuse = httpx.Limits(max_keepalive_connections=0)  # a server closes idle connections at a moment of its own
    http = httpx.AsyncClient(timeout=60, limits=no_reuse)
    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "DELETE"])], lifespan=lifespan)
    with serving_app(app) as address:
        yield address
