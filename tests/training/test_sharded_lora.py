"""LoRA on a language model whose weights are shared out: its blocks have frozen and trained tensors of two dtypes."""

import shutil

import pytest
import torch
from helpers.commands import run_cli, train_questions, words
from helpers.language_models import save_language_model
from helpers.processes import stgt_in_processes
from helpers.runs import differing

from stgt import checkpoint as ckpt
from stgt.runs import load_run
from stgt.training.log import read_log

# Without clipping, the norm of the gradient changes nothing. It is a sum, which has another order with shares. The
# optimizer updates shares of a multiple of 16 values by the same instructions as whole tensors.
OPTIONS = words("""--optim.clip-norm None --model.language.tune lora --model.language.lora-rank 2
    --model.qformer.hidden 32 --model.qformer.dropout 0 --model.graph.dropout 0 --epochs 1 --global-batch 4
    --data.workers 0 --log-every 1 --save-every 3""")


def losses(run):
    return [record["loss"] for record in read_log(run)]


def train_both_ways(dtype, clips, folder):
    """The options of the runs, and the folders of two processes with whole weights and of two with shares."""
    pytest.importorskip("peft")
    model = save_language_model("llama", folder / "llama")
    options = [*OPTIONS, "--model.language.model", model, "--model.language.dtype", dtype]
    whole, sharded = folder / "whole", folder / "sharded"
    for out, more in ((whole, []), (sharded, ["--sharded"])):
        stgt_in_processes(2, *train_questions(clips, out, *options, *more))
    assert losses(sharded) == losses(whole) and len(losses(whole)) == 6
    assert differing(whole, sharded) == []
    assert (ckpt.latest_checkpoint(sharded) / "model").is_dir()
    return options, whole, sharded


def test_a_frozen_model_of_bfloat16_has_the_same_bits_and_opens(clips, tmp_path):
    _, whole, sharded = train_both_ways("bfloat16", clips, tmp_path)
    one, other = (load_run(out, "cpu").model.state_dict() for out in (whole, sharded))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    stored = ckpt.read_tensors(ckpt.latest_checkpoint(sharded), "model")
    language = [name for name in stored if name.startswith("language.")]
    assert language and all("lora_" in name for name in language)


def test_a_checkpoint_of_two_processes_is_loaded_by_one(clips, tmp_path, monkeypatch):
    options, whole, alone = train_both_ways("float32", clips, tmp_path)
    shutil.rmtree(ckpt.latest_checkpoint(alone))
    assert run_cli(monkeypatch, *train_questions(clips, alone, *options)) == 0
    # One process adds up four pairs where two add up two pairs each, so the sums are rounded differently.
    assert losses(alone)[:3] == losses(whole)[:3] and losses(alone) == pytest.approx(losses(whole), rel=1e-6)
    assert (ckpt.latest_checkpoint(alone) / "model.safetensors").is_file()
