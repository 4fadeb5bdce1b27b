"""A task output -> one document to be read in pages, in the format the caller asked for."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import JsonValue

from parallel_mcp.api.models import FieldBasis, TaskOutput
from parallel_mcp.render.sources import Source, numbers_for, source_line, sources_of, with_excerpts
from parallel_mcp.render.tables import csv_line
from parallel_mcp.render.untrusted import one_line

Format = Literal["markdown", "json", "csv"]
Citations = Literal["none", "brief", "full"]

_DEEPEST_LIST = 6
_DEEPEST_INDENT = 12
_MOST_COLUMNS = 8
_LONGEST_CELL = 80


def document_of(output: TaskOutput, fmt: Format, citations: Citations) -> str:
    """The whole output as text. `json` and `csv` hold the content alone; Markdown also what it rests on."""
    if fmt == "json":
        return json.dumps(output.content, ensure_ascii=False, indent=2 if _is_shallow(output.content) else None)
    if fmt == "csv":
        return _csv_of(output.content)
    sources = sources_of(output.basis)
    body = _markdown_of(output, sources, citations)
    evidence = _evidence(output.basis, sources, citations)
    return f"{body}\n\n{evidence}" if evidence else body


def selected(output: TaskOutput, fields: Sequence[str]) -> TaskOutput:
    """The output with only those top-level fields of a JSON content, and their basis."""
    if not fields or not isinstance(output.content, Mapping):
        return output
    content: dict[str, JsonValue] = {name: value for name, value in output.content.items() if name in fields}
    basis = [entry for entry in output.basis if entry.field.partition(".")[0] in fields]
    return output.model_copy(update={"content": content, "basis": basis})


def _markdown_of(output: TaskOutput, sources: Sequence[Source], citations: Citations) -> str:
    if not isinstance(output.content, Mapping):
        return output.content if isinstance(output.content, str) else _value(output.content, 0).strip("\n ")
    basis = {entry.field: entry for entry in output.basis}
    lines: list[str] = []
    for name, value in output.content.items():
        remark = _remark(basis.get(name), sources) if citations != "none" else ""
        lines.append(f"- **{one_line(name)}**{remark}:{_value(value, 1)}")
    return "\n".join(lines)


def _remark(entry: FieldBasis | None, sources: Sequence[Source]) -> str:
    """` (high confidence) [1][3]` behind the name of a field."""
    if entry is None:
        return ""
    confidence = f" ({one_line(entry.confidence, 20)} confidence)" if entry.confidence else ""
    return confidence + "".join(f" [{number}]" for number in numbers_for(entry, sources))


def _value(value: JsonValue, depth: int) -> str:
    """A JSON value as the rest of a list item: scalars on the line, the others as a nested list or table below it."""
    if depth > _DEEPEST_LIST and isinstance(value, Mapping | list):
        return f" {json.dumps(value, ensure_ascii=False)}"
    indent = "  " * depth
    if isinstance(value, Mapping):
        return (
            "".join(f"\n{indent}- {one_line(name)}:{_value(item, depth + 1)}" for name, item in value.items())
            or " (empty)"
        )
    if isinstance(value, list):
        if table := _table(value, indent):
            return f"\n\n{table}\n"
        return "".join(f"\n{indent}-{_value(item, depth + 1)}" for item in value) or " (none)"
    if value is None:
        return " (not found)"
    text = value if isinstance(value, str) else json.dumps(value)
    return " " + text.replace("\n", f"\n{indent}")  # so that a text cannot look like the next field


def _table(rows: Sequence[JsonValue], indent: str) -> str:
    """Objects of few and short values as a Markdown table; nothing if they are not that."""
    records = [row for row in rows if isinstance(row, Mapping)]
    if len(records) < 2 or len(records) < len(rows):
        return ""
    columns = list(dict.fromkeys(name for record in records for name in record))
    if not 2 <= len(columns) <= _MOST_COLUMNS:
        return ""
    cells = [columns, *([_shown_cell(record.get(column)) for column in columns] for record in records)]
    if any(cell is None or len(cell) > _LONGEST_CELL for row in cells for cell in row):
        return ""
    lines = [" | ".join(_escaped(cell or "") for cell in row) for row in cells]
    return "\n".join(f"{indent}| {line} |" for line in [lines[0], " | ".join(["---"] * len(columns)), *lines[1:]])


def _shown_cell(value: JsonValue) -> str | None:
    """A scalar as the text of a cell; None for a value that has no place in one."""
    if isinstance(value, Mapping | list):
        return None
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())


def _is_shallow(value: JsonValue) -> bool:
    """Whether indenting a value leaves it about as large as it is: a deep one would grow a hundredfold."""
    level = [value]
    for _ in range(_DEEPEST_INDENT):
        level = [
            item
            for container in level
            if isinstance(container, Mapping | list)
            for item in (container.values() if isinstance(container, Mapping) else container)
        ]
    return not level


def _evidence(basis: Sequence[FieldBasis], sources: Sequence[Source], citations: Citations) -> str:
    if citations == "none":
        return ""
    reasoning = "\n".join(f"- {entry.field}: {entry.reasoning}" for entry in basis if entry.reasoning)
    parts = [f"## Reasoning\n{reasoning}"] if citations == "full" and reasoning else []
    if sources:
        line = with_excerpts if citations == "full" else source_line
        parts.append("## Sources\n" + "\n".join(line(source) for source in sources))
    return "\n\n".join(parts)


def _csv_of(content: JsonValue) -> str:
    """An object as a header and one row, a list of objects as a row each; nested values as JSON text."""
    rows = content if isinstance(content, list) else [content]
    records = [row if isinstance(row, Mapping) else {"output": row} for row in rows]
    columns = list(dict.fromkeys(name for record in records for name in record))
    return csv_line(columns) + "".join(csv_line(record.get(column) for column in columns) for record in records)
