"""How the names of label maps follow from those of their images, and a guess of it from two folders."""

import posixpath
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from pydantic import BaseModel, ConfigDict, Field

# Endings of label maps that hold class indices, the likeliest first: Cityscapes has four files for each image.
_LIKELY = ("trainids", "labelids", "label", "mask", "gt", "seg")
_SEPARATORS = "_-. "
_MOST_GUESSED = 20_000  # names from which a rule is guessed


class LabelNames(BaseModel):
    """How the names of label maps differ from those of their images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label_prefix: str = Field(
        default="",
        description="beginning that the names of label maps have beyond those of their images, as gt_ in a.jpg and "
        "gt_a.png; files without it are no label maps",
    )
    image_prefix: str = Field(
        default="",
        description="beginning of the images' names that the names of label maps lack, as image_ in image_1.jpg and "
        "mask_1.png (whose --label-prefix is mask_)",
    )
    label_suffix: str = Field(
        default="",
        description="ending that the names of label maps have beyond those of their images, as _mask in a.jpg and "
        "a_mask.png; files without it are no label maps",
    )
    image_suffix: str = Field(
        default="",
        description="ending of the images' names that the names of label maps lack, as _leftImg8bit in Cityscapes "
        "(whose --label-suffix is _gtFine_labelIds)",
    )

    def image_key(self, label_key: str) -> str | None:
        """Return the key of the image that belongs to a label map; None for a file that is no label map."""
        if not label_key.endswith(self.label_suffix):
            return None
        stem = label_key[: len(label_key) - len(self.label_suffix)] + self.image_suffix
        folder, name = _split(stem)
        if not name.startswith(self.label_prefix):
            return None
        return folder + self.image_prefix + name.removeprefix(self.label_prefix)

    @property
    def mark_labels(self) -> bool:
        """Whether the names tell label maps from images."""
        return bool(self.label_prefix or self.label_suffix)


def guess(images: Collection[str], labels: Iterable[str]) -> LabelNames | None:
    """Return the endings, or the beginnings, under which most images have a label map, or None.

    Args:
        images: Keys of images.
        labels: Keys of files in the folder of the label maps, which may be that of the images.
    """
    wanted, names = set(sorted(images)[:_MOST_GUESSED]), sorted(labels)[:_MOST_GUESSED]
    rules = list(_rules(wanted, names))
    # A beginning is the ending of the names read backwards.
    for count, rule in _rules(set(map(_backwards, wanted)), list(map(_backwards, names))):
        prefixes = LabelNames(label_prefix=rule.label_suffix[::-1], image_prefix=rule.image_suffix[::-1])
        rules.append((count, prefixes))
    return max(rules, key=lambda counted: (counted[0], _likelihood(counted[1])))[1] if rules else None


def _rules(images: set[str], labels: list[str]) -> Iterator[tuple[int, LabelNames]]:
    """Yield pairs of endings, and the number of images that have a label map under each."""
    is_one_folder = images.issuperset(labels)
    for image_suffix in ["", *_common_endings(images)]:
        stems = {key.removesuffix(image_suffix) for key in images}
        for suffix, count in Counter(_endings(stems, labels, least=int(is_one_folder))).items():
            if suffix and not any(map(str.isalpha, suffix)):
                continue  # 10 is not the label map of image 1
            if suffix != image_suffix:  # otherwise a picture would be its own label map
                yield count, LabelNames(label_suffix=suffix, image_suffix=image_suffix)


def _split(key: str) -> tuple[str, str]:
    """Return the folder of a key, with its slash, and the name."""
    start = key.rfind("/") + 1
    return key[:start], key[start:]


def _backwards(key: str) -> str:
    """Return a key with its name read backwards."""
    folder, name = _split(key)
    return folder + name[::-1]


def _endings(stems: set[str], labels: Iterable[str], *, least: int) -> Iterator[str]:
    """Yield what each label map's name has beyond the longest stem with which it begins, at least so many letters."""
    for key in labels:
        shortest = len(posixpath.dirname(key))
        longest = next((n for n in range(len(key) - least, shortest, -1) if key[:n] in stems), None)
        if longest is not None:
            yield key[longest:]


def _common_endings(keys: set[str]) -> Iterator[str]:
    """Yield the endings that all names have and that begin with a separator, the shortest first."""
    names = [posixpath.basename(key) for key in keys]
    common = min(names, key=len, default="")
    while not all(name.endswith(common) for name in names):
        common = common[1:]
    yield from (common[i:] for i in range(len(common) - 1, -1, -1) if common[i] in _SEPARATORS)


def _likelihood(rule: LabelNames) -> float:
    """Return how likely a rule is: by words such as "mask", then shorter ones, then endings before beginnings."""
    label, image = rule.label_prefix + rule.label_suffix, rule.image_prefix + rule.image_suffix
    rank = next((len(_LIKELY) - i for i, word in enumerate(_LIKELY) if word in label.lower()), 0)
    return rank - 0.001 * (len(label) + 100 * len(image)) - 0.0001 * bool(rule.label_prefix or rule.image_prefix)


def proposal(images: Collection[str], labels: Iterable[str], *, names: LabelNames, group: str = "") -> str:
    """Return a clause, "; with …", that names options under which more images have a label map; empty if none do.

    Args:
        images: Keys of the images.
        labels: Keys of all files in the folder of the label maps.
        names: The rule that was used.
        group: Group of the options on the command line, as in "train.".
    """
    wanted, labels = set(images), list(labels)
    rule = guess(wanted, labels)
    if rule is None or rule == names:
        return ""
    count = len(wanted & {rule.image_key(key) for key in labels})
    is_one_folder = wanted.issuperset(labels)
    if count <= len(wanted & {names.image_key(key) for key in labels}) and not is_one_folder:
        return ""
    if is_one_folder:
        wanted = {key for key in wanted if rule.image_key(key) is None}
    options = rule.model_dump(exclude_defaults=True)
    given = [f"--{group}{name.replace('_', '-')} {shlex.quote(value)}" for name, value in options.items()]
    return f"; with {' '.join(given)} {count:,} of {len(wanted):,} have one"
