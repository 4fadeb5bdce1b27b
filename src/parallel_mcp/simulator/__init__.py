"""A simulator of the Parallel API, for tests and demonstrations. It shares no code with the client it tests."""

from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.recording import Fault, RecordedRequest
from parallel_mcp.simulator.server import run, serving
from parallel_mcp.simulator.simulator import Simulator
from parallel_mcp.simulator.sse import ConnectionDropped

__all__ = ["ConnectionDropped", "Fault", "RecordedRequest", "Simulator", "SimulatorConfig", "run", "serving"]
