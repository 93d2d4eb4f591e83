"""The inputs of the benchmarks are as dense as real video, and their work is counted correctly."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.inputs import TOKENS, AttentionInputs, Problem, clips, real_tokens, tokens_of
from stgt_kernels import spatio_temporal_graph


def test_the_clips_equal_the_tensors_of_the_file():
    assert torch.equal(clips(), torch.stack([tensor.float() for tensor in load_file(TOKENS).values()]))


def test_flops_and_bytes_at_the_papers_size_are_counted_correctly():
    paper = Problem(B=20)
    forward, both = paper.attention_flops(False), paper.attention_flops(True)
    assert paper.graph_flops() / 1e9 == pytest.approx(55.4, abs=0.1)
    assert forward / 1e9 == pytest.approx(162.4, abs=0.1) and (both - forward) / 1e9 == pytest.approx(406, abs=0.1)
    one = Problem(T=1)
    assert one.band == 0 and one.pairs == one.P**2 and one.attention_bytes(False) == 4 * (4 * 256 * 16 * 88 + 256**2)


@pytest.mark.parametrize("P", [49, 196, 256, 576])
def test_real_tokens_keep_their_density_at_any_number_of_patches(P):
    inputs = AttentionInputs.make(Problem(B=2, T=4, P=P, C=768, H=1, D=8))
    assert 0.75 < inputs.graph.density().item() < 0.95 and inputs.live_share() == 1.0


def test_tokens_are_played_back_and_forth_and_repeated():
    x = real_tokens(3, 20, 256, 500)
    assert x.shape == (3, 20, 256, 500)
    assert torch.equal(x[:, 7], x[:, 8]) and torch.equal(x[:, 0], x[:, 15]) and torch.equal(x[:, 0], x[:, 16])
    assert torch.equal(x[0], x[2]) and torch.equal(x[..., :116], x[..., 384:])
    with pytest.raises(ValueError, match="square"):
        real_tokens(1, 1, 50, 8)


def test_noise_leaves_self_loops_and_empty_tiles():
    noise = AttentionInputs.make(Problem(T=2, tokens="noise", H=1, D=8))
    assert noise.graph.degree().eq(1).all() and noise.live_share() == 0.125


def test_a_copy_has_the_same_values_elsewhere_in_memory():
    inputs = AttentionInputs.make(Problem(T=2, P=16, C=64, H=2, D=8))
    copy = inputs.copy()
    for a, b in zip((*inputs.tensors, inputs.graph.weight), (*copy.tensors, copy.graph.weight), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride() and a.data_ptr() != b.data_ptr()


def test_half_precision_tokens_make_the_same_graph():
    x = tokens_of(Problem(T=2, dtype="bf16"))
    graph = spatio_temporal_graph(x, threshold=0.5)
    assert x.dtype == torch.bfloat16 and graph.weight.dtype == torch.float16
