"""An error -> the text of a tool error: what happened, code, whether a retry helps, the next step."""

from parallel_mcp.errors import InvalidArguments, MissingKey, ResearchError
from parallel_mcp.render.untrusted import marked, one_line

MAX_QUOTE_CHARS = 500

_HOW_TO_SET_THE_KEY = (
    "PARALLEL_API_KEY is not set for this server, so nothing was sent. "
    "Get a key at https://platform.parallel.ai and put it where this MCP client starts the server:\n"
    '{"mcpServers": {"parallel": {"command": "uvx", "args": ["parallel-mcp"], '
    '"env": {"PARALLEL_API_KEY": "<your key>"}}}}\n'
    "(VS Code names the outer object `servers`; Codex has [mcp_servers.parallel] with env in config.toml; "
    "Claude Code: claude mcp add --env PARALLEL_API_KEY=<your key> --transport stdio parallel -- uvx parallel-mcp)"
)


def error_text(error: ResearchError) -> str:
    """What the model is told. Somebody else's words are quoted between marks, cleaned and cut to 500 characters."""
    lines = [_what_happened(error)]
    if error.quote:
        speaker = "In the result" if isinstance(error, InvalidArguments) else "The API says"
        lines.append(f"{speaker}: {marked(one_line(error.quote, MAX_QUOTE_CHARS))}")
    if error.ref_id:
        lines.append(f"Reference: {one_line(error.ref_id, 100)}")
    lines.append(f"Code: {error.code}. {error.retry}")
    lines.append(f"Next: {error.next_step}")
    return "\n".join(lines)


def _what_happened(error: ResearchError) -> str:
    text = _HOW_TO_SET_THE_KEY if isinstance(error, MissingKey) else str(error)
    return text if text.endswith((".", "?", ")")) else text + "."
