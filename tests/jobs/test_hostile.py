"""The hostile corpus in bulk runs: every file ends as exactly one row, right or with its reason."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

from benchmarks.swift import SwiftServer
from pipeline import storage
from pipeline.bundle import load_bundle, save_bundle
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.image_ids import listed_id
from pipeline.data.images import decode_image, decode_mask, from_upright
from pipeline.predict.segmenter import Segmenter
from tests.support.hostile import Case, local_cases, s3_cases, write_locally, write_special_files
from tests.support.hostile.bombs import MAX_PIXELS
from tests.support.jobs import succeed
from tests.support.networks import narrow
from tests.support.runs import rows_of, the_run

pytestmark = pytest.mark.timeout(600)

CLASSES = Classes(names=("sky", "grass", "road", "house"))
OPTIONS = {"max_image_pixels": MAX_PIXELS, "sharding__max_images": 48, "scaling__actors": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle with random weights, whose masks depend on the image."""
    torch.manual_seed(0)
    url = str(tmp_path_factory.mktemp("bundle"))
    card = Card(architecture="unet", options={"width": 0.125}, classes=CLASSES)
    save_bundle(url, narrow("unet", len(CLASSES)), card)
    return url


def check_rows(rows: list[dict[str, Any]], cases: list[Case], model: str) -> None:
    """Check each row against the file of its id, and masks against the network."""
    network, card = load_bundle(model)
    segmenter = Segmenter(network, preprocessing=card.preprocessing, device=torch.device("cpu"))
    by_id = {listed_id(case.name): case for case in cases}
    assert len(by_id) == len(cases)
    ids = [row["image_id"] for row in rows]
    assert ids == sorted(by_id)
    seen = set()
    for row in rows:
        case = by_id[row["image_id"]]
        if row["error_stage"] != "fetch":
            assert row["sha256"] == hashlib.sha256(case.data).hexdigest(), case.name
        if row["status"] == "error":
            assert row["error_stage"] in ("fetch", "decode"), f"{case.name!r}: {row['error_message']}"
            case.check_message(row["error_message"])
            continue
        assert not case.refused, case.name
        mask = decode_mask(row["mask"]["bytes"])
        assert mask.shape == (row["height"], row["width"])
        assert not row["mask"]["path"].startswith("/")
        if case.pixels is not None:
            decoded = decode_image(case.data)
            (expected,) = segmenter([decoded.pixels])
            labels = from_upright(expected.labels, decoded.orientation)
            assert np.mean(mask == labels) > 0.99, case.name  # batches may round differently
            seen.add(tuple(np.unique(mask)))
    assert len(seen) > 1  # the masks differ, so that one in the place of another would be noticed


def test_a_folder(model, tmp_path, ray_head):
    cases = local_cases()
    folder = tmp_path / "images"
    write_locally(folder, cases)
    special = write_special_files(folder)
    cases += [Case(name, b"", refused=message) for name, message in special.items()]
    assert len(cases) >= 600
    output = str(tmp_path / "runs")
    environment = ray_head.environment | {"HF_TOKEN": "cAnAry", "API_KEY": "cAnAry"}
    text = succeed("segment", environment=environment, model=model, images=folder, output=output, **OPTIONS)
    rows = rows_of(the_run(output)).to_pylist()
    check_rows(rows, cases, model)
    page = storage.read_text(f"{the_run(output)}/report.html", noun="report")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert not list(Path().glob("owned"))
    assert "cAnAry" not in text
    assert not any(b"cAnAry" in path.read_bytes() for path in Path(output).rglob("*.*") if path.is_file())


def test_a_bucket(model, swift: SwiftServer, s3, tmp_path, ray_head):
    cases = s3_cases()
    assert len(cases) >= 600
    bucket = "hostile"
    swift.make_bucket(bucket)
    session = boto3.Session(swift.access_key, swift.secret_key, region_name="us-east-1")
    client = session.client("s3", endpoint_url=swift.endpoint)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda case: client.put_object(Bucket=bucket, Key=f"in/{case.name}", Body=case.data), cases))
    output = f"s3://{bucket}/runs"
    text = succeed(
        "segment", environment=ray_head.environment, model=model, images=f"s3://{bucket}/in", output=output, **OPTIONS
    )
    run = the_run(output)
    check_rows(rows_of(run).to_pylist(), cases, model)
    assert swift.secret_key not in text
    for file in storage.list_files(run):
        assert swift.secret_key.encode() not in storage.read_bytes(f"s3://{file.path}")
