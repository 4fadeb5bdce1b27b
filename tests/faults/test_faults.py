import asyncio
import json
import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import anyio
import httpx
import pytest
import uvicorn
from anyio.from_thread import start_blocking_portal
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.faults import (
    Fault,
    FaultyProxy,
    ScriptedFault,
    chop,
    close_without_answer,
    cut_body,
    cut_headers,
    cut_status_line,
    faulty,
    garbage,
    gzip_bomb,
    raw_stream,
    redirect,
    refused_url,
    replace_body,
    reset_after_accept,
    reset_before_read,
    respond,
    respond_after_forward,
    slow,
    stall,
    stall_after,
)

RUNS = "/v1/tasks/runs"
RUN = {"run_id": "trun_1", "status": "queued"}
EVENTS = ["data: one\n\n", "data: two\n\n", "data: drei ü\n\n"]
PATIENCE_S = 20
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream:
    """A small API that counts what it accepts, and an event stream that goes on when it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.accepted: list[bytes] = []
        self.stream_left = threading.Event()
        self._go_on = asyncio.Event()

    def begin_again(self) -> None:
        """Forget what was before; a stream of then that is still being closed has no part in what comes."""
        self.accepted = []
        self.stream_left = threading.Event()
        self._go_on = asyncio.Event()

    async def wait_until_accepted(self, count: int) -> None:
        """Until so many have been accepted: a request may be on its way after its sender left."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.accepted) < count:  # noqa: ASYNC110 - it is accepted on another thread
                await anyio.sleep(0.01)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(RUNS, self.create_run, methods=["POST"]),
                Route("/events", self.events),
                Route("/go-on", self.go_on),
                Route("/empty", self.empty),
            ]
        )

    async def create_run(self, request: Request) -> Response:
        self.accepted.append(await request.body())
        return JSONResponse(RUN, status_code=202)

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def go_on(self, request: Request) -> Response:
        self._go_on.set()
        return Response()

    async def empty(self, request: Request) -> Response:
        return Response(status_code=204)

    async def _events(self) -> AsyncGenerator[str]:
        go_on, left = self._go_on, self.stream_left
        try:
            yield EVENTS[0]
            await go_on.wait()
            go_on.clear()
            for event in EVENTS[1:]:
                yield event
        finally:
            left.set()


@pytest.fixture(scope="module")
def running_upstream() -> Generator[Upstream]:
    upstream = Upstream()
    config = uvicorn.Config(upstream.app(), log_level="critical", lifespan="off", ws="none", loop="asyncio")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener, start_blocking_portal("asyncio") as portal:
        upstream.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = portal.start_task_soon(server.serve, [listener])
        yield upstream
        server.should_exit = True
        serving.result()


@pytest.fixture
def upstream(running_upstream: Upstream) -> Upstream:
    running_upstream.begin_again()
    return running_upstream


@pytest.fixture
def proxy(upstream: Upstream) -> Generator[FaultyProxy]:
    with faulty(upstream.url) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: FaultyProxy) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=proxy.url, timeout=PATIENCE_S, trust_env=False) as client:
        yield client


