"""What a person would say of the results, and no more than the data carry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from multirun_analysis.analysis.busy import CAUSE as BUSY
from multirun_analysis.analysis.claims import Claim, claims_along
from multirun_analysis.analysis.crossed import POWER
from multirun_analysis.analysis.tuning import find_leads
from multirun_analysis.findings import Block, Comparison
from multirun_analysis.quantities import COSTS, Quantity, plural
from multirun_analysis.sources.runs import some

MOST = 12  # sentences on one cost; the tables have all
MOST_STEPS = 5  # of them along the front
MOST_FAMILY_PAIRS = 2
MOST_NAMED = 8


def claims_of(block: Block, cost: Quantity) -> list[Claim]:
    """What is claimed of the front of one cost; who is dominated only of those that were compared in pairs or are
    nearest to the front, and not by what was made of the same trainings."""
    accuracy, spent = (block.means[axis.column].to_numpy(float, copy=True) for axis in (block.accuracy, cost))
    spent[block.aside.get(cost.column, [])] = np.nan
    finished = np.array([bool(candidate.rows) for candidate in block.candidates])
    front, about = block.fronts[cost.column], np.zeros(len(spent), bool)
    about[np.argsort(np.where(front.on, np.nan, front.points_below))[:MOST]] = True
    about[block.compared] = True
    claims = claims_along(np.where(finished, -block.accuracy.sign * accuracy, np.nan), -cost.sign * spent, about)
    whose = block.trainings
    return [c for c in claims if c.is_step or whose[c.first] != whose[c.second]]


def headline(block: Block, cost: Quantity, claims: Sequence[Claim]) -> str:
    """The best value, what the next step costs, and the best. The best value is the member of the front that lies
    highest above the line from its cheapest to its most accurate member, costs by their ratio; nobody's who guesses."""
    members = _members(block, cost, claims)
    if not members or (cost.column in block.aside and block.fronts[cost.column].known.sum() < 2):
        return ""
    told = guesses(block)
    if told and told.keys() >= {*block.compared}:
        best = block.compared[0]
        return (
            "Nothing does better than guessing, as far as can be told, so there is no best value: always answering the "
            f"largest class is right in {block.accuracy.text(told[best])} of the cases, the best of them, "
            f"{block.labels[best]}, in {block.accuracy.text(_accuracy(block, best))}."
        )
    value, best = _best_value(block, cost, members), members[-1]
    among = _among(block, cost, best)
    if value == best:
        rest = "" if len(members) > 1 else ", and none costs less"
        of_them = " of them" if among else ""
        said = f"Best value and best{among}: {_with_cost(block, cost, best)}; no other{of_them} is more accurate{rest}."
        return " ".join([said, *_mind(block, cost, [best])])
    step = members[members.index(value) + 1]
    gap = block.accuracy.difference(_accuracy(block, step) - _accuracy(block, value))
    up = f"{_with_cost(block, cost, step)}: {gap} for {_times(block, cost, step, value)}"
    pair = block.pairs.get((step, value))
    if pair is not None and pair.p_corrected is not None:
        up += f", {_verdict(pair.p_corrected, pair.of_models)}"
    top = f" is the best{among}" if step == best else ""
    said = f"Best value: {_with_cost(block, cost, value)}. The next step up{top}: {up}."
    if step != best:
        said += f" Best{among}: {_with_cost(block, cost, best)}, {_times(block, cost, best, value)}."
    return " ".join([said, *_mind(block, cost, dict.fromkeys([value, step, best]))])


