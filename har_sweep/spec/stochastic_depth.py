"""Which architectures take ``model.drop_path_rate``: timm is asked, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from har_sweep.errors import InputError
from har_sweep.events import Progress
from har_sweep.files import PACKAGE, atomic


def take_drop_path(names: Iterable[str], cache: Path, progress: Progress) -> dict[str, bool]:
    """Whether each of timm's architectures has stochastic depth; what timm said is kept in ``cache`` (paths.cache).

    Raises
    ------
    InputError
        if timm cannot be asked.
    """
    file = cache / f"timm-{importlib.metadata.version('timm')}-drop-path.json"
    try:
        known = json.loads(file.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    new = sorted(set(names) - set(known))
    if new:
        progress(f"Asking timm whether {', '.join(new)} can drop paths, about 10 s, once", 0, 1)
        ask = "from har_sweep.spec.stochastic_depth import ask_timm"
        code = f"import json, sys; {ask}; print(json.dumps(ask_timm(sys.argv[1:])))"
        folder = PACKAGE.parent.resolve()  # so that the child finds this package however the parent did
        child = subprocess.run([sys.executable, "-c", code, *new], capture_output=True, text=True, cwd=folder)
        if child.returncode != 0:
            raise InputError(
                f"timm cannot be asked about {', '.join(new)}: {child.stderr.strip().splitlines()[-1:]}",
                "`python -m har_sweep.doctor` checks the installation.",
            )
        known |= json.loads(child.stdout.splitlines()[-1])
        with atomic(file, "w") as out:
            json.dump(known, out, indent=1, sort_keys=True)
    return {name: known[name] for name in names}


def ask_timm(names: list[str]) -> dict[str, bool]:
    """The same, with timm imported here (6 s). Models are made without memory for their weights."""
    import timm
    import torch

    taken = {}
    for name in names:
        try:
            with torch.device("meta"):
                timm.create_model(name, drop_path_rate=0.1)
            taken[name] = True
        except TypeError as e:
            if "'drop_path_rate'" not in str(e):
                raise
            taken[name] = False
    return taken
