"""The protocol's own conformance suite, on the wire of both revisions.

The product is held to every scenario that says something about any server. A fixture server, built from the product's
own server class and extension, is held to all the others: those need tools, prompts and resources of the suite's.
"""

import re
from collections.abc import Generator
from pathlib import Path

import pytest

from parallel_mcp.http.app import MCP_PATH
from parallel_mcp.simulator import Simulator, SimulatorConfig, serving
from tests.conformance.suite import Verdict, judged, known_scenarios
from tests.connecting import KEY, ROOT
from tests.node_programs import needs_node
from tests.processes import serving_process
from tests.replicas import behind_one_address
from tests.specs import write_spec

pytestmark = needs_node

BASELINE = Path(__file__).parent / "baseline.yml"

LEGACY_WIRE = "2025-11-25"
MODERN_WIRE = "2026-07-28"

# Left out for the legacy wire is `server-sse-multiple-streams`, which ends at once where a server keeps no sessions.
FOR_ANY_SERVER = {
    LEGACY_WIRE: [
        "server-initialize",
        "server-session-lifecycle",
        "ping",
        "completion-complete",
        "tools-list",
        "resources-list",
        "prompts-list",
        "dns-rebinding-protection",
    ],
    MODERN_WIRE: [
        "server-stateless",
        "completion-complete",
        "tools-list",
        "resources-list",
        "prompts-list",
        "sep-2164-resource-not-found",
        "dns-rebinding-protection",
        "caching",
        "http-header-validation",
        "server-sse-multiple-streams",
        "input-required-result-unsupported-methods",
    ],
}

# What we do not offer.
NOT_OFFERED = {
    "server-sse-polling": "resuming a stream; what a lost stream was about is asked for again",
    "sep-2640-skills-directory": "skills",
    "sep-2640-skills-enumeration": "skills",
    "sep-2640-skills-manifest": "skills",
}

# By scenario, the checks that need tools which no spec can be: these answer at once, or fail as they are told to.
RUNS_AS_TASKS: dict[str, set[str]] = {
    "tasks-lifecycle": {"sep-2663-tool-error-uses-completed-status", "sep-2663-tasks-get-status-failed"},
    "tasks-capability-negotiation": set(),
    "tasks-wire-fields": set(),
    "tasks-request-state-removal": set(),
    "tasks-request-headers": {"tasks-headers-tolerate-mcp-method-on-tools-call"},
    "tasks-dispatch-and-envelope": {"tasks-server-directed-creation-no-hint"},
}

VAIN = {"tasks-status-notifications", *NOT_OFFERED}
"""Scenarios that check nothing; the first has yet to be written by the suite's authors."""


@pytest.fixture(scope="module")
def simulated() -> Generator[str]:
    """The Parallel API, simulated, for the whole module."""
    with serving(Simulator()) as url:
        yield url


@pytest.fixture(scope="module")
def products(simulated: str) -> Generator[dict[str, str]]:
    """`parallel-mcp serve --http` for one person, whose key it has: as it comes, with everything there is, and two."""
    command = ["-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0", "--auth", "local"]
    plain = {"PARALLEL_BASE_URL": simulated, "PARALLEL_API_KEY": KEY, "PARALLEL_MCP_LEDGER": "memory"}
    full = {
        **plain,
        "PARALLEL_MCP_TOOLSETS": "core,findall,monitor,specs",
        "PARALLEL_MCP_SPECS": str(ROOT / "docs" / "specs"),
    }
    with (
        serving_process(*command, environment=plain) as one,
        serving_process(*command, environment=plain) as other,
        serving_process(*command, environment=full) as full_one,
        behind_one_address([address.removesuffix(MCP_PATH) for address in (one, other)]) as both,
    ):
        yield {"plain": one, "full": full_one, "replicas": f"{both}{MCP_PATH}"}


