"""Writes the archive of Keras files beside it: `python make.py`, with Keras 3 or with Keras 2 on TensorFlow.

NAME.npz holds images of 0 … 255 and what Keras computed from them, before the last activation, at the size of the file
and, from the same weights in a model built for it, at an odd one. Weights and statistics are random, of few distinct
values each so that they pack; nothing was trained. keras2.json and keras3.json say what wrote which file.
"""

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

try:
    from keras.src.applications import efficientnet, efficientnet_v2
except ImportError:  # before Keras 2.13
    from keras.applications import efficientnet, efficientnet_v2

HERE = Path(__file__).parent
MAJOR = int(keras.__version__[0])
NATIVE, ODD = (64, 64), (75, 91)


def v1(**kwargs):
    """B0, 8 blocks of 8 to 128 channels."""
    return efficientnet.EfficientNet(0.1, 0.3, 64, weights=None, **kwargs)


def v2(name, **kwargs):
    """V2, one to three blocks a stage; the name picks the table of stages."""
    kwargs["name" if MAJOR > 2 else "model_name"] = name
    return efficientnet_v2.EfficientNetV2(0.25, 0.2, 64, weights=None, **kwargs)


def nested(size):
    """The classifier of Keras' fine-tuning guides; the base is built without a size."""
    inputs = keras.Input((*size, 3))
    x = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)], name="augment")(inputs)
    x = v1(include_top=False)(x, training=False)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="flowers")(x))


def flat(size):
    base = v2("efficientnetv2-b0", include_top=False, input_shape=(*size, 3), pooling="avg")
    return keras.Model(base.input, layers.Dense(3, name="out")(base.output))


def sequential(size):
    base = v2("efficientnetv2-s", include_top=False, input_shape=(*size, 3))
    return keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid")])


def top(size):
    return v2("efficientnetv2-b0", classes=7, input_shape=(*size, 3), include_preprocessing=False)


def topless(size):
    return v1(include_top=False, pooling="max", input_shape=(*size, 3))


MODELS = {make.__name__: make for make in (nested, flat, sequential, top, topless)}


def randomise(model, rng):
    """Fill every variable."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            randomise(layer, rng)
        elif isinstance(layer, layers.Normalization) and layer.weights:
            layer.set_weights(
                [np.float32([0.485, 0.456, 0.406]), np.float32([0.052441, 0.050176, 0.050625]), np.int64(0)]
            )
            layer.finalize_state()
        elif isinstance(layer, layers.BatchNormalization):
            shape = layer.weights[0].shape
            values = ([0.75, 1, 1.25], [-0.25, 0, 0.5], [-0.25, 0, 0.125], [0.5, 1, 1.5])
            layer.set_weights([rng.choice(np.float32(v), shape) for v in values])
        elif layer.weights and isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)):
            layer.set_weights([weight(w.shape, isinstance(layer, layers.DepthwiseConv2D), rng) for w in layer.weights])


def weight(shape, is_depthwise, rng):
    fan_in = np.prod(shape[: 2 if is_depthwise else -1]) if len(shape) > 1 else 16
    return np.float32(rng.choice([-2, -1, -0.5, 0.5, 1, 1.5], tuple(shape)) * 2.0 ** np.round(-np.log2(fan_in) / 2))


def compute(model, images):
    """Return the output before the last activation; without preprocessing layers, the model takes -1 … 1."""
    last = model.layers[-1]
    if isinstance(last, layers.Dense):
        last.activation = keras.activations.linear
    scaled = images if any(isinstance(layer, layers.Rescaling) for layer in flattened(model)) else images / 127.5 - 1
    return np.asarray(model(scaled, training=False))


def flattened(model):
    for layer in model.layers:
        yield from flattened(layer) if hasattr(layer, "layers") else [layer]


def write(folder, name, seed):
    """Write one model in all formats, and its outputs."""
    rng = np.random.default_rng(seed)
    model = MODELS[name](NATIVE)
    randomise(model, rng)
    stem = folder / f"keras{MAJOR}_{name}"
    model.save(f"{stem}.keras")
    if name == "nested":
        model.compile("adam", "categorical_crossentropy")
        model.optimizer.build(model.trainable_variables)
        model.save(f"{stem}.h5")
        model.save_weights(f"{stem}.weights.h5")
        if MAJOR == 2:
            model.save_weights(f"{stem}_weights.h5", save_format="h5")
            model.save_weights(f"{stem}_checkpoint/model")
            model.save(f"{stem}_saved")
        else:
            model.export(f"{stem}_saved")
        # Its functions, megabytes that nobody reads: what counts of this file is that it is there.
        Path(f"{stem}_saved", "saved_model.pb").write_bytes(b"")
    outputs = {}
    for which, size in (("native", NATIVE), ("odd", ODD)):
        images = rng.integers(0, 256, (2, size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
        images = images.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]]
        built = MODELS[name](size)
        built.set_weights(model.get_weights())
        for layer in flattened(built):
            if isinstance(layer, layers.Normalization):
                layer.finalize_state()
        outputs |= {f"images_{which}": images, f"logits_{which}": compute(built, images.astype(np.float32))}
    np.savez_compressed(f"{stem}.npz", **outputs)


def main():
    record = {"keras": keras.__version__, "tensorflow": tf.__version__, "files": {}}
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(MODELS):
            write(Path(folder), name, seed)
        with tarfile.open(HERE / f"keras{MAJOR}.tar.xz", "w:xz") as archive:
            for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                name = str(path.relative_to(folder))
                archive.add(path, name)
                record["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
                print(name, path.stat().st_size)
    (HERE / f"keras{MAJOR}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
