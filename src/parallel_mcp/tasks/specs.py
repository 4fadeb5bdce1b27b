"""What a caller says of a task -> the API's task spec. Source: API reference, task spec rules."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from parallel_mcp.api.models import JsonSchemaSpec, SourcePolicy, TaskSpec, TextSpec
from parallel_mcp.errors import InvalidArguments
from parallel_mcp.tasks.processors import Processor

MAX_SPEC_CHARS = 15_000
MAX_SPEC_AND_INPUT_CHARS = 25_000
MAX_DOMAINS = 200
TOOL_LABEL = "mcp_tool"
"""In the metadata of a run: the tool of a task spec that started it, whose form its result then has in any process."""


def _day(text: str) -> str:
    try:
        if text and date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    if text:
        raise ValueError("a day written YYYY-MM-DD")
    return text


Domains = list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=253)]]
Day = Annotated[str, AfterValidator(_day)]


@dataclass(frozen=True)
class PreparedSpec:
    """A spec that the API accepts, and what could be better about its schema."""

    spec: TaskSpec
    warnings: list[str] = field(default_factory=list[str])


def task_spec(output: str, output_schema: Mapping[str, Any], processor: Processor | None) -> PreparedSpec:
    """The spec of an output that is described in words, or by a JSON Schema; a Markdown report if it is neither.

    Without a spec the larger processors invent a JSON structure of their own, which nobody asked for.

    Raises:
        InvalidArguments: Both are given, one is too long, or the schema breaks a rule, see `prepared_schema`.
    """
    if output and output_schema:
        raise InvalidArguments("Give `output` or `output_schema`, not both.")
    if output_schema:
        # Imported with the first schema: many sessions never send one, and the start should be short.
        from parallel_mcp.tasks.spec_schemas.preparing import prepared_schema

        prepared = prepared_schema(output_schema, processor=processor)
        return PreparedSpec(TaskSpec(output_schema=JsonSchemaSpec(json_schema=prepared.schema)), prepared.warnings)
    spec = TaskSpec(output_schema=TextSpec(description=output or None))
    if (length := _length(spec.body())) > MAX_SPEC_CHARS:
        raise InvalidArguments(
            f"The output description is {length:,} characters long as JSON; the limit is {MAX_SPEC_CHARS:,}."
        )
    return PreparedSpec(spec)


def task_input(text: str, fields: dict[str, Any], spec: TaskSpec) -> str | dict[str, Any]:
    """The input of a run: a text or an object, exactly one of them.

    Raises:
        InvalidArguments: Both or neither are given, or spec and input together are too long.
    """
    if bool(text.strip()) == bool(fields):
        raise InvalidArguments("Give exactly one of `input` (text) and `input_fields` (object).")
    value = fields or text
    if (length := _length(value) + _length(spec.body())) > MAX_SPEC_AND_INPUT_CHARS:
        raise InvalidArguments(
            f"Input and output description together are {length:,} characters long as JSON; "
            f"the limit is {MAX_SPEC_AND_INPUT_CHARS:,}. Shorten the input."
        )
    return value


def source_policy(include_domains: list[str], exclude_domains: list[str], after_date: str) -> SourcePolicy | None:
    """The source policy, or None if nothing is limited.

    Raises:
        InvalidArguments: More than 200 domains in all.
    """
    if len(include_domains) + len(exclude_domains) > MAX_DOMAINS:
        raise InvalidArguments(f"`include_domains` and `exclude_domains` hold at most {MAX_DOMAINS} domains together.")
    if not (include_domains or exclude_domains or after_date):
        return None
    return SourcePolicy(
        include_domains=include_domains or None,
        exclude_domains=exclude_domains or None,
        after_date=after_date or None,
    )


def metadata(pairs: Mapping[str, Any]) -> dict[str, str] | None:
    """Metadata as the API takes it: texts, keys of at most 16 characters, values of at most 512.

    Raises:
        InvalidArguments: A key or a value is too long, a value is neither text, number nor boolean, or a key is ours.
    """
    texts: dict[str, str] = {}
    for key, value in pairs.items():
        if key == TOOL_LABEL:
            raise InvalidArguments(f"`metadata` cannot have the key `{TOOL_LABEL}`: it names the tool of a task spec.")
        if not isinstance(value, str | int | float | bool):
            raise InvalidArguments("`metadata` values are texts, numbers or booleans.")
        texts[key] = value if isinstance(value, str) else json.dumps(value)
        if len(key) > 16 or len(texts[key]) > 512:
            raise InvalidArguments("`metadata` keys hold at most 16 characters, values at most 512.")
    return texts or None


def _length(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False))
