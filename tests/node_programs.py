"""Programs from npm, in the directory that `MCP_NODE_MODULES` names (with Node itself, package `node`)."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

NODE_MODULES = Path(os.environ.get("MCP_NODE_MODULES", ""))
needs_node = pytest.mark.skipif("MCP_NODE_MODULES" not in os.environ, reason="MCP_NODE_MODULES is not set")


def node(
    program: Path, *arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float = 180
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end. It sees nothing of the developer's environment."""
    command = [NODE_MODULES / ".bin" / "node", program, *arguments]
    return subprocess.run(
        command,
        env=dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
