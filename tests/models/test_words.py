"""All uses of the word embeddings share one gradient, which is that of PyTorch."""

import copy
from contextlib import nullcontext

import pytest
import torch
from helpers.tiny import tiny_batch, tiny_model
from torch.profiler import ProfilerActivity, profile

from stgt.config import LossConfig, QFormerConfig
from stgt.models.words import WordEmbeddings
from stgt_kernels import dispatch

V, H = 5000, 8


@pytest.fixture
def embeddings():
    torch.manual_seed(0)
    words = dict(vocab_size=V, bos_token_id=V - 1, max_positions=16, max_text_length=8)
    return WordEmbeddings(QFormerConfig(hidden=H, layers=1, heads=1, intermediate=8, queries=1, **words))


def gradient(embeddings, shared, product=True, lookups=2):
    """The gradient of the table after some uses of it, in a block or without one."""
    embeddings.zero_grad()
    ids = torch.tensor([[1, 7, 7, 0], [4990, 7, 0, 0]])
    with embeddings.one_gradient() if shared else nullcontext():
        total = sum((embeddings(ids + n * (ids > 0)) ** 3).sum() for n in range(lookups))
        if product:
            total = total + ((torch.linspace(-1, 1, 3 * H).view(3, H) @ embeddings.matrix.T + 1) ** 2).sum()
    total.backward()
    return embeddings.word_embeddings.weight.grad


@pytest.mark.parametrize(("product", "lookups"), [(True, 2), (True, 0), (False, 2), (False, 1)])
def test_the_gradient_is_that_of_pytorch_and_dense(embeddings, product, lookups):
    expected = gradient(embeddings, False, product, lookups).clone()
    found = gradient(embeddings, True, product, lookups)
    assert found.layout == torch.strided and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert found[0].count_nonzero() == (H if product else 0)  # word 0 is padding


def test_one_tensor_is_made_for_all_gradients(embeddings):
    counts = []
    for shared in (False, True):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            gradient(embeddings, shared)
        counts.append(sum(event.self_cpu_memory_usage >= 4 * V * H for event in recorded.events()))
    assert counts[1] == 1 < counts[0]


def test_gradients_of_several_steps_are_added_up(embeddings):
    once, weight = gradient(embeddings, True).clone(), embeddings.word_embeddings.weight
    embeddings.zero_grad = lambda: None
    assert torch.equal(gradient(embeddings, True), 2 * once)
    assert weight.grad.layout == torch.strided


def test_the_block_ends_with_an_error_and_leaves_nothing(embeddings):
    with pytest.raises(KeyError), embeddings.one_gradient():
        assert embeddings.matrix is not embeddings.word_embeddings.weight
        raise KeyError
    assert embeddings.matrix is embeddings.word_embeddings.weight
    copy.deepcopy(embeddings)


def test_other_tables_and_backends_compute_as_without_a_block(embeddings):
    weight = embeddings.word_embeddings.weight
    with torch.no_grad(), embeddings.one_gradient():
        assert embeddings.matrix is weight
    with dispatch.use_backend("reference"), embeddings.one_gradient():
        assert embeddings.matrix is weight
    with torch.autocast("cpu", torch.bfloat16), embeddings.one_gradient():
        assert embeddings.matrix is weight
    hook = embeddings.word_embeddings.register_forward_hook(lambda module, ids, out: 2 * out)
    with embeddings.one_gradient():
        assert embeddings.matrix is weight
    hook.remove()
    weight.requires_grad_(False)
    with embeddings.one_gradient():
        assert not embeddings.matrix.requires_grad


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("vtg", [1.0, 0.0])
def test_a_step_of_training_has_the_same_gradients(chunk, vtg):
    model, batch, found = tiny_model(), tiny_batch(), []
    loss = LossConfig(chunk=chunk, vtg_weight=vtg)
    for backend in ("auto", "reference"):
        model.zero_grad()
        with dispatch.use_backend(backend):
            model(batch, loss, torch.Generator().manual_seed(0))["loss"].backward()
        found.append(model.qformer.embeddings.word_embeddings.weight.grad)
    assert found[0].layout == torch.strided
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert model.qformer.embeddings.matrix is model.qformer.embeddings.word_embeddings.weight
