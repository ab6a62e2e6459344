"""The model card: README.md with the Hub's metadata, from a conversion's report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from timm_effnet_ext.arch.rows import PREFIX
from timm_effnet_ext.convert.records import Report
from timm_effnet_ext.errors import plain
from timm_effnet_ext.files.hub_format import PREPROCESSING, REGRESSION, activation_of, to_json
from timm_effnet_ext.files.hub_name import is_hub_name, parse_hub_name

# What each kind of proof is worth, in words for whoever reads the card.
_WORTH = {
    "reference": "Outputs that the source's framework gave were compared with this model's.",
    "graph": "The layer graph that the source file carries was evaluated and compared with this model.",
    "plausibility": (
        "The source carries no layer graph and no outputs of it were given, so nothing was compared. Whether the "
        "BatchNorm statistics describe the activations on photos tells gross errors (layout, scaling), not subtle "
        "ones: trained networks were seen at 0.2 to 0.4."
    ),
}
# Entries of timm's pretrained_cfg, in the order in which they are listed.
_TITLES = {
    "input_size": "Image (channels, height, width)", "test_input_size": "Image for testing",
    "interpolation": "Interpolation", "crop_pct": "Crop", "crop_mode": "Crop mode", "mean": "Mean", "std": "Std",
}  # fmt: skip


def model_card(report: Report, repo: str | None = None) -> str:
    """Return the card; `repo` is where the folder will be published, if it is known."""
    return "\n\n".join([_metadata(report), *_sections(report, repo)]) + "\n"


def _metadata(report: Report) -> str:
    """Return the YAML header; JSON values are YAML too."""
    task = "image-classification" if report.num_classes else "image-feature-extraction"
    tags = [task, "timm", "efficientnet", *(["timm_effnet_ext"] if _needs_us(report) else [])]
    data = {"library_name": "timm", "pipeline_tag": task, "tags": tags}
    if report.license:
        data["license"] = report.license
    return "\n".join(["---", *(f"{key}: {to_json(value)}" for key, value in data.items()), "---"])


def _sections(report: Report, repo: str | None) -> Iterator[str]:
    yield f"# {report.architecture}"
    yield (
        "EfficientNet weights for [timm](https://github.com/huggingface/pytorch-image-models), converted from "
        f"{_origin(report)} ({report.format}) by timm_effnet_ext."
    )
    yield "## How to use"
    yield f"```python\n{_usage(report, repo)}\n```"
    yield _table("Model", _facts(report))
    yield "## Verification"
    for proof in report.proofs:
        yield f"{_WORTH[proof.kind]}\n\n{proof.detail[:1].upper()}{proof.detail[1:]}."
    if not report.proofs:
        yield "**Nothing was verified**: this model has not been run."
    yield _table("Source", _provenance(report))
    if report.notes:
        yield "## Notes\n\n" + "\n".join(f"- {note}" for note in report.notes)
    yield "`conversion.json` lists the name, layout and shape of every tensor there and here."


def _origin(report: Report) -> str:
    """Return what the source is called, with a way to it where it lies on the Hub."""
    is_there = is_hub_name(report.origin)
    return f"[`{report.origin}`]({parse_hub_name(report.origin).url})" if is_there else f"`{report.origin}`"


def _needs_us(report: Report) -> bool:
    return report.architecture.startswith(PREFIX)


def _usage(report: Report, repo: str | None) -> str:
    where = f"hf-hub:{repo}" if repo else "local-dir:FOLDER"
    made = "logits" if report.num_classes else "maps" if report.model_args.get("features_only") else "features"
    plugin = "import timm_effnet_ext  # registers the model\n" if _needs_us(report) else ""
    return (
        f'import timm\n{plugin}\nmodel = timm.create_model("{where}", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        f"{made} = model(transform(image).unsqueeze(0))  # image: PIL"
    )


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what the model is; behind each value stands who says so."""
    cfg, said = report.pretrained_cfg, report.origins
    yield "Architecture", f"`{report.architecture}`"
    for name, value in report.model_args.items():
        yield "Argument", f"`{name}={value!r}` ({said[f'model_args.{name}']})"
    yield "Outputs", report.classes
    if report.problem_type is not None:
        yield "Probabilities", _probabilities(report)
    if report.label_names is not None:
        yield "Classes", _first_names(report.label_names)
    for name in PREPROCESSING:
        if name in cfg:
            yield _TITLES[name], f"{_shown(cfg[name])} ({said[f'pretrained_cfg.{name}']})"
    if report.license:
        yield "Licence", report.license
    elif is_hub_name(report.origin):
        yield "Licence", "not stated; the source's own card may have one"


def _probabilities(report: Report) -> str:
    """Return how logits become probabilities."""
    if report.problem_type == REGRESSION:
        return "none: the outputs are numbers (`regression`)"
    function = activation_of(report.problem_type or "", report.num_classes)
    return f"`{'logits.sigmoid()' if function == 'sigmoid' else 'logits.softmax(-1)'}` (`{report.problem_type}`)"


def _first_names(names: Sequence[str | None], limit: int = 20) -> str:
    shown = ", ".join(f"{i}: {plain(name or '–')}" for i, name in enumerate(names[:limit]))
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in config.json)"


def _provenance(report: Report) -> Iterator[tuple[str, str]]:
    yield "Source", f"{_origin(report)} ({report.format})"
    yield "Names", report.reason
    kind = "EMA" if report.weights == "ema" else "as trained, not averaged"
    yield "Weights", f"{kind}{'' if report.step is None else f', step {report.step}'}"
    yield "Variables", ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in report.counts.items() if count)
    for name, digest in report.sources.items():
        yield f"sha256 of {name}", f"`{digest}`"
    yield "Versions", ", ".join(f"{name} {number}" for name, number in report.versions.items())


def _table(title: str, rows: Iterator[tuple[str, str]]) -> str:
    cells = ((name, text.replace("|", "\\|").replace("\n", " ")) for name, text in rows)
    lines = [f"| {name} | {cell} |" for name, cell in cells]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines])


def _shown(value: Any) -> str:
    """Return a setting for people, its numbers in full."""
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
