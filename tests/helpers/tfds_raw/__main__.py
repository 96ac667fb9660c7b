"""`python -m tests.helpers.tfds_raw DATA_DIR TASK …`: makes raw files, prepares the tasks.

The files lie in TFDS's folder of manual downloads under the names that TFDS has registered, where
its real builders take them instead of downloading, through its own extraction. Only the checksums
are not compared.
"""

import pathlib
import runpy
import sys

import tensorflow_datasets as tfds

from tests.helpers.tfds_raw import few_shot, natural, specialized, structured

data_dir, *tasks = sys.argv[1:]
for module in (natural, specialized, structured, few_shot):
    for dataset in module.DATASETS:
        for name, data in dataset().items():
            path = pathlib.Path(data_dir, "downloads", "manual", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
tfds.disable_progress_bar()
tfds.download.DownloadManager._register_or_validate_checksums = lambda self, **_: None
sys.argv = ["data", "prepare", *tasks, f"--data_dir={data_dir}"]
runpy.run_module("noah_jax.data", run_name="__main__")
