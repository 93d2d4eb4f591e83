"""Figures show the model's own numbers. Graph, attention and pooling are computed here a second time."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import one_layer_model
from matplotlib.figure import Figure
from PIL import Image

from stgt.figures.inside import Token, look_inside, moving_token, pool_winners, require_token
from stgt.figures.maps import THRESHOLDS, Scene, draw_edges, strongest_edges
from stgt.figures.matrices import PIXELS, reaching, shrink
from stgt.figures.pictures import draw_scene
from stgt.figures.results import draw_results
from stgt.figures.retrieved import Answer, Example, draw_text_to_video, draw_video_to_text
from stgt.figures.text import put_text
from stgt.models.graph_transformer import max_pool_sampling
from stgt_kernels import SpatioTemporalGraph, graph_attention, spatio_temporal_graph


@torch.no_grad()
def local_tokens(model, video):
    """(T, P, C), the tokens from which the first layer builds its graph."""
    return model.graph.blocks[0].proj(model.graph.position(model.visual_tokens(video[None])))[0, :, 1:]


def scene_of(model, video, token):
    frames = torch.randint(0, 255, (len(video), 24, 24, 3), dtype=torch.uint8)
    return Scene(frames, look_inside(model, video), token)


@pytest.mark.parametrize("attention", ["dense", "kernels"])
def test_edges_are_a_row_of_the_dense_graph(attention):
    model, video, token = one_layer_model(threshold=0.3, attention=attention), torch.randn(4, 3, 32, 32), Token(1, 2, 3)
    scene, local = scene_of(model, video, token), local_tokens(model, video)
    node = 1 * 16 + 2 * 4 + 3
    expected = spatio_temporal_graph(local[None], threshold=0.3, window=1).to_dense()[0, node]
    edges = scene.row(scene.inside.weights())
    torch.testing.assert_close(edges.nan_to_num(0.0).flatten(), expected, atol=1e-5, rtol=0)
    assert edges[3].isnan().all() and edges[1, 2, 3] == pytest.approx(1, abs=1e-5)

    unit = F.normalize(local.flatten(0, 1), dim=-1)
    cosine = unit @ unit.T
    torch.testing.assert_close(scene.inside.similarity(), cosine, atol=1e-5, rtol=0)
    near = (torch.arange(4)[:, None] - torch.arange(4)).abs().repeat_interleave(16, 0).repeat_interleave(16, 1) <= 1
    assert scene.inside.band().equal(near)
    for threshold in THRESHOLDS:
        expected = torch.where(near & (cosine >= threshold), cosine, 0)
        torch.testing.assert_close(scene.inside.at_threshold(threshold), expected, atol=1e-5, rtol=0)


def test_attention_equals_the_kernels_output_for_one_hot_values():
    inside = look_inside(one_layer_model(threshold=0.3), torch.randn(4, 3, 32, 32))
    H, N, D = inside.q.shape

    def by_kernel(graph):
        columns = [
            graph_attention(inside.q[None], inside.k[None], one_hot.expand(1, H, N, D), graph)[0].mean(0)
            for one_hot in torch.eye(N).split(D, dim=1)
        ]
        return torch.cat(columns, dim=1)

    everything = torch.ones(N, N)
    for weight, graph in [
        (inside.weights(), inside.graph),
        (inside.band().float(), SpatioTemporalGraph.from_dense(inside.band().float()[None], 4, 1)),
        (everything, SpatioTemporalGraph.from_dense(everything[None])),
    ]:
        attention = inside.attention(weight)
        torch.testing.assert_close(attention, by_kernel(graph), atol=1e-5, rtol=0)
        torch.testing.assert_close(attention.sum(1), torch.ones(N))
        assert (attention[weight == 0] == 0).all()


def test_attention_times_values_equals_the_models_own_output():
    model, video, seen = one_layer_model(threshold=0.3, heads=1), torch.randn(4, 3, 32, 32), []
    module = model.graph.blocks[0].graph_attention
    module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    inside = look_inside(model, video)
    x, output = (tensor[0] for tensor in seen[0])
    with torch.no_grad():
        torch.testing.assert_close(
            module.out_proj(inside.attention(inside.weights()) @ module.v_proj(x)), output, atol=1e-5, rtol=0
        )


def test_a_token_without_edges_attends_to_nothing():
    inside = look_inside(one_layer_model(), torch.randn(4, 3, 32, 32))
    weight = inside.weights().index_fill(0, torch.tensor([5]), 0.0)
    attention = inside.attention(weight)
    assert (attention[5] == 0).all() and attention.isfinite().all() and attention[6].sum() == pytest.approx(1)


@pytest.mark.parametrize("layers", [1, 2])
def test_pooling_positions_belong_to_the_values_that_the_model_keeps(layers):
    model, video = one_layer_model(layers=layers), torch.randn(4, 3, 32, 32)
    tokens = look_inside(model, video).tokens
    with torch.no_grad():
        pooled = model.ln_vision(model.graph.ln_post(max_pool_sampling(tokens[None])) @ model.graph.proj)
        torch.testing.assert_close(pooled, model.encode_video(video[None]).embeds)

    of_rows, of_columns = pool_winners(tokens)
    grid = tokens[:, 1:].view(4, 4, 4, 16)
    for t, row, column in ((0, 0, 0), (2, 1, 3), (3, 3, 2)):
        patch = grid[t, row, column]
        for share, rivals in ((of_rows, grid[t, row]), (of_columns, grid[t, :, column])):
            largest = rivals == rivals.amax(
                0
            )  # if values are equal, as in tokens of a second layer, either position is right
            alone = (patch == rivals.amax(0)) & (largest.sum(0) == 1)
            assert alone.float().mean() <= share[t, row, column] <= (patch == rivals.amax(0)).float().mean()
    torch.testing.assert_close(of_rows.sum(2), torch.ones(4, 4))
    torch.testing.assert_close(of_columns.sum(1), torch.ones(4, 4))


def test_looking_inside_a_model_does_not_change_it():
    model, video = one_layer_model(), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = model.encode_video(video[None]).queries
        look_inside(model, video)
        assert model.encode_video(video[None]).queries.equal(before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("token", "message"),
    [(Token(4, 0, 0), "frame is 4, expected 0 to 3"), (Token(0, -1, 0), "row is -1"), (Token(0, 0, 9), "column is 9")],
)
def test_a_token_outside_the_clip_is_refused(token, message):
    with pytest.raises(ValueError, match=message):
        require_token(token, 4, 4)


def test_a_missing_layer_or_graph_is_refused():
    video = torch.randn(4, 3, 32, 32)
    with pytest.raises(ValueError, match="joins frames by 'none'"):
        look_inside(one_layer_model(kind="none"), video)
    with pytest.raises(ValueError, match="layer is 2, expected 0 to 1"):
        look_inside(one_layer_model(layers=2), video, layer=2)


def test_the_moving_token_is_on_the_moving_shape():
    frames = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
    assert moving_token(frames, 4) == Token(2, 2, 2)
    frames[3, 8:16, 24:] = 200
    frames[4] = frames[3]
    assert moving_token(frames, 4) == Token(3, 1, 3)
    passing = torch.full((5, 32, 32, 3), 90, dtype=torch.uint8)
    for t in range(5):  # the place that the shape leaves changes as much, but it is not the right one
        passing[t, 8:16, 6 * t : 6 * t + 8] = 255
    frame, row, column = moving_token(passing, 4)
    assert 0 < frame < 4 and row == 1 and passing[frame, 12, 8 * column + 4, 0] == 255


@pytest.mark.parametrize(("frames", "edges", "condition"), [(1, True, "at least h = 0.5"), (12, False, "no threshold")])
def test_every_figure_of_a_clip_is_sharp_enough_for_print(frames, edges, condition, tmp_path):
    scene = scene_of(one_layer_model(edges=edges), torch.randn(frames, 3, 32, 32), Token(frames - 1, 2, 3))
    pictures = draw_scene(scene, tmp_path / "new")
    names = {"similarity", "edges", "adjacency", "weights", "attention", "attention_matrices", "thresholds", "pooling"}
    assert {picture.file.stem for picture in pictures} == names - ({"pooling"} if frames == 1 else set())
    edges = int((scene.inside.weights()[scene.inside.node(scene.token)] != 0).sum())
    assert f"an edge ({edges} in all)" in pictures[0].caption and condition in pictures[0].caption
    for picture in pictures:
        with Image.open(picture.file) as image:
            assert image.info["dpi"][0] >= 200 and image.width <= 7.2 * image.info["dpi"][0]
            assert len(image.convert("L").getcolors()) > 20


def test_without_a_threshold_every_pair_of_the_band_is_an_edge():
    inside = look_inside(one_layer_model(edges=False), torch.randn(4, 3, 32, 32))
    assert inside.threshold is None and (inside.weights() != 0).equal(inside.band())


def test_long_clips_show_the_frames_around_the_token():
    scene = scene_of(one_layer_model(window=3), torch.randn(20, 3, 32, 32), Token(15, 0, 0))
    assert 15 in scene.shown() and len(scene.shown()) == 8 and scene.shown()[-1] < 20
    assert scene.near(2) == range(13, 18) and scene.near(8) == range(12, 19)


def test_the_strongest_edges_come_first_and_missing_ones_never():
    edges = torch.tensor([[0.6, torch.nan], [0.9, 0.7]])
    assert strongest_edges(edges, 2) == [(1, 0), (1, 1)]
    assert strongest_edges(edges, 9) == [(1, 0), (1, 1), (0, 0)]


def test_the_curve_of_edges_per_token_contains_the_models_own_number():
    inside = look_inside(one_layer_model(threshold=0.3), torch.randn(4, 3, 32, 32))
    band = inside.similarity()[inside.band()].numpy()
    at_own, at_most, beyond = reaching(band, np.array([0.3, -1.0, 1.1]))
    # Rounding may move pairs across the threshold of 0.3.
    assert at_own / 64 == pytest.approx(float(inside.graph.degree().float().mean()), abs=2 / 64)
    assert at_most == len(band) == (4 + 2 * 3) * 16**2 and beyond == 0


def test_large_matrices_are_averaged_over_whole_blocks():
    small = torch.rand(8, 8)
    assert (shrink(small, 4) == small.numpy()).all()
    large = torch.rand(3 * 256, 3 * 256)
    large[0, 1] = torch.nan
    averaged = shrink(large, 256)
    assert averaged.shape == (384, 384) and len(averaged) <= PIXELS
    assert averaged[5, 7] == pytest.approx(float(large[10:12, 14:16].mean()), abs=1e-6)
    assert averaged[0, 0] == pytest.approx(float(large[[0, 1, 1], [0, 0, 1]].mean()), abs=1e-6)


def test_pictures_are_written_into_a_new_folder(tmp_path):
    frames = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    draw_edges(scene_of(one_layer_model(), torch.randn(4, 3, 32, 32), Token(1, 2, 3)), tmp_path / "new" / "edges.png")
    draw_results("a red circle grows", [("a.mp4", 0.9, frames), ("b.mp4", 0.2, frames[:1])], tmp_path / "top.png")
    for name in ("new/edges.png", "top.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.height > 100 and len(picture.convert("L").getcolors()) > 20


def shown(*lines):
    axes = Figure().add_axes((0, 0, 1, 1))
    put_text(axes, 0, 0, *lines)
    return axes.texts[0]


def test_text_in_pictures_is_neither_mathematics_nor_a_command():
    text = shown("$x^{2$ costs \\$5 \x1b[2J", "<b>\ud800\n")
    assert text.get_text() == "$x^{2$ costs \\$5 \\x1b[2J\n<b>\\ud800\\n"
    assert not text.get_parse_math() and not text.get_usetex()


def test_letters_that_the_font_lacks_come_from_another_font_or_are_escapes():
    assert shown("naïve").get_fontfamily() == ["sans-serif"]
    text = shown("a \u2905 b \u0378")  # an arrow that matplotlib's fonts have, and a code without a letter
    assert len(text.get_fontfamily()) == 2 and text.get_text() == "a \u2905 b \\u0378"


HOSTILE = ("$x_{$.mp4", "$$", "a\x1b[2J\x00\nb", "\\frac{$", "caf\udce9.mp4", "\u202e日本 👍", "%", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_pictures_hold_any_text(text, tmp_path):
    frames = torch.randint(0, 255, (4, 8, 8, 3), dtype=torch.uint8)
    answers = [Answer(text, 0.5, True, frames), Answer(f"two words {text}", 0.1, False, frames)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns about letters that it cannot draw
        draw_results(text, [(text, 0.5, frames)], tmp_path / "results.png")
        draw_text_to_video([Example(text, answers, 1, 2)], tmp_path / "text_to_video.png")
        draw_video_to_text([Example(text, answers, 1, 2, frames)], tmp_path / "video_to_text.png")
    assert len(list(tmp_path.iterdir())) == 3
