"""The rules a task spec and its input must keep: errors that refuse a run, warnings that go with it (section 9.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from parallel_mcp.simulator.bodies import JsonForm, TaskRunInput, TaskSpec
from parallel_mcp.simulator.errors import Problem
from parallel_mcp.simulator.payloads import Json, JsonObject, compact
from parallel_mcp.simulator.processors import Processor

DEEPEST = 5
MOST_PROPERTIES = 100
MOST_SCHEMA_CHARS = 25_000
MOST_ENUM_VALUES = 500
LARGE_ENUM = 250
MOST_LARGE_ENUM_CHARS = 7_500
MOST_SPEC_CHARS = 15_000
MOST_SPEC_AND_INPUT_CHARS = 25_000

UNSUPPORTED = frozenset(
    [
        "contains",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minimum",
        "minProperties",
        "multipleOf",
        "pattern",
        "patternProperties",
        "propertyNames",
        "uniqueItems",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
IN_EVERY_BASIS = frozenset(["citations", "confidence", "evidence", "reasoning", "source", "sources", "source_urls"])
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMA_MAPS = ("properties", "$defs", "definitions")
_SUBSCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else")

Schema = dict[str, JsonValue]


@dataclass
class Review:
    """What was found wrong with a spec: errors and warnings."""

    errors: list[Problem] = field(default_factory=list[Problem])
    warnings: list[str] = field(default_factory=list[str])


def review_spec(spec: TaskSpec, submitted_spec: Json, processor: Processor) -> Review:
    """Check both schemas of a spec; `submitted_spec` is its JSON, whose characters are counted."""
    review = Review()
    if isinstance(spec.output_schema, JsonForm):
        _review_output(spec.output_schema.json_schema, review)
        _warn_of_fields(spec.output_schema.json_schema, processor, review)
    if isinstance(spec.input_schema, JsonForm):
        _require_well_formed(spec.input_schema.json_schema, review, "input_schema")
    if len(compact(submitted_spec)) > MOST_SPEC_CHARS:
        review.errors.append(Problem(("body", "task_spec"), f"task spec exceeds {MOST_SPEC_CHARS} characters"))
    return review


def schema_problems(schema: Schema, *loc: str | int) -> list[Problem]:
    """Return what is wrong with an output schema that stands somewhere else than in a task spec."""
    review = Review()
    _review_output(schema, review)
    return [replace(problem, loc=("body", *loc)) for problem in review.errors]


def review_size(submitted_spec: Json, task_input: Json) -> list[Problem]:
    """Check the limit on spec and input together, counted as compact JSON (text inputs as they are)."""
    spec_chars = len(compact(submitted_spec)) if submitted_spec is not None else 0
    input_chars = len(task_input) if isinstance(task_input, str) else len(compact(task_input))
    if spec_chars + input_chars <= MOST_SPEC_AND_INPUT_CHARS:
        return []
    return [Problem(("body",), f"task spec and input together exceed {MOST_SPEC_AND_INPUT_CHARS} characters")]


def input_warnings(body: TaskRunInput) -> list[str]:
    """Say how the input differs from the input schema; the run proceeds all the same."""
    if body.task_spec is None or not isinstance(body.task_spec.input_schema, JsonForm):
        return []
    # An empty registry: references that leave the schema are never fetched.
    validator = Draft202012Validator(body.task_spec.input_schema.json_schema, registry=Registry())
    try:
        validator.validate(body.input)  # pyright: ignore[reportUnknownMemberType]  # its stub is untyped
    except ValidationError as mismatch:
        return [f"Input does not match input_schema: {mismatch.message}"]
    except (Unresolvable, RecursionError, ValueError, ArithmeticError):
        return ["Input could not be checked: a reference or number of input_schema makes no sense."]
    return []


def resolved(schema: Schema, root: Schema) -> Schema:
    """Follow a reference inside the document; a schema without one is itself.

    Raises:
        LookupError: The reference leads nowhere, or out of the document.
    """
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    if not reference.startswith("#"):
        raise LookupError(reference)
    target: JsonValue = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise LookupError(reference)
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _review_output(schema: Schema, review: Review) -> None:
    if not _require_well_formed(schema, review, "output_schema"):
        return
    _review_root(schema, review)
    _review_depth(schema, review)
    _review_every_schema(schema, review)
    _review_totals(schema, review)


def _require_well_formed(schema: Schema, review: Review, member: str) -> bool:
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        message = error.message if isinstance(error, SchemaError) else "nested too deeply"
        review.errors.append(Problem(("body", "task_spec", member), f"not a valid JSON Schema: {message}"))
        return False
    return True


def _review_root(schema: Schema, review: Review) -> None:
    if schema.get("type") != "object":
        _refuse(review, "the root of an output schema must have type object")
    if not isinstance(schema.get("properties"), dict):
        _refuse(review, "the root of an output schema must have properties")
    if "anyOf" in schema:
        _refuse(review, "the root of an output schema must not use anyOf")


def _review_depth(schema: Schema, review: Review) -> None:
    try:
        too_deep = _nests_deeper(schema, schema, DEEPEST, MOST_PROPERTIES)
    except LookupError as error:
        _refuse(review, f"reference {error} cannot be resolved inside the schema")
        return
    if too_deep:
        _refuse(review, f"objects are nested deeper than {DEEPEST} levels")


def _nests_deeper(schema: Schema, root: Schema, levels: int, steps: int) -> bool:
    """Whether objects nest deeper than `levels`. References are followed, so a recursive schema does.

    `steps` bounds the way down, for recursion that passes no object.
    """
    schema = _followed(schema, root)
    if "properties" in schema:
        levels -= 1
    if levels < 0 or steps == 0:
        return True
    nested = [member for name, member in _subschemas(schema) if name not in ("$defs", "definitions")]
    return any(_nests_deeper(member, root, levels, steps - 1) for member in nested)


def _followed(schema: Schema, root: Schema) -> Schema:
    """Follow a chain of references to its end."""
    for _ in range(MOST_PROPERTIES):
        if "$ref" not in schema:
            return schema
        schema = resolved(schema, root)
    raise LookupError(schema["$ref"])


def _review_every_schema(root: Schema, review: Review) -> None:
    for schema, in_union in _all_schemas(root):
        for keyword in sorted(UNSUPPORTED & schema.keys()):
            _refuse(review, f'keyword "{keyword}" is not supported; put it into the description')
        if schema.get("type") in ("null", ["null"]) and not in_union:
            _refuse(review, "type null is allowed only in a union")
        _warn_of_object(schema, review)


def _warn_of_object(schema: Schema, review: Review) -> None:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return
    required = schema.get("required")
    optional = [name for name in properties if not isinstance(required, list) or name not in required]
    if optional:
        review.warnings.append(f"Fields not listed in required: {', '.join(optional)}.")
    if schema.get("additionalProperties") is not False:
        review.warnings.append("additionalProperties should be false on every object.")


def _review_totals(root: Schema, review: Review) -> None:
    schemas = [schema for schema, _ in _all_schemas(root)]
    names = [name for schema in schemas for name in _property_names(schema)]
    enums = [values for schema in schemas if isinstance(values := schema.get("enum"), list)]
    enum_chars = [sum(len(_text(value)) for value in values) for values in enums]

    if len(names) > MOST_PROPERTIES:
        _refuse(review, f"more than {MOST_PROPERTIES} properties")
    if sum(map(len, names)) + sum(enum_chars) > MOST_SCHEMA_CHARS:
        _refuse(review, f"names and values exceed {MOST_SCHEMA_CHARS} characters")
    if sum(map(len, enums)) > MOST_ENUM_VALUES:
        _refuse(review, f"more than {MOST_ENUM_VALUES} enum values")
    if any(
        len(values) > LARGE_ENUM and chars > MOST_LARGE_ENUM_CHARS
        for values, chars in zip(enums, enum_chars, strict=True)
    ):
        _refuse(review, f"an enum of more than {LARGE_ENUM} values exceeds {MOST_LARGE_ENUM_CHARS} characters")


def _warn_of_fields(schema: Schema, processor: Processor, review: Review) -> None:
    names = _property_names(schema)
    if len(names) > processor.most_fields:
        review.warnings.append(
            f"Too many output fields: {len(names)} requested, {processor.name} handles about {processor.most_fields}."
        )
    review.warnings.extend(
        f'Field "{name}" is not needed: citations, reasoning and confidence are in the basis of every result.'
        for name in names
        if name in IN_EVERY_BASIS
    )


def _property_names(schema: Schema) -> list[str]:
    properties = schema.get("properties")
    return list(properties) if isinstance(properties, dict) else []


def _all_schemas(schema: Schema, *, in_union: bool = False) -> Iterator[tuple[Schema, bool]]:
    """Give the schema and all within it, each with whether it is an alternative of a union."""
    yield schema, in_union
    for keyword, member in _subschemas(schema):
        yield from _all_schemas(member, in_union=keyword in ("anyOf", "oneOf"))


def _subschemas(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Give each schema directly inside this one, with the keyword that holds it."""
    for keyword in _SCHEMA_MAPS:
        members = schema.get(keyword)
        if isinstance(members, dict):
            yield from ((keyword, member) for member in members.values() if isinstance(member, dict))
    for keyword in _SCHEMA_LISTS:
        members = schema.get(keyword)
        if isinstance(members, list):
            yield from ((keyword, member) for member in members if isinstance(member, dict))
    for keyword in _SUBSCHEMAS:
        member = schema.get(keyword)
        if isinstance(member, dict):
            yield keyword, member


def _refuse(review: Review, message: str) -> None:
    problem = Problem(("body", "task_spec", "output_schema"), message)
    if problem not in review.errors:
        review.errors.append(problem)


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else compact(value)


def warning_objects(kind: str, messages: list[str]) -> list[JsonObject]:
    """Write warnings as the API does."""
    return [{"type": kind, "message": message, "detail": None} for message in dict.fromkeys(messages)]
