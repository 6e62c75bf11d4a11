"""What a person would say of the results, and no more than the data carry."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from multirun_analysis.analysis.tuning import find_leads
from multirun_analysis.findings import Block, Comparison
from multirun_analysis.quantities import COSTS, Quantity

MOST = 12  # sentences of one kind; the tables have all


def sentences(block: Block, costs: Sequence[Quantity]) -> list[str]:
    """Of the front of the first cost, then of tuning."""
    return [*_of_front(block, costs), *_of_tuning(block)]


def _of_front(block: Block, costs: Sequence[Quantity]) -> list[str]:
    """The steps along the front, then who is dominated by whom, then what must be minded."""
    measured = block.means[block.accuracy.column].notna().tolist()
    known = [i for i, candidate in enumerate(block.candidates) if candidate.rows and measured[i]]
    if not known:
        return ["Nothing has been finished that could be compared."]
    if len(known) == 1:
        return [f"{block.labels[known[0]]} is alone: there is nothing to compare it with."]
    if not costs:
        return []
    said = []
    cost = costs[0]
    front = block.fronts[cost.column]
    members = sorted(map(int, np.flatnonzero(front.on)), key=lambda i: _spent(block, cost, i))
    value = block.means[cost.column].to_numpy()
    if np.ptp(value[front.known]) == 0:
        said.append(
            f"All have the same {cost.label}, {cost.text(value[front.known][0])}: only accuracy tells them apart."
        )
    for cheap, dear in itertools.pairwise(members):
        if block.means[block.accuracy.column].iat[cheap] != block.means[block.accuracy.column].iat[dear]:
            said.append(
                f"{block.labels[dear]}: {_gain(block, dear, cheap)} over {block.labels[cheap]} for "
                f"{_times(block, cost, dear, cheap)}; {certainty(block, dear, cheap)}."
            )
    dominated = [i for i in known if front.known[i] and not front.on[i]]
    for place in dominated[:MOST]:
        # Of those that dominate it, the most accurate: the one to take instead.
        better = next(i for i in members[::-1] if _spent(block, cost, i) <= _spent(block, cost, place))
        pair = _pair(block, better, place)
        verb = "dominates" if pair is not None and pair.certain else "is ahead of"
        said.append(
            f"{block.labels[better]} {verb} {block.labels[place]}: {_gain(block, better, place)}, at "
            f"{_times(block, cost, better, place)}; {certainty(block, better, place)}."
        )
    if len(dominated) > MOST:
        said.append(f"{len(dominated) - MOST} more are off the front of {cost.label}.")
    missing = [block.labels[i] for i in known if not front.known[i]]
    if missing:
        said.append(f"Without {cost.label}, and so not on this front: {_listed(missing)}.")
    return said


def _of_tuning(block: Block) -> list[str]:
    """Whose order depends on how much they were tuned."""
    said = []
    of_hours = COSTS["cost/device_hours"]
    for a, b in itertools.combinations(block.tuning, 2):
        first, second = block.tuning[a], block.tuning[b]
        leads = find_leads(first, second, block.selecting)
        if len(leads) < 2:
            continue
        since, first_leads = leads[-1]
        leader, other = (block.labels[i] for i in ((a, b) if first_leads else (b, a)))
        gap = block.selecting.difference(float(first.best[-1] - second.best[-1]) * (1 if first_leads else -1))
        hours = f"{of_hours.text(since)} {of_hours.label} of tuning"
        if len(leads) == 2:
            change = f"With less than {hours} {other} leads, beyond it {leader}"
        else:
            change = f"{leader} and {other} change places {len(leads) - 1} times; beyond {hours} {leader} leads"
        said.append(f"{change}: {gap} in {block.selecting.label} after all trials.")
    if len(said) > MOST:
        said[MOST:] = [f"{len(said) - MOST} more pairs change places with the cost of tuning."]
    return said


def certainty(block: Block, first: int, second: int) -> str:
    """Whether the data carry that two candidates differ, with the p and what it stands on."""
    pair = _pair(block, first, second)
    if pair is None:
        return "whether that is more than chance was not tested"
    if pair.p is None:
        return (
            f"whether that is more than chance was not tested ({pair.reason})"
            if pair.reason
            else "not tested: one run each"
        )
    p = "p < 0.001" if pair.p < 0.001 else f"p = {pair.p:.2g}"
    single = min(len(block.candidates[i].rows) for i in (first, second)) == 1
    scope = ", for these runs: one of them was trained once" if single and "McNemar" in pair.test else ""
    return f"the difference is certain ({p}{scope})" if pair.certain else f"the difference is not certain ({p})"


def _pair(block: Block, first: int, second: int) -> Comparison | None:
    return next((c for c in block.comparisons if {c.first, c.second} == {first, second}), None)


def _spent(block: Block, cost: Quantity, place: int) -> float:
    return float(block.means[cost.column].iat[place]) * (-1 if cost.goal == "max" else 1)


def _gain(block: Block, first: int, second: int) -> str:
    values = block.means[block.accuracy.column]
    return block.accuracy.difference(float(values.iat[first] - values.iat[second]))


def _times(block: Block, cost: Quantity, first: int, second: int) -> str:
    """``8.2 times the training time``, or the two values where there is no ratio."""
    a, b = (float(block.means[cost.column].iat[i]) for i in (first, second))
    if a > 0 and b > 0:
        ratio = a / b
        return f"{ratio:.1f} times the {cost.label}" if ratio >= 0.95 else f"{ratio:.2g} times the {cost.label}"
    return f"{cost.text(a)} instead of {cost.text(b)} {cost.label}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
