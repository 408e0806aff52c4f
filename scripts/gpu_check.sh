#!/usr/bin/env bash
# Checks what only a GPU can show; with --cpu, what can be checked without one: scripts/gpu_check.sh --help
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
[[ -d "$root/tests/gpu" ]] || { echo "gpu_check.sh: $root/tests/gpu is missing; run it from a git checkout" >&2; exit 2; }
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" # the checkout need not be installed
has_packages() { "$1" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "nvidia.dali"))))' 2>/dev/null; }
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON="$root/.venv/bin/python"
    if [[ ! -x "$PYTHON" ]]; then
        if has_packages python3; then # a machine without network, or a container
            PYTHON=python3
        else
            make --silent --directory "$root" setup-all >&2
        fi
    fi
fi
exec "$PYTHON" "$root/tests/gpu/run.py" "$@"
