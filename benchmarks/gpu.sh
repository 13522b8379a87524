#!/bin/sh
# One command for the owner of an NVIDIA GPU: install, run the GPU tests, measure, write benchmarks/results/gpu-*.json.
#
#   benchmarks/gpu.sh [MODEL ...]  needs PyPI, or the wheels in benchmarks/wheels/ (then nothing is downloaded)
#   FLAVOR=rtx|tensorrt|system     which TensorRT to install; system: none, JetPack's own is there (Jetson)
#   PYTHON=python3.12              which Python
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv-gpu}
WHEELS=benchmarks/wheels

if [ -z "${FLAVOR:-}" ]; then
    if [ -e /etc/nv_tegra_release ]; then
        FLAVOR=system
    else
        # Hopper (9.0), data-centre Blackwell (10.x), Orin (8.7) and Thor (11.0) are no targets of TensorRT for RTX.
        case "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)" in
            7.5 | 8.0 | 8.6 | 8.9 | 12.0 | 12.1) FLAVOR=rtx ;;
            *) FLAVOR=tensorrt ;;
        esac
    fi
fi
case "$FLAVOR" in
    rtx) extras=train,rtx,ort-gpu ;;
    tensorrt) extras=train,tensorrt,ort-gpu ;;
    system) extras=cpu,jetson ;;
    *) echo "FLAVOR must be rtx, tensorrt or system" >&2; exit 2 ;;
esac

# Packages that are already there (JetPack's TensorRT, a PyTorch with CUDA) are used.
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv --system-site-packages "$VENV"
if [ -d "$WHEELS" ]; then
    "$VENV/bin/python" -m pip install --no-index --find-links "$WHEELS" ".[$extras]" pytest
else
    "$VENV/bin/python" -m pip install ".[$extras]" pytest
fi

"$VENV/bin/n2q-edge" doctor
"$VENV/bin/python" -m pytest -m gpu -p no:cacheprovider tests/runtimes tests/engine || echo "GPU tests failed; measuring all the same" >&2
exec "$VENV/bin/python" benchmarks/gpu.py "$@"
