"""The commands work on a tiny run of the whole model on simulated clips, and refuse mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import printed_text, run_cli, train_retrieval
from helpers.forks import Fork, command
from helpers.runs import differing
from helpers.standin import kill_in

from stgt import checkpoint as ckpt
from stgt.config import DataConfig, GraphConfig
from stgt.data.shapes import render_shapes
from stgt.files import file_hash
from stgt.runs import load_run
from stgt.training.log import read_log
from stgt.training.run import require_backend
from stgt.training.start import start_from
from stgt_kernels import dispatch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=24, test=8, size=32, frames=6)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, *train_retrieval(clips, out)) == 0
    return out


def test_a_run_learns_and_its_folder_is_complete(run):
    records = read_log(run)
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10, 12]
    assert records[-1]["loss"] < records[0]["loss"]
    assert "vtc" in records[0] and "csal" not in records[0]
    assert "csal" in records[-1] and "vtc" not in records[-1]
    assert 4 < records[0]["edges_per_token"] <= 3 * 16
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "log.jsonl",
        "tensorboard",
        "tokenizer",
    ]
    assert not [p for p in run.rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl")]


def test_evaluate_search_and_visualize_answer_from_the_folder_alone(run, clips, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, "evaluate", "--run", run) == 0
    result = json.loads((run / "evaluation.json").read_text())
    assert result["split"]["videos"] == result["split"]["captions"] == 8 and result["k_test"] == 8
    assert result["split"]["sha256"] == file_hash(clips / "test.json")
    assert result["step"] == 12 and set(result["text_to_video"]) == {"vtc", "reranked"}
    printed = capsys.readouterr().out
    assert result["split"]["sha256"] in printed and "8 videos, 8 captions" in printed
    words = ["a green triangle grows", "--run", run, "--top", 3, "--figure", "top.png"]
    assert run_cli(monkeypatch, "search", *words) == 0
    hits = [line for line in capsys.readouterr().out.splitlines() if line.endswith(".mp4")]
    assert len(hits) == 3 and all(Path(line.split()[-1]).is_file() for line in hits)
    video = next((clips / "videos").iterdir())
    assert run_cli(monkeypatch, "visualize", video, "--run", run, "--row", 1, "--out", "edges.png") == 0
    assert "row 1" in capsys.readouterr().out
    assert (tmp_path / "top.png").stat().st_size > 10_000 and (tmp_path / "edges.png").stat().st_size > 10_000


def test_the_same_command_again_changes_nothing(run, clips, monkeypatch):
    before = file_hash(ckpt.latest_checkpoint(run) / "model.safetensors")
    assert run_cli(monkeypatch, *train_retrieval(clips, run)) == 0
    assert file_hash(ckpt.latest_checkpoint(run) / "model.safetensors") == before


def test_a_run_of_version_0_1_0_goes_on_with_the_same_bits(run, clips, monkeypatch, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    values = json.loads((old / "config.json").read_text()) | {"out": str(old)}
    assert values.pop("vtc_epochs") == 1 and values["loss"].pop("alignment") == "csal"
    names = {"alignment_weight": "vtc", "vtm_weight": "vtm", "vtg_weight": "vtg"}
    values["loss"] = {"stage": 1} | {names.get(name, name): value for name, value in values["loss"].items()}
    values["csal_from"] = 1
    (old / "config.json").write_text(json.dumps(values))
    *_, before, last = ckpt.checkpoints(old)
    whole = file_hash(last / "model.safetensors")
    shutil.rmtree(last)
    ckpt.update_state(before, config=values)
    assert run_cli(monkeypatch, *train_retrieval(clips, old)) == 0
    assert ckpt.latest_checkpoint(old) == last and file_hash(last / "model.safetensors") == whole


def test_another_configuration_is_refused_with_the_fields_that_differ(run, clips, monkeypatch, capsys):
    assert run_cli(monkeypatch, *train_retrieval(clips, run, "--optim.lr", "0.5", "--attention", "dense")) == 2
    error = capsys.readouterr().err
    assert "optim.lr: 0.5, there" in error and "model.graph.attention: 'dense', there 'kernels'" in error
    assert "--out" in error and "Traceback" not in error
    assert run_cli(monkeypatch, *train_retrieval(clips, run, "--data.workers", "1", "--keep", "5")) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "quickstrat"], "quickstart"),
        (["train", "quickstart", "--optim.learning-rate", "1"], "--optim.learning-rate"),
        (["train", "quickstart", "--optim.lr", "nan"], "OptimConfig.lr is nan, expected a positive number"),
        (["train", "quickstart", "--attention", "flash"], "dense"),
        (["train", "quickstart", "--data.train", "nowhere.json"], "nowhere.json: no such file"),
        (["train", "quickstart", "--device", "abacus"], "device is 'abacus'"),
        (
            ["train", "quickstart", "--model.graph.backend", "cuda", "--device", "cpu"],
            "model.graph.backend is 'cuda', which cannot run: it runs on CUDA tensors",
        ),
        (["train", "quickstart", "--device", "meta"], "device is 'meta', expected one that computes"),
        (["train", "quickstart", "--data.deadline", "inf"], "found Infinity at data.deadline, expected a finite"),
        (["train", "quickstart", "--optim.warmup-steps", 10**22], "a number of 23 digits at optim.warmup_steps"),
        (["train", "quickstart", "--out", "caf\udce9/run"], "found half of a surrogate pair"),
        (["evaluate", "--run", "nowhere"], "nowhere: no such folder, expected that of a run"),
        (["search", "a red square", "--run", "nowhere"], "nowhere: no such folder, expected that of a run"),
    ],
)
def test_a_wrong_argument_is_reported_before_anything_is_done(words, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, *words) == 2
    message = printed_text(capsys)
    assert expected in message and "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_backend_of_the_environment_that_cannot_run_is_named(monkeypatch):
    require_backend(GraphConfig(), torch.device("cpu"))
    monkeypatch.setattr(dispatch, "environment_backend", lambda: "cuda")
    require_backend(GraphConfig(attention="dense"), torch.device("cpu"))
    with pytest.raises(ValueError, match="STGT_BACKEND is 'cuda', which cannot run: it runs on CUDA tensors"):
        require_backend(GraphConfig(), torch.device("cpu"))


@pytest.mark.parametrize(("epochs", "told"), [(1, True), (2, False)])
def test_a_run_that_never_trains_with_csal_is_told(epochs, told, clips, monkeypatch, caplog, tmp_path):
    words = train_retrieval(clips, tmp_path / "run", "--epochs", epochs, "--vtc-epochs", 1)
    assert run_cli(monkeypatch, *words) == 0
    assert ("vtc_epochs=1 leaves none of the 1 epochs for loss.alignment='csal'" in caplog.text) == told


@pytest.mark.parametrize("options", [["--batch-size", 1], ["--global-batch", 1]])
def test_batches_of_one_pair_are_refused_before_anything_is_done(options, clips, monkeypatch, capsys, tmp_path):
    assert run_cli(monkeypatch, *train_retrieval(clips, tmp_path / "run", *options)) == 2
    assert "batch_size or global_batch gives batches of 1 pair, expected at least 2" in printed_text(capsys)
    assert not (tmp_path / "run").exists()


def test_an_annotation_without_its_video_is_refused(clips, monkeypatch, capsys, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps([{"video": "gone.mp4", "caption": "a red square"}] * 9))
    words = train_retrieval(clips, tmp_path / "run", "--data.tokenizer", "train", "--data.train", tmp_path / "bad.json")
    assert run_cli(monkeypatch, *words) == 2
    assert "gone.mp4" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_names_a_broken_video(workers, run, clips, monkeypatch, capsys, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "test.json").write_text(json.dumps([{"video": "broken.mp4", "caption": "a red square"}]))
    monkeypatch.setattr(DataConfig, "__post_init__", lambda data: setattr(data, "workers", workers))
    assert (
        run_cli(monkeypatch, "evaluate", "--run", run, "--annotation", tmp_path / "test.json", "--videos", tmp_path)
        == 2
    )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"stgt: {tmp_path / 'broken.mp4'}: ")


def test_broken_videos_are_replaced_in_training_and_counted(clips, monkeypatch, caplog, tmp_path):
    pairs = json.loads((clips / "train.json").read_text())
    shutil.copytree(clips / "videos", tmp_path / "videos")
    for pair in pairs[:3]:
        (tmp_path / "videos" / pair["video"]).write_bytes(b"no video")
    words = train_retrieval(clips, tmp_path / "run", "--data.videos", tmp_path / "videos", "--data.workers", "1")
    assert run_cli(monkeypatch, *words) == 0
    # Each of the two epochs has all 24 pairs.
    replaced = read_log(tmp_path / "run")[-1]["replaced"]
    assert replaced >= 6 and f"{replaced} pairs replaced others" in caplog.text


def test_a_run_starts_from_weights_of_another_run_if_they_fit(run, clips, monkeypatch, capsys, tmp_path):
    assert (
        run_cli(
            monkeypatch, *train_retrieval(clips, tmp_path / "next", "--init", run, "--epochs", "1", "--vtc-epochs", "0")
        )
        == 0
    )
    first = ckpt.read_tensors(ckpt.checkpoints(tmp_path / "next")[0], "model")
    assert first.keys() == ckpt.read_tensors(ckpt.latest_checkpoint(run), "model").keys()
    wide = train_retrieval(clips, tmp_path / "wide", "--init", run, "--model.qformer.embed-dim", "16")
    assert run_cli(monkeypatch, *wide) == 2
    error = capsys.readouterr().err
    assert (
        "model.qformer.embed_dim: 16, there 8" in error and "text_proj.weight has shape (8, 16), here (16, 16)" in error
    )
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize("name", ["folder", "released.pth"])
def test_a_run_starts_from_a_converted_run(name, run, monkeypatch, tmp_path):
    assert run_cli(monkeypatch, "convert", run, "--out", tmp_path / name) == 0
    trained = load_run(run, "cpu")
    torch.manual_seed(1)
    model = trained.task.make_model(trained.config.model)
    start_from(model, tmp_path / name)
    for key, tensor in trained.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


def test_training_on_cached_features_equals_training_on_videos(clips, monkeypatch, capsys, tmp_path):
    frozen = ["--model.vision.open-blocks", "0", "--data.sampling", "uniform"]
    live = train_retrieval(clips, tmp_path / "live", *frozen)
    cached = train_retrieval(clips, tmp_path / "cached", *frozen, "--data.features", tmp_path / "tokens")
    features = ["data", "features", "--out", tmp_path / "tokens", *live[1:]]
    for words in (features, live, cached):
        assert run_cli(monkeypatch, *words) == 0
    one, other = (read_log(tmp_path / name)[-1]["loss"] for name in ("live", "cached"))
    assert one == pytest.approx(other, rel=0.01)  # the cache holds bfloat16
    assert run_cli(monkeypatch, "evaluate", "--run", tmp_path / "cached") == 0
    wrong = train_retrieval(
        clips, tmp_path / "wrong", *frozen, "--data.features", tmp_path / "tokens", "--data.frames", "3"
    )
    assert run_cli(monkeypatch, *wrong) == 2
    assert "frames is 4 in the cache and 3 in this run" in capsys.readouterr().err
    opened = train_retrieval(clips, tmp_path / "wrong", "--data.features", tmp_path / "tokens")
    assert run_cli(monkeypatch, *opened) == 2
    assert "open_blocks=-1 trains the tower" in capsys.readouterr().err


def killed_in(place, *words):
    kill_in(place)
    command(*words)


def test_a_killed_run_of_the_real_model_ends_with_the_same_bits(run, clips, tmp_path):
    words = train_retrieval(clips, tmp_path / "killed", "--data.workers", "1")
    code, output = Fork(killed_in, "step:7", *words).finish()
    assert code == -signal.SIGKILL, output
    code, output = Fork(command, *words).finish()
    assert code == 0, output
    assert differing(run, tmp_path / "killed", ("model", "optimizer")) == []


def test_two_processes_train_the_real_model(clips, tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "stgt"]
    words += train_retrieval(clips, tmp_path / "two", "--batch-size", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=500
    )
    records = read_log(tmp_path / "two")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10, 12], done.stdout
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "two"))["world"] == 2
