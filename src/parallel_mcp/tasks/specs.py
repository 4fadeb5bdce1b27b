"""What a caller says of a task -> the API's task spec. Source: API reference, task spec rules."""

import json
from collections.abc import Mapping
from typing import Any

from parallel_mcp.api.models import JsonSchemaSpec, SourcePolicy, TaskSpec, TextSpec
from parallel_mcp.errors import InvalidArguments

MAX_SPEC_CHARS = 15_000
MAX_SPEC_AND_INPUT_CHARS = 25_000
MAX_DOMAINS = 200


def task_spec(output: str, output_schema: Mapping[str, Any]) -> TaskSpec:
    """The spec of an output that is described in words, or by a JSON Schema; a Markdown report if it is neither.

    Without a spec the larger processors invent a JSON structure of their own, which nobody asked for.

    Raises:
        InvalidArguments: Both are given, or the schema has no object root with properties.
    """
    if output and output_schema:
        raise InvalidArguments("Give `output` or `output_schema`, not both.")
    if output_schema:
        spec = TaskSpec(output_schema=JsonSchemaSpec(json_schema=_unwrapped(output_schema)))
    else:
        spec = TaskSpec(output_schema=TextSpec(description=output or None))
    if (length := _length(spec.body())) > MAX_SPEC_CHARS:
        raise InvalidArguments(
            f"The output description is {length:,} characters long as JSON; the limit is {MAX_SPEC_CHARS:,}."
        )
    return spec


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
        InvalidArguments: A key or a value is too long, or a value is neither text, number nor boolean.
    """
    texts: dict[str, str] = {}
    for key, value in pairs.items():
        if not isinstance(value, str | int | float | bool):
            raise InvalidArguments("`metadata` values are texts, numbers or booleans.")
        texts[key] = value if isinstance(value, str) else json.dumps(value)
        if len(key) > 16 or len(texts[key]) > 512:
            raise InvalidArguments("`metadata` keys hold at most 16 characters, values at most 512.")
    return texts or None


def _unwrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The raw JSON Schema, also when it comes in the API's own wrapping."""
    inner = schema.get("json_schema")
    raw: dict[str, Any] = dict(inner) if isinstance(inner, Mapping) else dict(schema)  # pyright: ignore[reportUnknownArgumentType]
    if raw.get("type") != "object" or not isinstance(raw.get("properties"), Mapping) or not raw["properties"]:
        raise InvalidArguments(
            "`output_schema` is a JSON Schema whose root has type `object` and non-empty `properties`, for example "
            '{"type":"object","properties":{"ceo_name":{"type":"string"}},"required":["ceo_name"]}.'
        )
    return raw


def _length(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False))
