"""Bulk segmentation from and to a real S3 server and local folders: rows, masks, errors, resuming, tables."""

import io
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import bundle, storage
from pipeline.bulk.config import BulkScaling
from pipeline.bulk.plan import read_manifest, read_plan
from pipeline.bulk.results import read_file
from pipeline.bulk.schema import METADATA_KEY
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import segment
from pipeline.bulk.table_input import read_image_bytes
from pipeline.data.images import decode_image, decode_mask, decode_raw_label
from pipeline.errors import UserError
from pipeline.metrics.segmentation import Confusion, confusion
from pipeline.predict.segmenter import Segmenter
from tests.support.archives import tar_of, zip_of
from tests.support.jobs import kill_when, run_job, succeed
from tests.support.runs import rows_of, the_run
from tests.support.web import web_server

pytestmark = pytest.mark.timeout(600)  # whichever test comes first pays for the servers and the trained bundle

TIMINGS = ["t_fetch_ms", "t_decode_ms", "t_infer_ms"]


@pytest.fixture(scope="module")
def s3_run(trained_on_s3, scenes_on_s3, s3, ray_head) -> tuple[str, str]:
    """A run with label maps over the night's images, good and broken, all on S3; and the output of the job."""
    text = succeed(
        "segment",
        environment=ray_head.environment,
        model=trained_on_s3,
        images=f"{scenes_on_s3}/night/images",
        labels=f"{scenes_on_s3}/night/labels",
        output=f"{s3}/runs",
    )
    return the_run(f"{s3}/runs"), text


def test_each_image_ends_in_exactly_one_row(s3_run, scenes):
    rows = rows_of(s3_run[0]).to_pylist()
    assert [row["image_id"] for row in rows] == sorted(path.name for path in Path(scenes, "night/images").iterdir())
    broken = {row["image_id"]: row for row in rows if row["status"] == "error"}
    assert set(broken) == {f"broken_{n}" for n in ("empty.jpg", "truncated.jpg", "text.jpg", "damaged.png", "bomb.png")}
    assert {row["error_stage"] for row in broken.values()} == {"decode"}
    assert broken["broken_empty.jpg"]["error_message"] == "the file is empty"
    assert "pixels" in broken["broken_bomb.png"]["error_message"]
    assert all(row["mask"] is None and row["width"] is None for row in broken.values())


def test_masks_are_the_networks(s3_run, scenes, trained_on_s3):
    """Against a plain loop over the files, image by image, in the test's own process."""
    model, card = bundle.load_bundle(trained_on_s3)
    segmenter = Segmenter(model, preprocessing=card.preprocessing, device=torch.device("cpu"))
    for row in rows_of(s3_run[0]).to_pylist():
        if row["status"] == "error":
            continue
        pixels = decode_image(Path(scenes, "night/images", row["image_id"]).read_bytes()).pixels
        (expected,) = segmenter([pixels])
        mask = decode_mask(row["mask"]["bytes"])
        assert mask.shape == (row["height"], row["width"]) == pixels.shape[:2]
        assert (mask == expected.labels).mean() > 0.999  # batches may round differently
        assert [row[f"px_{slug}"] for slug in card.classes.slugs] == np.bincount(mask.ravel(), minlength=6).tolist()
        assert row["mean_confidence"] == pytest.approx(expected.confidence, abs=1e-4)


def test_tables_add_up_the_masks(s3_run, scenes):
    run, text = s3_run
    total = Confusion.zeros(6)
    for row in rows_of(run).to_pylist():
        if row["status"] == "ok":
            label = Path(scenes, "night/labels", row["image_id"]).with_suffix(".png")
            truth = decode_raw_label(label.read_bytes())
            total += confusion(truth, decode_mask(row["mask"]["bytes"]), num_classes=6, ignore_index=255)
    (whole,) = read_file(run, "dataset_report/dataset_report.parquet").to_pylist()
    classes = read_file(run, "class_report/class_report.parquet").to_pylist()
    assert whole["miou"] == total.scores.miou
    assert f"mIoU {total.scores.miou:.4f}" in text
    assert [row["tp"] for row in classes] == np.diag(total.matrix).tolist()
    assert [row["gt"] for row in classes] == total.matrix.sum(axis=1).tolist()
    assert (whole["images"], whole["errors"], whole["scored_images"]) == (45, 5, 40)
    cells = read_file(run, "confusion/confusion.parquet").to_pylist()
    assert {(c["gt"], c["pred"]): c["pixels"] for c in cells} == {
        (g, p): int(total.matrix[g, p]) for g, p in zip(*np.nonzero(total.matrix), strict=True)
    }


