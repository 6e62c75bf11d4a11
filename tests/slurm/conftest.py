"""One cluster for all tests here, as good as new before each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slurm.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as started:
        yield started


@pytest.fixture(autouse=True)
def _as_good_as_new(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.reset()
