# SPDX-License-Identifier: MIT
#
# Unit tests of the library: programs under $(O)/tests/unit, TAP on stdout. They are
# linked with the archive, so that they also reach what the library hides.
#
#	make check-unit		builds them and runs the quick ones
#	tests/unit/lib.t	runs one of them in one build (plain, asan, tsan)

unit_names := ring channel byhand wake backends deaths inner servers hostile layout managed locks directory directory_deaths session formatted children \
	packets packets_hostile window
unit_names += hub hub_waits hub_deaths hub_mistakes hub_hostile
unit_bin   := $(unit_names:%=$(O)/tests/unit/%)

unit: $(unit_bin)
.PHONY: unit check-unit-lib
CHECK_UNIT += check-unit-lib

$(O)/tests/unit/%: $(top)/tests/unit/lib/%.c $(O)/lib/libvmportal.a
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(BASE) -Wno-missing-prototypes $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) \
		-I$(top)/tests/unit/lib -o $@ $< $(O)/lib/libvmportal.a -lcmocka -pthread $(unit_ld)

# It talks to the real daemon.
$(O)/tests/unit/backends $(O)/tests/unit/deaths $(O)/tests/unit/locks $(O)/tests/unit/directory $(O)/tests/unit/directory_deaths $(O)/tests/unit/session $(O)/tests/unit/formatted $(O)/tests/unit/children: | $(O)/bin/portald

$(O)/tests/unit/hub $(O)/tests/unit/hub_waits $(O)/tests/unit/hub_deaths: | $(O)/bin/portald
$(O)/tests/unit/hub: unit_ld := -Wl,--wrap=chan_try,--wrap=vmp_token_state,--wrap=chan_alloc

# It steps between the library and the system.
$(O)/tests/unit/inner: unit_ld := -Wl,--wrap=pthread_mutex_unlock,--wrap=getrandom,--wrap=fstatfs

$(O)/tests/unit/managed: unit_ld := -Wl,--wrap=layout_write

check-unit-lib: $(unit_bin)
	$(Q)for t in $(unit_bin); do \
		CMOCKA_MESSAGE_OUTPUT=TAP timeout 60 $$t || exit 1; done

# A process that tests of portald tell what to do.
$(O)/tests/unit/joiner: $(top)/tests/unit/portald/joiner.c $(O)/lib/libvmportal.a
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(BASE) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(O)/lib/libvmportal.a -pthread
.PHONY: joiner
joiner: $(O)/tests/unit/joiner