def test_evaluate_gives_the_same_tables_without_the_network(s3_run, scenes_on_s3, tmp_path, ray_head):
    run, _ = s3_run
    labels = f"{scenes_on_s3}/night/labels"
    succeed("evaluate", environment=ray_head.environment, run=run, labels=labels, output=tmp_path / "tables")
    for name in ("class_report", "dataset_report", "confusion"):
        assert pq.read_table(tmp_path / "tables" / name).equals(read_file(run, f"{name}/{name}.parquet"))


def test_outputs_are_what_readers_expect(s3_run):
    run, _ = s3_run
    manifest = read_manifest(run)
    for place in (manifest["report"], manifest["sheet"], *manifest["tables"]):
        assert storage.exists(storage.join(run, place))
    sheet = Image.open(io.BytesIO(storage.read_bytes(storage.join(run, "sheet.png"))))
    assert sheet.width > 900
    assert b"broken_text.jpg" in storage.read_bytes(storage.join(run, "report.html"))
    schema = rows_of(run).schema
    assert schema.field("mask").nullable
    assert schema.field("mask").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"]["mask"] == {"_type": "Image"}
    described = json.loads(schema.metadata[METADATA_KEY])
    assert described["classes"]["names"] == ["sky", "grass", "road", "house", "tree", "car"]
    assert described["model_fingerprint"] == manifest["model_fingerprint"]
    assert not [f for f in storage.list_files(run) if "/attempts/" in f.path]


def test_credentials_are_nowhere_in_the_outputs(s3_run, swift):
    run, text = s3_run
    assert swift.secret_key not in text
    for file in storage.list_files(run):
        assert swift.secret_key.encode() not in storage.read_bytes(f"s3://{file.path}")


@pytest.fixture
def local_bundle(trained_on_s3, tmp_path) -> str:
    """A copy of the trained bundle on local disk."""
    for file in storage.list_files(trained_on_s3):
        name = file.path.rsplit("/", 1)[-1]
        if name == "card.json" or name.startswith("weights-"):
            storage.write_bytes(str(tmp_path / "bundle" / name), storage.read_bytes(f"s3://{file.path}"))
    return str(tmp_path / "bundle")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_killed_run_resumes_and_ends_like_an_undisturbed_one(local_bundle, scenes, tmp_path, ray_head, stack):
    """Equal byte for byte, except for the timings, which show that no finished shard was done again."""
    files = sorted(Path(scenes, "night/images").iterdir())
    is_killed = threading.Event()  # the last image comes only then, so that the run cannot end before

    def last_image(_: str) -> bytes:
        is_killed.wait()
        return files[-1].read_bytes()

    last = stack.enter_context(web_server(last_image))
    names = [*(file.name for file in files), "zz_last.jpg"]
    table = pa.table({"image_id": names, "uri": [*map(str, files), f"{last}/zz_last.jpg"]})
    pq.write_table(table, tmp_path / "images.parquet")
    options = {
        "model": local_bundle,
        "images": tmp_path / "images.parquet",
        "labels": f"{scenes}/night/labels",
        "sharding.max_images": 3,
        "scaling.actors": 1,
    }
    killed = tmp_path / "killed"

    def some_parts() -> list[Path]:
        return sorted(killed.glob("run_id=*/_run/parts/part-*.parquet"))

    kill_when(lambda: len(some_parts()) >= 2, "segment", environment=ray_head.environment, output=killed, **options)
    before = pa.concat_tables(pq.read_table(path, partitioning=None) for path in some_parts())
    assert not list(killed.glob("run_id=*/manifest.json"))
    is_killed.set()
    text = succeed("segment", environment=ray_head.environment, output=killed, **options)
    assert "resuming: " in text
    one = the_run(str(killed))
    rows = rows_of(one)
    assert rows.filter(pc.is_in(rows["image_id"], before["image_id"])).equals(before)

    undisturbed = tmp_path / "undisturbed"
    succeed("segment", environment=ray_head.environment, output=undisturbed, **options)
    other = the_run(str(undisturbed))
    assert read_manifest(one)["files"] == read_manifest(other)["files"]
    assert without_timings(one) == without_timings(other)
    for name in ("class_report", "dataset_report", "confusion"):
        place = f"{name}/{name}.parquet"
        assert Path(one, place).read_bytes() == Path(other, place).read_bytes()


