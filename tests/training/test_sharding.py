"""Processes that share out the weights train as with DDP, and each of them holds only its share."""

import dataclasses
import errno
import resource
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from helpers import standin
from helpers.processes import in_processes
from helpers.runs import differing
from helpers.tiny import tiny_batch, tiny_model
from torch.distributed.tensor import DTensor

from stgt import checkpoint as ckpt
from stgt.checkpoint import write
from stgt.checkpoint.shards import local_rows
from stgt.config import LossConfig, TrainConfig
from stgt.distributed import start_world
from stgt.training.log import read_log
from stgt.training.trainer import Trainer

# Without clipping, the norm of the gradient changes nothing: it is a sum, which has another order with shares.
EXACT = {
    "whole": dict(loss=LossConfig("csal"), open_blocks=1),
    "chunks": dict(precision="bf16", loss=LossConfig("csal", chunk=1), open_blocks=-1),
    "fp16": dict(precision="fp16", open_blocks=0),
}
ROUNDED = dict(accumulate=2, open_blocks=1, epochs=2, clip_norm=1.0, lr=3e-5)
# AdamW updates 16 values or fewer at a time, and the rest of a tensor one by one, which is rounded in another way. Half
# of a tensor has no such rest in these sizes.
SIZES = dict(vision=dict(width=32), qformer=dict(hidden=32, embed_dim=32, vocab_size=32))


class Pairs:
    """Eight pairs for a tiny model."""

    def __init__(self):
        self.batch = tiny_batch(8)

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {name: tensor[i] for name, tensor in self.batch.items()} | {"path": f"clip{i}.mp4"}


def collate(items):
    tensors = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "path"}
    return tensors | {"path": [item["path"] for item in items]}


def tiny_trainer(out, sharded, open_blocks, clip_norm=None, lr=1e-2, **fields):
    fields = dict(epochs=1, batch_size=2, log_every=1, save_every=100) | fields
    config = standin.config(out, sharded=sharded, **fields)
    config.optim = dataclasses.replace(config.optim, clip_norm=clip_norm, lr=lr, min_lr=0.0)
    sizes = SIZES | dict(vision=SIZES["vision"] | dict(open_blocks=open_blocks))
    model = tiny_model(graph=dict(layers=2, checkpointing=True), **sizes)
    return Trainer(config, model, Pairs(), collate, start_world("cpu"))


def train_both_ways(rank, folder):
    for name, case in (EXACT | {"rounded": ROUNDED}).items():
        for sharded in (False, True):
            tiny_trainer(folder / f"{name} {sharded}", sharded, **case).fit()
    skip_a_step(folder / "skipped")


def skip_a_step(out):
    """One process has an infinite value in its share of the gradient, and so the scaler skips the step in both."""
    trainer = tiny_trainer(out, sharded=True, open_blocks=1, precision="fp16")
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    before = [local_rows(p).clone() for p in trained]
    trainer.scaler.scale(torch.ones(()))  # a scaler makes its scale when it is first used
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    if trainer.world.rank == 1:
        local_rows(trainer.model.itm_head.weight.grad).fill_(torch.inf)
    trainer.scaler.unscale_(trainer.optimizer)
    trainer.scaler.step(trainer.optimizer)
    assert all(torch.equal(local_rows(p), old) for p, old in zip(trained, before, strict=True))


def read_both(folder, name):
    return ([(r["loss"], r["vtm"], r["vtg"]) for r in read_log(folder / f"{name} {way}")] for way in (False, True))


def test_losses_and_gradients_are_those_of_ddp(tmp_path):
    """Two processes have the same bits with DDP and with shares, because g + h = h + g, and halving is exact.

    If a step adds up two batches, DDP adds up those of a process first, and shares are added up over the processes
    first. Then a value of the gradient g differs by up to 3·2⁻²⁴ of the sum of its four absolute summands. The first
    loss is still the same. The first update of AdamW is lr·g/(|g| + ε). It differs by up to 2·lr·|Δg|/|g|, as the sign
    of g may change, and by 4·2⁻²⁴·lr from AdamW's own roundings. To first order, the second loss differs by up to
    16·2⁻²⁴·lr·|g|₁. Here lr is 1e-5, and |g|₁ is at most 60·√130,000 = 21,600, if the gradient of a batch has twice the
    largest norm of a step. These are 4.1e-8 of the loss, which is above 5. Clipping scales the two gradients by numbers
    that differ by up to 1e-6, which adds lr·1e-6·|g|₁/4, or 1e-8 of the loss.

    The norms of the gradients are roots of sums of the same squares. The largest tensor has 6144 values, of which at
    least 8 are added up at a time. So at most 776 additions follow each other, and 392 for a share. Their roundings are
    as often up as down, with a root mean square of 2⁻²⁴/√3. Two norms differ by √1168·2⁻²⁴/√3/2, or 6e-7. The second
    norm also differs because the weights do, by far less at this lr: at ten times the lr it was 1.5e-6 more.
    """
    in_processes(2, train_both_ways, tmp_path)
    for name in EXACT:
        ddp, sharded = read_both(tmp_path, name)
        assert ddp == sharded and len(ddp) == 2
        assert differing(tmp_path / f"{name} False", tmp_path / f"{name} True") == []
    (first, second), sharded = read_both(tmp_path, "rounded")
    assert sharded == [first, pytest.approx(second, rel=1e-6)] and second[0] > 5
    sizes = [p.numel() for p in tiny_trainer(tmp_path / "sizes", sharded=False, open_blocks=0).model.parameters()]
    assert sum(sizes) < 130_000 and max(sizes) <= 6144
    for name in (*EXACT, "rounded"):
        norms, others = ([r["grad_norm"] for r in read_log(tmp_path / f"{name} {way}")] for way in (False, True))
        assert norms == pytest.approx(others, rel=1e-6) and max(norms) < 30, name


