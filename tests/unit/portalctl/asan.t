#!/bin/sh
# SPDX-License-Identifier: MIT
#
# asan.t TEST - run a test of portalctl (stream.t, command.t, ../../bench/bench.t)
# with a portalctl that is built with AddressSanitizer, LeakSanitizer and UBSan.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
out=$top/build/asan
make -s -C "$top/userspace" O="$out" portalctl \
	"CFLAGS=-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" >&2 || {
	echo "1..1"
	echo "not ok 1 - portalctl does not build with sanitizers"
	exit 1
}
export PORTALCTL="$out/bin/portalctl" UBSAN_OPTIONS=print_stacktrace=1
exec "$here/$1"
