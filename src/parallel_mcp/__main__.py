"""The console command. Without arguments it is the stdio server, and that path imports nothing else."""

import gc
import sys


def main() -> int:
    """Run `parallel-mcp`; the exit status."""
    if sys.argv[1:] not in ([], ["serve"]):
        from parallel_mcp.cli import run

        return run(sys.argv[1:])
    gc.disable()  # importing makes a hundred thousand objects and no garbage: a tenth of the start-up time
    from parallel_mcp.stdio import serve_stdio

    return serve_stdio({})


if __name__ == "__main__":
    sys.exit(main())
