"""μ-BERT's encoder as timm models: import this module, then `timm.create_model("micron_bert_...")`.

They are timm's own VisionTransformer, with the contextual token as its class token, so that all of timm works:
`features_only`, pooling, heads, other image sizes. Our weights fit:

    timm.create_model(
        "micron_bert_small_patch8_224", pretrained=True, num_classes=3,
        pretrained_cfg_overlay={"file": "runs/pretrain/checkpoints/last/model.safetensors"},
    )
"""

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import layer_norm, sincos_positions

__all__ = [
    "micron_bert_base_patch8_224",
    "micron_bert_small_patch8_224",
    "micron_bert_small_patch16_224",
    "micron_bert_tiny_patch8_112",
]


def _default_cfg(image_size: int) -> dict[str, Any]:
    return {
        "input_size": (3, image_size, image_size),
        "num_classes": 0,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "interpolation": "bicubic",
        "crop_pct": 1.0,  # the corpus is cropped to the face already
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


default_cfgs = {name: _default_cfg(int(name.rsplit("_", 1)[1])) for name in __all__}


@register_model
def micron_bert_tiny_patch8_112(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The preset `tiny`: 112 px, 196 patches, width 96, 2 blocks."""
    return _create("micron_bert_tiny_patch8_112", "tiny", 8, pretrained, kwargs)


@register_model
def micron_bert_small_patch8_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The preset `small`, which is the paper's: 224 px, 784 patches, width 512, 4 blocks."""
    return _create("micron_bert_small_patch8_224", "small", 8, pretrained, kwargs)


@register_model
def micron_bert_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The preset `small` with patches of 16 px: 196 of them."""
    return _create("micron_bert_small_patch16_224", "small", 16, pretrained, kwargs)


@register_model
def micron_bert_base_patch8_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The preset `base`: 224 px, 784 patches, width 768, 12 blocks."""
    return _create("micron_bert_base_patch8_224", "base", 8, pretrained, kwargs)


def _create(name: str, preset: str, patch_size: int, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    config = PRESETS[preset]
    kwargs.setdefault("num_classes", 0)
    model: nn.Module = build_model_with_cfg(
        _vision_transformer,
        name,
        pretrained,
        pretrained_filter_fn=_from_micron_bert,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **{
            "img_size": config.image_size,
            "patch_size": patch_size,
            "embed_dim": config.dim,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": config.mlp_ratio,
            "norm_layer": layer_norm,
            "no_embed_class": True,  # the contextual token has no position
            **kwargs,
        },
    )
    return model


def _vision_transformer(**kwargs: Any) -> VisionTransformer:
    """With μ-BERT's fixed positions; they are made for square images and resampled for others."""
    model = VisionTransformer(**kwargs)
    assert isinstance(model.pos_embed, nn.Parameter)
    rows, columns = model.patch_embed.grid_size
    positions = sincos_positions(rows, kwargs["embed_dim"])
    model.pos_embed.data = resample_abs_pos_embed(positions, (rows, columns), num_prefix_tokens=0)
    model.pos_embed.requires_grad_(False)
    return model


def _from_micron_bert(tensors: dict[str, Tensor], model: VisionTransformer) -> dict[str, Tensor]:
    """Rename a MicronBert's tensors for timm; decoder and micro-attention have no counterpart there."""
    if "encoder.contextual_token" not in tensors:
        return tensors
    renamed = {
        "contextual_token": "cls_token",
        "patch_embed.weight": "patch_embed.proj.weight",
        "patch_embed.bias": "patch_embed.proj.bias",
    }
    found = {}
    for name, tensor in tensors.items():
        if name.startswith("encoder."):
            name = name.removeprefix("encoder.")
            found[renamed.get(name, name)] = tensor
    grid = model.patch_embed.grid_size
    found["pos_embed"] = resample_abs_pos_embed(found["pos_embed"], grid, num_prefix_tokens=0)
    return found
