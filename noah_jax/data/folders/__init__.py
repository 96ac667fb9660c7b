"""Folders of images, and every layout in which they come."""

from noah_jax.data.folders.classes import image_files, split_classes
from noah_jax.data.folders.imagenet import open_imagenet
from noah_jax.data.folders.layouts import file_split, open_folder

__all__ = ["file_split", "image_files", "open_folder", "open_imagenet", "split_classes"]
