"""What every run's process has from its birth: ``local`` starts a server that imports this once, and forks them all."""
# ruff: noqa: E402

import gc
import os
import warnings

from har_sweep.processes import patient_threads

os.environ.update(patient_threads())  # read when torch is imported

# What is imported stays: looking for garbage takes a fifth of the time that importing takes, and finds none.
gc.disable()

# What each run would otherwise import by itself, at its first use:
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore's losses, which nobody uses, are made by torch.jit.script
    import fvcore.nn  # noqa: F401
import pyarrow.pandas_compat
import pyarrow.parquet  # noqa: F401

import har_sweep.launch.local
import har_sweep.run.execute  # noqa: F401

# Nor need a collection, before each measurement of memory, look at it. In the server, because forked processes share
# its memory: to mark an object is to copy its page.
gc.freeze()
gc.enable()
