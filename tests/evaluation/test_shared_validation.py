"""Processes that share a validation get the figures of one process, and are interrupted together."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from helpers.processes import in_processes

from stgt.data.annotations import load_videos
from stgt.data.manifest import cache
from stgt.data.manifest.write import write_manifest
from stgt.distributed import World
from stgt.evaluation import validation as validation_module
from stgt.evaluation.validation import QuestionValidation, RetrievalValidation
from stgt.recipes import RECIPES
from stgt.runs import load_run
from stgt.signals import Interrupted, StopSignals

PROCESSES = 3
CPU = torch.device("cpu")


def retrieval(run, clips, world):
    opened = load_run(run, "cpu")
    data = replace(opened.config.data, train=clips / "train.json", val=clips / "test.json", workers=0)
    config = replace(opened.config, data=data, batch_size=2)
    return opened.model, RetrievalValidation(config, opened.tokenizer, None, world)


def questions(clips, world):
    recipe = RECIPES["vqa_shapes"]()
    places = dict(train=clips / "qa_train.json", val=clips / "qa_test.json", videos=clips / "videos", frames=2)
    vision = replace(recipe.model.vision, image_size=32)
    config = replace(
        recipe,
        model=replace(recipe.model, vision=vision),
        data=replace(recipe.data, **places, cache=False),
        batch_size=2,
    )
    return QuestionValidation(config, None, None, world)


def answers_of(model, tokenizer, batches, asked, **options):
    """Right answers for every second video of the batches."""
    numbers = [number for batch in batches for number in batch["index"].tolist()]
    assert {video for video, _ in asked} == set(numbers)
    return ["" if video % 2 else question.answer for video, question in asked]


def measure(rank, run, clips, out, processes):
    world, figures, encoded = World(rank, processes, CPU), {}, []
    model, validation = retrieval(run, clips, world)
    encode = model.encode_video
    model.encode_video = lambda **inputs: encoded.append(len(inputs["video"])) or encode(**inputs)
    figures["retrieval"] = validation(model, StopSignals())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_module, "predict", answers_of)
        figures["questions"] = questions(clips, world)(torch.nn.Linear(1, 1), StopSignals())
    stop = StopSignals()
    stop.received = signal.SIGTERM if rank == processes - 1 else 0
    with pytest.raises(Interrupted) as interrupted:
        validation(model, stop)
    figures |= {"encoded": encoded, "signal": interrupted.value.signum}
    (out / f"{processes}-{rank}.json").write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def figures(run, clips, tmp_path_factory):
    """The results of one process alone, and then those of each of three processes."""
    out = tmp_path_factory.mktemp("figures")
    measure(0, run, clips, out, 1)
    in_processes(PROCESSES, measure, run, clips, out, PROCESSES)
    names = ["1-0", *(f"{PROCESSES}-{rank}" for rank in range(PROCESSES))]
    return [json.loads((out / f"{name}.json").read_text()) for name in names]


def test_every_process_gets_the_figures_of_one_process(figures):
    alone, *shared = figures
    assert 0 < alone["questions"]["accuracy"] < 100
    for task in ("retrieval", "questions"):
        assert [each[task] for each in shared] == [alone[task]] * PROCESSES


def test_each_process_encodes_its_share(figures):
    alone, *shared = (each["encoded"] for each in figures)
    assert alone[:6] == [2, 2, 2, 2, 2, 1]
    assert [each[:2] for each in shared] == [[2, 2], [2, 2], [2, 1]]


def test_a_signal_to_one_process_interrupts_all(figures):
    assert [each["signal"] for each in figures] == [signal.SIGTERM] * (1 + PROCESSES)


def test_the_names_of_training_videos_are_compared_last_and_their_manifest_is_converted_once(
    run, clips, tmp_path, monkeypatch
):
    """`require_disjoint` keeps the names of every split apart from the last one, and training has the most."""
    for name in ("train", "test"):
        write_manifest(clips / f"{name}.json", tmp_path / f"{name}.parquet")
    (tmp_path / "bad.json").write_text(json.dumps({load_videos(clips / "train.json")[0]: "broken"}))
    opened, converted, compared, convert = load_run(run, "cpu"), [], [], cache._convert
    places = dict(train=tmp_path / "train.parquet", val=tmp_path / "test.parquet", bad_list=tmp_path / "bad.json")
    config = replace(opened.config, data=replace(opened.config.data, workers=0, **places))
    monkeypatch.setattr(cache, "_convert", lambda path, *rest: converted.append(path) or convert(path, *rest))
    monkeypatch.setattr(validation_module, "require_disjoint", lambda splits, where: compared.extend(splits))
    load_videos(places["train"], places["bad_list"])  # training does this first
    RetrievalValidation(config, opened.tokenizer, None, World(0, 1, CPU))
    assert compared == [str(places["val"]), str(places["train"])]
    assert sorted(converted) == sorted([places["val"], places["train"]])
