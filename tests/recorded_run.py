"""A run whose every byte is written by the test: what its event stream sends, and what its status says meanwhile."""

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SecretStr

from parallel_mcp.api.client import ParallelApi
from parallel_mcp.api.connections import Connections
from tests.connecting import KEY
from tests.faults import Fault, FaultyProxy, ScriptedFault, faulty, raw_stream
from tests.faults.wire import LAST_CHUNK, Ending, Exchange, frame_chunk

RUN_ID = "trun_recorded"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Json = dict[str, Any]


def run_object(status: str = "running", run_id: str = RUN_ID, **fields: Any) -> Json:
    """A run as the API shows it."""
    is_active = status in ("queued", "running", "cancelling")
    return {"run_id": run_id, "status": status, "is_active": is_active, "processor": "core-fast", **fields}


def state(status: str = "running", run_id: str = RUN_ID, **fields: Any) -> Json:
    """A `task_run.state` event."""
    return {"type": "task_run.state", "event_id": None, "run": run_object(status, run_id), **fields}


def message(text: str, at: str = "") -> Json:
    """A `task_run.progress_msg` event."""
    return {"type": "task_run.progress_msg.search", "message": text, "timestamp": at or text[:40]}


def stats(meter: float | None, read: int = 1) -> Json:
    """A `task_run.progress_stats` event."""
    sources = {"num_sources_considered": 2 * read, "num_sources_read": read, "sources_read_sample": None}
    return {"type": "task_run.progress_stats", "source_stats": sources, "progress_meter": meter}


def event(content: Json) -> bytes:
    """An event as the API writes it."""
    return f"event: {content['type']}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def events(*contents: Json) -> bytes:
    """Several events."""
    return b"".join(event(content) for content in contents)


def stream_of(*pieces: bytes, then: Literal["end", "cut", "reset", "hang"] = "end") -> Fault:
    """A stream of these pieces, which the client reads apart, and how it ends; "end" alone is orderly."""
    body = STREAM_HEAD + b"".join(frame_chunk(piece) for piece in pieces if piece)
    match then:
        case "end":
            return raw_stream(body + LAST_CHUNK)
        case "cut":
            return raw_stream(body)
        case "reset" | "hang":
            return raw_stream(body, then=then)


@dataclass
class RecordedRun:
    """The run behind a proxy that answers everything itself. `status` is what is answered from now on."""

    proxy: FaultyProxy
    status: str = "running"

    def streams(self, *faults: Fault) -> None:
        """What each connection to the stream gets from now on; the last one is for all that follow."""
        self.proxy.clear()
        self.proxy.add(ScriptedFault(path=r"/v1/tasks/runs/[^/]+", fault=self._tell_status, times=None))
        for fault in faults[:-1]:
            self.proxy.add(ScriptedFault(path=".*/events", fault=fault))
        self.proxy.add(ScriptedFault(path=".*/events", fault=faults[-1], times=None))

    def count(self, suffix: str) -> int:
        """How many requests there were for paths that end so."""
        return sum(request.path.endswith(suffix) for request in self.proxy.requests)

    async def _tell_status(self, exchange: Exchange) -> Ending:
        """Answer a question for the status."""
        body = json.dumps(run_object(self.status, exchange.request.path.rpartition("/")[2])).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await exchange.send(head.encode() + body)
        return "keep"


@contextmanager
def recorded_run() -> Generator[RecordedRun]:
    """A run that is running, and whose streams are still to be told."""
    with faulty("http://127.0.0.1:9") as proxy:
        yield RecordedRun(proxy)


@asynccontextmanager
async def connected_api(url: str) -> AsyncGenerator[ParallelApi]:
    """The API without tools around it, for what has too many cases, or takes too long, with them."""
    connections = Connections(url)
    try:
        yield ParallelApi(connections, SecretStr(KEY))
    finally:
        await connections.aclose()
