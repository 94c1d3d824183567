from __future__ import annotations

import re
import subprocess

import pytest
from source import ROOT, label

# Written in pieces, so that this file does not find itself.
FOREIGN = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/[a-z]", "/Us" + "ers/", "/opt/wh" + "eels"]))
SILENCED = re.compile(r"#\s*(?:no" + r"qa(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?|type:\s*ig" + r"nore(?:\[[^]]*\])?)(.*)")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")


def tracked_texts() -> list[tuple[str, str]]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout: which files belong to the project is unknown")
    paths = [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    texts = []
    for path in paths:
        content = path.read_bytes()
        if b"\0" not in content:
            texts.append((label(path), content.decode("utf-8", errors="replace")))
    return texts


def lines_with(pattern: re.Pattern[str], *, suffix: str = "") -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_texts()
        if name.endswith(suffix)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_path_of_somebodys_machine() -> None:
    assert lines_with(FOREIGN) == []


def test_nothing_is_left_for_later() -> None:
    assert lines_with(UNFINISHED, suffix=".py") == []


def test_whatever_silences_a_checker_says_why() -> None:
    silencers = [(line, SILENCED.search(line)) for line in lines_with(SILENCED, suffix=".py")]
    assert [line for line, found in silencers if found and not re.search(r"\w", found[1])] == []
