"""Every host keeps the contract that Finsta builds on, and its loss and similarity are those of the model itself."""

import pytest
import torch
from helpers.hosts import FRAMES, KINDS, TEXTS, clips, tiny_host

from stgt.finsta.batch import GraphBatch
from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import ClipGraphs, Frame, TextGraph, VideoGraph
from stgt.finsta.hosts.words import Words
from stgt.finsta.model.finsta import Finsta


@pytest.fixture(scope="module", params=KINDS)
def host(request):
    return tiny_host(request.param)


@pytest.fixture(scope="module")
def clip_host():
    return tiny_host("clip")


@pytest.fixture(scope="module")
def blip2_host():
    return tiny_host("blip2")


def test_states_have_the_shapes_that_the_widths_tell(host):
    videos, texts, times, _ = clips()
    states = host.states(videos, texts, times)
    B, L, _ = states.text.shape
    rows, columns = states.grid
    assert states.text.shape == (3, L, host.widths.text) and states.offsets.shape == (3, L, 2)
    assert states.video.shape == (B, FRAMES, rows * columns, host.widths.video)
    assert states.offsets.dtype == torch.int64 and torch.equal(states.times, times)
    if host.widths.cross is None:
        assert states.cross is None
    else:
        assert states.cross.shape == (B, L, host.widths.cross)


def test_the_offsets_are_the_characters_of_the_words(host):
    states = host.states(*clips()[:3])
    for text, row in zip(TEXTS, states.offsets.tolist(), strict=True):
        spans = [span for span in row if span[0] < span[1]]
        assert spans == sorted(spans) and all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
        spoken = {place for start, end in spans for place in range(start, end)}
        letters = {place for place, letter in enumerate(text) if letter.isalnum()}
        assert letters <= spoken and not any(text[place].isspace() for place in spoken)
        assert [span for span in row if span[0] >= span[1]] == [[0, 0]] * (len(row) - len(spans))


def test_one_step_gives_the_states_of_a_pass_without_the_loss(host):
    videos, texts, times, numbers = clips()
    states, (_, stepped) = host.states(videos, texts, times), host.step(videos, texts, times, numbers)
    for name in ("offsets", "video", "times"):
        assert torch.equal(getattr(states, name), getattr(stepped, name)), name
    for name in ("text", "cross"):  # passes over larger batches and longer sequences round otherwise
        if (expected := getattr(states, name)) is not None:
            assert (expected - getattr(stepped, name)).abs().max() <= 1e-5 * expected.abs().max(), name


def test_gradients_of_the_states_reach_the_model(host):
    states = host.states(*clips()[:3])
    parts = {"text": states.text, "video": states.video} | ({} if states.cross is None else {"cross": states.cross})
    parameters = [parameter for parameter in host.model.parameters() if parameter.requires_grad]
    for name, part in parts.items():
        gradients = torch.autograd.grad(
            part.flatten() @ torch.randn(part.numel()), parameters, retain_graph=True, allow_unused=True
        )
        assert max(g.abs().max() for g in gradients if g is not None) > 1e-2, name


def test_words_are_means_of_the_states_of_a_text(host):
    found = host.words([TEXTS[1], "red square"])
    assert found.shape == (2, host.widths.text)
    states = host.states(*clips()[:3])
    spoken = states.offsets[1, :, 1] > 0
    assert torch.allclose(found[0], states.text[1][spoken].mean(0), rtol=1e-4, atol=1e-6)


def test_a_batch_of_empty_graphs_has_no_labels_and_a_loss(host):
    """A clip's text may name nothing, and nothing may be seen in its video."""
    assert host.words(()).shape == host.words([]).shape == (0, host.widths.text)
    config = FinstaConfig(width=16, heads=2, layers=1, cells=2)
    videos, texts, times, _ = clips()
    states = host.states(videos[:1], texts[:1], times[:1])
    empty = ClipGraphs("a.mp4", texts[0], TextGraph((), ()), VideoGraph((Frame(0.0, ()),)), "gold")
    graphs = GraphBatch.of([empty], states.times, states.offsets, config)
    output = Finsta(config, host.widths)(states, graphs, host.words(graphs.labels))
    assert graphs.labels == () and sum(output.losses.values()) == 0


