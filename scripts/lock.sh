#!/usr/bin/env bash
# Write requirements.lock: the newest versions that go together with TORCH (2.13.0), of the package with all of its extras, tried in a
# fresh environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"${PYTHON:-python3}" -m venv "$fresh"
"$fresh/bin/python" -m pip install --quiet "torch==${TORCH:-2.13.0}" -e '.[test,workflow,peers,browser,cluster,text,nlp,search]'
"$fresh/bin/python" -m pip check >&2
{
    sed '/^[^#]/,$d' requirements.lock
    # A local label names a build of torch (+cpu), not a version, and the libraries of CUDA come with one build only: torch pins them
    # itself. The lock is for all builds.
    "$fresh/bin/python" -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' | sed 's/+.*//' | grep -vE '^(nvidia|cuda|triton)' | LC_ALL=C sort --ignore-case
} > "$fresh/lock"
mv "$fresh/lock" requirements.lock
