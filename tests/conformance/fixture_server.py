"""A server of the project's own class with what the conformance suite wants to find there. For tests only.

`python -m tests.conformance.fixture_server [--sessions]` serves it on a free port of loopback, and says where on
stderr. Sessions are for legacy scenarios in which the server asks the client; the product keeps none.
"""

import sys

import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.types import EmptyResult, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams
from starlette.types import ASGIApp

from parallel_mcp.http.app import MCP_PATH, http_app
from parallel_mcp.server import ParallelServer, build_server
from parallel_mcp.settings import Settings, load_settings
from parallel_mcp.tools.call import App
from tests.conformance.fixture_content import binary_resource, content_prompts, content_resources, content_tools
from tests.conformance.fixture_questions import question_prompts, question_tools
from tests.conformance.fixture_tasks import FixtureTasks


class FixtureServer(ParallelServer):
    """The project's server, and three legacy methods that the product does not offer over HTTP."""

    def __init__(self, settings: Settings) -> None:
        tasks = FixtureTasks()
        super().__init__(
            name="conformance-fixture",
            version="1",
            tools=[*content_tools(), *question_tools(), *tasks.tools()],
            offered_resources=content_resources(),
            tasks=tasks,
            lifespan=build_server(settings).settings.lifespan,
            log_level="WARNING",
            subscriptions=False,
        )
        self.add_resource(binary_resource())
        for prompt in (*content_prompts(), *question_prompts()):
            self.add_prompt(prompt)
        server = self._lowlevel_server
        server.add_request_handler("logging/setLevel", SetLevelRequestParams, self._done)
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._done)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._done)

    async def _done(self, ctx: ServerRequestContext[App], params: object) -> EmptyResult:
        return EmptyResult()


def application(sessions: bool) -> ASGIApp:
    """Without sessions as the project serves HTTP, with them as the SDK does."""
    settings = load_settings({"api_key": "fixture-key", "auth": "local", "ledger": "memory"})
    server = FixtureServer(settings)
    return server.streamable_http_app(streamable_http_path=MCP_PATH) if sessions else http_app(server, settings)


def serve(sessions: bool) -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(application(sessions), port=0, log_level="critical")
    listener = config.bind_socket()
    listener.listen()
    sys.stderr.write(f"Serving MCP at http://127.0.0.1:{listener.getsockname()[1]}{MCP_PATH}\n")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve("--sessions" in sys.argv)
