# shellcheck shell=bash
# Debian packages, installed only when what they bring is missing: one update and one installation for everything.

packages_missing=()

# has THING: tell whether a program (a name) or a file (a path or a pattern) is there. Programs count, not packages: a
# dockerd from another vendor serves as well, and docker.io would push it off the machine.
has() {
  case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v -- "$1" >/dev/null ;;
  esac
}

# want THING PACKAGE: note the package when the thing is missing.
want() {
  has "$1" || packages_missing+=("$2")
}

# install_wanted: install what was noted; nothing noted, nothing done.
install_wanted() {
  [ ${#packages_missing[@]} -gt 0 ] || return 0
  local list=${packages_missing[*]}
  if ! has apt-get; then
    fail 69 "missing on this machine, which has no apt-get: what Debian packages as $list" "Install them by hand"
  fi
  if [ "$(id -u)" -ne 0 ]; then
    fail 69 "missing on this machine: $list" "Run as root: apt-get install --no-install-recommends $list"
  fi
  say "Installing $list"
  local log
  log=$(mktemp)
  # a package's daemon must not start by itself: the lab runs its own, and the machine's is the owner's business
  local policy=/usr/sbin/policy-rc.d
  if [ -e $policy ]; then policy=; else
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 0755 $policy
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  local status=0
  {
    apt-get -q -o DPkg::Lock::Timeout=300 update &&
      DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends \
        "${packages_missing[@]}"
  } </dev/null >"$log" 2>&1 || status=$?
  if [ -n "$policy" ]; then
    rm -f "$policy"
    trap - EXIT
  fi
  if [ "$status" -ne 0 ]; then
    tail -n 15 "$log" >&2
    fail 69 "apt-get could not install $list" "Read the lines above and $log, then run this again"
  fi
  rm -f "$log"
  packages_missing=()
  hash -r
}
