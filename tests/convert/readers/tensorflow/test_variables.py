"""Every tensor of a bundle is a variable, its average, a slot or a counter, under the name that the code gave it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests._bundle_writer import object_graph
from tests.convert._sources import tiny_bundle, tiny_variables, with_ema
from timm_effnet_ext.convert.readers.tensorflow.bundle import Bundle
from timm_effnet_ext.convert.readers.tensorflow.variables import variables
from timm_effnet_ext.errors import NameMappingError


def test_variables_are_sorted_by_what_they_are(tmp_path: Path) -> None:
    values = with_ema(tiny_variables())
    found = variables(Bundle(tiny_bundle(tmp_path, values)))
    count = len(tiny_variables())
    assert (len(found.model), len(found.ema), found.step) == (count, count, 7)
    assert len(found.slots) + len(found.counters) + 2 * count == len(values)


def test_ema_alone_is_the_model(tmp_path: Path) -> None:
    averages = {name: value for name, value in with_ema(tiny_variables()).items() if name.endswith("Average")}
    found = variables(Bundle(tiny_bundle(tmp_path, averages)))
    assert found.model == found.ema
    assert set(found.model) == set(tiny_variables())


def test_an_average_of_nothing_is_an_error(tmp_path: Path) -> None:
    values = {**tiny_variables(), "gone/ExponentialMovingAverage": np.ones(1, "f4")}
    with pytest.raises(NameMappingError, match="1 EMA twins of variables that are not there: gone"):
        variables(Bundle(tiny_bundle(tmp_path, values)))


def test_names_of_an_object_graph_come_from_the_graph(tmp_path: Path) -> None:
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    made = tiny_variables()
    names = {f"model/_x/{i}{suffix}": name for i, name in enumerate(made)}
    values = {key: made[name] for key, name in names.items()}
    extra = {f"optimizer/m/0{suffix}": np.ones(1, "f4"), f"save_counter{suffix}": np.array(1, "i8")}
    graph = {"_CHECKPOINTABLE_OBJECT_GRAPH": object_graph(names)}
    found = variables(Bundle(tiny_bundle(tmp_path, {**values, **extra, **graph})))
    assert set(found.model) == set(made)
    assert (len(found.slots), len(found.counters), len(found.metadata)) == (1, 1, 1)


def test_names_that_are_there_twice_give_way_to_paths(tmp_path: Path) -> None:
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    values = {f"a{suffix}": np.ones(1, "f4"), f"b{suffix}": np.zeros(1, "f4")}
    graph = {"_CHECKPOINTABLE_OBJECT_GRAPH": object_graph(dict.fromkeys(values, "same"))}
    assert set(variables(Bundle(tiny_bundle(tmp_path, {**values, **graph}))).model) == {"a", "b"}
