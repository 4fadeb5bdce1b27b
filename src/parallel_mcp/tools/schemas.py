"""pydantic's JSON Schema -> one that every client accepts: flat, without `$ref`, `anyOf`, null types or titles.

Some clients refuse the whole tool list over one schema with these (API clients of several model vendors do).
"""

from collections.abc import Collection, Iterator
from typing import Any, cast

from pydantic import BaseModel


def published_schema(
    model: type[BaseModel], *, closed: bool = False, told_elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """The schema of a model as clients see it; `closed` forbids unknown properties.

    Of properties told elsewhere, also in its parts, only the type is published: every byte is read by the model.
    """
    raw = model.model_json_schema(by_alias=True)
    schema = _flat(raw, cast("dict[str, Any]", raw.pop("$defs", {})))
    schema.pop("description", None)  # the docstring of the model is for us
    if closed:
        schema["additionalProperties"] = False
    for name, member in _members(schema):
        if name in told_elsewhere and "type" in member:
            member.pop("description", None)
            member.pop("enum", None)
    return schema


def names_in(model: type[BaseModel]) -> set[str]:
    """The properties of a model and of its parts."""
    return {name for name, _ in _members(published_schema(model))}


def _members(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, member in cast("dict[str, dict[str, Any]]", schema.get("properties", {})).items():
        yield name, member
        yield from _members(member)
    if isinstance(schema.get("items"), dict):
        yield from _members(schema["items"])


def _flat(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if reference := schema.get("$ref"):
        target = cast("dict[str, Any]", definitions[str(reference).removeprefix("#/$defs/")])
        # The docstring of the model is for us; what a model is told stands at the property.
        target = {key: value for key, value in target.items() if key != "description"}
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    schema = _without_null(schema)
    if "$ref" in schema:
        return _flat(schema, definitions)
    return {key: _flat_part(key, value, definitions) for key, value in schema.items() if _worth_saying(key, value)}


def _worth_saying(key: str, value: Any) -> bool:
    """Whether a model gains from it. Bounds are checked by us and named in errors; absent means empty anyway."""
    if key in ("title", "minimum", "minLength", "maxLength", "minItems", "maxItems"):
        return False
    return not (key == "default" and value in (None, "", 0, False, [], {})) and not (
        key == "additionalProperties" and value in (True, {})
    )


def _flat_part(key: str, value: Any, definitions: dict[str, Any]) -> Any:
    if key == "properties":
        members = cast("dict[str, dict[str, Any]]", value)
        return {name: _flat(member, definitions) for name, member in members.items()}
    if key in ("items", "additionalProperties") and isinstance(value, dict):
        return _flat(cast("dict[str, Any]", value), definitions)
    return value


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """`X | None` published as X: absent says the same as null, and null is accepted all the same."""
    arms = cast("list[dict[str, Any]]", schema.get("anyOf", []))
    others = [arm for arm in arms if arm.get("type") != "null"]
    if len(others) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default") or value not in (arms, None)}
    return {**others[0], **rest}
