"""The last layer of a model, and which layers are trained."""

from __future__ import annotations

import torch
from torch import nn

from har_sweep.config.schema import Config


def set_train_mode(model: nn.Module, config: Config) -> None:
    """Training mode for what is trained; what is frozen stays in evaluation mode, lest its statistics drift."""
    if config.trainer.finetune == "full":
        model.train()
        return
    model.eval()
    for head in classifiers(model):
        head.train()


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The last layer; of distilled models, all of them; none of a model that does not say which it is, as timm's do."""
    find = getattr(model, "get_classifier", None)
    if find is None:
        return []
    found = find()
    return [found] if isinstance(found, nn.Module) else list(found)


def new_classifiers(model: nn.Module, seed: int) -> None:
    """Give every model a last layer as PyTorch starts one, which is what replacing it means in most people's scripts.

    timm's own start differs by family, and EfficientNet's grows as the classes get fewer: with four of them its logits
    are so large that the first epochs go into unlearning them.
    """
    torch.manual_seed(seed)
    for head in classifiers(model):
        for module in head.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
