starts the program that this repository carries, on this repository.
# `sh xsnap.sh list` says what there is, `sh xsnap.sh --help` what can be done. Needs no more than a shell.
set -u

say() {
    printf 'xsnap.sh: %s\n' "$*" >&2
}

case $0 in
*/*) here=${0%/*} ;;
*) here=. ;;
esac
here=$(CDPATH='' cd -- "${here:-/}" && pwd) || exit 1

machine=$(uname -m) || machine=unknown
case $machine in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
i[3456]86) machine=i686 ;;
armv[78]*) machine=armv7l ;;
esac
