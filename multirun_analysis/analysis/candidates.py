"""From runs to what can be chosen: runs that differ only in their seed are a trial, trials of one model a candidate.

Where a candidate had several trials, one is chosen on val, so that tuning cannot decide what is reported on test.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.errors import InputError
from har_sweep.record.choices import CHOICES, choice_word
from multirun_analysis.analysis.pareto import Floats
from multirun_analysis.findings import Candidate, Trial
from multirun_analysis.quantities import Quantity, plural
from multirun_analysis.sources.runs import Runs

# What tells one candidate from another, with what a label says before its value: what would be deployed, on what, and
# on which images it was learned. The config has what the record's own numbers do not:
# - a model of one's own, and what it is called with: another network;
# - whether only the head was trained: then one backbone serves many tasks, and a training costs a fraction;
# - compiled or not, the layout in memory, TF32, deterministic kernels: they change the times, and accuracy by no more
#   than luck, by which the best trial on val would choose among them.
DEFINING = {
    "model/name": "",
    "model/timm_name": "",
    "model/weights": "",
    "model/input_size": "input ",
    "hardware/device": "",
    "hardware/device_count": "devices ",
    "hardware/precision": "",
    "dataset/fingerprint": "images ",
    "dataset/split_fingerprint": "split ",
    "config/model/_target_": "",
    "variant": "",
}
CHOSEN = {f"config/{key.replace('.', '/')}": key for key in CHOICES}  # these have words of their own
ARGUMENTS = "config/model/arguments/"
OBJECTIVE = "config/objective/kind"

# The sections of the config that say how is learned, each with its keys that tell no trials apart: they change neither
# what is learned nor what it costs (har_sweep's identity leaves them out), or they tell candidates apart. Everything
# else is a way to train the same network for the same use: rates, decay, schedules, epochs, batches (their memory and
# time are marked), augmentation, stochastic depth, averages of weights, which epoch is kept, who teaches and how much
# it counts. So is the normalisation of the input: it is a part of the weights' preparation, and free. Keys of the
# hardware are never settings.
SETTINGS: dict[str, set[str]] = {
    "model": {
        "name", "timm_name", "pretrained_tag", "weights", "input_size", "default_lr", "_target_", "arguments",
    },
    "optimizer": set(),
    "scheduler": set(),
    "augmentation": {"name"},
    "trainer": {"checkpoint_minutes", "save_model", "finetune"},
    "objective": {"kind", "teacher_model", "teacher_input_size"},
}  # fmt: skip


def is_setting(column: str) -> bool:
    """Whether runs that differ in a column of the config are several trials of a candidate."""
    top, section, key = [*column.split("/"), "", ""][:3]
    return top == "config" and section in SETTINGS and key not in SETTINGS[section]


def is_defining(column: str) -> bool:
    """Whether runs that differ in a column are several candidates."""
    return column in DEFINING or column in CHOSEN or column.startswith(ARGUMENTS)


def split_into_blocks(runs: Runs, by: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """The rows of each dataset, or of each value of the columns ``by``."""
    frame = runs.frame
    columns = list(by) or [column for column in ("dataset/name",) if column in frame.columns]
    if not columns:
        return {"": np.arange(len(frame))}
    keys = _joined(as_text(frame, columns))
    return {str(name): np.asarray(rows) for name, rows in sorted(keys.groupby(keys).indices.items())}


def find_candidates(
    runs: Runs,
    rows: NDArray[np.int64],
    label: Sequence[str],
    selecting: Quantity,
    selection: pd.Series,
    notes: list[str],
) -> list[Candidate]:
    """The candidates among some rows of the table, in the order of their labels. Of finished runs of one trial with the
    same seed only one is taken, and that is noted.

    ``label`` are the columns that name them; none means the model, told apart as far as need be. ``selecting`` is
    what trials are chosen by, ``selection`` its values, of all rows of the table.

    Raises
    ------
    InputError
        if it cannot be told which of several rows with the same seed counts.
    """
    frame = runs.frame.iloc[rows].reset_index(drop=True)
    if OBJECTIVE in frame.columns:
        frame[OBJECTIVE] = frame[OBJECTIVE].fillna("labels")  # of before there were teachers
    names = _joined(as_text(frame, label)) if label else _labels(frame)
    settings = [c for c in frame.columns if is_setting(c)]
    settings += [c for c in frame.columns if is_defining(c) and c not in label] if label and runs.are_records else []
    text = as_text(frame, settings)
    text = text.loc[:, [column for column in text.columns if text[column].nunique() > 1]]
    codes = np.stack([pd.factorize(text[column])[0] for column in text.columns] or [np.zeros(len(frame), int)], axis=1)
    finished = np.array([runs.info[row].status == "done" for row in rows])
    value = np.where(finished, selection.to_numpy(float)[rows], np.nan)
    networks = runs.column("model/timm_name").iloc[rows].reset_index(drop=True).fillna(names).to_numpy(object)
    variants = [value if isinstance(value, str) else "" for value in runs.column("variant").iloc[rows]]
    found = []
    which, labels = pd.factorize(names, sort=True)
    repeats = _repeats(runs, rows, np.column_stack([which, codes]), finished, names, notes)
    order = np.argsort(which, kind="stable")
    order = order[~repeats[order]]
    ends = np.searchsorted(which[order], np.arange(len(labels) + 1)).tolist()
    done = set(rows[finished].tolist())
    ordered, reached = rows[order].tolist(), value[order].tolist()
    for (start, end), name in zip(itertools.pairwise(ends), labels, strict=True):
        # A csv's rows with the same label are repeats: nothing else of them is known to be a setting.
        trials = [Trial("", (ordered[start],), reached[start], chosen=True)]
        if end - start > 1:
            trials = _trials(order[start:end], text, codes, value, rows, selecting.sign)
        mine = trials[0].rows
        found.append(
            Candidate(
                label=str(name),
                rows=mine if done.issuperset(mine) else tuple(filter(done.__contains__, mine)),
                trials=tuple(trials),
                unfinished=tuple([row for row in ordered[start:end] if row not in done]),
                family=sys.intern(family(str(networks[order[start]]))),
                variant=variants[order[start]],
            )
        )
    return found


def _repeats(
    runs: Runs,
    rows: NDArray[np.int64],
    trials: NDArray[np.int64],
    finished: NDArray[np.bool_],
    names: pd.Series,
    notes: list[str],
) -> NDArray[np.bool_]:
    """Which of ``rows`` are finished runs of a trial (a row of ``trials``) and a seed that another one stands for: runs
    of one seed are no independent repeats. It is the one that was done last that stands."""
    left_out = np.zeros(len(rows), dtype=bool)
    seeds = pd.Series([runs.info[row].seed for row in rows], dtype=float)
    keys = pd.DataFrame(trials).assign(seed=seeds)[finished & seeds.notna()]
    several = keys[keys.duplicated(keep=False)]
    if several.empty:
        return left_out
    done = runs.column("finished_at").fillna(runs.column("started_at")).iloc[rows[several.index]]
    if done.isna().any():  # rows of somebody's table: the last of them is no better than the first
        first = several.index[np.flatnonzero(done.isna())[0]]
        alike = several.index[(several == several.loc[first]).all(axis=1)]
        raise InputError(
            f"{names.iat[first]} has {len(alike)} rows of seed {seeds[first]:.0f}: {runs.named(rows[alike])}.",
            "Add --by or --label with the column that tells them apart. If they are independent repeats, give each a "
            "seed of its own, or leave that column out.",
        )
    later = several.iloc[np.argsort(done.astype(str).to_numpy(), kind="stable")]
    left_out[later.index[later.duplicated(keep="last")]] = True
    notes.append(
        f"Not counted: {plural(left_out.sum(), 'run that has', 'runs that have')} the seed of a later run of the same "
        f"trial: {runs.named(rows[left_out])}."
    )
    return left_out


def count_measured(
    runs: Runs, candidates: Sequence[Candidate], accuracies: pd.Series, notes: list[str]
) -> list[Candidate]:
    """The candidates without those finished runs whose accuracy is not known, where there are others."""
    known = accuracies.notna().tolist()
    counted = [tuple([row for row in candidate.rows if known[row]]) for candidate in candidates]
    missing = [row for c, rows in zip(candidates, counted, strict=True) if rows for row in c.rows if not known[row]]
    if missing:
        notes.append(
            f"Not counted: {plural(len(missing), 'finished run that has', 'finished runs that have')} no "
            f"{accuracies.name}: {runs.named(missing)}."
        )
    return [replace(c, rows=rows) if rows and missing else c for c, rows in zip(candidates, counted, strict=True)]


def _trials(
    members: NDArray[np.int64],
    text: pd.DataFrame,
    codes: NDArray[np.int64],
    value: Floats,
    rows: NDArray[np.int64],
    sign: float,
) -> list[Trial]:
    """A candidate's runs by their settings, the best on the selecting metric first, and chosen."""
    columns, groups = text.columns[[]], [members]
    if len(text.columns):
        mine = codes[members]
        varying = np.flatnonzero((mine != mine[0]).any(axis=0))
        columns = text.columns[varying]
        if len(varying):
            _, which = np.unique(mine[:, varying], axis=0, return_inverse=True)
            groups = [members[which == group] for group in range(which.max() + 1)]
    known = [group[~np.isnan(value[group])] for group in groups]
    # The same numbers in another order have the same mean: between them not rounding decides.
    means = [fmean(value[group].tolist()) if len(group) else np.nan for group in known]
    settings = [
        ", ".join(f"{column.rpartition('/')[2]} {text[column].iat[group[0]]}" for column in columns) for group in groups
    ]
    # Of equally good ones the first by its settings, wherever the runs were read from.
    order = sorted(range(len(groups)), key=lambda i: (np.isnan(means[i]), -sign * means[i], settings[i]))
    return [Trial(settings[i], tuple(rows[groups[i]].tolist()), means[i], chosen=i == order[0]) for i in order]


