#!/bin/sh
# Installs PHP with its curl extension, for the examples of docs/clients.md. Safe to run again.
set -eu

ready() {
    command -v php >/dev/null && php -m | grep -qx curl
}
fail() {
    echo "PHP for tests: $1" >&2
    exit 1
}

if ready; then
    echo "PHP for tests: ready"
    exit 0
fi
command -v apt-get >/dev/null || fail "PHP 8 with its curl extension is missing and there is no apt-get; install both"
[ "$(id -u)" = 0 ] || fail "PHP is missing; run as root: apt-get install php-cli php-curl"
echo "PHP for tests: installing php-cli and php-curl ..."
log=$(mktemp)
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends php-cli php-curl; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install php-cli and php-curl"
fi
rm -f "$log"
ready || fail "php was installed, but it has no curl extension"
echo "PHP for tests: ready"
