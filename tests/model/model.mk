# SPDX-License-Identifier: MIT
#
# Models of the protocols, checked by SPIN: tests/model/run. Nothing to build.

.PHONY: check-model
check-model:
	$(Q)$(top)/tests/model/run
