"""The README's picture: the two-factor table of a finished run, baseline and recommended recipe.

python benchmarks/lanes_full/picture.py RUN docs/images/two_factor.svg src/holdfast/studies/lanes-full.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from holdfast.core.config import load_study
from holdfast.core.store import RunFolder
from holdfast.report.heatmap import two_factor_image
from holdfast.report.tables import two_factor
from holdfast.select.table import Table
from holdfast.select.verdict import judge

METRIC = "lateral_error_42m"


def main() -> None:
    run, target = Path(sys.argv[1]), Path(sys.argv[2])
    study = load_study(Path(sys.argv[3]))
    rows = RunFolder(run, writer=False).rows()
    verdict = judge(study, rows)
    shown = [c for c in (verdict.baseline, verdict.recommended) if c is not None]
    tables = [two_factor(study, Table(rows), candidate, METRIC) for candidate in dict.fromkeys(shown)]
    target.write_bytes(two_factor_image([t for t in tables if t is not None], form="svg"))


if __name__ == "__main__":
    main()