@pytest.fixture(scope="module")
def fixture_verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What the suite finds when it runs all that a revision requires, and more, against the fixture server."""

    def verdict(revision: str, *options: str) -> Verdict:
        with serving_process("-m", "tests.conformance.fixture_server", *options, environment={}) as address:
            return judged(address, tmp_path_factory.mktemp(revision), "--requirements", revision)

    return {LEGACY_WIRE: verdict(LEGACY_WIRE, "--sessions"), MODERN_WIRE: verdict(MODERN_WIRE)}


@pytest.mark.parametrize(
    ("settings", "revision", "scenario"),
    [
        *(("plain", revision, scenario) for revision, scenarios in FOR_ANY_SERVER.items() for scenario in scenarios),
        ("full", LEGACY_WIRE, "tools-list"),
        ("full", MODERN_WIRE, "tools-list"),
        ("full", MODERN_WIRE, "server-stateless"),
        ("replicas", LEGACY_WIRE, "server-initialize"),
        ("replicas", LEGACY_WIRE, "completion-complete"),
        ("replicas", MODERN_WIRE, "server-stateless"),
        ("replicas", MODERN_WIRE, "caching"),
    ],
)
def test_product_conforms(
    products: dict[str, str], settings: str, revision: str, scenario: str, tmp_path: Path
) -> None:
    """Clients are written against the specification, not against us."""
    options = ["--scenario", scenario, "--spec-version", revision, "--expected-failures", str(BASELINE)]
    verdict = judged(products[settings], tmp_path, *options)

    assert verdict.scenarios == {scenario}, verdict.output
    assert verdict.passed, verdict.output


@pytest.mark.parametrize("scenario", RUNS_AS_TASKS)
def test_runs_conform_as_tasks(scenario: str, tmp_path: Path) -> None:
    """The tasks of the fixture server end as they are told to; those of the product are runs elsewhere."""
    specs, notes = tmp_path / "specs", tmp_path / "notes"
    specs.mkdir()
    arguments = {"seconds": {"type": "number"}, "label": {"type": "string"}}
    write_spec(specs, name="slow_compute", input_schema={"type": "object", "properties": arguments})
    command = ["-W", "error", "-m", "parallel_mcp", "serve", "--http", "--port", "0", "--auth", "local"]
    with serving(Simulator(SimulatorConfig(speed=60))) as simulated:
        environment = {
            "PARALLEL_BASE_URL": simulated,
            "PARALLEL_API_KEY": KEY,
            "PARALLEL_MCP_LEDGER": "memory",
            "PARALLEL_MCP_SPECS": str(specs),
        }
        with serving_process(*command, environment=environment) as address:
            verdict = judged(address, notes, "--scenario", scenario, "--spec-version", MODERN_WIRE, "--force")

    assert verdict.scenarios == {scenario}, verdict.output
    assert {check.name for check in verdict.complaints} == RUNS_AS_TASKS[scenario], verdict.output


def test_every_entry_of_the_baseline_excuses_something_and_says_why(
    products: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The suite itself overlooks an entry for a check that it no longer makes."""
    entries = re.findall(r"^  - (\S+) # \S.*$", BASELINE.read_text(encoding="utf-8"), re.MULTILINE)
    options = ["--scenario", "server-stateless", "--spec-version", MODERN_WIRE]

    verdicts = [judged(address, tmp_path_factory.mktemp("notes"), *options) for address in products.values()]

    assert sorted(entries) == sorted({check.entry for verdict in verdicts for check in verdict.complaints})


@pytest.mark.parametrize("revision", [LEGACY_WIRE, MODERN_WIRE])
def test_fixture_server_conforms(fixture_verdicts: dict[str, Verdict], revision: str) -> None:
    """Whatever the suite can ask of a server, our server class and our Tasks extension can do."""
    verdict = fixture_verdicts[revision]
    complaints = [str(check) for check in verdict.complaints if check.scenario not in NOT_OFFERED]

    assert not complaints, "\n".join(complaints)
    assert verdict.passed, verdict.output
    assert {check.scenario for check in verdict.checks if check.status == "SUCCESS"} >= verdict.scenarios - VAIN


def test_no_scenario_of_the_suite_is_forgotten(fixture_verdicts: dict[str, Verdict]) -> None:
    """A newer suite may have more; each must be run, or left out for a reason."""
    run = {scenario for verdict in fixture_verdicts.values() for scenario in verdict.scenarios}

    assert known_scenarios() == run | NOT_OFFERED.keys()
    assert {scenario for scenarios in FOR_ANY_SERVER.values() for scenario in scenarios} <= run
