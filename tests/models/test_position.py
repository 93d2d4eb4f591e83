import math

import pytest
import torch

from stgt.models.position import Position, nearest, sincos_2d


def test_sincos_follows_its_formula():
    width, grid = 16, 5
    table = sincos_2d(grid, width)
    assert table.shape == (26, 16) and not table[0].any()
    for x, y, k in [(0, 0, 0), (3, 1, 2), (4, 4, 3)]:
        row = table[1 + y * grid + x]
        frequency = 10000 ** (-k / 4)
        for place, position in ((0, x), (8, y)):
            assert row[place + k].item() == pytest.approx(math.sin(position * frequency), abs=1e-6)
            assert row[place + 4 + k].item() == pytest.approx(math.cos(position * frequency), abs=1e-6)


@pytest.mark.parametrize(
    "learned, frames, rows", [(8, 8, range(8)), (8, 5, [0, 1, 3, 4, 6]), (3, 7, [0, 0, 0, 1, 1, 2, 2]), (8, 1, [0])]
)
def test_nearest_takes_the_row_at_or_before(learned, frames, rows):
    embedding = torch.randn(learned, 3)
    assert torch.equal(nearest(embedding, frames), embedding[list(rows)])


def test_the_spatial_part_is_frozen_and_always_saved():
    for pos2d in ("sincos", "random", "load"):
        position = Position(8, 3, 4, pos2d)
        assert set(position.state_dict()) == {"spatial", "temporal"}
        assert [name for name, _ in position.named_parameters()] == ["temporal"]
    assert not Position(8, 3, 4, "load").spatial.any()
    assert not torch.equal(Position(8, 3, 4, "random").spatial, Position(8, 3, 4, "random").spatial)


def test_adds_both_embeddings():
    position = Position(8, 3, 4, "random")
    x = torch.randn(2, 4, 10, 8)
    out = position(x)
    torch.testing.assert_close(out[1, 2, 5], x[1, 2, 5] + position.spatial[5] + position.temporal[2])
