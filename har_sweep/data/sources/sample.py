"""The embedded sample: stick figures, drawn once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.sources.folder import class_folders
from har_sweep.data.sources.listing import Listing
from har_sweep.events import Progress

# --- sample ----------------------------------------------------------------------------------------------------------


def list_sample(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    root = Path(paths.data).absolute() / f"sample-{data.images_per_class}"
    if not root.is_dir():
        from har_sweep.data.sources.stick_figures import write_sample

        progress("Drawing the synthetic sample", 0, 1)
        drawing = root.with_name(f".{root.name}.{os.getpid()}")
        write_sample(drawing, data.images_per_class)
        try:
            drawing.rename(root)
        except OSError:
            shutil.rmtree(drawing)
            if not root.is_dir():  # else another process has just drawn the same
                raise
    return class_folders(root, data)
