"""What a client can read, and a person attach, without calling a tool. Nothing is here that no tool gives as well.

Few clients let the model read resources by itself, so tools name them and never rely on them. A resource is one line
of `RESOURCES`, and a function of the call and of the variables in its address.
"""

from parallel_mcp.resources.definition import ResourceDefinition
from parallel_mcp.resources.groups import group_table
from parallel_mcp.resources.page import RESEARCH_PAGE_RESOURCE
from parallel_mcp.resources.runs import run_report, run_result
from parallel_mcp.settings import Settings
from parallel_mcp.tasks.handles import GROUP_TABLE, RUN_REPORT, RUN_RESULT
from parallel_mcp.tools import has_page

RESOURCES = [
    ResourceDefinition(
        RUN_REPORT,
        "run_report",
        "Report of a run",
        "The whole result of a finished run as Markdown, with its numbered sources.",
        "text/markdown",
        run_report,
    ),
    ResourceDefinition(
        RUN_RESULT,
        "run_result",
        "Result of a run",
        "The exact content of the result of a finished run.",
        "application/json",
        run_result,
    ),
    ResourceDefinition(
        GROUP_TABLE,
        "group_table",
        "Table of a group",
        "All rows of a group as CSV: what was asked beside what was found, failed rows with their reason.",
        "text/csv",
        group_table,
    ),
]


def chosen_resources(settings: Settings) -> list[ResourceDefinition]:
    """The resources there are. Profiles for clients that read none have none."""
    if settings.profile != "research":
        return []
    return [*RESOURCES, RESEARCH_PAGE_RESOURCE] if has_page(settings) else RESOURCES
