"""Manifests with long texts are read and written in parts, and a lack of memory is told."""

from types import SimpleNamespace

import pytest

from stgt.data.manifest.cache import open_manifest

pd = pytest.importorskip("pandas", reason="pip install pandas")
pa = pytest.importorskip("pyarrow", reason="pip install pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")

from stgt.data.manifest.write import writing_manifest  # noqa: E402


def test_long_captions_are_written_and_converted_a_few_rows_at_a_time(tmp_path, monkeypatch):
    # Arrow refuses lists with 2 GiB of texts, which 65,536 rows with many or long captions have.
    for module in ("columns", "write"):
        monkeypatch.setattr(f"stgt.data.manifest.{module}.PART", 10_000)
    said = [[f"{i}"] if i < 50 else [f"{i}, {j} " + "long" * 50 for j in range(4)] for i in range(100)]
    with writing_manifest(tmp_path / "ours.parquet") as writer:
        for i, captions in enumerate(said):
            writer.add(f"{i}.mp4", captions)
    assert pq.ParquetFile(tmp_path / "ours.parquet").num_row_groups >= 4  # the long captions have 40,000 letters
    rows = pa.table({"video": [f"{i}.mp4" for i in range(100)], "captions": said})
    pq.write_table(rows, tmp_path / "other.parquet", row_group_size=50, use_dictionary=False)
    for name in ("ours", "other"):
        manifest = open_manifest(tmp_path / f"{name}.parquet")
        assert list(manifest.said()) == said and manifest.row(99).video == "99.mp4"
        letters = [sum(map(len, batch.column("captions").flatten().to_pylist())) for batch in manifest.batches]
        assert sum(letters) > 40_000 and max(letters) <= 11_000  # one row has up to 840
    assert len(manifest.batches[0]) == 50  # short captions stay together


def test_rows_that_arrow_refuses_to_read_together_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    # Arrow refuses lists with 2 GiB of texts, and a file that stores a text once for all rows does not tell their size.
    said = [[f"{i}", "the same"] for i in range(100)]
    rows = pa.table({"video": [f"{i}.mp4" for i in range(100)], "captions": said})
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=60)
    read = pq.ParquetFile.iter_batches

    def refusing(file, most, *args, **options):
        for number, batch in enumerate(read(file, min(most, 30), *args, **options)):
            if most > 100 and number == 1:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refusing)
    manifest = open_manifest(tmp_path / "rows.parquet")
    assert list(manifest.said()) == said and [manifest.row(i).video for i in range(100)] == rows["video"].to_pylist()


def test_a_lack_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    pd.DataFrame({"video": ["a.mp4"], "caption": ["a"]}).to_parquet(tmp_path / "rows.parquet")

    def fail(*args, **options):
        raise pa.ArrowMemoryError("malloc of size 99 failed")

    monkeypatch.setattr("stgt.data.manifest.columns._Rows.checked", fail)
    with pytest.raises(MemoryError, match="malloc of size 99"):
        open_manifest(tmp_path / "rows.parquet")
    with (
        pytest.raises(MemoryError, match="malloc of size 99"),
        writing_manifest(tmp_path / "ours.parquet") as writer,
    ):
        writer.add("a.mp4", ["a"])
        monkeypatch.setattr(
            "stgt.data.manifest.write.pa",
            SimpleNamespace(RecordBatch=SimpleNamespace(from_pylist=fail), ArrowException=pa.ArrowException),
        )
        writer.flush()
