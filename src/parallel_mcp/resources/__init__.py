"""What a client can read, and a person attach, without calling a tool. Nothing is here that no tool gives as well.

Few clients let the model read resources by itself, so tools name them and never rely on them. A resource is one line
of `RESOURCES`: a function that reads it, and one that says when it changes, of the call and of the variables in its
address.
"""

from parallel_mcp.resources.definition import ResourceDefinition
from parallel_mcp.resources.following import following_group, following_list, following_result, following_run
from parallel_mcp.resources.groups import group_table
from parallel_mcp.resources.page import RESEARCH_PAGE_RESOURCE
from parallel_mcp.resources.runs import run_report, run_result
from parallel_mcp.resources.status import group_status, run_status, runs_status
from parallel_mcp.settings import Settings
from parallel_mcp.tasks.handles import GROUP_STATUS, GROUP_TABLE, RUN_REPORT, RUN_RESULT, RUN_STATUS, RUNS
from parallel_mcp.tools import has_page

RESOURCES = [
    ResourceDefinition(
        RUNS,
        "runs",
        "Recent runs",
        "The newest runs and groups created here, each with its status and its next call, and what they cost, as JSON.",
        "application/json",
        runs_status,
        following_list,
    ),
    ResourceDefinition(
        RUN_STATUS,
        "run_status",
        "Status of a run",
        "How a run stands, with its next call, as JSON; while it is followed, also how far it is.",
        "application/json",
        run_status,
        following_run,
    ),
    ResourceDefinition(
        RUN_REPORT,
        "run_report",
        "Report of a run",
        "The whole result of a finished run as Markdown, with its numbered sources.",
        "text/markdown",
        run_report,
        following_result,
    ),
    ResourceDefinition(
        RUN_RESULT,
        "run_result",
        "Result of a run",
        "The exact content of the result of a finished run.",
        "application/json",
        run_result,
        following_result,
    ),
    ResourceDefinition(
        GROUP_STATUS,
        "group_status",
        "Status of a group",
        "How many rows of a group are in which state, with its next call, as JSON.",
        "application/json",
        group_status,
        following_group,
    ),
    ResourceDefinition(
        GROUP_TABLE,
        "group_table",
        "Table of a group",
        "All rows of a group as CSV: what was asked beside what was found, failed rows with their reason.",
        "text/csv",
        group_table,
        following_group,
    ),
]


def chosen_resources(settings: Settings) -> list[ResourceDefinition]:
    """The resources there are. Profiles for clients that read none have none."""
    if settings.profile != "research":
        return []
    return [*RESOURCES, RESEARCH_PAGE_RESOURCE] if has_page(settings) else RESOURCES
