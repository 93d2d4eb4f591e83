import numpy as np
import pytest
import torch

from stgt.data.shapes.render import render
from stgt.data.shapes.scene import DIRECTIONS, Object, Scene, simulate
from stgt.models.motion import PRIOR, edge_motion
from stgt_kernels import SpatioTemporalGraph, spatio_temporal_graph

GRID, FRAMES = 8, 5
THING = torch.tensor([0.0, 1.0])


def clip(squares):
    """Tokens (1, T, P, 2) with a square of another direction in each frame. squares: its column, row and side."""
    tokens = torch.zeros(1, len(squares), GRID, GRID, 2)
    tokens[..., 0] = 1
    for frame, (column, row, side) in enumerate(squares):
        tokens[0, frame, row : row + side, column : column + side] = THING
    return tokens.flatten(2, 3)


def motion_of(squares, window=1):
    """(T, 3): the motion of the square's first patch in each frame."""
    motion = edge_motion(spatio_temporal_graph(clip(squares), threshold=0.5, window=window))
    assert motion.shape == (1, len(squares), GRID**2, 3) and motion.dtype == torch.float32
    return torch.stack([motion[0, frame, row * GRID + column] for frame, (column, row, _) in enumerate(squares)])


def test_the_velocity_of_an_object_is_that_of_its_patches():
    for step in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (0, 0)):
        start = [0 if each > 0 else 5 for each in step]
        squares = [(start[0] + t * step[0], start[1] + t * step[1], 2) for t in range(FRAMES)]
        motion = motion_of(squares)
        # The square has as many patches in each frame, so the offsets -1, 0, 1 vary by 2/3, and 0, 1 by 1/4.
        spread = torch.tensor([1 / 4] + [2 / 3] * (FRAMES - 2) + [1 / 4])
        expected = torch.tensor(step) * (spread / (spread + PRIOR))[:, None]
        torch.testing.assert_close(motion[:, :2], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(motion[:, 2], torch.zeros(FRAMES), rtol=0, atol=1e-6)


def test_the_growth_of_an_object_is_that_of_the_number_of_its_patches():
    growing = motion_of([(3, 3, 1), (3, 3, 2), (3, 3, 3), (3, 3, 4)])
    torch.testing.assert_close(growing[:, 2], torch.tensor([3 / 2.5, 4 / (14 / 3), 6 / (29 / 3), 7 / 12.5]))
    shrinking = motion_of([(3, 3, 4), (3, 3, 3), (3, 3, 2), (3, 3, 1)])
    torch.testing.assert_close(shrinking[:, 2], -growing.flip(0)[:, 2])


def test_a_wider_window_fits_one_line_to_more_frames():
    squares = [(0, 0, 2), (1, 0, 2), (2, 0, 2), (2, 0, 2), (2, 0, 2)]
    velocity = motion_of(squares, window=2)[2, 0]
    slope = (2 * 2 + 1 * 1) / 10  # places -2, -1, 0, 0, 0 beside offsets -2, -1, 0, 1, 2
    torch.testing.assert_close(velocity, torch.tensor(slope * 2 / (2 + PRIOR)))


def test_images_and_patches_without_edges_have_no_motion():
    assert not edge_motion(spatio_temporal_graph(clip([(2, 2, 3)]), threshold=0.5, window=1)).any()
    assert not edge_motion(spatio_temporal_graph(torch.zeros(1, 3, 4, 2), threshold=0.5, window=1)).any()
    lonely = torch.eye(12)[None].view(1, 3, 4, 12)  # no two patches are similar
    assert not edge_motion(spatio_temporal_graph(lonely, threshold=0.5, window=1))[..., :2].any()


def test_one_faint_edge_to_another_frame_hardly_moves_a_patch():
    weight = torch.zeros(1, 2, 64, 3, 64)
    weight[0, 0, 0, 1], weight[0, 0, 0, 2, 7] = 1.0, 1e-3
    assert edge_motion(SpatioTemporalGraph(weight))[0, 0, 0, :2].abs().max() < 0.02


def test_negative_weights_count_as_none_and_half_precision_as_float32():
    weight = torch.rand(2, 3, 16, 3, 16, generator=torch.Generator().manual_seed(0)).half()
    weight[:, 0, :, 0] = weight[:, -1, :, 2] = 0
    expected = edge_motion(SpatioTemporalGraph(weight.float()))
    assert torch.equal(edge_motion(SpatioTemporalGraph(weight)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(edge_motion(SpatioTemporalGraph(weight)), expected)
    negative = torch.where(weight < 0.2, -weight, 0.0).float()
    torch.testing.assert_close(
        edge_motion(SpatioTemporalGraph(weight.float().where(weight >= 0.2, negative))),
        edge_motion(SpatioTemporalGraph(weight.float().where(weight >= 0.2, 0.0))),
    )


def test_compiled_code_measures_the_same_motion(assert_near):
    def measure(tokens):
        return edge_motion(spatio_temporal_graph(tokens, threshold=0.5, window=1))

    tokens = clip([(t, 2, 2) for t in range(FRAMES)])
    compiled = torch.compile(measure, backend="aot_eager", fullgraph=True)
    assert_near(compiled(tokens), measure(tokens), "motion")


def test_gradients_reach_the_weights_of_edges():
    weight = torch.rand(1, 3, 4, 3, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    weight[:, 0, :, 0] = weight[:, -1, :, 2] = 0
    inside = weight > 0
    side = torch.randn(1, 3, 4, 3, generator=torch.Generator().manual_seed(2))
    weight.requires_grad_()
    (edge_motion(SpatioTemporalGraph(weight)) * side).sum().backward()
    step = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * inside

    def moved(by):
        return (edge_motion(SpatioTemporalGraph(weight.detach() + by * step)) * side).double().sum()

    numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2
    torch.testing.assert_close((weight.grad * step).double().sum(), numeric, rtol=1e-2, atol=1e-3)


def measured_and_true(motion, size="small"):
    """The mean motion of an object's patches, whose tokens are colours, and its true velocity in patches per frame."""
    rng = np.random.default_rng(0)
    scene = Scene((Object("white", "circle", size, motion),))
    (track,) = simulate(scene, 8, rng)
    frames = torch.from_numpy(render(scene, [track], "plain", 64, rng).frames).float()
    colours = frames.unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2).mean((-1, -2))  # (T, P, 3)
    tokens = colours - colours.flatten(0, 1).median(0).values  # the background becomes 0
    shown = tokens.norm(dim=-1) > 0.3 * tokens.norm(dim=-1).max()
    measured = edge_motion(spatio_temporal_graph(tokens[None].contiguous(), threshold=0.5, window=1))[0][shown].mean(0)
    return measured, torch.from_numpy(track.centre[-1] - track.centre[0]).float() / 7 * GRID


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", ["small", "large"])
def test_the_velocity_in_a_rendered_clip_is_that_of_the_object(direction, size):
    measured, true = measured_and_true(f"moves {direction}", size)
    assert true.norm() > 0.4 and (measured[:2] - true).norm() < 0.1


def test_the_growth_in_a_rendered_clip_has_the_sign_of_the_object_s():
    growing, shrinking, staying = (measured_and_true(motion)[0] for motion in ("grows", "shrinks", "stays"))
    assert growing[2] > 0.1 and shrinking[2] < -0.1 and abs(staying[2]) < 0.02
    assert max(motion[:2].norm() for motion in (growing, shrinking, staying)) < 0.1
