"""Question answering and captions from the command line, with simulated clips and tiny language models."""

import json
import re
import shutil
from collections import Counter

import pytest
import torch
from helpers.commands import printed_text, run_cli, train_questions, train_retrieval
from helpers.language_models import save_language_model
from helpers.processes import stgt_in_processes

from stgt import checkpoint as ckpt
from stgt.data.shapes import render_shapes, scene
from stgt.data.shapes.scene import Scene
from stgt.files import file_hash
from stgt.runs import load_run
from stgt.terminal import printable
from stgt.training.log import read_log
from stgt.training.trainer import Trainer
from stgt.weights.load import export_released


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=12, test=6, size=32, frames=6)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    """The folder of a retrieval run."""
    out = tmp_path_factory.mktemp("runs") / "retrieval"
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, *train_retrieval(clips, out)) == 0
    return out


@pytest.fixture(scope="module")
def answering(clips, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "answering"
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, *train_questions(clips, out, "--init", run)) == 0
    return out


def test_a_question_run_starts_from_retrieval_and_learns(answering, run):
    records = read_log(answering)
    assert records[-1]["loss"] < records[0]["loss"] and "words_right" in records[-1]
    first, last, retrieval = (
        ckpt.read_tensors(path, "model")
        for path in (
            ckpt.checkpoints(answering)[0],
            ckpt.latest_checkpoint(answering),
            ckpt.latest_checkpoint(run),
        )
    )
    kept = {name for name in last if name.startswith(("vision.", "graph."))}
    assert kept and all(torch.equal(last[name], retrieval[name]) for name in kept)
    assert not torch.equal(last["qformer.query_tokens"], retrieval["qformer.query_tokens"])
    assert first.keys() == last.keys() and not any("word" in name for name in first if name.startswith("qformer"))


def test_a_question_run_starts_from_folders_files_and_other_runs(answering, clips, run, monkeypatch, tmp_path):
    retrieval = load_run(run, "cpu").model
    retrieval.save_pretrained(tmp_path / "folder")
    export_released(retrieval, tmp_path / "released.pth")
    size = ["--model.qformer.vocab-size", retrieval.config.qformer.vocab_size, "--model.qformer.bos-token-id", "1"]
    for init, more in ((tmp_path / "folder", []), (tmp_path / "released.pth", size)):
        out = tmp_path / f"from {init.name}"
        assert run_cli(monkeypatch, *train_questions(clips, out, "--init", init, "--epochs", "1", *more)) == 0
        started, expected = (ckpt.read_tensors(ckpt.checkpoints(each)[0], "model") for each in (out, answering))
        shared = [tensor for tensor in expected if not tensor.startswith("language")]
        assert all(torch.equal(started[tensor], expected[tensor]) for tensor in shared)
    out = tmp_path / "next"
    assert run_cli(monkeypatch, *train_questions(clips, out, "--init", answering, "--epochs", "1")) == 0
    begin, end = ckpt.checkpoints(out)[0], ckpt.latest_checkpoint(answering)
    started, expected = (ckpt.read_tensors(path, "model") for path in (begin, end))
    assert all(torch.equal(started[tensor], expected[tensor]) for tensor in expected)


