"""Extensions of MCP that the SDK does not bring. They know the protocol and nothing of research."""
