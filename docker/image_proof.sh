#!/usr/bin/env bash
# Does what docker/Dockerfile.cpu does, without a container engine: installs a copy of the build context into an empty
# virtual environment with docker/install.sh and tries the image's commands. Writes to a temporary folder only.
#
#   docker/image_proof.sh [PYTHON]   an interpreter with venv; the image's is 3.12
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder="$(mktemp -d)"
trap 'rm -rf "${folder}"' EXIT
mkdir "${folder}/dali-dbnet" "${folder}/work"
mapfile -t names < <(sed -n 's/^!//p' .dockerignore)
git ls-files -z -- "${names[@]}" | xargs -0 cp --parents --target-directory "${folder}/dali-dbnet"

"${1:-python3}" -m venv "${folder}/venv"
export PATH="${folder}/venv/bin:${PATH}"
unset PYTHONPATH VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
cd "${folder}/work"
for step in dependencies project; do
    ../dali-dbnet/docker/install.sh "${step}"
done
../dali-dbnet/docker/try_commands.sh ../dali-dbnet/docker/entrypoint.sh
