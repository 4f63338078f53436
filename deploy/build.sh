#!/bin/sh
# Install both commands, with the dependencies that uv.lock names, into a folder of their own.
# The images are made by it, and so is an installation on a host; it needs Python 3.11 and uv.
#
# usage: build.sh FOLDER
set -eu
folder=${1:?usage: $0 FOLDER}
cd "$(dirname "$0")/.."
# One that uv would fetch lies under a home folder, where the images' user cannot read.
export UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT="$folder"
uv sync --quiet --frozen --no-dev --no-editable --compile-bytecode --python "${PYTHON:-python3.11}"
"$folder/bin/netpol-apiserver" --help >/dev/null
