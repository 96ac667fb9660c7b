"""The machine that a run is on: processes, devices, files, checkpoints, messages."""
