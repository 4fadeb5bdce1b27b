"""`parallel-mcp simulate`: the simulator as a server, to develop against without a key."""

from parallel_mcp.cli import say
from parallel_mcp.simulator import SimulatorConfig, run


def run_simulator(*, port: int, speed: float, seed: int) -> int:
    """Serve the simulator on loopback until interrupted; the exit status."""
    say(f"Simulated Parallel API on http://127.0.0.1:{port}, {speed:g} times as fast. Use it with:")
    say(f"  PARALLEL_BASE_URL=http://127.0.0.1:{port} PARALLEL_API_KEY=anything parallel-mcp")
    try:
        run(SimulatorConfig(seed=seed, speed=speed), "127.0.0.1", port)
    except (OSError, ValueError) as error:
        say(f"parallel-mcp cannot simulate: {error}")
        return 1
    return 0