def sentences(block: Block, cost: Quantity, claims: Sequence[Claim]) -> list[str]:
    """The steps along the front of a cost, then who is dominated by whom, then what must be minded."""
    known = _measured(block)
    front = block.fronts[cost.column]
    value = block.means[cost.column].to_numpy()
    said = _of_guesses(block)
    if front.known.sum() > 1 and np.ptp(value[front.known]) == 0:
        said.append(
            f"All have the same {cost.label}, {cost.text(value[front.known][0])}: only accuracy tells them apart."
        )
    steps, others = [c for c in claims if c.is_step], [c for c in claims if not c.is_step]
    steps = steps[-MOST_STEPS:]  # the upper ones: whoever asks for accuracy looks there
    families = _of_families(block, cost)
    room = MOST - len(said) - len(steps) - len(families) - 2
    # What is certain first, and of that what is nearest to the front.
    certain = {key for key, pair in block.pairs.items() if pair.certain}
    below = front.points_below.tolist()
    others.sort(key=lambda c: (c[:2] not in certain, below[c.second]))
    said += [_sentence(block, cost, claim) for claim in [*steps, *others[:room]]]
    said += families
    aside = block.aside.get(cost.column, [])
    if aside:
        names = some([block.labels[i] for i in aside], MOST_NAMED)
        said.append(f"{BUSY.capitalize()}, and so left out of what is said of {cost.label}: {names}.")
    missing = [block.labels[i] for i in known if not front.known[i] and i not in aside]
    if missing:
        said.append(f"Without {cost.label}, and so not on this front: {some(missing, MOST_NAMED)}.")
    return [*said, *_untested(block, [*steps, *others])]


def remarks(block: Block) -> list[str]:
    """What is to be said whatever the cost."""
    measured = _measured(block)
    if not measured:
        return ["Nothing has been finished that could be compared."]
    if len(measured) == 1:
        return [f"{block.labels[measured[0]]} is alone: there is nothing to compare it with."]
    return _of_tuning(block)


def guesses(block: Block) -> dict[int, float]:
    """The candidates that are not known to be better than whoever always answers the largest class, and how often that
    is right: where the interval of an accuracy reaches down to it."""
    if block.errors is None or block.accuracy.metric != "accuracy":
        return {}
    truths = {place: matrix.sum(1) for place, matrix in block.errors.confusion.items()}
    shares = {place: float(truth.max() / truth.sum()) for place, truth in truths.items() if truth.sum()}
    return {place: share for place, share in shares.items() if block.interval[place, 0] <= share}


def _of_guesses(block: Block) -> list[str]:
    found = guesses(block)
    if not found:
        return []
    names = some([block.labels[place] for place in found], MOST_NAMED)
    always = block.accuracy.text(max(found.values()))
    return [f"No better than always answering the largest class ({always}), as far as can be told: {names}."]


def _of_families(block: Block, cost: Quantity) -> list[str]:
    """Families by what is on the front of each, the clearest differences first."""
    said = []
    pairs = [pair for pair in block.between_families.get(cost.column, []) if sum(map(len, pair.members)) > 2]
    for pair in sorted(pairs, key=lambda pair: pair.p)[:MOST_FAMILY_PAIRS]:  # of two single ones all is said
        names = [
            f"{name} ({some([block.labels[i] for i in members], MOST_NAMED)})"
            for name, members in zip((pair.first, pair.second), pair.members, strict=True)
        ]
        low, high = map(block.accuracy.signed, (pair.low, pair.high))
        gap = f"{block.accuracy.difference(pair.difference)} ({low} to {high})"
        ratio = "" if math.isnan(pair.cost_ratio) else f", at {_ratio(pair.cost_ratio)} times the {cost.label}"
        scope = "" if pair.of_models else "Of these trained networks, not the models: "
        sure = _verdict(pair.p_corrected, pair.of_models)
        said.append(
            f"{scope}{names[0]} against {names[1]}, by what is on each one's front: {gap} in the mean{ratio}; {sure}."
        )
    return said


