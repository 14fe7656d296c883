# SPDX-License-Identifier: MIT
#
# portald: the host's daemon. Needs libsystemd, libinih and json-c.

portald_src  := $(wildcard $(top)/userspace/portald/*.c)
portald_obj  := $(patsubst $(top)/userspace/%.c,$(O)/obj/%.o,$(portald_src))
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
