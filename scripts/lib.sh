# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced by every script: paths, progress and one-sentence failures. Output
# goes to stderr unless it is KTAP; logs stay under build/log.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$TOP/build}
LINUX=${LINUX:-$BUILD/linux}
LOG=$BUILD/log
JOBS=${JOBS:-$(nproc)}
export CCACHE_DIR=${CCACHE_DIR:-$BUILD/ccache}
export KBUILD_BUILD_USER=series KBUILD_BUILD_HOST=testhost KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'

mkdir -p "$LOG"

say() { printf '# %s\n' "$*" >&2; }
die() { printf '# error: %s\n' "$*" >&2; exit 1; }

# run_logged NAME CMD...: the command's output goes to build/log/NAME.log; what
# it does and how long it took is shown, and the log's end if it fails.
run_logged() {
	local name=$1 start=$SECONDS
	shift
	if "$@" >"$LOG/$name.log" 2>&1 </dev/null; then
		say "$name: done in $((SECONDS - start)) s"
	else
		local rc=$?
		tail -n 30 "$LOG/$name.log" | sed 's/^/# | /' >&2
		say "error: $name failed (exit $rc); the whole log is build/log/$name.log"
		return "$rc"
	fi
}

# tcg_cpu QEMU: the CPU that it is to emulate. With LA57 a debug kernel may report a wild
# access at boot: identify_cpu() clears the feature bits for a moment with interrupts on,
# and KASAN, which looks at that bit, then takes per-CPU memory for no memory. Without
# ERMS, FSRM and FSRS (which 7.2 has not) memory is copied and zeroed by words: QEMU goes
# by bytes where these say that bytes are fast. Pages are cleared by REP STOSQ on this
# family 15 (init_amd_k8()), and not on 10's own 6.
tcg_cpu() {
	local cpu=max,la57=off,erms=off,fsrm=off,family=15,model=107,stepping=1
	case $("$1" -cpu help) in *[[:space:]]fsrs[[:space:]]*) cpu+=,fsrs=off;; esac
	echo "$cpu"
}

# ccache in front of the compiler where it is installed.
cc_wrap() { if command -v ccache >/dev/null; then echo "ccache $1"; else echo "$1"; fi; }

# The Debian mirror that this machine's apt uses.
debian_mirror() {
	local m
	m=$(apt-get indextargets --format '$(REPO_URI)|$(COMPONENT)' |
	    awk -F'|' '$2 == "main" && $1 !~ /security/ { print $1; exit }')
	[ -n "$m" ] || die "apt has no Debian mirror configured: add one to /etc/apt/sources.list"
	echo "$m"
}

# The patches of the series in order, one path (relative to the repository) a line.
series_patches() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$TOP/patches/series"; }

# What patches/ holds, as one checksum.
series_id() {
	{ cat "$TOP/patches/series"; series_patches | sed "s|^|$TOP/|" | xargs -r cat; } | sha256sum | cut -d' ' -f1
}

# as_workbench TREE OUT COMMAND...: run COMMAND where TREE stands at build/linux
# and OUT at build/out/debug (in a mount namespace of its own). The compiler then
# sees the paths that it saw when the workbench was built, and ccache has it all.
as_workbench() {
	local tree=$1 out=$2
	shift 2
	mkdir -p "$out" "$BUILD/out/debug" "$LOG/$(basename "$tree")"
	unshare -m bash -c '
		mount --make-rprivate / && mount --bind "$1" "$3/linux" && mount --bind "$2" "$3/out/debug" &&
		mount --bind "$4" "$3/log" && shift 4 && exec "$@"' \
		_ "$tree" "$out" "$BUILD" "$LOG/$(basename "$tree")" "$@"
}
