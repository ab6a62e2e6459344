"""Tensor bundles: everything that TensorFlow writes is read, everything else is one error that says where."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from tests._bundle_writer import field, table, write_bundle
from timm_effnet_ext.convert.readers.tensorflow.bundle import DTYPES, Bundle
from timm_effnet_ext.convert.readers.tensorflow.entries import ordered_int
from timm_effnet_ext.convert.readers.tensorflow.protowire import fields, signed, take, varint
from timm_effnet_ext.convert.readers.tensorflow.sstable import read_table
from timm_effnet_ext.errors import CheckpointFormatError

RNG = np.random.default_rng(0)
VALUES = {
    "a/kernel": RNG.standard_normal((3, 3, 2, 4)).astype("f4"),
    "a/bias": np.arange(4, dtype="f4"),
    "half": np.ones((2, 3), "f2"),
    "double": np.full((1,), np.pi),
    "step": np.array(7, "i8"),
    "flags": np.array([True, False]),
    "bytes": np.arange(5, dtype="u1"),
    "complex": np.array([1 + 2j], "c8"),
    "empty": np.zeros((0, 3), "f4"),
    "words": np.array([b"one", b"", b"three" * 100], object),
    "word": np.array(b"alone", object),
}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("per_block", [1, 2, 16, 1000])
def test_what_was_written_is_read(shards: int, per_block: int, tmp_path: Path) -> None:
    bundle = Bundle(write_bundle(tmp_path / "b", VALUES, shards=shards, per_block=per_block))
    assert set(bundle) == set(VALUES)
    for name, value in VALUES.items():
        found = bundle[name].read()
        assert bundle[name].shape == value.shape == found.shape
        assert np.array_equal(found, value), name


def test_thousands_of_names_in_many_blocks_are_all_there(tmp_path: Path) -> None:
    values = {f"scope_{i % 7}/layer_{i}/kernel": np.full(2, i, "f4") for i in range(3000)}
    bundle = Bundle(write_bundle(tmp_path / "b", values))
    assert len(bundle) == 3000
    assert all(bundle[name].read()[0] == value[0] for name, value in values.items())


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_partitioned_variables_are_put_together(axis: int, parts: int, tmp_path: Path) -> None:
    value = RNG.standard_normal((4, 5, 6, 70)).astype("f4")
    bundle = Bundle(write_bundle(tmp_path / "b", {"w": value}, slices={"w": (axis, parts)}, shards=2))
    assert np.array_equal(bundle["w"].read(), value)
    assert bundle["w"].shape == value.shape


@pytest.mark.parametrize("n", [0, 1, -1, 63, 64, -64, -65, 8191, 8192, -8192, 1 << 20, -(1 << 40), (1 << 62) - 1])
def test_the_ordered_code_sorts_as_numbers_do(n: int) -> None:
    assert ordered_int(n - 1) < ordered_int(n) < ordered_int(n + 1)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    value = np.array([1.0, -2.5, 3.0e38, 1e-30], "f4")
    bundle = Bundle(write_bundle(tmp_path / "b", {"w": value}, bfloat16=["w"]))
    assert bundle["w"].dtype == "bfloat16"
    assert np.array_equal(bundle["w"].read(), (value.view("u4") & 0xFFFF0000).view("f4"))


def test_values_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    found = Bundle(write_bundle(tmp_path / "b", VALUES))["a/kernel"].read()
    assert isinstance(found, np.memmap)  # of its own bytes, not of the file, which may be larger than the addresses
    assert not found.flags.owndata
    assert not found.flags.writeable


def test_views_outlive_the_bundle(tmp_path: Path) -> None:
    found = {name: entry.read() for name, entry in Bundle(write_bundle(tmp_path / "b", VALUES)).items()}
    assert all(np.array_equal(found[name], value) for name, value in VALUES.items())


def test_a_flipped_byte_of_the_data_is_told_with_the_tensor(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "b", {"w": np.ones(8, "f4")})
    data = tmp_path / "b.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[5] ^= 1
    data.write_bytes(raw)
    with pytest.raises(CheckpointFormatError, match=r"data-00000-of-00001: 'w' has checksum .* the file is damaged"):
        Bundle(prefix)["w"].read()
    assert Bundle(prefix, crc=False)["w"].read().shape == (8,)


def test_a_cut_data_file_says_what_it_needs(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "b", {"w": np.ones(8, "f4")})
    (tmp_path / "b.data-00000-of-00001").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointFormatError, match=r"'w' needs 32 bytes at offset 0, the file has 20: it is cut"):
        Bundle(prefix)["w"].read()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "b", {"w": np.ones(8, "f4"), "v": np.ones(8, "f4")}, shards=2)
    (tmp_path / "b.data-00001-of-00002").unlink()
    with pytest.raises(CheckpointFormatError, match=r"b\.data-00001-of-00002: no such file; .* 2 data file"):
        [Bundle(prefix)[name].read() for name in ("v", "w")]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (field(1, 1) + field(2, 1), "big-endian"),
        (field(1, 1) + field(3, field(2, 2)), "bundle version 2"),
        (b"", "0 data files"),
        (field(1, 1 << 40), "1099511627776 data files"),
    ],
)
def test_headers_that_are_not_understood_are_refused(header: bytes, message: str, tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "b", {"w": np.ones(1, "f4")}, header=header)
    with pytest.raises(CheckpointFormatError, match=message):
        Bundle(prefix)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (field(1, 99), r"dtype 99 \(unknown\), supported are float32"),
        (field(1, 20), r"dtype 20 \(resource\)"),
        (field(1, 1) + field(2, field(2, field(1, (1 << 64) - 5))), "impossible shape"),
        (field(1, 1) + field(2, field(2, field(1, 1 << 50)) + field(2, field(1, 8))), "impossible shape"),
        (field(1, 1) + field(2, field(2, field(1, 1 << 40))) + field(5, 4), r"has 4 bytes, expected 4398046511104"),
        (field(1, 1) + field(3, 7) + field(5, 4), "data file 7, expected 0 to 0"),
        (field(1, 1) + field(4, 1 << 62) + field(5, 4), "needs 4 bytes at offset 4611686018427387904"),
        (field(1, 7) + field(2, field(2, field(1, 1 << 40))) + field(5, 4), "1099511627776 strings in 4 bytes"),
    ],
)
def test_sizes_that_a_file_claims_are_checked_before_use(entry: bytes, message: str, tmp_path: Path) -> None:
    header = field(1, 1) + field(3, field(1, 1))
    (tmp_path / "b.index").write_bytes(table([(b"", header), (b"w", entry)]))
    (tmp_path / "b.data-00000-of-00001").write_bytes(b"\0" * 4)
    with pytest.raises(CheckpointFormatError, match=message):
        Bundle(tmp_path / "b")["w"].read()


def test_compressed_blocks_are_refused(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "b", {"w": np.ones(1, "f4")}, compression=1)
    with pytest.raises(CheckpointFormatError, match=r"compression 1 \(snappy\), only uncompressed"):
        Bundle(prefix)


def test_a_table_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "b.index").write_bytes(table([(b"key", b"value")]))
    with pytest.raises(CheckpointFormatError, match="no bundle header: a table, but not of tensors"):
        Bundle(tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"\0" * 47, b"<html>" * 20])
def test_no_table_is_told(content: bytes) -> None:
    with pytest.raises(CheckpointFormatError, match=r"^not a TensorFlow checkpoint index, or cut"):
        list(read_table(content))


def test_tables_are_read_in_order() -> None:
    pairs = sorted((f"{i:04}".encode() * 3, bytes([i % 256]) * i) for i in range(300))
    assert list(read_table(table(pairs, per_block=7))) == pairs


def test_every_flipped_byte_of_a_table_is_an_error_or_harmless() -> None:
    pairs = sorted((f"key{i}".encode(), b"value") for i in range(20))
    raw = table(pairs, per_block=5)
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 0x41
        with contextlib.suppress(CheckpointFormatError):
            assert list(read_table(bytes(damaged))) == pairs  # padding of the footer


@pytest.mark.parametrize(
    ("raw", "value"), [(b"\x00", 0), (b"\x7f", 127), (b"\x80\x01", 128), (b"\xff" * 9 + b"\x01", 2**64 - 1)]
)
def test_varints(raw: bytes, value: int) -> None:
    assert varint(b"x" + raw + b"y", 1) == (value, 1 + len(raw))


@pytest.mark.parametrize("raw", [b"", b"\x80", b"\xff" * 11])
def test_a_varint_without_end_is_an_error(raw: bytes) -> None:
    with pytest.raises(CheckpointFormatError, match=r"^the varint at offset 0 does not end"):
        varint(raw, 0)


def test_signed_is_twos_complement() -> None:
    assert [signed(n) for n in (0, 5, 2**63, 2**64 - 1)] == [0, 5, -(2**63), -1]


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"\x0a\x05abc", "needs 5 bytes at offset 2, found 3"), (b"\x0b", "wire type 3"), (b"\x0d\0\0", "needs 4 bytes")],
)
def test_messages_that_are_cut_say_where(raw: bytes, message: str) -> None:
    with pytest.raises(CheckpointFormatError, match=message):
        list(fields(raw))


@pytest.mark.parametrize(("at", "n"), [(0, 4), (-1, 1), (3, 1), (0, -1)])
def test_only_what_is_there_can_be_taken(at: int, n: int) -> None:
    with pytest.raises(CheckpointFormatError):
        take(b"abc", at, n)


def test_every_dtype_has_the_size_that_numpy_gives_it() -> None:
    assert {np.dtype(stored).itemsize for _, stored in DTYPES.values()} <= {1, 2, 4, 8, 16}
