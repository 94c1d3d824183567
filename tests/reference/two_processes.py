"""Runs a script as two processes that meet over gloo, and gives back what the first one prints as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def on_two_ranks(script: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    """``script RANK MEETING ARGUMENTS...`` for ranks 0 and 1; the last line that rank 0 prints, parsed."""
    command = [sys.executable, str(script)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(folder / "meeting"), *arguments], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=560) for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), outputs[0][1] + outputs[1][1]
    result: dict[str, Any] = json.loads(outputs[0][0].splitlines()[-1])
    return result
