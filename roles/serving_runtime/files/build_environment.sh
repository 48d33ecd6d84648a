#!/bin/sh
# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
#
# Builds the environment from nothing, at its final place (an environment can't be moved), and marks it whole at the end.
# One script, so that it goes on to the end when the connection or the control node is lost in the middle.
#
# Usage: build_environment.sh PYTHON VENV WORK SOURCE TRUSTED_HOST EXPECTED MARKER
#   WORK holds the locks, and pip's temporary copies of the wheels: they are large, and /tmp may be memory.
#   SOURCE is the wheels' directory or address. EXPECTED is "ray version, vllm version". MARKER goes into VENV/.whole.
set -eu
python=$1 venv=$2 work=$3 source=$4 trusted=$5 expected=$6 marker=$7
stage() { printf '== %s\n' "$*"; }

stage "1 of 4: making the environment"
# Of what a cut-off pip left, nobody knows which packages are whole.
rm -rf "$venv"
"$python" -m venv "$venv"
install -m 0644 "$work"/*.lock "$venv"

stage "2 of 4: installing the wheels"
set --
for lock in "$venv"/*.lock; do set -- "$@" "--requirement=$lock"; done
# Only this source: the host's own pip configuration must not add an index. No cache: it would be a second copy.
PIP_CONFIG_FILE=/dev/null TMPDIR=$work "$venv/bin/python" -m pip install --no-deps --require-hashes --no-index \
  --only-binary=:all: --no-cache-dir --no-compile --no-input --progress-bar=off --disable-pip-version-check \
  --find-links="$source" --trusted-host="$trusted" "$@"

stage "3 of 4: compiling the bytecode"
# Once, on all cores: the services may not write here, and would compile at each start (an engine then takes 93 s to
# start, not 29 s). Some packages carry files for newer Pythons: they stay without bytecode, as pip would leave them.
if ! "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >"$work/compile.log" 2>&1; then
  if grep -E 'No space left|Errno' "$work/compile.log"; then exit 1; fi
fi

stage "4 of 4: importing ray and vLLM"
found=$("$venv/bin/python" -c 'import ray, vllm
from importlib.metadata import version
print("ray %s, vllm %s" % (version("ray"), version("vllm")))' | tail -n 1)
# vLLM only warns where its kernels can't be loaded, and fails much later.
case $found in *+cpu)
  "$venv/bin/python" -c 'from vllm.platforms import current_platform
current_platform.import_kernels()' 2>&1 | (! grep -o "Failed to import from vllm.*") ;;
esac
if [ "$found" != "$expected" ]; then
  echo "ERROR: the environment has $found, and the lock says $expected"
  exit 1
fi
printf '%s\n' "$marker" >"$venv/.whole.part"
sync -f "$venv"
mv "$venv/.whole.part" "$venv/.whole"
rm -rf "$work"
stage "whole: $found"
