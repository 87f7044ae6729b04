//! Which system calls the agent makes. Any other is answered as by a kernel that does not have it, so that libraries that can do
//! without do without, and one that was forgotten here costs no boot.

use super::Gap;

/// Limits the calling thread, and those that it will start, to the calls of the agent.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn limit() -> Result<(), Gap> {
    table::install().map_err(|error| Gap {
        wall: super::Wall::Calls,
        reason: format!("the kernel takes no filter: {error}"),
    })
}

/// There is no table for this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn limit() -> Result<(), Gap> {
    Err(Gap {
        wall: super::Wall::Calls,
        reason: format!("there is no filter for {}", std::env::consts::ARCH),
    })
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod table {
    use std::collections::BTreeMap;

    use nix::libc;
    use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
    use seccompiler::{
        BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
        SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    };

    #[cfg(target_arch = "x86_64")]
    const ARCH: TargetArch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    const ARCH: TargetArch = TargetArch::aarch64;

    /// Calls whose arguments do not matter.
    const PLAIN: &[libc::c_long] = &[
        // Files.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_preadv2,
        libc::SYS_pwritev2,
        libc::SYS_lseek,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_statfs,
        libc::SYS_fstatfs,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        libc::SYS_getdents64,
        libc::SYS_getcwd,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync_file_range,
        libc::SYS_fallocate,
        libc::SYS_ftruncate,
        libc::SYS_truncate,
        libc::SYS_fadvise64,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_mkdirat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_utimensat,
        libc::SYS_umask,
        libc::SYS_flock,
        libc::SYS_fcntl,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_sendfile,
        libc::SYS_splice,
        libc::SYS_copy_file_range,
        // Sockets, and waiting for them.
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_setsockopt,
        libc::SYS_getsockopt,
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvmmsg,
        libc::SYS_shutdown,
        libc::SYS_socketpair,
        libc::SYS_pipe2,
        libc::SYS_eventfd2,
        libc::SYS_signalfd4,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_settime,
        libc::SYS_timerfd_gettime,
        // Memory, also that of policies.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_msync,
        libc::SYS_memfd_create,
        libc::SYS_membarrier,
        // Threads, signals, the end.
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_get_robust_list,
        libc::SYS_rseq,
        libc::SYS_set_tid_address,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getcpu,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // Time, chance, who and where.
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        // The end of a new version that hangs.
        libc::SYS_setitimer,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_getrusage,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_capget,
    ];

    /// What other processors have newer calls for.
    #[cfg(target_arch = "x86_64")]
    const OLD: &[libc::c_long] = &[
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_unlink,
        libc::SYS_rmdir,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_mkdir,
        libc::SYS_chmod,
        libc::SYS_dup2,
        libc::SYS_pipe,
        libc::SYS_poll,
        libc::SYS_select,
        libc::SYS_epoll_wait,
        libc::SYS_time,
        libc::SYS_alarm,
        libc::SYS_arch_prctl,
    ];
    #[cfg(target_arch = "aarch64")]
    const OLD: &[libc::c_long] = &[];

    /// What a socket may be asked for, and a terminal, which the log may go to: FIONBIO, FIOCLEX, FIONREAD, TCGETS, TIOCGWINSZ,
    /// SIOCGIFNAME and SIOCGIFINDEX (Linux, asm-generic/ioctls.h and sockios.h), whose types differ between libraries.
    const REQUESTS: [u64; 7] = [0x5421, 0x5451, 0x541b, 0x5401, 0x5413, 0x8910, 0x8933];

    pub(super) fn install() -> Result<(), Error> {
        seccompiler::apply_filter(&program()?)
    }

    fn program() -> Result<BpfProgram, BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            PLAIN.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
        rules.insert(libc::SYS_socket, sockets()?);
        rules.insert(libc::SYS_ioctl, requests()?);
        // A thread and no process. `clone3` hides what it asks for, so whoever tries it is sent back to this.
        let thread = number(libc::CLONE_THREAD);
        rules.insert(libc::SYS_clone, vec![all([argument(0, MaskedEq(thread), thread)?])?]);
        // No memory that can be written and run, and none that was written and is to be run.
        let (run, write_and_run) =
            (number(libc::PROT_EXEC), number(libc::PROT_EXEC | libc::PROT_WRITE));
        let (no_run, no_write) =
            (argument(2, MaskedEq(run), 0)?, argument(2, MaskedEq(write_and_run), run)?);
        rules.insert(libc::SYS_mprotect, vec![all([no_run.clone()])?]);
        rules.insert(libc::SYS_mmap, vec![all([no_run])?, all([no_write])?]);
        // Names of threads; limits of this process.
        let set_name = number(libc::PR_SET_NAME);
        rules.insert(libc::SYS_prctl, vec![all([argument(0, Eq, set_name)?])?]);
        rules.insert(libc::SYS_prlimit64, vec![all([argument(0, Eq, 0)?])?]);
        let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        SeccompFilter::new(rules, unknown, SeccompAction::Allow, ARCH)?.try_into()
    }

    /// UDP, TCP and local ones, and questions to the kernel about interfaces; no packets past the kernel's own protocols.
    fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
        /// The type without the flags that come with it.
        const TYPE: u64 = 0xf;
        let mut rules = vec![all([argument(0, Eq, number(libc::AF_NETLINK))?])?];
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX] {
            for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
                let kind = argument(1, MaskedEq(TYPE), number(kind))?;
                rules.push(all([argument(0, Eq, number(family))?, kind])?);
            }
        }
        Ok(rules)
    }

    fn requests() -> Result<Vec<SeccompRule>, BackendError> {
        REQUESTS.iter().map(|request| all([argument(1, Eq, *request)?])).collect()
    }

    fn all<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(conditions.into())
    }

    fn argument(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
    }

    /// A constant of the system, none of which is negative.
    fn number(constant: libc::c_int) -> u64 {
        u64::from(constant.unsigned_abs())
    }
}
