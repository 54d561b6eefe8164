# shellcheck shell=bash
# How the scripts speak: one line for each step that takes time, and an error that says what to do.

# say TEXT: announce a step.
say() {
  printf '==> %s\n' "$1"
}

# fail CODE MESSAGE ADVICE: end with an error. Codes: 2 usage, 69 something needed is not to be had.
fail() {
  printf 'error: %s\n  %s\n' "$2" "$3" >&2
  exit "$1"
}
