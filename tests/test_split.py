"""The split is stratified, the same for every model and order of listing, and keeps copies of a picture together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from har_sweep.data.sources.listing import Split
from har_sweep.data.split import split
from har_sweep.errors import InputError


def divided(
    labels: Sequence[int], hashes: Sequence[str] | None = None, parts: Sequence[Split | None] | None = None,
    paths: Sequence[str] | None = None, val: float = 0.15, test: float = 0.15, seed: int = 0,
) -> tuple[NDArray[np.str_], list[str]]:  # fmt: skip
    n = len(labels)
    return split(
        paths or [f"{i:05d}.jpg" for i in range(n)],
        np.array(labels, np.int64),
        hashes or [str(i) for i in range(n)],
        parts or [None] * n,
        [f"class_{i}" for i in range(max(labels) + 1)],
        fractions={"val": val, "test": test}, seed=seed,
    )  # fmt: skip


def counts(result: NDArray[np.str_], labels: Sequence[int], label: int) -> tuple[int, int, int]:
    found = Counter(str(part) for part, other in zip(result, labels, strict=True) if other == label)
    return found["train"], found["val"], found["test"]


def test_840_images_a_class_give_588_126_126() -> None:
    labels = [label for label in range(15) for _ in range(840)]
    result, notes = divided(labels)
    assert {counts(result, labels, label) for label in range(15)} == {(588, 126, 126)}
    assert Counter(result.tolist()) == {"train": 8820, "val": 1890, "test": 1890}
    assert notes == []


@pytest.mark.parametrize(("n", "expected"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (10, (6, 2, 2)), (20, (14, 3, 3))])
def test_small_classes_have_one_of_each_at_least(n: int, expected: tuple[int, int, int]) -> None:
    labels = [0] * n + [1] * 50
    assert counts(divided(labels)[0], labels, 0) == expected


def test_large_shares_leave_an_image_to_train_on() -> None:
    labels = [0] * 4 + [1] * 4
    assert counts(divided(labels, val=0.45, test=0.45)[0], labels, 0) == (1, 1, 2)


def test_the_split_does_not_depend_on_the_order_of_listing() -> None:
    labels = [i % 3 for i in range(90)]
    paths = [f"{i * 7919 % 90:03d}.jpg" for i in range(90)]
    hashes = [f"content {i // 2}" for i in range(90)]
    first = dict(zip(paths, divided(labels, hashes, paths=paths)[0].tolist(), strict=True))
    order = np.random.default_rng(1).permutation(90)
    again, _ = divided([labels[i] for i in order], [hashes[i] for i in order], paths=[paths[i] for i in order])
    assert dict(zip([paths[i] for i in order], again.tolist(), strict=True)) == first


def test_its_own_seed_changes_it_and_nothing_else_does() -> None:
    labels = [i % 3 for i in range(90)]
    np.random.seed(1)
    first, _ = divided(labels)
    np.random.seed(2)
    assert (divided(labels)[0] == first).all()
    assert (divided(labels, seed=1)[0] != first).any()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_copies_of_a_picture_stay_together_and_every_class_is_in_every_split(data: st.DataObject) -> None:
    labels: list[int] = []
    hashes: list[str] = []
    for label in range(data.draw(st.integers(2, 3))):
        for picture, copies in enumerate(data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=12))):
            labels += [label] * copies
            hashes += [f"{label} {picture}"] * copies
    result, notes = divided(labels, hashes, val=data.draw(st.floats(0.05, 0.4)), test=data.draw(st.floats(0.05, 0.4)))
    parts = defaultdict(set)
    for content, part in zip(hashes, result.tolist(), strict=True):
        parts[content].add(part)
    assert all(len(found) == 1 for found in parts.values())
    assert all(min(counts(result, labels, label)) >= 1 for label in set(labels))
    assert notes == []


def test_a_picture_under_two_labels_stays_together_and_is_told() -> None:
    labels = [0] * 20 + [1] * 20
    hashes = [str(i) for i in range(20)] + [str(i + 15) for i in range(20)]  # five pictures are in both classes
    for seed in range(20):
        result, notes = divided(labels, hashes, seed=seed)
        assert all(result[15 + i] == result[20 + i] for i in range(5))
        assert notes == ["5 pictures are there more than once, under different labels."]


def test_every_class_with_too_few_different_pictures_is_named() -> None:
    labels = [0, 0, 1, 1, 1, 1, 2, 2, 2]
    with pytest.raises(InputError) as e:
        divided(labels, ["a", "b", "c", "c", "d", "d", "e", "f", "g"])
    assert "2 classes have fewer than 3 different images" in e.value.message
    assert "class_0: 2" in e.value.message
    assert "class_1: 2" in e.value.message
    assert "class_2" not in e.value.message


def test_a_given_split_wins() -> None:
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    given: list[Split | None] = ["test", "val", "train", "train", "train", "test", "val", "test"]
    result, notes = divided(labels, parts=given)
    assert result.tolist() == given
    assert notes == []


def test_what_a_given_split_lacks_is_drawn_from_its_train_images_and_told() -> None:
    labels = [0] * 30 + [1] * 30
    given: list[Split | None] = (["train"] * 20 + ["test"] * 10) * 2  # type: ignore[assignment]
    result, notes = divided(labels, parts=given)
    assert counts(result, labels, 0) == counts(result, labels, 1) == (17, 3, 10)
    assert [part == "test" for part in result] == [part == "test" for part in given]
    assert notes == ["The given split has no val images: drawn from its train images."]


def test_a_given_split_that_leaks_is_told_and_one_without_train_is_refused() -> None:
    labels = [0] * 4 + [1] * 4
    parts: list[Split | None] = ["train", "train", "val", "test"] * 2
    result, notes = divided(labels, ["a", "b", "a", "c", "d", "e", "f", "g"], parts=parts)
    assert result.tolist() == parts
    assert notes == ["The given split leaks: 1 picture is both in train and in val or test."]
    with pytest.raises(InputError, match="no train images"):
        divided(labels, parts=["val", "test"] * 4)
