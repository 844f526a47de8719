package oci

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rule is some system calls of one kind. Words of names are system calls.
type rule struct {
	why   string
	names string
}

// allowed are the system calls that need no condition. What is absent fails with EPERM; what is newer
// than the newest here fails with ENOSYS, which runc adds, so that libraries take their older way. What is absent
// on purpose, and why, is in the test.
func allowed() []rule {
	return []rule{
		{"files", `access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
			faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync flock
			fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 lchown link linkat lseek lstat
			mkdir mkdirat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
			readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile splice stat statfs statx
			symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat
			utimes vmsplice write writev chroot cachestat`},
		{"extended attributes, which package managers keep", `fgetxattr flistxattr fremovexattr fsetxattr getxattr
			lgetxattr listxattr llistxattr lremovexattr lsetxattr removexattr setxattr`},
		{"sockets and what waits for them; which address families: see conditions", `accept accept4 bind connect
			getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt
			shutdown socketpair epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
			epoll_wait epoll_wait_old eventfd eventfd2 pipe pipe2 poll ppoll pselect6 select signalfd signalfd4
			inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
			io_pgetevents io_setup io_submit`},
		{"processes, threads and signals; how they may be cloned: see conditions", `arch_prctl execve execveat
			exit exit_group fork futex futex_wait futex_waitv futex_wake futex_requeue get_robust_list
			get_thread_area getpgid getpgrp getpid getppid getpriority getsid gettid kill membarrier pause
			pidfd_open pidfd_send_signal prctl restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
			rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo set_robust_list
			set_thread_area set_tid_address setpgid setpriority setsid sigaltstack tgkill tkill vfork wait4 waitid
			process_mrelease riscv_flush_icache riscv_hwprobe`},
		{"identity within the capabilities that are left", `capget capset getegid geteuid getgid getgroups getresgid
			getresuid getuid setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid`},
		{"memory, with the NUMA placement that training tools ask for", `brk get_mempolicy madvise mbind
			memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap
			migrate_pages move_pages pkey_alloc pkey_free pkey_mprotect process_madvise remap_file_pages
			set_mempolicy set_mempolicy_home_node map_shadow_stack mseal`},
		{"peers inside the container only, since no other process has a name here: MPI copies between ranks, " +
			"PyTorch passes CUDA memory by descriptor", `process_vm_readv process_vm_writev pidfd_getfd kcmp`},
		{"time, read only", `alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep
			setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
			timerfd_gettime timerfd_settime times`},
		{"scheduling and limits of its own processes", `getcpu getrlimit getrusage ioprio_get ioprio_set prlimit64
			sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
			sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
			sched_setscheduler sched_yield setrlimit`},
		{"System V and POSIX IPC in a namespace of its own", `mq_getsetattr mq_notify mq_open mq_timedreceive
			mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt
			shmget`},
		{"what the system is; devices are chosen by the device cgroup, not here", `getrandom ioctl sysinfo uname`},
		{"a program may only give up rights by these", `landlock_add_rule landlock_create_ruleset
			landlock_restrict_self seccomp`},
	}
}

// Seccomp is the filter of every container. Only the machine's own architecture is let in: 32-bit system
// calls have entry code of their own.
func Seccomp() *specs.LinuxSeccomp {
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm}
	for _, r := range allowed() {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: strings.Fields(r.names), Action: specs.ActAllow})
	}
	allow := func(name string, args ...specs.LinuxSeccompArg) {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args})
	}
	// Threads and processes, but no namespace. The flags of clone3 are in memory, where a filter cannot
	// look; "no such call" makes the C library use clone.
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	allow("clone", specs.LinuxSeccompArg{Index: 0, Value: namespaces, ValueTwo: 0, Op: specs.OpMaskedEqual})
	s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys})
	// Regular files, FIFOs and sockets, which need no capability; no device nodes.
	for _, kind := range []uint64{0, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK} {
		allow("mknod", specs.LinuxSeccompArg{Index: 1, Value: unix.S_IFMT, ValueTwo: kind, Op: specs.OpMaskedEqual})
		allow("mknodat", specs.LinuxSeccompArg{Index: 2, Value: unix.S_IFMT, ValueTwo: kind, Op: specs.OpMaskedEqual})
	}
	// The families of ordinary programs. AF_ALG, AF_VSOCK, AF_PACKET and old protocols are surface only.
	for _, family := range []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} {
		allow("socket", specs.LinuxSeccompArg{Index: 0, Value: family, Op: specs.OpEqualTo})
	}
	// Linux, its 2.6 version number, a query. Not READ_IMPLIES_EXEC, nor fixed addresses.
	const personalityQuery = 0xffffffff
	for _, persona := range []uint64{0, 0x8, 0x20000, 0x20008, personalityQuery} {
		allow("personality", specs.LinuxSeccompArg{Index: 0, Value: persona, Op: specs.OpEqualTo})
	}
	return s
}