def held(tensors):
    """The number of values that this process holds of some tensors."""
    return sum(t.to_local().numel() if isinstance(t, DTensor) else t.numel() for t in tensors)


def measure_memory(rank, out):
    trainer = tiny_trainer(out, sharded=True, open_blocks=1)
    model, whole = trainer.model, sum(p.numel() for p in trainer.model.parameters())
    share = held(model.parameters())
    # A tensor whose rows cannot be halved gives one process one row more.
    assert abs(share - whole / 2) <= sum(p.numel() // p.shape[0] for p in model.parameters() if p.ndim) / 2 + 1
    with trainer.sharded.gathered():  # before the first step, and with other numbers of forwards in the processes
        assert held(model.parameters()) == whole
        for _ in range(rank):
            model.encode_video(tiny_batch()["video"])
    assert held(model.parameters()) == share
    most = defaultdict(int)

    def gathered(module, *_):
        plain = sum(p.numel() for p in model.parameters() if not isinstance(p, DTensor))
        most["step"] = max(most["step"], plain)

    layers = [*model.vision.tower.blocks, *model.graph.blocks, *model.qformer.bert.encoder["layer"]]
    for layer in layers:
        layer.register_forward_hook(gathered)
        layer.register_full_backward_hook(gathered)
    trainer.fit()
    blocks = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    # Beside what is outside the blocks, the running block is gathered, and the next one is fetched for its backward.
    assert most["step"] <= whole - sum(blocks) + 2 * max(blocks) < whole
    moments = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert held(moments) == held(trained) < 0.6 * sum(p.numel() for p in trained)


def test_a_process_holds_half_of_everything_and_gathers_a_block_at_a_time(tmp_path):
    in_processes(2, measure_memory, tmp_path)


def change_and_fail(rank, folder):
    world = start_world("cpu")

    def train(name, epochs, sharded):
        fields = dict(epochs=epochs, batch_size=5, save_every=2, keep=9, log_every=1, sharded=sharded)
        standin.trainer(standin.config(folder / name, **fields), world).fit()

    for name, sharded in (("changed", True), ("whole", False)):
        train(name, 1, sharded=False)
        train(name, 2, sharded)
    if rank == 0:
        shutil.copytree(folder / "changed", folder / "damaged")
        (shard,) = (folder / "damaged/checkpoints/step-00000004/optimizer").glob("shard-00002-*")
        shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    world.barrier()
    with pytest.raises(ckpt.CheckpointError, match=r"optimizer/shard-00002-.*: cannot be read: .*damaged"):
        train("damaged", 3, sharded=True)  # one process notices it, and tells the other
    train("changed", 3, sharded=False)
    for full, most, name, sharded, message in (
        (1, 1000, "changed", True, r"process 1 could not write its share of model: (.|\n)*step-00000006 is intact"),
        (0, 20_000, "whole", False, r"step-00000006: could not be written (.|\n)*step-00000004 is intact"),
    ):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if rank == full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        with pytest.raises(ckpt.CheckpointError, match=message):
            train(name, 4, sharded)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for patched, name, changed, message in (
        (write, "file_hash", unreadable, r"disk is gone(.|\n)*step-00000006 is intact"),
        (Path, "iterdir", lambda path: iter(()), "its processes see other files, expected a file system that all of"),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ckpt.CheckpointError, match=message):
            if rank == 1:
                patch.setattr(patched, name, changed)
            train("changed", 4, sharded=True)


def unreadable(path):
    raise OSError(errno.EIO, "the disk is gone")


def test_a_run_changes_to_shards_and_back_and_a_failure_of_one_process_ends_all(tmp_path):
    in_processes(2, change_and_fail, tmp_path)
    changed, whole = ([r["loss"] for r in read_log(tmp_path / name)] for name in ("changed", "whole"))
    assert len(whole) >= 4 and changed[:4] == pytest.approx(whole[:4], rel=1e-6)
    found = {path.name: (path / "model").is_dir() for path in (tmp_path / "changed/checkpoints").iterdir()}
    assert found == {f"step-{step:08d}": step == 4 for step in (0, 2, 4, 6)}
    names = standin.StandIn().state_dict().keys() - {"head.weight"}  # it is tied to the embeddings
    assert standin.weights(tmp_path / "changed").keys() == names


def test_compile_and_sharded_exclude_each_other():
    with pytest.raises(ValueError, match="TrainConfig.compile is True, expected False with sharded=True"):
        TrainConfig(compile=True, sharded=True)