@contextmanager
def talking_to(url: str) -> Generator[socket.socket]:
    """A bare connection, for what an HTTP client hides."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        yield connection


@asynccontextmanager
async def raw_upstream(answer: bytes) -> AsyncGenerator[str]:
    """A server that reads one head, sends `answer`, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def post_until_closed(proxy: FaultyProxy) -> bytes:
    """All bytes the proxy answers to one POST on a connection that it closes itself."""

    def talk() -> bytes:
        with talking_to(proxy.url) as connection:
            connection.sendall(b"POST /v1/tasks/runs HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            return b"".join(iter(lambda: connection.recv(4096), b""))

    return await anyio.to_thread.run_sync(talk)


BROKEN: list[tuple[str, Callable[[], Fault], type[httpx.TransportError], int]] = [
    ("reset_after_accept", reset_after_accept, httpx.ReadError, 1),
    ("close_without_answer", close_without_answer, httpx.RemoteProtocolError, 1),
    ("cut_status_line", cut_status_line, httpx.RemoteProtocolError, 1),
    ("cut_headers", cut_headers, httpx.RemoteProtocolError, 1),
    ("cut_body_close", lambda: cut_body(5), httpx.RemoteProtocolError, 1),
    ("cut_body_reset", lambda: cut_body(0.5, then="reset"), httpx.ReadError, 1),
    ("garbage", garbage, httpx.RemoteProtocolError, 1),
    ("stall", stall, httpx.ReadTimeout, 1),
    ("stall_after", lambda: stall_after(5), httpx.ReadTimeout, 1),
    ("slow", lambda: slow(1, 30, head=True), httpx.ReadTimeout, 1),
    ("reset_before_read", reset_before_read, httpx.ReadError, 0),
    ("raw_stream_hang", lambda: raw_stream(b"HTTP/1.1 200", then="hang"), httpx.ReadTimeout, 0),
]


@pytest.mark.parametrize(
    ("fault", "error", "accepted"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
async def test_broken_answer_is_a_transport_error_and_forwarded_once(
    upstream: Upstream,
    proxy: FaultyProxy,
    client: httpx.AsyncClient,
    fault: Callable[[], Fault],
    error: type[httpx.TransportError],
    accepted: int,
) -> None:
    """The client cannot tell these apart from a request that never arrived; only the count of upstream can."""
    proxy.add(ScriptedFault(method="POST", path=RUNS, fault=fault()))
    read_s = 0.2 if error is httpx.ReadTimeout else PATIENCE_S

    with pytest.raises(httpx.TransportError) as caught:
        await client.post(RUNS, json={"input": "x"}, timeout=httpx.Timeout(PATIENCE_S, read=read_s))
    await proxy.wait_for(lambda: len(proxy.requests) == 1)
    await upstream.wait_until_accepted(accepted)

    assert (caught.type, len(upstream.accepted)) == (error, accepted)
    assert [request.forwarded for request in proxy.requests] == [bool(accepted)]
    await proxy.wait_for(lambda: proxy.open_connections == 0)


async def test_refused_url_refuses() -> None:
    with refused_url() as url, pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            await client.post(url)


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        (cut_status_line(), b"HTTP/1.1 2"),
        (garbage(b"SSH-2.0-x\r\n"), b"SSH-2.0-x\r\n"),
        (close_without_answer(), b""),
        (raw_stream(b"HTTP/1.1 200 OK\r\n\r\nab", sizes=(1, 2)), b"HTTP/1.1 200 OK\r\n\r\nab"),
        (raw_stream(b"HTTP/1.1 200 OK\r\n\r\nab", seed=4), b"HTTP/1.1 200 OK\r\n\r\nab"),
    ],
)
async def test_bytes_on_the_wire_before_the_close(proxy: FaultyProxy, fault: Fault, sent: bytes) -> None:
    proxy.add(ScriptedFault(fault=fault))

    assert await post_until_closed(proxy) == sent


async def test_cuts_keep_what_comes_before_them(proxy: FaultyProxy) -> None:
    proxy.add(ScriptedFault(fault=cut_headers()), ScriptedFault(fault=cut_body(6)), ScriptedFault(fault=cut_body(0.5)))

    in_headers, in_body, half = [await post_until_closed(proxy) for _ in range(3)]

    length = len(JSONResponse(RUN).body)
    assert in_headers.startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert b"\r\n\r\n" not in in_headers
    assert in_body.partition(b"\r\n\r\n")[2] == b'{"run_'
    assert len(half.partition(b"\r\n\r\n")[2]) == length // 2


async def test_own_answer_needs_no_upstream(upstream: Upstream, proxy: FaultyProxy, client: httpx.AsyncClient) -> None:
    proxy.add(
        ScriptedFault(fault=respond(429, b'{"error":1}', {"retry-after": "2"})),
        ScriptedFault(fault=redirect("http://localhost:1/elsewhere")),
    )

    limited = await client.post(RUNS)
    moved = await client.post(RUNS)

    assert (limited.status_code, limited.json(), limited.headers["retry-after"]) == (429, {"error": 1}, "2")
    assert (moved.status_code, moved.headers["location"]) == (307, "http://localhost:1/elsewhere")
    assert upstream.accepted == []


async def test_other_answer_after_forwarding(upstream: Upstream, proxy: FaultyProxy, client: httpx.AsyncClient) -> None:
    proxy.add(
        ScriptedFault(fault=respond_after_forward(502, b"{}")),
        ScriptedFault(fault=replace_body(b"<html>", "text/html")),
        ScriptedFault(fault=replace_body(b'{"run_id": "tru')),
    )

    answers = [await client.post(RUNS) for _ in range(3)]

    assert [(answer.status_code, answer.headers["content-type"], answer.content) for answer in answers] == [
        (502, "application/json", b"{}"),
        (202, "text/html", b"<html>"),
        (202, "application/json", b'{"run_id": "tru'),
    ]
    assert len(upstream.accepted) == 3


async def test_gzip_bomb_inflates(upstream: Upstream, proxy: FaultyProxy, client: httpx.AsyncClient) -> None:
    proxy.add(ScriptedFault(fault=gzip_bomb(3)))

    async with client.stream("POST", RUNS) as answer:
        inflated = sum([len(piece) async for piece in answer.aiter_bytes()])

    assert inflated == 3 * 2**20
    assert int(answer.headers["content-length"]) < 4096
    assert len(upstream.accepted) == 1


async def test_slow_answer_arrives_whole(proxy: FaultyProxy, client: httpx.AsyncClient) -> None:
    """Each byte restarts a read time-out, so only a deadline over all of them would strike."""
    proxy.add(ScriptedFault(fault=slow(1, 0.002)), ScriptedFault(fault=slow(8, 0.002, head=True)))

    assert [(await client.post(RUNS)).json() for _ in range(2)] == [RUN, RUN]


async def test_events_pass_through_live(upstream: Upstream, client: httpx.AsyncClient) -> None:
    """Upstream holds the second event back until the first was seen, so a proxy that buffers would wait for ever."""
    async with client.stream("GET", "/events") as answer:
        pieces = answer.aiter_text()
        with anyio.fail_after(PATIENCE_S):
            first = await anext(pieces)
            await client.get("/go-on")
            rest = "".join([piece async for piece in pieces])

    assert [first, rest] == [EVENTS[0], "".join(EVENTS[1:])]


@pytest.mark.parametrize(("fault", "sizes"), [(chop(), {1}), (chop((3, 2)), {3, 2, 1}), (chop(seed=5), None)])
async def test_chopped_events_are_read_in_pieces(
    proxy: FaultyProxy, client: httpx.AsyncClient, fault: Fault, sizes: set[int] | None
) -> None:
    proxy.add(ScriptedFault(path="/events", fault=fault))

    await client.get("/go-on")
    async with client.stream("GET", "/events") as answer:
        pieces = [piece async for piece in answer.aiter_raw()]

    assert b"".join(pieces).decode() == "".join(EVENTS)
    assert len(pieces) > len(EVENTS)
    assert sizes is None or {len(piece) for piece in pieces} <= sizes


async def test_event_stream_cut_inside_an_event(proxy: FaultyProxy, client: httpx.AsyncClient) -> None:
    proxy.add(ScriptedFault(path="/events", fault=cut_body(8)))
    seen: list[str] = []

    with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - what was read before the error counts too
        async with client.stream("GET", "/events") as answer:
            async for piece in answer.aiter_text():
                seen.append(piece)  # noqa: PERF401 - a comprehension would lose what came before the error

    assert seen == [EVENTS[0][:8]]


async def test_client_that_leaves_closes_upstream(
    upstream: Upstream, proxy: FaultyProxy, client: httpx.AsyncClient
) -> None:
    async with client.stream("GET", "/events") as answer:
        pieces = answer.aiter_text()
        await anext(pieces)

    assert await anyio.to_thread.run_sync(upstream.stream_left.wait, PATIENCE_S)
    await proxy.wait_for(lambda: proxy.open_connections == 0)


async def test_client_that_leaves_a_stall_closes_upstream(
    upstream: Upstream, proxy: FaultyProxy, client: httpx.AsyncClient
) -> None:
    proxy.add(ScriptedFault(path="/events", fault=stall_after(4)))

    async with client.stream("GET", "/events") as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"data"

    assert await anyio.to_thread.run_sync(upstream.stream_left.wait, PATIENCE_S)


async def test_request_is_forwarded_though_its_sender_left(upstream: Upstream, proxy: FaultyProxy) -> None:
    """As a server would: it has read the request, so the run is created."""
    with talking_to(proxy.url) as connection:
        connection.sendall(b"POST /v1/tasks/runs HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")

    await proxy.wait_for(lambda: [request.forwarded for request in proxy.requests] == [True])
    await proxy.wait_for(lambda: proxy.open_connections == 0)
    await upstream.wait_until_accepted(1)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal", CHUNKED_HEAD + b"4\r\nhal"]
)
async def test_upstream_that_leaves_closes_the_client(answer: bytes) -> None:
    async with raw_upstream(answer) as url, httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        with faulty(url) as proxy, pytest.raises(httpx.RemoteProtocolError):
            await client.get(proxy.url, timeout=PATIENCE_S)


