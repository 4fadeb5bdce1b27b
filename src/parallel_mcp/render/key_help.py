"""How to set the API key, in the form of the client that asks."""

_MCP_SERVERS = (
    '{"mcpServers": {"parallel": {"command": "uvx", "args": ["parallel-mcp"], '
    '"env": {"PARALLEL_API_KEY": "<your key>"}}}}'
)
_BY_CLIENT = {
    "claude-code": "claude mcp add --env PARALLEL_API_KEY=<your key> --transport stdio parallel -- uvx parallel-mcp",
    "visual studio code": (
        '{"servers": {"parallel": {"type": "stdio", "command": "uvx", "args": ["parallel-mcp"], '
        '"env": {"PARALLEL_API_KEY": "<your key>"}}}}'
    ),
    "codex": (
        '[mcp_servers.parallel]\ncommand = "uvx"\nargs = ["parallel-mcp"]\nenv = { PARALLEL_API_KEY = "<your key>" }'
    ),
}


def key_help(client_name: str) -> str:
    """Which setting is missing, where to get a key, and what to write where for this client."""
    known = (text for beginning, text in _BY_CLIENT.items() if client_name.lower().startswith(beginning))
    return (
        "PARALLEL_API_KEY is not set for this server, so nothing was sent. Get a key at "
        "https://platform.parallel.ai and set it where this MCP client starts the server:\n" + next(known, _MCP_SERVERS)
    )
