"""Choices of a config that change what one deploys or pays for, in the words that plans and reports share."""

from __future__ import annotations

# By the config's key: what is said of its values. Of those that are usual nothing is.
CHOICES: dict[str, dict[str, str]] = {
    "trainer.finetune": {"head": "head only"},
    "objective.kind": {"logits": "distilled", "features": "distilled features", "token": "distilled by token"},
    "hardware.compile": {"True": "compiled"},
    "hardware.memory_format": {"contiguous": "contiguous memory"},
    "hardware.tf32": {"False": "no TF32"},
    "hardware.deterministic": {"True": "deterministic kernels"},
}


def choice_word(key: str, value: object) -> str:
    """What is said of a choice: ``head only``; nothing of the usual one, nor where it is not known."""
    return CHOICES[key].get(str(value), "")
