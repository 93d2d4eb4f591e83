"""A script whose calls stand outside of `if __name__ == "__main__":` ends with an error that says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.colours import film

ROOT = Path(__file__).parents[2]
INDEX = """
import stgt
from helpers.colours import Colours
{guard}
    index = stgt.Index("films.index", Colours())
    print(len(index.update("films", window=4, stride=4, workers=1).added))
"""
BATCHES = """
from stgt.data.loader import parts, read_batches
{guard}
    print(sum(batch.sum().item() for batch in read_batches(range(3), parts(3, 1), workers=2)))
"""
GUARD = 'if __name__ == "__main__":'


def run(script, guard, folder):
    path = folder / "script.py"
    path.write_text(script.format(guard=guard))
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("script", "printed"), [(INDEX, "1"), (BATCHES, "3")])
def test_the_error_names_the_line_that_is_missing(tmp_path, script, printed):
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "a.mp4", ("red", 3))
    without = run(script, "if True:", tmp_path)
    assert without.returncode == 1
    assert without.stderr.count("Traceback") == 1 and "another command" not in without.stderr
    last = without.stderr.rstrip().splitlines()[-1]
    assert (
        last.startswith("stgt.rerun.UnguardedError: ")
        and "script.py" in last
        and f"expected them under `{GUARD}`" in last
    )
    assert run(script, GUARD, tmp_path).stdout.strip() == printed
