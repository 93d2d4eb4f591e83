"""All uses of the word embeddings share one gradient, which is that of PyTorch."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers.tiny import tiny_batch, tiny_model
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from stgt.config import LossConfig, QFormerConfig
from stgt.models.words import WordEmbeddings
from stgt_kernels import dispatch

V, H = 5000, 8


@pytest.fixture
def embeddings():
    torch.manual_seed(0)
    words = dict(vocab_size=V, bos_token_id=V - 1, max_positions=16, max_text_length=8)
    return WordEmbeddings(QFormerConfig(hidden=H, layers=1, heads=1, intermediate=8, queries=1, **words))


def product_of(embeddings):
    return embeddings.logits(torch.linspace(-1, 1, 3 * H).view(3, H), torch.ones(V))


def gradient(embeddings, shared, product=True, lookups=2):
    """The gradient of the table after some uses of it, in a block or without one."""
    embeddings.zero_grad()
    ids = torch.tensor([[1, 7, 7, 0], [4990, 7, 0, 0]])
    with embeddings.one_gradient() if shared else nullcontext():
        total = sum((embeddings(ids + n * (ids > 0)) ** 3).sum() for n in range(lookups))
        if product:
            total = total + (product_of(embeddings) ** 2).sum()
    total.backward()
    return embeddings.word_embeddings.weight.grad


@pytest.mark.parametrize(("product", "lookups"), [(True, 2), (True, 0), (False, 2), (False, 1)])
def test_the_gradient_is_that_of_pytorch_and_dense(embeddings, product, lookups):
    expected = gradient(embeddings, False, product, lookups).clone()
    found = gradient(embeddings, True, product, lookups)
    assert found.layout == torch.strided and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert found[0].count_nonzero() == (H if product else 0)  # word 0 is padding


@pytest.mark.parametrize("lookups", [1, 4])
def test_lookups_make_one_tensor_for_all_of_their_gradients(embeddings, lookups):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        gradient(embeddings, True, lookups=lookups)
    assert sum(event.self_cpu_memory_usage >= 4 * V * H for event in recorded.events()) == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_lookups_are_computed_again_outside_of_the_block(embeddings, reentrant):
    ids, scale, found = torch.tensor([[1, 7, 7, 0]]), torch.ones(1, requires_grad=True), []
    recomputed = partial(checkpoint, use_reentrant=reentrant)

    def looked_up(scale):
        return embeddings(ids) * scale

    for again in (False, True):
        embeddings.zero_grad()
        with embeddings.one_gradient():
            words = recomputed(looked_up, scale) if again else looked_up(scale)
            total = words.pow(3).sum() + product_of(embeddings).square().sum()
        total.backward()
        found.append(embeddings.word_embeddings.weight.grad)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "options", [{}, dict(max_norm=0.1), dict(scale_grad_by_freq=True), dict(sparse=True), dict(padding_idx=-1)]
)
def test_other_tables_have_the_gradient_of_pytorch(embeddings, options):
    ids, found = torch.tensor([[1, 7, 7, V - 1, 0]]), []
    for shared in (False, True):
        torch.manual_seed(0)
        embeddings.word_embeddings = nn.Embedding(V, H, **options)
        with embeddings.one_gradient() if shared else nullcontext():
            words = embeddings(ids)
        words.pow(3).sum().backward()
        found.append((words.detach(), embeddings.word_embeddings.weight.grad.to_dense()))
    torch.testing.assert_close(*found)


def test_second_derivatives(embeddings):
    weight, found = embeddings.word_embeddings.weight, []
    for shared in (False, True):
        with embeddings.one_gradient() if shared else nullcontext():
            total = embeddings(torch.tensor([[1, 7, 7, 0]])).pow(3).sum() + product_of(embeddings).pow(3).sum()
        (first,) = torch.autograd.grad(total, weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), weight)[0])
    torch.testing.assert_close(*found)


def test_gradients_of_several_steps_are_added_up(embeddings):
    once, weight = gradient(embeddings, True).clone(), embeddings.word_embeddings.weight
    embeddings.zero_grad = lambda: None
    assert torch.equal(gradient(embeddings, True), 2 * once)
    assert weight.grad.layout == torch.strided


def test_the_block_ends_with_an_error_and_leaves_nothing(embeddings):
    with pytest.raises(KeyError), embeddings.one_gradient():
        assert embeddings._shared is not None
        raise KeyError
    assert embeddings._shared is None
    copy.deepcopy(embeddings)


def test_other_tables_and_backends_compute_as_without_a_block(embeddings):
    weight = embeddings.word_embeddings.weight
    with torch.no_grad(), embeddings.one_gradient():
        assert embeddings._shared is None
    with dispatch.use_backend("reference"), embeddings.one_gradient():
        assert embeddings._shared is None
    with torch.autocast("cpu", torch.bfloat16), embeddings.one_gradient():
        assert embeddings._shared is None
    hook = embeddings.word_embeddings.register_forward_hook(lambda module, ids, out: 2 * out)
    with embeddings.one_gradient():
        assert embeddings._shared is None
    hook.remove()
    weight.requires_grad_(False)
    with embeddings.one_gradient():
        assert not product_of(embeddings).requires_grad


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
    assert model.qformer.embeddings._shared is None
