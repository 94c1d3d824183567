from __future__ import annotations

import pytest

from holdfast.attacks.fgm import FGM
from holdfast.attacks.fgsm import FGSM
from holdfast.attacks.fgsm_rs import FGSMRS
from holdfast.attacks.pgd import PGD
from holdfast.attacks.power_iteration import PowerIteration
from holdfast.core.errors import InputError, NoEffectError
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.freeat import FreeAT
from holdfast.methods.mixup import Mixup
from holdfast.methods.trades import TRADES
from holdfast.methods.uat import UAT
from holdfast.methods.vat import VAT
from holdfast.methods.yopo import YOPO
from holdfast.train.watched import gentler, gentler_method, watched


@pytest.mark.parametrize(
    ("method", "attack"),
    [
        (Adversarial(attack=FGSM(eps=2)), FGSM(eps=2)),
        (TRADES(attack=PGD(eps=3)), PGD(eps=3)),
        (UAT(variant="ot", attack=PGD(eps=3, norm="l2")), PGD(eps=3, norm="l2")),
        (VAT(attack=PowerIteration(eps=9)), PowerIteration(eps=9)),
        (FreeAT(eps=4), FGSM(eps=4)),
        (YOPO(first="0", eps=5), FGSM(eps=5)),
    ],
)
def test_what_is_watched(method, attack):
    assert watched([Mixup(), Adversarial(attack=FGM(), tap="0"), method]) == (2, attack)


def test_nothing_to_watch_is_refused():
    with pytest.raises(NoEffectError, match="no method attacks inputs"):
        watched([Mixup(), Adversarial(attack=FGM(), tap="0")])


@pytest.mark.parametrize(
    ("attack", "remedy", "expected"),
    [
        (FGSM(eps=4), "halve", PGD(eps=4, steps=2, random_start=False)),
        (FGSMRS(eps=4, norm="l2"), "two_steps", PGD(eps=4, steps=2, norm="l2")),
        (PGD(eps=4, alpha=2.0), "halve", PGD(eps=4, alpha=1.0)),
        (PGD(eps=4, steps=3), "two_steps", PGD(eps=4, steps=6)),
    ],
)
def test_gentler_attacks(attack, remedy, expected):
    assert gentler(attack, remedy) == expected


def test_gentler_methods():
    assert gentler_method(TRADES(beta=2, attack=PGD(eps=4, steps=3)), "two_steps") == TRADES(
        beta=2, attack=PGD(eps=4, steps=6)
    )
    assert gentler_method(YOPO(first="0"), "halve") == YOPO(first="0", alpha=1.0)
    assert gentler_method(YOPO(first="0"), "two_steps") == YOPO(first="0", steps=6)


@pytest.mark.parametrize("method", [FreeAT(), VAT()])
def test_no_gentler_form(method):
    with pytest.raises(InputError, match="no gentler form of"):
        gentler_method(method, "halve")
