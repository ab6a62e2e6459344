"""Writes the archives of files by other code on Keras, and of models as people fine-tune them: `python make_others.py`.

With Keras 3 and keras-hub, or with TensorFlow 2.12, efficientnet 1.1.1 and keras-efficientnet-v2 1.2.2. Images, outputs
and weights are as make.py has them, which says more.
"""

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path

import keras
import make
import numpy as np
import tensorflow as tf
from keras import layers

HERE = Path(__file__).parent
SIZE = 64


def tutorial():
    """The head of Keras' own guide to fine-tuning EfficientNet."""
    base = make.v1(include_top=False, input_shape=(SIZE, SIZE, 3))
    x = layers.BatchNormalization()(layers.GlobalAveragePooling2D(name="avg_pool")(base.output))
    outputs = layers.Dense(4, activation="softmax", name="pred")(layers.Dropout(0.2, name="top_dropout")(x))
    return keras.Model(base.input, outputs)


def operators():
    """Images are scaled by arithmetic; dense layers and BatchNorms behind the network multiply and add alone."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = make.v2("efficientnetv2-b0", include_top=False, include_preprocessing=False)(1 - (2.0 - inputs / 127.5))
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Dense(5)(layers.Dense(16, use_bias=False)(layers.Flatten()(x))))
    return keras.Model(inputs, layers.Activation("sigmoid")(x))


def kerashub():
    from keras_hub import models
    from keras_hub.layers import EfficientNetImageConverter

    backbone = models.EfficientNetBackbone(
        stackwise_width_coefficients=[0.1] * 7, stackwise_depth_coefficients=[0.3] * 7,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3], stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_squeeze_and_excite_ratios=[0.25] * 7,
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1], stackwise_block_types=["v1"] * 7,
        stackwise_force_input_filters=[0] * 7, min_depth=None, use_depth_divisor_as_min_depth=True,
        cap_round_filter_decrease=True, batch_norm_epsilon=1e-4,
    )  # fmt: skip
    converter = EfficientNetImageConverter(image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1)
    preprocessor = models.EfficientNetImageClassifierPreprocessor(converter)
    return models.EfficientNetImageClassifier(
        backbone, 3, preprocessor=preprocessor, activation="softmax", pooling="max"
    )


def qubvel():
    from efficientnet import inject_tfkeras_modules, model

    build = inject_tfkeras_modules(model.EfficientNet)
    base = build(0.1, 0.3, SIZE, weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    return keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(6, "softmax", name="probs")])


def kev2():
    from keras_efficientnet_v2 import efficientnet_v2

    efficientnet_v2.BLOCK_CONFIGS["tiny"] = {
        **efficientnet_v2.BLOCK_CONFIGS["b0"], "first_conv_filter": 8, "output_conv_filter": 320,
        "out_channels": [8, 8, 16, 24, 32, 48], "depthes": [1, 1, 1, 1, 1, 2],
    }  # fmt: skip
    return efficientnet_v2.EfficientNetV2("tiny", (SIZE, SIZE, 3), 5, pretrained=None, is_torch_mode=True)


FORMS = {
    3: {tutorial: (".keras", ".weights.h5"), operators: (".keras",), kerashub: (".keras", ".weights.h5", "_preset")},
    2: {tutorial: (".weights.h5",), make.nested: (".weights.h5", ".keras"), operators: (".h5",), qubvel: (".h5",),
        kev2: (".h5", "_weights.h5")},
}  # fmt: skip


SCALING = (make.nested, tutorial, operators)  # models that scale images themselves


def save(model, path):
    if path.endswith("_preset"):
        model.save_to_preset(path)
    elif path.endswith("weights.h5"):
        model.save_weights(path, **({"save_format": "h5"} if path.endswith("_weights.h5") else {}))
    else:
        model.save(path, **({"save_format": "keras"} if (make.MAJOR, path[-6:]) == (2, ".keras") else {}))


def write(folder, build, ends, seed):
    rng = np.random.default_rng(seed)
    model = build((SIZE, SIZE)) if build is make.nested else build()
    make.randomise(model, rng)
    stem = f"{folder}/other{make.MAJOR}_{build.__name__}"
    for end in ends:
        save(model, stem + end)
    images = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    model.layers[-1].activation = keras.activations.linear
    given = images.astype(np.float32) if build in SCALING else images / np.float32(127.5) - 1
    outputs = np.asarray(model(given, training=False))
    np.savez_compressed(f"{stem}.npz", images_native=images, logits_native=outputs)
    print(stem, float(np.abs(outputs).max()))


def main():
    record = {"keras": keras.__version__, "tensorflow": tf.__version__, "files": {}}
    with tempfile.TemporaryDirectory() as folder:
        for seed, (build, ends) in enumerate(FORMS[make.MAJOR].items()):
            write(folder, build, ends, seed)
        with tarfile.open(HERE / f"other{make.MAJOR}.tar.xz", "w:xz") as archive:
            for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                name = str(path.relative_to(folder))
                archive.add(path, name)
                record["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (HERE / f"other{make.MAJOR}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