def without_timings(run: str) -> bytes:
    """Return the rows of a run without their timings, as one Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(rows_of(run).drop_columns(TIMINGS), buffer)
    return buffer.getvalue()


def segment_here(**options: Any) -> str:
    """Segment with the test's process as the driver, and return the folder of the run."""
    run = segment(SegmentConfig(**options, scaling=BulkScaling(actors=1)))
    assert run is not None
    return run


def test_every_kind_of_image(local_bundle, tmp_path, ray_driver):
    """Each ends in the right mask, or in an error row that says why."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (48, 80, 3), np.uint8))
    rgb.save(folder / "plain.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("L").save(folder / "grey.png")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(folder / "grey16.png")
    rgb.crop((0, 0, 1, 1)).save(folder / "one_pixel.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.transpose(Image.Transpose.ROTATE_90).save(folder / "rotated.png", exif=exif)
    (folder / "text.png").write_text("not an image")
    (folder / "no.bytes.jpg").write_bytes(b"")
    run = segment_here(model=local_bundle, images=str(folder), output=str(tmp_path / "runs"))
    rows = {row["image_id"]: row for row in rows_of(run).to_pylist()}
    assert len(rows) == 10
    masks = {name: decode_mask(row["mask"]["bytes"]) for name, row in rows.items() if row["mask"]}
    assert {name for name, row in rows.items() if row["status"] == "error"} == {"text.png", "no.bytes.jpg"}
    assert masks["one_pixel.png"].shape == (1, 1)
    assert {masks[name].shape for name in masks if name not in ("rotated.png", "one_pixel.png")} == {(48, 80)}
    assert (masks["alpha.png"] == masks["plain.png"]).all()
    assert (masks["grey16.png"] == masks["grey.png"]).all()
    # It is stored on its side: the network gets it upright, and the mask lies on the stored pixels.
    assert (masks["rotated.png"] == np.rot90(masks["plain.png"])).all()


def test_tables_lists_and_globs_give_the_same_masks(local_bundle, scenes, tmp_path, ray_driver):
    names = [f"scene_{i:05d}.jpg" for i in (0, 1, 2)]
    files = [Path(scenes, "night/images", name) for name in names]
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in files))
    encoded = [file.read_bytes() for file in files]
    table = pa.table({"image_id": names, "image": [{"bytes": data, "path": None} for data in encoded]})
    pq.write_table(table, tmp_path / "bytes.parquet", row_group_size=2)
    pq.write_table(pa.table({"uri": [str(file) for file in files]}), tmp_path / "uris.parquet")
    inputs = [tmp_path / "list.txt", tmp_path / "bytes.parquet", tmp_path / "uris.parquet"]
    inputs.append(Path(scenes, "night/images", "scene_0000[012].jpg"))
    found = []
    for i, place in enumerate(inputs):
        run = segment_here(model=local_bundle, images=str(place), output=str(tmp_path / f"runs{i}"))
        rows = rows_of(run).to_pylist()
        assert [row["status"] for row in rows] == ["ok"] * 3
        found.append([row["mask"]["bytes"] for row in rows])
    assert all(masks == found[0] for masks in found)


def test_shards_give_the_same_masks_and_a_broken_member_costs_what_lies_behind_it(
    local_bundle, scenes, tmp_path, ray_head
):
    """A tar and a zip with label maps in folders of their names; the header of the tar's fourth image is damaged."""
    files = sorted(Path(scenes, "val/images").iterdir())
    places = [f"train-000.tar/{f.name}" for f in files[:4]] + [f"train-001.zip/{f.name}" for f in files[4:]]
    shards = tmp_path / "shards"
    shards.mkdir()
    data = bytearray(tar_of({"about.json": b"{}"} | {f.name: f.read_bytes() for f in files[:4]}))
    last = data.index(files[3].name.encode())
    data[last] ^= 1
    (shards / "train-000.tar").write_bytes(data)
    (shards / "train-001.zip").write_bytes(zip_of({f.name: f.read_bytes() for f in files[4:]}))
    for place in places:
        label = tmp_path / "labels" / place.replace(".tar/", "/").replace(".zip/", "/")
        label.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(scenes, "val/labels", label.name).with_suffix(".png"), label.with_suffix(".png"))
    options = {"model": local_bundle, "environment": ray_head.environment, "scaling__actors": 1}
    text = succeed("segment", **options, images=shards, labels=tmp_path / "labels", output=tmp_path / "runs")
    succeed("segment", **options, images=f"{scenes}/val/images", output=tmp_path / "plain")

    assert f"{shards}/train-000.tar: damaged at byte {last} (bad checksum): nothing after it is read" in text
    rows = {row["image_id"]: row for row in rows_of(the_run(str(tmp_path / "runs"))).to_pylist()}
    broken = rows.pop(f"train-000.tar#offset={last}")
    assert (broken["status"], broken["error_stage"], broken["error_class"]) == ("error", "fetch", "MemberError")
    assert f"no member begins at byte {last} of the archive" in broken["error_message"]
    del places[3]
    assert list(rows) == places
    plain = {row["image_id"]: row["mask"] for row in rows_of(the_run(str(tmp_path / "plain"))).to_pylist()}
    for place, row in rows.items():
        name = place.rsplit("/")[-1]
        assert row["mask"]["bytes"] == plain[name]["bytes"]
        assert read_image_bytes(row["uri"]) == Path(scenes, "val/images", name).read_bytes()
        assert row["label_uri"].endswith(f"labels/{place[:9]}/{Path(name).stem}.png")
        assert row["tp"] is not None
    assert storage.exists(storage.join(the_run(str(tmp_path / "runs")), "sheet.png"))


