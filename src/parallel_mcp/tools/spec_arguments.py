"""Arguments of a tool made from a task spec, checked against its schema; the rules are those of `arguments`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.render.untrusted import one_line
from parallel_mcp.tasks.spec_schemas.findings import Schema
from parallel_mcp.tasks.specs import MAX_SPEC_AND_INPUT_CHARS
from parallel_mcp.tools.arguments import refuse_unknown, refuse_unsendable

if TYPE_CHECKING:
    from jsonschema import ValidationError

_MOST_PROBLEMS = 5
_MAX_CHOICES_CHARS = 400
_ACCEPTED = {
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
}


def read_spec_arguments(schema: Schema, given: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Check the arguments of a call against a published input schema.

    Raises:
        InvalidArguments: An argument is unknown, missing, or not what is accepted. Names paths, never values.
    """
    members = cast("dict[str, Schema]", schema["properties"])
    refuse_unknown(list(members), given)
    refuse_unsendable(given)
    if len(json.dumps(given, ensure_ascii=False)) > MAX_SPEC_AND_INPUT_CHARS:
        raise InvalidArguments(f"The arguments hold more than {MAX_SPEC_AND_INPUT_CHARS:,} characters as JSON.")
    read = cast("dict[str, JsonValue]", _read(given, schema))
    if not read and not schema.get("required"):
        raise InvalidArguments(f"Give at least one argument: {', '.join(members)}.")
    problems = _problems(schema, read)
    if problems:
        raise InvalidArguments("; ".join(problems))
    return read


def fits(schema: Schema, value: JsonValue) -> bool:
    """Whether a value fits a prepared schema. Nothing is fetched: such a schema has no references."""
    return next(_misfits(schema, value), None) is None


def _read(value: JsonValue | Mapping[str, Any], schema: Schema) -> JsonValue:
    """A value as it was meant: JSON text for a container is parsed, null and an empty text are absent."""
    kind = schema.get("type")
    if isinstance(value, str) and kind in ("object", "array"):
        value = _parsed(value, str(kind))
    if isinstance(value, list) and kind == "array":
        items = cast("Schema", schema["items"])
        return [_read(item, items) for item in value]
    properties, entries = schema.get("properties"), schema.get("additionalProperties")
    if not isinstance(value, Mapping) or kind != "object":
        return cast("JsonValue", value)
    members = cast("dict[str, Schema]", properties if isinstance(properties, dict) else {})
    others = entries if isinstance(entries, dict) else {}
    read = {name: _read(member, members.get(name, others)) for name, member in value.items()}
    return {name: member for name, member in read.items() if not _is_absent(member)}


def _parsed(text: str, kind: str) -> JsonValue:
    """The container that a text stands for; one item where a list is wanted. What is neither stays a text."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    refuse_unsendable(parsed)
    if isinstance(parsed, dict if kind == "object" else list):
        return cast("JsonValue", parsed)
    return [text] if kind == "array" and text.strip() else text


def _is_absent(value: JsonValue) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _problems(schema: Schema, given: JsonValue) -> list[str]:
    return list(dict.fromkeys(map(_problem_text, islice(_misfits(schema, given), _MOST_PROBLEMS))))


def _misfits(schema: Schema, value: JsonValue) -> Iterator[ValidationError]:
    from jsonschema import Draft202012Validator  # at the first call: a server that only lists its tools needs none

    return cast("Iterator[ValidationError]", Draft202012Validator(schema).iter_errors(cast("Any", value)))  # pyright: ignore[reportUnknownMemberType]


def _problem_text(error: ValidationError) -> str:
    """`path`: what is accepted. Names of arguments are the spec's; others are the caller's, shown cleaned and cut."""
    rule, wanted = str(error.validator), cast("Any", error.validator_value)
    place = _path(error.absolute_path)
    if rule == "required":
        missing = [name for name in wanted if name not in cast("dict[str, Any]", error.instance)]
        return "; ".join(f"`{_path([*error.absolute_path, name])}` is required" for name in missing)
    if rule == "additionalProperties":
        return _unknown_text(error, place)
    if rule == "type":
        return f"`{place}`: {_ACCEPTED.get(str(wanted), str(wanted))}"
    if rule == "enum":
        return f"`{place}`: one of {one_line(', '.join(map(str, wanted)), _MAX_CHOICES_CHARS)}"
    return f"`{place}`: does not fit the schema"


def _unknown_text(error: ValidationError, place: str) -> str:
    known = list(cast("dict[str, dict[str, Any]]", error.schema).get("properties", {}))
    unknown = next(name for name in cast("dict[str, Any]", error.instance) if name not in known)
    nearest = get_close_matches(unknown[:64], known, n=1, cutoff=0.4)
    advice = f"did you mean `{nearest[0]}`?" if nearest else f"there are {', '.join(known)}."
    return f"`{place}` has no `{one_line(unknown, 40)}`; {advice}"


def _path(parts: Iterable[str | int]) -> str:
    """`employees[2].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{one_line(part, 40)}" for part in parts)
    return text.lstrip(".") or "arguments"
