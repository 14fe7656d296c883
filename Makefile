# SPDX-License-Identifier: MIT
#
# vmportal: kernel modules and user space.
#
#   make                  all: the modules for the running kernel, and user space
#   make modules          KDIR=headers or KVER=release for another kernel
#   make user             user space alone
#   make install          DESTDIR=, PREFIX=; what has been built
#   make dkms-install     modules by DKMS, for KVER and for kernels to come
#   make dkms-uninstall
#   make demo             two guests and a file; FILE=path
#   make check            all tests but those that are too long; check-unit: without
#                         guests, in minutes; check-debug: guest tests on a kernel
#                         with KASAN, lockdep, kmemleak, UBSAN
#   make check-mutants    is each of many small mistakes in user space found?
#   make check-crash      12,000 processes and 200 machines are killed on a
#                         managed portal: was anything lost? It prints how far it
#                         is; 2 h 15 min at most
#   make clean
#
# V=1 shows the commands.

# The one version literal. Kbuild, userspace/Makefile and dkms.conf take it from here.
VERSION := 0.1.0

top     := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
KVER    ?= $(shell uname -r)
KDIR    ?= /lib/modules/$(KVER)/build
PREFIX  ?= /usr/local
DESTDIR ?=
Q       := $(if $(filter-out 0,$(V)),,@)

udevdir     ?= $(PREFIX)/lib/udev/rules.d
sysusersdir ?= $(PREFIX)/lib/sysusers.d

.PHONY: all modules modules-if-headers user install install-modules install-rules \
	dkms-install dkms-uninstall group demo check check-unit check-debug check-mutants check-crash clean

all: modules-if-headers user

# kbuild's own output is quiet unless V=1; where a module was built for another
# kernel, it is built again.
kbuild = $(MAKE) --no-print-directory -C $(KDIR) M=$(top)

modules: have-headers
	$(Q)$(kbuild) modules

.PHONY: have-headers
have-headers:
	$(Q)[ -e $(KDIR)/Makefile ] || { $(no_headers); exit 1; }

modules-if-headers:
	$(Q)if [ -e $(KDIR)/Makefile ]; then $(MAKE) --no-print-directory modules; \
	else $(no_headers); echo "No modules are built; user space does not need them." >&2; fi

# What to install is a matter of the distribution.
no_headers = { \
	. /etc/os-release 2>/dev/null || ID=; \
	case "$$ID $$ID_LIKE" in \
	*debian*|*ubuntu*) p=linux-headers-$(KVER) ;; \
	*fedora*|*rhel*) p=kernel-devel-$(KVER) ;; \
	*suse*) p=kernel-default-devel ;; \
	*arch*) p=linux-headers ;; \
	*) p="the headers of kernel $(KVER)" ;; esac; \
	echo "$(KDIR): no kernel headers. Install $$p, or say KDIR=..." >&2; }

user:
	$(Q)$(MAKE) --no-print-directory -C userspace VERSION=$(VERSION)

# Modules only if there are any: on the host nobody needs them.
install: $(if $(wildcard $(top)/portal.ko),install-modules) install-rules
	$(Q)$(MAKE) --no-print-directory -C userspace VERSION=$(VERSION) \
		PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' install

# Where the kernel's build left no key there is nothing to sign with; DKMS has its own.
install-modules: have-headers
	$(Q)$(kbuild) INSTALL_MOD_PATH='$(DESTDIR)' INSTALL_MOD_DIR=updates modules_install \
		$(if $(wildcard $(KDIR)/certs/signing_key.pem),,CONFIG_MODULE_SIG_ALL=)

install-rules:
	$(Q)install -D -m 644 userspace/udev/60-vmportal.rules \
		'$(DESTDIR)$(udevdir)/60-vmportal.rules'
	$(Q)install -D -m 644 userspace/udev/vmportal.sysusers \
		'$(DESTDIR)$(sysusersdir)/vmportal.conf'

# DKMS keeps a copy of the sources and builds them for each kernel that is
# installed. A second dkms-install of the same version replaces the first.
dkms_src = /usr/src/vmportal-$(VERSION)

dkms-install: install-rules group
	$(Q)command -v dkms >/dev/null || { echo "dkms is missing: install the package dkms" >&2; exit 1; }
	$(Q)! dkms status -m vmportal -v $(VERSION) | grep -q . || \
		dkms remove -m vmportal -v $(VERSION) --all
	$(Q)rm -rf $(dkms_src) && mkdir -p $(dkms_src)
	$(Q)cp -r Kbuild Makefile drivers uapi $(dkms_src)/
	$(Q)find $(dkms_src) '(' -name '*.o' -o -name '.*.cmd' -o -name portal_config.h ')' -delete
	$(Q)sed 's/#MODULE_VERSION#/$(VERSION)/' dkms.conf > $(dkms_src)/dkms.conf
	$(Q)dkms install -m vmportal -v $(VERSION) -k $(KVER)
	$(Q)$(reload_udev)

dkms-uninstall:
	$(Q)! dkms status -m vmportal -v $(VERSION) | grep -q . || \
		dkms remove -m vmportal -v $(VERSION) --all
	$(Q)rm -rf $(dkms_src)
	$(Q)rm -f '$(udevdir)/60-vmportal.rules' '$(sysusersdir)/vmportal.conf'
	$(Q)$(reload_udev)

reload_udev = [ ! -S /run/udev/control ] || udevadm control --reload

group:
	$(Q)getent group portal >/dev/null || groupadd -r portal

demo:
	$(Q)tests/vm/demo $(if $(FILE),'$(FILE)')

check:
	$(Q)tests/run

check-unit:
	$(Q)tests/run unit

check-debug:
	$(Q)tests/run debug

check-mutants:
	$(Q)tests/run mutants

check-crash:
	$(Q)tests/run -v crash/long crash/guest-long crash/machines-long

clean:
	$(Q)[ ! -e $(KDIR)/Makefile ] || $(kbuild) clean
	$(Q)$(MAKE) --no-print-directory -C userspace clean
	$(Q)rm -rf build
