"""Tests on a real SLURM: two nodes, preemption, accounting; needs root on a Debian machine (`make test-cluster`)."""
