"""The machine a run is on: processes, devices, files, checkpoints, what is said."""
