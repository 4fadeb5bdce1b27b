"""What only a real process shows: the wire itself, signals, and a start without a key."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from threading import Timer
from typing import IO, Any, cast

import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from mcp.types import Implementation

from parallel_mcp.server import build_server
from parallel_mcp.settings import load_settings
from tests.conftest import Upstream
from tests.connecting import KEY, LEGACY, MODERN, failure, stdio_server

LONGEST_S = 120.0
PATIENCE_S = 30.0

CALLS: dict[str, dict[str, Any]] = {
    "search": {"objective": "x"},
    "extract": {"urls": ["https://a.example"]},
    "create_task": {"input": "x"},
    "run_task": {"input": "x"},
    "create_task_group": {"inputs": ["x"]},
    "get_status": {},
    "get_result": {"id": "trun_1"},
    "watch_progress": {"id": "trun_1"},
    "view_run": {"id": "trun_1"},
}


@contextmanager
def server_process(
    upstream: Upstream, key: str = KEY, environment: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[str]]:
    """The server as a client starts it, with its streams in the hands of the test."""
    parameters = stdio_server(upstream.url, key, environment)
    command = [parameters.command, *parameters.args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=parameters.env, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        patience = Timer(LONGEST_S, process.kill)  # whoever waits for an answer that does not come is told
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def send(process: subprocess.Popen[str], number: int, method: str, token: str = "", **params: Any) -> None:
    """Send a request of the modern era."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    if token:
        meta["progressToken"] = token
    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": meta}}
    stdin = cast("IO[str]", process.stdin)
    stdin.write(json.dumps(request) + "\n")
    stdin.flush()


def messages_until_answer(process: subprocess.Popen[str], number: int) -> Iterator[dict[str, Any]]:
    """Every message up to the answer to a request."""
    for line in cast("IO[str]", process.stdout):
        message = json.loads(line)
        yield message
        if message.get("id") == number:
            return
    raise AssertionError("the server closed stdout before it answered")


def test_progress_precedes_the_answer_and_never_follows_it(upstream: Upstream) -> None:
    """A notification after its answer kills some clients' connection."""
    with server_process(upstream) as process:
        arguments = {"input": "grid storage", "metadata": {"sim": "never latency=120 messages=9"}}
        send(process, 1, "tools/call", name="create_task", arguments=arguments)
        *_, created = messages_until_answer(process, 1)
        run_id = created["result"]["structuredContent"]["run_id"]
        send(process, 2, "tools/call", token="t", name="watch_progress", arguments={"id": run_id})
        messages = messages_until_answer(process, 2)
        progress = [next(messages) for _ in range(3)]
        upstream.simulator.finish(run_id)
        *last, watched = messages
        progress += last
        send(process, 3, "tools/list")
        after = list(messages_until_answer(process, 3))

    assert watched["result"]["structuredContent"]["status"] == "completed"
    assert {message["method"] for message in progress} == {"notifications/progress"}
    values = [message["params"]["progress"] for message in progress]
    assert values == sorted(set(values))
    assert values[-1] == 100
    assert all(len(message["params"]["message"]) <= 200 for message in progress)
    assert [message["id"] for message in after] == [3]


def test_no_progress_is_sent_without_a_token(upstream: Upstream) -> None:
    """Notifications are only for callers that asked for them."""
    with server_process(upstream) as process:
        arguments = {"input": "grid storage", "metadata": {"sim": "latency=60"}}
        send(process, 1, "tools/call", name="create_task", arguments=arguments)
        *_, created = messages_until_answer(process, 1)
        run_id = created["result"]["structuredContent"]["run_id"]
        send(process, 2, "tools/call", name="watch_progress", arguments={"id": run_id})

        assert [message["id"] for message in messages_until_answer(process, 2)] == [2]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_ends_the_server_in_the_middle_of_a_watch(
    upstream: Upstream, number: signal.Signals, status: int
) -> None:
    """Clients stop servers with signals; one that stays is a zombie in the user's process list.

    The watch itself would go on for 45 seconds.
    """
    with server_process(upstream) as process:
        arguments = {"input": "grid storage", "metadata": {"sim": "never"}}
        send(process, 1, "tools/call", name="create_task", arguments=arguments)
        *_, created = messages_until_answer(process, 1)
        run_id = created["result"]["structuredContent"]["run_id"]
        send(process, 2, "tools/call", token="t", name="watch_progress", arguments={"id": run_id})
        first = next(messages_until_answer(process, 2))
        assert first["method"] == "notifications/progress"

        process.send_signal(number)

        assert process.wait(timeout=PATIENCE_S) == status
        assert "Traceback" not in cast("IO[str]", process.stderr).read()


def test_closed_stdin_ends_the_server(upstream: Upstream) -> None:
    """The way in which clients end a server when all is well."""
    with server_process(upstream) as process:
        send(process, 1, "tools/list")
        list(messages_until_answer(process, 1))

        cast("IO[str]", process.stdin).close()

        assert process.wait(timeout=PATIENCE_S) == 0


@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_without_a_key_tools_are_listed_and_each_call_says_how_to_set_it(upstream: Upstream, mode: str) -> None:
    """A first start without a key must lead a person to a working one."""
    async with Client(stdio_client(stdio_server(upstream.url, key="")), mode=mode) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        texts = {name: await failure(client, name, CALLS[name]) for name in listed}
        texts["get_status of one"] = await failure(client, "get_status", {"ids": ["trun_1"]})

    assert set(listed) == set(CALLS)
    for text in texts.values():
        assert "PARALLEL_API_KEY" in text
        assert '"mcpServers"' in text
        assert "https://platform.parallel.ai" in text
        assert "Code: missing_api_key" in text
    assert upstream.simulator.requests == []


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("claude-code", "claude mcp add"),
        ("Visual Studio Code", '{"servers"'),
        ("codex-mcp-client", "[mcp_servers.parallel]"),
        ("somebody", '{"mcpServers"'),
    ],
)
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_missing_key_is_explained_in_the_form_of_the_client(mode: str, name: str, form: str) -> None:
    """So that it can be pasted as it is."""
    client_info = Implementation(name=name, version="1")
    async with Client(build_server(load_settings()), mode=mode, client_info=client_info) as client:
        text = await failure(client, "search", {"objective": "x"})

    assert form in text
    assert len(text) < 700


def test_unusable_settings_are_named_and_their_values_are_not() -> None:
    """The message goes into log files of clients."""
    environment = {"PARALLEL_API_KEY": f"{KEY} with blanks", "PARALLEL_BASE_URL": "http://elsewhere.example"}
    command = [sys.executable, "-m", "parallel_mcp"]
    finished = subprocess.run(command, env=environment, input="", capture_output=True, text=True, check=False)

    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "PARALLEL_API_KEY" in finished.stderr
    assert "PARALLEL_BASE_URL must be https" in finished.stderr
    assert KEY not in finished.stderr


def test_key_can_come_from_a_file(upstream: Upstream) -> None:
    """Environment variables are visible to more people than a file with mode 0600."""
    with tempfile.NamedTemporaryFile("w", suffix=".key") as file:
        file.write(f"{KEY}\n")
        file.flush()
        with server_process(upstream, key="", environment={"PARALLEL_API_KEY_FILE": file.name}) as process:
            send(process, 1, "tools/call", name="search", arguments={"objective": "grid storage"})
            *_, answer = messages_until_answer(process, 1)

    assert answer["result"]["structuredContent"]["result_count"] > 0
    assert upstream.simulator.requests[0].headers["x-api-key"] == KEY
