"""The image formats that are read: opening a file's header safely, and refusing pixels that have no reading as RGB."""

import functools
import io
import warnings
from typing import NamedTuple

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from pipeline.errors import ImageFault

# The only formats that Pillow may try. EPS, for example, would make it start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "AVIF")
HEIF_FORMATS = (*FORMATS, "HEIF")
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".jp2",
        ".j2k",
        ".ppm",
        ".pgm",
        ".pbm",
        ".avif",
        ".heic",
        ".heif",
    ]
)
MAX_PIXELS = 100_000_000

# Brands of ISO base media files with HEVC and AV1 images (ISO/IEC 23008-12, AVIF); `mif1` and `msf1` name no codec.
_HEIC_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"])
_AVIF_BRANDS = frozenset([b"avif", b"avis"])
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1  # photometric interpretations of a grey TIFF
_SIGNED, _FLOAT = 2, 3  # sample formats of a TIFF
_SAVE_IT = "save it with 8 or 16 bits per channel"


class ImageError(ImageFault):
    """The bytes are no usable image; the message gives the reason."""


def open_image(data: bytes, *, max_pixels: int, labels: bool = False) -> Image.Image:
    """Read only the header, so that a decompression bomb is refused before memory is allocated for it.

    Args:
        data: The encoded file.
        max_pixels: Images with more pixels are refused.
        labels: The file is a label map, whose pixels may be integers of 32 bits.

    Raises:
        ImageError: The file is empty, damaged, too large, or of a kind that is not read.
    """
    if not data:
        raise ImageError("the file is empty")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow has no limit per file, and refuses twice its global one
    tiff = _tiff_pixels(data)
    if tiff is not None:
        _check_tiff(tiff, labels=labels)
    brands = _brands(data)
    heic = bool(brands & _HEIC_BRANDS)
    if heic and not _register_heif():
        raise ImageError(
            "a HEIC image, which needs the package pillow-heif on every node: pip install 'segpipe[heic]'; "
            "then --retry-errors reads it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=HEIF_FORMATS if heic else FORMATS)
    except UnidentifiedImageError:
        if tiff is not None:
            raise ImageError(f"a TIFF of {tiff.samples} x {tiff.bits} bits, which is not read; {_SAVE_IT}") from None
        if brands & (_HEIC_BRANDS | _AVIF_BRANDS):
            raise ImageError("truncated or damaged header") from None
        raise ImageError("not an image, or in an unsupported format") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than the allowed {max_pixels:,} pixels (a decompression bomb?)") from None
    except Exception as error:
        raise ImageError(_too_much_metadata(error) or f"damaged header ({error})") from None
    if image.width * image.height > max_pixels:
        raise ImageError(f"{image.width}x{image.height} is more than the allowed {max_pixels:,} pixels")
    return image


def load_image(image: Image.Image) -> None:
    """Decode the pixels of an open image; of several pages or frames, those of the first.

    Raises:
        ImageError: The pixels are truncated or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …
        raise ImageError(_too_much_metadata(error) or f"truncated or damaged ({error})") from None


def _too_much_metadata(error: Exception) -> str | None:
    """Describe Pillow's error about texts or a colour profile that inflate to too many bytes; None for another one."""
    text = str(error)
    if "Decompressed data too large" in text or "memory used in text chunks" in text:
        return f"its texts or colour profile inflate to too many bytes ({text}); save it without metadata"
    return None


def _brands(data: bytes) -> frozenset[bytes]:
    """Return the brands that the header of an ISO base media file names; none for other files."""
    if data[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(data[:4]), 256)
    return frozenset([data[8:12], *(data[i : i + 4] for i in range(16, end, 4))])


@functools.cache
def _register_heif() -> bool:
    """Let Pillow read HEIC, if the optional package is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


class _TiffPixels(NamedTuple):
    """What the tags of a TIFF say about its pixels (TIFF 6.0).

    Attributes:
        bits: Largest number of bits of a sample.
        compression: Compression; 1 is none.
        photometric: Photometric interpretation.
        samples: Samples of a pixel, with alpha.
        planar: Planar configuration; 2 is separate planes.
        alphas: How many of the samples are alpha.
        kinds: Sample formats.
    """

    bits: int
    compression: int
    photometric: int
    samples: int
    planar: int
    alphas: int
    kinds: frozenset[int]


def _tiff_pixels(data: bytes) -> _TiffPixels | None:
    """Read the tags of a TIFF's first page; None for another format, or a damaged header, which Pillow describes."""
    if data[:4] not in TiffImagePlugin.PREFIXES:
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if 43 in data[2:4] else data[:8])  # 43: BigTIFF
        file = io.BytesIO(data)
        file.seek(tags.next)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags.load(file)
        return _TiffPixels(
            bits=int(max(tags.get(258, (1,)))),
            compression=int(tags.get(259, 1)),
            photometric=int(tags.get(262, 1)),
            samples=int(tags.get(277, 1)),
            planar=int(tags.get(284, 1)),
            alphas=sum(kind in (1, 2) for kind in tags.get(338, ())),
            kinds=frozenset(tags.get(339, (1,))),
        )
    except Exception:
        return None


def _check_tiff(tiff: _TiffPixels, *, labels: bool) -> None:
    """Refuse pixels that have no defined reading as colours, or that Pillow misreads.

    Raises:
        ImageError: They are such pixels; the message says what to do.
    """
    if _FLOAT in tiff.kinds:
        raise ImageError(f"floating-point pixels have no defined range; {_SAVE_IT}")
    if tiff.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and tiff.samples - tiff.alphas > 1:
        raise ImageError(f"{tiff.samples} bands, none of which is declared as a colour; save three of them as RGB")
    if tiff.planar == 2 and tiff.samples > 1 and tiff.bits == 16 and tiff.compression == 1:
        # Pillow would take their low and high bytes for pixels of 8 bits.
        raise ImageError("uncompressed 16-bit channels in separate planes are not read; save them interleaved")
    if labels:
        return
    if _SIGNED in tiff.kinds or (tiff.bits > 8 and tiff.bits != 16):
        sign = "signed " if _SIGNED in tiff.kinds else ""
        raise ImageError(f"{sign}{tiff.bits}-bit pixels are not read as colours; save it with 8 or 16 unsigned bits")
    if tiff.photometric == _WHITE_IS_ZERO and tiff.bits == 16:  # Pillow would return the negative
        raise ImageError("16-bit pixels of which 0 is white are not read; save it with 0 as black")
