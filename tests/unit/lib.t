#!/bin/sh
# SPDX-License-Identifier: MIT
#
# lib.t BUILD NAME - build one unit test of the library and run it. BUILD: plain,
# asan (with UBSan) or tsan. TAP on stdout.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
build=$1 name=$2
case $build in
plain) out=$top/build/user; set -- ;;
asan)  out=$top/build/asan
       set -- "CFLAGS=-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
tsan)  out=$top/build/tsan
       set -- "CFLAGS=-O1 -g -fno-omit-frame-pointer -fsanitize=thread" ;;
*) echo "lib.t: no build '$build'" >&2; exit 2 ;;
esac
out=${VMPORTAL_UNIT_OUT:-$out}
make -s -C "$top/userspace" O="$out" "$@" "$out/tests/unit/$name" >&2 || {
	echo "1..1"
	echo "not ok 1 - $name does not build ($build)"
	exit 1
}
export CMOCKA_MESSAGE_OUTPUT=TAP
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
exec "$out/tests/unit/$name"
