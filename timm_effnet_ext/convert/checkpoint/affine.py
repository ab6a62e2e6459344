"""Affine layers in a row as one: what BatchNorm and dense layers between features and outputs come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from timm_effnet_ext.convert.checkpoint.checkpoint import TensorEntry

Affine = tuple[np.ndarray, np.ndarray]
"""A scale (channels,) or a kernel (inputs, outputs), and an offset."""


@np.errstate(all="ignore")  # what is not finite is refused where values are checked
def batch_norm(mean: np.ndarray, variance: np.ndarray, gamma: np.ndarray, beta: np.ndarray, *, eps: float) -> Affine:
    """Return what a BatchNorm does at inference.

    >>> scale, offset = batch_norm(*np.array([[3.0], [4.0], [6.0], [1.0]]), eps=0)
    >>> scale * 5 + offset  # (5 - 3) / 2 * 6 + 1
    array([7.])
    """
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + eps)
    return scale, beta - mean * scale


@np.errstate(all="ignore")
def join(layers: Iterable[Affine]) -> Affine:
    """Return layers that are applied one after the other as one.

    >>> kernel, bias = join([(np.array([2.0]), np.array([1.0])), (np.array([[3.0, 4.0]]), np.array([0.0, 5.0]))])
    >>> np.array([10.0]) @ kernel + bias  # 10 * 2 + 1, times 3 and 4, plus 0 and 5
    array([63., 89.])
    """
    factor, offset = np.ones(1), np.zeros(1)
    for scale, term in layers:
        if scale.ndim == 2:  # a kernel
            offset = offset * np.ones(len(scale)) @ scale + term
            factor = factor @ scale if factor.ndim == 2 else factor.reshape(-1, 1) * scale
        else:
            offset = offset * scale + term
            factor = factor * scale
    return factor, offset


def behind_norm(
    kernel: TensorEntry, bias: TensorEntry, norm: Mapping[str, TensorEntry], eps: float
) -> dict[str, TensorEntry]:
    """Return kernel and bias of a dense layer and the BatchNorm in front of it, whose tensors have torch's names."""

    def scaled() -> Affine:
        order = ("running_mean", "running_var", "weight", "bias")
        return batch_norm(*(norm[leaf].read() for leaf in order), eps=eps)

    return classifier(kernel, kernel.shape[1], (scaled, lambda: (kernel.read(), bias.read())))


def classifier(kernel: TensorEntry, outputs: int, layers: Sequence[Callable[[], Affine]]) -> dict[str, TensorEntry]:
    """Return kernel and bias of the one dense layer that `layers` come to; they are read when these are.

    `kernel` is that of the first dense layer among them, under whose name they stand.
    """

    def entry(leaf: str, shape: tuple[int, ...], which: int) -> TensorEntry:
        return TensorEntry(kernel.name, "float64", shape, kernel.file, lambda: join(layer() for layer in layers)[which])

    return {"kernel": entry("kernel", (kernel.shape[0], outputs), 0), "bias": entry("bias", (outputs,), 1)}
