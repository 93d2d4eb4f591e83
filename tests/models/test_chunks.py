"""A loss whose activations are held for a chunk of the batch at a time is that of the whole batch."""

import weakref

import pytest
import torch
from helpers.tiny import in_float64, tiny_batch, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from stgt.config import LanguageConfig, LossConfig, TrainConfig

PAIRS = 7
CASES = {
    "VTC": dict(),
    "CSAL": dict(alignment="csal"),
    "shared videos": dict(multi_positive=True),
    "matching alone": dict(alignment_weight=0.0, vtg_weight=0.0),
    "no matching": dict(vtm_weight=0.0),
}
DROPOUT = dict(graph=dict(dropout=0.2), qformer=dict(dropout=0.2))


def objective(chunk, open_blocks=1, settings=(), **parts):
    """The losses and the gradients of one batch, in float64."""
    model = tiny_model(vision=dict(open_blocks=open_blocks), **parts).train()
    batch = tiny_batch(PAIRS, length=8) | {"video_index": torch.tensor([0, 1, 2, 3, 0, 4, 5])}
    torch.manual_seed(3)
    with in_float64(model):
        out = model(batch, LossConfig(chunk=chunk, **dict(settings)))
        out["loss"].backward()
    return out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours, expected):
    (out, gradients), (whole, wanted) = ours, expected
    assert out.keys() == whole.keys() and gradients.keys() == wanted.keys()
    for name in whole:
        torch.testing.assert_close(out[name], whole[name], rtol=1e-12, atol=0)
    for name, gradient in wanted.items():
        assert gradient.dtype == torch.float64
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-14, msg=name)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_give_the_losses_and_gradients_of_the_whole_batch(chunk, settings):
    assert_same(objective(chunk, settings=settings), objective(None, settings=settings))


@pytest.mark.parametrize("open_blocks", [0, -1])
def test_a_frozen_tower_and_an_open_one_work_in_chunks(open_blocks):
    assert_same(objective(3, open_blocks), objective(None, open_blocks))


def test_a_frozen_tower_runs_once(monkeypatch):
    model = tiny_model(vision=dict(open_blocks=0)).train()
    calls = []
    model.vision.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    model(tiny_batch(PAIRS), LossConfig(chunk=3))["loss"].backward()
    assert calls == [3, 3, 1]


def test_both_passes_of_a_chunk_have_the_same_dropout():
    """One chunk draws in the order of the whole batch, so its gradients are the same if the second pass repeats it."""
    ours, expected = objective(PAIRS, **DROPOUT), objective(None, **DROPOUT)
    assert_same(ours, expected)
    assert not torch.equal(expected[0]["loss"], objective(None)[0]["loss"])


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_every_dropout_of_the_second_pass_drops_what_it_dropped_in_the_first(device):
    model = tiny_model(**DROPOUT).train().to(device)
    dropped = []
    model.qformer.bert.dropout.register_forward_hook(lambda _, __, out: dropped.append(out == 0))
    batch = {name: tensor.to(device) for name, tensor in tiny_batch(PAIRS).items()}
    out = model(batch, LossConfig(chunk=PAIRS, vtm_weight=0.0))
    first = dropped.copy()
    out["loss"].backward()
    assert len(first) == 1 and len(dropped) == 2
    assert torch.equal(*dropped) and first[0].any()


def test_torch_can_see_the_device_of_every_chunk(monkeypatch):
    """It keeps the random state of a GPU only for tensors among the arguments."""
    seen = []

    def passed(function, *arguments, **options):
        seen.append([leaf.device for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)])
        return checkpoint(function, *arguments, **options)

    monkeypatch.setattr("stgt.models.chunks.checkpoint", passed)
    tiny_model()(tiny_batch(PAIRS), LossConfig(chunk=3))["loss"].backward()
    assert len(seen) == 6 and all(seen)  # three chunks are read, and three are matched


class Peak(TorchDispatchMode):
    """The most bytes that the tensors of a block hold at a time, without those from before it."""

    def __init__(self):
        super().__init__()
        self.bytes = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return out

    def note(self, storage):
        place = storage._cdata
        if place in self.known:
            return
        self.known.add(place)
        self.bytes += storage.nbytes()
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self.freed, place, storage.nbytes())

    def freed(self, place, count):
        self.known.discard(place)
        self.bytes -= count


def peak(chunk):
    model, batch = tiny_model(vision=dict(open_blocks=-1, layers=4)).train(), tiny_batch(32)
    with Peak() as found:
        model(batch, LossConfig(chunk=chunk))["loss"].backward()
    return found.most


def test_chunks_need_less_memory():
    whole, chunked = peak(None), peak(4)
    print(f"{whole} bytes for the whole batch, {chunked} in chunks of an eighth")
    assert chunked < whole / 3


def test_a_chunk_has_to_make_sense():
    with pytest.raises(ValueError, match="chunk is 0, expected at least 1, or None"):
        LossConfig(chunk=0)
    with pytest.raises(ValueError, match="chunk is 4, expected None with compile=True"):
        TrainConfig(loss=LossConfig(chunk=4), compile=True)
    questions = TrainConfig().model
    questions.language = LanguageConfig(model="opt")
    with pytest.raises(ValueError, match="chunk is 4, expected None for questions: use optim.accumulate"):
        TrainConfig(model=questions, loss=LossConfig(chunk=4))
