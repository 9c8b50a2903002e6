"""Pairing images and label maps, lists of keys, and reading samples, on local disk and in memory."""

import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.data import datasets
from pipeline.data.classes import Classes
from pipeline.data.datasets import BadLabelError, Sample, SampleError
from pipeline.data.images import from_upright, pack_rgb
from pipeline.errors import UserError

CLASSES = Classes(names=("a", "b", "c"), colours=((0, 0, 0), (128, 0, 0), (0, 128, 0)))
_counter = itertools.count()


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty folder in each store."""
    return str(tmp_path / "data") if request.param == "local" else f"memory://datasets-{next(_counter)}/data"


def put(root: str, *names: str) -> None:
    for name in names:
        storage.write_bytes(storage.join(root, name), b"x")


def encode(pixels: np.ndarray, kind: str = "PNG", *, orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def put_sample(root: str, image: bytes, label: bytes, *, suffix: str = "png") -> Sample:
    sample = Sample("s", storage.join(root, f"images/s.{suffix}"), storage.join(root, f"labels/s.{suffix}"))
    storage.write_bytes(sample.image, image)
    storage.write_bytes(sample.label, label)
    return sample


# --- pairing


def test_images_and_labels_pair_by_path_without_suffix(root: str) -> None:
    put(root, "images/a.jpg", "images/deep/er/b.tif", "images/deep/a.png", "images/only.jpg")
    put(root, "labels/a.png", "labels/deep/er/b.png", "labels/deep/a.png", "labels/alone.png")

    pairing = datasets.pair(storage.join(root, "images"), storage.join(root, "labels"))

    assert [sample.key for sample in pairing.samples] == ["a", "deep/a", "deep/er/b"]
    assert pairing.without_label == ["only"]
    assert pairing.without_image == ["alone"]
    for sample in pairing.samples:
        assert storage.exists(sample.image)
        assert storage.exists(sample.label)
        assert re.search(rf"/images/{sample.key}\.\w+$", sample.image)
        assert re.search(rf"/labels/{sample.key}\.png$", sample.label)


def test_a_trailing_slash_makes_no_difference(root: str) -> None:
    put(root, "images/x/a.jpg", "labels/x/a.png")
    plain = datasets.pair(storage.join(root, "images"), storage.join(root, "labels"))
    assert plain == datasets.pair(storage.join(root, "images") + "/", storage.join(root, "labels") + "/")
    assert [sample.key for sample in plain.samples] == ["x/a"]


def test_samples_are_ordered_by_key(root: str) -> None:
    put(root, "images/a.png", "images/a-b.png", "images/a/c.png", "labels/a.png", "labels/a-b.png", "labels/a/c.png")
    keys = [s.key for s in datasets.pair(storage.join(root, "images"), storage.join(root, "labels")).samples]
    assert keys == sorted(keys) == ["a", "a-b", "a/c"]


def test_only_the_last_suffix_is_removed(root: str) -> None:
    put(root, "images/a.b.jpg", "images/a.c.jpg", "images/2026.01.02/x.y.z.png", "images/v1.0.png.jpg")
    assert sorted(datasets.files_by_key(storage.join(root, "images"))) == ["2026.01.02/x.y.z", "a.b", "a.c", "v1.0.png"]


def test_suffixes_are_recognised_in_either_case(root: str) -> None:
    put(root, "images/a.JPG", "images/b.Jpeg", "images/c.TIFF", "labels/a.PNG", "labels/b.png", "labels/c.Png")
    pairing = datasets.pair(storage.join(root, "images"), storage.join(root, "labels"))
    assert [sample.key for sample in pairing.samples] == ["a", "b", "c"]


def test_hidden_files_and_other_files_are_left_out(root: str) -> None:
    put(root, "images/a.png", "images/.b.png", "images/.thumbs/c.png", "images/x/.y/d.png", "images/._a.png")
    put(root, "images/notes.txt", "images/png", "images/archive.zip", "images/d.png.part")
    assert list(datasets.files_by_key(storage.join(root, "images"))) == ["a"]


def test_images_below_a_hidden_root_are_listed(root: str) -> None:
    put(root, ".cache/images/a.png")
    assert list(datasets.files_by_key(storage.join(root, ".cache/images"))) == ["a"]
    path = storage.filesystem(storage.join(root, ".cache/images"))[1]
    assert len(list(datasets.iter_images(storage.join(root, ".cache/images/*.png"), root=path))) == 1


@pytest.mark.parametrize("second", ["a.png", "a.JPG", "a.jpeg"])
def test_two_files_with_the_same_key_are_refused(root: str, second: str) -> None:
    put(root, "images/a.jpg", f"images/{second}")
    with pytest.raises(UserError, match="two files have the key 'a'") as caught:
        datasets.files_by_key(storage.join(root, "images"))
    assert "images/a.jpg" in str(caught.value)
    assert f"images/{second}" in str(caught.value)


def test_files_of_the_same_name_in_two_folders_have_different_keys(root: str) -> None:
    put(root, "images/x/a.jpg", "images/y/a.jpg")
    assert list(datasets.files_by_key(storage.join(root, "images"))) == ["x/a", "y/a"]


def test_an_empty_or_missing_folder_is_refused(root: str) -> None:
    with pytest.raises(UserError, match=r"no images in .*images .found nothing; does the bucket or folder exist"):
        datasets.files_by_key(storage.join(root, "images"))
    put(root, "images/readme.txt", "images/labels.csv")
    with pytest.raises(UserError, match="found 2 other files"):
        datasets.files_by_key(storage.join(root, "images"))


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UserError, match="nosuch://x: cannot open 'nosuch://' URLs"):
        next(datasets.iter_images("nosuch://x"))


# --- lists


def test_given_keys_are_paired_in_their_order(root: str) -> None:
    put(root, "images/a.jpg", "images/b.jpg", "images/c.jpg", "labels/a.png", "labels/b.png", "labels/alone.png")
    put(root, "images/d.jpg", "labels/d.png")
    pairing = datasets.pair(storage.join(root, "images"), storage.join(root, "labels"), keys=["d", "c", "b"])
    assert [sample.key for sample in pairing.samples] == ["d", "b"]
    assert pairing.without_label == ["c"]
    assert pairing.without_image == []  # label maps of other keys do not matter


def test_a_given_key_without_image_is_refused(root: str) -> None:
    put(root, "images/a.jpg", "labels/a.png")
    with pytest.raises(UserError, match=r"2 of 3 listed keys are not in .*images, the first: x"):
        datasets.pair(storage.join(root, "images"), storage.join(root, "labels"), keys=["a", "x", "y"])


@pytest.mark.parametrize(
    "text",
    [
        "a\ndeep/b\nx.y\n",
        "a.jpg\ndeep/b.PNG\nx.y.tif\n",
        "# train split\n\n  a \r\ndeep/b.jpeg\r\n\r\nx.y",
        "\ufeffa\ndeep/b\nx.y\n",
    ],
    ids=["keys", "file names", "comments and blanks", "byte order mark"],
)
def test_lists_name_keys_with_or_without_suffix(root: str, text: str) -> None:
    url = storage.join(root, "list.txt")
    storage.write_bytes(url, text.encode())
    assert datasets.read_list(url) == ["a", "deep/b", "x.y"]


@pytest.mark.parametrize(
    ("text", "message"), [("", "is empty"), ("# nothing\n\n", "is empty"), ("a\nb\na.png\n", "names 'a' twice")]
)
def test_empty_lists_and_repeated_keys_are_refused(root: str, text: str, message: str) -> None:
    url = storage.join(root, "list.txt")
    storage.write_bytes(url, text.encode())
    with pytest.raises(UserError, match=message) as caught:
        datasets.read_list(url)
    assert url in str(caught.value)


def test_a_missing_list_is_named(root: str) -> None:
    with pytest.raises(UserError, match=r"cannot read the list .*list.txt: it does not exist"):
        datasets.read_list(storage.join(root, "list.txt"))


# --- samples


def test_a_sample_has_pixels_and_class_indices(root: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).choice([0, 1, 2, 255], (4, 6)).astype(np.uint8)
    got_pixels, got_labels = datasets.read_sample(put_sample(root, encode(pixels), encode(labels)), CLASSES)
    np.testing.assert_array_equal(got_pixels, pixels)
    np.testing.assert_array_equal(got_labels, labels)
    assert got_labels.dtype == np.int32


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_labels_are_turned_upright_with_their_image(tmp_path: Path, kind: str, orientation: int) -> None:
    upright_labels = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(np.uint8)
    upright_pixels = np.array(CLASSES.colours, np.uint8)[upright_labels]
    sample = put_sample(
        str(tmp_path),
        encode(from_upright(upright_pixels, orientation), kind, orientation=orientation),
        encode(from_upright(upright_labels, orientation)),
    )
    pixels, labels = datasets.read_sample(sample, CLASSES)
    np.testing.assert_array_equal(pixels, upright_pixels)
    np.testing.assert_array_equal(labels, upright_labels)
    assert labels.flags.c_contiguous


def test_colour_labels_are_mapped_by_the_colours_of_the_classes(root: str) -> None:
    labels = np.array([[0, 1, 2], [2, 1, 0]])
    image, label = encode(np.zeros((2, 3, 3), np.uint8)), encode(np.array(CLASSES.colours, np.uint8)[labels])
    np.testing.assert_array_equal(datasets.read_sample(put_sample(root, image, label), CLASSES)[1], labels)


def test_a_label_map_of_another_size_is_refused(root: str) -> None:
    sample = put_sample(root, encode(np.zeros((4, 6, 3), np.uint8)), encode(np.zeros((6, 4), np.uint8)))
    with pytest.raises(BadLabelError, match=r"labels/s.png: 4x6, but its image is 6x4"):
        datasets.read_sample(sample, CLASSES)


@pytest.mark.parametrize(
    ("label", "listed"),
    [
        (np.array([[0, 1, 2], [3, 3, 200]], np.uint8), "3 (2 pixels), 200 (1 pixels)"),
        (np.array([[0, 1, 2], [255, 256, 0]], np.uint16), "256 (1 pixels)"),
        (np.array([[[0, 0, 0]] * 3, [[128, 0, 0], [1, 2, 3], [1, 2, 3]]], np.uint8), "#010203 (2 pixels)"),
        (np.array([[0, 0, 0], [1, 2, 70_000]], np.int32), "70000 (1 pixels)"),
        (np.array([[0, 0, 0], [1, 2, -70_000]], np.int32), "-70000 (1 pixels)"),
    ],
    ids=["8-bit", "16-bit", "colours", "32-bit", "negative"],
)
def test_values_outside_the_classes_are_listed(root: str, label: np.ndarray, listed: str) -> None:
    kind = "TIFF" if label.dtype == np.int32 else "PNG"
    sample = put_sample(root, encode(np.zeros((2, 3, 3), np.uint8)), encode(label, kind), suffix=kind.lower())
    with pytest.raises(BadLabelError) as caught:
        datasets.read_sample(sample, CLASSES)
    assert str(caught.value).startswith(f"{sample.label}: values outside the classes: {listed}. ")


def test_32_bit_values_are_not_mistaken_for_colours(root: str) -> None:
    packed = int(pack_rgb(np.array(CLASSES.colours[1])))
    label = encode(np.array([[0, packed]], np.int32), "TIFF")
    sample = put_sample(root, encode(np.zeros((1, 2, 3), np.uint8)), label, suffix="tiff")
    with pytest.raises(SampleError, match=r"labels/s.tiff"):
        datasets.read_sample(sample, CLASSES)


@pytest.mark.parametrize("broken", ["image", "label"])
@pytest.mark.parametrize(("data", "message"), [(b"", "empty"), (b"text", "not an image"), (None, "does not exist")])
def test_an_unusable_file_is_named(root: str, broken: str, data: bytes | None, message: str) -> None:
    good = encode(np.zeros((2, 2, 3), np.uint8)), encode(np.zeros((2, 2), np.uint8))
    sample = put_sample(root, *good)
    url = getattr(sample, broken)
    if data is None:
        storage.remove(url)
    else:
        storage.write_bytes(url, data)
    with pytest.raises(SampleError, match=re.escape(url) + ".*" + message) as caught:
        datasets.read_sample(sample, CLASSES)
    assert not isinstance(caught.value, BadLabelError)  # only inconsistent label maps raise it


def test_a_truncated_image_is_named(root: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    sample = put_sample(root, encode(pixels)[:2000], encode(np.zeros((40, 40), np.uint8)))
    with pytest.raises(SampleError, match=r"images/s.png: truncated or damaged"):
        datasets.read_sample(sample, CLASSES)
