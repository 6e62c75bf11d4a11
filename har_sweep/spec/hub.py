"""The Hugging Face hub: does it answer, and what does it give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from har_sweep.errors import first_line
from har_sweep.events import Progress


class WeightsUnavailable(Exception):
    """Pretrained weights cannot be had. ``permanent``: asking again would not help, the hub does not have them."""

    def __init__(self, reason: str, permanent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class Hub:
    """The Hugging Face hub, asked once a sweep whether it answers (huggingface_hub alone retries for minutes).

    HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and the proxies of the environment count, as in huggingface_hub.
    """

    def __init__(self, timeout_seconds: float = 3.0) -> None:
        self._timeout_seconds = timeout_seconds
        self._problem: str | None = None

    def problem(self) -> str:
        """Why the hub cannot be used, or an empty string."""
        if self._problem is None:
            self._problem = self._ask()
        return self._problem

    def _ask(self) -> str:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session

        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set"
        answer: list[str] = []

        def head() -> None:
            try:
                status = get_session().head(constants.ENDPOINT, timeout=self._timeout_seconds).status_code
                answer.append("" if status < 500 else f"{constants.ENDPOINT} answers with status {status}")
            except Exception as e:  # DNS, TLS, proxy, refused: all mean the same here
                answer.append(f"{constants.ENDPOINT} cannot be reached: {str(e) or type(e).__name__}")

        # A name server that is away blocks beyond any socket's time-out, so the clock is the thread's.
        thread = threading.Thread(target=head, daemon=True)
        thread.start()
        thread.join(self._timeout_seconds)
        return answer[0] if answer else f"{constants.ENDPOINT} does not answer within {self._timeout_seconds:g} s"

    def fetch(self, repo: str, files: tuple[str, ...], progress: Progress) -> Path:
        """The first of ``files`` that the repository has, from the local cache or downloaded into it.

        Raises
        ------
        WeightsUnavailable
            if it is not cached and the hub does not answer, breaks off, or has none of the files.
        """
        if (cached := cached_file(repo, files)) is not None:
            return cached
        if self.problem():
            raise WeightsUnavailable(self.problem(), permanent=False)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError

        for file in files:
            try:
                return Path(hf_hub_download(repo, file, tqdm_class=_bar(f"{repo}/{file}", progress)))
            except RemoteEntryNotFoundError:
                continue
            except GatedRepoError as e:
                raise WeightsUnavailable(f"{repo} wants you to accept its terms and log in", permanent=True) from e
            except RepositoryNotFoundError as e:
                raise WeightsUnavailable(f"the hub has no repository {repo}", permanent=True) from e
            except Exception as e:
                # Whatever the client met, the next model of the sweep would meet it again after the same minute.
                self._problem = f"the download of {repo}/{file} broke off: {first_line(e)}"
                raise WeightsUnavailable(self._problem, permanent=False) from e
        raise WeightsUnavailable(f"the hub's {repo} has no {' or '.join(files)}", permanent=True)


@contextmanager
def from_caches() -> Iterator[None]:
    """Inside, the hub's client asks nobody: where the hub is away it would try for half a minute and print each try."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def cached_file(repo: str, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo, file) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _bar(what: str, progress: Progress) -> type:
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # a disabled bar draws nothing and counts nothing

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress(what, int(self.n), int(self.total or 1))

    return Bar
