"""Raw files of every TFDS dataset that a task names: tiny, in the layout that its builder reads.

Every image shows its number, and its label is `number % classes` where nothing else is said.
A dataset is a function that gives {path in the folder of manual downloads: bytes}.
"""
