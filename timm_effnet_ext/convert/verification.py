"""Whether a written folder computes what its source computed: the model is built by timm as users build it, and run."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import FeatureInfo
from torch import nn

import timm_effnet_ext.models.hucorz_efficientnet  # noqa: F401  registers the models
from timm_effnet_ext.convert.checkpoint.checkpoint import Graph
from timm_effnet_ext.convert.plausibility import by_photos
from timm_effnet_ext.convert.records import Proof, ProofKind
from timm_effnet_ext.errors import CheckpointFormatError, EffNetExtError, VerificationError, first_few
from timm_effnet_ext.predict.photos import in_channels, read_photos

TOLERANCE = 1e-4
"""Of the largest output, or of 1: TensorFlow's own engines differ by 2e-5, the smallest mistakes seen by 1e-1."""

ROUNDING_FACTOR, MAX_TOLERANCE = 10, 1e-3
"""Outputs that another program computed in float32 may differ by so many times what float32 changes in this one.

Of the oracles one image does so, a random network's third of a size that it was not made for: there TensorFlow is
1.7e-4 from float64 and torch's float32 5e-5, elsewhere both are within 5e-6.
"""

MAX_SHARE = 1e-2
"""Of the largest output, however small: else outputs near 0 would verify any network whose own are near 0."""

PREPARED_TOLERANCE = 1e-5
"""Of the range of what reaches the network: float32 rounds to 6e-8 of it, a mean one level off differs by 4e-3."""

_LARGE, _STRIDE = 1024, 32  # pixels, and of the whole network

# What NumPy, zipfile and zlib raise over a damaged .npz, beside OSError.
_BROKEN_NPZ = (ValueError, EOFError, BadZipFile, zlib.error, TypeError, AttributeError, KeyError, RuntimeError)


