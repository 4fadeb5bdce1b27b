"""The published OpenAPI document as referee: requests are made from it, and answers held against it.

Runs where `PARALLEL_OPENAPI` names the document.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# The types of schemathesis are partly unknown.

from __future__ import annotations

from itertools import count
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from starlette.types import Receive, Scope, Send

from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.simulator.calls import KEY, read_events
from tests.simulator.document import assert_is_event, document_path

PATH = document_path()
if PATH is None:
    pytest.skip("PARALLEL_OPENAPI does not name the OpenAPI document", allow_module_level=True)

OPERATIONS = schemathesis.openapi.from_path(PATH).include(path_regex=r"^/v1/(search|extract|tasks)|^/v1beta/tasks/")
CONFORMANCE: list[Any] = CHECKS.get_by_names(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)
SCHEMA_CONFORMANCE: list[Any] = CHECKS.get_by_names(["response_schema_conformance"])
EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
# The document leaves these out; the API reference expects or implies them (sections 3.2 and 12).
UNDOCUMENTED = {
    ("GET /v1/tasks/groups/{taskgroup_id}", 404),
    ("POST /v1/tasks/groups/{taskgroup_id}/runs", 403),
    ("POST /v1/tasks/groups/{taskgroup_id}/runs", 404),
}


class Subject:
    """A simulator with a run and a group, addressed by every second request."""

    def __init__(self) -> None:
        config = SimulatorConfig(speed=1e6, balance_usd=1e9, creates_per_minute=10**9, searches_per_minute=10**9)
        self.simulator = Simulator(config)
        self.numbers = count()
        self.ids = self._created()

    def _created(self) -> dict[str, str]:
        with serving(self.simulator) as url, httpx.Client(base_url=url, headers=KEY) as http:
            group = http.post("/v1/tasks/groups", json={}).json()["taskgroup_id"]
            runs = {"inputs": [{"input": "Offshore wind", "processor": "pro"}]}
            run_id = http.post(f"/v1/tasks/groups/{group}/runs", json=runs).json()["run_ids"][0]
        return {"taskgroup_id": group, "run_id": run_id}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a valid key: other checks than these are about keys."""
        headers = [header for header in scope.get("headers", []) if header[0] != b"x-api-key"]
        await self.simulator.app({**scope, "headers": [*headers, (b"x-api-key", b"key")]}, receive, send)

    def aim(self, case: schemathesis.Case[Any]) -> None:
        """Let every second request name what exists: ids and processors are free strings in the document."""
        if next(self.numbers) % 2:
            return
        for name in self.ids.keys() & (case.path_parameters or {}).keys():
            case.path_parameters[name] = self.ids[name]
        _name_processors(case.body)


def _name_processors(body: Any) -> None:
    for run in [body, *(body.get("inputs") or [])] if isinstance(body, dict) else []:
        if isinstance(run, dict) and isinstance(run.get("processor"), str):
            run["processor"] = "core"


SUBJECT = Subject()


@OPERATIONS.parametrize()
@EXAMPLES
def test_every_answer_is_one_the_document_describes(case: schemathesis.Case[Any]) -> None:
    """Status, content type and body of any request, sensible or not; never a 5xx."""
    SUBJECT.aim(case)

    response = case.call(app=SUBJECT)

    streams = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
    if streams:
        _assert_events(response.content)
    if (case.operation.label, response.status_code) not in UNDOCUMENTED:
        case.validate_response(response, checks=CONFORMANCE, excluded_checks=SCHEMA_CONFORMANCE if streams else [])


def _assert_events(body: bytes) -> None:
    """The document describes the JSON of each event; schemathesis takes that for the event itself."""
    stream = httpx.Response(200, content=body, headers={"content-type": "text/event-stream"})
    for event in read_events(stream):
        assert_is_event(event)
