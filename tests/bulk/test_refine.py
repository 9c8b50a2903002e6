"""Rows with a dense CRF are the same, whether a task or the predictor computes them."""

import pyarrow.parquet as pq

from pipeline.bulk import refine
from tests.support.shards import compute_shard, planned_run

COLOURS = [(30 * i, 255 - 40 * i, 90) for i in range(6)]


def test_images_beyond_the_bound_of_a_block_have_the_same_rows(tmp_path, monkeypatch):
    kind, run = planned_run(tmp_path, colours=COLOURS, crf=True)
    compute_shard(kind, run)
    part = f"{run}/_run/parts/part-00000.parquet"
    expected = pq.read_table(part).to_pylist()
    packed = []
    pack = refine.pack

    def recorded(*arguments):
        packed.append(pack(*arguments))
        return packed[0]

    monkeypatch.setattr(refine, "PACKED_PIXELS", 2 * 16 * 16)
    monkeypatch.setattr("pipeline.bulk.predict.pack", recorded)
    compute_shard(kind, run)
    sizes = [len(image.as_buffer()) for image in packed[0]["image"]]
    assert max(sizes[2:]) < min(sizes[:2])  # rows instead of pixels and scores
    rows = pq.read_table(part).to_pylist()
    assert [without_times(row) for row in rows] == [without_times(row) for row in expected]
    assert all(row["status"] == "ok" for row in rows)


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("t_")}
