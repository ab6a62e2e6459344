"""Whether BatchNorm statistics describe what a model computes on photos: all that can be told without reference."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from timm_effnet_ext.convert.records import Proof
from timm_effnet_ext.errors import VerificationError
from timm_effnet_ext.predict.photos import in_channels, read_photos

IMPLAUSIBLE = 20.0
"""Median z-score above which weights are refused.

Seen on scikit-learn's two photos: the published Lite0 and Lite1 0.26 and 0.24, with permuted channels, misread
kernels or exchanged statistics 4 to 10. Six checkpoints of random weights, calibrated on noise, 0.2 to 5.7; with
permuted channels 39 to 108 (SiLU) and 2.6 (ReLU6), with images of 0 … 255 1,700 and more (SiLU) and 0.9 (ReLU6).
No right checkpoint may be refused, so the bound lies above all of those.
"""


def by_photos(model: nn.Module, size: tuple[int, int], images: Path | None) -> list[Proof]:
    """Say how well the BatchNorm statistics of a timm model describe its activations on photos; no photos, no proof.

    They become images of that height and width. For each layer the root mean square, over its channels, of how many
    standard deviations the channel's mean on the photos lies from the running mean; of these the median. It tells gross
    errors, not subtle ones.

    Raises:
        VerificationError: They do not at all.
    """
    found = read_photos(images)
    if not found:
        return []
    config = resolve_data_config({}, model=model)
    transform = create_transform(**{**config, "input_size": (3, *size), "mean": (0.0,) * 3, "std": (1.0,) * 3})
    colours = torch.stack([transform(photo) for photo in found]).double().permute(0, 2, 3, 1).numpy()
    mean, std = (torch.tensor([*map(float, config[name])], dtype=torch.float64) for name in ("mean", "std"))
    batch = ((torch.from_numpy(in_channels(colours, config["input_size"][0])) - mean) / std).permute(0, 3, 1, 2)
    score = statistics.median(z_scores(model.double(), batch))
    told = f"median z-score of channel means {score:.2f} on {len(found)} photos (refused above {IMPLAUSIBLE:g})"
    if not score <= IMPLAUSIBLE:
        raise VerificationError(
            f"plausibility: {told}: the BatchNorm statistics do not describe what the network computes. "
            "Nothing was written"
        )
    return [Proof("plausibility", {"median_z": score, "refused_above": IMPLAUSIBLE, "photos": len(found)}, told)]


def z_scores(model: nn.Module, batch: Tensor) -> list[float]:
    """Return the root mean square z-score of the channel means of each BatchNorm layer's input."""
    scores: list[float] = []

    def look(norm: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        z = (args[0].mean((0, 2, 3)) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        scores.append(float(z.square().mean().sqrt()))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        with torch.inference_mode():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return scores
