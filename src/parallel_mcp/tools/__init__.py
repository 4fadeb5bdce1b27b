"""The tools, in the order in which clients list them."""

from parallel_mcp.settings import Settings
from parallel_mcp.tools.definition import ToolDefinition
from parallel_mcp.tools.get_result import get_result
from parallel_mcp.tools.groups import CreateTaskGroupArguments, CreateTaskGroupOutput, create_task_group
from parallel_mcp.tools.result_pages import GetResultArguments, GetResultOutput
from parallel_mcp.tools.run_task import RunTaskArguments, RunTaskOutput, run_task
from parallel_mcp.tools.search import ExtractArguments, ExtractOutput, SearchArguments, SearchOutput, extract, search
from parallel_mcp.tools.status import GetStatusArguments, GetStatusOutput, get_status
from parallel_mcp.tools.tasks import CreateTaskArguments, CreateTaskOutput, TaskRequest, create_task
from parallel_mcp.tools.view_run import ViewRunArguments, ViewRunOutput, view_run
from parallel_mcp.tools.watching import WatchProgressArguments, WatchProgressOutput, watch_progress

_ASKING_TOOLS = [
    ToolDefinition(search, "Search the web", SearchArguments, SearchOutput, reads_web=True),
    ToolDefinition(extract, "Read web pages", ExtractArguments, ExtractOutput, reads_web=True),
    ToolDefinition(
        create_task,
        "Start a research task",
        CreateTaskArguments,
        CreateTaskOutput,
        creates=True,
        needs_input=True,
        on_page=True,
    ),
    ToolDefinition(
        run_task,
        "Research and wait",
        RunTaskArguments,
        RunTaskOutput,
        creates=True,
        needs_input=True,
        parameters_of=TaskRequest,
        output_told_by=GetResultOutput,
        on_page=True,
    ),
    ToolDefinition(
        create_task_group,
        "Research many rows",
        CreateTaskGroupArguments,
        CreateTaskGroupOutput,
        creates=True,
        parameters_of=TaskRequest,
    ),
]
READING_TOOLS = [
    ToolDefinition(get_status, "See how runs stand", GetStatusArguments, GetStatusOutput),
    ToolDefinition(get_result, "Get a result", GetResultArguments, GetResultOutput, reads_web=True, on_page=True),
    ToolDefinition(
        watch_progress, "Wait for a run", WatchProgressArguments, WatchProgressOutput, reads_web=True, on_page=True
    ),
    ToolDefinition(
        view_run,
        "View a run",
        ViewRunArguments,
        ViewRunOutput,
        reads_web=True,
        parameters_of=WatchProgressArguments,
        for_page=True,
    ),
]
CORE_TOOLS = [*_ASKING_TOOLS, *READING_TOOLS]


def has_page(settings: Settings) -> bool:
    """Whether there are tools whose results a page shows: those that read runs, and tools of specs."""
    return settings.profile == "research" and _makes_runs(settings)


def chosen_tools(settings: Settings) -> list[ToolDefinition]:
    """The tools of the chosen toolsets, and where one of these makes runs, those that read them.

    Tools that are off by default are imported only where they are on; those of specs come from `SpecTools`.
    """
    if settings.profile == "chatgpt":
        from parallel_mcp.tools.chatgpt import CHATGPT_TOOLS

        return CHATGPT_TOOLS
    tools: list[ToolDefinition] = []
    if "core" in settings.toolsets:
        tools += _ASKING_TOOLS
    if _makes_runs(settings):
        tools += READING_TOOLS
    if "findall" in settings.toolsets:
        from parallel_mcp.tools.findall import FINDALL_TOOLS

        tools += FINDALL_TOOLS
    if "monitor" in settings.toolsets:
        from parallel_mcp.tools.monitors import MONITOR_TOOLS

        tools += MONITOR_TOOLS
    return tools


def _makes_runs(settings: Settings) -> bool:
    return not {"core", "findall", "specs"}.isdisjoint(settings.toolsets)
