"""Puts the progressive counterparts in place of timm's public names, before a program binds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.data.loader
import timm.models
import timm.utils

from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.train.patching import Replacement, replaced
from timm_effnet_ext.train.progressive.dropout import set_drop_rates
from timm_effnet_ext.train.progressive.loader import StagedBatchSampler, create_loader, create_transform
from timm_effnet_ext.train.progressive.mixup import SizedFastCollateMixup, SizedMixup
from timm_effnet_ext.train.progressive.record import Recorder
from timm_effnet_ext.train.progressive.schedule import Plan


@contextmanager
def applied(plan: Plan) -> Iterator[Recorder]:
    """Make timm progressive by `plan` inside the context, for whoever takes its public names there."""
    recorder = Recorder(plan)
    models = partial(create_model, plan, timm.models.create_model)
    replacements: tuple[Replacement, ...] = (
        (timm, "create_model", models),
        (timm.models, "create_model", models),
        (timm.data, "create_loader", partial(create_loader, plan, recorder, timm.data.create_loader)),
        (timm.data, "create_naflex_loader", refuse_naflex),
        (timm.data, "Mixup", partial(SizedMixup, plan)),
        (timm.data, "FastCollateMixup", partial(SizedFastCollateMixup, plan)),
        (timm.data.loader, "ScheduledBatchSampler", StagedBatchSampler),
        (timm.data.loader, "create_transform", partial(create_transform, plan, timm.data.create_transform)),
        (timm.utils, "update_summary", partial(update_summary, recorder, timm.utils.update_summary)),
    )
    with replaced(replacements):
        yield recorder


def refuse_naflex(*args: Any, **kwargs: Any) -> None:
    """Stop a program that asks for timm's loader of sequences, which has no image size to schedule."""
    raise EffNetExtError("--naflex-loader trains on sequences, --progressive on image sizes: keep one of them")


def create_model(plan: Plan, original: Callable[..., Any], model_name: str, *args: Any, **kwargs: Any) -> Any:
    """Call timm's `create_model` and tie what the model drops to the plan."""
    depth = plan.strengths("drop_path")
    if depth is not None:
        kwargs["drop_path_rate"] = max(depth)
    model = original(model_name, *args, **kwargs)
    set_drop_rates(model, plan)
    return model


def update_summary(recorder: Recorder, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call timm's `update_summary` and bring our CSV beside its `filename` up to date."""
    original(*args, **kwargs)
    filename = kwargs["filename"] if "filename" in kwargs else args[3]
    recorder.write(Path(filename).parent)