def test_evaluate_and_ask_answer_from_the_folder_alone(answering, clips, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, "evaluate", "--run", answering, "--beams", 2) == 0
    printed = capsys.readouterr().out
    questions = json.loads((clips / "qa_test.json").read_text())
    result = json.loads((answering / "evaluation.json").read_text())
    assert result["split"]["questions"] == len(questions) and result["beams"] == 2
    assert result["split"]["sha256"] == file_hash(clips / "qa_test.json")
    words = Counter(question["question"].split()[0] for question in questions)
    assert {word: figures["questions"] for word, figures in result["answers"].items()} == {
        "all": len(questions),
        **words,
    }
    answers = json.loads((answering / "answers.json").read_text())
    assert [entry["question_id"] for entry in answers] == [question["question_id"] for question in questions]
    right = sum(entry["answer"] == entry["predicted"] for entry in answers)
    assert result["answers"]["all"]["raw"] == pytest.approx(100 * right / len(questions))
    frequent = Counter(q["answer"] for q in json.loads((clips / "qa_train.json").read_text())).most_common(1)[0][0]
    guessed = 100 * sum(q["answer"] == frequent for q in questions) / len(questions)
    assert result["baselines"]["most frequent answer"] == pytest.approx(guessed)
    assert re.search(rf"all +{len(questions)} ", printed) and f"most frequent answer: {guessed:.1f}" in printed
    shared_out = tmp_path / "several" / "evaluation.json"  # of more processes than batches of videos can keep busy
    stgt_in_processes(3, "evaluate", "--run", answering, "--beams", 2, "--batch-size", 8, "--out", shared_out)
    assert json.loads(shared_out.read_text())["answers"] == result["answers"]
    assert json.loads(shared_out.with_name("answers.json").read_text()) == answers
    entry = answers[0]
    video = clips / "videos" / entry["video"]
    assert run_cli(monkeypatch, "ask", video, entry["question"], "--run", answering, "--beams", 2) == 0
    assert capsys.readouterr().out.splitlines()[-1] == printable(entry["predicted"])
    training_alone = shutil.ignore_patterns("optimizer.safetensors", "random.safetensors", "log.jsonl", "tensorboard")
    shared = shutil.copytree(answering, tmp_path / "shared", ignore=training_alone)
    assert run_cli(monkeypatch, "ask", video, entry["question"], "--run", shared, "--beams", 2) == 0
    assert capsys.readouterr().out.splitlines()[-1] == printable(entry["predicted"])
    assert run_cli(monkeypatch, "convert", shared, "--out", tmp_path / "folder") == 2
    assert "copy the folder of the run to share it" in printed_text(capsys)


def test_captions_come_from_a_retrieval_run(run, answering, clips, monkeypatch, capsys):
    video = next((clips / "videos").iterdir())
    assert run_cli(monkeypatch, "caption", video, "--run", run) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run_cli(monkeypatch, "caption", video, "--run", run, "--top-p", 0.9, "--count", 3) == 0
    first = capsys.readouterr().out
    assert len(first.splitlines()) == 3
    assert run_cli(monkeypatch, "caption", video, "--run", run, "--top-p", 0.9, "--count", 3) == 0
    assert capsys.readouterr().out == first
    for words in (["caption", video, "--run", answering], ["search", "a red square", "--run", answering]):
        assert run_cli(monkeypatch, *words) == 2
        assert f"{answering} is a question answering run, expected a retrieval run" in capsys.readouterr().err
    assert run_cli(monkeypatch, "ask", video, "what is it?", "--run", run) == 2
    assert f"{run} is a retrieval run, expected a question answering run" in capsys.readouterr().err


