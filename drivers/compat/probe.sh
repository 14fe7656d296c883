#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# probe.sh OUTPUT CC FLAGS...: which of several interfaces does this kernel have?
#
# Compiles a few lines for each and writes "#define PORTAL_HAVE_X 1" into OUTPUT
# for those that compile. Called by Kbuild, with the kernel's own compiler flags
# and in its working directory. Each probe asks one thing. Two controls, one that
# must compile and one that must not, see to it that a compiler that cannot work
# is an error and not an answer; and a "no" counts only if it is about the probe's
# own lines.
set -eu
LC_ALL=C
export LC_ALL

out=$1
shift
dir=$(mktemp -d "${TMPDIR:-/tmp}/portal-probe.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
names=

# probe NAME < CODE
probe()
{
	cat > "$dir/$1.c"
	names="$names $1"
}

# compile NAME FLAGS...: the compiler's words go to NAME.log
compile()
{
	name=$1
	shift
	"$@" -Wno-error -Werror=implicit-function-declaration \
		-Werror=incompatible-pointer-types -Werror=int-conversion \
		-fsyntax-only -x c "$dir/$name.c" > "$dir/$name.log" 2>&1 &&
		: > "$dir/$name.yes"
}

# Every header that a probe below includes: one that is missing or broken is no "no".
probe CONTROL_YES << 'EOF'
#include <linux/crc32.h>
#include <linux/eventfd.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/sched/mm.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
int f(struct vm_area_struct *vma) { return vma->vm_start != 0; }
EOF

probe CONTROL_NO << 'EOF'
#include <linux/mm.h>
int f(struct vm_area_struct *vma) { return vma->portal_no_such_member; }
EOF

# 6.8: void eventfd_signal(ctx), before with a count
probe EVENTFD_SIGNAL_1 << 'EOF'
#include <linux/eventfd.h>
void f(struct eventfd_ctx *ctx) { eventfd_signal(ctx); }
EOF

# 6.3: vm_flags is const, with functions to change it
probe VM_FLAGS_SET << 'EOF'
#include <linux/mm.h>
void f(struct vm_area_struct *vma) { vm_flags_set(vma, VM_IO); vm_flags_clear(vma, VM_IO); }
EOF

# 6.17: vmf_insert_pfn_pmd() and _pud() take a number, before a pfn_t
probe INSERT_PFN_ULONG << 'EOF'
#include <linux/mm.h>
vm_fault_t f(struct vm_fault *vmf, unsigned long pfn) { return vmf_insert_pfn_pmd(vmf, pfn, false); }
EOF

# 6.10: a function; before, a method of struct mm_struct
probe MM_GET_UNMAPPED_AREA_6 << 'EOF'
#include <linux/sched/mm.h>
unsigned long f(struct mm_struct *mm) { return mm_get_unmapped_area(mm, NULL, 0, 1, 2, 3); }
EOF

# 6.19: no struct mm_struct argument any more
probe MM_GET_UNMAPPED_AREA_5 << 'EOF'
#include <linux/sched/mm.h>
unsigned long f(struct file *file) { return mm_get_unmapped_area(file, 0, 1, 2, 3); }
EOF

# 6.15: a function beside crc32(); before, that name was a module's, with a driver behind it
probe CRC32C << 'EOF'
#include <linux/crc32.h>
u32 f(const void *p) { return crc32c(~0, p, 8); }
EOF

# 5.18: who wants to know is told that the machine was copied
probe VMFORK_NOTIFIER << 'EOF'
#include <linux/random.h>
int f(struct notifier_block *nb) { return register_random_vmfork_notifier(nb); }
EOF

# 5.18: a function to reset a virtio device
probe VIRTIO_RESET_DEVICE << 'EOF'
#include <linux/virtio.h>
#include <linux/virtio_config.h>
void f(struct virtio_device *vdev) { virtio_reset_device(vdev); }
EOF

# 6.16: a driver is told of resets
probe VIRTIO_RESET_PREPARE << 'EOF'
#include <linux/virtio.h>
int f(struct virtio_driver *drv) { return drv->reset_prepare != NULL; }
EOF

# 5.16: a GPADL is a structure, before, a number
probe VMBUS_GPADL << 'EOF'
#include <linux/hyperv.h>
int f(struct vmbus_channel *c, struct vmbus_gpadl *g) { return vmbus_teardown_gpadl(c, g); }
EOF

# 6.8 and stable trees: it says whether its memory is decrypted
probe VMBUS_GPADL_DECRYPTED << 'EOF'
#include <linux/hyperv.h>
int f(struct vmbus_gpadl *g) { return g->decrypted; }
EOF

# 6.3: void
probe VMBUS_REMOVE_VOID << 'EOF'
#include <linux/hyperv.h>
void f(struct hv_device *dev);
struct hv_driver d = { .remove = f };
EOF

# 7.0 and stable trees: struct device has the override, with a lock of its own
probe DEVICE_OVERRIDE << 'EOF'
#include <linux/device.h>
int f(struct device *dev) { return device_set_driver_override(dev, "x"); }
EOF

# In pairs: as fast as two processors are, and no burden for more.
pending=
for name in $names; do
	compile "$name" "$@" &
	if [ -n "$pending" ]; then
		wait
		pending=
	else
		pending=1
	fi
done
wait

if [ ! -e "$dir/CONTROL_YES.yes" ] || [ -e "$dir/CONTROL_NO.yes" ]; then
	echo "probe.sh: the compiler cannot build for this kernel:" >&2
	sed -n '1,20p' "$dir/CONTROL_YES.log" >&2
	exit 1
fi

for name in $names; do
	if [ ! -e "$dir/$name.yes" ] && ! grep -q "^$dir/$name\.c:.* error: " "$dir/$name.log"; then
		echo "probe.sh: $name: the compiler failed, but not because the kernel has none:" >&2
		sed -n '1,20p' "$dir/$name.log" >&2
		exit 1
	fi
done

{
	echo "/* Made by probe.sh. */"
	for name in $names; do
		case $name in
		CONTROL_*) continue ;;
		esac
		if [ -e "$dir/$name.yes" ]; then
			echo "#define PORTAL_HAVE_$name 1"
		else
			echo "/* PORTAL_HAVE_$name: no */"
		fi
	done
} > "$out.tmp"
mv "$out.tmp" "$out"
