"""`stgt ablate` on a few clips: the numbers of its table, resuming the grid, and refused arguments."""

import json
import signal
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.commands import printed_text, run_cli

from stgt import checkpoint as ckpt
from stgt.data.shapes.motion import GROUP
from stgt.evaluation.spread import Spread
from stgt.paper.ablation import grid, run
from stgt.paper.ablation.grid import Measured
from stgt.paper.ablation.hits import Hits
from stgt.paper.ablation.plot import draw
from stgt.paper.ablation.run import Size, ablate
from stgt.paper.ablation.studies import BASELINE, GRAPH, STUDIES, Study, Variant, base_run
from stgt.paper.ablation.table import chance, difference_table, study_table
from stgt.recipes import quickstart
from stgt.signals import StoppedError

TWO = Study("Two", (BASELINE, GRAPH))
SWEEP = Study("Sweep", (Variant("at 0.1", {"threshold": 0.1}),), axis="h", values=(0.1, 0.9), tested=True)
SMALL = Size(seeds=1, epochs=1, clips=32, test_clips=6)


def measured(seed, *means, edges=12.0, hits=None):
    def figures(mean):
        recalls = {"R@1": mean - 1, "R@5": mean, "R@10": mean + 1, "mean": mean}
        return {
            "split": {"videos": 100},
            "text_to_video": {"vtc": {"R@1": mean - 2}, "reranked": recalls},
            "video_to_text": {"reranked": {"mean": mean + 10}},
        }

    return Measured(
        seed,
        Path("run"),
        edges,
        [figures(mean) for mean in means],
        hits or Hits([True], [True, False, False, False, False]),
    )


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_mean_and_spread_are_those_of_the_seeds():
    runs = [
        [measured(0, 10.0, edges=None), measured(1, 14.0, edges=None)],
        [measured(s, v) for s, v in enumerate((1, 2, 6))],
    ]
    head, _, baseline, graph = map(cells, study_table(TWO, runs).splitlines())
    assert head[1:4] == ["R@1 by similarity", "R@1", "R@5"] and head[4:7] == ["R@10", "R-mean", "R-mean, video to text"]
    assert head[7:9] == ["motion", "edges per token"] and "other data" in head[-1]
    values = ["10.0 ± 2.8", "11.0 ± 2.8", "12.0 ± 2.8", "13.0 ± 2.8", "12.0 ± 2.8", "22.0 ± 2.8", "20.0 ± 0.0"]
    assert baseline == ["CCT+MIT baseline", *values, "none", "45.57"]
    std = f"{statistics.stdev((1, 2, 6)):.1f}"
    assert std == "2.6" and graph[5] == f"3.0 ± {std}" and graph[8] == "12.0 ± 0.0" and graph[9] == "49.67"
    assert str(Spread.of([7.0])) == "7.0"
    assert chance(100) == pytest.approx(16 / 3) and chance(5) == pytest.approx((20 + 100 + 100) / 3)


def test_differences_are_those_of_the_same_clips_over_all_seeds():
    def hits(clips, *groups):
        """clips: a digit for each clip; groups: the number of captions of each group that find their clip."""
        return Hits([digit == "1" for digit in clips], [number < found for found in groups for number in range(GROUP)])

    base = [measured(0, 1.0, hits=hits("1000", 2, 4)), measured(1, 1.0, hits=hits("1100", 0, 2))]
    better = [measured(0, 1.0, hits=hits("1101", 6, 8)), measured(1, 1.0, hits=hits("1101", 4, 6))]
    _, _, row = map(cells, difference_table(TWO, [base, better]).splitlines())
    # By clip, over the seeds: 0, +1/2, 0 and +1, which makes +37.5. Both groups gain 4 of 8: an interval without width.
    assert row[0] == "A and W_s" and row[1].startswith("+37.5 [") and row[2] == "+50.0 [50.0, 50.0] *"
    low, high = map(float, row[1].removeprefix("+37.5 [").removesuffix("]").split(", "))
    assert low == 0.0 and 75.0 <= high <= 100.0
    _, _, same = map(cells, difference_table(TWO, [base, base]).splitlines())
    assert same[1:] == ["+0.0 [0.0, 0.0]"] * 2


def test_a_sweep_has_a_column_for_each_tested_threshold():
    head, _, row = map(cells, study_table(SWEEP, [[measured(0, 10.0, 30.0), measured(1, 20.0, 30.0)]]).splitlines())
    assert head == ["R-mean", "tested at 0.1", "tested at 0.9"] and row == ["at 0.1", "15.0 ± 7.1", "30.0 ± 0.0"]


