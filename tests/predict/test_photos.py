"""photos.py reads what people call a photo as they see it, and says what is wrong with anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.predict.photos import photo_files, read_photo, read_photos


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    """Return a smooth RGB picture, dark on the left."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, x / 2 + y / 2, x], 2).astype(np.uint8))


def values(photo: Image.Image) -> np.ndarray:
    return np.asarray(photo, dtype=int)


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    # JPEG rounds, and CMYK goes there and back; a palette of 216 colours is 51 apart.
    [("RGB", ".png", 0), ("RGBA", ".png", 0), ("RGB", ".jpg", 12), ("CMYK", ".jpg", 12), ("P", ".gif", 52)],
)
def test_every_colour_mode_gives_the_same_rgb(mode: str, suffix: str, tolerance: int, tmp_path: Path) -> None:
    gradient().convert(mode).save(tmp_path / f"x{suffix}")
    photo = read_photo(tmp_path / f"x{suffix}")
    assert photo.mode == "RGB"
    assert np.abs(values(photo) - values(gradient())).max() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_and_not_cut(suffix: str, tmp_path: Path) -> None:
    grey = gradient().convert("L")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / f"x{suffix}")
    assert (values(read_photo(tmp_path / f"x{suffix}")) == values(grey.convert("RGB"))).all()


def test_a_camera_held_upright_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise to see it upright
    gradient().rotate(90, expand=True).save(tmp_path / "x.png", exif=exif)
    assert (values(read_photo(tmp_path / "x.png")) == values(gradient())).all()


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    picture = gradient().convert("RGBA")
    picture.putalpha(0)
    picture.save(tmp_path / "x.png")
    assert (values(read_photo(tmp_path / "x.png")) == 255).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "is no picture"), (b"hello, I am a text", "is no picture")],
)
def test_what_is_no_picture_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EffNetExtError, match=f"x.jpg: .*{message}"):
        read_photo(path)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match="Is a directory"):
        read_photo(tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient().save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 2 - 1)
    with pytest.raises(EffNetExtError, match=r"x.png: more than 3,070 pixels. Scale it down first"):
        read_photo(tmp_path / "x.png")


def test_values_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(EffNetExtError, match=r"x.tif: its values are no 8- or 16-bit grey or colour"):
        read_photo(tmp_path / "x.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tif", ".webp", ".bmp"])
def test_damage_is_a_picture_or_one_clean_error(suffix: str, tmp_path: Path) -> None:
    """Every 16th truncation and byte flip of a small file, of each format."""
    path = tmp_path / f"x{suffix}"
    gradient(24, 16).save(path)
    whole = path.read_bytes()
    flipped = (whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(0, len(whole), 16))
    for data in (*(whole[:i] for i in range(0, len(whole), 16)), *flipped):
        path.write_bytes(data)
        try:
            outcome = read_photo(path).mode
        except EffNetExtError as err:
            outcome = str(err)
        assert outcome == "RGB" or outcome.startswith(str(path))


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EffNetExtError, match="no photos"):
        read_photos(tmp_path)
    with pytest.raises(EffNetExtError, match="no such folder of photos"):
        read_photos(tmp_path / "none")


def test_folders_are_looked_through_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "from.jpg" / "more").mkdir(parents=True)
    gradient().save(tmp_path / "from.jpg" / "more" / "x.PNG")
    assert photo_files(tmp_path) == [tmp_path / "from.jpg" / "more" / "x.PNG"]


def test_scikit_learns_photos_are_found() -> None:
    pytest.importorskip("sklearn")
    assert [photo.mode for photo in read_photos()] == ["RGB", "RGB"]
