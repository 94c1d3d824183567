from __future__ import annotations

import torch

from holdfast.data.augment import CameraJitter

NOTHING = CameraJitter(gain=0, colour=0, bias=0, noise=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frame() -> dict[str, torch.Tensor]:
    image = torch.randint(0, 256, (3, 12, 16), generator=seeded(7)).to(torch.uint8)
    return {"image": image, "target": torch.tensor(1.0)}


def test_strength_zero_is_the_identity() -> None:
    assert torch.equal(NOTHING(frame(), seeded())["image"], frame()["image"])


def test_the_same_generator_gives_the_same_frame_and_leaves_the_sample_alone() -> None:
    sample = frame()
    changed = CameraJitter(rows_px=3)(sample, seeded(1))
    assert torch.equal(changed["image"], CameraJitter(rows_px=3)(frame(), seeded(1))["image"])
    assert torch.equal(sample["image"], frame()["image"])
    assert changed["image"].dtype == torch.uint8
    assert changed["target"] is sample["target"]
    assert not torch.equal(changed["image"], sample["image"])


def test_gain_stays_in_its_range() -> None:
    grey = {"image": torch.full((3, 4, 4), 100, dtype=torch.uint8)}
    jitter = CameraJitter(gain=0.5, colour=0, bias=0, noise=0)
    levels = [float(jitter(grey, seeded(i))["image"].float().mean()) for i in range(50)]
    assert 100 / 1.5 - 1 <= min(levels) < 80
    assert 125 < max(levels) <= 151


def test_rows_move_as_a_whole_and_repeat_at_the_edge() -> None:
    rows = {"image": torch.arange(12, dtype=torch.uint8).view(1, 12, 1).expand(3, 12, 16).contiguous()}
    jitter = CameraJitter(gain=0, colour=0, bias=0, noise=0, rows_px=3)
    shifts = set()
    for seed in range(30):
        column = jitter(rows, seeded(seed))["image"][0, :, 0].int()
        shift = int(column[6]) - 6
        assert column.tolist() == [min(max(row + shift, 0), 11) for row in range(12)]
        shifts.add(shift)
    assert shifts == {-3, -2, -1, 0, 1, 2, 3}
