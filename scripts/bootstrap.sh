#!/bin/sh
# From a machine that has nothing but Node's npm to node_modules with a Bun that runs. Everything after this is TypeScript.
set -eu
cd "$(dirname "$0")/.."

command -v npm >/dev/null || {
  echo "bootstrap: npm is missing; install Node 20 or newer with its npm" >&2
  exit 1
}
echo "Installing the JavaScript packages of package-lock.json with npm"
npm ci --no-audit --no-fund --loglevel=error

# npm may have been told not to run install scripts (ignore-scripts), or be one that asks first; then Bun's own is run here.
if ! node_modules/.bin/bun --version >/dev/null 2>&1; then
  echo "Putting Bun in its place (npm did not run its install script)"
  (cd node_modules/bun && node install.js)
fi
wanted=$(node -p 'require("./package.json").devDependencies.bun')
found=$(node_modules/.bin/bun --version) || found="one that does not run"
if [ "$found" != "$wanted" ]; then
  echo "bootstrap: package.json wants Bun $wanted, node_modules has $found" >&2
  exit 1
fi
touch node_modules/.installed
