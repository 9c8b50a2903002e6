"""Names and keys that break programs: each is listed once with a safe id, and read as the file that it is."""

import boto3  # type: ignore[import-untyped]
import pyarrow as pa

from benchmarks.swift import SwiftServer
from pipeline.bulk.listing import list_input
from pipeline.bulk.table_input import read_encoded
from pipeline.data.image_ids import listed_id
from tests.support.hostile import write_locally
from tests.support.hostile.names import LOCAL_NAMES, S3_NAMES, names


def check(url: str, expected: dict[str, bytes]) -> None:
    rows = pa.concat_tables(list_input(url)).to_pylist()
    assert [row["image_id"] for row in rows] == sorted(expected)
    for row in rows:
        assert read_encoded(row["uri"], row["row"]) == expected[row["image_id"]], row
        assert row["bytes"] == len(expected[row["image_id"]])


def test_local_names(tmp_path):
    cases = list(names(*LOCAL_NAMES))
    write_locally(tmp_path, cases)
    check(str(tmp_path), {listed_id(case.name): case.data for case in cases})


def test_keys_of_s3(swift: SwiftServer, s3: str):
    cases = list(names(*S3_NAMES))
    bucket = swift.make_bucket("hostile-names")
    session = boto3.Session(swift.access_key, swift.secret_key, region_name="us-east-1")
    client = session.client("s3", endpoint_url=swift.endpoint)
    for case in cases:
        client.put_object(Bucket="hostile-names", Key=f"in/{case.name}", Body=case.data)
    assert max(len(f"in/{case.name}".encode()) for case in cases) == 1024
    check(f"{bucket}/in", {listed_id(case.name): case.data for case in cases})
