"""Hydra's plug-ins: ours must be among them, and another that cannot be loaded must not be a riddle."""

from __future__ import annotations

import traceback
import warnings

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from har_sweep.config.schema import SlurmLauncher
from har_sweep.errors import InputError

OURS = {"HarSweepLauncher", "HarSweepSweeper"}
_BROKEN = "A plug-in of Hydra cannot be loaded"


def load_plugins() -> list[str]:
    """Load all that Hydra finds; returns a sentence for each plug-in of others that it has left out.

    What hydra-submitit-launcher stores under its name is replaced by our launcher, which takes its parameters.

    Raises
    ------
    InputError
        if ours is not there, or a plug-in breaks every program that uses Hydra.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = {plugin.__name__ for plugin in Plugins.instance().discover()}
        except Exception as e:
            raise InputError(
                f"{_BROKEN} ({_culprit(e)}): {type(e).__name__}: {e}.",
                "It breaks every program that uses Hydra: upgrade or uninstall the package that brought it.",
            ) from e
        ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=SlurmLauncher)
    left_out = [" ".join(str(w.message).split()) for w in said if "Error importing" in str(w.message)]
    if missing := OURS - found:
        ours = [text for text in left_out if "har_sweep" in text]
        raise InputError(
            f"har_sweep's own Hydra plug-in is not loaded ({', '.join(sorted(missing))}). {' '.join(ours)}".strip(),
            "Install har_sweep again (pip install -e . in a checkout); no package may bring a file "
            "hydra_plugins/__init__.py, which would hide the plug-ins of all others.",
        )
    return [f"{text} It is left out." for text in left_out]


def _culprit(error: Exception) -> str:
    """The plug-in's file that raised."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        files.append(error.filename)
    return next((file for file in files if "hydra_plugins" in file), files[-1])
