# shellcheck shell=bash
# The peers: rsyslog and syslog-ng from Debian, unpacked into the lab's cache and not installed. Debian lets only one
# system logger onto a machine, which is its owner's choice; tests and benches start private ones by their path.

peers_folder() {
  printf '%s/peers\n' "${DECNET_LAB_CACHE:-/var/cache/decnet-lab}"
}

# unpack_peers: bring both, with the libraries that this machine lacks, unless they are there already.
unpack_peers() {
  local folder
  folder=$(peers_folder)
  [ -e "$folder/complete" ] && return 0
  has apt-get && has dpkg-deb ||
    fail 69 "rsyslog and syslog-ng are had from Debian packages only, and this machine has no apt-get" \
      "Run on Debian or Ubuntu"
  [ "$(id -u)" -eq 0 ] || fail 69 "rsyslog and syslog-ng are not in $folder" "Run as root: scripts/setup peers"
  say "Unpacking rsyslog and syslog-ng into $folder"
  rm -rf "$folder"
  mkdir -p "$folder/archives/partial"
  local log=$folder/log archive
  (
    # two calls, for the two exclude each other; --reinstall fetches also what the machine has as its own logger
    apt-get -q -o DPkg::Lock::Timeout=300 update &&
      fetch_peer rsyslog rsyslog-gnutls rsyslog-openssl rsyslog-relp &&
      fetch_peer syslog-ng-core &&
      for archive in "$folder"/archives/*.deb; do dpkg-deb -x "$archive" "$folder" || exit; done
  ) </dev/null >"$log" 2>&1 || {
    tail -n 15 "$log" >&2
    fail 69 "rsyslog and syslog-ng could not be fetched" "Read the lines above and $log, then run this again"
  }
  rm -rf "$folder/archives"
  touch "$folder/complete"
}

# fetch_peer PACKAGE …: download them and what they need and the machine lacks; nothing is installed or removed.
fetch_peer() {
  apt-get -q -y -o DPkg::Lock::Timeout=300 -o "Dir::Cache::archives=$(peers_folder)/archives" install \
    --download-only --reinstall --no-install-recommends "$@"
}
