"""The Parallel API over HTTP. Knows nothing of MCP."""
