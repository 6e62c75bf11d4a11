"""The devices of a run and the processes that drive them."""