def _sentence(block: Block, cost: Quantity, claim: Claim) -> str:
    pair = block.pairs.get((claim.first, claim.second))
    one, other = block.labels[claim.first], block.labels[claim.second]
    gain, times = _gain(block, *claim[:2]), _times(block, cost, *claim[:2])
    networks = pair is not None and pair.p is not None and not pair.of_models
    which = _which(block, pair) if pair else ""
    scope = f"{which.capitalize()}, not the models: " if networks else ""
    if claim.is_step:
        text = f"{scope}{one}: {gain} over {other} for {times}"
    else:
        verb = "dominates" if pair is not None and pair.certain else "is ahead of"
        text = f"{scope}{one} {verb} {other}: {gain}, at {times}"
    sure = certainty(block, *claim[:2])
    return " ".join([f"{text}; {sure}." if sure else f"{text}.", *_mind(block, cost, claim[:2])])


def scoped_certainty(block: Block, first: int, second: int) -> str:
    """``certainty`` as the end of a sentence, with what it speaks of; empty without a test."""
    pair = block.pairs.get((first, second)) or block.pairs.get((second, first))
    scope = "" if pair is None or pair.of_models or pair.p is None else f", of {_which(block, pair)}"
    sure = certainty(block, first, second)
    return f"{scope}; {sure}" if sure else ""


def _which(block: Block, pair: Comparison) -> str:
    """What a pair that says nothing of models speaks of: two networks, or more where one of them has several runs."""
    alone = all(len(block.candidates[place].rows) == 1 for place in (pair.first, pair.second))
    return "these two trained networks" if alone else "these trained networks"


def certainty(block: Block, first: int, second: int) -> str:
    """Whether the data carry that ``first`` is better, with the p and what it stands on; empty without a test."""
    pair = block.pairs.get((first, second)) or block.pairs.get((second, first))
    if pair is None or pair.p is None or pair.p_corrected is None:
        return ""
    return _verdict(pair.p_corrected, pair.of_models, _wanted(pair))


def _verdict(p: float, of_models: bool, wanted: str = "") -> str:
    said = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    if of_models:
        return f"certain ({said})" if p < 0.05 else f"not certain ({said}{wanted})"
    return f"more than the images' chance ({said})" if p < 0.05 else f"within the images' chance ({said})"


def _wanted(pair: Comparison) -> str:
    """How much more would show a difference of this size."""
    more = []
    if pair.images_needed < math.inf and pair.images_needed > 0:
        more.append(f"{_rounded(pair.images_needed)} test images")
    if pair.runs_needed < math.inf:
        more.append(f"{max(2, math.ceil(pair.runs_needed)):,} runs each")
    return f"; about {' or '.join(more)} would show it {POWER:.0%} of the time".replace("%", " %") if more else ""


def _rounded(value: float) -> str:
    digits = max(0, math.ceil(math.log10(value)) - 2)
    return f"{math.ceil(value / 10**digits) * 10**digits:,}"


def _untested(block: Block, claims: Sequence[Claim]) -> list[str]:
    """What was not tested, said once."""
    pairs = [block.pairs.get(claim[:2]) for claim in claims]
    untested = [pair for pair in pairs if pair is None or pair.p is None]
    if not untested:
        return []
    reasons = dict.fromkeys(
        pair.reason or "one run each, and no predictions to pair" if pair else "too many to compare in pairs"
        for pair in untested
    )
    what = (
        "None of these differences was"
        if len(untested) == len(claims)
        else plural(len(untested), "of these was not", "of these were not")
    )
    why = "; ".join(list(reasons)[:3]) + ("; ..." if len(reasons) > 3 else "")
    return [f"{what} tested for more than chance: {why}."]


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
    if len(said) > MOST_STEPS:
        said[MOST_STEPS:] = [f"Further pairs that change places with the cost of tuning: {len(said) - MOST_STEPS}."]
    return said


def _members(block: Block, cost: Quantity, claims: Sequence[Claim]) -> list[int]:
    """The front's members from the cheapest to the most accurate, of equal ones one."""
    steps = [claim for claim in claims if claim.is_step]
    if steps:
        return [steps[0].second, *(step.first for step in steps)]
    front = block.fronts[cost.column]
    return np.flatnonzero(front.on)[:1].tolist()