def _labels(frame: pd.DataFrame) -> pd.Series:
    """The model's name, with whatever else differs among the runs of that name, and what was chosen otherwise than for
    any other run: a head alone is no whole network, whatever its name."""
    columns = [column for column in DEFINING if column in frame.columns]
    own = [column for column in frame.columns if column.startswith(ARGUMENTS)]
    text = as_text(frame, [*columns, *own])
    chosen = {
        column: frame[column].map(lambda value, key=key: choice_word(key, value))
        for column, key in CHOSEN.items()
        if column in frame.columns
    }
    text = text.assign(**{column: words for column, words in chosen.items() if words.nunique() > 1})
    names: dict[tuple[str, ...], str] = {}
    for name, same in text.drop_duplicates().groupby("model/name"):
        described = same[(same[columns[1:]] != "-").any(axis=1)]
        differing = [column for column in [*columns[1:], *own] if described[column].nunique() > 1]
        for values in same.itertuples(index=False, name=None):
            known = dict(zip(text.columns, values, strict=True))
            parts = [*(_described(column, known[column]) for column in differing), *values[len(columns) + len(own) :]]
            more = ", ".join(filter(None, parts))
            if 0 < len(described) < len(same) and {known[column] for column in columns[1:]} == {"-"}:
                more = "table"  # somebody's numbers beside runs of ours
            names[values] = f"{name} ({more})" if more else str(name)
    return pd.Series([names[values] for values in text.itertuples(index=False, name=None)], index=frame.index)


