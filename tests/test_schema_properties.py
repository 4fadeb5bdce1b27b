"""Whatever schema comes in: one that keeps the API's rules comes out, or an error."""

import json
import string
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from parallel_mcp.errors import InvalidArguments
from parallel_mcp.simulator.bodies import TaskSpec as SimulatedSpec
from parallel_mcp.simulator.processors import PROCESSORS
from parallel_mcp.simulator.specs import Review, review_spec
from parallel_mcp.tasks.spec_schemas.findings import MAX_TEXT_CHARS
from parallel_mcp.tasks.spec_schemas.preparing import prepared_schema
from parallel_mcp.tasks.spec_schemas.rewriting import Purpose
from parallel_mcp.tasks.spec_schemas.rules import lint

NAMES = st.sampled_from([*["a", "b", "ceo_name", "sources", "name", "type"] * 3, "a b", "$ref", "x\u202e", "", '"'])
REFERENCES = st.sampled_from(
    ["#/$defs/a", "#/$defs/b", "#/definitions/a", "#/properties/a", "#", "#/$defs/gone", "http://127.0.0.1:1/x", "#a"]
)
TYPE_NAMES = ["string", "number", "integer", "boolean", "object", "array", "null", "STRING", "str", "", 3, None]
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(string.ascii_letters, max_size=3)
LIKELY_FORMS = [
    ("type", "properties"),
    ("type", "properties", "required"),
    ("type", "properties", "additionalProperties"),
    ("type", "items", "maxLength"),
    ("items", "uniqueItems"),
    ("prefixItems", "items"),
    ("additionalProperties", "propertyNames"),
    ("patternProperties",),
    ("anyOf", "description"),
    ("anyOf", "type"),
    ("oneOf", "nullable", "title"),
    ("allOf", "description"),
    ("enum", "type"),
    ("enum", "nullable"),
    ("const",),
    ("$ref", "default"),
    ("type", "format", "pattern"),
    ("type", "minimum", "exclusiveMinimum"),
    ("type", "description", "unit"),
    ("contains", "not", "if"),
    ("unevaluatedProperties", "properties", "$defs"),
]
KEYWORDS = sorted({keyword for form in LIKELY_FORMS for keyword in form} | {"definitions", "const"})


@st.composite
def schemas(draw: st.DrawFn, levels: int = 3) -> Any:
    """Objects of schema keywords, most of a likely form with values of the right kind; now and then anything."""
    if levels == 0 or draw(st.integers(0, 3)) == 0:
        simple: list[Any] = [True, "string", dict[str, Any](), *({"type": name} for name in TYPE_NAMES[:6])]
        return draw(st.sampled_from(simple))
    form = draw(st.sampled_from(LIKELY_FORMS) | st.lists(st.sampled_from(KEYWORDS), max_size=4))
    return {keyword: draw(values_of(keyword, levels - 1)) for keyword in form}


def values_of(keyword: str, levels: int) -> st.SearchStrategy[Any]:
    """What may stand at a keyword, seldom of a wrong kind."""
    inner = schemas(levels)
    scalars: dict[str, st.SearchStrategy[Any]] = {
        "type": st.sampled_from(TYPE_NAMES) | st.lists(st.sampled_from(TYPE_NAMES), max_size=3),
        "required": st.lists(NAMES, max_size=2) | st.booleans(),
        "enum": st.lists(SCALARS, min_size=1, max_size=4),
        "const": SCALARS,
        "$ref": REFERENCES,
        "description": st.text(max_size=5),
        "title": st.text(max_size=5),
        "format": st.sampled_from(["date", "uri", "x"]),
        "pattern": st.text(max_size=5),
        "nullable": st.booleans(),
    }
    if keyword in scalars:
        likely = scalars[keyword]
    elif keyword in ("properties", "patternProperties", "$defs", "definitions"):
        likely = st.dictionaries(NAMES, inner, max_size=3)
    elif keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        likely = st.lists(inner, min_size=1, max_size=3)
    elif keyword in ("minimum", "exclusiveMinimum", "maxLength", "uniqueItems", "default", "unit"):
        likely = SCALARS
    else:
        likely = inner | st.booleans()
    return st.one_of(likely, likely, likely, likely, inner | SCALARS)


@st.composite
def roots(draw: st.DrawFn) -> dict[str, Any]:
    """What a caller may give: usually an object with fields and definitions."""
    if draw(st.integers(0, 4)) == 0:
        anything: Any = draw(schemas())
        return cast("dict[str, Any]", anything) if isinstance(anything, dict) else {"field": anything}
    members = draw(st.dictionaries(NAMES, schemas(), min_size=1, max_size=3))
    definitions = draw(st.dictionaries(st.sampled_from(["a", "b"]), schemas(), max_size=2))
    more: list[dict[str, Any]] = [{}, {"required": []}, {"additionalProperties": False}]
    return {"type": "object", "properties": members, "$defs": definitions, **draw(st.sampled_from(more))}


MATTERS_OF_TASTE = {"basis-name", "vague-name", "untyped", "open-object", "nesting"}
PURPOSES: st.SearchStrategy[Purpose] = st.sampled_from(["output", "input"])


def prepared_or_none(schema: dict[str, Any], purpose: Purpose) -> dict[str, Any] | None:
    """What comes out, or None if it was refused in due form."""
    try:
        return prepared_schema(schema, purpose=purpose).schema
    except InvalidArguments as error:
        text = str(error)
    assert len(text) < MAX_TEXT_CHARS + 100
    assert text.replace("\n", "").isprintable()
    return None


@settings(max_examples=300, deadline=None)
@given(roots(), PURPOSES)
@example({"type": "object", "properties": {"a": {"enum": [1, True, 1.0]}}}, "output")
@example({"type": "object", "properties": {"a": {"type": ["null"]}}, "required": []}, "output")
@example({"pattern": "", "format": {"type": "string"}}, "output")
def test_prepared_schema_keeps_every_rule_and_stays_as_it_is(schema: dict[str, Any], purpose: Purpose) -> None:
    """Nothing may pass that the API refuses, and a schema that was read back and sent again is the same request.

    The simulator reads the API's rules for itself; it may only remark on names that belong to the basis.
    """
    prepared = prepared_or_none(schema, purpose)
    if prepared is None:
        return

    Draft202012Validator.check_schema(prepared)
    findings = lint(prepared, purpose=purpose)
    assert findings.errors == []
    assert {warning.rule for warning in findings.warnings} <= MATTERS_OF_TASTE
    again = prepared_schema(prepared, purpose=purpose)
    assert json.dumps(again.schema) == json.dumps(prepared)
    if purpose == "output":
        review = reviewed(prepared)
        assert review.errors == []
        assert [warning for warning in review.warnings if "basis" not in warning] == []


def reviewed(schema: dict[str, Any]) -> Review:
    """What the simulated API says of a schema."""
    spec = {"output_schema": {"type": "json", "json_schema": schema}}
    return review_spec(SimulatedSpec.model_validate(spec), spec, PROCESSORS["ultra8x"])
