"""What a batch is learned from: its labels, and a teacher's answers to the same images beside them.

The arithmetic is that of ``timm.task`` 1.0.31: Hinton et al. 2015, arXiv:1503.02531; for features the mean squared
difference; the token is of Touvron et al. 2021, arXiv:2012.12877. Its tasks themselves will not do. They take the
student's normalisation from ``pretrained_cfg``, which is not the run's where ``model.mean`` says otherwise, and which a
``model._target_`` has not; they know no teacher of another input size; and in bf16 on a CPU they round the softmax to 8
bits: a loss of 0.0055 came out as 0.0036. Here it is taken in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.task.distillation import FeatureDistillationTrainableModule
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from har_sweep.config.schema import ObjectiveConfig, TrainerConfig
from har_sweep.device.compute import Compute
from har_sweep.errors import InputError
from har_sweep.model.head import classifiers
from har_sweep.model.teacher import build_teacher, drawing_apart
from har_sweep.spec.run_spec import RunSpec
from har_sweep.spec.weights import ModelPlan

Around = Callable[[], AbstractContextManager[None]]
WITH_TOKEN = (
    "deit_*_distilled_*", "pit_*_distilled_*", "levit_128*", "levit_192", "levit_256", "levit_384*",
    "efficientformer_*", "efficientformerv2_*", "iformer_*", "repvit_*", "swiftformer_*",
)  # fmt: skip
"""timm's models with a classifier for a teacher's answers beside the one for labels."""


class Objective:
    """What ``model`` learns. ``trained`` has all that gets gradients: the model, or for features the model and a
    ``projection`` beside it, which has no part in what the model answers."""

    def __init__(
        self, model: nn.Module, trainer: TrainerConfig, config: ObjectiveConfig | None = None,
        teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        self.model, self.trained = model, model
        self.projection: nn.Module | None = None
        self._criterion = nn.CrossEntropyLoss(label_smoothing=trainer.label_smoothing)
        self._config, self._teacher = config or ObjectiveConfig(), teacher

    def loss(self, forward: Callable[[Tensor], Any], inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of some images in nats; ``forward`` is that of ``trained``, as ranks or a compiler have it."""
        answer = forward(inputs)
        if self._teacher is None:
            return cast(Tensor, self._criterion(answer, targets))
        for_labels, for_teacher = (each.float() for each in (answer if isinstance(answer, tuple) else (answer,) * 2))
        taught = self._teacher(inputs)
        if self._config.kind == "features":
            distance = F.mse_loss(for_teacher, taught)
        else:
            distance = softened_divergence(for_teacher, taught, self._config.temperature or 1.0)
        weight = self._config.weight or 0.0
        return cast(Tensor, (1 - weight) * self._criterion(for_labels, targets) + weight * distance)


def softened_divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """The mean over images of KL(teacher || student) in nats, both at a temperature, times its square."""
    own, theirs = (F.log_softmax(each / temperature, dim=1) for each in (logits, taught))
    return F.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2


class Teacher:
    """A model's answers to what its student is shown (float32 [B, 3, size, size], normalised for the student), without
    gradients: it sees that at its own size, in its own normalisation. ``timed`` goes around them."""

    def __init__(
        self, answer: Callable[[Tensor], Tensor], plan: ModelPlan, student: ModelPlan, compute: Compute, timed: Around
    ) -> None:
        self._answer = torch.compile(answer) if compute.compiled else answer
        self._size, self._compute, self._timed = plan.input_size, compute, timed
        pairs = [*zip(student.mean, student.std, plan.mean, plan.std, strict=True)]
        self._scale, self._shift = (
            torch.tensor(values, dtype=torch.float32, device=compute.device).view(1, 3, 1, 1)
            for values in ([b / d for _, b, _, d in pairs], [(a - c) / d for a, _, c, d in pairs])
        )
        self._same = (student.mean, student.std) == (plan.mean, plan.std)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        with self._timed():
            return self._answer(self.seen(inputs)).float()

    def seen(self, inputs: Tensor) -> Tensor:
        """What the teacher is shown."""
        if inputs.shape[2:] != (self._size, self._size):
            inputs = TF.resize(inputs, [self._size, self._size], antialias=True)
        images = inputs if self._same else inputs * self._scale + self._shift
        return images.contiguous(memory_format=self._compute.memory_format)


def build_objective(
    model: nn.Module, spec: RunSpec, classes: int, compute: Compute, timed: Around = nullcontext
) -> Objective:
    """What a run's ``model``, on its device, learns; with a teacher where the run has one.

    Raises
    ------
    InputError
        if the model or the teacher lacks what ``objective.kind`` is about; as ``build_teacher``.
    RunFailure
        as ``build_teacher``.
    """
    config, plan = spec.config, spec.teacher
    if plan is None:
        return Objective(model, config.trainer)
    kind = config.objective.kind
    if kind == "token":
        _use_token(model, spec.model)
    module = compute.place(build_teacher(plan, classes, but_classifier=kind == "features"))
    answer: Callable[[Tensor], Tensor] = module
    if kind == "features":
        _check_features(module, f"teacher {plan.name}")

        def answer(images: Tensor) -> Tensor:
            return _features(module, images)

    objective = Objective(
        model, config.trainer, config.objective, Teacher(answer, plan.model, spec.model, compute, timed)
    )
    if kind == "features":
        _check_features(model, f"model {spec.model.timm_name}")
        own, taught = _feature_size(model, spec.model.input_size), _feature_size(module, plan.model.input_size)
        objective.projection = _projection(own, taught, config.seed).to(compute.device)
        objective.trained = WithProjection(model, objective.projection)
    return objective


class WithProjection(FeatureDistillationTrainableModule):
    """A student that gives its logits, and its features as its teacher has them; timm's, for its parameter groups."""

    def get_classifier(self) -> list[nn.Module]:
        """The student's."""
        return classifiers(self.student)


def _use_token(model: nn.Module, plan: ModelPlan) -> None:
    use: Any = getattr(model, "set_distilled_training", None)
    if use is None or not any(name.endswith("head_dist") for name, _ in model.named_modules()):
        raise InputError(
            f"objective.kind=token: {plan.timm_name} has no token, nor a second classifier, for a teacher's answers.",
            f"Of timm's {', '.join(WITH_TOKEN)} have; objective.kind=logits teaches any model.",
        )
    use(True)


def _check_features(model: nn.Module, whose: str) -> None:
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        raise InputError(
            f"objective.kind=features: the {whose} does not show its features.",
            "It needs forward_features(images) and forward_head(features, pre_logits=True), as timm's models have; "
            "objective.kind=logits teaches any.",
        )


def _features(model: Any, images: Tensor) -> Tensor:
    """Pooled, before the classifier: [B, features]."""
    features: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)
    return features


@torch.no_grad()
def _feature_size(model: nn.Module, input_size: int) -> int:
    training, device = model.training, next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        shape = _features(model.eval(), torch.zeros(1, 3, input_size, input_size, device=device)).shape
    model.train(training)
    return int(shape[-1])


def _projection(own: int, taught: int, seed: int) -> nn.Module:
    """From a student's features to as many as its teacher's, started by the seed alone."""
    if own == taught:
        return nn.Identity()
    with drawing_apart():
        torch.manual_seed(seed)
        return nn.Linear(own, taught)
