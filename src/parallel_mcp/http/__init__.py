"""The network service around the MCP server: keys, hosts, health, shutdown."""
