# Plays NVIDIA's PyTorch image for docker/run_steps.py: what docker/Dockerfile relies on and must not disturb. Never built or shipped.
FROM scratch

ENV CUDA_VERSION=13.4.1 \
    NVIDIA_VISIBLE_DEVICES=all \
    PIP_CONSTRAINT=/etc/pip/constraint.txt

# Ubuntu's image has a user 1000; NVIDIA's holds packages back and brings an older DALI.
RUN { getent passwd 1000 || useradd --uid 1000 --create-home ubuntu; } \
    && mkdir -p /etc/pip \
    && printf 'nvidia-dali-cuda130==2.2.0\npillow==10.4.0\n' > /etc/pip/constraint.txt

RUN --mount=type=cache,target=/var/cache/uv \
    pip install --no-cache-dir "uv>=0.9,<1" \
    && UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy uv pip install --system \
        "torch>=2.8,<3" "torchvision>=0.23,<1" nvidia-dali-cuda130==2.2.0 \
    && pip uninstall --yes uv

# Versions as of NVIDIA's own builds, which no package index has: 2.15.0 becomes 2.15.0a0+stand.in.
# hadolint ignore=DL3003  # the folder is known at build time only
RUN cd "$(python -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])')" \
    && for name in torch torchvision; do \
        info="$(ls -d "${name}"-*.dist-info)" \
        && sed -i -E 's/^Version: ([0-9.]+).*/Version: \1a0+stand.in/; s/^Requires-Dist: torch==.*/Requires-Dist: torch/' "${info}/METADATA" \
        && sed -i "s/^${name}-[0-9.]*\.dist-info/${info%.dist-info}a0+stand.in.dist-info/" "${info}/RECORD" \
        && mv "${info}" "${info%.dist-info}a0+stand.in.dist-info" || exit 1; \
    done
