"""The one way in: a schema as a caller wrote it -> one that the API accepts, or an error to correct it by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.tasks.processors import Processor
from parallel_mcp.tasks.spec_schemas.bounds import excess_of
from parallel_mcp.tasks.spec_schemas.findings import Finding, Schema, error_text, warning_texts
from parallel_mcp.tasks.spec_schemas.outlines import object_of, outline
from parallel_mcp.tasks.spec_schemas.references import reference_errors
from parallel_mcp.tasks.spec_schemas.rewriting import MAX_EXPANDED_CHARS, Purpose, Rewriting, TooLarge
from parallel_mcp.tasks.spec_schemas.rules import Findings, lint

_ROOT_KEYWORDS = frozenset(
    [
        "type",
        "properties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "enum",
        "const",
        "required",
        "additionalProperties",
        "description",
        "$schema",
        "$defs",
        "definitions",
        "not",
        "if",
        "patternProperties",
    ]
)


@dataclass(frozen=True)
class PreparedSchema:
    """A schema that the API accepts, and what could be better about it, for the reader of a result."""

    schema: dict[str, Any]
    warnings: list[str]


def prepared_schema(
    given: Mapping[str, Any],
    *,
    argument: str = "output_schema",
    purpose: Purpose = "output",
    processor: Processor | None = None,
) -> PreparedSchema:
    """Rewrite a schema to the API's keywords and check it against the API's rules; preparing it again changes nothing.

    `processor` is for advice on the number of fields. An `input` schema keeps its optional fields optional.

    Raises:
        InvalidArguments: It cannot be used. The text has the place, the rule and a corrected version, in about 1,500
            characters, and of the caller's text only names of fields. Takes well below a second whatever comes;
            nothing is fetched, no pattern is run.
    """
    if excess := excess_of(given):
        advice = f"{excess}; the API takes 100 fields, five levels and 15,000 characters."
        raise InvalidArguments(error_text(argument, [Finding((), "size", advice)]))
    raw = _unwrapped(cast("Schema", given))
    schema, found = _rewritten(raw, purpose, processor)
    if found.errors:
        raise InvalidArguments(error_text(argument, found.errors))
    return PreparedSchema(schema, warning_texts(found.warnings))


def _rewritten(raw: Schema, purpose: Purpose, processor: Processor | None) -> tuple[Schema, Findings]:
    if errors := _shorthand_errors(raw) or reference_errors(raw):
        return {}, Findings(errors)
    rewriting = Rewriting(raw, purpose)
    try:
        schema = rewriting.schema()
    except TooLarge:
        advice = f"its definitions expand to more than {MAX_EXPANDED_CHARS:,} characters; use them less often."
        return {}, Findings([Finding((), "size", advice)])
    if rewriting.errors:
        return {}, Findings(rewriting.errors)
    found = lint(schema, purpose=purpose, processor=processor)
    return schema, Findings(found.errors, [*rewriting.warnings, *found.warnings])


def _unwrapped(given: Schema) -> Schema:
    """The schema itself, also from the wrapping of the API or of an OpenAI response format."""
    for keyword in ("output_schema", "json_schema", "schema"):
        inner = given.get(keyword)
        if isinstance(inner, dict) and not given.keys() & {"properties", "$ref"}:
            given = inner
    return given


def _shorthand_errors(given: Schema) -> list[Finding]:
    """The fields alone, such as `{"company": "string"}`, where a schema should be."""
    fields = {name: value for name, value in given.items() if isinstance(value, str | dict)}
    has_keywords = given.keys() & _ROOT_KEYWORDS and not isinstance(given.get("type"), dict)
    if not fields or has_keywords or fields.keys() != given.keys():
        return []
    advice = "these are fields and no schema yet; put them into `properties` of a root with type `object`."
    corrected = outline({"type": "object", "properties": dict(fields)})
    return [Finding((), "root-object", advice, corrected if "properties" in corrected else object_of())]
