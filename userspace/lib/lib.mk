# SPDX-License-Identifier: MIT
#
# libvmportal, shared and static, and the examples.

lib_src := attach channel dev directory efd errmsg handshake layout layout_check layout_names lock managed \
	   message object packet pair portal session shm step unix unix_ask wait window
lib_src += hub hub_lane hub_name hub_producer hub_wait
lib_obj := $(lib_src:%=$(O)/obj/lib/%.o)
lib_so  := libvmportal.so.$(SOVERSION)

examples := $(patsubst $(top)/userspace/examples/%.c,$(O)/examples/%,$(wildcard $(top)/userspace/examples/*.c))

ALL     += $(examples) $(O)/lib/libvmportal.so $(O)/lib/libvmportal.a $(O)/lib/vmportal.pc
INSTALL += install-lib
MANDIR  ?= $(PREFIX)/share/man

# Position-independent for both: the archive may end up in a shared object.
# Its own calls of its public functions need no symbol look-up.
EXTRA_lib := -fPIC -fno-plt -fno-semantic-interposition -pthread
comma := ,

$(O)/lib/$(lib_so): $(lib_obj) $(top)/userspace/lib/vmportal.map
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(lib_so) -Wl,-z,relro,-z,now \
		-Wl,--version-script=$(top)/userspace/lib/vmportal.map \
		$(if $(findstring sanitize,$(CFLAGS)),,-Wl$(comma)--no-undefined) \
		-o $@ $(lib_obj) -pthread

$(O)/lib/libvmportal.so: $(O)/lib/$(lib_so)
	$(Q)ln -sf $(lib_so) $@

$(O)/lib/libvmportal.a: $(lib_obj)
	$(call say,AR,$@)
	$(Q)mkdir -p $(@D)
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $(lib_obj)

$(O)/lib/vmportal.pc: $(top)/userspace/lib/vmportal.pc.in $(top)/userspace/Makefile
	$(Q)mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|;s|@LIBDIR@|$(LIBDIR)|;s|@VERSION@|$(VERSION)|' $< > $@

# As a program of somebody else's: the public header and the shared library alone.
$(O)/examples/%: $(top)/userspace/examples/%.c $(O)/lib/libvmportal.so
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=c11 -Wall -Wextra $(WERROR) -Wno-unused-parameter -I$(top)/userspace/include \
		$(CFLAGS) $(LDFLAGS) -o $@ $< -L$(O)/lib -lvmportal -Wl,-rpath,'$$ORIGIN/../lib'

.PHONY: install-lib examples
examples: $(examples)
install-lib: $(O)/lib/libvmportal.so $(O)/lib/libvmportal.a $(O)/lib/vmportal.pc
	$(call say,INSTALL,$(DESTDIR)$(LIBDIR)/$(lib_so))
	$(Q)install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include/linux
	$(Q)install -m 644 $(O)/lib/$(lib_so) $(O)/lib/libvmportal.a $(DESTDIR)$(LIBDIR)/
	$(Q)ln -sf $(lib_so) $(DESTDIR)$(LIBDIR)/libvmportal.so
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|;s|@LIBDIR@|$(LIBDIR)|;s|@VERSION@|$(VERSION)|' \
		$(top)/userspace/lib/vmportal.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/vmportal.pc
	$(Q)install -m 644 $(top)/userspace/include/vmportal.h \
		$(top)/userspace/include/vmportal_managed.h \
		$(top)/userspace/include/vmportal_hub.h \
		$(top)/userspace/include/vmportal_ring.h \
		$(top)/userspace/include/vmportal_packet.h $(DESTDIR)$(PREFIX)/include/
	$(Q)install -m 644 $(top)/uapi/linux/portal.h $(top)/uapi/linux/portal_layout.h \
		$(DESTDIR)$(PREFIX)/include/linux/
	$(Q)install -D -m 644 $(top)/userspace/man/portal-layout.5 \
		$(DESTDIR)$(MANDIR)/man5/portal-layout.5
	$(Q)for n in 3 4 7; do \
		install -d $(DESTDIR)$(MANDIR)/man$$n && \
		install -m 644 $(top)/userspace/man/*.$$n $(DESTDIR)$(MANDIR)/man$$n/ || exit 1; \
	done
