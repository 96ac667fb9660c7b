"""Folders of images, and every layout in which they come."""

from noah_jax.data.folders.files import described, file_split, walk
from noah_jax.data.folders.imagenet import open_imagenet
from noah_jax.data.folders.layouts import open_folder
from noah_jax.data.folders.parquet import HUB
from noah_jax.data.folders.splits import LEAST, split_classes

__all__ = [
    "HUB",
    "LEAST",
    "described",
    "file_split",
    "open_folder",
    "open_imagenet",
    "split_classes",
    "walk",
]
