"""Data sets: images and label maps below two roots on any storage, paired by their paths (see `data.naming`)."""

import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline import faults, storage
from pipeline.data import images
from pipeline.data.classes import INVALID, Classes
from pipeline.data.formats import SUFFIXES
from pipeline.data.naming import LabelNames, proposal
from pipeline.errors import UserError
from pipeline.walk import glob_root, iter_files

_SUFFIXES = tuple(SUFFIXES)


class Sample(NamedTuple):
    """An image and its label map.

    Attributes:
        key: Path of the image below its root, without suffix.
        image: URL of the image.
        label: URL of the label map.
    """

    key: str
    image: str
    label: str


class Pairing(NamedTuple):
    """The samples of two folders.

    Attributes:
        samples: Pairs of image and label map.
        without_label: Keys of images that have no label map.
        without_image: Keys of label maps that have no image.
        advice: Options under which more images would have a label map, as a clause, "; with …".
    """

    samples: list[Sample]
    without_label: list[str]
    without_image: list[str]
    advice: str


class SampleError(ValueError):
    """A sample cannot be used; the message names the file and the reason."""


class BadLabelError(SampleError):
    """A label map contradicts its image or the class file: the data set is wrong, not just one file."""


def key_of(path: str, root: str) -> str:
    """Return the path below the root, without suffix: `root/a/b.x.jpg` -> `a/b.x`."""
    return posixpath.splitext(relative(path, root))[0]


def relative(path: str, root: str) -> str:
    """Return the path below the root, or the file name if the root is the file itself."""
    return exact_key(path, root).lstrip("/")


def exact_key(path: str, root: str) -> str:
    """Return what `relative` does, with the slashes that it may begin with: `images//a.jpg` is a key of S3."""
    return posixpath.basename(path) if path == root else path.removeprefix(root.rstrip("/") + "/")


def iter_images(url: str, *, root: str | None = None) -> Iterator[tuple[str, storage.StoredFile]]:
    """Yield the image files of a folder or glob in no particular order. Hidden files and folders are left out.

    Args:
        url: The folder or glob.
        root: Path below which names with a leading dot are hidden; the folder by default.

    Yields:
        The path of each file below the root, and the file.

    Raises:
        UserError: The place cannot be listed or holds no image.
    """
    root = root or storage.filesystem(url)[1]
    others, is_empty = 0, True
    with storage.friendly_errors(url, "cannot list"):
        for file in iter_files(url):
            key = relative(file.path, root)
            if is_image(key):
                is_empty = False
                yield key, file
            else:
                others += 1
    if is_empty:
        found = f"{others} other files" if others else "nothing; does the bucket or folder exist?"
        raise UserError(f"no images in {storage.redact(url)} (found {found})")


def is_image(key: str) -> bool:
    """Tell by its name whether a file is an image that is not hidden."""
    return key.lower().endswith(_SUFFIXES) and not is_hidden(key)


def is_hidden(key: str) -> bool:
    """Tell whether a name in a path below a root begins with a dot."""
    return key.startswith(".") or "/." in key


def pair(
    image_root: str,
    label_root: str,
    *,
    keys: Sequence[str] | None = None,
    names: LabelNames | None = None,
    group: str = "",
) -> Pairing:
    """Pair the images and the label maps of two folders, which may be the same folder, by key.

    Args:
        image_root: Folder or glob of the images.
        label_root: Folder or glob of the label maps.
        keys: Take only these keys, in this order; by default all, sorted.
        names: How the names of label maps differ; by default not at all.
        group: Group of the options for names on the command line, as in "train.", for the advice.

    Raises:
        UserError: A folder has no image file, two files have the same key, or a given key has no image.
    """
    names = names or LabelNames()
    image_urls, label_files = files_by_key(image_root), files_by_key(label_root)
    label_urls = by_image(label_files, names)
    if image_root == label_root:
        if not names.mark_labels:
            advice = proposal(image_urls, label_files, names=names, group=group)
            raise UserError(
                f"{storage.redact(image_root)} holds images and label maps; tell them apart by --{group}label-suffix "
                f"or --{group}label-prefix{advice}"
            )
        image_urls = {key: url for key, url in image_urls.items() if names.image_key(key) is None}
    # A glob of one folder and the folder itself hold the same files: none is its own label map.
    label_urls = {key: url for key, url in label_urls.items() if image_urls.get(key) != url}
    if keys is None:
        wanted = sorted(image_urls)
        extra = sorted(set(label_urls) - set(image_urls))
    else:
        missing = [key for key in keys if key not in image_urls]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(keys)} listed keys are not in {storage.redact(image_root)}, "
                f"the first: {missing[0]}"
            )
        wanted, extra = list(keys), []
    samples = [Sample(key, image_urls[key], label_urls[key]) for key in wanted if key in label_urls]
    without_label = [key for key in wanted if key not in label_urls]
    advice = ""
    if without_label:
        others = {key: url for key, url in label_files.items() if image_urls.get(key) != url}
        advice = proposal(wanted, others or label_files, names=names, group=group)
    return Pairing(samples, without_label, extra, advice)


