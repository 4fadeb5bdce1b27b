"""Servers in processes of their own, as people run them."""

import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import IO, cast

from tests.connecting import ROOT


@contextmanager
def serving_process(*arguments: str, environment: Mapping[str, str]) -> Generator[str]:
    """Run a Python program that serves MCP over HTTP and says where on stderr; gives the address of its endpoint."""
    command = [sys.executable, *arguments]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = {"PYTHONPATH": os.pathsep.join(paths), **environment}
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True) as process:
        said = cast("IO[str]", process.stderr)
        try:
            yield _address_in(said)
        finally:
            process.terminate()
            process.wait()


def _address_in(said: IO[str]) -> str:
    before: list[str] = []
    for line in said:
        if line.startswith("Serving MCP at "):
            Thread(target=said.read, daemon=True).start()  # a full pipe would halt the server
            return line.split()[-1]
        before.append(line)
    raise AssertionError("it never served:\n" + "".join(before))
