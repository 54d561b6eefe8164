# shellcheck shell=bash
# Python 3.11 or newer, uv, and the environment with the five packages in it.

python_suitable='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

# find_python: print the first Python that is new enough and can make environments.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if has "$name" && "$name" -c "$python_suitable" 2>/dev/null; then
      command -v -- "$name"
      return
    fi
  done
  return 1
}

# uv_serves UV: tell whether it is a uv that reads our lock file: 0.9 or newer.
uv_serves() {
  local version
  version=$("$1" --version 2>/dev/null) || return 1
  case $version in
    "uv 0."[0-8].*) return 1 ;;
    "uv "*) return 0 ;;
    *) return 1 ;;
  esac
}

# tool_folder: print the folder that keeps a uv of our own: with the lab's things, or in the user's cache.
tool_folder() {
  local cache=${DECNET_LAB_CACHE:-/var/cache/decnet-lab}
  if mkdir -p "$cache" 2>/dev/null && [ -w "$cache" ]; then
    printf '%s/uv\n' "$cache"
  else
    printf '%s/decnet-lab/uv\n' "${XDG_CACHE_HOME:-$HOME/.cache}"
  fi
}

# sync_python GROUP: bring the environment to what uv.lock says, with what GROUP of pyproject.toml names besides.
sync_python() {
  local environment=${UV_PROJECT_ENVIRONMENT:-.venv} uv=uv python
  local arguments=(sync --locked --all-packages --quiet --group "$1")
  if ! { has uv && uv_serves uv; }; then
    uv=$(tool_folder)/bin/uv
    if ! { [ -x "$uv" ] && uv_serves "$uv"; }; then
      python=$(find_python) || fail 69 "no Python 3.11 or newer with its venv module" "Install python3 and python3-venv"
      say "Installing uv from PyPI into $(tool_folder)"
      # an environment of its own: since PEP 668 the distribution's Python takes no packages
      { "$python" -m venv "$(tool_folder)" && "$(tool_folder)/bin/pip" install --quiet --upgrade 'uv>=0.9,<1'; } ||
        fail 69 "uv could not be installed from PyPI" "Check that PyPI is reachable, or put uv 0.9 or newer on the PATH"
    fi
  fi
  if [ ! -x "$environment/bin/python" ]; then
    python=$(find_python) || fail 69 "no Python 3.11 or newer with its venv module" "Install python3 and python3-venv"
    say "Making the Python environment $environment"
    arguments+=(--python "$python")
  fi
  "$uv" "${arguments[@]}" ||
    fail 69 "uv could not install what uv.lock names into $environment" "Read the lines above: PyPI must be reachable"
}
