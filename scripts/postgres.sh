#!/usr/bin/env bash
# Installs PostgreSQL if the tests and the demo would find none. Says nothing if they do.
set -euo pipefail
cd "$(dirname "$0")/.."

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
go build -o "$temp/find" ./internal/pglocal/find

status=0
"$temp/find" >/dev/null 2>"$temp/why" || status=$?
case $status in
0) exit 0 ;;
1) ;;
*)
	cat "$temp/why" >&2
	exit "$status"
	;;
esac

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "PostgreSQL is missing, and to install it needs root; type as root: $*" >&2
		return 1
	fi
}

# Debian's package starts a cluster of its own on port 5432 unless this file says no. Nobody here needs it, and the
# machine's setting is put back afterwards.
debian() {
	local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends)
	local conf=/etc/postgresql-common/createcluster.conf
	as_root "${apt[@]}" update
	as_root "${apt[@]}" install postgresql-common
	as_root cp -p "$conf" "$conf.projector"
	as_root sed -i '$a create_main_cluster = false' "$conf"
	local status=0
	as_root "${apt[@]}" install postgresql || status=$?
	as_root mv "$conf.projector" "$conf"
	return "$status"
}

echo "PostgreSQL is missing: installing it" >&2
if command -v apt-get >/dev/null; then
	debian >&2
elif command -v brew >/dev/null; then
	brew install postgresql >&2
else
	cat "$temp/why" >&2
	exit 1
fi
"$temp/find" >/dev/null
