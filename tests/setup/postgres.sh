#!/bin/sh
# Installs PostgreSQL and pgbouncer for the tests of the PostgreSQL store. The tests start them themselves, in a temporary folder
# and as an ordinary user; the system's own services are not started. Safe to run again.
set -eu

server() {
    ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | grep -q .
}

if server && [ -x /usr/sbin/pgbouncer ]; then
    echo "PostgreSQL for tests: ready"
    exit 0
fi
fail() {
    echo "PostgreSQL for tests: $1" >&2
    exit 1
}
command -v apt-get >/dev/null || fail "it is missing and there is no apt-get; install PostgreSQL 13 or later and pgbouncer"
[ "$(id -u)" = 0 ] || fail "it is missing; run as root: apt-get install postgresql pgbouncer"

# Debian starts services when it installs them, unless this file says no; nor is a cluster made that nobody asked for.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
fi

echo "PostgreSQL for tests: installing ..."
log=$(mktemp)
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold postgresql pgbouncer; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install postgresql and pgbouncer"
fi
rm -f "$log"
server || fail "postgresql was installed, but there is no /usr/lib/postgresql/*/bin/initdb"
echo "PostgreSQL for tests: ready"
