#!/usr/bin/env bash
# Runs the command that the first word names, by exec, so that signals reach it.
set -euo pipefail

scripts="$(dirname "$(readlink -f "$0")")/../scripts"
word="${1:-help}"
shift || true

case "${word}" in
    train | evaluate | predict | export) exec python "${scripts}/${word}.py" "$@" ;;
    compare) exec python "${scripts}/compare_loaders.py" "$@" ;;
    prepare) exec python "${scripts}/prepare_data.py" "$@" ;;
    inspect) exec python "${scripts}/inspect_data.py" "$@" ;;
    self-test) exec python -m ocr.self_test --loader dali "$@" ;;
    help | --help | -h)
        cat <<'END'
Trains a text detector (DBNet) from a folder of annotated JPEGs.

  train    [key=value ...]   train; without arguments on synthetic receipts, within minutes
  evaluate checkpoint=FILE   compute the metrics of a checkpoint
  predict  checkpoint=FILE images=FOLDER output=FOLDER
  export   checkpoint=FILE output=model.onnx
  compare  [key=value ...]   measure which loader is fastest on this machine
  prepare  output=FOLDER     write checked annotations, upright images, maps, shards
  inspect  [key=value ...]   write one HTML file of what the network gets
  self-test                  check in seconds that everything works on this machine
  help                       print this text
  COMMAND                    any other word runs as a command: bash, python, nvidia-smi

The commands above self-test print their keys with --help. The working folder is /, and runs write to outputs/: mount a folder at
/outputs to keep it, and your data at /data. The project is in /opt/dali-dbnet; docs/containers.md of its repository has complete command lines.
END
        ;;
    *) exec "${word}" "$@" ;;
esac
