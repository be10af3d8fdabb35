# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The parts that 'make test' and 'make base-results' are made of. Each boots test
# hosts and prints result lines (scripts/ktap) on stdout.

# MODE: parse, or record for the base's results.
MODE=${MODE:-parse}
# Which directories of build/out the kernels and selftests come from.
KERNELS=${KERNELS:-}
SELFTESTS=${SELFTESTS:-selftests}

table() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$TOP/tests/$1"; }

# boot CONFIG HOST-OPTION...: the job is on stdin. What passed whole is kept by a
# checksum of kernel, programs, job and lists, and not run again until one of them
# changes (FRESH=1 runs it all the same).
boot() {
	local config=$1 kept
	shift
	cat > "$BUILD/$config.job"
	if [ "$MODE" = record ]; then
		boot_run "$config" "$@"
		return
	fi
	kept=$BUILD/kept/$config-$({
		"$TOP/scripts/host" -p -f "$BUILD/$config.job" "$@" -- bash "./$config.job"
		cat "$TOP"/scripts/{ktap,splats,parts.sh} "$TOP"/tests/{base-results,{skip,splat}-allowed}
	} | sha256sum | cut -c1-32)
	if [ -e "$kept" ] && [ -z "${FRESH:-}" ]; then
		say "$config: nothing that it is made of changed since it passed; its results are kept in ${kept#"$TOP/"}"
		cat "$kept"
		return
	fi
	mkdir -p "$BUILD/kept"
	boot_run "$config" "$@" > "$kept.new"
	[ -z "${BASE:-}" ] || recheck "$config" "$kept.new"
	cat "$kept.new"
	if grep -q '^ok - ' "$kept.new" && ! grep -q '^not ok' "$kept.new"; then
		rm -f "$BUILD/kept/$config"-*[!w]
		mv "$kept.new" "$kept"
	else
		rm "$kept.new"
	fi
}

boot_run() {
	local config=$1 rc=0
	shift
	"$TOP/scripts/host" -n "$config" -f "$BUILD/$config.job" "$@" -- bash "./$config.job" |
		grep --line-buffered '^# ran ' | sed -u "s/^# ran [a-z]* \(.*\)/# $config: \1/" >&2 || rc=$?
	"$TOP/scripts/ktap" "$MODE" "$config" "$LOG/host-$config.out" ||
		echo "not ok - $config: the results could not be read"
	[ "$MODE" = parse ] || return 0
	if [ "$rc" -eq 0 ]; then
		echo "ok - $config: the test host ended by itself and its kernel reported nothing"
	else
		echo "not ok - $config: the test host # status $rc, see build/log/host-$config.console"
	fi
}

