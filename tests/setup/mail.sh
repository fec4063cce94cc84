#!/bin/sh
# Installs Postfix (and SASL, for its logins) for the tests against a real mail server. The tests start it themselves, with their own
# configuration, on loopback; the system's own service is not started. Safe to run again.
set -eu

sasl_modules() {
    ls /usr/lib/*/sasl2/libsasldb.so* /usr/lib/sasl2/libsasldb.so* 2>/dev/null | grep -q .
}

if [ -x /usr/sbin/postfix ] && [ -x /usr/sbin/saslpasswd2 ] && sasl_modules; then
    echo "mail server for tests: ready"
    exit 0
fi
fail() {
    echo "mail server for tests: $1" >&2
    exit 1
}
command -v apt-get >/dev/null || fail "Postfix is missing and there is no apt-get; install Postfix and the Cyrus SASL tools"
[ "$(id -u)" = 0 ] || fail "Postfix is missing; run as root: apt-get install postfix sasl2-bin libsasl2-modules"

# Debian starts services when it installs them, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi

echo "mail server for tests: installing postfix ..."
log=$(mktemp)
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postfix sasl2-bin libsasl2-modules; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install postfix"
fi
rm -f "$log"
[ -x /usr/sbin/postfix ] || fail "postfix was installed, but /usr/sbin/postfix is not there"
echo "mail server for tests: ready"
