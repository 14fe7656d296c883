#!/bin/sh
# SPDX-License-Identifier: MIT
#
# examples.t - the examples do what they say, over a file shared by two processes.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
out=${VMPORTAL_UNIT_OUT:-$top/build/user}
make -s -C "$top/userspace" O="$out" examples >&2 || { echo "1..2"; echo "not ok 1 - examples build"; exit 1; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
bin=$out/examples
n=0 bad=0

check() { # NAME WANTED: $dir/got is what came
	n=$((n + 1))
	if [ "$(cat "$dir/got")" = "$2" ]; then
		echo "ok $n - $1"
	else
		bad=1
		echo "not ok $n - $1"
		sed 's/^/# got: /' "$dir/got"
	fi
}

pair() { # RECEIVER SENDER ARGUMENTS...
	rx=$1 tx=$2
	shift 2
	rm -f "$dir/region" "$dir/got"
	timeout 120 "$bin/$rx" "file:$dir/region?size=1M" > "$dir/got" 2>&1 &
	timeout 120 "$bin/$tx" "file:$dir/region?size=1M" "$@" || echo "# $tx: $?"
	wait $! || echo "# $rx: $?"
}

echo "1..9"
pair recv send hello 'from the other side' ''
check "send, recv" "hello
from the other side"
pair peek send a b c
check "peek and release" "a
b
c"
pair poll send one two
check "poll from a loop" "one
two"
pair recv reserve 3
check "reserve and commit, in a batch" "message 0
message 1
message 2"
timeout 120 "$bin/packet" "file:$dir/region?size=1M" question > "$dir/got" 2>&1
grep -q 'only VMBus' "$dir/got" && echo refused > "$dir/got"
check "packet: there is no host's service in a file" refused
timeout 120 "$bin/window" memfd:size=2M true > "$dir/got" 2>&1
sed -i 's/;.*//' "$dir/got"
check "a window where there are none" \
	"window: memfd memfd:size=2097152: only devices have windows"
make -s -C "$top/userspace" O="$out" >&2
"$out/bin/portald" --name=t --size=2M --vectors=1 --managed --socket-dir="$dir" > "$dir/portald" 2>&1 &
server=$!
for i in $(seq 120); do [ -S "$dir/t.sock" ] || sleep 0.5; done
timeout 120 "$bin/hub" "unix:$dir/t.sock" jobs 2 > "$dir/got" 2>&1 &
for text in one two; do
	timeout 120 "$bin/named" "unix:$dir/t.sock" jobs $text > "$dir/answer" 2>&1
	[ "$(cat "$dir/answer")" = "done" ] || sed 's/^/# named: /' "$dir/answer"
done
wait $!
mv "$dir/got" "$dir/hub"
counting=
for i in 1 2 3 4; do
	timeout 120 "$bin/count" "unix:$dir/t.sock" > "$dir/count$i" 2>&1 &
	counting="$counting $!"
done
wait $counting
sort -n "$dir"/count? > "$dir/got"
check "a number that four count up, under a lock" "1
2
3
4"
mv "$dir/hub" "$dir/got"
kill $server
check "a hub and two senders, by name" "one
two"
long=
for f in "$top"/userspace/examples/*.c; do
	# Without the two lines of licence and purpose.
	[ "$(wc -l < "$f")" -le 31 ] || long="$long ${f##*/}"
done
echo "$long" | tr -d ' ' > "$dir/got"
check "each is short enough to read" ""
exit $bad
