"""Hugging Face's Trainer on an objective: the loss, plain evaluation, and a state that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from holdfast.core.store import atomic_path
from holdfast.train.objective import Objective
from holdfast.train.wrapping import rank

__all__ = ["ObjectiveTrainer"]


class ObjectiveTrainer(Trainer):  # type: ignore[misc]  # its type is not looked at, installed or not
    """A `transformers.Trainer` whose training loss is an objective's.

    Evaluation and prediction run the model as it is, without methods. The objective's state is saved in every
    checkpoint folder, one file for each process, and read when training resumes.

    Give ``remove_unused_columns=False`` and the names of the targets as ``label_names``, because the task reads the
    batch, and a ``data_collator`` that renames nothing, such as `torch.utils.data.default_collate`.

    Args:
        objective: whose ``prepare`` gave the model.
        arguments: of `transformers.Trainer`.
    """

    def __init__(self, *, objective: Objective, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.objective = objective
        # The trainer takes a model that accepts keywords for one that divides by the accumulated micro-batches itself.
        self.model_accepts_loss_kwargs = False
        self.add_callback(_Saving(objective))

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Tensor | tuple[Tensor, Any]:  # fmt: skip
        """The objective's loss in training; the task's own loss, with outputs, in evaluation."""
        if model.training:
            return self.objective(model, inputs)
        outputs = self.objective.task.forward(model, inputs)
        loss = self.objective.task.loss(outputs, inputs).mean()
        return (loss, outputs if isinstance(outputs, dict) else {"outputs": outputs}) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, **arguments: Any) -> Any:
        """Train, and resume the objective with the rest."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            state = torch.load(_path(resume_from_checkpoint), map_location=self.args.device, weights_only=True)
            self.objective.load_state_dict(state)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)


class _Saving(TrainerCallback):  # type: ignore[misc]  # its type is not looked at, installed or not
    """Saves the objective's state beside the trainer's."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with atomic_path(_path(folder)) as path:
            torch.save(self.objective.state_dict(), path)


def _path(folder: Any) -> Path:
    return Path(folder) / f"objective-{rank()}.pt"
