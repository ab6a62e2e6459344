"""Classes are numbered as timm numbers them, and what cannot be known is not made up."""

import pickle
import tarfile
from types import SimpleNamespace

import pytest
from timm.data import ImageNetInfo, create_dataset

from tests.train.folders import write_images
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.hub_format import CLASS_NAMES_FILE
from timm_effnet_ext.train.launcher.numbering import (
    Numbering,
    describe_differences,
    read_checkpoint,
    read_dataset,
    read_weights,
)

NAMES = ("1", "2", "10", "Zebra", "apple", "class 9", "class 10", "Äpfel mit Öl", "日本", "a  b")


def read(root, split="train", class_map="", name=""):
    return read_dataset(create_dataset(name, root, split=split, class_map=class_map), split, class_map)


def numbered(*names, **kwargs):
    return Numbering("here", {name: number for number, name in enumerate(names)}, **kwargs)


@pytest.mark.parametrize("dataset", ["", "torch/folder"])
def test_names_are_in_the_order_of_the_datasets_numbers(dataset, tmp_path):
    write_images(tmp_path / "train", NAMES)
    found = read(tmp_path, name=dataset).in_order()
    assert sorted(found) == sorted(NAMES)
    for image, number in create_dataset(dataset, tmp_path, split="train"):
        color = image.getpixel((0, 0))
        assert color == tuple(factor * NAMES.index(found[number]) % 256 for factor in (83, 151, 37))


def test_folders_in_a_tar_file_are_numbered_as_folders(tmp_path):
    write_images(tmp_path / "train", ("2", "10", "b"))
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(tmp_path / "train", arcname="")
    assert read(tmp_path / "train.tar").in_order() == ("2", "10", "b")


@pytest.mark.parametrize("kind", ["txt", "pkl"])
def test_a_class_map_numbers_what_it_names(kind, tmp_path):
    write_images(tmp_path / "train", ("a", "b", "c"))
    path = tmp_path / f"map.{kind}"
    path.write_bytes(b"c\na\n\n" if kind == "txt" else pickle.dumps({"c": 0, "a": 1}))
    assert read(tmp_path, class_map=str(path)).in_order() == ("c", "a")


@pytest.mark.parametrize(
    ("dataset", "index"),
    [
        (SimpleNamespace(reader=SimpleNamespace(class_to_idx={"cat": 0, "dog": 1})), {"cat": 0, "dog": 1}),  # hfds/
        (SimpleNamespace(class_to_idx={"cat": 0, "dog": 1}), {"cat": 0, "dog": 1}),  # torch/cifar10
        (SimpleNamespace(reader=SimpleNamespace(class_to_idx={})), {}),  # wds/
        (SimpleNamespace(reader=SimpleNamespace(class_to_idx={"cat": "first"})), {}),  # a class map of another kind
        (SimpleNamespace(), {}),  # torch/inat
    ],
)
def test_datasets_that_are_no_folders_have_the_names_that_they_say(dataset, index):
    assert read_dataset(dataset, "train", None) == Numbering("split 'train'", index)


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ({}, "here does not name them"),
        ({"a": 0, "c": 2}, "one name for each number below 3"),
        ({"cat": 0, "kitten": 0, "dog": 1}, "one name for each number below 2"),
        ({7: 0, 5: 1}, "a line of text cannot hold 5, 7"),
        ({"": 0, "a": 1}, r"cannot hold '' \(images in no class folder\)"),
        ({"a ": 0, "b": 1}, "cannot hold 'a '"),
        ({"a\nb": 0}, r"cannot hold 'a\\nb'"),
        ({"a\u2028b": 0}, r"cannot hold 'a\\u2028b'"),
        ({"a\udce4": 0}, r"cannot hold 'a\\udce4'"),  # a folder's name in Latin-1
    ],
)
def test_what_no_list_of_lines_says_is_no_list(index, why):
    with pytest.raises(ValueError, match=why):
        Numbering("here", index).in_order()


@pytest.mark.parametrize("names", [("Apple", "apple"), ("01", "1")])
def test_names_that_timm_sorts_alike_are_refused_without_a_class_map(names, tmp_path):
    # sorted() of a set keeps the set's order of equals, which differs between processes
    write_images(tmp_path / "train", (*names, "b"))
    with pytest.raises(EffNetExtError, match=f"timm sorts '{names[0]}', '{names[1]}' alike"):
        read(tmp_path)
    (tmp_path / "map.txt").write_text("\n".join([*names, "b"]))
    assert read(tmp_path, class_map=str(tmp_path / "map.txt")).in_order() == (*names, "b")


def test_only_folders_have_an_order_of_timms():
    index = {"Apple": 0, "apple": 1}
    assert read_dataset(SimpleNamespace(class_to_idx=index), "train", None).index == index


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (("a", "b", "c"), ""),
        (("a", "b"), "only here has 'c' (1 of its 3)"),
        (("a", "b", "c", "d"), "only there has 'd' (1 of its 4)"),
        (("b", "c"), "only here has 'a' (1 of its 3); 2 have other numbers ('b' is 1 in here, 0 in there)"),
        (("c", "b", "a"), "2 have other numbers ('a' is 0 in here, 2 in there)"),
    ],
)
def test_differences_say_which_class_is_where(names, difference):
    other = Numbering("there", {name: number for number, name in enumerate(names)})
    assert describe_differences(numbered("a", "b", "c"), other) == difference


def test_beside_a_class_map_only_other_numbers_are_a_difference():
    model = numbered("a", "b", "c")
    assert describe_differences(model, Numbering("there", {"b": 1, "kitten": 0}, is_mapped=True)) == ""
    assert describe_differences(model, Numbering("there", {"b": 0}, is_mapped=True)).startswith("1 have other numbers")


def model_of(num_classes=3, **cfg):
    return SimpleNamespace(num_classes=num_classes, pretrained_cfg={"num_classes": 3, **cfg})


@pytest.mark.parametrize("names", [["x", "y", "z"], ("x", "y", "z"), {"0": "x", "1": "y", "2": "z"}])
def test_a_models_own_names_are_read_as_timm_reads_them(names):
    assert read_weights(model_of(label_names=names)).index == {"x": 0, "y": 1, "z": 2}


def test_a_model_has_the_names_of_its_weights_alone():
    assert read_weights(model_of(label_names=["x", "y", "z"], num_classes=3)) is not None
    assert read_weights(model_of(5, label_names=["x", "y", "z"])) is None  # another classifier
    assert read_weights(model_of(label_names=["x", "x", "z"])) is None  # which is 'x'?
    assert read_weights(model_of()) is None
    assert read_weights(SimpleNamespace()) is None


def test_models_of_imagenet_have_its_names():
    model = SimpleNamespace(num_classes=1000, pretrained_cfg={"num_classes": 1000})
    found = read_weights(model)
    assert found.whose == "the model (imagenet-1k)"
    assert found.in_order() == tuple(ImageNetInfo("imagenet-1k").label_names())


def test_a_checkpoint_has_the_names_of_its_run(tmp_path):
    checkpoint = tmp_path / "model_best.pth.tar"
    assert read_checkpoint(checkpoint) is None
    (tmp_path / CLASS_NAMES_FILE).write_text("日本\nb\n", encoding="utf-8")
    assert read_checkpoint(checkpoint).in_order() == ("日本", "b")
    (tmp_path / CLASS_NAMES_FILE).write_bytes("Öl\n".encode("latin-1"))
    with pytest.raises(EffNetExtError, match=rf"{CLASS_NAMES_FILE}: not UTF-8 .* Save it as UTF-8"):
        read_checkpoint(checkpoint)
