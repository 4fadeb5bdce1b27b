"""Schemas as pydantic, zod, OpenAPI and models write them -> the keywords that the API takes.

What comes out is built anew from `type`, `description`, `enum`, `properties`, `required`, `additionalProperties`,
`items` and `anyOf`; everything else is either said with these, or in the description, or refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.bounds import MAX_CHARS
from parallel_mcp.tasks.spec_schemas.choices import choices_of, enumeration
from parallel_mcp.tasks.spec_schemas.findings import Finding, Path, Refused, Schema
from parallel_mcp.tasks.spec_schemas.merging import STRUCTURE, UNIONS, merge, types_of
from parallel_mcp.tasks.spec_schemas.outlines import object_of, outline
from parallel_mcp.tasks.spec_schemas.references import resolved
from parallel_mcp.tasks.spec_schemas.shapes import KEYWORDS, described, nullable, ordered, union_of, without_null
from parallel_mcp.tasks.spec_schemas.wording import (
    WORDED,
    constraints_in_words,
    implied_type,
    in_json,
    joined,
    quoted,
    sentence,
)

Purpose = Literal["output", "input"]

MAX_LEVELS = 30
MAX_EXPANDED_CHARS = MAX_CHARS
_CHARS_OF_A_SCHEMA = 10  # what a schema weighs at least, so that empty ones are counted too

_TOLD = frozenset(["title", "default", "examples", "example"])
_READ = STRUCTURE | WORDED | _TOLD | {*KEYWORDS, *UNIONS, "nullable", "additionalProperties", "unevaluatedProperties"}
_SAYS_NOTHING = frozenset(
    [
        "$schema",
        "$id",
        "$anchor",
        "$comment",
        "$defs",
        "definitions",
        "$vocabulary",
        "readOnly",
        "writeOnly",
        "deprecated",
        "discriminator",
        "externalDocs",
        "xml",
        "additionalItems",
        "propertyOrdering",
        "strict",
    ]
)
_MOST_ERRORS = 20


class TooLarge(Exception):
    """Expanded, the schema is larger than anything the API takes."""


class _Enough(Exception):
    """More errors than anybody reads."""


@dataclass
class Rewriting:
    """One schema on its way. `errors` and `warnings` fill as `schema()` is made."""

    root: Schema
    purpose: Purpose
    errors: list[Finding] = field(default_factory=list[Finding])
    warnings: list[Finding] = field(default_factory=list[Finding])
    _chars_left: int = MAX_EXPANDED_CHARS

    def schema(self) -> Schema:
        """The schema in the API's keywords; of use only if there are no errors.

        Its references must have been checked: those that lead back to themselves would not end before the budget.

        Raises:
            TooLarge: Its definitions expand to more than 100,000 characters.
        """
        try:
            return without_null(self._node(self.root, (), 0))
        except _Enough:
            return {}

    def _node(self, given: JsonValue, place: Path, level: int) -> Schema:
        try:
            return self._rewritten(given, place, level)
        except Refused as refused:
            self.errors.append(refused.finding if place else _as_root(refused.finding))
            if len(self.errors) >= _MOST_ERRORS:
                raise _Enough from None
            return {}

    def _rewritten(self, given: JsonValue, place: Path, level: int) -> Schema:
        if given is True:
            return {}
        if not isinstance(given, dict):
            advice = 'a schema is an object, such as {"type": "string"}.'
            raise Refused(Finding(place, "not-a-schema", advice, outline(given)))
        if level > MAX_LEVELS:
            raise Refused(Finding(place, "nesting", "nested too deeply; flatten it.", {"type": "string"}))
        parts, words = self._parts(given, place)
        self._warn_of_unknown(parts, place)
        if union := self._union_arms(parts, words, place):
            shape = union_of([self._node(arm, (*place, *at), level + 1) for at, arm in union])
        else:
            shape = self._plain(parts, words, place, level)
        shape = described(shape, _description(parts, words, place))
        return ordered(nullable(shape) if parts.get("nullable") is True else shape)

    # What a schema says, with all that it refers to

    def _parts(self, given: Schema, place: Path) -> tuple[Schema, list[str]]:
        """The schema with what `$ref` and `allOf` add to it, and its constraints in words."""
        parts: Schema = {}
        words: list[str] = []
        waiting: deque[JsonValue] = deque([given])
        while waiting:
            piece = waiting.popleft()
            if piece is True:
                continue
            if not isinstance(piece, dict):
                raise Refused(Finding(place, "not-a-schema", "allOf holds schemas.", outline(given)))
            self._spend(_weight(piece))
            wording = constraints_in_words(piece, place)
            words += wording.words
            self._warn_of_left_out(wording.left_out, place)
            if "type" not in piece and (kind := implied_type(piece)):
                piece = {**piece, "type": kind} if not STRUCTURE & piece.keys() else piece
            merge(parts, piece, place)
            if "$ref" in piece:
                waiting.append(resolved(cast("str", piece["$ref"]), self.root))
            if "allOf" in piece:
                waiting.extend(_schemas_in("allOf", piece, place))
        return parts, words

    def _spend(self, chars: int) -> None:
        self._chars_left -= chars
        if self._chars_left < 0:
            raise TooLarge

    # Unions

    def _union_arms(self, parts: Schema, words: list[str], place: Path) -> list[tuple[Path, JsonValue]]:
        """The alternatives of a union; beside fields, items or choices, a union is a constraint on them."""
        present = [keyword for keyword in UNIONS if keyword in parts]
        is_constraint = bool(STRUCTURE & parts.keys())
        beside = present if is_constraint else present[1:]
        words.extend(in_json(keyword, parts[keyword], parts, place) for keyword in beside)
        if not present or is_constraint:
            return []
        arms = _schemas_in(present[0], parts, place)
        return [((present[0], str(number)), _typed(arm, parts)) for number, arm in enumerate(arms)]

    # Everything but unions

    def _plain(self, parts: Schema, words: list[str], place: Path, level: int) -> Schema:
        types = types_of(parts, place) or _inferred(parts)
        choices = choices_of(parts, words, place)
        if choices is not None:
            return enumeration(choices, types, parts, place)
        shape: Schema = {}
        if types:
            shape["type"] = types[0] if len(types) == 1 else cast("list[JsonValue]", types)
        _require_fitting_type(types, parts, place)
        if "object" in types:
            shape |= self._object(parts, words, place, level)
        if "array" in types:
            shape |= self._array(parts, words, place, level)
        return shape

    def _object(self, parts: Schema, words: list[str], place: Path, level: int) -> Schema:
        properties = parts.get("properties", {})
        if not isinstance(properties, dict):
            advice = '"properties" is an object: {"field_name": {"type": "string"}}.'
            raise Refused(Finding(place, "properties", advice, outline({**parts, "type": "object"})))
        required = _required(parts, properties, place)
        if not properties:
            return self._map(parts, words, place, level)
        self._warn_of_extra_fields(parts, words, place)
        members: Schema = {}
        for name, given in properties.items():
            member = self._node(given, (*place, "properties", name), level + 1)
            members[name] = nullable(member) if self._is_optional(name, given, parts) else member
        shape: Schema = {"properties": members, "additionalProperties": False}
        if self.purpose == "output":
            required = list(members)
        return {**shape, "required": cast("list[JsonValue]", required)} if required else shape

    def _is_optional(self, name: str, given: JsonValue, parts: Schema) -> bool:
        """Whether a field may be missing: then null stands for it, since the API wants every field required.

        A schema without `required` was written without a thought of it. A field with a default has that instead.
        """
        if self.purpose == "input":
            return False
        member = given if isinstance(given, dict) else {}
        if isinstance(member.get("required"), bool):
            return member["required"] is False
        stated = parts.get("required")
        has_default = member.get("default") is not None
        return isinstance(stated, list) and name not in stated and not has_default

    def _map(self, parts: Schema, words: list[str], place: Path, level: int) -> Schema:
        """An object without named fields."""
        entries = parts.get("additionalProperties", parts.get("unevaluatedProperties", True))
        patterns = parts.get("patternProperties", {})
        if not isinstance(patterns, dict):
            raise Refused(Finding(place, "keyword-value", '"patternProperties" is an object.', outline(parts)))
        at = ("additionalProperties",)
        if len(patterns) == 1 and not isinstance(entries, dict):
            ((pattern, entries),) = patterns.items()
            at = ("patternProperties", pattern)
            words.append(in_json("keys matching", pattern, parts, place))
        elif patterns:
            words.append(in_json("patternProperties", patterns, parts, place))
        if entries is False:
            return {"additionalProperties": False}
        written = self._node(entries, (*place, *at), level + 1)
        return {"additionalProperties": written} if written else {}

    def _array(self, parts: Schema, words: list[str], place: Path, level: int) -> Schema:
        items, prefix = parts.get("items"), parts.get("prefixItems")
        if isinstance(items, list):
            items, prefix = None, items
        if prefix is not None:
            return {"items": self._tuple_items(prefix, items, parts, words, place, level)}
        if "items" not in parts:
            return {}
        return {"items": self._node(items, (*place, "items"), level + 1)}

    def _tuple_items(
        self, prefix: JsonValue, rest: JsonValue, parts: Schema, words: list[str], place: Path, level: int
    ) -> Schema:
        given = _schemas_in("prefixItems", {"prefixItems": prefix}, place)
        kinds = [self._node(item, (*place, "prefixItems", str(at)), level + 1) for at, item in enumerate(given)]
        words.append(in_json("items in this order:", cast("list[JsonValue]", kinds), parts, place))
        if isinstance(rest, dict):
            kinds.append(self._node(rest, (*place, "items"), level + 1))
        return ordered(union_of(kinds))

    # Remarks

    def _warn(self, place: Path, rule: str, advice: str) -> None:
        self.warnings.append(Finding(place, rule, advice))

    def _warn_of_unknown(self, parts: Schema, place: Path) -> None:
        for keyword in sorted(parts.keys() - _READ - _SAYS_NOTHING):
            if not keyword.startswith("x-"):
                self._warn((*place, keyword), "unknown-keyword", "not a keyword of JSON Schema, left out.")

    def _warn_of_left_out(self, left_out: list[str], place: Path) -> None:
        for keyword in left_out:
            self._warn((*place, keyword), "unsupported-keyword", "too long for the description, left out.")

    def _warn_of_extra_fields(self, parts: Schema, words: list[str], place: Path) -> None:
        extra = parts.get("additionalProperties", parts.get("unevaluatedProperties"))
        if not isinstance(extra, bool | dict | None):
            raise Refused(Finding(place, "keyword-value", '"additionalProperties" is false.', outline(parts)))
        if patterns := parts.get("patternProperties"):
            words.append(in_json("patternProperties", patterns, parts, place))
        if extra not in (None, False) or patterns:
            self._warn(place, "closed-objects", "only the named fields come back, no additional ones.")


def _as_root(finding: Finding) -> Finding:
    """A correction that can stand at the root, which is an object with fields."""
    if finding.corrected and "properties" not in finding.corrected:
        return replace(finding, corrected=object_of(answer=finding.corrected))
    return finding


def _weight(piece: Schema) -> int:
    """About how many characters a schema holds itself, without the schemas in it."""
    texts = sum(len(value) for value in piece.values() if isinstance(value, str))
    entries = [entry for value in piece.values() if isinstance(value, list | dict) for entry in value]
    return _CHARS_OF_A_SCHEMA + texts + sum(len(entry) if isinstance(entry, str) else 4 for entry in entries)


def _schemas_in(keyword: str, parts: Schema, place: Path) -> list[JsonValue]:
    schemas = parts[keyword]
    if not isinstance(schemas, list) or not schemas:
        rest = {key: value for key, value in parts.items() if key != keyword}
        raise Refused(Finding(place, "keyword-value", f'"{keyword}" is a list of schemas.', outline(rest)))
    return schemas


def _inferred(parts: Schema) -> list[str]:
    if any(keyword in parts for keyword in ("properties", "patternProperties", "additionalProperties")):
        return ["object"]
    return ["array"] if "items" in parts or "prefixItems" in parts else []


def _typed(arm: JsonValue, parts: Schema) -> JsonValue:
    """An alternative with the type that stands beside the union, if it has none of its own."""
    if (
        isinstance(arm, dict)
        and "type" in parts
        and not arm.keys() & {"type", "$ref", "enum", "const", "allOf", *UNIONS}
    ):
        return {**arm, "type": parts["type"]}
    return arm


def _require_fitting_type(types: list[str], parts: Schema, place: Path) -> None:
    if "properties" in parts and "object" not in types:
        whole = outline({"properties": parts["properties"]})
        corrected: Schema = {"type": "array", "items": whole} if "array" in types else whole
        raise Refused(Finding(place, "type", '"properties" belong to type object.', corrected))
    if types and "items" in parts and "array" not in types:
        corrected = {"type": "array", "items": outline(parts["items"])}
        raise Refused(Finding(place, "type", '"items" belong to type array.', corrected))


def _required(parts: Schema, properties: Schema, place: Path) -> list[str]:
    """The fields that must be there, in the order of the fields; a boolean is read by the object around it."""
    stated = parts.get("required", [])
    if isinstance(stated, bool):
        return []
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    if not isinstance(stated, list) or len(names) != len(stated):
        raise Refused(Finding(place, "required", '"required" is a list of names of fields.', outline(parts)))
    known = set(names) & properties.keys()
    if set(names) != known:
        missing: Schema = {name: {"type": "string"} for name in names if name not in known}
        corrected = outline({"type": "object", "properties": {**properties, **missing}})
        advice = '"required" names a field that "properties" does not define.'
        raise Refused(Finding(place, "required", advice, corrected))
    return [name for name in properties if name in known]


def _description(parts: Schema, words: list[str], place: Path) -> str:
    """The description with what else the schema says: its constraints, default and examples."""
    text = parts.get("description", "")
    if not isinstance(text, str | None):
        raise Refused(Finding(place, "keyword-value", '"description" is a text.', outline(parts)))
    return joined(text or _title(parts, place), sentence(words), *_asides(parts))


def _title(parts: Schema, place: Path) -> str:
    """A title that says something; those made from the names of fields and classes do not."""
    title = parts.get("title")
    if not isinstance(title, str) or " " not in title.strip():
        return ""
    name = place[-1] if place else ""
    return "" if _letters(title) == _letters(name) else title


def _letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())


def _asides(parts: Schema) -> list[str]:
    asides: list[str] = []
    for keyword, phrase in (("default", "Default"), ("examples", "Examples"), ("example", "Example")):
        value = parts.get(keyword)
        text = quoted(value[:3] if isinstance(value, list) else value, 200)
        if text and value not in (None, "", [], {}):
            asides.append(f"{phrase}: {text}.")
    return asides
