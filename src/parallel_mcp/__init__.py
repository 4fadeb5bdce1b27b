"""MCP server for the Parallel web research API."""

__version__ = "0.1.0"
