"""A run on cached features whose processes share out the weights has the bits of one whose processes do not."""

import pytest
import torch
from helpers.commands import run_cli, train_retrieval, words
from helpers.processes import stgt_in_processes
from helpers.runs import differing
from helpers.tiny_clip import tiny_clip

from stgt import checkpoint as ckpt
from stgt.runs import load_run
from stgt.training.log import read_log

import open_clip  # isort: skip

# Without clipping, the norm of the gradient changes nothing. It is a sum, which has another order with shares. The
# optimizer updates shares of a multiple of 16 values by the same instructions as whole tensors.
OPTIONS = words("""--optim.clip-norm None --model.vision.width 32 --model.vision.open-blocks 0 --model.qformer.hidden 32
    --model.qformer.embed-dim 32 --data.tokenizer-size 128 --batch-size 2 --data.workers 0 --log-every 1""")


@pytest.fixture(params=["stored", "referenced"])
def options(request, clips, tmp_path, monkeypatch):
    """The options of a run whose checkpoints store the tower, and of one whose checkpoints refer to open_clip's."""
    common = [*OPTIONS, "--data.val", clips / "test.json"]
    if request.param == "stored":
        return common
    tiny_clip(tmp_path, "sharded-clip", width=32, head_width=16, patch_size=8)
    published = {"random": {"file": str(tmp_path / "sharded-clip.safetensors")}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "sharded-clip", published)
    return [*common, "--model.vision.tower", "sharded-clip", "--model.vision.pretrained", "random"]


def test_shares_change_no_bit_and_the_model_opens(options, clips, tmp_path, monkeypatch):
    tokens, whole, sharded = (tmp_path / name for name in ("tokens", "whole", "sharded"))
    assert run_cli(monkeypatch, "data", "features", "--out", tokens, *train_retrieval(clips, whole, *options)[1:]) == 0
    for out, more in ((whole, []), (sharded, ["--sharded"])):
        stgt_in_processes(2, *train_retrieval(clips, out, *options, "--data.features", tokens, *more))
    differs = {"grad_norm", "clips_per_s", "memory_gib"}
    logs = [[{k: v for k, v in r.items() if k not in differs} for r in read_log(out)] for out in (whole, sharded)]
    assert logs[0] == logs[1] and sum("loss" in record for record in logs[0]) == 4
    last = ckpt.latest_checkpoint(sharded)
    assert (last / "model").is_dir() and differing(whole, sharded) == []
    stored = any(name.startswith(ckpt.TOWER) for name in ckpt.read_tensors(last, "model"))
    assert stored == (ckpt.read_state(last)["tower"] is None) == ("sharded-clip" not in options)
    one, other = (load_run(out, "cpu").model.state_dict() for out in (whole, sharded))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
