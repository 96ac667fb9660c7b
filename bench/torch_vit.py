"""NOAH's supernet in plain PyTorch: the first rows of each module, no masks.

Its tensors have the names of the original's state dict, so that `interop.load_noah` reads both.
"""

import contextlib
import importlib
import sys
import types
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from noah_jax.vit import ViTConfig

_TRAINED = ("visual_prompt_token", "LoRA", "adapter", "head")


class Block(nn.Module):
    def __init__(self, config: ViTConfig, size: int, drop_path: float):
        super().__init__()
        d = config.width
        self.heads, self.dropout, self.drop_path = config.heads, config.dropout, drop_path
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.attn = nn.ModuleDict(
            {
                "qkv": nn.Linear(d, 3 * d),
                "proj": nn.Linear(d, d),
                "LoRA_a": nn.Linear(d, size, bias=False),
                "LoRA_b": nn.Linear(size, 3 * d, bias=False),
            }
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, 4 * d), "fc2": nn.Linear(4 * d, d)})
        self.adapter = nn.ModuleDict({"ln1": nn.Linear(d, size), "ln2": nn.Linear(size, d)})
        self.visual_prompt_token = nn.Parameter(torch.randn(1, size, d) * 0.02)

    def forward(self, x, tokens, vpt, lora, adapter):
        """Applies the block to `x` `[b, n, d]`, of which the first `tokens` are not prompts."""
        if vpt:
            prompts = self.visual_prompt_token[:, :vpt].expand(len(x), -1, -1)
            x = torch.cat([x[:, :tokens], self.drop(prompts)], dim=1)
        x = x + self.drop_branch(self.attention(self.norm1(x), lora))
        h = self.drop_branch(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))
        if adapter:
            down, up = self.adapter["ln1"], self.adapter["ln2"]
            inner = F.linear(h, down.weight[:adapter], down.bias[:adapter])
            inner = self.drop(inner * torch.sigmoid(1.702 * inner))
            h = h + F.linear(inner, up.weight[:, :adapter], up.bias)
        return x + h

    def attention(self, h, lora):
        b, n, d = h.shape
        qkv = self.attn["qkv"](h)
        if lora:
            inner = F.linear(self.drop(h), self.attn["LoRA_a"].weight[:lora])
            qkv = qkv + F.linear(inner, self.attn["LoRA_b"].weight[:, :lora])
        q, k, v = qkv.reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.attn["proj"](out.transpose(1, 2).reshape(b, n, d))

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training)

    def drop_branch(self, x):
        if not self.training or not self.drop_path:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
        return x * kept.to(x.dtype) / (1 - self.drop_path)


class Supernet(nn.Module):
    """A supernet of sizes up to `size`: `model(images [b, 3, h, w], genome)` → `[b, classes]`."""

    def __init__(self, config: ViTConfig, size: int):
        super().__init__()
        d, p = config.width, config.patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, d, p, p)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.grid**2, d) * 0.02)
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(config, size, rate) for rate in rates)
        self.norm = nn.LayerNorm(d, eps=1e-6)
        self.head = nn.Linear(d, config.num_classes)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(part in name for part in _TRAINED))

    def forward(self, images, genome):
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        tokens = x.shape[1]
        for block, sizes in zip(self.blocks, genome, strict=True):
            x = block(x, tokens, *sizes)
        return self.head(self.norm(x[:, 0]))


class Original(nn.Module):
    """NOAH's own model code behind the same call.

    It needs a copy of https://github.com/ZhangYuanhan-AI/NOAH, and `pip install --no-deps
    timm==0.5.4`. Parts of torchvision and of older PyTorch that timm 0.5.4 imports, but the model
    never uses, are faked.
    """

    def __init__(self, folder: str, config: ViTConfig, size: int):
        super().__init__()
        six = types.ModuleType("torch._six")
        six.container_abcs, six.string_classes = importlib.import_module("collections.abc"), str
        sys.modules.setdefault("torch._six", six)
        for name in ("", ".transforms", ".transforms.functional", ".datasets", ".ops", ".ops.misc"):
            sys.modules.setdefault(f"torchvision{name}", mock.MagicMock())
        sys.path.insert(0, folder)
        module = importlib.import_module("model.supernet_vision_transformer_timm")
        rates = [f"drop_rate_{name}" for name in ("LoRA", "prompt", "adapter")]
        rates = dict.fromkeys(rates, config.dropout)
        sizes = {f"super_{name}_dim": size for name in ("prompt_tuning", "LoRA", "adapter")}
        with contextlib.redirect_stdout(None):  # it prints every parameter
            self.model = module.VisionTransformer(
                img_size=config.image_size,
                patch_size=config.patch_size,
                num_classes=config.num_classes,
                embed_dim=config.width,
                depth=config.depth,
                num_heads=config.heads,
                drop_path_rate=config.drop_path,
                super_prefix_dim=0,
                **rates,
                **sizes,
            )

    def forward(self, images, genome):
        columns = dict(
            zip(
                ("visual_prompt_dim", "lora_dim", "adapter_dim"),
                zip(*genome, strict=True),
                strict=True,
            )
        )
        self.model.set_sample_config(columns | {"prefix_dim": [0] * len(genome)})
        return self.model(images)
