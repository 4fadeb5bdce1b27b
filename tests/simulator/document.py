"""The published OpenAPI document, as a judge of single objects."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry


def document_path() -> Path | None:
    """Return where the document is, None when `PARALLEL_OPENAPI` does not say."""
    named = os.environ.get("PARALLEL_OPENAPI")
    return Path(named) if named else None


@cache
def validator(component: str) -> Draft202012Validator:
    path = document_path()
    assert path is not None
    document = json.loads(path.read_text("utf-8"))
    schema = {"$ref": f"#/components/schemas/{component}", "components": document["components"]}
    return Draft202012Validator(schema, registry=Registry())


def assert_is(component: str, value: Any) -> None:
    """Fail unless a value is what the document calls by this name."""
    validator(component).validate(value)  # pyright: ignore[reportUnknownMemberType]  # its stub is untyped


EVENTS = {
    "task_run.state": "TaskRunEvent",
    "task_run.progress_stats": "TaskRunProgressStatsEvent",
    "task_group_status": "TaskGroupStatusEvent",
    "error": "ErrorEvent",
    "findall.status": "FindAllRunStatusEvent",
    "findall.schema.updated": "FindAllSchemaUpdatedEvent",
}


def assert_is_event(event: dict[str, Any]) -> None:
    """Fail unless an event is what the document describes for its type."""
    is_candidate = event["type"].startswith("findall.candidate.")
    otherwise = "FindAllCandidateMatchStatusEvent" if is_candidate else "TaskRunProgressMessageEvent"
    assert_is(EVENTS.get(event["type"], otherwise), event)
