# SPDX-License-Identifier: GPL-2.0
#
# guest_memfd on device-DAX: 'make help' says what there is. Every target is a
# script of the same name, which does its own set-up.

MAKEFLAGS += --no-print-directory
# LINUX=/path/to/linux: a 7.3 tree of your own instead of Debian's package.
export LINUX JOBS PARTS ALIGNS MINUTES WHOLE FRESH RUNS SAVE

.PHONY: help run test test-all stress bench check tree series base-results mutants bisect shell setup clean

help:
	@echo 'make run            boot a test host with a DAX device, run a guest on it, report'
	@echo 'make test           all that must hold: checks, kernels, selftests in the test host'
	@echo 'make test-all       what takes longer: every variant, long stress, configurations, mutants, bisect; goes on where it was stopped'
	@echo 'make stress         races against unbind for MINUTES=20, on every kind of device'
	@echo 'make bench          guest_memfd on DAX beside its peers: faults, mapping sizes, time'
	@echo 'make check          static checks only'
	@echo 'make mutants        one-line changes of the series that a test must catch'
	@echo 'make bisect         build the kernel at every patch'
	@echo 'make tree           the workbench build/linux out of patches/'
	@echo 'make series         patches/ and the new files out of the workbench'
	@echo 'make base-results   record what the KVM selftests do without the series'
	@echo 'make shell          an interactive test host with a DAX device'
	@echo 'make setup          install the packages that are missing'
	@echo 'make clean          remove what was built; CLEAN=all removes the workbench as well'
	@echo
	@echo 'LINUX=/path/to/linux   a Linux 7.3 git tree instead of Debian'"'"'s package'

run test test-all stress bench check tree series base-results mutants bisect setup:
	@scripts/$@

shell:
	@scripts/setup
	@scripts/tree
	@scripts/kernel release >/dev/null
	@scripts/host -i -k release -n shell -d 2M:2560M $(if $(wildcard build/out/selftests/t),-o build/out/selftests/t)

# The workbench may hold work that is nowhere else.
clean:
	rm -rf build/out build/log build/bench build/rootfs build/host.* build/*.job
	@if [ "$(CLEAN)" = all ]; then echo 'rm -rf build'; rm -rf build; fi
