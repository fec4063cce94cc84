#!/bin/sh
# Installs the packages of tests/setup/npm/package-lock.json into tests/setup/npm/node_modules, and Node itself where it is missing.
# Safe to run again; does nothing when all is there.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)/npm
modules="$folder/node_modules"

fail() {
    echo "npm packages for tests: $1" >&2
    exit 1
}

have() {
    command -v node >/dev/null && { [ -n "${1:-}" ] || command -v npm >/dev/null; }
}

if have modules-only && cmp -s "$folder/package-lock.json" "$modules/.installed"; then
    echo "npm packages for tests: ready"
    exit 0
fi
if ! have; then
    command -v apt-get >/dev/null || fail "node or npm is missing and there is no apt-get; install Node 18 or newer with npm"
    [ "$(id -u)" = 0 ] || fail "node or npm is missing; run as root: apt-get install nodejs npm"
    echo "npm packages for tests: installing nodejs and npm ..."
    log=$(mktemp)
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nodejs npm; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install nodejs and npm"
    fi
    rm -f "$log"
fi

echo "npm packages for tests: installing ..."
log=$(mktemp)
if ! (cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund) >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "npm could not install the packages of tests/setup/npm/package-lock.json; is the package registry reachable?"
fi
rm -f "$log"
cp "$folder/package-lock.json" "$modules/.installed"
echo "npm packages for tests: ready"