def test_the_next_night_plans_what_is_new_and_a_retry_what_failed(local_bundle, tmp_path, ray_driver):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20), "red").save(folder / name)
    (folder / "c.png").write_bytes(b"half an upload")
    options = {"model": local_bundle, "images": str(folder), "output": str(tmp_path / "runs")}
    first = segment_here(**options, run_id="night-1")
    assert read_manifest(first)["errors"] == 1
    Image.new("RGB", (20, 20), "blue").save(folder / "d.png")
    Image.new("RGB", (24, 24), "green").save(folder / "b.png")
    second = segment_here(**options, run_id="night-2", since=first)
    assert rows_of(second)["image_id"].to_pylist() == ["b.png", "d.png"]
    Image.new("RGB", (20, 20), "white").save(folder / "c.png")
    third = segment_here(**options, run_id="night-3", retry_errors=first)
    assert rows_of(third).select(["image_id", "status"]).to_pylist() == [{"image_id": "c.png", "status": "ok"}]
    fourth = segment_here(**options, run_id="night-4", retry_errors=third)
    assert rows_of(fourth).num_rows == 0
    query = f"SELECT run_id, count(*) FROM read_parquet('{tmp_path}/runs/*/images/*.parquet', hive_partitioning=true) "
    counted = duckdb.connect().execute(query + "GROUP BY run_id ORDER BY run_id").fetchall()
    assert counted == [("night-1", 3), ("night-2", 2), ("night-3", 1)]


def test_a_broken_label_map_costs_its_counts_not_the_mask(local_bundle, scenes, tmp_path, ray_driver):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(4):
        source = Path(scenes, "night")
        name = f"scene_{i:05d}"
        image = next((source / "images").glob(f"{name}.*"))
        (tmp_path / "images" / image.name).write_bytes(image.read_bytes())
        (tmp_path / "labels" / f"{name}.png").write_bytes((source / "labels" / f"{name}.png").read_bytes())
    (tmp_path / "labels" / "scene_00000.png").write_bytes(b"broken")
    Image.new("L", (3, 3)).save(tmp_path / "labels" / "scene_00001.png")
    (tmp_path / "labels" / "scene_00002.png").unlink()
    run = segment_here(
        model=local_bundle,
        images=str(tmp_path / "images"),
        labels=str(tmp_path / "labels"),
        output=str(tmp_path / "runs"),
    )
    rows = rows_of(run).to_pylist()
    assert all(row["status"] == "ok" and row["mask"] for row in rows)
    assert "not an image" in rows[0]["label_error"]
    assert "the label map is 3x3" in rows[1]["label_error"]
    assert [row["tp"] is None for row in rows] == [True, True, True, False]
    (whole,) = read_file(run, "dataset_report/dataset_report.parquet").to_pylist()
    assert (whole["scored_images"], whole["label_errors"]) == (1, 2)


