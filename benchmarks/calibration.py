"""What the last checkpoint of a run scores with BatchNorm statistics taken anew at the size of evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import load_checkpoint
from timm.utils import accuracy
from torch import nn
from torch.optim.swa_utils import update_bn

from timm_effnet_ext.train.runs import ARGS_FILE, read_yaml


def score_calibrated(run: Path) -> float:
    """Return the top-1 accuracy in percent, with the statistics of the training images as evaluation prepares them."""
    args = read_yaml(run / ARGS_FILE)
    model = timm.create_model(args["model"], num_classes=args["num_classes"], **args["model_kwargs"])
    load_checkpoint(model, str(run / "last.pth.tar"))
    torch.manual_seed(0)
    # In the order of a folder a batch has one class, and the mean of the variances lacks what lies between classes.
    update_bn(_images(args, model, "train", shuffled=True), model)
    return _top1(model.eval(), _images(args, model, args["val_split"]))


def _images(args: dict[str, Any], model: nn.Module, split: str, *, shuffled: bool = False) -> Any:
    """Return the images of a split as train.py evaluates them, not augmented."""
    config = resolve_data_config(args, model=model)
    return create_loader(
        create_dataset("", root=args["data_dir"], split=split),
        config["input_size"],
        batch_size=args["validation_batch_size"],
        is_training=shuffled,
        no_aug=True,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        num_workers=args["workers"],
    )


@torch.inference_mode()
def _top1(model: nn.Module, images: Any) -> float:
    right = total = 0.0
    for x, target in images:
        right += accuracy(model(x), target)[0].item() * len(x)
        total += len(x)
    return right / total
