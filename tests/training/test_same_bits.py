"""The same steps give the same weights, bit for bit: repeated, with two threads, resumed, and in several processes."""

import contextlib
import dataclasses
import multiprocessing

import pytest
import torch
import torch.distributed as dist
from helpers import standin
from torch.utils._python_dispatch import TorchDispatchMode

from stgt.config import LossConfig
from stgt.data.samples import collate
from stgt.distributed import World, data_parallel
from stgt.models.rows import select_rows
from stgt.models.stgt import STGT
from stgt.models.vqa import VideoQA
from stgt.recipes import RECIPES
from stgt.training.determinism import deterministic
from stgt.training.trainer import Trainer


def model_and_batch(recipe="quickstart", **model_settings):
    """A recipe's model, with a batch of random clips and texts, in the recipe's sizes."""
    torch.manual_seed(0)
    config = RECIPES[recipe]()
    qformer = dataclasses.replace(config.model.qformer, vocab_size=512, bos_token_id=1)
    sizes = dataclasses.replace(config.model, qformer=qformer, **model_settings)
    answers = sizes.language is not None
    side, n = sizes.vision.sizes.image_size, config.batch_size
    batch = {
        "video": torch.randn(n, config.data.frames, 3, side, side),
        "input_ids": torch.randint(4, 300, (n, 12)),
        "attention_mask": torch.ones(n, 12, dtype=torch.int64),
    }
    if answers:
        batch["labels"] = batch["input_ids"].masked_fill(torch.arange(12) < 8, -100)
    return (VideoQA if answers else STGT)(sizes), batch, config


def test_rows_that_are_taken_twice_get_the_same_gradient_each_time(threads):
    threads(2)
    index, upstream = torch.randint(4, (32,)), torch.randn(32, 136, 64)

    def gradient():
        x = torch.zeros(32, 136, 64, requires_grad=True)
        select_rows(x, index).backward(upstream)
        return x.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(50))
    expected = torch.zeros(32, 136, 64, dtype=torch.float64).index_add(0, index, upstream.double())
    torch.testing.assert_close(first.double(), expected, rtol=0, atol=32 * 2**-24 * 32)


class Clips:
    """Three batches of random clips and texts in the quickstart's sizes. Item i is always the same."""

    def __init__(self, batch_size):
        self.count = 3 * batch_size

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return {
            "video": torch.randn(8, 3, 64, 64, generator=generator),
            "input_ids": torch.randint(4, 300, (12,), generator=generator),
            "attention_mask": torch.ones(12, dtype=torch.int64),
            "path": f"clip{i}.mp4",
        }


class KilledError(Exception):
    pass


def test_the_quickstart_interrupted_at_two_threads_ends_with_the_same_bits(threads, tmp_path, monkeypatch):
    threads(2)
    ends = []
    for sittings in (1, 2):
        out, killed_after = tmp_path / str(sittings), [1] if sittings == 2 else []
        for _ in range(sittings):
            model, _, config = model_and_batch()
            # Torch's own check is off, because it would replace operations that add in any order.
            config = dataclasses.replace(config, out=out, epochs=1, save_every=1, device="cpu", deterministic=False)
            trainer = Trainer(config, model, Clips(config.batch_size), collate, World(0, 1, torch.device("cpu")))
            save = trainer._save

            def save_and_die(trainer=trainer, save=save, killed_after=killed_after):
                save()
                if killed_after and trainer.step == killed_after[0]:
                    killed_after.clear()
                    raise KilledError

            monkeypatch.setattr(trainer, "_save", save_and_die)
            with contextlib.suppress(KilledError):
                trainer.fit()
        assert trainer.step == 3
        ends.append(standin.weights(out))
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


class Refused(TorchDispatchMode):
    """Notes the operations that torch refuses on a GPU when it is asked for deterministic ones."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        sums = name in ("cumsum", "cumprod", "logcumsumexp") and args[0].is_floating_point()
        others = ("put", "histc", "kthvalue", "median", "grid_sampler_2d_backward", "nll_loss2d_forward")
        resized = name.startswith(("upsample_linear", "upsample_bilinear", "upsample_bicubic", "_upsample_b"))
        if sums or resized or name in others:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", ["quickstart", "vqa_shapes"])
@pytest.mark.parametrize("alignment", ["vtc", "csal"])
def test_no_operation_of_a_step_is_one_that_torch_refuses_on_a_gpu(recipe, alignment):
    model, batch, config = model_and_batch(recipe)
    with Refused() as refused:
        model(batch, dataclasses.replace(config.loss, alignment=alignment))["loss"].backward()
    assert refused.found == []


def test_torch_s_check_is_on_in_the_block_and_restored_after_it():
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        with deterministic(False):
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize("setting", [True, False])
def test_a_run_trains_with_torch_s_check_unless_it_is_told_not_to(setting, tmp_path):
    run = standin.trainer(standin.config(tmp_path, deterministic=setting))
    seen = set()
    forward = run.model.forward
    run.parallel = lambda *inputs: seen.add(torch.are_deterministic_algorithms_enabled()) or forward(*inputs)
    run.fit()
    assert seen == {setting} and not torch.are_deterministic_algorithms_enabled()


def test_another_number_of_threads_is_logged(tmp_path, threads, caplog):
    run = standin.trainer(standin.config(tmp_path))
    run.fit()
    threads(2)
    standin.trainer(standin.config(tmp_path)).fit()
    assert "the run had 1 threads and now has 2" in caplog.text and "OMP_NUM_THREADS=1" in caplog.text


def train_twice(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=3)
    ends = []
    for sittings in ([range(6)], [range(3), range(3, 6)]):
        torch.manual_seed(0)
        model = standin.StandIn(64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for steps in sittings:
            parallel = data_parallel(model, deterministic=True)
            for step in steps:
                torch.manual_seed(3 * step + rank)
                parallel({"video": torch.randn(5, 4), "word": torch.randint(11, (5,))}, LossConfig())["loss"].backward()
                optimizer.step()
                optimizer.zero_grad()
            del parallel
        ends.append(model.state_dict())
    torch.save(ends, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_three_resumed_processes_end_with_the_same_bits(tmp_path):
    # The order of two summands does not matter, but the order of three does.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train_twice, args=(rank, tmp_path)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    whole, resumed = torch.load(tmp_path / "0.pt", weights_only=True)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
