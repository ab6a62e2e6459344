"""Writes transformers.tar.xz beside it: `python make_transformers.py`, with transformers and this package.

A folder for each form, as `save_pretrained` wrote it, with reference.npz: what the network gets, and its outputs.
`plain` has an image processor, `sharded` another padding and epsilon, `wrapper` is a timm model in transformers.
"""

import tempfile
from pathlib import Path

import numpy as np
import safetensors
import timm
import torch
import transformers
from few_values import batch, pack, randomise
from transformers import (
    EfficientNetConfig,
    EfficientNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

import timm_effnet_ext  # registers a model that can be small

SMALL = {"width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 640}


def labels(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def save(model, folder, size, **options):
    model.save_pretrained(folder, **options)
    x = batch(*size)
    with torch.no_grad():
        outputs = model.double()(torch.from_numpy(x).permute(0, 3, 1, 2).double()).logits
    np.savez_compressed(folder / "reference.npz", input=x, output=outputs.numpy())


def plain(folder):
    config = EfficientNetConfig(**SMALL, image_size=64, **labels("rose", "tulip", "daisy"))
    save(randomise(EfficientNetForImageClassification(config)), folder, (64, 96))
    published = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.47853944, 0.4732864, 0.47434163]}
    processor = EfficientNetImageProcessorPil(size={"height": 64, "width": 64}, resample=0, **published)
    processor.save_pretrained(folder)
    pixels = np.random.default_rng(2).integers(0, 256, (48, 80, 3), np.uint8)
    np.savez_compressed(folder / "prepared.npz", image=pixels, output=processor(pixels)["pixel_values"][0])


def sharded(folder):
    facts = {"image_size": 80, "depthwise_padding": [5], "batch_norm_eps": 0.01, "num_labels": 4}
    config = EfficientNetConfig(**SMALL, **facts, problem_type="multi_label_classification")
    save(randomise(EfficientNetForImageClassification(config)), folder, (80, 80), max_shard_size="1MB")


def wrapper(folder):
    cfg = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear",
           "crop_pct": 0.9, "crop_mode": "center"}  # fmt: skip
    config = TimmWrapperConfig(
        architecture="hucorz_efficientnet_b0",
        model_args={"width_mult": 0.5, "depth_mult": 0.3},
        pretrained_cfg=cfg,
        **labels("cup", "fork"),
    )
    save(randomise(TimmWrapperForImageClassification(config)), folder, (64, 64))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for make in (plain, sharded, wrapper):
            make(Path(name, make.__name__))
        used = (transformers, timm, timm_effnet_ext, torch, safetensors, np)
        pack(Path(name), "transformers", {module.__name__: module.__version__ for module in used})
