"""What training images go through: torchvision's transforms, batched, with a draw of its own for every image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as T
from torchvision.transforms.v2 import functional as TF

from har_sweep.config.schema import AugmentationConfig
from har_sweep.train import augmentation, randaugment
from har_sweep.train.augmentation import augment, normalise

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# Under these, normalised images still hold the pixels 0 to 255.
NO_MEAN, RAW_STD = [0.0] * 3, [1 / 255] * 3


def config(**keys: Any) -> AugmentationConfig:
    return AugmentationConfig(**{"horizontal_flip": 0.0, "rotation_degrees": 0.0, **keys})


def noise(count: int = 4, height: int = 32, width: int | None = None) -> torch.Tensor:
    shape = (count, height, width or height, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def smooth(count: int = 4, side: int = 64) -> torch.Tensor:
    """Images without edges, so that a pixel's error shows a wrong place rather than a wrong rounding."""
    coarse = noise(count, 6).permute(0, 3, 1, 2)
    return TF.resize(coarse, [side, side], InterpolationMode.BICUBIC).permute(0, 2, 3, 1).contiguous()


def raw(images: torch.Tensor, chosen: AugmentationConfig, size: int | None = None, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(len(images), dtype=torch.int64)
    return augment(images, labels, chosen, size or images.shape[1], NO_MEAN, RAW_STD, generator, 3)[0]


def nchw(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()


def test_normalise_is_torchvisions() -> None:
    images = noise()
    expected = TF.normalize(images.permute(0, 3, 1, 2) / 255, MEAN, STD)
    result = normalise(images, MEAN, STD)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"horizontal_flip": 0.5},
        {"rotation_degrees": 15.0},
        {"crop_scale": [0.1, 1.0]},
        {"randaugment_ops": 2},
        {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
    ],
    ids=lambda keys: next(iter(keys), "none"),
)
def test_every_recipe_gives_float32_channels_last_of_the_input_size_and_leaves_its_input(keys: dict[str, Any]) -> None:
    images = noise(3, 48)
    before = images.clone()
    for size in (32, 48):
        result = raw(images, config(**keys), size)
        assert (result.shape, result.dtype) == ((3, 3, size, size), torch.float32)
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert result.min() >= 0
        assert result.max() <= 255.001
    assert torch.equal(images, before)


def test_nothing_on_changes_no_pixel_and_resizes_as_torchvision_does() -> None:
    images = noise(2, 48)
    torch.testing.assert_close(raw(images, config()), nchw(images), rtol=0, atol=1e-4)
    expected = TF.resize(images.permute(0, 3, 1, 2), [32, 32], antialias=True).float()
    torch.testing.assert_close(raw(images, config(), 32), expected, rtol=0, atol=1e-4)


def test_a_flip_is_exact_and_drawn_for_every_image() -> None:
    images = noise(2000, 4)
    result, plain = raw(images, config(horizontal_flip=0.3)).round(), nchw(images)
    flipped = (result == plain.flip(3)).flatten(1).all(1)
    kept = (result == plain).flatten(1).all(1)
    assert bool((flipped ^ kept).all())
    assert 0.27 < flipped.float().mean() < 0.33  # 3 standard deviations
    assert torch.equal(raw(images, config(horizontal_flip=1.0)).round(), plain.flip(3))


@pytest.mark.parametrize("degrees", [-120.0, -15.0, 7.0, 45.0])
def test_a_rotation_is_torchvisions_in_sense_and_centre(degrees: float) -> None:
    images = smooth()
    box, angle = np.tile([0.0, 0.0, 1.0, 1.0], (4, 1)), np.full(4, np.radians(degrees))
    result = augmentation._resample(images.permute(0, 3, 1, 2), box, np.zeros(4, bool), angle, 64)
    expected = TF.rotate(nchw(images), degrees, InterpolationMode.BILINEAR)
    torch.testing.assert_close(result, expected, rtol=0, atol=0.05)


