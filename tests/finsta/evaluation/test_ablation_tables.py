"""The tables of a study say what its results hold."""

from typing import get_args

import numpy as np
import pytest

from stgt.cli.finsta import Studies
from stgt.finsta.config import FinstaConfig
from stgt.finsta.evaluation.ablation.page import write_tables
from stgt.finsta.evaluation.ablation.results import choices, compared, drops, hits, order_like_the_papers, score
from stgt.finsta.evaluation.ablation.rows import FINSTA, HOST, STEPS, STUDIES, rows_of
from stgt.finsta.evaluation.matching import Matching
from stgt.finsta.evaluation.measured import Measured

PARTS = [row for row in STUDIES["parts"] if row.without]


def measured(found, right=0.5, understanding=None, clips=20):
    """A run that finds the first `found` of the clips, and is right on `right` of the choices on the first half."""
    ranks = [1 if number < found else 2 for number in range(clips)]
    order = [right if number < clips // 2 else None for number in range(clips)]
    return Measured(
        [str(n) for n in range(clips)], "simulated", Matching(ranks, ranks, {"order": order}), understanding or {}
    )


def cells(page, title):
    """The cells of the first row of a page that begins with a title."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {title} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_study_of_the_command_exists_and_begins_with_its_controls():
    assert tuple(STUDIES) == get_args(Studies)
    assert all(study[0] == HOST and {STEPS, FINSTA} <= set(study) for study in STUDIES.values())
    rows = rows_of(())
    assert len({row.name for row in rows}) == len(rows) == len(set().union(*STUDIES.values()))
    assert rows_of(("missing",)) == list(STUDIES["missing"])
    assert all(hasattr(FinstaConfig(), row.without) for row in PARTS) and len(PARTS) == 6


def test_a_clip_counts_with_its_mean_over_the_seeds():
    one, other = [measured(10), measured(20)], [measured(5), measured(15)]
    assert compared(one, other, hits).mean == pytest.approx(25)
    assert compared(one, [measured(10)], hits).mean == pytest.approx(25)  # The host has one result for all seeds.
    better = compared([measured(0, right=1.0)], [measured(0, right=0.0)], choices)
    assert (better.mean, better.low) == (100, 100)
    np.testing.assert_array_equal(choices(measured(0, right=1.0)), [100.0] * 10 + [np.nan] * 10)


def test_drops_of_parts_are_ranked_like_the_papers():
    """Our drops have the paper's order for the first seed, and the opposite order for the second one."""
    results = {FINSTA: [measured(20), measured(20)]}
    for place, row in enumerate(PARTS):
        results[row] = [measured(10 + place), measured(18 - 2 * place)]
    assert score(results[FINSTA][0]) == pytest.approx(100 * (1 + 1 + 0.5) / 3)
    assert drops(results, PARTS[1]) == pytest.approx([30, 100 * 2 * 4 / 20 / 3])
    mean, seeds = order_like_the_papers(results)
    assert seeds == pytest.approx([1, -1]) and mean == pytest.approx(-1)


def test_the_tables():
    known = {
        "whole graphs": {"objects": {"accuracy": 90.0, "chance": 50.0, "frames": 7}},
        "boxes alone": {"objects": {"accuracy": 60.0, "chance": 50.0, "frames": 7}, "probe": {"motion": 70.0}},
    }
    results = {HOST: [measured(5)], STEPS: [measured(10), measured(12)], FINSTA: [measured(18, 0.75, known)] * 2}
    results |= {row: [measured(10, 0.5, known)] * 2 for row in (*STUDIES["missing"][3:], *PARTS)}
    page = write_tables(results)
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [
        "Missing nodes", "Finsta without a part", "Grounding", "A linear probe of motion",
    ]  # fmt: skip
    own = cells(page, FINSTA.title)
    assert own[:3] == ["Finsta, true graphs", "90.0 ± 0.0", "90.0 ± 0.0"] and own.count("75.0 ± 0.0") == 2
    assert own[-2].startswith("+35.0 [") and own[-2].endswith("] *") and own[-1].startswith("+25.0 [25.0, 25.0]")
    assert cells(page, STEPS.title)[-2:] == ["", ""]
    assert cells(page, HOST.title)[1] == "25.0" and cells(page, HOST.title)[-2].startswith("-30.0 [")
    grounding = page[page.index("## Grounding") : page.index("## A linear")]
    assert cells(grounding, FINSTA.title)[1:4] == ["whole graphs", "90.0 ± 0.0", "50.0 ± 0.0"]
    assert "host" not in grounding
    assert "Spearman's correlation is not defined for the means" in page
