"""Lists and tables may neither store secrets in the plan nor read the files of the workers."""

from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.bulk.listing import list_input
from pipeline.bulk.named_places import REMOTE, STRICT, Rules, protocol_of
from pipeline.errors import UserError

SECRET = "s3cr3t"


def refusal(url: str, *, rules: Rules = STRICT) -> str:
    """The one line that refuses an input; it holds no secret."""
    with pytest.raises(UserError) as error:
        list_input(url, rules=rules)
    text = str(error.value)
    assert SECRET not in text
    assert "\n" not in text
    return text


def ids(url: str, *, rules: Rules = STRICT) -> list[str]:
    return pa.concat_tables(list_input(url, rules=rules))["image_id"].to_pylist()


WITH_CREDENTIALS = [
    f"s3://AKIA:{SECRET}@bucket/a.jpg",
    f"s3://AKIA:pass/{SECRET}@bucket/a.jpg",
    f"s3://{SECRET}@bucket/a.jpg",
    f"https://user:{SECRET}@host/a.jpg",
    f"https://{SECRET}@host/a.jpg",
    f"sftp://user:{SECRET}@host/a.jpg",
    f"ftp://user:{SECRET}@host/pack.zip",
]
SIGNED = [
    f"https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=AWS4&X-Amz-Signature={SECRET}",
    f"https://b.s3.amazonaws.com/a.jpg?AWSAccessKeyId=AKIA&Signature={SECRET}",
    f"https://storage.googleapis.com/b/a.jpg?X-Goog-Signature={SECRET}",
    f"https://account.blob.core.windows.net/c/a.jpg?sv=2024&sig={SECRET}",
    f"https://d1.cloudfront.net/a.jpg?Expires=1&Key-Pair-Id={SECRET}",
    f"s3://bucket/a.jpg?X-Amz-Signature={SECRET}",
    f"az://container/a.jpg?sv=2024&sig={SECRET}",
    f"https://host/a.jpg?w=640&token={SECRET}",
]


@pytest.mark.parametrize("place", WITH_CREDENTIALS)
@pytest.mark.parametrize("rules", [STRICT, Rules(local_files=True, queries=True)])
def test_credentials_in_a_list_or_table_are_refused_by_line(tmp_path, place, rules):
    (tmp_path / "list.txt").write_text(f"# images\na.jpg\n\n{place}\n{place}x\n")
    text = refusal(str(tmp_path / "list.txt"), rules=rules)
    assert f"list.txt, line 4: {storage.redact(place)} holds a key or password" in text
    assert "give them in the environment (for S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)" in text
    pq.write_table(pa.table({"uri": ["/a.jpg", place]}), tmp_path / "t.parquet")
    assert "t.parquet, row 1 (counted from 0): " in refusal(str(tmp_path / "t.parquet"), rules=rules)
    if "jpg" in place:
        assert refusal(place.replace("a.jpg", "list.txt"), rules=rules).startswith("--images ")


@pytest.mark.parametrize("place", SIGNED)
@pytest.mark.parametrize("rules", [STRICT, Rules(local_files=True, queries=True)])
def test_signed_urls_are_refused(tmp_path, place, rules):
    (tmp_path / "list.txt").write_text(f"{place}\n")
    text = refusal(str(tmp_path / "list.txt"), rules=rules)
    assert "list.txt, line 1: " in text
    assert "is signed, and the plan of the run would store the signature; name the file by the URL of its store" in text
    pq.write_table(pa.table({"uri": [place]}), tmp_path / "t.parquet")
    assert "row 0 (counted from 0)" in refusal(str(tmp_path / "t.parquet"), rules=rules)
    assert refusal(place, rules=rules).startswith("--images ")


def test_other_queries_need_an_option(tmp_path):
    (tmp_path / "list.txt").write_text(f"https://host/a.jpg?w=640&who={SECRET}\n")
    assert "has a query (`?…`), which could be a secret" in refusal(str(tmp_path / "list.txt"))
    (table,) = list_input(str(tmp_path / "list.txt"), rules=Rules(queries=True))
    assert table["uri"].to_pylist() == [f"https://host/a.jpg?w=640&who={SECRET}"]
    assert table["image_id"].to_pylist() == ["https/host/a.jpg"]


def test_what_only_looks_like_a_secret_is_accepted(tmp_path):
    names = ["who@where.jpg", "why?.jpg", "a?b=c.jpg", "key=1.jpg", "s3://bucket/why?.jpg", "s3://bucket/a:b@c.jpg"]
    names += ["http://host:8080/a@b.jpg", "abfs://container@account/a.jpg", "sftp://user@host/a.jpg"]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    assert len(ids(str(tmp_path / "list.txt"))) == len(names)


@pytest.fixture
def elsewhere() -> str:
    """A folder on a store that is not a local disk."""
    return f"memory://{uuid4().hex}"


@pytest.mark.parametrize(
    "place",
    [
        "/etc/passwd.jpg",
        "file:///etc/passwd.jpg",
        "FILE:///etc/passwd.jpg",
        "local:///etc/passwd.jpg",
        "memory://x.jpg",
        "zip://a.jpg::file:///data/a.jpg",
        "simplecache::file:///etc/passwd.jpg",
        "x::file:///etc/passwd.jpg",
        "dir://a.jpg::/etc",
        "git:///repo:a.jpg",
        "reference://a.jpg",
        "/data/pack.tar",
    ],
)
def test_a_list_from_elsewhere_names_no_local_file(elsewhere, place, tmp_path):
    storage.write_bytes(f"{elsewhere}/list.txt", f"s3://bucket/b.jpg\n{place}\n".encode())
    text = refusal(f"{elsewhere}/list.txt")
    assert f"list.txt, line 2: {place} is not on a remote store" in text
    assert "--allow-local-files" in text
    pq.write_table(pa.table({"uri": ["s3://bucket/b.jpg", place]}), tmp_path / "t.parquet")
    storage.write_bytes(f"{elsewhere}/t.parquet", (tmp_path / "t.parquet").read_bytes())
    assert f"row 1 (counted from 0): {place} is not" in refusal(f"{elsewhere}/t.parquet")
    if not place.endswith(".tar"):
        assert len(ids(f"{elsewhere}/list.txt", rules=Rules(local_files=True))) == 2
        (tmp_path / "list.txt").write_text(f"{place}\n")
        assert len(ids(str(tmp_path / "list.txt"))) == 1


def test_a_list_from_elsewhere_names_its_own_store_and_others(tmp_path):
    places = ["s3://bucket/a.jpg", "https://host/a.jpg", "gs://bucket/a.jpg", "abfs://c@account/a.jpg"]
    assert {protocol_of(place) for place in places} <= REMOTE


def test_relative_keys_of_a_list_on_s3_stay_on_s3(s3):
    folder = f"{s3}/{uuid4().hex}"
    storage.write_bytes(f"{folder}/list.txt", b"a.jpg\n../b.jpg\nsub/x::y.jpg\n")
    (table,) = list_input(f"{folder}/list.txt")
    assert table["image_id"].to_pylist() == ["a.jpg", "b.jpg", "sub/x::y.jpg"]
    assert all(uri.startswith(f"{folder}/") for uri in table["uri"].to_pylist())
    storage.write_bytes(f"{folder}/list.txt", b"a.jpg\n/etc/passwd.jpg\n")
    assert "line 2: /etc/passwd.jpg is not on a remote store" in refusal(f"{folder}/list.txt")
