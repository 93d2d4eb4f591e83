"""Two processes with a batch of n give the same loss and gradients as one process with a batch of 2n."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from helpers.tiny import in_float64, tiny_batch, tiny_config, tiny_model
from torch.nn.parallel import DistributedDataParallel

from stgt import losses
from stgt.config import LanguageConfig, LossConfig
from stgt.models.vqa import VideoQA

N, WORLD = 3, 2
CASES = {
    "VTC": dict(),
    "CSAL": dict(alignment="csal"),
    "CSAL, constant targets": dict(alignment="csal", detach_target=True),
    "shared videos": dict(multi_positive=True),
    "shared videos, CSAL": dict(alignment="csal", multi_positive=True),
    "cut": dict(vtm_weight=0.0, vtg_weight=0.0, gather_gradients=False),
    "cut, CSAL": dict(alignment="csal", vtm_weight=0.0, vtg_weight=0.0, gather_gradients=False),
}


CHUNKED = LossConfig(alignment="csal", multi_positive=True, chunk=2)


def build():
    return tiny_model(vision={"open_blocks": 1}).train()


def whole_batch():
    batch = tiny_batch(WORLD * N, length=8)
    # The second process has short texts, so the processes differ in padding and in the number of predicted words.
    batch["attention_mask"][N:, 4:] = 0
    batch["input_ids"][N:, 4:] = 0
    # One video and one text are in both processes.
    batch["video_index"] = torch.tensor([0, 1, 2, 3, 0, 4])
    batch["attention_mask"][1] = batch["attention_mask"][N]
    batch["input_ids"][1] = batch["input_ids"][N]
    return batch


def own_batch(rank):
    batch = {key: value[rank * N : (rank + 1) * N] for key, value in whole_batch().items()}
    if rank == 1:
        batch |= {key: batch[key][:, :4] for key in ("input_ids", "attention_mask")}
    return batch


def build_answering():
    config = tiny_config()
    config.language = LanguageConfig(model="opt", hidden=16, heads=2, vocab_size=30, dtype="float32", tune="all")
    torch.manual_seed(0)
    return VideoQA(config).train()


def questions(batch):
    """Treats the first word of each text as the question, and the others as the answer."""
    unasked = (batch["attention_mask"] == 0) | (torch.arange(batch["input_ids"].shape[1]) == 0)
    return batch | {"labels": batch["input_ids"].masked_fill(unasked, -100)}


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    results = {}
    for name, settings in CASES.items():
        model = DistributedDataParallel(build(), find_unused_parameters=name.startswith("cut"))
        # The other process has another seed, since the numbers of rank 0 are used.
        out = model(own_batch(rank), LossConfig(**settings), torch.Generator().manual_seed(rank))
        out["loss"].backward()
        gradients = {n: p.grad for n, p in model.module.named_parameters() if p.grad is not None}
        results[name] = {n: value.detach() for n, value in out.items()}, gradients
    model = build()
    with in_float64(model):
        parallel = DistributedDataParallel(model)
        out = parallel(own_batch(rank), CHUNKED, torch.Generator().manual_seed(rank))
        out["loss"].backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    results["chunks"] = {n: value.detach() for n, value in out.items()}, gradients
    model = DistributedDataParallel(build_answering())
    out = model(questions(own_batch(rank)))
    out["loss"].backward()
    gradients = {n: p.grad for n, p in model.module.named_parameters() if p.grad is not None}
    results["questions"] = {n: value.detach() for n, value in out.items()}, gradients
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def check_gradients(results, name, expected):
    for rank in range(WORLD):
        gradients = results[rank][name][1]
        for parameter, gradient in expected.items():
            limit = 1e-4 * gradient.abs().max().item() + 1e-6
            assert (gradients[parameter] - gradient).abs().max().item() <= limit, (rank, parameter)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("cut")])
def test_the_same_loss_and_gradients(results, name):
    model = build()
    out = model(whole_batch(), LossConfig(**CASES[name]), torch.Generator().manual_seed(0))
    out["loss"].backward()
    for part in out:
        torch.testing.assert_close(
            sum(results[rank][name][0][part] for rank in range(WORLD)) / WORLD, out[part].detach(), rtol=1e-5, atol=1e-6
        )
    check_gradients(results, name, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})


def test_chunks_of_two_processes_give_the_gradients_of_the_whole_batch(results):
    model = build()
    with in_float64(model):
        out = model(whole_batch(), dataclasses.replace(CHUNKED, chunk=None), torch.Generator().manual_seed(0))
        out["loss"].backward()
    for part in out:
        mean = sum(results[rank]["chunks"][0][part] for rank in range(WORLD)) / WORLD
        torch.testing.assert_close(mean, out[part].detach(), rtol=1e-12, atol=0)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            for rank in range(WORLD):
                gradient = results[rank]["chunks"][1][name]
                torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-14, msg=name)


def test_pairs_are_shared_across_processes(results):
    """Within one process no video or text is shared, so without gathering the loss would be the released one."""
    for rank in range(WORLD):
        assert results[rank]["shared videos"][0]["vtc"] != results[rank]["VTC"][0]["vtc"]


def test_answers_of_all_processes_have_the_same_weight(results):
    model, batch = build_answering(), questions(whole_batch())
    counts = (batch["labels"] != -100).unflatten(0, (WORLD, N)).sum((1, 2))
    assert counts[0] != counts[1]
    out = model(batch)
    out["loss"].backward()
    for part in ("loss", "words_right"):
        mean = sum(results[rank]["questions"][0][part] for rank in range(WORLD)) / WORLD
        torch.testing.assert_close(mean, out[part].detach(), rtol=1e-5, atol=1e-6)
    check_gradients(results, "questions", {n: p.grad for n, p in model.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("cut")])
def test_gradients_are_cut_at_gathered_features_if_asked(results, name):
    model, batch = build(), whole_batch()
    queries = model.encode_video(batch["video"]).queries
    texts = model.encode_text(batch["input_ids"], batch["attention_mask"])
    total = 0
    for rank in range(WORLD):
        own = slice(rank * N, (rank + 1) * N)
        v2t = losses.similarity(queries[own], texts.detach()) / model.temp
        t2v = losses.similarity(queries.detach(), texts[own]).T / model.temp
        if "alignment" not in CASES[name]:
            total = total + losses.vtc_loss(v2t, t2v, offset=rank * N) / WORLD
        else:
            targets = losses.csal_targets(queries[own], texts[own], queries.detach(), texts.detach())
            total = total + losses.csal_loss(v2t, t2v, targets) / WORLD
    total.backward()
    cut = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    check_gradients(results, name, cut)
    exact = build()
    settings = CASES[name] | {"gather_gradients": True}
    exact(batch, LossConfig(**settings))["loss"].backward()
    assert not torch.allclose(exact.vision_proj.weight.grad, cut["vision_proj.weight"], rtol=0.01)


def test_processes_end_with_the_same_gradients(results):
    for name in results[0]:
        for parameter, gradient in results[0][name][1].items():
            assert torch.equal(gradient, results[1][name][1][parameter])
