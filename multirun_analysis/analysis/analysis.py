"""From the table of runs to everything that a report says; the story, top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.files import redact_text
from har_sweep.record.record import utc_now
from multirun_analysis.analysis.budget import recommend
from multirun_analysis.analysis.busy import best_measured, set_aside, undisturbed, without
from multirun_analysis.analysis.candidates import count_measured, find_candidates, split_into_blocks
from multirun_analysis.analysis.claims import ALPHA
from multirun_analysis.analysis.comparison import answered, compare
from multirun_analysis.analysis.crossed import components
from multirun_analysis.analysis.disagreement import find_disputes, find_reliability, pairs_that_matter, profile_errors
from multirun_analysis.analysis.epochs import mark_undertrained, read_epochs, with_reached
from multirun_analysis.analysis.families import compare_families, find_families, in_families
from multirun_analysis.analysis.fronts import find_fronts, resample, signed_costs, spent_by
from multirun_analysis.analysis.importance import find_importances
from multirun_analysis.analysis.marks import limits, mark_candidates
from multirun_analysis.analysis.predictions import read_predictions
from multirun_analysis.analysis.question import Asked, Question, understand
from multirun_analysis.analysis.ranking import choose_compared, count_images, find_intervals, rank, summarise
from multirun_analysis.analysis.sanity import check_numbers
from multirun_analysis.analysis.sentences import claims_of, headline, remarks, sentences
from multirun_analysis.analysis.study import find_study
from multirun_analysis.analysis.tuning import find_tuning, find_varied
from multirun_analysis.analysis.variants import find_variants, variant_sentences
from multirun_analysis.findings import Analysis, Block
from multirun_analysis.sources.choice import several_sweeps
from multirun_analysis.sources.runs import Progress, Runs


def analyse(runs: Runs, question: Question, command: str, progress: Progress) -> Analysis:
    """Answer a question from the table of runs; ``command`` is what was given to ask it.

    Raises
    ------
    InputError
        if the question names what no run has, or no label, accuracy or cost can be told for a table of somebody's.
    """
    notes = [*runs.notes, *several_sweeps(runs)]
    runs, asked = understand(runs, question, notes)
    accuracies = {asked.accuracy.column, asked.selecting.column}
    numbers = check_numbers(runs, asked.quantities, asked.columns, accuracies, notes)
    blocks = [
        analyse_block(runs, numbers, name, rows, asked, progress)
        for name, rows in split_into_blocks(runs, asked.by).items()
    ]
    notes += by_themselves(blocks)
    return Analysis(
        frame=with_fronts(runs.frame, blocks),
        info=runs.info,
        metrics=asked.metrics,
        costs=asked.known_costs,
        chosen_costs=asked.costs,
        blocks=blocks,
        sources=[redact_text(source) for source in runs.sources],
        command=redact_text(command),
        created_at=utc_now(),
        notes=notes,
        numbers=numbers,
        study=find_study(runs, numbers),
    )


def analyse_block(
    runs: Runs, numbers: pd.DataFrame, name: str, rows: NDArray[np.int64], asked: Asked, progress: Progress
) -> Block:
    """Everything about one dataset, or one value of what is asked by: the candidates among ``rows``, and what can be
    said of them."""
    accuracy, selecting, costs, notes = asked.accuracy, asked.selecting, asked.costs, limits(runs, rows.tolist())
    found = find_candidates(runs, rows, asked.label, selecting, numbers[selecting.column], notes)
    if asked.family:
        found = in_families(runs, found, asked.family)
    found = count_measured(runs, found, numbers[accuracy.column], notes)
    counted = undisturbed(runs, found, numbers, asked.known_costs)
    candidates, means, deviations, counts = rank(found, counted, accuracy)
    candidates = mark_candidates(runs, candidates, counted, means, deviations, asked.known_costs, selecting, accuracy)
    counted = best_measured(runs, candidates, counted, asked.known_costs)
    means, deviations, _ = summarise(counted, candidates)
    aside = set_aside(candidates, means, asked.known_costs)
    comparable = without(means, aside)
    images = count_images(runs, candidates, accuracy)
    fronts = find_fronts(comparable, accuracy, costs, asked.joint)

    compared = choose_compared(candidates, means[accuracy.column], fronts, notes)
    of_runs = {place: numbers[accuracy.column].to_numpy()[list(candidates[place].rows)] for place in compared}
    predictions = read_predictions(runs, [candidates[place] for place in compared], accuracy, notes, progress)
    pairs = predictions.that_pair(accuracy)
    progress("Comparing", 0, None)
    spread = components([answered(candidates[p], of_runs[p], pairs.found, images[p]) for p in compared])
    spent = [spent_by(candidates[place], counted, costs) for place in compared]
    fronts = resample(spread, compared, spent, fronts, comparable, accuracy, costs)
    disputes = find_disputes(runs, candidates, compared, of_runs, predictions.found, fronts, asked.images, progress)
    epochs = read_epochs(runs, candidates, compared, notes, progress)
    candidates = mark_undertrained(candidates, epochs, accuracy, selecting)
    varied = find_varied(runs, candidates)

    block = Block(
        name=name,
        accuracy=accuracy,
        selecting=selecting,
        candidates=candidates,
        means=with_reached(means, candidates, epochs),
        deviations=deviations,
        images=images,
        interval=find_intervals(spread, compared, means, deviations, counts, images, accuracy),
        fronts=fronts,
        aside=aside,
        compared=compared,
        pairs_that_matter=pairs_that_matter(candidates, compared, fronts),
        errors=profile_errors(runs, rows, candidates, compared, predictions.found, disputes),
        reliability=find_reliability(candidates, compared, predictions.found),
        epochs=epochs,
        variants=find_variants(runs, candidates, means, predictions.found, accuracy, notes),
        families=find_families(candidates, means, accuracy),
        tuning=find_tuning(runs, candidates, selecting, notes),
        varied=varied,
        importance=find_importances(runs, candidates, varied),
        notes=notes,
    )
    claims = {cost.column: claims_of(block, cost) for cost in costs}
    claimed = {(claim.first, claim.second) for own in claims.values() for claim in own}
    paid = signed_costs(comparable, compared, costs)
    block = replace(block, comparisons=compare(block, of_runs, pairs, spread, claimed, paid))
    between = compare_families(candidates, compared, spread, paid, accuracy.sign)
    between_families = {cost.column: pairs for cost, pairs in zip(costs, between, strict=True)}
    block = replace(block, between_families=between_families, remarks=[*variant_sentences(block), *remarks(block)])
    if sum(map(bool, (c.rows for c in candidates))) > 1:
        block = replace(
            block,
            headlines={cost.column: headline(block, cost, claims[cost.column]) for cost in costs},
            sentences_on={cost.column: sentences(block, cost, claims[cost.column]) for cost in costs},
        )
    return replace(block, recommendation=recommend(block, asked.budgets)) if asked.budgets else block


def by_themselves(blocks: Sequence[Block]) -> list[str]:
    """What corrections for each block's claims alone mean for a report of several."""
    claiming = sum(any(pair.claimed and pair.of_models for pair in block.comparisons) for block in blocks)
    if claiming < 2:
        return []
    return [
        f"What is certain is so in each of {claiming} parts by itself: if all models were equally good, a report of so "
        f"many would call something certain in {100 * (1 - (1 - ALPHA) ** claiming):.0f} % of cases."
    ]


def with_fronts(frame: pd.DataFrame, blocks: Sequence[Block]) -> pd.DataFrame:
    """The table of runs with a column for each front: whether the run's candidate is on its block's."""
    columns = {f"front/{key}": np.zeros(len(frame), dtype=bool) for block in blocks for key in block.fronts}
    for block in blocks:
        for key, front in block.fronts.items():
            for place in np.flatnonzero(front.on):
                columns[f"front/{key}"][list(block.candidates[place].rows)] = True
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)