def test_refused_before_any_worker_starts(local_bundle, scenes, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.yaml").write_text("names: [cat, dog]\n")
    (tmp_path / "damaged").mkdir()
    card = json.loads(Path(local_bundle, "card.json").read_text())
    (tmp_path / "damaged" / "card.json").write_text(json.dumps(card | {"architecture": 7}))
    night = f"{scenes}/night/images"
    cases = [
        ({"images": "s3://no-such-bucket-here/x"}, "no-such-bucket-here"),
        ({"images": str(tmp_path / "empty")}, "no images in"),
        ({"images": str(tmp_path / "none.txt")}, "none.txt: it does not exist"),
        ({"model": str(tmp_path / "empty")}, "is not a bundle; a bundle is the output folder of segpipe train"),
        ({"model": str(tmp_path / "damaged")}, "card.json is not valid (architecture"),
        ({"output": str(tmp_path / "file" / "below")}, "cannot write to the output"),
        ({"classes": str(tmp_path / "other.yaml")}, "does not fit the model: it has 2 classes (cat, dog"),
        ({"labels": str(tmp_path / "empty")}, "no images in"),
        ({"since": str(tmp_path / "empty")}, "empty is not a run; name the folder of a run, OUTPUT/run_id=…"),
    ]
    for changes, expected in cases:
        options: Any = {"model": local_bundle, "images": night, "output": str(tmp_path / "runs")} | changes
        with pytest.raises(UserError) as caught:
            segment(SegmentConfig(**options))
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_dry_run_prints_the_plan_and_writes_nothing(local_bundle, scenes, tmp_path, capsys):
    images, output = f"{scenes}/night/images", str(tmp_path / "runs")
    assert segment(SegmentConfig(model=local_bundle, images=images, output=output, dry_run=True)) is None
    assert "45 images" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_another_configuration_under_the_same_run_id_is_refused(local_bundle, scenes, tmp_path, ray_driver):
    images, output = f"{scenes}/val/images", str(tmp_path / "runs")
    scaling = BulkScaling(actors=1)
    config = SegmentConfig(model=local_bundle, images=images, output=output, run_id="x", scaling=scaling)
    run = segment(config)
    assert run is not None
    assert sum(map(len, read_plan(run))) == 8
    with pytest.raises(UserError, match="begun with another --dtype"):
        segment(config.model_copy(update={"dtype": "bfloat16"}))


def test_a_cluster_too_small_is_refused_at_once(local_bundle, scenes, tmp_path, ray_head):
    options = {"model": local_bundle, "images": f"{scenes}/val/images", "output": tmp_path / "runs"}
    result = run_job("segment", environment=ray_head.environment, **options, scaling__actors=40)
    assert result.returncode == 2
    assert "the run needs 41 CPUs" in result.stderr
    result = run_job("segment", environment=ray_head.environment, **options, scaling__use_gpu=True, scaling__actors=1)
    assert result.returncode == 2
    assert "needs 1 GPUs, and the cluster has 0" in result.stderr


def test_a_store_that_fails_stops_the_run_instead_of_filling_it_with_errors(local_bundle, tmp_path, ray_head):
    (tmp_path / "list.txt").write_text("".join(f"http://127.0.0.1:9/{i}.jpg\n" for i in range(5)))
    options = {"model": local_bundle, "images": tmp_path / "list.txt", "output": tmp_path / "runs"}
    result = run_job("segment", environment=ray_head.environment, **options, store__patience=2)
    assert result.returncode == 3
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "5 images are left undone: http://127.0.0.1:9/" in line
    assert "the same command goes on with it" in line
    assert not list(tmp_path.glob("runs/*/_run/parts/*"))
    succeed("segment", environment=ray_head.environment, **options, store__patience=2, store__unreadable="rows")
    (run,) = tmp_path.glob("runs/*")
    assert [row["error_stage"] for row in rows_of(str(run)).to_pylist()] == ["fetch"] * 5