# recheck CONFIG FILE: tests/base-results were recorded on another machine, and some
# tests depend on how fast it is. What failed in FILE and passed there runs again, here and on
# this machine's base, 3 times or as often as 100 seconds allow, 10 at most; what fails there
# as well says nothing about the series. One at a time: two of the hosts may fail at once.
recheck() {
	local config=$1 file=$2 kernel=release name t k runs on_series on_base
	exec 8> "$BUILD/recheck.lock"
	flock 8
	[ "$config" != kvm-debug ] || kernel=debug
	local -A line=() dirs=()
	while read -r name; do
		grep -qxF "ok $config $name" "$TOP/tests/base-results" || continue
		line[$name]=$(table kvm-tests | awk -v t="${name##* }" '$1 == t { $2 = ""; print }')
		: "${line[$name]:=${name##* } 400}"
	done < <(sed -nE "s/^not ok - $config ((run_kselftest: selftests: kvm: )?[^ ]+) # .*/\1/p" "$file")
	[ ${#line[@]} -gt 0 ] || return 0
	say "$config: failed: ${!line[*]}; is it the series? building this machine's base"
	base_build $kernel || return 0
	# The last events before a failure say what KVM saw.
	cat > "$BUILD/recheck.job" <<-'JOB'
	trace() { echo "$2" > "/sys/kernel/tracing/$1"; }
	again() {	# PROGRAM SECONDS ARGUMENT...
		local t=$1 limit=$2 p=./$1 k
		shift 2
		[ -e "$p" ] || p=./kselftest/kvm/$t
		SECONDS=0
		for k in 1 2 3 4 5 6 7 8 9 10; do
			[ $k -le 3 ] || [ $SECONDS -lt 100 ] || break
			trace trace ''
			trace tracing_on 1
			./run exit "$t" "$limit" "$p" "$@"
			trace tracing_on 0
			grep -v ^# /sys/kernel/tracing/trace | tail -n 12 | cut -c1-150 | sed 's/^/# trace: /'
		done
	}
	trace tracing_on 0
	trace set_event 'kvm:kvm_exit kvm:kvm_page_fault'
	JOB
	printf 'again %s\n' "${line[@]}" >> "$BUILD/recheck.job"
	for k in t install; do [ ! -d "$BUILD/out/$SELFTESTS/$k" ] || dirs[$k]="-o$BUILD/out/$SELFTESTS/$k"; done
	for k in $kernel base-$kernel; do
		# What an earlier run left says nothing if this host does not start.
		: > "$LOG/host-recheck-$k.out"
		"$TOP/scripts/host" -1 -n "recheck-$k" -k "$k" -m 4 -t 1500 "${dirs[@]}" \
			-f "$BUILD/recheck.job" -- bash ./recheck.job >/dev/null || :
		sed -n "s/^\(# trace:\|# ran\)/#   | $k: \1/p" "$LOG/host-recheck-$k.out" >> "$file"
	done
	# 254: an assertion of the test, nothing else.
	for name in "${!line[@]}"; do
		t="^# ran exit ${name##* } status"
		on_series=$(grep -c "$t 254" "$LOG/host-recheck-$kernel.out" || :)
		on_base=$(grep -c "$t 254" "$LOG/host-recheck-base-$kernel.out" || :)
		runs=$(grep -c "$t" "$LOG/host-recheck-base-$kernel.out" || :)
		say "$config: $name failed again $on_series times, and on the base in $on_base of $runs runs"
		[ "$on_base" -eq 0 ] ||
			sed -i "s|^not ok - \($config $name\) #.*|ok - \1 # SKIP fails on this machine's base too, in $on_base of $runs runs|" "$file"
	done
}

# The base's kernel, out of its own tree, as build/out/base-FLAVOR.
base_tree() {
	[ -e "$BUILD/base/.git" ] || run_logged base-tree git -C "$BUILD/linux" worktree add -q -f --detach "$BUILD/base" base
	git -C "$BUILD/base" checkout -q --detach base
}
base_build() {
	base_tree && as_workbench "$BUILD/base" "$BUILD/out/base-$1" "$TOP/scripts/kernel" "$1" "$BUILD/linux" debug >/dev/null
}

# A step that boots nothing is a result as well.
step() {
	local name=$1
	shift
	if "$@" >/dev/null; then
		echo "ok - $name"
	else
		echo "not ok - $name # failed: the logs are in build/log"
		return 1
	fi
}

# Two test hosts at a time: one keeps little more than one CPU busy. A part starts
# its hosts with bg; the results come in order, at the latest from bg_wait.
bg_files=() bg_pids=() bg_next=0
bg() {	# COMMAND...
	local file=$BUILD/part.$$.${#bg_files[@]}
	while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || :; done
	while [ "$bg_next" -lt ${#bg_pids[@]} ] && ! kill -0 "${bg_pids[bg_next]}" 2>/dev/null; do bg_show; done
	bg_files+=("$file")
	"$@" > "$file" &
	bg_pids+=($!)
}
bg_show() {
	cat "${bg_files[bg_next]}"
	rm "${bg_files[bg_next]}"
	bg_next=$((bg_next + 1))
}
bg_wait() {
	while [ "$bg_next" -lt ${#bg_pids[@]} ]; do
		wait "${bg_pids[bg_next]}" || :
		bg_show
	done
}

# The named KVM selftests.
#
# Tests that run on the base as well have test hosts whose CPUs share one of QEMU's
# threads (scripts/host -1). With a thread for each, QEMU 7.2 and 10.0 break what runs
# in the host: mmu_stress_test on the base's release kernel fails, or its host dies, in
# about one of three runs on a machine that does nothing else. irq_test is the other way
# round: with one thread, QEMU delivers an interrupt that KVM injects twice if it is time for
# the other CPU (its VMRUN leaves the vector where it looks for exceptions; a trace shows
# the second without kvm_inj_virq). Of 60 runs on the base 21 fail, on the series 16; none of
# 60 on the base with one CPU, none of 160 on the series with two threads.
part_kvm() {
	local k
	for k in debug release; do
		bg kvm_host "$k"
	done
}
kvm_host() {	# KERNEL
	local t kernel limit args
	while read -r t kernel limit args; do
		[ "$kernel" != "$1" ] || echo "./run exit $t $limit ./$t $args"
	done < <(table kvm-tests) | BASE=1 boot "kvm-$1" -1 -k "${KERNELS}$1" -m 4 -t 1500 -o "$BUILD/out/$SELFTESTS/t"
}

# The series' own selftests: on an NVDIMM at every alignment, on a soft-reserved
# region; its KUnit suites ran at boot. With WHOLE=1 every variant at each.
own_tests() { table own-tests; }
own_job() {	# WHERE VARIABLE
	local kind where prog limit args
	echo "export DEV=\$$2"
	echo 'export DAX_TEST_DEV=$DEV GUEST_DAXFD_DEV=$DEV'
	while read -r kind where prog limit args; do
		[ "$where" != "$1" ] || echo "./run $kind ${prog##*/} $limit ./${prog##*/} $args"
	done < <(own_tests | if [ -z "${WHOLE:-}" ]; then cat; else sed 's/ -V [a-z_]*//g; s/ -s [0-9]*/ -s 100/'; fi)
}

own_nvdimm() {	# ALIGNMENT
	{
		own_job "$1" "DAX_$1"
		own_job nvdimm "DAX_$1"
	} | boot "own-$1" -k "${KERNELS}debug" -m 4 -t 1800 -d "$1" -o "$BUILD/out/$SELFTESTS/t"
}
# Devices with room for 1G that is aligned in physical memory. The other tests
# have smaller ones: binding a device takes the longer the larger it is.
own_huge() {
	local a
	for a in 4K 2M 1G; do
		echo "./run ktap huge-$a 800 ./guest_daxfd_huge_test -d \$DAX_$a"
	done | boot own-huge -k "${KERNELS}debug" -m 4 -t 2700 -d 4K:3G -d 2M:3G -d 1G -o "$BUILD/out/$SELFTESTS/t"
}
# Shadow paging: KVM walks and maps what the guest's page tables say.
own_npt0() {
	own_job npt0 DAX_2M |
		boot own-npt0 -k "${KERNELS}debug" -m 4 -t 900 -d 2M:3G -x "kvm_amd.npt=0 kvm_intel.ept=0" -o "$BUILD/out/$SELFTESTS/t"
}
# On the region of 3 GiB, a device of two pieces: the second starts 512 MiB into
# the region and ends within a gigabyte, the first is physically behind it.
two_pieces() {
	cat <<-'JOB'
	s=${DAX_SOFT#/dev/}; bus=/sys/bus/dax
	[ ! -e $bus/devices/$s/driver ] || echo $s > $bus/devices/$s/driver/unbind
	echo $((9 << 28)) > $bus/devices/$s/size
	echo 1 > "$(realpath $bus/devices/$s)/../dax_region/create"
	for d in $bus/devices/${s%.*}.*; do [ "${d##*/}" = $s ] || two=${d##*/}; done
	echo $((1 << 29)) > $bus/devices/$two/size
	echo $((1 << 29)) > $bus/devices/$s/size
	echo $((9 << 28)) > $bus/devices/$two/size
	[ -e $bus/devices/$two/driver ] || echo $two > $bus/drivers/device_dax/bind
	export DAX_TWO=/dev/$two
	JOB
}
# guest_memfd, and not the VM, knows what is private. Tests at 2M and of two pieces
# have names of their own: those at 4K are of the same programs.
own_convert() {
	{
		own_job convert DAX_4K
		own_job convert-2M DAX_2M | sed 's/^\.\/run [a-z]* /&2M-/'
		two_pieces
		own_job convert-pieces DAX_TWO | sed 's/^\.\/run [a-z]* /&pieces-/'
	} | boot own-convert -k "${KERNELS}debug" -m 7 -t 1800 -d 4K:256M -d 2M:256M -s 3G \
		-x kvm.gmem_in_place_conversion=1 -o "$BUILD/out/$SELFTESTS/t"
}
own_soft() {
	{
		own_job soft DAX_SOFT
		two_pieces
		own_job pieces DAX_TWO
		cat <<-'JOB'
		for s in /sys/kernel/debug/kunit/*/; do
			[ -f "$s/results" ] || continue
			./run ktap "kunit-$(basename "$s")" 60 sed -n 's/^    \([^ ]\)/\1/p' "$s/results"
		done
		JOB
	} | boot own-soft -k "${KERNELS}debug" -m 7 -t 1200 -x "kunit.enable=1 kunit.autorun=1" -s 3G -o "$BUILD/out/$SELFTESTS/t"
}
part_own() {
	local a
	for a in ${ALIGNS:-4K 2M 1G}; do bg own_nvdimm "$a"; done
	bg own_huge
	bg own_soft
	bg own_npt0
	bg own_convert
}

# Races, over and over, for MINUTES in all, and with one of the kernel's reports
# the machine stops. One host has all kinds of devices: booting takes long. The
# soft-reserved one is made here. At most 3 minutes are the short form.
#
# The CPUs share a thread of QEMU, see part_kvm: where each has one, guests of two vCPUs
# that run into EFAULT get page faults, undefined opcodes and triple faults, on the base
# and on anonymous memory as well. A trace, of the series, shows none that KVM injected
# before, and with one thread none was seen.
STRESS_CASES=28
part_stress() { bg stress_host; }
stress_host() {
	local minutes=${MINUTES:-3} per limit d quick=''
	per=$(((minutes * 60 - 60) / (4 * STRESS_CASES)))
	if [ "$minutes" -le 3 ]; then per=1 quick=' -F fail_guest'; fi
	[ "$per" -ge 1 ] || per=1
	limit=$((per * STRESS_CASES * 2 + 150))
	{
		cat <<-'JOB'
		soft=${DAX_SOFT#/dev/}
		echo 268435456 > "/sys/bus/dax/devices/$soft/size"
		[ -e "/sys/bus/dax/devices/$soft/driver" ] || echo "$soft" > /sys/bus/dax/drivers/device_dax/bind
		JOB
		for d in 4K 2M 1G SOFT; do
			echo "./run ktap stress-$d $limit ./guest_daxfd_stress_test -d \$DAX_$d -s $per"
		done
		echo "./run ktap guest_daxfd_failnth_test 600 ./guest_daxfd_failnth_test -d \$DAX_2M -F fail_convert$quick"
	} | boot "stress-$minutes" -1 -w -k "${KERNELS}debug" -m 4 -t $((limit * 4 + 700)) \
		-d 4K:256M -d 2M:256M -d 1G -s 1G -o "$BUILD/out/$SELFTESTS/t"
}

# run_kselftest.sh as a user runs it: all of kvm and dax with a device; what looks
# for a device also without one, and irq_test, see part_kvm.
part_kselftest() {
	bg kselftest_device
	[ "$MODE" != parse ] || bg kselftest_none
}
kselftest_device() {
	local args='' t
	while read -r t _; do
		args+=" -S $t"
	done < <(table kselftest-skipped)
	{
		echo 'export GUEST_DAXFD_DEV=$DAX_2M DAX_TEST_DEV=$DAX_2M'
		table kselftest-args | sed 's/^/export /'
		# The 120 seconds a program are for real CPUs.
		echo 'slow=; ! grep -q "QEMU TCG" /proc/cpuinfo || slow="-o 400"'
		echo "./run kselftest run_kselftest 2400 ./kselftest/run_kselftest.sh \$slow$args"
	} | BASE=1 boot kselftest-device -1 -k "${KERNELS}release" -m 5 -t 2500 -d 2M -o "$BUILD/out/$SELFTESTS/install"
}
kselftest_none() {
	echo "./run kselftest run_kselftest 600 ./kselftest/run_kselftest.sh -c dax -t kvm:guest_memfd_test -t kvm:guest_daxfd_test -t kvm:irq_test" |
		boot kselftest-none -k "${KERNELS}release" -m 5 -t 700 -o "$BUILD/out/$SELFTESTS/install"
}
