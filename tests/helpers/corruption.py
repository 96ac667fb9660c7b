"""Damage to the bytes of a file."""

import random


def corrupted(data: bytes, rng: random.Random) -> bytes:
    """Some bytes are others, are missing, or are there twice."""
    data, start = bytearray(data), rng.randrange(len(data))
    end = start + rng.choice((1, 1, 1, 4, 64))
    kind = rng.randrange(4)
    if kind == 0:
        data[start] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[start:end] = rng.randbytes(len(data[start:end]))
    elif kind == 2:
        del data[start:end]
    else:
        data[end:end] = data[start:end]
    return bytes(data)