def test_studies_change_the_settings_in_their_titles_and_share_runs():
    base = base_run(Path("clips"), 9, Path("out"), "cpu")
    configs = {v.title: v.config(base, 1) for studies in STUDIES.values() for s in studies for v in s.variants}
    graphs = {title: config.model.graph for title, config in configs.items()}
    assert graphs["CCT+MIT baseline"].kind == "cross_frame" and graphs["A and W_s"] == base.model.graph
    assert graphs["A and W_s"].form == "residual" and graphs["A and W_s, the released form"].form == "released"
    assert graphs["A and W_s"].motion and not graphs["A and W_s, the released form"].motion
    assert graphs["A and W_s, without motion along the edges"] == replace(graphs["A and W_s"], motion=False)
    assert not graphs["W_s without A: every pair of the band"].edges
    assert not graphs["A without W_s: every edge weighs 1"].weights
    assert configs["γ = 3"].loss.gamma == 3 and configs["γ = 3"].vtc_epochs == 6
    assert configs["γ = 3"].loss.alignment == "csal" and configs["A and W_s"].loss.alignment == "vtc"
    assert {c.seed for c in configs.values()} == {1}
    whole = base_run(Path("clips"), 9, Path("out"), "cpu", full=True)
    assert whole.model == quickstart().model != base.model and replace(whole, model=base.model) == base
    # Two runs have the same folder only if their configurations are equal.
    assert configs["A and W_s"] == configs["trained at h = 0.5"] and configs["A and W_s, CSAL"] == configs["γ = 5"]
    assert len({c.out for c in configs.values()}) == len(configs) - 2
    for studies in STUDIES.values():
        for study in studies:
            assert study.axis is None or study.tested or len(study.values) == len(study.variants)


def test_a_stopped_grid_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(STUDIES, "table2", (TWO, SWEEP))
    started = []
    train = grid.train

    def stopped_in_the_second(config):
        started.append(config.out.parent.name)
        if len(started) == 2:
            raise StoppedError(signal.SIGTERM, "stopped")
        train(config)

    monkeypatch.setattr(grid, "train", stopped_in_the_second)
    with pytest.raises(StoppedError):
        ablate(["table2"], SMALL, tmp_path / "grid", "cpu")
    assert started == ["cross_frame", "h0.5"] and not (tmp_path / "grid" / "ablations.md").exists()
    first = tmp_path / "grid" / "cross_frame" / "seed0"
    weights, result = ckpt.latest_checkpoint(first) / "model.safetensors", first / "ablation.json"
    before = (weights.stat().st_mtime_ns, result.stat().st_mtime_ns)

    ablate(["table2"], SMALL, tmp_path / "grid", "cpu")
    assert (weights.stat().st_mtime_ns, result.stat().st_mtime_ns) == before
    printed = capsys.readouterr().out
    table = (tmp_path / "grid" / "ablations.md").read_text()
    assert table in printed and "stgt ablate table2 --seeds 1 --epochs 1 --clips 32 --test-clips 6" in table
    record = json.loads((tmp_path / "grid" / "ablations.json").read_text())
    two, sweep = (study["variants"] for study in record["studies"])
    assert [variant["paper_r_mean"] for variant in two] == [45.57, 49.67] and record["size"]["clips"] == 32
    ((figures,),) = [run["figures"] for run in two[1]["runs"]]
    assert figures["split"]["videos"] == 6 and figures["threshold"] == 0.5
    assert f"{figures['text_to_video']['reranked']['mean']:.1f}" in table
    assert [each["threshold"] for each in sweep[0]["runs"][0]["figures"]] == [0.1, 0.9]
    first, second = (variant["runs"][0]["motion"] for variant in two)
    assert f"| {second - first:+.1f} [" in table and "The rows minus the row of CCT+MIT baseline" in table
    assert two[0]["runs"][0]["edges"] is None and 1 <= two[1]["runs"][0]["edges"] <= 3 * 16
    assert (tmp_path / "grid" / "ablations.png").stat().st_size > 10_000

    for other, expected in (
        (Size(1, 2, 32, 6), "epochs: 2, there 1"),
        (Size(1, 1, 64, 6), "train is 32 there, not 64"),
    ):
        with pytest.raises(ValueError, match=expected):
            ablate(["table2"], other, tmp_path / "grid", "cpu")
    assert (tmp_path / "grid" / "ablations.md").read_text() == table


def test_curves_are_drawn_for_one_seed_too(tmp_path):
    _, gamma = STUDIES["fig7"]
    draw([(gamma, [[measured(0, mean)] for mean in (5, 6, 7, 8, 9)])], tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["table4"], "table2"),
        (["--seeds", "0"], "seeds is 0, expected at least 1"),
        (["--epochs", "0"], "epochs is 0, expected at least 1"),
        (["--clips", "31"], "clips is 31, expected at least 32, one batch"),
        (["--test-clips", "0"], "test_clips is 0, expected at least 1"),
        (["--device", "abacus"], "device is 'abacus'"),
    ],
)
def test_a_wrong_argument_is_refused_before_any_work(words, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("it was started"))
    assert run_cli(monkeypatch, "ablate", *words) == 2
    assert expected in printed_text(capsys)
    assert list(tmp_path.iterdir()) == []
