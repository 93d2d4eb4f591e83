"""Python code in an interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the code, which can import what this process can, with these environment variables."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=500)
