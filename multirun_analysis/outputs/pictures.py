"""Pictures of disputed images in Weights & Biases, logged by a run of their own, since a report can show no others."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from multirun_analysis.findings import Block, Disputed
from multirun_analysis.sources.wandb_client import PICTURES, Client

if TYPE_CHECKING:
    import wandb

Pictures = dict[str, tuple[str, list[Disputed]]]
"""Images that have a picture, by what they are logged as, under the title of their pair of candidates."""


def disputed_pictures(blocks: Sequence[Block]) -> Pictures:
    found: Pictures = {}
    for block in blocks:
        for (first, second), images in block.errors.disputed.items() if block.errors else ():
            if pictured := [image for image in images if image.thumbnail]:
                title = f"Images that only {block.labels[first]} or only {block.labels[second]} gets right"
                found[f"disputed-{len(found) + 1}"] = title, pictured
    return found


def log_pictures(client: Client, pictures: Pictures, entity: str, project: str, run_id: str) -> None:
    """Log them to the run of that id, in the place of those that it had.

    Raises
    ------
    InputError
        if the server cannot be reached, or does not let one write there.
    """
    import wandb

    server = client.api().settings["base_url"]
    with client.explained(f"{entity}/{project}"):
        run = wandb.init(
            entity=entity, project=project, id=run_id, name="Disputed images", group=PICTURES, job_type=PICTURES,
            dir=str(client.runs_folder), resume="allow",
            settings=wandb.Settings(
                base_url=server,
                console="off", silent=True, disable_git=True, save_code=False, disable_code=True, x_disable_meta=True,
                program="multirun_analysis", x_disable_machine_info=True, x_save_requirements=False,
            ),
        )  # fmt: skip
        run.log({key: [_picture(image) for image in images] for key, (_, images) in pictures.items()})
        run.finish()


def _picture(image: Disputed) -> wandb.Image:
    import wandb
    from PIL import Image

    data = base64.b64decode((image.thumbnail or "").partition(",")[2])
    said = f"{image.truth}, taken for {' and '.join(sorted({*image.answers} - {image.truth}))}: {image.path}"
    return wandb.Image(Image.open(io.BytesIO(data)), caption=said, file_type="jpg")