def by_image(label_files: dict[str, str], names: LabelNames) -> dict[str, str]:
    """Return the URLs of label maps by the key of their image; `label_files` has them by their own key."""
    keyed = ((names.image_key(key), url) for key, url in label_files.items())
    return {key: url for key, url in keyed if key is not None}


def files_by_key(root_url: str) -> dict[str, str]:
    """Return the URL of every image file below a folder, or of those that a glob names, by key.

    Raises:
        UserError: There is no image file, or two files have the same key.
    """
    fs, path = storage.filesystem(root_url)
    root = glob_root(path) if glob_root(path) != path and not fs.exists(path) else path
    urls: dict[str, str] = {}
    for path, file in sorted(iter_images(root_url, root=root)):
        key = posixpath.splitext(path)[0]
        url = storage.url_of(fs, file.path)
        if key in urls:
            raise UserError(
                f"two files have the key '{key}': {urls[key]} and {url}; keep one, or name one kind by a glob: "
                f"'{storage.join(root_url, '**', '*' + posixpath.splitext(path)[1])}'"
            )
        urls[key] = url
    return urls


def read_list(url: str) -> list[str]:
    """Read the keys of a split: one on each line, with or without suffix. Blank lines and `#` comments are skipped.

    Raises:
        UserError: The list cannot be read, is empty, or names a key twice.
    """
    lines = [line.strip() for line in storage.read_text(url, noun="list").removeprefix("\ufeff").splitlines()]
    keys = [without_image_suffix(line) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"the list {storage.redact(url)} is empty")
    if len(set(keys)) != len(keys):
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"the list {storage.redact(url)} names '{repeated}' twice")
    return keys


def without_image_suffix(key: str) -> str:
    """Remove an image suffix, but no other one: `a/b.jpg` -> `a/b`, `a/b.2` -> `a/b.2`."""
    stem, suffix = posixpath.splitext(key)
    return stem if suffix.lower() in SUFFIXES else key


def read_sample(sample: Sample, classes: Classes) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Fetch and decode an image and its label map, and turn both upright.

    Returns:
        uint8 [height, width, 3] and int32 [height, width] of class indices and the ignore index.

    Raises:
        SampleError: A file is missing, unreadable or damaged.
        BadLabelError: The sizes differ, or the label map holds values that are not in the class file.
    """
    pixels, orientation = read_image(sample.image)
    raw = _read(sample.label, images.decode_raw_label)
    labels = classes.index(raw)
    if (labels == INVALID).any():
        raise BadLabelError(f"{sample.label}: {classes.explain_unknown(raw)}")
    # Label maps are drawn on the stored pixels, so the image's EXIF orientation is applied to them too.
    labels = images.to_upright(labels, orientation)
    if labels.shape != pixels.shape[:2]:
        size = "x".join(map(str, labels.shape[::-1]))
        raise BadLabelError(f"{sample.label}: {size}, but its image is {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels, np.ascontiguousarray(labels)


def read_image(url: str) -> images.DecodedImage:
    """Fetch and decode an image.

    Raises:
        SampleError: The image is missing, unreadable or damaged.
    """
    return _read(url, images.decode_image)


T = TypeVar("T")


def _read(url: str, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(storage.read_bytes(url))
    except images.ImageError as error:
        raise SampleError(f"{url}: {error}") from None
    except OSError as error:
        raise SampleError(f"{url}: {faults.explain(error)}") from None
