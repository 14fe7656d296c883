# SPDX-License-Identifier: MIT
#
# The crash tests' program: workers, their driver and their judge. tests/crash/crash.t runs
# it on the host, machines.py in guests that are killed.

crash_src := $(patsubst %,$(top)/tests/crash/%.c,crash drive judge lock message mistake object plan send stall window work)

# For guests without any library, too.
$(O)/tests/crash.static: crash_ld := -static
$(O)/tests/crash $(O)/tests/crash.static: $(crash_src) $(top)/tests/crash/crash.h $(top)/tests/unit/lib/late.h $(O)/lib/libvmportal.a
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 $(WARN) $(WERROR) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $(crash_src) \
		$(O)/lib/libvmportal.a $(crash_ld) -pthread
.PHONY: crash crash-static
crash: $(O)/tests/crash
crash-static: $(O)/tests/crash.static
