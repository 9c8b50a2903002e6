"""Run-length encodings of masks: those of COCO, CVAT and Label Studio, written from the formats.

COCO's is defined by `maskApi.c` of pycocotools, which the tests read it back with. It is written here because its C
extension is a dependency that the exports would need for thirty lines.
"""

import numpy as np
from numpy.typing import NDArray

# Label Studio: an array of bytes with these numbers of bits for the length of a run.
_LENGTH_BITS = (3, 4, 8, 16)
_WORD_BITS = 8


def run_lengths(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths of runs of equal values; the first run is of zeros, and may be empty."""
    starts = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], starts, [flat.size]]))
    return np.concatenate([[0], lengths]) if flat.size and flat[0] else lengths


def coco_counts(mask: NDArray[np.bool_]) -> str:
    """Return COCO's compressed run lengths of a mask [height, width], which it reads column by column.

    From the fourth on, a length is stored as its difference to the one before the last. A number is written in groups
    of 5 bits, the lowest first; bit 5 says that another group follows, and 48 is added.
    """
    lengths = run_lengths(mask.ravel(order="F")).tolist()
    text = bytearray()
    for i, length in enumerate(lengths):
        value = length - lengths[i - 2] if i > 2 else length
        while True:
            group = value & 0x1F
            value >>= 5
            is_last = value == (-1 if group & 0x10 else 0)
            text.append(48 + (group if is_last else group | 0x20))
            if is_last:
                break
    return text.decode()


def cvat_runs(mask: NDArray[np.bool_]) -> str:
    """Return CVAT's run lengths of a mask [height, width] in its bounding box, row by row."""
    return ", ".join(map(str, run_lengths(mask.ravel())))


def label_studio_bytes(mask: NDArray[np.bool_]) -> list[int]:
    """Return Label Studio's run-length encoding of a mask [height, width] as an RGBA image whose four bytes are equal.

    The header has the number of bytes (32 bits), the size of a word minus 1 (5 bits) and the four sizes of a length
    minus 1 (4 bits each). A run is a 1, the index of the size of its length (2 bits), its length minus 1, and the word.
    """
    lengths = run_lengths(mask.ravel()) * 4
    bits = [f"{mask.size * 4:032b}", f"{_WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTH_BITS)]
    longest = 1 << _LENGTH_BITS[-1]
    for i, length in enumerate(lengths.tolist()):
        word = "11111111" if i % 2 else "00000000"
        while length > 0:
            run = min(length, longest)
            index = next(k for k, size in enumerate(_LENGTH_BITS) if run <= 1 << size)
            bits.append(f"1{index:02b}{run - 1:0{_LENGTH_BITS[index]}b}{word}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