def test_crop_flip_and_rotation_together_are_torchvisions_one_after_the_other() -> None:
    images = smooth(1)
    box, angle = np.array([[10, 4, 40, 50]]) / 64, np.radians([20.0])
    result = augmentation._resample(images.permute(0, 3, 1, 2), box, np.ones(1, bool), angle, 48)
    cropped = TF.resized_crop(nchw(images), 10, 4, 40, 50, [48, 48], antialias=False)
    expected = TF.rotate(cropped.flip(3), 20.0, InterpolationMode.BILINEAR)
    y, x = torch.meshgrid(torch.arange(48) - 23.5, torch.arange(48) - 23.5, indexing="ij")
    disc = (x**2 + y**2) < 22**2  # outside, one resampling still sees pixels beyond the crop
    assert (result - expected)[..., disc].abs().max() < 3  # of 255; two interpolations blur more than one


def test_angles_are_drawn_for_every_image_from_both_signs_up_to_the_limit() -> None:
    """A ramp from left to right, turned by a, has the slope cos(a) along x and sin(a) along y at its centre."""
    ramp = (torch.arange(64, dtype=torch.uint8) * 4).expand(300, 64, 64)[..., None].expand(-1, -1, -1, 3)
    turned = raw(ramp.contiguous(), config(rotation_degrees=30.0))[:, 0, 24:40, 24:40]
    along_x, along_y = turned.diff(dim=2).mean((1, 2)), turned.diff(dim=1).mean((1, 2))
    degrees = torch.rad2deg(torch.atan2(along_y, along_x))
    assert len(degrees.round(decimals=3).unique()) > 290
    assert -30.1 < degrees.min() < -27
    assert 27 < degrees.max() < 30.1
    assert abs(degrees.mean()) < 3.5  # the mean of 300 has a standard deviation of 1


def test_corners_turned_in_are_exactly_black() -> None:
    white = torch.full((8, 64, 64, 3), 255, dtype=torch.uint8)
    generator, labels = torch.Generator().manual_seed(3), torch.zeros(8, dtype=torch.int64)
    result, _ = augment(white, labels, config(rotation_degrees=45.0), 64, MEAN, STD, generator, 2)
    black = normalise(torch.zeros_like(white), MEAN, STD)
    assert torch.equal(result.amin((0, 2, 3)), black.amin((0, 2, 3)))
    assert torch.equal(black[0, :, 0, 0], torch.from_numpy(-np.array(MEAN) / np.array(STD)).float())


def test_a_crop_is_torchvisions() -> None:
    images = smooth()
    boxes = [(0, 0, 64, 64), (8, 16, 40, 20), (32, 1, 30, 60), (10, 10, 11, 9)]
    result = augmentation._resample(
        images.permute(0, 3, 1, 2), np.array(boxes) / 64, np.zeros(4, bool), np.zeros(4), 64
    )
    for image, (top, left, height, width), crop in zip(nchw(images), boxes, result, strict=True):
        expected = TF.resized_crop(image, top, left, height, width, [64, 64], antialias=False)
        # At the rim torchvision repeats the crop's own pixels where the image's neighbouring ones are seen here.
        rim = 1 + 64 // (2 * min(height, width))
        inner = slice(rim, 64 - rim)
        torch.testing.assert_close(crop[:, inner, inner], expected[:, inner, inner], rtol=0, atol=0.05)


def test_a_crop_of_a_white_image_is_white_to_its_rim() -> None:
    white = torch.full((16, 40, 40, 3), 255, dtype=torch.uint8)
    assert raw(white, config(crop_scale=[0.1, 1.0]), 64).min() > 254.9


def boxes(count: int, height: int, width: int, scale: list[float], ratio: list[float]) -> np.ndarray:
    return augmentation._crop_boxes(count, height, width, scale, ratio, np.random.default_rng(0))