def _best_value(block: Block, cost: Quantity, members: Sequence[int]) -> int:
    told = guesses(block)
    members = [place for place in members if place not in told] or members
    spent = block.means[cost.column].to_numpy(float)[list(members)]
    gained = block.accuracy.sign * block.means[block.accuracy.column].to_numpy(float)[list(members)]
    spent = -cost.sign * np.log(spent) if (spent > 0).all() else -cost.sign * spent
    heights = [(values - values[0]) / (np.ptp(values) or 1.0) for values in (gained, spent)]
    return members[int(np.argmax(np.round(heights[0] - heights[1], 9)))]  # of equal ones the cheapest


def _among(block: Block, cost: Quantity, best: int) -> str:
    """Of whom ``best`` is the best, where a more accurate candidate is not on the front for want of the cost."""
    known, sign = block.fronts[cost.column].known, block.accuracy.sign
    better = [i for i in _measured(block) if not known[i] and sign * (_accuracy(block, i) - _accuracy(block, best)) > 0]
    return f" of those with known {cost.label}" if better else ""


def spoilt(block: Block, place: int, columns: Sequence[str]) -> list[str]:
    """Why costs of a candidate must not be compared with the others'."""
    return [mark.text for mark in block.candidates[place].marks if any(map(mark.spoils, columns))]


def _mind(block: Block, cost: Quantity, places: Iterable[int]) -> list[str]:
    """A sentence for each of the candidates whose cost is marked, where those of others are not."""
    known = np.flatnonzero(block.fronts[cost.column].known).tolist()
    if all(spoilt(block, place, [cost.column]) for place in known):
        return []
    found = [(place, spoilt(block, place, [cost.column])) for place in places]
    return [f"Mind that costs of {block.labels[place]} are marked: {'; '.join(why)}." for place, why in found if why]


def _with_cost(block: Block, cost: Quantity, place: int) -> str:
    value = float(block.means[cost.column].iat[place])
    same = (block.means[cost.column] == value) & (block.means[block.accuracy.column] == _accuracy(block, place))
    equal = [block.labels[i] for i in np.flatnonzero(same & block.fronts[cost.column].known).tolist() if i != place]
    name = block.labels[place] + (f" (and {len(equal)} equal: {some(equal, MOST_NAMED)})" if equal else "")
    return f"{name}, {block.accuracy.text(_accuracy(block, place))} with {cost.text(value)} {cost.label}"


def _measured(block: Block) -> list[int]:
    """The candidates with a finished run whose accuracy is known."""
    there = block.means[block.accuracy.column].notna().tolist()
    return [
        i for i, (candidate, known) in enumerate(zip(block.candidates, there, strict=True)) if candidate.rows and known
    ]


def _accuracy(block: Block, place: int) -> float:
    return float(block.means[block.accuracy.column].iat[place])


def _gain(block: Block, first: int, second: int) -> str:
    """``+5.0 points (3.1 to 6.9)``: the interval where it is known, a claim's widened for all claims."""
    gap = block.accuracy.difference(_accuracy(block, first) - _accuracy(block, second))
    pair = block.pairs.get((first, second))
    if pair is None or math.isnan(pair.low):
        return gap
    bounds = (pair.claim_low, pair.claim_high) if pair.claimed else (pair.low, pair.high)
    low, high = map(block.accuracy.signed, bounds)
    return f"{gap} ({low} to {high})"


def _times(block: Block, cost: Quantity, first: int, second: int) -> str:
    """``8.2 times the training time``, or the two values where there is no ratio."""
    a, b = (float(block.means[cost.column].iat[i]) for i in (first, second))
    if a > 0 and b > 0:
        return f"{_ratio(a / b)} times the {cost.label}"
    return f"{cost.text(a)} instead of {cost.text(b)} {cost.label}"


def _ratio(value: float) -> str:
    """A ratio; with another digit where it would read as 1 though it is not."""
    if 0.95 <= value < 1.05 and value != 1:
        return f"{value:.2f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"