def test_edges_are_drawn_for_a_question_run_too(answering, clips, monkeypatch, tmp_path):
    video = next((clips / "videos").iterdir())
    assert run_cli(monkeypatch, "visualize", video, "--run", answering, "--out", tmp_path / "edges.png") == 0
    assert (tmp_path / "edges.png").stat().st_size > 10_000


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_a_crash_changes_no_bit_and_a_frozen_model_is_not_stored(clips, monkeypatch, capsys, tmp_path, tune):
    if tune == "lora":
        pytest.importorskip("peft")
    folder = save_language_model("llama", tmp_path / "vicuna")
    language = ["--model.language.model", folder, "--model.language.tune", tune, "--epochs", "1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run_cli(monkeypatch, *train_questions(clips, whole, *language)) == 0
    with monkeypatch.context() as patch:
        step = Trainer._train_step

        def crash(trainer, batches):
            if trainer.step == 6:
                raise KeyboardInterrupt
            return step(trainer, batches)

        patch.setattr(Trainer, "_train_step", crash)
        assert run_cli(patch, *train_questions(clips, stopped, *language)) == 130
    assert ckpt.read_state(ckpt.latest_checkpoint(stopped))["step"] == 4
    assert run_cli(monkeypatch, *train_questions(clips, stopped, *language)) == 0
    for group in ("model", "optimizer"):
        one, other = (ckpt.read_tensors(ckpt.latest_checkpoint(out), group) for out in (whole, stopped))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    stored = [
        name for name in ckpt.read_tensors(ckpt.latest_checkpoint(whole), "model") if name.startswith("language.")
    ]
    assert bool(stored) == (tune == "lora") and all("lora_" in name for name in stored)

    results = [
        json.loads((out / "answers.json").read_text()) for out in (whole, stopped) if evaluated(monkeypatch, out)
    ]
    assert results[0] == results[1]
    folder.rename(tmp_path / "elsewhere")
    assert run_cli(monkeypatch, "evaluate", "--run", whole) == 2
    assert f"LanguageConfig.model is '{folder}', and there is no such folder" in capsys.readouterr().err


def evaluated(monkeypatch, out):
    return run_cli(monkeypatch, "evaluate", "--run", out, "--beams", 1) == 0


@pytest.mark.parametrize("source", ["frozen", "lora", "all"])
def test_no_weight_of_a_language_model_is_lost_at_the_start(source, clips, monkeypatch, capsys, tmp_path):
    pytest.importorskip("peft")
    folder = save_language_model("llama", tmp_path / "vicuna")
    language = ["--model.language.model", folder, "--epochs", "1", "--model.language.tune"]
    assert run_cli(monkeypatch, *train_questions(clips, tmp_path / source, *language, source)) == 0
    refused = {
        ("lora", "frozen"): "lora_A.default.weight is unknown to this model",
        ("lora", "all"): "lora_A.default.weight is unknown to this model",
        ("all", "frozen"): f"has other weights than model.language.model='{folder}', which checkpoints",
        ("all", "lora"): f"has other weights than model.language.model='{folder}', which checkpoints",
    }
    for tune in ("frozen", "lora", "all"):
        out = tmp_path / f"{tune} from {source}"
        status = run_cli(monkeypatch, *train_questions(clips, out, *language, tune, "--init", tmp_path / source))
        printed = capsys.readouterr().err
        if (source, tune) in refused:
            assert status == 2 and refused[source, tune] in printed and not ckpt.checkpoints(out)
            continue
        assert status == 0
        started = ckpt.read_tensors(ckpt.checkpoints(out)[0], "model")
        expected = ckpt.read_tensors(ckpt.latest_checkpoint(tmp_path / source), "model")
        shared = started.keys() & expected.keys()
        assert "language_proj.weight" in shared and any("lora_" in name for name in shared) == (source == "lora")
        assert all(torch.equal(started[name], expected[name]) for name in shared)
        load_run(out, "cpu")  # the language model here is the one that the checkpoint names


def test_training_on_cached_features_equals_training_on_videos(clips, monkeypatch, tmp_path):
    frozen = ["--data.sampling", "uniform", "--epochs", "1"]
    live, cached = (
        train_questions(clips, tmp_path / "live", *frozen),
        train_questions(clips, tmp_path / "cached", *frozen),
    )
    features = ["data", "features", "--out", tmp_path / "tokens", *live[1:]]
    for words in (features, live, [*cached, "--data.features", tmp_path / "tokens"]):
        assert run_cli(monkeypatch, *words) == 0
    one, other = (read_log(tmp_path / name)[-1]["loss"] for name in ("live", "cached"))
    assert one == pytest.approx(other, rel=0.01)  # the cache holds bfloat16


def test_settings_of_the_losses_of_retrieval_are_told_to_change_nothing(clips, monkeypatch, caplog, tmp_path):
    words = train_questions(clips, tmp_path / "never", "--data.train", tmp_path / "none.json")
    assert run_cli(monkeypatch, *words, "--loss.alignment", "vtc", "--vtc-epochs", 0) == 2
    assert "change nothing" not in caplog.text
    assert run_cli(monkeypatch, *words, "--loss.alignment", "csal", "--vtc-epochs", 1, "--loss.gamma", 2) == 2
    assert "these settings change nothing: loss.alignment, loss.gamma, vtc_epochs" in caplog.text


def test_mistakes_are_reported_before_anything_is_done(clips, run, monkeypatch, capsys, tmp_path):
    pairs = json.loads((clips / "qa_train.json").read_text())
    (tmp_path / "odd.json").write_text(json.dumps([*pairs, pairs[0] | {"answer": "octarine", "question_id": "odd"}]))
    (tmp_path / "bare.json").write_text(json.dumps([{key: pairs[0][key] for key in ("video", "question")}]))
    asked = json.loads((clips / "qa_test.json").read_text())
    (tmp_path / "long.json").write_text(json.dumps([asked[0] | {"question": "zqxjkv" * 60}]))
    # This question has more characters, but it is cut off after 50 words, and then has fewer tokens.
    wordy = pairs[0] | {"question": "what " * 100, "question_id": "wordy"}
    dense = pairs[0] | {"question": "🙂🙃" * 20, "question_id": "dense"}
    (tmp_path / "dense.json").write_text(json.dumps([*pairs, wordy, dense]))
    fixed = ["--model.language.model", save_language_model("opt", tmp_path / "opt")]
    cases = [
        (
            [*fixed, "--model.language.tune", "frozen", "--data.train", tmp_path / "dense.json"],
            "data.train: '🙂🙃🙂🙃",
        ),
        (
            ["--model.language.model", "/nowhere/vicuna"],
            "LanguageConfig.model is '/nowhere/vicuna', and there is no such",
        ),
        (
            ["--data.train", tmp_path / "odd.json"],
            f"in entry {len(pairs)} 'answer' is \"octarine\", expected one of the",
        ),
        (["--data.train", tmp_path / "bare.json"], "bare.json: in entry 0 there is no 'answer', expected a text"),
        (["--data.answers", tmp_path / "none.json"], "none.json: no such file"),
        (["--data.train", clips / "train.json"], "train.json: in entry 0 there is no 'question', expected a text"),
        (["--init", run, "--model.qformer.hidden", "32"], "qformer.hidden: 32, there 16"),
        (["--data.tokenizer-size", "100"], "tokenizer_size is 100, expected at least 259"),
        (["--model.language.max-positions", "12"], "expected at most the language model's 12"),
        (["--data.val", tmp_path / "long.json"], "data.val: 'zqxjkvzqxjkv"),
        (["--model.language.dtype", "bfloat16"], "LanguageConfig.dtype is 'bfloat16', expected 'float32'"),
    ]
    for words, message in cases:
        assert run_cli(monkeypatch, *train_questions(clips, tmp_path / "never", *words)) == 2, words
        text = printed_text(capsys)
        assert message in text and "Traceback" not in text
    assert not (tmp_path / "never").exists()


def test_a_small_model_learns_to_see_colours(monkeypatch, tmp_path):
    """From scratch, it learns the colours of single large shapes on unseen clips, far better than guessing."""
    motions = ("stays", "moves left", "moves right", "turns")
    monkeypatch.setattr(scene, "draw_scene", lambda rng: Scene((scene._draw_object(rng, ("large",), motions),)))
    folder = render_shapes(tmp_path / "shapes", train=1000, test=60, size=32, frames=4)
    for split in ("train", "test"):
        questions = json.loads((folder / f"qa_{split}.json").read_text())
        colours = [question for question in questions if question["question"].startswith("what colour")]
        (folder / f"qa_{split}.json").write_text(json.dumps(colours))
    sizes = """--model.vision.open-blocks -1 --model.language.train-graph --model.vision.width 32
        --model.qformer.hidden 32 --model.qformer.intermediate 64 --model.qformer.queries 4 --model.qformer.dropout 0
        --model.graph.dropout 0 --model.language.hidden 32 --model.language.layers 2 --data.frames 2
        --data.sampling uniform --batch-size 16 --epochs 8 --optim.lr 2e-3 --optim.warmup-steps 20 --save-every 1000"""
    assert run_cli(monkeypatch, *train_questions(folder, tmp_path / "run", *sizes.split())) == 0
    assert run_cli(monkeypatch, "evaluate", "--run", tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["answers"]["all"]["accuracy"] > 2 * result["baselines"]["most frequent answer"] > 0
