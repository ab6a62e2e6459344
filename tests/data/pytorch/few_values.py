"""What the makers share: random weights and statistics of few values each, so that they pack, and the archive."""

import hashlib
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent


def randomise(model, seed=0):
    """Fill every parameter and statistic; activations keep about their size."""
    rng = np.random.default_rng(seed)

    def fill(tensor, values):
        tensor.copy_(torch.from_numpy(rng.choice(np.float32(values), tuple(tensor.shape))))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                tensors = (module.weight, module.bias, module.running_mean, module.running_var)
                values = ([0.75, 1, 1.25], [-0.25, 0, 0.5], [-0.25, 0, 0.125], [0.5, 1, 1.5])
                for tensor, choice in zip(tensors, values, strict=True):
                    fill(tensor, choice)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                size = float(np.float16(module.weight[0].numel() ** -0.5))
                fill(module.weight, np.array([-2, -1, 0, 1, 2]) * size)
                if module.bias is not None:
                    fill(module.bias, [-0.5, 0, 0.5])
    return model.eval()


def batch(*size, seed=1):
    """Return what a network gets, (2, H, W, 3), in blocks of 4 by 4 pixels of five values."""
    drawn = np.random.default_rng(seed).choice(np.float32([-2, -1, 0, 1, 2]), (2, size[0] // 4, size[1] // 4, 3))
    return drawn.repeat(4, 1).repeat(4, 2)


def pack(folder, name, versions):
    """Write the archive of a folder, and what wrote which file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(HERE / f"{name}.tar.xz", "w:xz", preset=9) as tar:
        for path in files:
            tar.add(path, path.relative_to(folder))
    about = {"python": sys.version.split()[0], **versions}
    hashes = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (HERE / f"{name}.json").write_text(json.dumps({"versions": about, "sha256": hashes}, indent=1) + "\n")
