#!/usr/bin/env bash
# The first word chooses what runs; exec, so that signals reach it.
set -euo pipefail

scripts="$(dirname "$(readlink -f "$0")")/../scripts"
word="${1:-help}"
shift || true

case "${word}" in
    train | evaluate | predict) exec python "${scripts}/${word}.py" "$@" ;;
    compare) exec python "${scripts}/compare_loaders.py" "$@" ;;
    prepare) exec python "${scripts}/prepare_data.py" "$@" ;;
    self-test) exec python -m ocr.self_test "$@" ;;
    help | --help | -h)
        cat <<'END'
Trains a text detector (DBNet) from a folder of annotated JPEGs.

  train    [key=value ...]   train; without arguments on drawn receipts, within minutes
  evaluate checkpoint=FILE   metrics of a checkpoint
  predict  checkpoint=FILE images=FOLDER output=FOLDER
  compare  [key=value ...]   which loader is fastest here, measured
  prepare  output=FOLDER     checked annotations, upright images, maps, shards
  self-test                  seconds: does everything work on this machine
  help                       this text
  anything else              is run as a command: bash, python, nvidia-smi

Each of the first five prints its keys with --help. The working folder is /: a run writes to outputs/, mount a folder at /outputs
to keep it, and data at /data. The project is in /opt/dali-dbnet; docker/README.md there has the whole lines.
END
        ;;
    *) exec "${word}" "$@" ;;
esac
