"""`stgt evaluate` gives the same bits for any number of processes and kills, and refuses bad arguments."""

import filecmp
import json
import multiprocessing
import os
import shutil
import signal

import matplotlib.image
import pytest
import torch
from helpers.processes import in_processes

from stgt.data.store import Store
from stgt.data.text import Tokenizer
from stgt.evaluation.captions import caption_figures
from stgt.evaluation.options import Evaluation
from stgt.evaluation.retrieval import matching_scores
from stgt.evaluation.run import _refuse, evaluate
from stgt.models.stgt import STGT
from stgt.runs import open_run

_processes = multiprocessing.get_context("fork")
OPTIONS = dict(batch_size=2, candidates=(0, 1, 4, 11), device="cpu")


def in_process(target, *args):
    process = _processes.Process(target=target, args=args)
    process.start()
    return process


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """The result of one process, and the files that it keeps."""
    out = tmp_path_factory.mktemp("alone")
    return evaluate(Evaluation(run, features=out / "features", out=out / "evaluation.json", **OPTIONS)), files(
        out / "features"
    )


def one_of(rank, run, out):
    result = evaluate(Evaluation(run, features=out / "features", out=out / "evaluation.json", **OPTIONS))
    (out / f"{rank}.json").write_text(json.dumps(result))


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_give_the_same_bits_as_one(size, run, alone, tmp_path):
    in_processes(size, one_of, run, tmp_path)
    result, kept = alone
    assert files(tmp_path / "features") == kept and len(kept) > 12
    for name in [*(f"{rank}.json" for rank in range(size)), "evaluation.json"]:
        assert json.loads((tmp_path / name).read_text()) == result


def killed(run, out, after):
    torch.set_num_threads(1)
    write, left = Store.write, [after]

    def deadly(store, name, **tensors):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        write(store, name, **tensors)

    Store.write = deadly
    evaluate(Evaluation(run, features=out / "features", out=out / "evaluation.json", **OPTIONS))


@pytest.mark.parametrize("after", [3, 13])
def test_after_a_kill_no_finished_batch_is_computed_again(after, run, alone, monkeypatch, tmp_path):
    process = in_process(killed, run, tmp_path, after)
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(files(tmp_path / "features")) == after
    encoded = []
    encode_video = STGT.encode_video
    monkeypatch.setattr(STGT, "encode_video", lambda model, video: encoded.append(1) or encode_video(model, video))
    options = OPTIONS | {"features": tmp_path / "features", "out": tmp_path / "evaluation.json"}
    assert evaluate(Evaluation(run, **options)) == alone[0] and files(tmp_path / "features") == alone[1]
    assert len(encoded) == max(0, 6 - after)  # 11 videos make 6 batches, which are computed first
    evaluate(Evaluation(run, **options))
    assert len(encoded) == max(0, 6 - after)


def test_one_pass_gives_the_figures_of_each_number_of_candidates(run, alone, tmp_path, stgt):
    words = ["--candidates", 0, 1, 4, 11, "--batch-size", 2, "--features", tmp_path / "features", "--device", "cpu"]
    status, printed = stgt("evaluate", "--run", run, "--out", tmp_path / "out" / "figures.json", *words)
    assert status == 0 and "candidates" in printed
    result = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert result == alone[0] and list(result["candidates"]) == ["0", "1", "4", "11"]
    assert matplotlib.image.imread(tmp_path / "out" / "candidates.png").std() > 0.05
    for count, figures in result["candidates"].items():
        options = dict(k_test=int(count), features=tmp_path / "features", out=tmp_path / "one.json", batch_size=2)
        single = evaluate(Evaluation(run, **options))
        for way in figures:
            assert single[way]["reranked" if int(count) else "vtc"] == pytest.approx(figures[way])


