"""Links read from the model are the graph's own; pictures are written without a display."""

import matplotlib.image
import pytest
import torch

from stgt.config import GraphConfig, ModelConfig, QFormerConfig, VisionConfig
from stgt.figures.links import Token, draw_links, moving_token, token_links
from stgt.figures.results import draw_results
from stgt.models.stgt import STGT


def tiny_model(**graph):
    torch.manual_seed(0)
    return STGT(
        ModelConfig(
            vision=VisionConfig("vit", image_size=32, patch_size=8, width=16, layers=1, heads=2, open_blocks=-1),
            graph=GraphConfig(heads=2, frames=4, **graph),
            qformer=QFormerConfig(
                hidden=16, layers=2, heads=2, intermediate=32, queries=2, vocab_size=20, bos_token_id=19, embed_dim=8
            ),
        )
    ).eval()


@pytest.mark.parametrize("attention", ["dense", "kernels"])
def test_links_are_cosines_above_the_threshold_within_the_window(attention):
    model, video = tiny_model(threshold=0.3, attention=attention), torch.randn(4, 3, 32, 32)
    links = token_links(model, video, Token(1, 2, 3))
    with torch.no_grad():
        x = model.graph.position(model.visual_tokens(video[None]))
        local = torch.nn.functional.normalize(model.graph.blocks[0].proj(x)[0, :, 1:], dim=-1)
    cosine = (local @ local[1, 2 * 4 + 3]).view(4, 4, 4)
    assert links[3].isnan().all() and links[1, 2, 3] == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(links[:3], torch.where(cosine >= 0.3, cosine, 0.0)[:3], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("token", "message"),
    [(Token(4, 0, 0), "frame is 4, expected 0 to 3"), (Token(0, -1, 0), "row is -1"), (Token(0, 0, 9), "column is 9")],
)
def test_a_token_outside_the_clip_is_refused(token, message):
    with pytest.raises(ValueError, match=message):
        token_links(tiny_model(), torch.randn(4, 3, 32, 32), token)


def test_a_model_without_a_graph_has_no_links():
    with pytest.raises(ValueError, match="joins frames by 'none'"):
        token_links(tiny_model(kind="none"), torch.randn(4, 3, 32, 32), Token(0, 0, 0))


def test_the_moving_token_is_where_the_change_is():
    frames = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
    assert moving_token(frames, 4) == Token(2, 2, 2)
    frames[3, 8:16, 24:] = 200
    frames[4] = frames[3]
    assert moving_token(frames, 4) == Token(3, 1, 3)


def test_pictures_are_written_into_a_new_folder(tmp_path):
    frames = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    links = torch.rand(4, 4, 4)
    links[3] = torch.nan
    draw_links(frames, links, Token(1, 2, 3), tmp_path / "new" / "links.png")
    draw_results("a red circle grows", [("a.mp4", 0.9, frames), ("b.mp4", 0.2, frames[:1])], tmp_path / "top.png")
    for name in ("new/links.png", "top.png"):
        picture = matplotlib.image.imread(tmp_path / name)
        assert picture.shape[0] > 100 and picture.std() > 0.05
