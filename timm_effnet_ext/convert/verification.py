"""Whether a written folder computes what its source computed: the model is built by timm as users build it, and run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

import timm_effnet_ext.hucorz_efficientnet  # noqa: F401  registers the models
from timm_effnet_ext.convert.plausibility import by_photos
from timm_effnet_ext.convert.records import Proof, ProofKind
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, VerificationError, first_few
from timm_effnet_ext.photos import in_channels, read_photos

Graph = Callable[[np.ndarray], np.ndarray]

TOLERANCE = 1e-4
"""Of the largest output, or of 1: TensorFlow's own engines differ by 2e-5, the smallest mistakes seen by 1e-1."""

ROUNDING_FACTOR, MAX_TOLERANCE = 10, 1e-3
"""Outputs that another program computed in float32 may differ by so many times what float32 changes in this one.

Of the oracles one image does so, a random network's third of a size that it was not made for: there TensorFlow is
1.7e-4 from float64 and torch's float32 5e-5, elsewhere both are within 5e-6.
"""

# What NumPy, zipfile and zlib raise over a damaged .npz, beside OSError.
_BROKEN_NPZ = (ValueError, EOFError, BadZipFile, zlib.error, TypeError, AttributeError, KeyError, RuntimeError)


class Converted(NamedTuple):
    """A written folder as timm builds it, in float64: what is compared are networks, not roundings.

    Networks far from the images that they know enlarge roundings: of random weights, two ways to compute the same in
    float32 were seen to differ by 3e-5 of the largest output on photos and by 1e-3 on white noise, in float64 by 5e-6
    and 2e-4 (the mean and std of config.json are rounded).
    """

    model: nn.Module
    mean: np.ndarray
    std: np.ndarray
    size: tuple[int, int]  # height, width
    channels: int

    @classmethod
    def load(cls, folder: Path) -> Converted:
        """Build the model from the folder's own config.json and weights."""
        try:
            model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
        except EffNetExtError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as err:  # over the source's arguments
            raise VerificationError(f"timm builds no model from what the source says of itself ({err!r})") from err
        cfg: Mapping[str, Any] = model.pretrained_cfg
        channels, *size = cfg["input_size"]
        return cls(model.eval().double(), np.array(cfg["mean"]), np.array(cfg["std"]), tuple(size), channels)

    def run(self, images: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
        """Return the outputs for images (B, H, W, C) as the network gets them."""
        model = self.model.to(dtype)  # float32 there and back is lossless: so the weights are stored
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(dtype)
            return torch.cat([model(image[None]) for image in batch]).numpy()

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Return images of 0 … 255 as the network gets them."""
        return (images.astype(np.float64) / 255 - self.mean) / self.std


class _Difference(NamedTuple):
    """How far outputs are from those expected of them."""

    worst: float
    largest: float  # of the expected outputs
    tolerance: float = TOLERANCE

    @property
    def relative(self) -> float:
        """The difference as a share of the largest output, or of 1."""
        return self.worst / max(1, self.largest)

    @property
    def is_allowed(self) -> bool:
        """Whether it is small enough; not a number is not."""
        return self.relative <= self.tolerance


def verify(
    folder: Path,
    *,
    graph: Graph | None = None,
    graph_takes_pixels: bool = True,
    reference: Path | None = None,
    images: Path | None = None,
    cut: int = 0,
) -> tuple[Proof, ...]:
    """Return what was proved of a written folder; without a graph or a reference, whether it is plausible.

    Args:
        folder: config.json and weights.
        graph: Evaluates the source's own layer graph, images (B, H, W, 3) of 0 … 255 -> outputs.
        graph_takes_pixels: False if it takes normalised images instead.
        reference: .npz of inputs and outputs; see `by_reference`.
        images: Folder of photos.
        cut: How many outputs of the source come before the first that was written.

    Raises:
        VerificationError: The model computes something else, or nothing that it was trained for.
        CheckpointFormatError: The reference or the photos are unreadable.
    """
    converted = Converted.load(folder)
    proofs = []
    if reference is not None:
        proofs.append(by_reference(converted, reference, cut))
    if graph is not None:
        proofs.append(by_graph(converted, graph, images, cut, graph_takes_pixels))
    if not proofs or images is not None:
        proofs += by_photos(converted.model, images)
    return tuple(proofs)


def by_reference(converted: Converted, path: Path, cut: int = 0) -> Proof:
    """Compare with outputs that the user saved from the source's framework.

    The file holds pairs `input`/`output`, numbered or not (`input_1`/`output_1`, …): inputs (B, H, W, C) as the
    network gets them, or under `images` instead of `input` as they were before normalisation, 0 … 255. Outputs are
    logits, or pooled features of a model without classifier.
    """
    differences = []
    for kind, given, output in _pairs(path):
        inputs = converted.normalise(given) if kind == "images" else given
        found = converted.run(inputs)
        difference = _difference(found, output[:, cut:], str(path))
        rounding = float(np.abs(converted.run(inputs, torch.float32) - found).max()) / max(1, difference.largest)
        tolerance = min(max(TOLERANCE, ROUNDING_FACTOR * rounding), MAX_TOLERANCE)
        differences.append(difference._replace(tolerance=tolerance))
    return _compared("reference", differences, f"{len(differences)} batches of {path.name}")


def _pairs(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield "input" or "images", the batch, and the outputs."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name.startswith(("input", "images"))]
            if not names:
                raise CheckpointFormatError(
                    f"{path}: holds {first_few(file.files)}, expected pairs 'input' or 'images' and 'output'"
                )
            for name in names:
                kind = "images" if name.startswith("images") else "input"
                expected = f"output{name[len(kind) :]}"
                if expected not in file.files:
                    raise CheckpointFormatError(f"{path}: {name!r} has no {expected!r} beside it")
                given, output = file[name], file[expected]
                if given.ndim != 4 or output.ndim != 2 or len(given) != len(output) or not len(given):
                    raise CheckpointFormatError(
                        f"{path}: {name!r} has shape {given.shape} and {expected!r} {output.shape}, "
                        "expected (B, H, W, C) and (B, outputs)"
                    )
                yield kind, given, output
    except CheckpointFormatError:
        raise
    except _BROKEN_NPZ as err:
        raise CheckpointFormatError(f"{path}: not readable as .npz of numbers ({err})") from err


def by_graph(converted: Converted, graph: Graph, images: Path | None, cut: int = 0, takes_pixels: bool = True) -> Proof:
    """Compare with the source's own layer graph, on photos and on noise."""
    height, width = converted.size
    found = [*read_photos(images), _noise()]
    differences = []
    for image in found:
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        batch = in_channels(pixels, converted.channels)[None]
        normalised = converted.normalise(batch)
        output = graph(batch if takes_pixels else normalised)
        differences.append(_difference(converted.run(normalised), output[:, cut:], "layer graph"))
    return _compared("graph", differences, f"{len(found) - 1} photos and noise")


def _noise() -> Image.Image:
    """Return random colours in patches, to be resized: about as smooth as photos are."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8))


def _difference(found: np.ndarray, expected: np.ndarray, where: str) -> _Difference:
    if found.shape != expected.shape:
        raise VerificationError(f"{where}: outputs of shape {expected.shape}, the model gives {found.shape}")
    return _Difference(float(np.abs(found - expected.astype(np.float64)).max()), float(np.abs(expected).max()))


def _compared(kind: ProofKind, differences: list[_Difference], what: str) -> Proof:
    """Return the proof of the worst difference, or raise."""
    worst = max(differences, key=lambda d: (not d.is_allowed, d.relative))
    told = (
        f"largest difference of outputs {worst.worst:.2g}, of {worst.largest:.4g} "
        f"({worst.relative:.1e}, allowed {worst.tolerance:.0e})"
    )
    if not all(difference.is_allowed for difference in differences):
        raise VerificationError(f"{kind}, {what}: {told}. Nothing was written")
    figures = {"max_abs_diff": worst.worst, "max_abs_output": worst.largest, "relative": worst.relative}
    return Proof(kind, {**figures, "tolerance": worst.tolerance}, f"{what}: {told}")
