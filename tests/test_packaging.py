"""What registries and package indexes are told."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from parallel_mcp import __version__
from parallel_mcp.settings import Settings, env_name, load_settings
from parallel_mcp.tasks.spec_files import checked_spec
from parallel_mcp.tools import chosen_tools
from tests.connecting import ROOT

SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# The published schema lets unknown keys pass, so a misspelt one (`is_secret`) would go unnoticed.
KNOWN_KEYS = {
    "": {"$schema", "name", "title", "description", "version", "websiteUrl", "repository", "packages"},
    "repository": {"url", "source"},
    "packages": {"registryType", "identifier", "version", "runtimeHint", "transport", "environmentVariables"},
    "transport": {"type"},
    "environmentVariables": {"name", "description", "isRequired", "isSecret", "format"},
}


def test_server_json_fits_the_registry_schema() -> None:
    """The registry refuses one that does not."""
    path = os.environ.get("MCP_REGISTRY_SCHEMA")
    if not path:
        pytest.skip("MCP_REGISTRY_SCHEMA names no file with the registry's JSON Schema")
    schema = json.loads(Path(path).read_text(encoding="utf-8"))

    jsonschema.validate(SERVER, schema, cls=jsonschema.Draft7Validator)


def test_server_json_has_no_unknown_keys() -> None:
    """See `KNOWN_KEYS`."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, list):
            for item in cast("list[Any]", value):
                check(name, item)
        elif isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            assert set(members) <= KNOWN_KEYS[name], name
            for key, member in members.items():
                check(key, member)

    check("", SERVER)


def test_versions_and_names_agree() -> None:
    """The registry proves ownership by the name in the README of the package."""
    (package,) = SERVER["packages"]
    assert PROJECT["version"] == __version__ == SERVER["version"] == package["version"]
    assert package["identifier"] == PROJECT["name"]
    assert re.search(rf"mcp-name: {re.escape(SERVER['name'])}\b", README)
    assert len(SERVER["description"]) <= 100
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_key_is_declared_as_a_secret() -> None:
    """So that clients hide it."""
    (key,) = SERVER["packages"][0]["environmentVariables"]
    assert (key["name"], key["isSecret"], key["isRequired"]) == ("PARALLEL_API_KEY", True, True)


def test_readme_lists_every_setting_with_its_default() -> None:
    """A table written by hand goes stale."""
    for name, field in Settings.model_fields.items():
        value: Any = field.default
        listed = ",".join(map(str, cast("tuple[object, ...]", value))) if isinstance(value, tuple) else value
        shown = f"{listed:g}" if isinstance(listed, float) else str(listed)
        default = "" if listed in (None, "") else f"`{shown}`"
        row = f"| `{env_name(name)}` | {default} | {field.description} |"
        assert row in README, f"the README lacks this row:\n{row}"


def test_readme_lists_every_tool() -> None:
    """In the order in which clients see them, those of the other toolsets after those of `core`."""
    section = README.partition("## The tools")[2].partition("\n## ")[0]
    offered = chosen_tools(load_settings({"toolsets": "core,findall,monitor"}))
    assert re.findall(r"^\| `(\w+)` \| ", section, re.MULTILINE) == [tool.run.__name__ for tool in offered]


def test_readme_configurations_are_valid() -> None:
    """People paste them."""
    blocks = re.findall(r"^```(json|toml)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    parsed = [json.loads(text) if kind == "json" else tomllib.loads(text) for kind, text in blocks]

    (spec,) = [config for config in parsed if "output_schema" in config]
    parsed.remove(spec)
    assert checked_spec(spec, default_processor="core-fast")[1] == [], "the example of a task spec has no flaw"
    outer = [next(iter(config)) for config in parsed if not {"inputs"} & set(config)]
    assert {"mcpServers", "mcp_servers"} <= set(outer)
    assert any("servers" in config for config in parsed)
    assert all("parallel-mcp" in json.dumps(config) for config in parsed)
    entries = [json.loads(f"{{{entry}}}") for entry in re.findall(r'`("parallel": \{.*\})`', README)]
    assert len(entries) == 2
    assert all(set(entry["parallel"]["headers"]) == {"x-api-key"} for entry in entries)
