"""`parallel-mcp demo`, as a person runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 120.0  # on a busy machine a start alone may take long


def test_demo_shows_rising_progress_and_then_a_cited_result(tmp_path: Path) -> None:
    """The first thing that anybody does with a clone: without a key, and in a quarter of a minute on an idle machine.

    Hundredths are shown, and the value may creep by less.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "120"}
    finished = subprocess.run(
        [sys.executable, "-m", "parallel_mcp", "demo"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert finished.returncode == 0, finished.stderr
    shown, _, result = finished.stdout.partition("cited result")
    values = [float(value) for value in re.findall(r"^ +(\d+\.\d\d) %  ", shown, re.MULTILINE)]
    assert len(set(values)) > 5
    assert values == sorted(values)
    assert "Sources" in result
    assert ".example" in result
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_command_and_setting() -> None:
    """The only documentation at hand in a terminal."""
    finished = subprocess.run(
        [sys.executable, "-m", "parallel_mcp", "--help"], capture_output=True, text=True, check=True
    )

    for word in ("serve", "demo", "simulate", "PARALLEL_API_KEY_FILE", "PARALLEL_MCP_MAX_USD_PER_DAY"):
        assert word in finished.stdout


def test_key_cannot_be_given_as_an_argument() -> None:
    """Others on the machine can read the arguments of a process."""
    command = [sys.executable, "-m", "parallel_mcp", "serve", "--api-key", "secret"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    assert finished.returncode == 2
    assert "unrecognized arguments" in finished.stderr


def test_flag_that_would_have_no_effect_is_refused() -> None:
    """Whoever forgets --http would wait for a port that nobody opens."""
    command = [sys.executable, "-m", "parallel_mcp", "serve", "--port", "8090"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    assert finished.returncode == 2
    assert "--port: only `serve --http`" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["simulate", "--port", "99999"], "a port is a number from 0 to 65535"),
        (["serve", "--ledger", "~"], "--ledger must be a file; this is a directory"),
    ],
)
def test_command_that_cannot_work_says_why(arguments: list[str], told: str) -> None:
    """A traceback would not."""
    command = [sys.executable, "-m", "parallel_mcp", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    assert finished.returncode == 2
    assert told in finished.stderr
    assert "Traceback" not in finished.stderr


def test_wrong_setting_is_named_as_it_was_given_and_without_its_value() -> None:
    """One start says all that is wrong, in the words of the person who set it."""
    command = [sys.executable, "-m", "parallel_mcp", "serve", "--max-wait-s", "soon"]
    environment = {"PARALLEL_MCP_TOOLSETS": "kore"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    assert finished.returncode == 2
    assert "--max-wait-s should be a valid number" in finished.stderr
    assert "PARALLEL_MCP_TOOLSETS should be 'core', 'findall', 'monitor' or 'specs'" in finished.stderr
    assert "kore" not in finished.stderr
    assert "soon" not in finished.stderr