def _described(column: str, value: str) -> str:
    """What a label says of a defining column."""
    if column.startswith("config/"):
        word = column.removeprefix(ARGUMENTS) + " " if column.startswith(ARGUMENTS) else DEFINING[column]
        return "" if value == "-" else word + value
    if column == "model/weights":
        said = f"file {value[7:13]}" if value.startswith("sha256:") else value
    elif column == "model/input_size":
        said = value.strip("[]").split(",")[-1].strip()
    else:
        said = value[:6] if column.endswith("fingerprint") else value
    return DEFINING[column] + said


def as_text(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of anything, lists too, as text that can be compared; whole numbers look the same as int and as float."""

    def text(value: object) -> str:
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return "-" if value is None or value != value else str(value).strip()

    # A column has few different values, and each is written once.
    def of(column: str) -> pd.Series:
        values = frame[column]
        try:
            codes, unique = pd.factorize(values, use_na_sentinel=False)
        except TypeError:
            return values.map(text)
        return pd.Series(np.array([text(value) for value in unique], dtype=object)[codes], index=frame.index)

    return pd.DataFrame({column: of(column) for column in columns})


def _joined(text: pd.DataFrame) -> pd.Series:
    """The columns of each row, one after the other."""
    first, *others = (text[column] for column in text)
    return first.str.cat(others, sep=", ") if others else first


_SIZE = re.compile(
    r"\d\w*|[a-z]{1,2}\d+\w*|atto|femto|pico|nano|xx?tiny|tiny|ti|small|medium|base|large|huge|giant|gigantic|x*large"
    r"|x*s|m|l|b|x*l|patch\d+"
)
_VERSION = re.compile(r"v\d$|^deit\d$")


def family(timm_name: str) -> str:
    """The architecture without its size, from timm's way of naming: ``vit_tiny_patch16_224`` -> ``vit``."""
    kept: list[str] = []
    for word in timm_name.lower().split(".")[0].split("_"):
        if kept and _SIZE.fullmatch(word):
            break
        kept.append(word if _VERSION.search(word) else re.sub(r"(?<=[a-z])\d+[a-z]?$", "", word))
    return "_".join(kept)
