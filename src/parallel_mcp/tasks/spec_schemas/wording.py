"""What the API's schemas cannot say, in words for a description. Patterns are quoted, never run."""

from __future__ import annotations

import json
from typing import NamedTuple

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.findings import Finding, Path, Refused, Schema
from parallel_mcp.tasks.spec_schemas.outlines import outline

MAX_QUOTED_CHARS = 300

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} entries",
    "maxProperties": "at most {} entries",
    "minContains": "at least {} of these",
    "maxContains": "at most {} of these",
}
_FORMATS = {
    "date": "a date as YYYY-MM-DD",
    "date-time": "a date and time as YYYY-MM-DDThh:mm:ssZ",
    "time": "a time as hh:mm:ss",
    "duration": "a duration as in ISO 8601, such as P3D",
    "email": "an e-mail address",
    "uri": "a URL with http:// or https://",
    "url": "a URL with http:// or https://",
    "hostname": "a host name",
    "uuid": "a UUID",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
}
_EXCLUSIVE = {"minimum": "exclusiveMinimum", "maximum": "exclusiveMaximum"}
_AS_JSON = (
    "contains",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
)
WORDED = frozenset([*_BOUNDS, *_AS_JSON, "pattern", "format", "uniqueItems", "propertyNames"])
"""Keywords whose content goes into the description."""
_LARGEST_SAFE_INTEGER = 2**53 - 1  # a bound that zod gives to every integer; it says nothing

_IMPLIED_TYPES = {
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "array": ("minItems", "maxItems", "uniqueItems", "contains"),
    "object": ("minProperties", "maxProperties", "propertyNames"),
}


class Wording(NamedTuple):
    """Constraints in words, and a remark if one of them could not be put into words."""

    words: list[str]
    left_out: list[str]


def implied_type(given: Schema) -> str | None:
    """The type that a schema without `type` is about, by its constraints."""
    kinds = [kind for kind, keywords in _IMPLIED_TYPES.items() if any(keyword in given for keyword in keywords)]
    return kinds[0] if len(kinds) == 1 else None


def constraints_in_words(given: Schema, place: Path) -> Wording:
    """Each constraint of a schema, such as `at least 0`.

    Raises:
        Refused: A constraint has a value of the wrong kind, or is too long to be put into words.
    """
    words: list[str] = []
    left_out: list[str] = []
    for keyword, value in given.items():
        if keyword in _BOUNDS:
            words += _bound(keyword, value, given, place)
        elif keyword == "format":
            words += _format(value, given, place)
        elif keyword == "pattern":
            pattern_words = _pattern(value, given, place)
            words += pattern_words
            left_out += [] if pattern_words or "format" in given else ["pattern"]
        elif keyword == "uniqueItems":
            words += ["no item twice"] if value is True else []
        elif keyword == "propertyNames":
            words += _keys(value, given, place)
        elif keyword in _AS_JSON and not isinstance(value, bool):
            words.append(in_json(keyword, value, given, place))
    return Wording(words, left_out)


def in_json(keyword: str, value: JsonValue, given: Schema, place: Path) -> str:
    """A keyword and its value as text: `contains {"const": 3}`.

    Raises:
        Refused: It is longer than 300 characters, or refers to another part of the schema.
    """
    text = quoted(value, MAX_QUOTED_CHARS)
    if not text or '"$ref"' in text or '"$dynamicRef"' in text:
        advice = f'"{keyword}" is not supported here; say it in the description.'
        raise Refused(Finding(place, "unsupported-keyword", advice, outline(given)))
    return f"{keyword} {text}"


def quoted(value: JsonValue, max_chars: int) -> str:
    """A value as JSON; empty if that is longer. Writes no more of a large value than it needs to see that."""
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        text += part
        if len(text) > max_chars:
            return ""
    return text


def sentence(words: list[str]) -> str:
    """`At least 0, at most 100.`"""
    text = ", ".join(dict.fromkeys(words))
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def joined(*texts: str) -> str:
    """Texts as sentences of one paragraph, each once."""
    told: list[str] = []
    for text in texts:
        if text.strip() and not any(text in earlier for earlier in told):
            if told and told[-1].rstrip()[-1] not in ".!?:;)":
                told[-1] = told[-1].rstrip() + "."
            told.append(text)
    return " ".join(told)


def _bound(keyword: str, value: JsonValue, given: Schema, place: Path) -> list[str]:
    if isinstance(value, bool) and keyword in _EXCLUSIVE.values():
        return []  # as in OpenAPI 3.0: said with the bound it belongs to
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(_of_wrong_kind(keyword, "a number", given, place))
    if abs(value) == _LARGEST_SAFE_INTEGER or (value <= 0 and keyword.startswith("min") and keyword != "minimum"):
        return []
    if value == 1 and keyword == "minLength":
        return ["not empty"]
    if given.get(_EXCLUSIVE.get(keyword, "")) is True:
        keyword = _EXCLUSIVE[keyword]
    number = int(value) if value == int(value) else value
    words = _BOUNDS[keyword].format(number)
    return [words.removesuffix("s") if number == 1 and keyword.endswith(("Length", "Items")) else words]


def _format(value: JsonValue, given: Schema, place: Path) -> list[str]:
    if not isinstance(value, str) or len(value) > MAX_QUOTED_CHARS:
        raise Refused(_of_wrong_kind("format", "a short text", given, place))
    return [_FORMATS.get(value, f"format {value}")]


def _pattern(value: JsonValue, given: Schema, place: Path) -> list[str]:
    """A pattern beside a known format says the same again, at length, in schemas made by zod."""
    if not isinstance(value, str):
        raise Refused(_of_wrong_kind("pattern", "a text", given, place))
    named = given.get("format")
    if len(value) > MAX_QUOTED_CHARS or (isinstance(named, str) and named in _FORMATS):
        return []
    return [f"matching the pattern {value}"]


def _keys(value: JsonValue, given: Schema, place: Path) -> list[str]:
    if isinstance(value, bool) or value == {"type": "string"}:
        return []
    return [in_json("propertyNames", value, given, place)]


def _of_wrong_kind(keyword: str, kind: str, given: Schema, place: Path) -> Finding:
    return Finding(place, "keyword-value", f'"{keyword}" is {kind}.', outline(given))