def test_crop_boxes_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    ours = boxes(4000, 96, 128, [0.08, 1.0], [3 / 4, 4 / 3])
    image = torch.empty(3, 96, 128)
    theirs = np.array([list(T.RandomResizedCrop(8).make_params([image]).values()) for _ in range(2000)])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= 96).all()
    assert (ours[:, 1] + ours[:, 3] <= 128).all()
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.06)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.08)


def test_a_crop_that_cannot_fit_is_the_largest_central_one() -> None:
    assert boxes(2, 100, 300, [1.0, 1.0], [0.75, 4 / 3]).tolist() == [[0, 83, 100, 133]] * 2
    assert boxes(1, 300, 100, [1.0, 1.0], [0.5, 0.5]).tolist() == [[50, 0, 200, 100]]
    assert boxes(1, 64, 64, [1.0, 1.0], [1.0, 1.0]).tolist() == [[0, 0, 64, 64]]


@pytest.mark.parametrize("magnitude", [0, 9, 21, 30])
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_each_operation_of_randaugment_is_torchvisions(
    name: str, magnitude: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = T.RandAugment(magnitude=magnitude)
    assert list(randaugment.OPERATIONS) == list(theirs._AUGMENTATION_SPACE)
    strengths, signed = theirs._AUGMENTATION_SPACE[name]
    value = 0.0 if strengths(31, 48, 48) is None else float(strengths(31, 48, 48)[magnitude])
    images = smooth(8, 48)
    monkeypatch.setattr(randaugment, "OPERATIONS", {name: randaugment.OPERATIONS[name]})
    results = raw(images, config(randaugment_ops=1, randaugment_magnitude=magnitude))
    signs = set()
    for image, result in zip(images.permute(0, 3, 1, 2), results, strict=True):
        expected = {
            sign: theirs._apply_image_or_video_transform(image, name, sign * value, InterpolationMode.NEAREST, {})
            for sign in ((1, -1) if signed else (1,))
        }
        # A strength that torchvision has in float32 and we in float64 may take another neighbour, or round otherwise.
        same = {s for s, e in expected.items() if ((result - e).abs() > 1.01).float().mean() < 0.01}
        assert same
        signs |= same
    assert signs == ({1, -1} if signed else {1})


def test_randaugment_draws_for_every_image_and_uses_every_operation() -> None:
    image = smooth(1, 32)
    result = raw(image.expand(400, -1, -1, -1).contiguous(), config(randaugment_ops=1))
    seen = {row.numpy().tobytes() for row in result.round().to(torch.uint8)}
    signed = sum(operation.signed for operation in randaugment.OPERATIONS.values())
    assert 14 < len(seen) <= 14 + signed
    untouched = (result == raw(image, config())).flatten(1).all(1).float().mean()
    assert untouched < 0.25  # Identity is one of 14; on this image a few others change nothing either


@pytest.mark.parametrize(
    "keys", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}]
)
def test_mixed_images_and_targets_have_the_same_shares(keys: dict[str, Any]) -> None:
    """Image i is filled with the colour i and has label i: its mean colour must be its target's."""
    count = 64
    images = (torch.arange(count, dtype=torch.uint8) * 4)[:, None, None, None].expand(-1, 32, 32, 3).contiguous()
    generator, labels = torch.Generator().manual_seed(0), torch.arange(count)
    result, targets = augment(images, labels, config(**keys), 32, NO_MEAN, RAW_STD, generator, count)
    assert targets.shape == (count, count)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert bool((targets >= 0).all())
    assert bool((targets > 0).sum(1).le(2).all())
    torch.testing.assert_close(result.mean((1, 2, 3)), (targets * labels * 4).sum(1), rtol=0, atol=0.01)
    own = targets.diagonal()
    assert len(own.unique()) > count // 2  # a share for every image
    cut = torch.tensor([len(image.unique()) > 1 for image in result.round()])
    pasted = 32 * 32 * (1 - own)
    if keys == {"cutmix_alpha": 1.0}:
        torch.testing.assert_close(pasted, pasted.round(), rtol=0, atol=1e-3)  # whole pixels
        assert cut.float().mean() > 0.8
    elif keys == {"mixup_alpha": 0.4}:
        assert not cut.any()
    else:
        assert 0.25 < cut.float().mean() < 0.75