class Converted(NamedTuple):
    """A written folder as timm builds it, in float64: what is compared are networks, not roundings.

    Networks far from the images that they know enlarge roundings: of random weights, two ways to compute the same in
    float32 were seen to differ by 3e-5 of the largest output on photos and by 1e-3 on white noise. So both sides of a
    comparison get the same tensor, and what makes that tensor of an image is compared apart.
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

    def run(self, images: np.ndarray, dtype: torch.dtype = torch.float64, *, maps: bool = False) -> np.ndarray:
        """Return the outputs (B, outputs) for images (B, H, W, C) as the network gets them.

        Of a network without head, and with `maps`, these are the pooled channels of the last feature map.
        """
        model: Any = self.model.to(dtype)  # float32 there and back is lossless: so the weights are stored
        maps |= _gives_maps(model)
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(dtype)
            return torch.cat([_last_map(model, image) if maps else model(image) for image in batch.split(1)]).numpy()

    def ends_with_maps(self, outputs: int) -> bool:
        """Whether so many outputs are the last feature map's channels, and not those of the head."""
        model: Any = self.model
        return getattr(model, "num_classes", 1) == 0 and model.feature_info[-1]["num_chs"] == outputs

    def pixels(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """Return a photo as a batch (1, H, W, C) of 0 … 255 of that height and width."""
        height, width = size
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        return in_channels(pixels, self.channels)[None]

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Return images of 0 … 255 as the network gets them."""
        return (images.astype(np.float64) / 255 - self.mean) / self.std


def _gives_maps(model: Any) -> bool:
    """Whether a model of timm's gives its feature maps, and no more."""
    return isinstance(getattr(model, "feature_info", None), FeatureInfo)


def _last_map(model: Any, image: torch.Tensor) -> torch.Tensor:
    """Return the average of each channel of the last feature map (1, channels), before the head."""
    found = model(image) if _gives_maps(model) else model.forward_intermediates(image, intermediates_only=True)
    return found[-1].mean((2, 3))


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
        return self.relative <= self.tolerance and self.worst <= MAX_SHARE * self.largest


def verify(
    folder: Path,
    *,
    graph: Graph | None = None,
    reference: Path | None = None,
    images: Path | None = None,
    cut: int = 0,
) -> tuple[Proof, ...]:
    """Return what was proved of a written folder; without a graph or a reference, whether it is plausible.

    Args:
        folder: config.json and weights.
        graph: The source's own layer graph.
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
        proofs.append(by_graph(converted, graph, images, cut))
    if not proofs or images is not None:
        proofs += by_photos(converted.model, trial_size(*converted.size), images)
    return tuple(proofs)


def by_reference(converted: Converted, path: Path, cut: int = 0) -> Proof:
    """Compare with outputs that the user saved from the source's framework.

    The file holds pairs `input`/`output`, numbered or not (`input_1`/`output_1`, …): inputs (B, H, W, C) as the
    network gets them, or under `images` instead of `input` as they were before normalisation, 0 … 255. Outputs are
    logits; of a model without classifier pooled features, of the head or of the last feature map. Where both images and
    inputs are there, preprocessing is compared apart.
    """
    differences, prepared, headless = [], [], 0
    for images, given, output in _batches(path):
        if images is not None and given is not None:
            prepared.append(_prepared(converted.normalise(images), given, str(path)))
        inputs = converted.normalise(images) if given is None else given  # type: ignore[arg-type]
        maps = converted.ends_with_maps(output.shape[1])
        headless += maps
        found = converted.run(inputs, maps=maps)
        difference = _difference(found, output[:, cut:], str(path))
        rounded = converted.run(inputs, torch.float32, maps=maps)
        rounding = difference._replace(worst=float(np.abs(rounded - found).max())).relative
        tolerance = min(max(TOLERANCE, ROUNDING_FACTOR * rounding), MAX_TOLERANCE)
        differences.append(difference._replace(tolerance=tolerance))
    what = f"{len(differences)} batches of {path.name}"
    if headless:
        what += f" ({headless} of them of the last feature map, before the head)"
    return _compared("reference", differences, prepared, what)


def _batches(path: Path) -> Iterator[tuple[np.ndarray | None, np.ndarray | None, np.ndarray]]:
    """Yield the batches of a reference: images and inputs, of which one may be missing, and outputs."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name.startswith(("input", "images"))]
            if not names:
                raise CheckpointFormatError(
                    f"{path}: holds {first_few(file.files)}, expected pairs 'input' or 'images' and 'output'"
                )
            for end in dict.fromkeys(name.removeprefix("images").removeprefix("input") for name in names):
                kinds = [kind for kind in ("images", "input") if kind + end in file.files]
                if f"output{end}" not in file.files:
                    raise CheckpointFormatError(f"{path}: {kinds[-1] + end!r} has no {f'output{end}'!r} beside it")
                given, output = {kind: file[kind + end] for kind in kinds}, file[f"output{end}"]
                for kind, batch in given.items():
                    if batch.ndim != 4 or output.ndim != 2 or len(batch) != len(output) or not len(batch):
                        raise CheckpointFormatError(
                            f"{path}: {kind + end!r} has shape {batch.shape} and {f'output{end}'!r} {output.shape}, "
                            "expected (B, H, W, C) and (B, outputs)"
                        )
                yield given.get("images"), given.get("input"), output
    except CheckpointFormatError:
        raise
    except _BROKEN_NPZ as err:
        raise CheckpointFormatError(f"{path}: not readable as .npz of numbers ({err})") from err


def by_graph(converted: Converted, graph: Graph, images: Path | None, cut: int = 0) -> Proof:
    """Compare with the source's own layer graph, on photos and on noise.

    Two questions are asked apart: whether it is the same network, given the same tensor, and whether config.json makes
    the same tensor of an image as the graph's own layers do.
    """
    found = [*read_photos(images), _noise()]
    differences, prepared = [], []
    for image in found:
        if graph.has_preprocessing:
            batch = converted.pixels(image, converted.size)
            prepared.append(_prepared(converted.normalise(batch), graph.prepare(batch), "layer graph"))
        inputs = converted.normalise(converted.pixels(image, trial_size(*converted.size)))
        differences.append(_difference(converted.run(inputs), graph.compute(inputs)[:, cut:], "layer graph"))
    return _compared("graph", differences, prepared, f"{len(found) - 1} photos and noise")


def trial_size(height: int, width: int) -> tuple[int, int]:
    """Return the size to try a network at: its own, or a smaller one at which every layer pads in the same way.

    >>> trial_size(300, 4095)
    (300, 543)
    """
    return tuple(n if n <= _LARGE else _LARGE // 2 + n % _STRIDE for n in (height, width))  # type: ignore[return-value]


def _noise() -> Image.Image:
    """Return random colours in patches, to be resized: about as smooth as photos are."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8))


def _difference(found: np.ndarray, expected: np.ndarray, where: str) -> _Difference:
    if found.shape != expected.shape:
        raise VerificationError(f"{where}: outputs of shape {expected.shape}, the model gives {found.shape}")
    return _Difference(float(np.abs(found - expected.astype(np.float64)).max()), float(np.abs(expected).max()))


def _prepared(found: np.ndarray, expected: np.ndarray, where: str) -> float:
    """Return how far two preparations of an image differ, as a share of the range of the values."""
    if found.shape != expected.shape:
        raise VerificationError(f"{where}: images become {expected.shape}, config.json makes {found.shape} of them")
    span = float(np.ptp(expected)) or 1.0
    return float(np.abs(found - expected.astype(np.float64)).max()) / span


def _compared(kind: ProofKind, differences: list[_Difference], prepared: list[float], what: str) -> Proof:
    """Return the proof of the worst difference, or raise."""
    worst = max(differences, key=lambda d: (not d.is_allowed, d.relative))
    told = (
        f"largest difference of outputs {worst.worst:.2g}, of {worst.largest:.4g} "
        f"({worst.relative:.1e}, allowed {worst.tolerance:.0e})"
    )
    if not all(difference.is_allowed for difference in differences):
        raise VerificationError(f"{kind}, {what}: {told}. Nothing was written")
    figures = {"max_abs_diff": worst.worst, "max_abs_output": worst.largest, "relative": worst.relative}
    figures["tolerance"] = worst.tolerance
    if prepared:
        share = max(prepared)
        told += f"; of what reaches the network {share:.1e} of its range, allowed {PREPARED_TOLERANCE:.0e}"
        if not share <= PREPARED_TOLERANCE:
            raise VerificationError(
                f"{kind}, {what}: mean and std of config.json are not the source's: images differ by {share:.1e} of "
                f"their range (allowed {PREPARED_TOLERANCE:.0e}). Nothing was written"
            )
        figures |= {"prepared": share, "prepared_tolerance": PREPARED_TOLERANCE}
    return Proof(kind, figures, f"{what}: {told}")