def test_a_text_without_words_has_the_vector_zero():
    words = Words(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert words.mean(torch.ones(1, 2, 3)).tolist() == [[0.0] * 3]


def test_the_similarity_has_a_row_for_each_video_and_a_column_for_each_text(host):
    videos, texts, _, _ = clips()
    found = host.similarity(videos[:2], texts)
    assert found.shape == (2, 3) and found.dtype == torch.float32 and (found.abs() <= 1 + 1e-6).all()
    one = host.similarity(videos[1:2], texts[2:])
    assert (found[1, 2] - one[0, 0]).abs() <= 1e-5


def test_clip_of_one_frame_is_the_model_of_transformers(clip_host):
    videos, texts, times, numbers = clips()
    words = clip_host.tokenizer(texts, padding=True, return_tensors="pt")
    expected = clip_host.model(pixel_values=videos[:, 0], **words, return_loss=True)
    scale = clip_host.model.logit_scale.exp()
    found = clip_host.similarity(videos[:, :1], texts)
    assert torch.allclose(found * scale, expected.logits_per_image, rtol=1e-4, atol=1e-4)
    loss, _ = clip_host.step(videos[:, :1], texts, times[:, :1], numbers)
    assert torch.allclose(loss, expected.loss, rtol=1e-4)


def test_clip_takes_the_mean_of_its_frames(clip_host):
    videos, texts, _, _ = clips()
    each = torch.stack([clip_host.similarity(videos[:, t : t + 1], texts) for t in range(FRAMES)])
    found = clip_host.similarity(videos, texts)
    ratio = found / each.mean(0)  # the mean vector is normalised, which changes the length of a whole row
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3)
    assert torch.allclose(clip_host.similarity(videos.flip(1), texts), found, atol=1e-6)


def test_xclip_is_the_model_of_transformers_and_refuses_another_number_of_frames():
    host = tiny_host("xclip")
    videos, texts, times, numbers = clips()
    words = host.tokenizer(texts, padding=True, return_tensors="pt")
    expected = host.model(pixel_values=videos, **words, return_loss=True)
    assert torch.equal(host.step(videos, texts, times, numbers)[0], expected.loss)
    logits = host.similarity(videos, texts) * host.model.logit_scale.exp()
    assert torch.allclose(logits, expected.logits_per_video, rtol=1e-5)
    with pytest.raises(ValueError, match="videos have 1 frames, expected 2"):
        host.similarity(videos[:, :1], texts)


@pytest.mark.parametrize("matching", [False, True])
def test_blip2_of_one_frame_is_the_model_of_transformers(blip2_host, matching):
    videos, texts, _, _ = clips()
    words = blip2_host.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    model = blip2_host.model
    expected = model(pixel_values=videos[:, 0], **words, use_image_text_matching_head=matching).logits_per_image
    if matching:
        frames = blip2_host._frames(videos[:, :1])
        joint = blip2_host._joint(frames, blip2_host._words(texts))
        found = model.itm_head(joint[:, : model.config.num_query_tokens]).mean(1)
    else:
        found = blip2_host.similarity(videos[:, :1], texts)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_blip2_averages_over_the_frames(blip2_host):
    videos, texts, times, _ = clips()
    whole = blip2_host.states(videos, texts, times).cross
    each = [blip2_host.states(videos[:, t : t + 1], texts, times[:, :1]).cross for t in range(FRAMES)]
    assert torch.allclose(whole, torch.stack(each).mean(0), rtol=1e-4, atol=1e-6)


def test_blip2_without_a_text_side_is_refused():
    host = tiny_host("blip2")
    host.model.config.qformer_config.use_qformer_text_input = False
    with pytest.raises(ValueError, match="use_qformer_text_input is False, expected True"):
        type(host)(host.model, host.tokenizer)


def test_a_tokenizer_without_offsets_is_refused(clip_host):
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="tokenizer is a Slow, expected a fast one"):
        type(clip_host)(clip_host.model, Slow()).words(["a"])
