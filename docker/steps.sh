#!/usr/bin/env bash
# Installs AMT and predicts once. docker/*.Dockerfile run it, and so does `make test`, where the installation is done already.
# VENV: the environment; EXTRAS: of pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
export VENV=${VENV:-.venv} EXTRAS=${EXTRAS:-jpeg,video}
make install VENV="$VENV" EXTRAS="$EXTRAS"
python=$VENV/bin/python
"$python" -m amt.kernels
"$python" - <<'PYTHON'
import numpy

from amt.infer import Predictor
from amt.model import AMT, ModelConfig

picture = numpy.zeros((240, 320, 3), "uint8")
result = Predictor(AMT(ModelConfig()), max_spread=1)(picture, (300, 300, 160, 120), boxes=(160, 120, 100))
assert result.joints.shape == (21, 3) and numpy.isfinite(result.joints).all()
print("an untrained model predicts: it works")
PYTHON
