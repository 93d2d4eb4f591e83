"""Above its limit, an index finds nearly all of the best windows with faiss, and scores them exactly."""

import pytest
import torch
import torch.nn.functional as F
from helpers.colours import Colours, film

import stgt
from stgt.extras import missing_package
from stgt.integrity import DamagedError
from stgt.search import approximate
from stgt.search.approximate import Approximate, build
from stgt.search.packed import DTYPE
from stgt.search.ranking import exact_scores

faiss = pytest.importorskip("faiss", reason="faiss is not installed; run: pip install faiss-cpu")


@pytest.mark.parametrize(("windows", "queries", "scenes"), [(20_000, 1, 200), (20_000, 1, 10), (4_000, 6, 200)])
def test_recall_at_10_is_at_least_95_percent(windows, queries, scenes, tmp_path):
    """Also among 2000 windows of one scene, which are all near each other, as in an index of a million windows."""
    draw = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(scenes, 64, generator=draw), dim=-1)
    cluster = torch.randint(scenes, (windows, 1), generator=draw)
    vectors = F.normalize(centres[cluster] + 0.08 * torch.randn(windows, queries, 64, generator=draw), dim=-1).to(DTYPE)
    build(tmp_path / "groups.faiss", vectors)
    groups = Approximate(tmp_path / "groups.faiss", windows, queries)
    found = 0
    for _ in range(50):
        near = centres[torch.randint(scenes, (1,), generator=draw)] + 0.1 * torch.randn(1, 64, generator=draw)
        query = F.normalize(near, dim=-1)
        rows = groups.candidates(query, 56)
        assert len(rows) >= 56 and rows.diff().min() > 0
        best = rows[exact_scores(vectors[rows], query).topk(10).indices]
        found += len({*best.tolist()} & {*exact_scores(vectors, query).topk(10).indices.tolist()})
    assert found >= 0.95 * 500


def test_an_index_above_the_limit_answers_as_an_exact_one(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "FEWEST", 300)
    (tmp_path / "films").mkdir()
    colours = [("red", 5), ("green", 5), ("blue", 5), ("yellow", 5)]
    for number in range(4):
        film(tmp_path / "films" / f"{number}.mp4", *colours[number:], *colours[:number])
    index = stgt.Index(tmp_path / "films.index", Colours(frames=8))
    index.update(tmp_path / "films", window=2, stride=1, workers=1)
    exact = {colour: index.search(colour, top=4) for colour, _ in colours}
    assert not list(index.path.glob("*.faiss"))
    index.update(exact_up_to=10)
    assert len(list(index.path.glob("*.faiss"))) == 1
    for colour, moments in exact.items():
        found = index.search(colour, top=4)
        assert [moment.score for moment in found] == pytest.approx([moment.score for moment in moments], abs=1e-6)
    (tmp_path / "films" / "0.mp4").unlink()
    index.update(exact_up_to=10)
    assert len(list(index.path.iterdir())) == 3 and all(moment.path.stem != "0" for moment in index.search("red"))
    groups = {colour: [moment.score for moment in index.search(colour, top=4)] for colour, _ in colours}
    index.update()
    assert groups == {colour: [moment.score for moment in index.search(colour, top=4)] for colour, _ in colours}
    assert not list(index.path.glob("*.faiss")) and index.search("red")[0].score > 0.99


def test_without_faiss_a_large_index_is_searched_exactly(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(approximate, "FEWEST", 1)
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "a.mp4", ("red", 3))
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "films", window=1, stride=1, workers=1, exact_up_to=1)
    assert "3 windows are searched one by one, which takes longer: faiss is not installed" in caplog.text
    assert index.search("red")[0].score > 0.99


@pytest.mark.parametrize(
    "damage",
    [lambda body: b"", lambda body: body[:-9], lambda body: bytes(len(body)), lambda body: body[:4] + b"\xff" * 9],
)
def test_an_index_whose_groups_are_damaged_is_searched_exactly_and_mended(damage, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(approximate, "FEWEST", 1)
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "a.mp4", ("red", 20), ("blue", 60))
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "films", window=1, stride=1, workers=1, exact_up_to=1)
    [groups] = index.path.glob("*.faiss")
    body = groups.read_bytes()
    groups.write_bytes(damage(body))
    again = stgt.Index(index.path, Colours())
    assert f"{groups}: the file is damaged; `stgt index --out {index.path}` writes it again" in caplog.text
    assert again.search("red")[0].score > 0.99
    again.update(exact_up_to=1)
    assert groups.read_bytes() == body
    caplog.clear()
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert stgt.Index(index.path, Colours()).search("red")[0].score > 0.99
    assert "80 windows are searched one by one, which takes longer: faiss is not installed" in caplog.text


def test_groups_of_other_vectors_are_refused(tmp_path):
    approximate.build(tmp_path / "groups.faiss", F.normalize(torch.randn(150, 2, 8), dim=-1).half())
    with pytest.raises(DamagedError, match="holds 300 vectors, expected 302"):
        Approximate(tmp_path / "groups.faiss", 151, 2)


def test_the_advice_for_a_missing_faiss_names_its_extra():
    error = ModuleNotFoundError("No module named 'faiss'", name="faiss")
    assert "faiss is not installed; run: pip install 'stgt-kernels[faiss]'" in missing_package(error)
