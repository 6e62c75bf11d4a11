"""Train, val and test: stratified by class, from the split's own seed, the same for every model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from har_sweep.data.sources.listing import Split, problems
from har_sweep.errors import InputError


def split(
    paths: Sequence[str], labels: NDArray[np.int64], hashes: Sequence[str], given: Sequence[Split | None],
    classes: Sequence[str], *, fractions: Mapping[str, float], seed: int,
) -> tuple[NDArray[np.str_], list[str]]:  # fmt: skip
    """Each image's split, ``[N]`` of 'train' and the names in ``fractions``, and notes for the user.

    A given split stands; what it lacks of ``fractions`` is drawn from its train images. Of each class
    round(n * fraction) images are drawn, at least one. Images with the same content (hash) stay together. The result
    depends on the paths, not on their order.

    Raises
    ------
    InputError
        naming each class with too few different images.
    """
    present = {s for s in given if s is not None}
    if present and "train" not in present:
        raise InputError(
            f"The given split has {' and '.join(sorted(present))} images but no train images.", "Name some 'train'."
        )
    draw = {name: share for name, share in fractions.items() if name not in present}
    result = np.array([s or "train" for s in given], dtype="<U5")
    order = np.argsort(np.array(paths, dtype=object), kind="stable")
    by_class: list[list[int]] = [[] for _ in classes]
    for i in order[result[order] == "train"].tolist():
        by_class[labels[i]].append(i)
    few = [
        f"{name}: {distinct}"
        for name, members in zip(classes, by_class, strict=True)
        if (distinct := len({hashes[i] for i in members})) < 1 + len(draw)
    ]
    if few:
        need = f"fewer than {1 + len(draw)} different images for {', '.join(['train', *draw])}"
        raise InputError(
            problems(few, f"class has {need}", f"classes have {need}"),
            "Add images to these classes, or leave the classes out.",
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn: dict[str, str] = {}
    for members in by_class:
        if draw:
            _draw(members, hashes, draw, generator, drawn)
    for members in by_class:
        for i in members:
            result[i] = drawn.get(hashes[i], "train")
    return result, _notes(present, draw, labels, hashes, result)


def watched(given: Sequence[Split | None]) -> list[Split | None]:
    """A given split of train and test, or of train and val, as one whose other part is 'val'.

    Raises
    ------
    InputError
        if it has both.
    """
    if {"val", "test"} <= set(given):
        raise InputError(
            "data.split=train_test, but the given split has both val and test images.",
            "Leave data.split at train_val_test, or take one of the two away.",
        )
    return ["val" if part == "test" else part for part in given]


def _draw(
    members: list[int], hashes: Sequence[str], fractions: dict[str, float], generator: np.random.Generator,
    drawn: dict[str, str],
) -> None:  # fmt: skip
    """Draw one class into ``drawn`` (content hash -> split), where pictures of other classes may be already."""
    count = Counter(hashes[i] for i in members)  # in the order of paths
    left = {name: max(1, round(len(members) * share)) for name, share in fractions.items()}
    while sum(left.values()) >= len(members):
        left[max(left, key=lambda name: left[name])] -= 1
    held: dict[str, list[str]] = {name: [] for name in ("train", *fractions)}
    own = [content for content in count if content not in drawn]
    free = set(own)
    for content in count:
        if name := drawn.get(content):
            held[name].append(content)
            if name != "train":
                left[name] -= count[content]
    for k in generator.permutation(len(own)):
        name = next((name for name in left if count[own[k]] <= left[name]), "train")
        if name != "train":
            left[name] -= count[own[k]]
        drawn[own[k]] = name
        held[name].append(own[k])
    for name in held:  # each picture may have too many copies for a small share
        if not held[name]:
            movable = [c for donor in held.values() if len(donor) > 1 for c in donor if c in free]
            if movable:
                content = min(movable, key=lambda c: count[c])
                held[drawn[content]].remove(content)
                held[name].append(content)
                drawn[content] = name


def _notes(
    present: set[Split], draw: dict[str, float], labels: NDArray[np.int64], hashes: Sequence[str],
    result: NDArray[np.str_],
) -> list[str]:  # fmt: skip
    notes = []
    if present and draw:
        notes.append(f"The given split has no {' and no '.join(draw)} images: drawn from its train images.")
    splits_of: dict[str, set[str]] = defaultdict(set)
    labels_of: dict[str, set[int]] = defaultdict(set)
    for i, content in enumerate(hashes):
        splits_of[content].add(str(result[i]))
        labels_of[content].add(int(labels[i]))
    if leaks := sum("train" in found and len(found) > 1 for found in splits_of.values()):
        many = "picture is" if leaks == 1 else "pictures are"
        notes.append(f"The given split leaks: {leaks:,} {many} both in train and in val or test.")
    if contradictions := sum(len(found) > 1 for found in labels_of.values()):
        many = "picture is" if contradictions == 1 else "pictures are"
        notes.append(f"{contradictions:,} {many} there more than once, under different labels.")
    return notes
