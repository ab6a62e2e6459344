"""What a conversion is asked for, and what it reports: the two records that everyone around it works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from timm_effnet_ext.errors import EffNetExtError

WeightsKind = Literal["ema", "raw"]
ProofKind = Literal["reference", "graph", "plausibility"]

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many bytes or steps of it are done, and of how many."""


@dataclass(frozen=True)
class Options:
    """How to convert.

    Args:
        weights: Which to take from a checkpoint that has both: "ema", the averaged ones, or "raw".
        model: Model that was trained, where the file fits several. Of timm's names, one without `tf_` means PyTorch's
            padding and epsilon, one with `tf_` or `hucorz_` TensorFlow's.
        prefix: What stands before all names of the network, where a file holds several.
        headless: Leave the classifier out, whatever it is: a network that gives pooled features, or maps.
        label_names: One name for each class that is written; of one output the name of yes, or those of no and yes.
        multi_label: Each output is a class by itself, where the source does not say it.
        keep_background: Keep class 0 of 1001 instead of cutting it.
        pretrained_cfg: Entries of timm's pretrained_cfg that are known better than the file and the family say.
        knows: Who knows these entries, for the card.
        reference: .npz of what the source's own framework computed: `input` (B, H, W, C) as its model was trained with,
            or `images` of 0 … 255, and `output` (B, outputs) before the last activation.
        images: Folder of photos for the plausibility figure; without it those that installed packages bring.
        verify: Run the result before its folder appears.
        timm_native: Write timm's own `tf_*` architecture name.
        license: Licence of the weights, for the card: a Hub identifier such as "apache-2.0".
        num_classes: How many classes must come out; any number if None.
        origin: What the card calls the source, e.g. a URL; the path's last part if None.
        origin_version: Which version of it, e.g. the ETag of a download.
        repo_id: Where it will be published, for the card.
        overwrite: Replace what lies at the target.

    Raises:
        EffNetExtError: What is for verifying is given, and nothing shall be verified.
    """

    weights: WeightsKind = "ema"
    model: str | None = None
    prefix: str | None = None
    headless: bool = False
    label_names: Sequence[str] | None = None
    multi_label: bool = False
    keep_background: bool = False
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    knows: str = "given"
    reference: Path | None = None
    images: Path | None = None
    verify: bool = True
    timm_native: bool = False
    license: str | None = None
    num_classes: int | None = None
    origin: str | None = None
    origin_version: str | None = None
    repo_id: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.verify and (self.reference is not None or self.images is not None):
            raise EffNetExtError("--reference and --images are for verifying: leave out --no-verify")


@dataclass(frozen=True)
class Proof:
    """One way in which the result was verified, and what came out.

    Attributes:
        kind: "reference" (outputs that the user saved), "graph" (the layer graph in the file), or "plausibility"
            (statistics on photos: catches gross errors, not subtle ones).
        figures: Numbers by name, for people.
        detail: A sentence for the card.
    """

    kind: ProofKind
    figures: Mapping[str, float]
    detail: str


@dataclass(frozen=True)
class Report:
    """What was converted, from what, and how it was verified; `conversion.json` holds exactly this.

    Attributes:
        origin: What the source is called.
        sources: The sha256 of every file of it, by name.
        framework: "tensorflow", "keras" or "torch".
        format: How it is stored, for people.
        dialect: Whose names its tensors have.
        reason: Why this dialect and architecture.
        architecture: The registry's name, as `config.json` has it.
        arch: The name without prefix.
        model_args: Arguments of the model that differ from the architecture's.
        pretrained_cfg: timm's, as `config.json` has it.
        origins: Who says so, for every entry of `config.json` by its path, e.g. "pretrained_cfg.mean"; what nobody says
            begins with "assumed".
        num_classes: Outputs that were written; 0 without classifier.
        classes: What was done about the classes, a sentence.
        problem_type: What the outputs are, in transformers' word; None without classifier.
        label_names: Names by output, None where nobody said.
        weights: "ema" or "raw".
        step: The training step, where the source has one.
        counts: Variables by what became of them: used, of them from EMA, optimizer slots, …
        mapping: For every tensor its name here and there, the permutation of its axes, and its shape here.
        proofs: How it was verified; none without `verify`, or where there was nothing to verify with.
        weights_sha256: That of `model.safetensors`.
        versions: Of Python and of the packages that had a part in it.
        license: As it was given.
        origin_version: As it was given.
        notes: What the user should know, e.g. that there were no EMA weights, or what was assumed.
    """

    origin: str
    sources: Mapping[str, str]
    framework: str
    format: str
    dialect: str
    reason: str
    architecture: str
    arch: str
    model_args: Mapping[str, Any]
    pretrained_cfg: Mapping[str, Any]
    origins: Mapping[str, str]
    num_classes: int
    classes: str
    problem_type: str | None
    label_names: Sequence[str | None] | None
    weights: WeightsKind
    step: int | None
    counts: Mapping[str, int]
    mapping: Sequence[Mapping[str, Any]]
    proofs: Sequence[Proof]
    weights_sha256: str
    versions: Mapping[str, str]
    license: str | None = None
    origin_version: str | None = None
    notes: Sequence[str] = ()

    @property
    def verified(self) -> bool:
        """Whether the result was run and passed; `proofs` say how much that is worth."""
        return bool(self.proofs)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for json.dump."""
        return {**asdict(self), "verified": self.verified}
