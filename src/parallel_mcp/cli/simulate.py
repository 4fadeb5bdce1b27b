"""`parallel-mcp simulate`: the simulator as a server, to develop against without a key."""

import random

from parallel_mcp.cli import say
from parallel_mcp.simulator import SimulatorConfig, run


def run_simulator(*, port: int, speed: float, seed: int | None) -> int:
    """Serve the simulator on loopback until interrupted; the exit status.

    Without a seed its ids differ each time, so that a ledger that remembers those of an earlier one is not misled.
    """
    chosen_seed = random.randrange(2**32) if seed is None else seed

    def announce(address: str) -> None:
        pace = "" if speed == 1 else f", {speed:g} times as fast"
        say(f"Simulated Parallel API on {address} (seed {chosen_seed}{pace}). Use it with:")
        say(f"  PARALLEL_BASE_URL={address} PARALLEL_API_KEY=anything parallel-mcp")

    try:
        run(SimulatorConfig(seed=chosen_seed, speed=speed), "127.0.0.1", port, announce)
    except (OSError, ValueError) as error:
        say(f"parallel-mcp cannot simulate: {error}")
        return 1
    return 0
