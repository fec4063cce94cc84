#!/bin/sh
# Makes .venv/bin/python with the packages of requirements.txt. Safe to run again; does nothing when all is there.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
wanted="$root/tests/setup/requirements.txt"
venv="$root/.venv"

if [ -x "$venv/bin/python" ] && cmp -s "$wanted" "$venv/requirements.txt"; then
    echo "python packages for tests: ready"
    exit 0
fi

fail() {
    echo "python packages for tests: $1" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing; install it (Debian: apt-get install python3 python3-venv)"
echo "python packages for tests: installing into .venv ..."
rm -rf "$venv"

# Debian keeps the part of Python that makes environments in a package of its own.
if ! python3 -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; } \
            >/dev/null 2>&1 || true
        python3 -m venv "$venv" >/dev/null 2>&1 || rm -rf "$venv"
    fi
fi

if [ -x "$venv/bin/python" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" ||
        fail "pip could not install the packages of tests/setup/requirements.txt; is the package index reachable?"
else
    # No environment to be had: the packages go into a folder, and a small script points Python there.
    python3 -m pip --version >/dev/null 2>&1 || fail "neither venv nor pip; run: apt-get install python3-venv"
    python3 -m pip install --quiet --disable-pip-version-check --target "$venv/site" -r "$wanted" ||
        fail "pip could not install the packages of tests/setup/requirements.txt; is the package index reachable?"
    mkdir -p "$venv/bin"
    printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 "$@"\n' "$venv/site" >"$venv/bin/python"
    chmod +x "$venv/bin/python"
fi
cp "$wanted" "$venv/requirements.txt"
echo "python packages for tests: ready"
