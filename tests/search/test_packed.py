"""The files of vectors of an index answer together as one file would."""

from functools import partial
from types import SimpleNamespace

import torch

import stgt
from stgt.search import packed
from stgt.search.manifest import Film, Manifest, Settings
from stgt.search.packed import Rows

QUERY = torch.tensor([[1.0, 0.0]])


def film(name, scores, stride):
    """A file whose windows of 8 seconds begin every `stride` seconds, and have these scores for the query."""
    vectors = torch.stack([scores, (1 - scores**2).sqrt()], dim=-1)[:, None].half()
    starts = stride * torch.arange(len(scores), dtype=torch.float64)
    rows = Rows(vectors, torch.stack([starts, starts + 8], dim=1))
    return Film(f"/films/{name}.mp4", name, 0, len(scores), rows.sha256()), partial(Rows, *rows)


def index_of(folder, *segments):
    """An index of which each argument, a list of files, is one file of vectors."""
    folder.mkdir()
    written = [packed.write(folder, films) for films in segments]
    packed.publish(folder, Manifest(Settings("one", "one", 8.0, 4.0), ["/films"], written), exact_up_to=10**6)
    return stgt.Index(folder, SimpleNamespace(digest="one", encode_windows=None))


def test_windows_that_overlap_in_one_file_of_vectors_do_not_hide_those_of_another(tmp_path):
    """The best windows overlap each other, so only one of them is an answer, and the next answers lie far behind."""
    crowded = film("crowded", torch.linspace(0.99, 0.95, 300), 0.01)
    good = film("good", torch.linspace(0.9, 0.8, 60), 8.0)
    poor = film("poor", torch.linspace(0.3, 0.2, 200), 8.0)
    apart = index_of(tmp_path / "apart", [crowded, good], [poor])
    together = index_of(tmp_path / "together", [crowded, good, poor])
    expected = together.nearest(QUERY, top=10)
    assert [moment.path.stem for moment in expected] == ["crowded"] + ["good"] * 9
    assert apart.nearest(QUERY, top=10) == expected


def test_candidates_are_as_many_as_were_asked_for(tmp_path):
    scores = torch.linspace(0.05, 0.95, 90)[torch.randperm(90)]
    parts = [[film(name, part, 8.0)] for name, part in zip("abc", scores.split(30), strict=True)]
    one, all_of_them = index_of(tmp_path / "apart", *parts), index_of(tmp_path / "one", sum(parts, []))
    for count in (1, 7, 90, 200):
        found = one._open.candidates(QUERY, count)
        assert found == all_of_them._open.candidates(QUERY, count) and len(found) == min(count, 90)


def test_equal_windows_come_in_the_order_of_paths_and_times_for_any_number_of_answers(tmp_path):
    """Copies of a video and scenes that stand still have equal vectors."""
    generator = torch.Generator().manual_seed(0)
    vector, query = torch.nn.functional.normalize(torch.randn(2, 512, generator=generator), dim=1)
    starts = 4.0 * torch.arange(60, dtype=torch.float64)
    rows = Rows(vector.half().expand(60, 1, 512).contiguous(), torch.stack([starts, starts + 8], dim=1))
    films = {name: (Film(f"/films/{name}.mp4", name, 0, 60, rows.sha256()), partial(Rows, *rows)) for name in "abc"}
    index = index_of(tmp_path / "films.index", [films["b"]], [films["a"], films["c"]])
    expected = [(name, 8.0 * row) for name in "abc" for row in range(30)]
    for top in (1, 2, 5, 9, 33, 90):
        found = index.nearest(query[None], top=top)
        assert [(moment.path.stem, moment.start) for moment in found] == expected[:top]
