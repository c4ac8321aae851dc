#!/bin/sh
# Creates .venv and installs torchtune into it. A complete installation is kept; an interrupted one starts again.
#   scripts/install.sh run    installs the dependencies of the demo
#   scripts/install.sh dev    installs the dependencies of the tests as well
set -u
cd "$(dirname "$0")/.." || exit 1
kind=$1
log=.venv/install.log

fail() { printf 'install: %s\n' "$1" >&2; exit "${2:-1}"; }

for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
[ -n "${python:-}" ] || fail "${PYTHON:-python3} is not Python 3.11 or newer; pass another one: make PYTHON=/path/to/python3.11" 2

# Generates the schemas to which the files in configs_yaml/ refer, unless they are newer than the code.
write_schemas() {
  oldest=$(ls -t configs_yaml/schemas/*.json 2>/dev/null | tail -n 1)
  [ -n "$oldest" ] && [ -z "$(find torchtune recipes -name '*.py' -newer "$oldest" | head -n 1)" ] && return
  .venv/bin/python -m torchtune.cli schema --all >/dev/null || echo "install: the schemas of configs_yaml/ are not up to date" >&2
}

fingerprint=$(cat pyproject.toml setup.py constraints.txt | cksum)
complete() { [ "$(cat ".venv/complete-$1" 2>/dev/null)" = "$fingerprint" ]; }
if complete dev || { [ "$kind" = run ] && complete run; }; then write_schemas; exit 0; fi

# Remove the markers first: an interrupted installation then leaves none, and the next installation recreates .venv.
if ls .venv/complete-* >/dev/null 2>&1; then
  rm -f .venv/complete-*
else
  rm -rf .venv
  "$python" -m venv .venv || fail "cannot create .venv; see the message above"
fi

extra=; [ "$kind" = dev ] && extra='[dev]'
echo "installing torchtune$extra and its dependencies into .venv (this takes minutes the first time; log: $log)"
if ! .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".$extra" >"$log" 2>&1; then
  case $(cat "$log") in
    *'No space left'*|*'File too large'*) fail "the disk is full, or the file size is limited; free some space and run it again" ;;
    *'Temporary failure in name resolution'*|*'NewConnectionError'*|*'Network is unreachable'*|*'Connection refused'*|*'ProxyError'*|*'timed out'*)
      fail "the package index cannot be reached; check the network and run it again" ;;
    *'from versions: none'*) fail "the package index cannot be reached, or lacks a package; check the network, see $log, and run it again" ;;
    *) fail "$(grep -E '^ *(ERROR|error)' "$log" | head -n 1); the complete log is $log" ;;
  esac
fi
printf '%s' "$fingerprint" >".venv/complete-$kind"
write_schemas
