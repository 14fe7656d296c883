# SPDX-License-Identifier: MIT
#
# portald: the host's daemon. Needs libsystemd, libinih and json-c.

portald_src  := $(wildcard $(top)/userspace/portald/*.c)
# The layout of managed portals is the library's, and needs nothing else of it.
portald_obj  := $(patsubst $(top)/userspace/%.c,$(O)/obj/%.o,$(portald_src)) $(O)/obj/lib/layout.o
portald_deps := libsystemd inih json-c
EXTRA_portald = $(shell $(PKG_CONFIG) --cflags $(portald_deps))

ifeq ($(shell $(PKG_CONFIG) --exists $(portald_deps) && echo yes),yes)
$(O)/bin/portald: $(portald_obj)
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(shell $(PKG_CONFIG) --libs $(portald_deps))
else
$(O)/bin/portald:
	@echo 'portald needs the packages libsystemd-dev libinih-dev libjson-c-dev' >&2; exit 1
endif

.PHONY: portald
portald: $(O)/bin/portald
ALL += $(O)/bin/portald

# systemd looks below /usr/local/lib too, so that all follow PREFIX.
portald_units := portald.service portald@.service portald@.socket
SYSTEMDDIR    ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR   ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR   ?= $(PREFIX)/lib/tmpfiles.d
MANDIR        ?= $(PREFIX)/share/man

.PHONY: install-portald
install-portald: $(O)/bin/portald
	$(call say,INSTALL,portald)
	$(Q)install -D -m 755 $< $(DESTDIR)$(PREFIX)/bin/portald
	$(Q)install -d $(DESTDIR)$(SYSTEMDDIR)
	$(Q)for u in $(portald_units); do \
		sed 's|@BINDIR@|$(PREFIX)/bin|' $(top)/userspace/systemd/$$u.in \
			> $(DESTDIR)$(SYSTEMDDIR)/$$u || exit 1; \
	done
	$(Q)install -D -m 644 $(top)/userspace/systemd/portald.sysusers.conf \
		$(DESTDIR)$(SYSUSERSDIR)/portald.conf
	$(Q)install -D -m 644 $(top)/userspace/systemd/portald.tmpfiles.conf \
		$(DESTDIR)$(TMPFILESDIR)/portald.conf
	$(Q)test -e $(DESTDIR)/etc/vmportal/portald.conf || \
		install -D -m 644 $(top)/userspace/systemd/portald.conf \
			$(DESTDIR)/etc/vmportal/portald.conf
	$(Q)install -D -m 644 $(top)/userspace/man/portald.8 \
		$(DESTDIR)$(MANDIR)/man8/portald.8
	$(Q)install -D -m 644 $(top)/userspace/man/portald.conf.5 \
		$(DESTDIR)$(MANDIR)/man5/portald.conf.5
INSTALL += install-portald
