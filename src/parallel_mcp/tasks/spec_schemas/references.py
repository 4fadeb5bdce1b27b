"""References of a schema: only those inside the document are followed, and none may lead back to itself."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.findings import Finding, Path, Refused, Schema

_MAPS = ("properties", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "unevaluatedProperties")
_MOST_FINDINGS = 20

_WRITE_OUT: Schema = {"type": "string"}


def resolved(reference: str, root: Schema) -> JsonValue:
    """What a reference such as `#/$defs/Person` names.

    Raises:
        LookupError: It leaves the document, or names nothing in it.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise LookupError
    target: JsonValue = root
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = target[name]
        elif isinstance(target, list) and name.isdecimal() and len(name) < 6:
            target = target[int(name)]
        else:
            raise LookupError
    return target


def reference_errors(root: Schema) -> list[Finding]:
    """References that leave the document, name nothing, or lead back to themselves.

    Each schema is visited once, so the cost is that of the document, not of what it expands to.
    """
    errors: list[Finding] = []
    finished: set[int] = set()
    on_the_way: set[int] = {id(root)}
    trail = [(root, _edges(root, root, (), errors))]
    while trail and len(errors) < _MOST_FINDINGS:
        schema, edges = trail[-1]
        place, target = next(edges, (None, None))
        if place is None:
            trail.pop()
            on_the_way.discard(id(schema))
            finished.add(id(schema))
        elif isinstance(target, dict) and id(target) in on_the_way:
            errors.append(_recursive(place))
        elif isinstance(target, dict) and id(target) not in finished:
            on_the_way.add(id(target))
            trail.append((target, _edges(target, root, place, errors)))
    return errors


def _edges(schema: Schema, root: Schema, place: Path, errors: list[Finding]) -> Iterator[tuple[Path, JsonValue]]:
    """The schemas inside this one and the one it refers to, each with its place in the expanded schema."""
    if any(keyword in schema for keyword in ("$dynamicRef", "$recursiveRef")):
        errors.append(Finding(place, "reference", "dynamic references are not supported; write it out.", _WRITE_OUT))
    if "$ref" in schema:
        try:
            yield place, _target(schema["$ref"], root, place)
        except Refused as refused:
            errors.append(refused.finding)
    for keyword in _MAPS:
        members = schema.get(keyword)
        if isinstance(members, dict):
            yield from (((*place, keyword, name), member) for name, member in members.items())
    for keyword in _LISTS:
        members = schema.get(keyword)
        if isinstance(members, list):
            yield from (((*place, keyword, str(number)), member) for number, member in enumerate(members))
    yield from (((*place, keyword), schema[keyword]) for keyword in _SINGLE if isinstance(schema.get(keyword), dict))


def _target(reference: JsonValue, root: Schema, place: Path) -> JsonValue:
    if isinstance(reference, str) and reference != "#" and not reference.startswith("#/"):
        advice = "only references inside the schema (#/$defs/Name) are followed, nothing is fetched; copy it in."
        raise Refused(Finding(place, "reference", advice, _WRITE_OUT))
    try:
        target = resolved(reference, root) if isinstance(reference, str) else None
    except LookupError:
        target = None
    if not isinstance(target, dict | bool):
        advice = "the reference names no schema of $defs; define it there or write it out."
        raise Refused(Finding(place, "reference", advice, _WRITE_OUT))
    return target


def _recursive(place: Path) -> Finding:
    advice = "the schema contains itself here; the API takes five levels, so write out the levels you need."
    return Finding(place, "recursion", advice, _WRITE_OUT)
