#!/usr/bin/env bash
# Installs what an image needs into the Python on PATH. Both Dockerfiles and `make image-proof` run it.
#
#   docker/install.sh dependencies   the requirements in pyproject.toml, with the extras that `compare` needs
#   docker/install.sh project        this checkout, editable: the wheel has no scripts/
#
# Environment:
#   TORCH_BACKEND=cpu   install PyTorch's build without CUDA, from PyTorch's own index
#   CUDA_VERSION        set by NVIDIA's images; its major version selects the DALI package
#   CONSTRAINTS         file with the versions to install, docker/constraints.txt by default; /dev/null: the newest that pyproject.toml
#                       allows
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Packages that NVIDIA compiled for its PyTorch image: they keep their versions. Empty on a plain Python image.
base_packages() {
    python -m pip list --format=freeze |
        grep -iE '^(torch|torchvision|torchaudio|numpy|triton|pytorch[-_]triton|torch[-_]tensorrt|transformer[-_]engine|flash[-_]attn|apex)==' ||
        true
}

# The constraints without the packages of the base image, whose versions base_packages.txt fixes.
constraints() {
    grep -v '^#' "${CONSTRAINTS:-docker/constraints.txt}" |
        grep -viE "^($(cut -d= -f1 base_packages.txt | tr '_' '-' | paste -sd '|'))==" || true
}

install() {
    python -m uv pip install --python "$(command -v python)" --break-system-packages --compile-bytecode "$@"
    if [[ -s base_packages.txt ]] && ! difference="$(base_packages | diff base_packages.txt -)"; then
        echo "the installation changed packages of the base image (< before, > after):"
        echo "${difference}"
        exit 1
    fi >&2
}

case "${1:-}" in
    dependencies)
        base_packages > base_packages.txt
        PIP_BREAK_SYSTEM_PACKAGES=1 python -m pip install --quiet --no-cache-dir uv==0.13.8
        cuda="${CUDA_VERSION:-12}"
        sed -i "s/nvidia-dali-cuda120/nvidia-dali-cuda${cuda%%.*}0/" pyproject.toml
        options=()
        if [[ -n "${TORCH_BACKEND:-}" ]]; then # not every file in PyTorch's index has the date that exclude-newer needs
            options+=(--torch-backend="${TORCH_BACKEND}")
            options+=(--exclude-newer-package torch=false --exclude-newer-package torchvision=false)
        fi
        constraints > constraints.txt
        install "${options[@]}" --constraints base_packages.txt --constraints constraints.txt -r pyproject.toml --extra bench --extra webdataset --extra s3 --extra onnx
        ;;
    project)
        install --no-deps --editable .
        python -m compileall -q benchmarks dali_pipelines ocr scripts
        ;;
    *)
        echo "usage: docker/install.sh dependencies|project" >&2
        exit 2
        ;;
esac
