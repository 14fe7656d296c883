# SPDX-License-Identifier: MIT
#
# make bench: every figure beside its limit and its rivals; BENCH=... are options
# of "portalctl bench". The rivals need libck-dev and libboost-dev.

.PHONY: bench
bench: $(O)/bin/portalctl
	$(Q)$< bench $(BENCH)
