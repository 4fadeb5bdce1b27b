"""Watching under load: what a `watch_progress` call costs the server, and how late its notifications are.

    python benchmarks/watch.py [watches ...]

Three processes on loopback: an upstream of our own that speaks just the endpoints a watch needs (the simulator's
stories cost more than the server under test), `parallel-mcp serve --http`, and this one, which is the client. Every
watch has a run of its own, whose events hold the time of their sending; a run has an event a second at most, so that
none is left out by the limit of two notifications a second. For each number of watches a fresh server is started and
all watches begin at once. Latency counts from one second after all
are open. "bare" is the same number of the same
streams read with httpx-sse in a loop, without a server. At last 500 watchers of one run.

Exits with 1 if a call failed or if the watchers of one run did not share one stream.
"""

import asyncio
import json
import multiprocessing
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, cast

import anyio
import httpx
from httpx_sse import EventSource

WATCHES = (100, 1_000, 2_000)
WATCHERS_OF_ONE_RUN = 500
EVENTS_PER_S = 500
BARE_S = 10.0
OPENING_LIMIT_S = 60.0
PATIENCE_S = 60.0  # beyond what is measured: a machine may be so busy that all is late, and nothing failed
SETTLING_S = (
    1.0  # news that came while the last watches opened are held back by the limit of two notifications a second
)

MAX_KB_PER_WATCH = 120
MAX_P99_MS = 250

_SPAWN = multiprocessing.get_context("spawn")
_SENT_AT = re.compile(rb"sent at (\d+\.\d+)")


def main() -> int:
    """Measure and print; the exit status."""
    sizes = [int(size) for size in sys.argv[1:]] or WATCHES
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    failures = 0
    with upstream() as url:
        for watches in sizes:
            outcome = run_load(url, [run_id(number, watches) for number in range(watches)], watches)
            print_outcome(f"{watches} watches", outcome, bare_latencies_ms(url, watches))
            failures += len(outcome.errors)
        watchers = min(WATCHERS_OF_ONE_RUN, max(sizes))
        shared = run_load(url, ["trun_1000_0"] * watchers, watchers)
        print_outcome(f"{watchers} watchers of one run", shared)
        print(f"  upstream connections: {shared.upstream_streams} (goal: 1)")
    return 1 if failures or shared.errors or shared.upstream_streams != 1 else 0


# ---- what is measured


@dataclass
class Outcome:
    """What a load came to. Times in seconds, of the machine's monotonic clock, which all processes share."""

    watches: int
    started_at: float = 0.0
    open_at: float = float("inf")
    all_open: asyncio.Event = field(default_factory=asyncio.Event)
    first_news_s: list[float] = field(default_factory=list[float])
    latencies_ms: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    answers: int = 0
    kb_per_watch: float = 0.0
    upstream_streams: int = 0

    def heard(self, data: bytes, *, first: bool) -> None:
        """Note a notification with news of the run."""
        now = time.monotonic()
        if first:
            self.first_news_s.append(now - self.started_at)
            if len(self.first_news_s) == self.watches:
                self.open_at = now
                self.all_open.set()
        sent = _SENT_AT.search(data)
        if sent and float(sent[1]) > self.open_at + SETTLING_S:
            self.latencies_ms.append((now - float(sent[1])) * 1000)


def run_load(url: str, run_ids: Sequence[str], watches: int) -> Outcome:
    """Watch every run at once, on a fresh server, until the watches are over."""
    with server(url) as (address, process_id):
        return asyncio.run(_load(url, address, process_id, run_ids, Outcome(watches)))


async def _load(url: str, address: str, process_id: int, run_ids: Sequence[str], outcome: Outcome) -> Outcome:
    host, _, port = address.removeprefix("http://").rpartition(":")
    wait_s = 12 + len(run_ids) / 100
    await _warm_up(url, host, int(port))
    before_kb, opened_before = resident_kb(process_id), streams_opened(url)
    outcome.started_at = time.monotonic()
    async with asyncio.TaskGroup() as watching:
        for run in run_ids:
            watching.create_task(_watch(host, int(port), run, wait_s, outcome))
        await asyncio.sleep(wait_s - 2)
        outcome.kb_per_watch = (resident_kb(process_id) - before_kb) / len(run_ids)
    if outcome.answers < len(run_ids) and not outcome.errors:
        outcome.errors.append(f"{len(run_ids) - outcome.answers} watches gave no answer")
    outcome.upstream_streams = streams_opened(url) - opened_before
    return outcome


