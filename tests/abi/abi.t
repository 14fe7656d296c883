#!/bin/sh
# SPDX-License-Identifier: MIT
#
# abi.t - what others were compiled against does not change: structures in C, C++ and
# for 32 bits; exported symbols; headers that stand alone; the installed library.
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
out=${VMPORTAL_UNIT_OUT:-$top/build/user}
CC=${CC:-gcc} CXX=${CXX:-g++}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
inc="-I$top/userspace/include -I$top/uapi"
n=0 bad=0

report() { # STATUS NAME: $dir/log is the explanation
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		bad=1
		echo "not ok $n - $2"
		head -30 "$dir/log" | sed 's/^/# /'
	fi
}

layout() { # NAME COMPILER...
	name=$1; shift
	if ! echo 'int main(void) { return 0; }' | "$@" -xc - -o "$dir/probe" 2> "$dir/log"; then
		n=$((n + 1))
		echo "ok $n - layout, $name # SKIP $* cannot link (gcc-multilib?)"
		return
	fi
	# A kernel may refuse 32-bit programs.
	if "$dir/probe" 2> "$dir/log"; then run=; else run=qemu-i386; fi
	"$@" -Wall -Wextra -Werror $inc -o "$dir/layout" "$here/layout.c" > "$dir/log" 2>&1 &&
		$run "$dir/layout" > "$dir/got" 2> "$dir/log" &&
		sed 1d "$here/layout.expected" | diff -u - "$dir/got" > "$dir/log"
	report $? "layout, $name"
}

alone() { # HEADER NAME COMPILER...
	header=$1 name=$2; shift 2
	printf '#include <%s>\n#include <%s>\nint abi_t_symbol;\n' "$header" "$header" |
		"$@" -Wall -Wextra -Wpedantic -Wshadow -Werror $inc -c -o "$dir/o" - > "$dir/log" 2>&1
	report $? "$header alone, $name"
}

echo "1..28"
# <asm/...> of 32-bit builds: gcc-multilib would bring it, but shuts out cross compilers.
m32="-m32 -idirafter /usr/include/$($CC -print-multiarch)"
layout "C, 64 bits" $CC -std=gnu11
layout "C, 32 bits" $CC -std=gnu11 $m32
layout "C++, 64 bits" $CXX -xc++ -std=c++11
layout "C++, 32 bits" $CXX -xc++ -std=c++11 $m32
for h in vmportal.h vmportal_managed.h vmportal_hub.h vmportal_ring.h vmportal_packet.h linux/portal.h linux/portal_layout.h linux/portal_vmbus.h; do
	alone $h "C99" $CC -xc -std=c99
	alone $h "C++11" $CXX -xc++ -std=c++11
done
for h in vmportal_ring.h vmportal_packet.h; do
	alone $h "without a C library" $CC -xc -std=c11 -ffreestanding -nostdinc \
		-isystem "$($CC -print-file-name=include)"
done
"$here/page.py" > "$dir/page.c" 2> "$dir/log" && $CC $inc -fsyntax-only "$dir/page.c" > "$dir/log" 2>&1
report $? "portal-layout(5) says where things are"
grep -h '^#include' "$top"/uapi/linux/portal*.h | grep -v '<linux/types.h>\|<linux/ioctl.h>' > "$dir/log"
[ ! -s "$dir/log" ]
report $? "uapi/ includes types.h and ioctl.h alone"

make -s -C "$top/userspace" O="$out" "$out/lib/libvmportal.so" "$out/lib/vmportal.pc" >&2
nm -D --defined-only "$out/lib/libvmportal.so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort > "$dir/exported"
sed -n 's/^\t\(vmp_[a-z_]*\);$/\1/p' "$top/userspace/lib/vmportal.map" | sort > "$dir/map"
grep -oh 'vmp_[a-z_]*(' "$top/userspace/include/vmportal.h" "$top/userspace/include/vmportal_managed.h" "$top/userspace/include/vmportal_hub.h" | tr -d '(' | sort -u > "$dir/header"
diff -u "$dir/map" "$dir/exported" > "$dir/log"
report $? "exported symbols are those of the map"
diff -u "$dir/map" "$dir/header" > "$dir/log"
report $? "and those that the header declares"
readelf -d "$out/lib/libvmportal.so" > "$dir/dyn"
grep -q 'SONAME.*\[libvmportal\.so\.0\]' "$dir/dyn" && ! grep -q TEXTREL "$dir/dyn"
report $? "soname libvmportal.so.0"

make -s -C "$top/userspace" O="$out" install-lib DESTDIR="$dir/root" PREFIX=/usr LIBDIR=/usr/lib > "$dir/log" 2>&1 &&
	flags=$(PKG_CONFIG_SYSROOT_DIR=$dir/root PKG_CONFIG_LIBDIR=$dir/root/usr/lib/pkgconfig \
		pkg-config --cflags --libs vmportal 2> "$dir/log") &&
	$CC -o "$dir/send" "$top/userspace/examples/send.c" $flags > "$dir/log" 2>&1 &&
	LD_LIBRARY_PATH=$dir/root/usr/lib "$dir/send" 2> "$dir/log"
[ "$(cat "$dir/log")" = "send: send URI TEXT..." ]
report $? "a program builds and runs against what is installed"
[ $n = 28 ] || { echo "# $n tests, 28 planned"; bad=1; }
exit $bad
