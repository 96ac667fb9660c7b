"""Counts the floating-point operations of a model by arithmetic.

Only matrix products count, with a multiplication and an addition as two operations. Softmax, norms,
GELUs, dropout and the optimiser are left out, as is usual for model FLOP utilisation. So is
everything that an implementation computes twice to save memory. Prompt modules count at the size at
which their parameters exist, because masked ones cost the same whatever the genome.
"""

from collections.abc import Mapping

from noah_jax.vit.config import ViTConfig


def tokens(config: ViTConfig, max_sizes: Mapping[str, int]) -> int:
    """Counts the tokens: class token, registers, patches and slots for prompts."""
    return config.first_slot + max_sizes["vpt"]


def forward(config: ViTConfig, max_sizes: Mapping[str, int]) -> int:
    """Counts the operations for the logits of one image.

    The last block computes queries, keys and values for all tokens. It computes attention,
    projection, MLP and adapter for the class token alone, since only that reaches the head; without
    a class token it is like the others. A pooling head is left out (1 % of a SigLIP's).
    """
    n, blocks = tokens(config, max_sizes), config.depth - 1
    total = _embedding(config) + _head(config)
    total += blocks * sum(_block(config, max_sizes, n, n))
    return total + sum(_block(config, max_sizes, n, config.class_tokens or n))


def training_step(config: ViTConfig, max_sizes: Mapping[str, int]) -> int:
    """Counts the operations for one image forward and backward, with a frozen backbone.

    Prompt modules and head train. In the backward pass a product with frozen weights costs as much
    as in the forward pass, since only the gradient of its input is needed. A product with weights
    that train, and a product of attention, costs twice that. The embedding comes before everything
    that trains, so it has no backward pass. The backward pass of block 0 is counted in full, though
    only its prompts need it (1 % of a ViT-B's step).
    """
    n, blocks = tokens(config, max_sizes), config.depth - 1
    total = forward(config, max_sizes) + 2 * _head(config)
    for count, queries in ((blocks, n), (1, config.class_tokens or n)):
        frozen, attention, trained = _block(config, max_sizes, n, queries)
        total += count * (frozen + 2 * attention + 2 * trained)
    return total


def _embedding(config) -> int:
    return 2 * config.grid**2 * 3 * config.patch_size**2 * config.width


def _head(config) -> int:
    return 2 * config.width * config.num_classes


def _block(config, max_sizes, n: int, queries: int) -> tuple[int, int, int]:
    """Counts a block's forward products: with frozen weights, of attention, of prompt modules."""
    d, lora = config.width, max_sizes["lora"]
    adapter = max_sizes["adapter"] + max_sizes.get("parallel", 0)
    frozen = 2 * n * d * 3 * d + 2 * queries * (d * d + 2 * d * (config.mlp_width or 4 * d))
    attention = 2 * 2 * queries * n * d
    trained = 2 * n * lora * (d + 3 * d) + 2 * queries * 2 * d * adapter
    return frozen, attention, trained
