"""Runs the subnet in this folder with PyTorch: `python torch_model.py IMAGE …`

It reads `subnet.json` and `model.safetensors` beside it. In a program, after `import torch_model`:

    model = torch_model.load()
    images = model.read_image("photo.jpg")[None]  # uint8 [b, h, w, 3]
    print(model.class_names[model(images)[0].argmax()])
"""

import contextlib
import json
import math
import pathlib
import sys

import safetensors.torch
import torch
from torch.nn import functional as F

COLUMNS = ("vpt", "lora", "adapter", "parallel")  # of a genome; LoRA is merged
ADAPTER = ("down", "down_bias", "up", "up_bias")


class Model(torch.nn.Module):
    """A ViT with prompt modules, made of what `subnet.json` and `model.safetensors` hold."""

    def __init__(self, facts: dict, tensors: dict[str, torch.Tensor]):
        super().__init__()
        self.facts, self.vit = facts, facts["vit"]
        self.side, self.heads = self.vit["image_size"], self.vit["heads"]
        self.grid, self.pooling = self.side // self.vit["patch_size"], self.vit.get("pooling")
        self.genome = [dict(zip(COLUMNS, row, strict=False)) for row in facts["genome"]]
        self.class_names = facts["class_names"] or [*map(str, range(self.vit["num_classes"]))]
        self.classes = int(self.pooling in (None, "class"))  # the number of class tokens
        self.first = self.classes + self.vit.get("registers", 0)  # patch
        self.end = self.first + self.grid**2  # of the patches; prompts come after them
        all_of_it = tensors | {name: torch.tensor(facts[name]) for name in ("mean", "std")}
        self.weights = torch.nn.ParameterDict(  # whose names can have no dots
            {name.replace(".", "/"): torch.nn.Parameter(x, False) for name, x in all_of_it.items()}
        )

    def read_image(self, path: str | pathlib.Path) -> torch.Tensor:
        """Reads an image file, with Pillow, as the subnet takes it: uint8 `[h, w, 3]`.

        The image is turned as its EXIF says. What is transparent becomes white. ValueError: it has
        more than 8 bits a channel.
        """
        from PIL import Image, ImageOps

        with Image.open(path) as image:
            image.load()
            with contextlib.suppress(Exception):  # odd metadata
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{path}: mode {image.mode}, convert it to 8 bits a channel")
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            side = self.side * 8 // 7 if self.facts["center_crop"] else self.side
            image = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        middle = slice((side - self.side) // 2, (side - self.side) // 2 + self.side)
        return pixels.reshape(side, side, 3)[middle, middle]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes float32 logits `[b, classes]` of uint8 images `[b, h, w, 3]`."""
        x = self.embed(images)
        for i, row in enumerate(self.genome):
            if row["vpt"]:  # these prompts replace those of earlier blocks
                x = torch.cat([x[:, : self.end], self.tokens(f"blocks/{i}/vpt/tokens", x)], 1)
            x = self.block(x, f"blocks/{i}/", row)
        x = self.norm(x[:, 0] if self.classes else x[:, self.first : self.end], "norm")
        x = x if self.classes else self.pool(x) if self.pooling == "attention" else x.mean(1)
        return self.linear(x, "head").float()

    def embed(self, images):  # to class token, registers, patches [b n d]
        mean, std, b, grid = self.weights["mean"], self.weights["std"], len(images), self.grid
        x = ((images.to(mean.device) / 255 - mean) / std).to(mean.dtype)
        x = x.reshape(b, grid, -1, grid, self.side // grid, 3).transpose(2, 3).flatten(3)
        x = self.linear(x.flatten(1, 2), "patch_embed")
        if self.classes:
            x = torch.cat([self.tokens("cls_token", x), x], 1)
        x = x + self.weights.get("pos_embed", 0)
        if "register_tokens" in self.weights:  # they have no position
            registers = self.tokens("register_tokens", x)
            x = torch.cat([x[:, : self.classes], registers, x[:, self.classes :]], 1)
        return self.norm(x, "norm_pre") if self.vit.get("pre_norm") else x

    def block(self, x, name, row):
        q, k, v = self.linear(self.norm(x, name + "norm1"), name + "qkv").chunk(3, -1)
        x = x + self.linear(self.attend(q, k, v, self.vit.get("rope")), name + "proj")
        h = out = self.mlp(self.norm(x, name + "norm2"), name)
        for module, start, f in (("adapter", h, quick_gelu), ("parallel", x, F.relu)):
            if row.get(module):
                down, bias, up, up_bias = (self.weights[f"{name}{module}/{x}"] for x in ADAPTER)
                out = out + f(start @ down + bias) @ up + up_bias
        return x + out

    def attend(self, q, k, v, rope=False):
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if rope:
            q, k = self.rotated(q), self.rotated(k)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def rotated(self, x):  # the patches in x [b heads n c], as in DINOv3 (arXiv 2508.10104)
        grid, pairs = self.grid, x.shape[-1] // 4
        turns = 100.0 ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
        angles = 2 * math.pi * ((2 * torch.arange(grid) + 1) / grid - 1)[:, None] * turns
        angles = torch.cat([angles.repeat_interleave(grid, 0), angles.repeat(grid, 1)], 1)
        angles = F.pad(angles, (0, 0, self.first, x.shape[2] - self.end))
        cos, sin, (one, other) = angles.cos().to(x), angles.sin().to(x), x.chunk(2, -1)
        return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)

    def pool(self, x):  # patches [b n d] to [b d], as in SigLIP (arXiv 2106.04560)
        k, v = self.linear(x, "pool/key_value").chunk(2, -1)
        q = self.linear(self.tokens("pool/probe", x), "pool/query")
        x = self.linear(self.attend(q, k, v)[:, 0], "pool/proj")
        return x + self.mlp(self.norm(x, "pool/norm"), "pool/")

    def mlp(self, x, name):
        h, how = self.linear(x, name + "fc1"), "tanh" if self.vit.get("tanh_gelu") else "none"
        h = quick_gelu(h) if self.vit.get("quick_gelu") else F.gelu(h, approximate=how)
        return self.linear(h, name + "fc2")

    def tokens(self, name, x):  # the same for each example of x
        return self.weights[name].expand(len(x), -1, -1)

    def linear(self, x, name):
        return x @ self.weights[name + "/kernel"] + self.weights.get(name + "/bias", 0)

    def norm(self, x, name):
        scale, bias = self.weights[name + "/scale"], self.weights[name + "/bias"]
        return F.layer_norm(x, scale.shape, scale, bias, self.vit.get("epsilon", 1e-6))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def load(folder: str | pathlib.Path = pathlib.Path(__file__).parent) -> Model:
    """Reads the subnet in an export."""
    facts = json.loads((pathlib.Path(folder) / "subnet.json").read_text("utf-8"))
    return Model(facts, safetensors.torch.load_file(pathlib.Path(folder) / "model.safetensors"))


if __name__ == "__main__":
    model = load()
    for path in sys.argv[1:]:
        chances = model(model.read_image(path)[None]).softmax(-1)[0]
        print(f"{path}  {model.class_names[chances.argmax()]} {100 * chances.max():.1f} %")
