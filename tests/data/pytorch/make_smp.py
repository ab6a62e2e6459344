"""Writes smp.tar.xz beside it: `python make_smp.py`, with segmentation_models_pytorch and this package.

`unet/unet.pth` is the state_dict of a whole U-Net around timm's features_only. reference.npz holds what the encoder
gets, and the average of each channel of its last feature map; features.npz those of all maps.
"""

import tempfile
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from few_values import batch, pack, randomise

import timm_effnet_ext  # registers a model that can be small

SMALL = {"width_mult": 0.5, "depth_mult": 0.3, "pad_type": "", "bn_eps": 1e-5}


def unet(folder):
    folder.mkdir()
    options = {"encoder_weights": None, "decoder_channels": (16, 8, 8, 8, 8), "classes": 2, **SMALL}
    model = randomise(smp.Unet("tu-hucorz_efficientnet_b0", **options))
    torch.save(dict(model.state_dict()), folder / "unet.pth")  # as from timm's own model, without our metadata
    x = batch(64, 96)
    with torch.no_grad():
        maps = model.encoder.double()(torch.from_numpy(x).permute(0, 3, 1, 2).double())[1:]
    pooled = [found.mean((2, 3)).numpy() for found in maps]
    np.savez_compressed(folder / "reference.npz", input=x, output=pooled[-1])
    np.savez_compressed(folder / "features.npz", *pooled)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        unet(Path(name, "unet"))
        used = (smp, timm, timm_effnet_ext, torch, np)
        pack(Path(name), "smp", {module.__name__: module.__version__ for module in used})
