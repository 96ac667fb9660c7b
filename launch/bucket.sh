# shellcheck shell=bash
# Sourced by launch/tpu_vm.sh and launch/on_tpu_vm.sh: `is_folder URL` is true for gs://BUCKET/FOLDER.
# What is copied there deletes what else is there. So it must be a folder and not a whole bucket, and
# neither lead elsewhere nor be a pattern.

is_folder() {
  local LC_ALL=C
  [[ $1 =~ ^gs://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._=+@,~-]+)+$ && ! $1 =~ /\.\.?(/|$) ]]
}
