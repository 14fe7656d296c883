# SPDX-License-Identifier: MIT
#
# portalctl: the command. Needs json-c and nettle (SHA-256); the rivals of its
# bench (ck, Boost) are compiled in where their headers are.
#
#	make portalctl		$(O)/bin/portalctl, with shared libraries
#	make portalctl-static	$(O)/bin/portalctl.static, for guests without any
#
# A cross build finds the libraries of the other architecture under SYSROOT, a
# directory into which their packages were unpacked.

SYSROOT ?=
portalctl_triplet := $(shell $(CC) -print-multiarch 2>/dev/null)

portalctl_src  := $(wildcard $(top)/userspace/portalctl/*.c) \
		  $(filter-out %/rival_ck.c,$(wildcard $(top)/userspace/portalctl/bench/*.c))
portalctl_inc  := $(if $(SYSROOT),-I$(SYSROOT)/usr/include -I$(SYSROOT)/usr/include/$(portalctl_triplet))
portalctl_libs := $(if $(SYSROOT),-L$(SYSROOT)/usr/lib/$(portalctl_triplet)) -ljson-c -lnettle

# Whether a header can be included: the compiler is asked, not the machine.
portalctl_have = $(shell printf '\043include <%s>\n' '$(1)' | \
	$(2) $(portalctl_inc) -fsyntax-only -x $(3) - >/dev/null 2>&1 && echo yes)

EXTRA_portalctl := $(portalctl_inc)
EXTRA_portalctl/bench := $(portalctl_inc)
portalctl_rivals :=
ifeq ($(call portalctl_have,ck_ring.h,$(CC),c),yes)
EXTRA_portalctl/bench += -DHAVE_CK
portalctl_rivals += $(O)/obj/portalctl/bench/rival_ck.o
endif
ifeq ($(call portalctl_have,boost/lockfree/spsc_queue.hpp,$(CXX),c++),yes)
EXTRA_portalctl/bench += -DHAVE_BOOST
portalctl_rivals += $(O)/obj/portalctl/bench/rival_boost.o
endif

portalctl_obj  := $(patsubst $(top)/userspace/%.c,$(O)/obj/%.o,$(portalctl_src)) $(portalctl_rivals)

$(O)/obj/portalctl/bench/rival_boost.o: $(top)/userspace/portalctl/bench/rival_boost.cc
	$(call say,CXX,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) -std=gnu++17 -Wall -Wextra $(WERROR) -fno-exceptions -fno-rtti -MMD -MP \
		$(CPPFLAGS) $(CFLAGS) $(EXTRA_portalctl/bench) -c -o $@ $<

portalctl_missing := $(strip \
	$(if $(call portalctl_have,json-c/json.h,$(CC),c),,libjson-c-dev) \
	$(if $(call portalctl_have,nettle/sha2.h,$(CC),c),,nettle-dev))

ifeq ($(portalctl_missing),)
$(O)/bin/portalctl: $(portalctl_obj) $(O)/lib/libvmportal.so
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(portalctl_obj) -L$(O)/lib -lvmportal \
		-Wl,-rpath,'$$ORIGIN/../lib' $(portalctl_libs)

$(O)/bin/portalctl.static: $(portalctl_obj) $(O)/lib/libvmportal.a
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -static -o $@ $(portalctl_obj) $(O)/lib/libvmportal.a \
		$(portalctl_libs)
else
$(O)/bin/portalctl $(O)/bin/portalctl.static:
	@echo 'portalctl needs the packages $(portalctl_missing)' >&2; exit 1
endif

.PHONY: portalctl portalctl-static
portalctl: $(O)/bin/portalctl
portalctl-static: $(O)/bin/portalctl.static
ALL += $(O)/bin/portalctl

MANDIR ?= $(PREFIX)/share/man

# It finds the library in ../lib of wherever it is, ldconfig or not.
.PHONY: install-portalctl
install-portalctl: $(O)/bin/portalctl
	$(call say,INSTALL,portalctl)
	$(Q)install -D -m 755 $< $(DESTDIR)$(PREFIX)/bin/portalctl
	$(Q)install -D -m 644 $(top)/userspace/man/portalctl.1 \
		$(DESTDIR)$(MANDIR)/man1/portalctl.1
INSTALL += install-portalctl
