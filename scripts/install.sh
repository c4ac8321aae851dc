#!/bin/sh
# Creates .venv and installs torchtune into it. A complete install is kept; an interrupted one starts again.
#   scripts/install.sh run    the dependencies of the demo
#   scripts/install.sh dev    these and the test dependencies
set -u
cd "$(dirname "$0")/.." || exit 1
want=$1
log=.venv/install.log

fail() { printf 'install: %s\n' "$1" >&2; exit "${2:-1}"; }

for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
[ -n "${python:-}" ] || fail "Python 3.11 or newer is needed and ${PYTHON:-python3} is not; pass one: make PYTHON=/path/to/python3.11" 2

# Generates the schemas that the files of configs_yaml/ refer to, again whenever the code has changed.
write_schemas() {
  oldest=$(ls -t configs_yaml/schemas/*.json 2>/dev/null | tail -n 1)
  [ -n "$oldest" ] && [ -z "$(find torchtune recipes -name '*.py' -newer "$oldest" | head -n 1)" ] && return
  .venv/bin/python -m torchtune.cli schema --all >/dev/null || echo "install: the schemas of configs_yaml/ are not up to date" >&2
}

fingerprint=$(cat pyproject.toml setup.py constraints.txt | cksum)
complete() { [ "$(cat ".venv/complete-$1" 2>/dev/null)" = "$fingerprint" ]; }
if complete dev || { [ "$want" = run ] && complete run; }; then write_schemas; exit 0; fi

# Remove the markers first, so that an interrupted install leaves none and the next one recreates .venv.
if ls .venv/complete-* >/dev/null 2>&1; then
  rm -f .venv/complete-*
else
  rm -rf .venv
  "$python" -m venv .venv || fail "cannot create .venv: see the message above"
fi

extra=; [ "$want" = dev ] && extra='[dev]'
echo "installing torchtune$extra and its dependencies into .venv (takes minutes the first time; log: $log)"
if ! .venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".$extra" >"$log" 2>&1; then
  case $(cat "$log") in
    *'No space left'*|*'File too large'*) fail "the disk is full, or the file size is limited; free some space and run it again" ;;
    *'Temporary failure in name resolution'*|*'NewConnectionError'*|*'Network is unreachable'*|*'Connection refused'*|*'ProxyError'*|*'timed out'*)
      fail "the package index cannot be reached; check the network and run it again" ;;
    *'from versions: none'*) fail "the package index cannot be reached, or lacks a package; check the network, see $log, and run it again" ;;
    *) fail "$(grep -E '^ *(ERROR|error)' "$log" | head -n 1); the complete log is $log" ;;
  esac
fi
printf '%s' "$fingerprint" >".venv/complete-$want"
write_schemas