async def test_refused_upstream_closes_the_client_and_counts_as_not_forwarded() -> None:
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        with refused_url() as url, faulty(url) as proxy:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(proxy.url + RUNS)

            assert [request.forwarded for request in proxy.requests] == [False]


async def test_answer_without_length_ends_with_the_connection() -> None:
    async with (
        raw_upstream(b"HTTP/1.1 200 OK\r\n\r\nhello") as url,
        httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client,
    ):
        with faulty(url) as proxy:
            assert (await client.get(proxy.url)).text == "hello"


async def test_one_connection_serves_many_requests(
    upstream: Upstream, proxy: FaultyProxy, client: httpx.AsyncClient
) -> None:
    """Lengths, chunks both ways, empty answers and own answers leave the connection in step."""
    proxy.add(ScriptedFault(path="/own", fault=respond(404, b"{}")))

    async def chunks() -> AsyncGenerator[bytes]:
        yield b'{"a":'
        yield b"1}"

    await client.post(RUNS, json={"b": 2})
    await client.post(RUNS, content=chunks())
    await client.get("/empty")
    await client.get("/go-on?now=1")
    await client.get("/events")
    await client.get("/own")

    assert proxy.open_connections == 1
    assert [json.loads(body) for body in upstream.accepted] == [{"b": 2}, {"a": 1}]
    assert [(request.path, request.query, request.body, request.forwarded) for request in proxy.requests] == [
        (RUNS, "", b'{"b":2}', True),
        (RUNS, "", b'{"a":1}', True),
        ("/empty", "", b"", True),
        ("/go-on", "now=1", b"", True),
        ("/events", "", b"", True),
        ("/own", "", b"", False),
    ]
    assert proxy.requests[0].headers["content-type"] == "application/json"


