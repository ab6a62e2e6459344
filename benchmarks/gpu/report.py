"""What a run on a GPU has found so far: printed at once, and in the files as it stands after each item."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bars import check_matplotlib, save_bars
from benchmarks.gpu.training import Verdict
from benchmarks.tables import Table, print_comparison, record
from timm_effnet_ext.errors import EffNetExtError
from timm_effnet_ext.files.storage import new_file


@dataclass
class Report:
    """The findings of one run, in `folder`/gpu.json and, where matplotlib is installed, gpu.png."""

    folder: Path
    machine: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)

    def add(self, found: Verdict | Table) -> None:
        """Take in what an item found, and print it."""
        if isinstance(found, Table):
            self.tables.append(found)
            print_comparison(found)
            return
        self.verdicts.append(found)
        missed = [str(off) for off in found.offs if not off.holds]
        print("; ".join([f"{'FAILS' if missed else 'holds'}: {found.law}", *missed]), flush=True)

    def end(self, item: str, outcome: str) -> None:
        """Take in how an item ended, print it unless it is done, and write the files."""
        self.outcomes[item] = outcome
        if outcome != "done":
            print(f"{item}: {outcome}", flush=True)
        self.write()

    @property
    def failed(self) -> list[str]:
        """Which laws do not hold, and which items were begun and did not end."""
        broken = [f"law: {verdict.law}" for verdict in self.verdicts if not verdict.holds]
        return broken + [item for item, outcome in self.outcomes.items() if outcome.startswith("failed")]

    def write(self) -> None:
        """Write both files, each whole or not at all."""
        laws = [
            {"law": v.law, "holds": v.holds, "found": [off._asdict() | {"holds": off.holds} for off in v.offs]}
            for v in self.verdicts
        ]
        tables = [record(table) for table in self.tables]
        result = {"machine": self.machine, "items": self.outcomes, "laws": laws, "tables": tables}
        with new_file(self.folder / "gpu.json") as part:
            part.write_text(json.dumps(result, indent=2))
        if self.tables and not self.lacks_picture:
            caption = ", ".join(f"{name} {value}" for name, value in self.machine.items())
            save_bars(self.tables, caption, self.folder / "gpu.png")

    @property
    def lacks_picture(self) -> str:
        """Why there is no picture; empty where there is one."""
        try:
            check_matplotlib()
        except EffNetExtError as err:
            return str(err)
        return ""
