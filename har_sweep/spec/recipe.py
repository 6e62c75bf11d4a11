"""Recipes that are known to fail, which planning says a word about."""

from __future__ import annotations

import re

from har_sweep.config.schema import Config
from har_sweep.spec.weights import ModelPlan, on_command_line

FEW_IMAGES = 5_000
HIGH_RATE = 1e-4
TRANSFORMERS = re.compile(r"(?:^|_)(vit|deit|deit3|beit|beitv2|eva|eva02|cait|xcit|swin|swinv2)(?:_|$)")


def doubt(config: Config, model: ModelPlan, images: int) -> str:
    """Why a run's recipe may fail on so many training images, and what to try; empty if nothing is known.

    A pretrained ViT at a constant 1e-4 on few images fell to 44 % in a trial where 3e-5 gave 80 %.
    """
    optimizer, scheduler = config.optimizer, config.scheduler
    high = optimizer.name in ("adam", "adamw") and optimizer.lr >= HIGH_RATE and optimizer.layer_decay is None
    unchanging = scheduler.name == "constant" and not scheduler.warmup_epochs
    whole = config.trainer.finetune == "full" and model.weights != "scratch"
    if not (high and unchanging and whole and images < FEW_IMAGES and TRANSFORMERS.search(model.timm_name)):
        return ""
    return (
        f"{config.model.name} at a constant learning rate of {optimizer.lr:g} on {images:,} images may forget what its "
        "weights know: in a trial such a recipe gave 44 % where 3e-5 gave 80 %. `python -m har_sweep.find_lr "
        f"{on_command_line(config.model)} ...` looks for a rate; optimizer=adamw_finetune scheduler=cosine is kinder."
    )
