"""hdf5.py reads arrays and text, and refuses whatever else HDF5 can do, damaged files included."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from timm_effnet_ext.convert.readers.keras.hdf5 import Hdf5, isolated
from timm_effnet_ext.errors import CheckpointFormatError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.h5"


def write(path: Path, fill: Callable[[h5py.File], object]) -> Hdf5:
    with h5py.File(path, "w") as file:
        fill(file)
    return Hdf5(path, ("name",))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int8", "uint32"])
def test_values_come_back_as_they_were(path: Path, dtype: str) -> None:
    values = VALUES.astype(dtype)
    entry = write(path, lambda file: file.create_dataset("a/b", data=values))["a/b"]
    assert (entry.name, entry.dtype, entry.shape) == ("a/b", dtype, (2, 3, 4))
    assert (entry.read() == values).all()
    assert entry.read().dtype == values.dtype


@pytest.mark.parametrize(
    "options",
    [{"compression": "gzip", "shuffle": True, "fletcher32": True}, {"chunks": (1, 3, 2)}, {"compression": "lzf"},
     {"maxshape": (None, 3, 4)}],
)  # fmt: skip
def test_values_in_pieces_come_back(path: Path, options: dict[str, object]) -> None:
    file = write(path, lambda file: file.create_dataset("a", data=VALUES, **options))
    assert (file["a"].read() == VALUES).all()


def test_what_lies_in_one_piece_is_mapped(path: Path) -> None:
    array = write(path, lambda file: file.create_dataset("a", data=VALUES))["a"].read()
    base = array
    while not isinstance(base, np.memmap):
        base = base.base
    assert not array.flags.writeable


def test_scalars_and_empty_arrays(path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["scalar"], file["empty"] = np.int64(7), np.zeros((0, 3), np.float32)

    file = write(path, fill)
    assert file["scalar"].read() == 7
    assert file["scalar"].shape == ()
    assert file["empty"].read().shape == (0, 3)


def test_bfloat16_is_what_keras_marks_so(path: Path) -> None:
    def fill(file: h5py.File) -> None:
        upper = (np.float32([1.5, -2]).view("<u4") >> 16).astype("<u2")
        file.create_dataset("a", data=upper.view("V2")).attrs["dtype"] = "bfloat16"

    entry = write(path, fill)["a"]
    assert entry.dtype == "bfloat16"
    assert (entry.read() == np.float32([1.5, -2])).all()


def test_text_is_read_where_it_was_asked_for(path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file.create_group("g").attrs["name"] = "é" * 50_000  # beyond what fits beside the group
        file.attrs["name"], file.attrs["other"] = np.bytes_(b"fixed"), "not asked for"
        file.create_group("h").attrs["name"] = 7

    file = write(path, fill)
    assert file.text("name") == "fixed"
    assert file.text("name", "g") == "é" * 50_000
    assert (file.text("other"), file.text("name", "h"), file.text("name", "none")) == (None, None, None)


def external_link(file: h5py.File) -> None:
    file["a"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    file["a"] = h5py.SoftLink("/b")


def group_inside_itself(file: h5py.File) -> None:
    inner = file.create_group("a/b")
    inner["c"] = file["a"]


@pytest.mark.parametrize(
    ("fill", "message"),
    [(external_link, "'a' is a link to somewhere else"), (soft_link, "'a' is a link to somewhere else"),
     (group_inside_itself, r"group 'a/b/c' is in two places")],
)  # fmt: skip
def test_a_file_that_leads_elsewhere_is_refused(path: Path, fill: Callable, message: str) -> None:
    with pytest.raises(CheckpointFormatError, match=message):
        write(path, fill)


def external_storage(file: h5py.File) -> None:
    file.create_dataset("a", (4,), np.uint8, external=[("/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "a", (4,))
    file.create_virtual_dataset("a", layout)


def objects(file: h5py.File) -> None:
    file.create_dataset("a", data=["text", "more"], dtype=h5py.string_dtype())


def never_written(file: h5py.File) -> None:
    file.create_dataset("a", (1 << 40,), np.float32)


def sparse(file: h5py.File) -> None:
    file.create_dataset("a", (1 << 40,), np.float32, chunks=(1 << 10,), compression="gzip")[5] = 1


def big_endian(file: h5py.File) -> None:
    file.create_dataset("a", data=VALUES.astype(">f4"))


@pytest.mark.parametrize(
    ("fill", "message"),
    [(external_storage, "'a' keeps its values in other files"), (virtual, "'a' keeps its values in other files"),
     (objects, "'a' is of type object, supported are float32"), (big_endian, "'a' is of type >f4, supported are"),
     (never_written, r"'a' of shape \(1099511627776,\) cannot be in the 0 bytes"),
     (sparse, r"'a' of shape \(1099511627776,\) cannot be in the \d+ bytes")],
)  # fmt: skip
def test_a_dataset_that_is_no_array_in_the_file_is_refused_when_it_is_read(
    path: Path, fill: Callable, message: str
) -> None:
    file = write(path, fill)
    with pytest.raises(CheckpointFormatError, match=message):
        file["a"].read()


def tiny(path: Path) -> bytes:
    def fill(file: h5py.File) -> None:
        for name in ("a/vars/0", "a/vars/1", "b/vars/0"):
            file[name] = VALUES
        file["a/vars"].attrs["name"] = "stem"
        file.create_dataset("packed", data=VALUES, chunks=(1, 3, 2), compression="gzip")

    write(path, fill)
    return path.read_bytes()


def test_a_cut_file_is_refused(path: Path) -> None:
    data = tiny(path)
    for size in range(0, len(data), 331):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointFormatError, match="HDF5 is damaged or cut"):
            Hdf5(path)


def crash() -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def hang() -> bytes:
    while True:
        pass


def refuse() -> bytes:
    raise CheckpointFormatError("no good")


@needs_fork
def test_the_result_comes_back_whole() -> None:
    assert isolated(lambda: b"x" * 1_000_000) == b"x" * 1_000_000


@needs_fork
def test_it_runs_elsewhere() -> None:
    assert isolated(lambda: str(os.getpid()).encode()) != str(os.getpid()).encode()


@needs_fork
@pytest.mark.parametrize(
    ("call", "message"),
    [(crash, "^the library that reads it crashed: it is damaged"),
     (hang, "^the library that reads it hangs: it is damaged"), (refuse, "^no good$")],
)  # fmt: skip
def test_what_goes_wrong_there_is_an_error_here(call, message: str) -> None:
    with pytest.raises(CheckpointFormatError, match=message):
        isolated(call, cpu_seconds=1)