def test_shares_follow_beta() -> None:
    images, labels = torch.zeros(4000, 2, 2, 3, dtype=torch.uint8), torch.arange(4000) % 2
    generator = torch.Generator().manual_seed(0)
    _, targets = augment(images, labels, config(mixup_alpha=0.2), 2, MEAN, STD, generator, 2)
    mixed = targets.amax(1) < 1  # the others met a partner of their own class
    own = targets[torch.arange(4000), labels][mixed]
    assert abs(own.mean() - 0.5) < 0.03
    assert abs(own.var() - 1 / (4 * (2 * 0.2 + 1))) < 0.015  # of Beta(a, a)


def test_without_mixing_targets_are_the_labels() -> None:
    labels = torch.tensor([2, 0, 1, 2])
    assert augment(noise(), labels, config(), 32, MEAN, STD, torch.Generator(), 3)[1] is labels


MIXED = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
GEOMETRIC = {"horizontal_flip": 0.5, "rotation_degrees": 15.0, "crop_scale": [0.2, 1.0]}
ALL = {**GEOMETRIC, "randaugment_ops": 2, **MIXED}


def test_the_same_seed_gives_the_same_bits_and_the_next_batch_others() -> None:
    labels = torch.tensor([0, 1, 2, 0])

    def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return augment(noise(4, 48), labels, config(**ALL), 32, MEAN, STD, generator, 3)

    generator = torch.Generator().manual_seed(7)
    first, again = batch(generator), batch(torch.Generator().manual_seed(7))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    state = generator.get_state()
    second = batch(generator)
    assert not torch.equal(first[0], second[0])
    generator.set_state(state)
    assert torch.equal(second[0], batch(generator)[0])


def test_no_other_random_state_is_used() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    augment(noise(), torch.zeros(4).long(), config(**ALL), 32, MEAN, STD, torch.Generator(), 3)
    assert torch.equal(before, torch.get_rng_state())
    assert numpy_before == repr(np.random.get_state(legacy=False))


@pytest.mark.gpu
@pytest.mark.parametrize("keys", [{}, {**GEOMETRIC, **MIXED}], ids=["none", "all"])
def test_cuda_gives_the_cpus_images_and_never_waits(keys: dict[str, Any]) -> None:
    images, labels = smooth(8, 96), torch.arange(8) % 3
    on_cpu = augment(images, labels, config(**keys), 64, MEAN, STD, torch.Generator().manual_seed(5), 3)
    images, labels = images.cuda(), labels.cuda()
    for mode in ("default", "error"):  # the first call only loads kernels
        torch.cuda.set_sync_debug_mode(mode)
        try:
            on_gpu = augment(images, labels, config(**keys), 64, MEAN, STD, torch.Generator().manual_seed(5), 3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0], rtol=0, atol=0.03 if not keys else 2e-3)
    torch.testing.assert_close(on_gpu[1].cpu(), on_cpu[1])
    assert on_gpu[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
def test_randaugment_on_cuda_is_that_of_the_cpu() -> None:
    images, labels = smooth(32, 64), torch.zeros(32, dtype=torch.int64)
    chosen = config(randaugment_ops=2)
    on_cpu, on_gpu = (
        augment(images.to(d), labels.to(d), chosen, 64, NO_MEAN, RAW_STD, torch.Generator().manual_seed(5), 3)[0].cpu()
        for d in ("cpu", "cuda")
    )
    # A value that rounds the other way before equalising may move a pixel by more than 1.
    assert ((on_cpu - on_gpu).abs() > 1.5).float().mean() < 0.01