def test_the_model_decides_how_it_re_ranks_unless_an_option_does(run, alone, monkeypatch, tmp_path):
    asked = []

    def noted(logits, kind, temperature):
        asked.append((kind, round(temperature, 2)))
        return matching_scores(logits, kind, temperature)

    monkeypatch.setattr("stgt.evaluation.run.matching_scores", noted)
    options = OPTIONS | {"features": tmp_path / "features", "out": tmp_path / "out.json"}
    for rerank, expected in ((None, "odds"), ("softmax", "softmax"), ("logit", "logit"), ("odds", "odds")):
        result = evaluate(Evaluation(run, rerank=rerank, **options))
        assert result["rerank"] == expected  # the recipe `quickstart` made a model with "odds"
        assert result["text_to_video"]["vtc"] == alone[0]["text_to_video"]["vtc"]
    assert asked == [("odds", 0.07), ("softmax", 0.07), ("logit", 0.07), ("odds", 0.07)]


def test_dual_softmax_and_captions_are_measured_beside_the_other_figures(run, alone, tmp_path, stgt):
    words = ["--features", tmp_path / "features", "--device", "cpu", "--batch-size", 2, "--out", tmp_path / "out.json"]
    words += ["--candidates", 0, 1, 4, 11]
    status, printed = stgt("evaluate", "--run", run, *words, "--dual-softmax", "--captions")
    assert status == 0 and "uses all queries of the test set at once" in printed and "BLEU-4" in printed
    result = json.loads((tmp_path / "out.json").read_text())
    figures, dual = result.pop("captions"), result.pop("dual_softmax")
    assert result == alone[0] and dual["text_to_video"].keys() == result["text_to_video"]["vtc"].keys()
    written = json.loads((tmp_path / "captions.json").read_text())
    assert len(written) == result["split"]["videos"] and all(row["references"] for row in written)
    texts = [row["caption"] for row in written], [row["references"] for row in written]
    assert figures == caption_figures(*texts)


def test_zero_is_an_option_that_was_given():
    for given in (dict(k_test=0), dict(beams=0), dict(candidates=(0,)), dict(captions=True)):
        with pytest.raises(ValueError, match=f"{next(iter(given))} is given, expected none, because it answers"):
            _refuse("it answers", Evaluation("model", **given), *given)
    _refuse("it answers", Evaluation("model"), "k_test", "beams", "candidates", "captions", "dual_softmax")


