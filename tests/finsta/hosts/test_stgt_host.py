"""Our own model as a host: which of its states are taken, and what happens to the characters of a text."""

import pytest
import torch
from helpers.hosts import clips, tiny_host
from helpers.tiny import tiny_model

from stgt.config import LossConfig
from stgt.finsta.hosts.stgt import STGTHost


@pytest.fixture(scope="module")
def host():
    return tiny_host("stgt")


def batch_of(host, videos, texts, numbers):
    ids, mask = host.tokenizer.encode(texts, 24)
    return {"video": videos, "input_ids": ids, "attention_mask": mask, "video_index": numbers}


def test_the_states_are_those_that_the_model_computes(host):
    videos, texts, times, numbers = clips()
    states, model = host.states(videos, texts, times), host.model
    ids, mask = host.tokenizer.encode(texts, 24)
    tokens = model.graph.position(model.visual_tokens(videos))
    for block in model.graph.blocks:
        tokens, _ = block(tokens)
    assert torch.equal(states.video, tokens[:, :, 1:])
    assert torch.equal(states.text, model.qformer.text(ids, mask))
    embeds = model.encode_video(videos).embeds
    assert torch.equal(states.cross, model.qformer.fused(embeds, ids, mask)[:, model.config.qformer.queries :])


def test_the_loss_is_the_model_s_own_and_draws_the_same_negatives(host):
    videos, texts, times, numbers = clips()
    torch.manual_seed(5)
    found, _ = host.step(videos, texts, times, numbers)
    torch.manual_seed(5)
    assert torch.equal(found, host.model(batch_of(host, videos, texts, numbers), host.loss)["loss"])


def test_pairs_of_one_video_are_positives_if_the_loss_says_so(host):
    videos, texts, times, _ = clips()
    numbers = torch.tensor([0, 0, 1])
    several = STGTHost(host.model, host.tokenizer, LossConfig(multi_positive=True, vtm_weight=0.0))
    loss, _ = several.step(videos, texts, times, numbers)
    assert torch.equal(loss, host.model(batch_of(host, videos, texts, numbers), several.loss)["loss"])
    assert loss != several.step(videos, texts, times, torch.arange(3))[0]


@pytest.mark.parametrize("left_out", ["vtm_weight", "vtg_weight"])
def test_without_a_head_in_the_loss_the_states_are_the_same(left_out, host):
    videos, texts, times, numbers = clips()
    alone = STGTHost(host.model, host.tokenizer, LossConfig(**{left_out: 0.0}))
    found, expected = alone.step(videos, texts, times, numbers)[1], host.states(videos, texts, times)
    torch.testing.assert_close((found.cross, found.text), (expected.cross, expected.text), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "cross_frame"])
def test_models_without_a_graph_have_states_as_well(host, kind):
    sizes = dict(vocab_size=host.tokenizer.vocab_size, bos_token_id=host.tokenizer.bos_token_id)
    model = tiny_model(graph=dict(kind=kind), qformer=sizes | dict(max_positions=24, max_text_length=24)).eval()
    states = STGTHost(model, host.tokenizer).states(*clips()[:3])
    assert states.video.shape == (3, 2, 16, model.config.vision.width)


def test_no_hook_is_left_behind(host):
    host.step(*clips())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.model.modules())


def test_states_of_blocks_that_are_computed_again_have_the_same_gradients(host):
    videos, texts, times, numbers = clips()
    sizes = dict(vocab_size=host.tokenizer.vocab_size, bos_token_id=host.tokenizer.bos_token_id)
    found = []
    for checkpointing in (False, True):
        model = tiny_model(
            graph=dict(checkpointing=checkpointing), qformer=sizes | dict(max_positions=24, max_text_length=24)
        ).train()
        torch.manual_seed(3)
        loss, states = STGTHost(model, host.tokenizer).step(videos, texts, times, numbers)
        (loss + states.video.square().mean()).backward()
        found.append({name: parameter.grad for name, parameter in model.graph.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient is None or torch.equal(gradient, found[1][name]), name
    assert sum(gradient is not None for gradient in found[0].values()) > 10
