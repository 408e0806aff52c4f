#!/usr/bin/env bash
# Checks everything that only a GPU can show, or with --cpu its counterpart: scripts/gpu_check.sh --help
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" # the checkout need not be installed
if [[ -n "${PYTHON:-}" ]]; then
    python=("$PYTHON")
elif [[ -x "$root/.venv/bin/python" ]]; then
    python=("$root/.venv/bin/python")
elif command -v uv >/dev/null; then
    python=(uv run --project "$root" python)
else
    python=(python3)
fi
exec "${python[@]}" -m ocr.gpu_check "$@"
