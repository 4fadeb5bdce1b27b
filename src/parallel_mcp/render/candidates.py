"""The matches of a FindAll run -> one table, to be read in pages, in the format the caller asked for."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from parallel_mcp.api.findall_models import Candidate
from parallel_mcp.api.models import FieldBasis
from parallel_mcp.render.documents import Citations, Format
from parallel_mcp.render.sources import Source, check_these, source_line, sources_of, with_excerpts
from parallel_mcp.render.untrusted import one_line

OWN_COLUMNS = ("name", "url", "description")
MAX_CELL_CHARS = 300
MAX_HEADING_CHARS = 80


@dataclass(frozen=True)
class CandidateTable:
    """Candidates as rows: name, address and description, then the conditions and enrichments (or `wanted` of them)."""

    candidates: Sequence[Candidate]
    wanted: Sequence[str] = ()

    @cached_property
    def fields(self) -> list[str]:
        """The conditions and enrichments, in the order in which they first appear."""
        return list(dict.fromkeys(name for candidate in self.candidates for name in candidate.output))

    @cached_property
    def sources(self) -> list[Source]:
        """Every page cited for what is shown, numbered."""
        return sources_of([entry for candidate in self.candidates for entry in self._basis(candidate)])

    @property
    def columns(self) -> list[str]:
        """The headings. A field that is called like a column of ours is told apart."""
        return [*OWN_COLUMNS, *(f"output.{name}" if name in OWN_COLUMNS else name for name in self._shown)]

    @property
    def records(self) -> list[dict[str, JsonValue]]:
        """The rows, exact."""
        return [dict(zip(self.columns, self._cells(candidate), strict=True)) for candidate in self.candidates]

    def doubts(self) -> list[str]:
        """What to check before relying on it."""
        return [
            f"{one_line(candidate.name, 60)}: {doubt}"
            for candidate in self.candidates
            for doubt in check_these(self._basis(candidate))
        ]

    def document(self, fmt: Format, citations: Citations) -> str:
        """The table as text. `json` and `csv` are exact and hold the content alone; Markdown cuts long cells."""
        match fmt:
            case "json":
                return "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in self.records) + "\n]"
            case "csv":
                return self._csv()
            case "markdown":
                return "\n\n".join(filter(None, [self._table(citations), *self._evidence(citations)]))

    @property
    def heading(self) -> str:
        """The first line of the Markdown table."""
        return _line(one_line(column, MAX_HEADING_CHARS) for column in self.columns)

    @property
    def _shown(self) -> list[str]:
        return [name for name in self.fields if name in self.wanted] if self.wanted else self.fields

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {source.url: source.number for source in self.sources}

    def _basis(self, candidate: Candidate) -> list[FieldBasis]:
        return [entry for entry in candidate.basis if not self.wanted or entry.field.partition(".")[0] in self.wanted]

    def _cells(self, candidate: Candidate) -> list[JsonValue]:
        fields = candidate.output
        values = [fields[name].value if name in fields else None for name in self._shown]
        return [candidate.name, candidate.url, candidate.description, *values]

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows([_text(cell) for cell in self._cells(candidate)] for candidate in self.candidates)
        return text.getvalue()

    def _table(self, citations: Citations) -> str:
        rows = (self._row(candidate, with_numbers=citations != "none") for candidate in self.candidates)
        return "\n".join([self.heading, f"|{'---|' * len(self.columns)}", *rows])

    def _row(self, candidate: Candidate, *, with_numbers: bool) -> str:
        cells = [one_line(_text(cell), MAX_CELL_CHARS) for cell in self._cells(candidate)]
        if with_numbers:
            numbers = {entry.field: self._numbers_of(entry) for entry in candidate.basis}
            marks = ["", "", "", *(numbers.get(name, "") for name in self._shown)]
            cells = [cell + mark for cell, mark in zip(cells, marks, strict=True)]
        return _line(cells)

    def _numbers_of(self, entry: FieldBasis) -> str:
        numbers = {self._numbers[citation.url] for citation in entry.citations if citation.url in self._numbers}
        return "".join(f" [{number}]" for number in sorted(numbers))

    def _evidence(self, citations: Citations) -> list[str]:
        if citations == "none":
            return []
        full = citations == "full"
        reasoning = [
            f"- {one_line(candidate.name, MAX_HEADING_CHARS)}, {entry.field}: {entry.reasoning}"
            for candidate in self.candidates
            for entry in self._basis(candidate)
            if full and entry.reasoning
        ]
        sources = [with_excerpts(source) if full else source_line(source) for source in self.sources]
        return [
            "\n".join([title, *lines])
            for title, lines in (("## Reasoning", reasoning), ("## Sources", sources))
            if lines
        ]


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
