"""Existing simulated clips are used only if they have not changed since they were rendered."""

import random
import shutil

import pytest

from stgt.data.shapes import render_shapes
from stgt.integrity import CHECKSUMS, DamagedError

SETTINGS = dict(train=2, test=1, size=32, frames=4)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return render_shapes(tmp_path_factory.mktemp("shapes") / "out", **SETTINGS)


def test_a_flipped_byte_is_noticed_in_every_file(rendered, tmp_path):
    out, draw = shutil.copytree(rendered, tmp_path / "out"), random.Random(0)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(files) == 3 + 7 + 1  # clips; JSON and README; checksums
    for path in files:
        whole = path.read_bytes()
        for place in draw.sample(range(len(whole)), 5):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :])
            with pytest.raises(DamagedError, match=str(out)):
                render_shapes(out, **SETTINGS)
        path.write_bytes(whole)
    assert render_shapes(out, **SETTINGS) == out
    next((out / "videos").iterdir()).unlink()
    with pytest.raises(DamagedError, match="mp4: there is no such file"):
        render_shapes(out, **SETTINGS)


def test_clips_without_checksums_are_taken_with_a_warning(rendered, tmp_path, caplog):
    out = shutil.copytree(rendered, tmp_path / "out")
    (out / CHECKSUMS).unlink()
    render_shapes(out, **SETTINGS)
    assert "has no checksums, as version 0.1.0 wrote none" in caplog.text
