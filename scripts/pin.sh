#!/usr/bin/env bash
# Resolve the newest versions that pyproject.toml allows and write them to requirements/constraints.txt (`make pin`).
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --upgrade pip setuptools hatchling editables
# Wheels only, so that no machine needs a compiler; xdelta3 is the one exception, and optional.
"$folder/bin/python" -m pip install --quiet --only-binary=:all: --editable '.[bridge,formats,edge,client]' --group dev

{
    echo "# Written by scripts/pin.sh: what every machine installs, and what builds it. Change pyproject.toml, then run \`make pin\`."
    "$folder/bin/python" -m pip freeze --all --exclude-editable
} > "$folder/constraints.txt"
mkdir -p requirements
mv "$folder/constraints.txt" requirements/constraints.txt
echo "requirements/constraints.txt: $(grep -c '==' requirements/constraints.txt) versions pinned"
