"""How a ViT computes on each kind of device. All that differs between them stands here.

Logits and gradients are the same up to rounding, but dropout has other random numbers on each.
What each choice gains stands under "What the compiler makes" in bench/README.md.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Execution:
    """Choices that change the speed and the memory, not the model.

    Attributes:
      unrolled: the program repeats the block `depth` times, with the weights of each apart. Else a
        loop runs one block; it compiles sooner, but stacks and slices whatever a block keeps.
      kept: the names of what the backward pass finds as it was, besides what it always does,
        instead of computing it again: "dropped" and "inner" are the inputs of LoRA's products,
        "softmax" are the maximum and the sum of the plain attention's softmax.
      quick_dropout: compares eight random bits with the rate, which is rounded to a 256th, instead
        of 32.
      joined_lora: LoRA and the layer that it changes are one product, see `prompts.joined`. A GPU
        needs a pass less over their output; a TPU adds as it multiplies.
      split_kept: keeps queries, keys and values apart, so that the backward pass need not take
        them out of one array.
      fast_variance: layer norms take mean and variance in one pass.
      genomes_in_turn: a device evaluates the genomes of a call one after the other. Side by side,
        their values do not fit into the fast memory of a TPU; a GPU is 5 % faster with them so.
      rank_multiple: zeros widen the prompt modules' inner values to a multiple of this. Else the
        compiler does, once more for each product.
      fused_attention: cuDNN's kernel, see attention.py. Queries, keys and values are then three
        products, since they must not lie in one array, and the number of tokens is a multiple of 8.
      options: of the compiler, as pairs of name and value.
    """

    unrolled: bool = False
    kept: tuple[str, ...] = ()
    quick_dropout: bool = False
    joined_lora: bool = False
    split_kept: bool = False
    fast_variance: bool = False
    genomes_in_turn: bool = False
    rank_multiple: int = 1
    fused_attention: bool = False
    options: tuple[tuple[str, str], ...] = ()


_ON = {
    "cpu": Execution(),
    "gpu": Execution(
        unrolled=True,
        kept=("dropped", "inner"),
        quick_dropout=True,
        joined_lora=True,
        rank_multiple=16,
        # Else XLA makes one product of the three, and copies its parts.
        options=(("xla_gpu_dot_merger_threshold_mb", "0"),),
    ),
    "tpu": Execution(
        unrolled=True,
        kept=("inner", "softmax"),
        quick_dropout=True,
        split_kept=True,
        fast_variance=True,
        genomes_in_turn=True,
    ),
}


def on(backend: str) -> Execution:
    """The execution on a backend of JAX; on an unknown one that of a CPU."""
    return _ON.get(backend, _ON["cpu"])
