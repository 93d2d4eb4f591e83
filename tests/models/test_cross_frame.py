import pytest
import torch

from stgt.config import GraphConfig
from stgt.models.cross_frame import CrossFrameBlock
from stgt.models.graph_transformer import GraphTransformer


def test_a_block_follows_the_equations_of_x_clip():
    torch.manual_seed(0)
    block = CrossFrameBlock(16, heads=2, frames=3)
    B, T, S, C = 2, 3, 5, 16
    x = torch.randn(B, T, S, C)
    out, edges = block(x)
    assert edges is None

    expected = []
    for clip in x:
        message = block.message_fc(clip[:, 0])
        y = block.message_ln(message)[None]
        message = message + block.message_attn(y, y, y)[0][0]
        frames = []
        for frame, note in zip(clip, message, strict=True):
            y = block.ln_1(torch.cat([frame, note[None]]))[None]
            frame = frame + block.attn(y, y, y)[0][0, :-1]
            frames.append(frame + block.mlp(block.ln_2(frame)))
        cls = torch.stack([frame[0] for frame in frames])
        cls = cls + block.integration((cls + block.frame_position)[None])[0]
        expected.append(torch.stack([torch.cat([c[None], f[1:]]) for c, f in zip(cls, frames, strict=True)]))
    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4, 9])
def test_cross_frame_blocks_replace_graph_blocks(frames):
    model = GraphTransformer(GraphConfig(kind="cross_frame", heads=2, frames=4), 16, 3).train()
    out, stats = model(torch.randn(2, frames, 10, 16))
    assert out.shape == (2, 10 if frames == 1 else 7 * frames, 16) and stats == {}
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
