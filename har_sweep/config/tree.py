"""The tree of config files, and the nodes that type it."""

from __future__ import annotations

import warnings
from functools import cache

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from har_sweep.config.schema import LocalLauncher, OwnSweeper, SlurmLauncher
from har_sweep.config.sections import OpenConfig
from har_sweep.files import PACKAGE

# An installed wheel carries the tree inside the package; a checkout has it beside the package.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
LAUNCHERS = {"local": LocalLauncher, "slurm": SlurmLauncher}

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # OmegaConf 2.4 has another name for it, which means something else in 2.3
    # For ranges around a default: ${har_sweep.times:${optimizer.lr},10}
    OmegaConf.register_new_resolver("har_sweep.times", lambda value, factor: value * factor, replace=True)

_store = ConfigStore.instance()
_store.store(name="schema", node=OpenConfig)
_store.store(group="hydra/sweeper", name="har_sweep", node=OwnSweeper)
for _name, _node in LAUNCHERS.items():
    _store.store(group="hydra/launcher", name=_name, node=_node)


@cache
def groups() -> dict[str, list[str]]:
    """Each config group with its options, as the tree has them."""
    found = {folder.name: sorted(f.stem for f in folder.glob("*.yaml")) for folder in CONF.iterdir() if folder.is_dir()}
    del found["hydra"]
    return dict(sorted(found.items()))