async def _warm_up(url: str, host: str, port: int) -> None:
    """Pay what the first call of all costs once; its stream is open afterwards, so that it counts for no load."""
    opened_before = streams_opened(url)
    async with asyncio.timeout(PATIENCE_S):
        while streams_opened(url) == opened_before:
            await _watch(host, port, "trun_1000_warm", 0.5, Outcome(1))


async def _watch(host: str, port: int, run: str, wait_s: float, outcome: Outcome) -> None:
    """One `watch_progress` call as raw HTTP: a client library would cost more than the server."""
    try:
        async with asyncio.timeout(wait_s + PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_request(run, wait_s))
                await _read_answer(reader, outcome)
            finally:
                writer.close()
    except (OSError, ValueError, KeyError, TimeoutError) as error:
        outcome.errors.append(f"{type(error).__name__}: {error}")


async def _read_answer(reader: asyncio.StreamReader, outcome: Outcome) -> None:
    status = await reader.readline()
    if b" 200 " not in status:
        raise ValueError(f"answered {status!r}")
    first = True
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if b'"notifications/progress"' not in line:
            state = json.loads(line.removeprefix(b"data: "))["result"]["structuredContent"]
            if not state["is_active"]:
                raise ValueError("the watch ended early")
            outcome.answers += 1
            return
        if b"running" in line:
            outcome.heard(line, first=first)
            first = False


