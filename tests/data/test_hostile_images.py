"""The hostile corpus, decoded in a process whose memory is bounded and measured: known pixels, or a clear refusal."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.images import DecodedImage, ImageError
from tests.support.hostile import contents
from tests.support.hostile.bombs import MAX_PIXELS
from tests.support.hostile.case import Case
from tests.support.jobs import REPO

# Peak memory beyond the encoded file: bytes for each pixel of the result, a constant, and Pillow's limit for the texts
# of a PNG.
BYTES_PER_PIXEL = 7.6
MORE = {".webp": 16.0, ".jp2": 21.0}  # of formats whose libraries need more
CONSTANT = 16 * 2**20
TEXTS = 64 * 2**20
ADDRESS_SPACE = 2 * 2**30  # beyond what the process has before: an allocation that is never touched fails, too

# Decodes pickled files one after the other. argv: their folder, the largest number of pixels, the limit of the memory.
DECODE = """
import faulthandler, json, pickle, resource, sys
from pathlib import Path
from pipeline.data.images import ImageError, decode_image

def status(field):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])

faulthandler.enable()
folder, max_pixels, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
size = status("VmSize") + limit
resource.setrlimit(resource.RLIMIT_AS, (size, size))
for place in sorted(folder.glob("*.in")):
    data = place.read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    try:
        result = decode_image(data, max_pixels=max_pixels)
    except ImageError as error:
        result = error
    peak = status("VmHWM") - before
    place.with_suffix(".out").write_bytes(pickle.dumps((peak, result), protocol=5))
    del result
print(json.dumps("done"))
"""


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    found = list(contents(large=True))
    assert len({case.name for case in found}) == len(found) >= 500
    return found


@pytest.fixture(scope="module")
def decoded(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, DecodedImage | ImageError]]:
    """The peak memory of decoding each file, and what became of it."""
    folder = tmp_path_factory.mktemp("hostile")
    for i, case in enumerate(cases):
        (folder / f"{i:04d}.in").write_bytes(case.data)
    command = [sys.executable, "-c", DECODE, str(folder), str(MAX_PIXELS), str(ADDRESS_SPACE)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout) == "done"
    return [pickle.loads(Path(folder, f"{i:04d}.out").read_bytes()) for i in range(len(cases))]


def test_every_file_has_its_pixels_or_is_refused_with_a_reason(cases, decoded):
    for case, (_, result) in zip(cases, decoded, strict=True):
        if isinstance(result, ImageError):
            case.check_message(str(result))
        else:
            case.check_pixels(result.pixels)
    refused = sum(isinstance(result, ImageError) for _, result in decoded)
    assert 200 < refused < len(cases) - 200  # neither is the rule


def test_the_memory_of_each_file_is_bounded_by_its_pixels(cases, decoded):
    for case, (peak, result) in zip(cases, decoded, strict=True):
        if isinstance(result, ImageError):  # it may have been decoded before its damage showed
            pixels = 0 if "more than the allowed" in str(result) else MAX_PIXELS
        else:
            pixels = result.pixels.size // 3
        each = MORE.get(Path(case.name).suffix, BYTES_PER_PIXEL)
        texts = TEXTS if case.name.endswith(("zTXt_many.png", "iTXt_many.png")) else 0
        assert peak <= each * pixels + CONSTANT + texts, f"{case.name}: {peak / 2**20:.0f} MiB for {pixels} pixels"
