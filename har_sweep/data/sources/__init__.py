"""Where images come from: one module a source, each from a config to a ``Listing``."""

from __future__ import annotations

from dataclasses import replace

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.sources.custom import list_custom
from har_sweep.data.sources.folder import list_folder
from har_sweep.data.sources.har import list_har
from har_sweep.data.sources.hub import list_hub
from har_sweep.data.sources.listing import Listing
from har_sweep.data.sources.sample import list_sample
from har_sweep.data.sources.table import list_csv
from har_sweep.errors import InputError
from har_sweep.events import Progress, no_progress

SOURCES = {
    "sample": list_sample,
    "har": list_har,
    "folder": list_folder,
    "csv": list_csv,
    "hub": list_hub,
    "custom": list_custom,
}


def list_items(data: DataConfig, paths: PathsConfig, progress: Progress = no_progress) -> Listing:
    """The images that ``data`` names, sorted by path; drawn (``sample``) or fetched (``hub``) first where need be.

    Raises
    ------
    InputError
        naming everything that is wrong with the folder or the table, not only the first; broken images are left to
        whoever reads them.
    """
    listing = SOURCES[data.source](data, paths, progress)
    if not _is_utf8(str(listing.root)):
        raise InputError(f"{str(listing.root)!a}: the folder's name is not UTF-8.", "Rename it.")
    if len(listing.classes) < 2:
        deeper = " If the class folders lie deeper, point data.root at the folder right above them."
        raise InputError(
            f"{listing.root}: all {len(listing.items):,} images have one label, '{listing.classes[0]}'.",
            f"There must be at least two classes.{deeper if data.source in ('folder', 'har') else ''}",
        )
    items = [item for item in listing.items if _is_utf8(item.path + item.label)]
    unspeakable = sorted(ascii(item.path)[1:-1] for item in set(listing.items).difference(items))
    return replace(listing, items=sorted(items), unspeakable=unspeakable)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
