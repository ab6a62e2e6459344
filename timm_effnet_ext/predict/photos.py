"""Reads photos from disk as people see them: upright, in RGB, or one line that says what is wrong with the file."""

from __future__ import annotations

import importlib.util
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from timm_effnet_ext.errors import EffNetExtError

# What Pillow's decoders raise over damaged files, beside OSError.
_DAMAGED = (SyntaxError, ValueError, RuntimeError, EOFError, IndexError, struct.error, zlib.error)

_MAX_PHOTOS = 16  # more of a folder are not read
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Photos that other packages bring, if they are installed: folder below the package, pattern.
_PACKAGED_PHOTOS = (("sklearn", "datasets/images/*.jpg"), ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"))


def read_photo(path: Path) -> Image.Image:
    """Return the first picture of a file in RGB, turned as its EXIF data says, transparent parts on white.

    Raises:
        EffNetExtError: It is missing, no picture, cut, damaged, or larger than Pillow's limit against bombs.
    """
    with _explain_errors(path), Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo)
        if upright.mode.startswith("I") or upright.mode == "F":
            upright = _in_8_bits(upright, path)
        if upright.has_transparency_data:
            page = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(page, upright.convert("RGBA"))
        return upright.convert("RGB")


def read_photos(folder: Path | None = None) -> list[Image.Image]:
    """Return the photos of a folder, or those that installed packages bring, perhaps none.

    Raises:
        EffNetExtError: No folder, none in it, or one that cannot be read.
    """
    if folder is None:
        return [read_photo(path) for path in _packaged_photos()]
    return [read_photo(path) for path in photo_files(folder)[:_MAX_PHOTOS]]


def photo_files(folder: Path) -> list[Path]:
    """Return the files of photos in a folder and those below it, in the order of their names.

    Raises:
        EffNetExtError: No folder, or none in it.
    """
    if not folder.is_dir():
        raise EffNetExtError(f"{folder}: no such folder of photos")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PHOTO_SUFFIXES and path.is_file())
    if not paths:
        raise EffNetExtError(f"{folder}: no photos ({', '.join(_PHOTO_SUFFIXES)})")
    return paths


def in_channels(pixels: np.ndarray, count: int) -> np.ndarray:
    """Return colours (…, 3) as (…, count): their mean for one channel, and repeated for more than three."""
    return pixels.mean(-1, keepdims=True) if count == 1 else pixels[..., np.arange(count) % 3]


def _in_8_bits(photo: Image.Image, path: Path) -> Image.Image:
    """Return 16-bit grey as 8-bit grey: Pillow's own conversion cuts everything above 255 instead."""
    values = np.asarray(photo)
    if photo.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise EffNetExtError(f"{path}: its values are no 8- or 16-bit grey or colour (Pillow mode {photo.mode})")
    return Image.fromarray((values / 257 + 0.5).astype(np.uint8))


def _packaged_photos() -> list[Path]:
    for package, pattern in _PACKAGED_PHOTOS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found = sorted(Path(spec.origin).parent.glob(pattern))
            if found:
                return found
    return []


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turn what Pillow raises into one line that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged metadata, and of sizes below the limit
            yield
    except UnidentifiedImageError as err:
        raise EffNetExtError(f"{path}: is no picture, or of a kind that Pillow does not read") from err
    except Image.DecompressionBombError as err:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise EffNetExtError(f"{path}: more than {limit:,} pixels. Scale it down first") from err
    except OSError as err:
        raise EffNetExtError(f"{path}: cannot be read ({err.strerror or err})") from err
    except _DAMAGED as err:
        raise EffNetExtError(f"{path}: the picture is damaged ({err})") from err
