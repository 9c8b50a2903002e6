"""Archives as the input of a bulk run: which are found, the ids and names of their images, and fetching these."""

import gzip
import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import storage
from pipeline.bulk.archives.archive import split_member_uri, truth_key
from pipeline.bulk.fetch import Fetching, fetch_images, read_tables
from pipeline.bulk.listing import InputImage, list_input
from pipeline.bulk.planned_image import Source
from pipeline.bulk.table_input import NO_ROW, read_encoded, read_image_bytes, row_uri
from pipeline.data.images import decode_image
from pipeline.errors import UserError
from pipeline.get_s3 import get
from tests.support.archives import tar_of, zip_of


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def listed(url: object) -> list[InputImage]:
    return [InputImage(**row) for table in list_input(str(url)) for row in table.to_pylist()]


def ids(url: object) -> list[str]:
    return [image.image_id for image in listed(url)]


@pytest.fixture
def shards(tmp_path):
    """Three tars of two images each, named as WebDataset names them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        members = {f"{2 * number + i:04}.{suffix}": png(2 * number + i) for i in range(2) for suffix in ("png", "cls")}
        (folder / f"train-{number:03}.tar").write_bytes(tar_of(members))
    return folder


ALL = [f"train-{i // 2:03}.tar/{i:04}.png" for i in range(6)]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", ALL),
        ("/*.tar", ALL),
        ("/train-00[02].tar", ALL[:2] + ALL[4:]),
        ("/train-{000..002}.tar", ALL),
        ("/train-{001..001}.tar", ALL[2:4]),
        ("/train-0{00..01}.tar", ALL[:4]),
        ("/train-{0..0}{0..0}{1..2}.tar", ALL[2:]),
        ("/train-001.tar", ALL[2:4]),
    ],
)
def test_archives_are_named_by_a_folder_a_glob_numbers_or_alone(shards, url, expected):
    assert ids(f"{shards}{url}") == expected


def test_a_list_may_name_archives_beside_images(shards):
    (shards / "list.txt").write_text(f"train-001.tar\nsome/file.jpg\n{shards}/train-000.tar\n")
    absolute = [f"{shards}/{name}".lstrip("/") for name in ALL[:2]]
    assert ids(shards / "list.txt") == sorted(["some/file.jpg", *ALL[2:4], *absolute])


def test_a_missing_number_is_refused(shards):
    with pytest.raises(UserError, match=r"train-\{002\.\.004\}\.tar: 2 of 3 are missing, first: .*train-003\.tar$"):
        listed(f"{shards}/train-{{002..004}}.tar")


def test_archives_beside_images_are_left_out(shards):
    (shards / "sub").mkdir()
    (shards / "sub" / "a.png").write_bytes(png(0))
    assert ids(shards) == ["sub/a.png"]


def test_hidden_archives_are_left_out(shards):
    (shards / ".trash").mkdir()
    (shards / ".trash" / "x.tar").write_bytes(tar_of({"a.png": b"1"}))
    (shards / "._train-000.tar").write_bytes(b"resource fork")
    assert ids(shards) == ALL


def test_archives_in_folders_and_of_both_kinds_are_ordered_by_id(tmp_path):
    for name in ("b.zip", "a/c.TAR", "a.tar", "a.tar-old.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((zip_of if name.endswith("zip") else tar_of)({"y/1.png": b"1", "x.png": b"2"}))
    keys = ("a.tar-old.tar", "a.tar", "a/c.TAR", "b.zip")
    assert ids(tmp_path) == [f"{key}/{name}" for key in keys for name in ("x.png", "y/1.png")]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.TGZ", "x.tar.zst", "x.tar"])
def test_a_compressed_tar_is_refused(shards, name):
    (shards / name).write_bytes(gzip.compress(tar_of({"a.png": b"1"})))
    with pytest.raises(UserError, match=f"{name} is a compressed tar, .*: decompress it") as error:
        listed(shards)
    assert "\n" not in str(error.value)


def test_archives_without_images_are_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of({"a.txt": b"1"}))
    with pytest.raises(UserError, match=r"no images in .* \(found 1 archives\)"):
        listed(tmp_path)


def test_an_archive_that_vanished_is_a_row_that_fails(shards):
    (shards / "train-001.tar").unlink()
    (shards / "train-001.tar").symlink_to("nowhere.tar")
    images = listed(shards)
    assert [image.image_id for image in images] == [*ALL[:2], "train-001.tar#offset=0", *ALL[4:]]
    with pytest.raises(FileNotFoundError):
        read_encoded(images[2].uri, images[2].row, images[2].bytes)


def test_something_unusual_about_an_archive_is_told_in_a_line(shards, capsys):
    with (shards / "train-001.tar").open("rb+") as file:
        file.truncate(2000)
    listed(shards)
    assert capsys.readouterr().out == f"{shards}/train-001.tar: has no end mark: is it truncated?\n"


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_name_of_an_image_finds_its_bytes_again(tmp_path, kind):
    members = {"a.png": png(1), "deep/b#1&c.png": png(2)}
    url = str(tmp_path / f"x #1.{kind}")
    storage.write_bytes(url, (tar_of if kind == "tar" else zip_of)(members))
    for image in listed(url):
        data = members[image.image_id.removeprefix(f"x #1.{kind}/")]
        assert read_encoded(image.uri, image.row, image.bytes) == data
        name = row_uri(image.uri, image.row, image.bytes)
        assert name == f"{url}#offset={image.row}&size={image.bytes}"
        assert split_member_uri(name) == (url, image.row, image.bytes)
        assert read_image_bytes(name) == data


@pytest.mark.parametrize(
    "uri", ["s3://b/a.tar", "s3://b/t.parquet#row=3", "/a.jpg#offset=1&size=2", "/a.tar#offset=x&size=2"]
)
def test_other_names_are_no_members(uri):
    assert split_member_uri(uri) is None


FETCHING = Fetching(Source("", 0), prepare=lambda pixels: pixels, keep_pixels=True, max_pixels=1000)


def fetch(url: object) -> list:
    with ThreadPoolExecutor(4) as pool:
        wanted = read_tables([image._asdict() | {"truth": None} for image in listed(url)])
        return fetch_images(wanted, pool, FETCHING)


def test_images_are_fetched_and_decoded_from_archives(shards):
    assert [fetched.pixels[0, 0, 0] for fetched in fetch(shards)] == list(range(6))


@pytest.mark.parametrize(("cut", "place"), [(2100, 2048), (1030, 1024)], ids=["an image's header", "another file"])
def test_a_truncated_archive_costs_the_images_that_it_lacks(shards, cut, place):
    with (shards / "train-002.tar").open("rb+") as file:
        file.truncate(cut)
    fetched = fetch(shards)
    damaged = fetched.pop(4)  # its id, train-002.tar#offset=…, precedes those of the archive's images
    assert [f.failure for f in fetched] == [None] * 5
    assert damaged.failure.message == (
        f"no member begins at byte {place} of the archive: it is damaged, or has changed since it was listed"
    )


def test_an_archive_whose_images_all_fail_does_not_end_the_run(tmp_path):
    data = bytearray(zip_of({f"{i}.png": png(i) for i in range(8)}))
    for place in [i for i in range(len(data)) if data[i : i + 4] == b"PK\x03\x04"]:
        data[place + 6] |= 1
    (tmp_path / "photos.zip").write_bytes(data)
    fetched = fetch(tmp_path / "photos.zip")
    assert [(f.failure.stage, f.failure.error_class) for f in fetched] == [("fetch", "MemberError")] * 8
    assert "encrypted" in fetched[0].failure.message


def test_hugging_face_rows_with_a_path_alone_are_errors_of_their_images(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": None, "path": f"photos/{i}.jpg"} for i in range(5)] + [{"bytes": None, "path": None}, None]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "t.parquet")
    fetched = fetch(tmp_path / "t.parquet")
    assert [(f.failure.stage, f.failure.error_class) for f in fetched] == [("fetch", "ImageError")] * 7
    assert fetched[3].failure.message == (
        "the row holds the path 'photos/3.jpg' but no bytes: store the images in the table, or their URLs in a column "
        "'uri' in place of this one"
    )
    assert {f.failure.message for f in fetched[5:]} == {"the row holds no bytes"}


def test_good_hugging_face_rows_beside_others_are_images(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": png(7), "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "t.parquet")
    good, bad = fetch(tmp_path / "t.parquet")
    assert good.pixels[0, 0, 0] == 7
    assert bad.failure is not None


@pytest.mark.parametrize(
    ("image_id", "known", "key"),
    [
        ("a/b.jpg", {"a/b"}, "a/b"),
        ("train-000.tar/b.jpg", {"train-000/b"}, "train-000/b"),
        ("train-000.tar/b.jpg", {"train-000.tar/b", "train-000/b"}, "train-000.tar/b"),
        ("x/train.ZIP/deep/b.jpg", {"x/train/deep/b"}, "x/train/deep/b"),
        ("a.tar/b.zip/c.jpg", {"a/b.zip/c"}, "a/b.zip/c"),
    ],
)
def test_ground_truth_lies_in_a_folder_named_as_the_archive(image_id, known, key):
    assert truth_key(image_id, known) == key


# --- on S3


@pytest.fixture(scope="module")
def on_s3(s3) -> tuple[str, dict[str, bytes]]:
    """A folder with a tar and a zip of 30 noise images on S3; and these, by id."""
    noise = np.random.default_rng(0)
    members = {f"{i:03}.png": noise.bytes(int(noise.integers(1, 60_000))) for i in range(30)}
    folder = f"{s3}/{uuid4().hex}"
    storage.write_bytes(f"{folder}/a.tar", tar_of(members))
    storage.write_bytes(f"{folder}/b.zip", zip_of(members))
    return folder, {f"{key}/{name}": data for key in ("a.tar", "b.zip") for name, data in members.items()}


def test_images_in_archives_on_s3_are_read_by_one_range_request_each(on_s3, monkeypatch):
    folder, expected = on_s3
    images = listed(folder)
    assert all(image.etag and image.row != NO_ROW for image in images)
    requests = []

    def counting(fs, path, start, end):
        requests.append((start, end))
        return get(fs, path, start, end)

    monkeypatch.setattr("pipeline.get_s3.get", counting)
    found = {image.image_id: read_encoded(image.uri, image.row, image.bytes) for image in images}
    assert found == expected
    for (start, end), image in zip(requests, images, strict=True):
        assert start == image.row
        assert end - start <= image.bytes + 2000


def test_a_truncated_archive_on_s3_gives_the_images_before_the_cut(on_s3):
    folder, expected = on_s3
    data = storage.read_bytes(f"{folder}/a.tar")
    sizes = itertools.accumulate(512 + -(-len(one) // 512) * 512 for one in list(expected.values())[:30])
    for cut in (list(sizes)[9] + 700, 0):  # within the data of the eleventh image, and all
        url = f"{folder}-{cut}.tar"
        storage.write_bytes(url, data[:cut])
        images = listed(url)
        assert len(images) == (11 if cut else 1)
        for image in images[:-1]:
            name = image.image_id.rsplit("/")[-1]
            assert read_encoded(image.uri, image.row, image.bytes) == expected[f"a.tar/{name}"]
        with pytest.raises(ValueError, match=r"of the archive|the archive ends"):
            read_encoded(images[-1].uri, images[-1].row, images[-1].bytes)


def test_a_missing_archive_on_s3_is_told(s3):
    with pytest.raises(UserError, match=r"no images in .*none\.tar"):
        listed(f"{s3}/none.tar")


def test_decoding_takes_what_is_read(shards):
    image = listed(shards)[5]
    assert decode_image(read_encoded(image.uri, image.row, image.bytes)).pixels.tolist() == [[[5, 0, 0]] * 4] * 3
