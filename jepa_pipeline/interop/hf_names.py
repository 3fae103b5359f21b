"""Names of tensors in folders of transformers, beside the names of this package and of timm.

A table pairs ours with theirs: modules, whose weight and bias are meant, and single parameters; N is the number of a block.
transformers 5 renamed modules of ViT, I-JEPA and DINOv2, and still writes the older names, except for a network that was read under
the newer ones. So both are read; the older ones, which 4.57 and 5 read, are written.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Table = Sequence[tuple[str, str]]

EMBEDDINGS: Table = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
)
VIT: Table = (
    *EMBEDDINGS,
    ("blocks.N.norm1", "encoder.layer.N.layernorm_before"),
    ("blocks.N.attn.q", "encoder.layer.N.attention.attention.query"),
    ("blocks.N.attn.k", "encoder.layer.N.attention.attention.key"),
    ("blocks.N.attn.v", "encoder.layer.N.attention.attention.value"),
    ("blocks.N.attn.proj", "encoder.layer.N.attention.output.dense"),
    ("blocks.N.norm2", "encoder.layer.N.layernorm_after"),
    ("blocks.N.mlp.fc1", "encoder.layer.N.intermediate.dense"),
    ("blocks.N.mlp.fc2", "encoder.layer.N.output.dense"),
    ("norm", "layernorm"),
)
"""ViTModel, and IJepaModel, which has no class token."""
VIT_NEWER: Table = (
    ("blocks.N.norm1", "layers.N.layernorm_before"),
    ("blocks.N.attn.q", "layers.N.attention.q_proj"),
    ("blocks.N.attn.k", "layers.N.attention.k_proj"),
    ("blocks.N.attn.v", "layers.N.attention.v_proj"),
    ("blocks.N.attn.proj", "layers.N.attention.o_proj"),
    ("blocks.N.norm2", "layers.N.layernorm_after"),
    ("blocks.N.mlp.fc1", "layers.N.mlp.fc1"),
    ("blocks.N.mlp.fc2", "layers.N.mlp.fc2"),
)
DINOV2: Table = (
    *EMBEDDINGS,
    ("reg_token", "embeddings.register_tokens"),
    ("blocks.N.norm1", "encoder.layer.N.norm1"),
    ("blocks.N.attn.q", "encoder.layer.N.attention.attention.query"),
    ("blocks.N.attn.k", "encoder.layer.N.attention.attention.key"),
    ("blocks.N.attn.v", "encoder.layer.N.attention.attention.value"),
    ("blocks.N.attn.proj", "encoder.layer.N.attention.output.dense"),
    ("blocks.N.ls1.gamma", "encoder.layer.N.layer_scale1.lambda1"),
    ("blocks.N.norm2", "encoder.layer.N.norm2"),
    ("blocks.N.mlp.fc1", "encoder.layer.N.mlp.fc1"),
    ("blocks.N.mlp.fc2", "encoder.layer.N.mlp.fc2"),
    ("blocks.N.mlp.fc1", "encoder.layer.N.mlp.weights_in"),
    ("blocks.N.mlp.fc2", "encoder.layer.N.mlp.weights_out"),
    ("blocks.N.ls2.gamma", "encoder.layer.N.layer_scale2.lambda1"),
    ("norm", "layernorm"),
)
DINOV2_NEWER: Table = (
    ("blocks.N.attn.q", "encoder.layer.N.attention.q_proj"),
    ("blocks.N.attn.k", "encoder.layer.N.attention.k_proj"),
    ("blocks.N.attn.v", "encoder.layer.N.attention.v_proj"),
    ("blocks.N.attn.proj", "encoder.layer.N.attention.o_proj"),
    ("blocks.N.mlp.gate", "encoder.layer.N.mlp.gate_proj"),
    ("blocks.N.mlp.up", "encoder.layer.N.mlp.up_proj"),
    ("blocks.N.mlp.fc2", "encoder.layer.N.mlp.down_proj"),
)
DINOV3: Table = (
    ("cls_token", "embeddings.cls_token"),
    ("reg_token", "embeddings.register_tokens"),
    ("patch_embed.proj", "embeddings.patch_embeddings"),
    ("blocks.N.norm1", "layer.N.norm1"),
    ("blocks.N.attn.q", "layer.N.attention.q_proj"),
    ("blocks.N.attn.k", "layer.N.attention.k_proj"),
    ("blocks.N.attn.v", "layer.N.attention.v_proj"),
    ("blocks.N.attn.proj", "layer.N.attention.o_proj"),
    ("blocks.N.gamma_1", "layer.N.layer_scale1.lambda1"),
    ("blocks.N.norm2", "layer.N.norm2"),
    ("blocks.N.mlp.fc1_g", "layer.N.mlp.gate_proj"),
    ("blocks.N.mlp.up", "layer.N.mlp.up_proj"),
    ("blocks.N.mlp.fc2", "layer.N.mlp.down_proj"),
    ("blocks.N.gamma_2", "layer.N.layer_scale2.lambda1"),
    ("norm", "norm"),
)
"""`mlp.up` is `mlp.fc1_x` of a gated MLP, and `mlp.fc1` of another."""


def video_blocks(prefix: str) -> Table:
    """Return the names of the blocks of VJEPA2Model below `prefix`: encoder or predictor."""
    attention = {"attn.q": "attention.query", "attn.k": "attention.key", "attn.v": "attention.value", "attn.proj": "attention.proj"}
    same = {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
    return [(f"blocks.N.{ours}", f"{prefix}.layer.N.{theirs}") for ours, theirs in (attention | same).items()]


VJEPA2: Table = (
    ("patch_embed.proj", "encoder.embeddings.patch_embeddings.proj"),
    *video_blocks("encoder"),
    ("norm", "encoder.layernorm"),
)
VJEPA2_PREDICTOR: Table = (
    ("embed", "predictor.embeddings.predictor_embeddings"),
    ("mask_token", "predictor.embeddings.mask_tokens"),
    *video_blocks("predictor"),
    ("norm", "predictor.layernorm"),
    ("proj", "predictor.proj"),
)


def rules(table: Table, prefixes: Sequence[str]) -> list[tuple[str, str]]:
    """Return rules for `published.rename`, from their names to ours.

    Args:
        table: ours and theirs.
        prefixes: names that theirs may begin with: that of the encoder in a network with a head.
    """
    optional, found = optional_prefix(prefixes), []
    for ours, theirs in table:
        pattern = re.escape(theirs).replace("N", r"(?P<block>\d+)")
        target = ours.replace("N", r"\g<block>")
        found.append((rf"{optional}{pattern}(?P<kind>\.weight|\.bias|)", rf"{target}\g<kind>"))
    return found


def optional_prefix(prefixes: Sequence[str]) -> str:
    """Return a regular expression of any of the prefixes, several or none."""
    return f"(?:{'|'.join(re.escape(prefix) for prefix in prefixes)})*"


def fuse(tensors: Mapping[str, Tensor], parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """Return tensors in which modules that differ only in their last name are one, such as attn.q, attn.k and attn.v.

    Raises:
        KeyError: one of several parts is missing.
    """
    fused = dict[str, Tensor]()
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        path, _, part = module.rpartition(".")
        if part not in parts:
            fused[name] = tensor
        elif (joined := f"{path}.{whole}.{kind}") not in fused:
            fused[joined] = torch.cat([tensors[f"{path}.{each}.{kind}"] for each in parts])
    return fused


def split(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in which every attn.qkv is three: attn.q, attn.k and attn.v."""
    found = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            for part, rows in zip(("q", "k", "v"), tensor.chunk(3), strict=True):
                found[name.replace(".qkv.", f".{part}.")] = rows
        else:
            found[name] = tensor
    return found


def translate(tensors: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Return tensors by the names of transformers.

    Raises:
        KeyError: transformers has no such tensor.
    """
    parts = split(tensors)
    names = {name: theirs(name, table) for name in parts}
    if missing := next((name for name, other in names.items() if other is None), None):
        raise KeyError(missing)
    return {str(names[name]): tensor.contiguous() for name, tensor in parts.items()}


def theirs(name: str, table: Table) -> str | None:
    """Return the name of one of our tensors in a folder of transformers; None: it has no such tensor."""
    number = re.search(r"(?<=^blocks\.)\d+", name)
    numbered = re.sub(r"^blocks\.\d+", "blocks.N", name)
    for ours, other in table:
        if numbered == ours or numbered in (f"{ours}.weight", f"{ours}.bias"):
            return (other + numbered.removeprefix(ours)).replace("N", number[0] if number else "")
    return None