async def test_request_is_being_answered_until_its_client_leaves(proxy: FaultyProxy, client: httpx.AsyncClient) -> None:
    proxy.add(ScriptedFault(path="/events", fault=stall_after(4)))

    async with client.stream("GET", "/events"):
        assert (proxy.being_answered("/events"), proxy.being_answered("/.*s"), proxy.being_answered("/e")) == (1, 1, 0)

    await proxy.wait_for(lambda: proxy.being_answered(".*") == 0)


async def test_pipelined_requests_are_answered_in_turn(proxy: FaultyProxy) -> None:
    def talk() -> bytes:
        get = b"GET /empty HTTP/1.1\r\nhost: x\r\n\r\n"
        last = b"GET /empty HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        with talking_to(proxy.url) as connection:
            connection.sendall(get + last)
            return b"".join(iter(lambda: connection.recv(4096), b""))

    assert (await anyio.to_thread.run_sync(talk)).count(b"HTTP/1.1 204 No Content\r\n") == 2


async def test_first_matching_fault_with_times_left_strikes(proxy: FaultyProxy, client: httpx.AsyncClient) -> None:
    proxy.add(
        ScriptedFault(method="POST", path=RUNS, fault=respond(500), times=2, skip=1),
        ScriptedFault(method="POST", path=r"/v1/tasks/.*", fault=respond(503), times=None, skip=1),
        ScriptedFault(method="GET", path=r"/v1", fault=respond(418)),
    )

    statuses = [(await client.post(RUNS)).status_code for _ in range(5)]
    other = await client.get(RUNS)

    assert statuses == [202, 500, 500, 503, 503]
    assert other.status_code == 405


async def test_wait_for_gives_up(proxy: FaultyProxy) -> None:
    with pytest.raises(TimeoutError):
        await proxy.wait_for(lambda: proxy.open_connections == 1, timeout_s=0.01)


@pytest.mark.parametrize("at", [1000, 1.0])
async def test_cut_that_cannot_be_made_is_raised_by_the_proxy(upstream: Upstream, at: float) -> None:
    """A fault that silently did nothing would let a test pass that proves nothing."""
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        with pytest.raises(ExceptionGroup) as caught, faulty(upstream.url) as proxy:  # noqa: PT012
            proxy.add(ScriptedFault(fault=cut_body(at)))
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(proxy.url + RUNS)

    assert caught.group_contains(ValueError, match="nothing to cut")


async def test_error_in_the_block_is_raised_as_it_is(upstream: Upstream) -> None:
    with pytest.raises(KeyError), faulty(upstream.url):
        raise KeyError


@pytest.mark.parametrize("path", ["/unanswered", "/stalled", "/never-read"])
async def test_nothing_is_left_after_the_block(path: str) -> None:
    """Whatever is still in flight, the proxy's thread and sockets are gone and its clients are told."""
    flood = raw_stream(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2**24))
    with ExitStack() as ends:
        silent = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        await anyio.to_thread.run_sync(int)  # so that the worker thread of this loop is counted
        threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))

        with faulty(f"http://127.0.0.1:{silent.getsockname()[1]}") as proxy:
            proxy.add(ScriptedFault(path="/stalled", fault=stall()), ScriptedFault(path="/never-read", fault=flood))
            idle, busy = [ends.enter_context(talking_to(proxy.url)) for _ in range(2)]
            busy.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await proxy.wait_for(lambda: (proxy.open_connections, len(proxy.requests)) == (2, 1))

        with anyio.fail_after(PATIENCE_S):
            # Nothing announces that a thread is over or a file closed.
            while threading.active_count() > threads or len(os.listdir("/dev/fd")) > descriptors + 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError), talking_to(proxy.url):
            pass
