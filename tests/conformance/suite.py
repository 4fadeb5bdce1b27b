"""The conformance suite of the protocol's makers (npm package `@modelcontextprotocol/conformance`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.node_programs import NODE_MODULES, node

SUITE = NODE_MODULES / ".bin" / "conformance"
SCENARIO_S = 120


@dataclass(frozen=True)
class Check:
    """One check of one scenario; `status` is SUCCESS, FAILURE, WARNING, SKIPPED or INFO."""

    scenario: str
    name: str
    status: str
    message: str

    @property
    def entry(self) -> str:
        """What it is called in a baseline."""
        return f"{self.scenario}:{self.name}"

    def __str__(self) -> str:
        return f"{self.status} {self.entry}: {self.message}"


@dataclass(frozen=True)
class Verdict:
    """What a run of the suite has found."""

    passed: bool
    output: str
    checks: list[Check]

    @property
    def scenarios(self) -> set[str]:
        """The scenarios that were run."""
        return {check.scenario for check in self.checks}

    @property
    def complaints(self) -> list[Check]:
        """What failed, and what should be better."""
        return [check for check in self.checks if check.status in ("FAILURE", "WARNING")]


def judged(url: str, notes: Path, *arguments: str) -> Verdict:
    """Run scenarios against the server at `url`; `notes` is an empty directory for the suite's files."""
    options = ["--url", url, "--output-dir", str(notes), "--timeout", str(SCENARIO_S * 1000)]
    done = node(SUITE, "server", *options, *arguments, timeout_s=600)
    checks = [check for file in sorted(notes.glob("*/checks.json")) for check in _checks_in(file)]
    return Verdict(done.returncode == 0, done.stdout + done.stderr, checks)


def known_scenarios() -> set[str]:
    """The names of all scenarios for servers."""
    listed = node(SUITE, "list", "--server").stdout
    return {line.split()[1] for line in listed.splitlines() if line.lstrip().startswith("- ")}


def _checks_in(file: Path) -> list[Check]:
    # The directory is named after the scenario and the time: server-<scenario>-2026-01-31T10-20-30-405Z.
    scenario = file.parent.name.removeprefix("server-")[: -len("-2026-01-31T10-20-30-405Z")]
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return [Check(scenario, check["id"], check["status"], check.get("errorMessage", "")) for check in found]
