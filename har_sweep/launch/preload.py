"""What every run's process has from its birth: ``local`` starts a server that imports this once, and forks them all."""

import gc

# What is imported stays: looking for garbage takes a fifth of the time that importing takes, and finds none.
gc.disable()

import wandb.sdk.launch  # noqa: E402, F401 - before torch: with torch's modules around, it takes three times as long

import har_sweep.run  # noqa: E402, F401

# Nor need a collection, before each measurement of memory, look at it. In the server, because forked processes share
# its memory: to mark an object is to copy its page.
gc.freeze()
gc.enable()