def _request(run: str, wait_s: float) -> bytes:
    meta: dict[str, object] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": run,
    }
    arguments = {"id": run, "timeout_s": wait_s}
    params: dict[str, object] = {"name": "watch_progress", "arguments": arguments, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    head = (
        "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json, text/event-stream\r\n"
        "content-type: application/json\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\n"
        f"mcp-name: watch_progress\r\nx-api-key: benchmark\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def resident_kb(process_id: int) -> int:
    """Memory that a process holds."""
    return int(subprocess.run(["ps", "-o", "rss=", "-p", str(process_id)], capture_output=True, check=True).stdout)


def streams_opened(url: str) -> int:
    """How many event streams the upstream has been asked for so far."""
    return cast("int", httpx.get(f"{url}/streams-opened", timeout=PATIENCE_S).json())


# ---- what is printed


def print_outcome(title: str, outcome: Outcome, bare_ms: Sequence[float] = ()) -> None:
    """The figures of one load, with the goals."""
    print(f"{title}: {len(outcome.errors)} errors{''.join(f'; {error}' for error in sorted(set(outcome.errors))[:3])}")
    print(f"  memory per watch: {outcome.kb_per_watch:.0f} KB (goal: {MAX_KB_PER_WATCH})")
    if len(outcome.latencies_ms) < 2:
        print("  the watches did not all open in time, so there is no latency")
        return
    median_first_s, p99_first_s = _median_and_p99(outcome.first_news_s)
    median_ms, p99_ms = _median_and_p99(outcome.latencies_ms)
    print(f"  all begun at once, first news after: median {median_first_s:.2f} s, p99 {p99_first_s:.2f} s")
    print(
        f"  event to notification: median {median_ms:.1f} ms, p99 {p99_ms:.1f} ms (goal at 1,000: {MAX_P99_MS}), "
        f"of {len(outcome.latencies_ms)}"
    )
    if len(bare_ms) > 1:
        bare_median_ms, bare_p99_ms = _median_and_p99(bare_ms)
        print(
            f"  ratio ours/bare: median {median_ms / bare_median_ms:.1f}, p99 {p99_ms / bare_p99_ms:.1f} "
            f"(bare: {bare_median_ms:.1f} ms, {bare_p99_ms:.1f} ms)",
            flush=True,
        )


def _median_and_p99(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values), statistics.quantiles(values, n=100)[98]


# ---- the server under test


@contextmanager
def server(url: str) -> Generator[tuple[str, int]]:
    """A fresh server over HTTP that uses the API at `url`: its address and process id."""
    command = [sys.executable, "-m", "parallel_mcp", "serve", "--http", "--port", "0"]
    environment = {**os.environ, "PARALLEL_BASE_URL": url, "PARALLEL_MCP_LEDGER": "memory"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split()[-1].removesuffix("/mcp")
        # A full pipe would stop the server.
        threading.Thread(target=shutil.copyfileobj, args=(process.stderr, sys.stderr), daemon=True).start()
        try:
            yield address, process.pid
        finally:
            process.terminate()


# ---- the bare loop


def bare_latencies_ms(url: str, streams: int) -> list[float]:
    """Latencies of the events of as many streams, read without a server in a process of its own."""
    ours, theirs = _SPAWN.Pipe()
    reading = _SPAWN.Process(target=_read_bare, args=(url, streams, theirs), daemon=True)
    reading.start()
    theirs.close()
    latencies_ms = cast("list[float]", ours.recv())
    reading.join()
    return latencies_ms


def _read_bare(url: str, streams: int, results: Connection) -> None:
    outcome = Outcome(streams)
    asyncio.run(_read_all(url, outcome))
    results.send(outcome.latencies_ms)


async def _read_all(url: str, outcome: Outcome) -> None:
    tls = httpx.create_ssl_context()

    async def read(run: str) -> None:
        async with (
            httpx.AsyncClient(verify=tls, timeout=None) as client,
            client.stream("GET", f"{url}/v1/tasks/runs/{run}/events") as response,
        ):
            first = True
            async for event in EventSource(response).aiter_sse():
                outcome.heard(event.data.encode(), first=first)
                first = False

    async with anyio.create_task_group() as reading:
        for number in range(outcome.watches):
            reading.start_soon(read, run_id(number, outcome.watches))
        with anyio.fail_after(OPENING_LIMIT_S):
            await outcome.all_open.wait()
        await anyio.sleep(BARE_S)
        reading.cancel_scope.cancel()


# ---- the upstream


def run_id(number: int, watches: int) -> str:
    """A run whose events come so far apart that all runs together have 500 a second, or one a second each."""
    return f"trun_{max(1_000, watches * 1_000 // EVENTS_PER_S)}_{number}"


@contextmanager
def upstream() -> Generator[str]:
    """The upstream in a process of its own; gives its address."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve_upstream, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield cast("str", ours.recv())
    finally:
        process.terminate()
        process.join()


def _serve_upstream(address: Connection) -> None:
    asyncio.run(_Upstream().serve(address))


class _Upstream:
    """State and event stream of any run that is asked for: `trun_<milliseconds between events>_<number>`."""

    def __init__(self) -> None:
        self._streams_opened = 0

    async def serve(self, address: Connection) -> None:
        listening = await asyncio.start_server(self._answer, "127.0.0.1", backlog=4096)
        address.send(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        await listening.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                if path.endswith("/events"):
                    await self._stream(path.split("/")[-2], reader, writer)
                    break
                body = json.dumps(self._streams_opened if path == "/streams-opened" else _run(path.split("/")[-1]))
                writer.write(_HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body.encode())
        writer.close()

    async def _stream(self, run: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams_opened += 1
        async with _closed_by_peer(reader) as gone:
            writer.write(_HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n")
            writer.write(_event({"type": "task_run.state", "event_id": None, "run": _run(run)}))
            interval_s = int(run.split("_")[1]) / 1000
            next_at = time.monotonic() + interval_s * (self._streams_opened * 0.618 % 1)  # evenly, in no order
            while not gone.is_set():
                await asyncio.sleep(next_at - time.monotonic())
                message = f"Reading a page, sent at {time.monotonic():.6f}"
                kind = "task_run.progress_msg.tool"
                writer.write(_event({"type": kind, "message": message, "timestamp": str(next_at)}))
                next_at += interval_s


@asynccontextmanager
async def _closed_by_peer(reader: asyncio.StreamReader) -> AsyncGenerator[asyncio.Event]:
    gone = asyncio.Event()

    async def wait() -> None:
        with suppress(ConnectionError):
            await reader.read()
        gone.set()

    waiting = asyncio.create_task(wait())
    try:
        yield gone
    finally:
        waiting.cancel()


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"


def _run(run: str) -> dict[str, Any]:
    return {"run_id": run, "status": "running", "is_active": True, "processor": "core"}


def _event(content: dict[str, Any]) -> bytes:
    block = f"event: {content['type']}\ndata: {json.dumps(content)}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(block), block)


if __name__ == "__main__":
    sys.exit(main())
