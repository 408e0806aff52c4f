#!/usr/bin/env bash
# Tries the commands of an image on a tiny drawn data set: self-test, train, evaluate, predict, compare.
#
#   docker/try_commands.sh ENTRYPOINT...   what runs them: docker/entrypoint.sh, or docker run ... IMAGE
#
# Runs write to outputs/ in the working folder of the entry point.
set -euo pipefail

try() {
    echo "== $*" >&2
    "${entrypoint[@]}" "$@"
}

entrypoint=("$@")
try self-test --device cpu
try train synthetic.num_train=6 synthetic.num_val=3 pipeline.image_size=128 model.fpn_channels=16 \
    model.backbone.weights=null trainer.max_epochs=1 dataloader.batch_size=2 hydra.run.dir=outputs/train
try evaluate checkpoint=outputs/train/checkpoints/last.ckpt split=val hydra.run.dir=outputs/evaluate
try predict checkpoint=outputs/train/checkpoints/last.ckpt images=outputs/synthetic/images/val output=outputs/predict
try compare --help > /dev/null
echo "all commands passed"
