# SPDX-License-Identifier: MIT
#
# Fuzzers that are programs; tests/fuzz/layout-fuzz builds them with sanitizers.

$(O)/tests/fuzz/layout: $(top)/tests/fuzz/layout.c $(O)/lib/libvmportal.a
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(BASE) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(O)/lib/libvmportal.a -pthread
