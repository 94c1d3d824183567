"""Consistency methods on a classifier as a notebook would write them, with the attack given."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, kl_div


def kl(p_logits, q_logits):
    return kl_div(q_logits.log_softmax(1), p_logits.softmax(1), reduction="none").sum(1)


def reference_logits(model, x):
    """Logits in eval mode, the mode of crafting."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(x)
    model.train(training)
    return logits


def trades(model, x, y, x_adv, beta):
    clean = model(x)
    return cross_entropy(clean, y) + beta * kl(clean, model(x_adv)).mean()


def vat(model, x, y, x_adv, weight):
    clean = model(x)
    return cross_entropy(clean, y) + weight * kl(clean.detach(), model(x_adv)).mean()


def rst(model, x, y, u, u_labels, u_adv, weight, beta):
    on_labelled, on_unlabelled = model(x), model(u)
    extra = cross_entropy(on_unlabelled, u_labels) + beta * kl(on_unlabelled, model(u_adv)).mean()
    return cross_entropy(on_labelled, y) + weight * extra


def uat_ot(model, x, y, x_adv, u, u_adv, weight):
    """The consistency is a mean over labelled and unlabelled samples together."""
    clean, on_unlabelled = model(x), model(u)
    both = torch.cat([kl(clean.detach(), model(x_adv)), kl(on_unlabelled.detach(), model(u_adv))])
    return cross_entropy(clean, y) + weight * both.mean()