def test_a_caption_of_several_videos_is_right_for_each_of_them(run, clips, stgt, tmp_path):
    entries = json.loads((clips / "test.json").read_text())
    captions = ["A red square grows.", "a red square grows"]
    same = [entry | {"caption": captions[number % 2]} for number, entry in enumerate(entries)]
    (tmp_path / "same.json").write_text(json.dumps(same))
    words = [
        "--annotation",
        tmp_path / "same.json",
        "--features",
        tmp_path / "features",
        "--out",
        tmp_path / "out.json",
    ]
    status, printed = stgt("evaluate", "--run", run, *words, "--batch-size", 4, "--device", "cpu")
    assert status == 0 and "11 captions belong to several videos, and count as right for each" in printed
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["split"]["distinct_captions"] == 2 and result["split"]["shared_captions"] == 11
    for way in ("text_to_video", "video_to_text"):
        assert all(figures["MeanR"] == 1 and figures["R@1"] == 100 for figures in result[way].values())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--k-test", 12], "k_test is 12, expected 0 to 11, because {test} has 11 videos and 11 captions"),
        (["--k-test", -1], "k_test is -1, expected 0 to 11"),
        (["--candidates", 4, 64], "candidates holds 64, expected 0 to 11, because {test} has 11 videos"),
        (["--batch-size", 0], "batch_size is 0, expected at least 1"),
        (["--captions", "--beams", 0], "beams is 0, expected at least 1"),
        (["--beams", 2], "beams is given, expected none, because {run} retrieves"),
        (["--threshold", 2], "threshold is 2.0, expected a number in [-1, 1]"),
        (["--tokenizer", "bert"], "tokenizer is 'bert', expected none, because {run} is a run"),
        (["--annotation", "nowhere.json"], "nowhere.json: no such file"),
        (["--videos", "nowhere"], "nowhere/"),
        (["--out", "."], "out is ., a folder, expected a JSON file"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(words, expected, run, clips, stgt, tmp_path):
    kept = ["--features", tmp_path / "features", "--out", tmp_path / "evaluation.json"]
    status, printed = stgt("evaluate", "--run", run, *kept, *words)
    assert status == 2 and expected.format(run=run, test=clips / "test.json") in printed
    assert list(tmp_path.iterdir()) == []


def test_a_converted_folder_has_the_figures_of_its_run(run, clips, stgt, tmp_path):
    folder = tmp_path / "converted"
    own = ["--out", tmp_path / "own.json", "--features", tmp_path / "features", "--batch-size", 2, "--device", "cpu"]
    assert stgt("evaluate", "--run", run, *own)[0] == 0
    expected = json.loads((tmp_path / "own.json").read_text())
    assert stgt("convert", run, "--out", folder)[0] == 0
    assert stgt("convert", folder, "--out", tmp_path / "again")[0] == 0
    assert not filecmp.dircmp(folder, tmp_path / "again").left_only
    words = ["--annotation", clips / "test.json", "--videos", clips / "videos", "--batch-size", 2, "--device", "cpu"]
    for tokenizer in ([], ["--tokenizer", run / "tokenizer"]):
        assert stgt("evaluate", "--run", folder, *words, *tokenizer)[0] == 0
        result = json.loads((folder / "evaluation.json").read_text())
        assert result["step"] is None and result["checkpoint"] == str(folder)
        assert all(result[way] == expected[way] for way in ("text_to_video", "video_to_text"))
        (folder / "evaluation.json").unlink()
        shutil.rmtree(folder / "tokenizer", ignore_errors=True)


def test_a_converted_folder_needs_data_and_the_tokenizer_of_its_training(run, clips, stgt, monkeypatch, tmp_path):
    folder = tmp_path / "pretrained"
    open_run(run, "cpu").model.save_pretrained(folder)
    words = ["evaluate", "--run", folder, "--annotation", clips / "test.json"]
    tokenizer = ["--tokenizer", run / "tokenizer"]
    assert "holds a model and names no data, expected --videos as well" in stgt(*words, *tokenizer)[1]
    assert "expected --annotation and --videos as well" in stgt("evaluate", "--run", folder, *tokenizer)[1]
    other = Tokenizer.train(["a red square grows"], 40)
    other.save(tmp_path / "other")
    status, printed = stgt(*words, "--tokenizer", tmp_path / "other", "--videos", clips / "videos")
    assert status == 2 and f"other) has {other.vocab_size}: expected the tokenizer" in printed
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, printed = stgt(*words)
    assert status == 2 and f"{folder} holds no tokenizer" in printed and "expected --tokenizer" in printed


def test_the_default_number_of_candidates_may_be_given(run, clips, stgt, tmp_path):
    """Videos are ranked for each caption, and captions for each video. Here there are more captions than videos."""
    pairs = json.loads((clips / "test.json").read_text())[:3]
    more = [pair | {"caption": f"{pair['caption']} {word}"} for pair in pairs for word in ("fast", "slowly", "again")]
    (tmp_path / "more.json").write_text(json.dumps(more))
    words = ["evaluate", "--run", run, "--annotation", tmp_path / "more.json", "--features", tmp_path / "features"]
    results = []
    for number, options in enumerate([[], ["--k-test", 9], ["--k-test", 9, "--candidates", 9]]):
        out = tmp_path / f"{number}.json"
        status, printed = stgt(*words, *options, "--out", out)
        assert status == 0, printed
        result = json.loads(out.read_text())
        result.pop("candidates", None)
        results.append(result)
    assert results[0]["k_test"] == 9 and results[0] == results[1] == results[2]
    status, printed = stgt(*words, "--k-test", 10)
    assert status == 2 and "k_test is 10, expected 0 to 9" in printed and "3 videos and 9 captions" in printed
