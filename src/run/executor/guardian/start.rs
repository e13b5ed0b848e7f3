//! [`start`]: a new process at the least cost.
//!
//! `fork` would copy the guardian's page tables for a process that throws them away at once. Here the child borrows the guardian's
//! memory, and the guardian stands still until the child has become its program (`CLONE_VM | CLONE_VFORK`). `posix_spawn` does the
//! same, but knows no signal at the death of the parent: without it, what runs would outlive a guardian that is killed.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr::{null, null_mut};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, getpid, getppid, set_parent_process_death_signal, setsid, waitpid,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGTERM};

use super::SpawnText;

const CLONE_VM: c_int = 0x100;
const CLONE_VFORK: c_int = 0x4000;
const SIG_SETMASK: c_int = 2;
const SIG_DFL: usize = 0;
/// Room for the few calls that the child makes before it is its program.
const STACK_BYTES: usize = 64 << 10;
/// Programs whose places are remembered.
const REMEMBERED: usize = 1000;
/// Where programs are looked for if `PATH` is not set.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Runs a script that does not say what runs it, as every shell does.
const SHELL: &CStr = c"/bin/sh";

type SignalSet = [u64; 16];

unsafe extern "C" {
    static environ: *const *const c_char;
    fn clone(run: extern "C" fn(*mut c_void) -> c_int, stack: *mut c_void, flags: c_int, of: *mut c_void, ...)
    -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn sigfillset(set: *mut SignalSet) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
}

/// Starts programs, and remembers where they are.
#[derive(Debug, Default)]
pub struct Starter {
    /// Where a bare name was found last. Each place where a program is not costs a failed `execve`.
    found: BTreeMap<(String, Option<String>), CString>,
}

impl Starter {
    /// Starts a program in a session of its own, in its folder, with `fds` as its standard input, output, error, and
    /// descriptor 3. It is killed when the guardian dies. Returns its pid.
    ///
    /// # Errors
    /// Why it could not be started.
    pub fn start(&mut self, text: &SpawnText, fds: &[OwnedFd]) -> io::Result<i32> {
        let Some((program, _)) = text.argv.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no program to start"));
        };
        let name = (program.clone(), text.env.get("PATH").cloned());
        let found = self.found.get(&name);
        let programs = found.cloned().into_iter().chain(candidates(program, text)?).collect::<Vec<_>>();
        let (pid, at) = start(text, fds, &programs)?;
        let is_bare = !program.contains('/');
        if is_bare && found != programs.get(at) {
            if self.found.len() >= REMEMBERED {
                self.found.clear();
            }
            self.found.insert(name, programs[at].clone());
        }
        Ok(pid)
    }
}

/// Starts the first of `programs` that there is. Returns its pid, and which one it was.
fn start(text: &SpawnText, fds: &[OwnedFd], programs: &[CString]) -> io::Result<(i32, usize)> {
    let argv = strings(&text.argv)?;
    let env = environment(text)?;
    let cwd = CString::new(text.cwd.as_str())?;
    let env_pointers = pointers(&env);
    let mut child = Child {
        programs,
        argv: &pointers(&argv),
        script_argv: script_argv(&argv),
        // SAFETY: this process has one thread, and nothing in it changes the environment.
        env: if env.is_empty() { unsafe { environ } } else { env_pointers.as_ptr() },
        cwd: &cwd,
        fds,
        guardian: Some(getpid()),
        mask: [0; 16],
        tried: 0,
        failure: None,
    };
    let pid = run(&mut child)?;
    match child.failure {
        None => Ok((pid.as_raw_nonzero().get(), child.tried)),
        Some(Failure::Folder(errno)) => {
            let _ = waitpid(Some(pid), WaitOptions::empty());
            let reason = io::Error::from(errno);
            Err(io::Error::new(reason.kind(), format!("its folder `{}` cannot be entered: {reason}", text.cwd)))
        }
        Some(Failure::Program(errno)) => {
            let _ = waitpid(Some(pid), WaitOptions::empty());
            Err(errno.into())
        }
    }
}

/// What the child needs, made before it exists: it must not allocate.
struct Child<'a> {
    programs: &'a [CString],
    argv: &'a [*const c_char],
    /// `argv` for a script that the shell has to run; its second entry is set to the script.
    script_argv: Vec<*const c_char>,
    env: *const *const c_char,
    cwd: &'a CStr,
    fds: &'a [OwnedFd],
    guardian: Option<Pid>,
    /// The signals that the guardian itself does not take.
    mask: SignalSet,
    /// The last of `programs` that was tried. Set by the child, as is `failure`.
    tried: usize,
    /// Set by the child, in the memory of the guardian, if it fails.
    failure: Option<Failure>,
}

#[derive(Clone, Copy)]
enum Failure {
    Folder(Errno),
    Program(Errno),
}

/// Makes the child and waits until it is its program or has failed.
fn run(child: &mut Child<'_>) -> io::Result<Pid> {
    let mut stack: Vec<u8> = Vec::with_capacity(STACK_BYTES);
    let mut all: SignalSet = [0; 16];
    // SAFETY: the stack is as long as said and grows down from an aligned end. The child borrows `child`, which outlives it as
    // the call returns only when the child has left this memory. No signal handler of the guardian can run in the child: all
    // signals are blocked until it has given them up. It makes no call that is not safe after `vfork`.
    let pid = unsafe {
        sigfillset(&raw mut all);
        sigprocmask(SIG_SETMASK, &raw const all, &raw mut child.mask);
        let mask = child.mask;
        let end = stack.as_mut_ptr().add(STACK_BYTES);
        let end = end.sub(end as usize % 16);
        let pid = clone(become_program, end.cast(), CLONE_VM | CLONE_VFORK | SIGCHLD, std::ptr::from_mut(child).cast());
        let error = io::Error::last_os_error();
        sigprocmask(SIG_SETMASK, &raw const mask, null_mut());
        if pid < 0 {
            return Err(error);
        }
        pid
    };
    Ok(Pid::from_raw(pid).expect("pids are positive"))
}

extern "C" fn become_program(child: *mut c_void) -> c_int {
    // SAFETY: `run` passes a pointer to its child, and does nothing with it until this process has gone.
    let child = unsafe { &mut *child.cast::<Child<'_>>() };
    child.failure = Some(child.exec());
    127
}

impl Child<'_> {
    /// Returns only if it fails.
    fn exec(&mut self) -> Failure {
        if let Err(errno) = self.prepare() {
            return Failure::Program(errno);
        }
        if let Err(errno) = chdir(self.cwd) {
            return Failure::Folder(errno);
        }
        let mut failure = Errno::NOENT;
        for (at, program) in self.programs.iter().enumerate() {
            self.tried = at;
            // SAFETY: all are pointers to strings that end in zero, in lists that end in null.
            unsafe { execve(program.as_ptr(), self.argv.as_ptr(), self.env) };
            let mut errno = last_errno();
            if errno == Errno::NOEXEC {
                self.script_argv[1] = program.as_ptr();
                // SAFETY: as above.
                unsafe { execve(SHELL.as_ptr(), self.script_argv.as_ptr(), self.env) };
                errno = last_errno();
            }
            match errno {
                Errno::NOENT | Errno::NOTDIR => {}
                // There may be another one further along; if there is none, this is the reason to tell.
                Errno::ACCESS => failure = errno,
                errno => return Failure::Program(errno),
            }
        }
        Failure::Program(failure)
    }

    fn prepare(&self) -> Result<(), Errno> {
        for taken in [SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGPIPE] {
            // SAFETY: what becomes of signals is this process's own (`CLONE_SIGHAND` is not asked for).
            unsafe { signal(taken, SIG_DFL) };
        }
        // A group is what can be ended as a whole; and as the kernel shares cores between sessions, a busy one delays no other.
        setsid()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != self.guardian {
            return Err(Errno::SRCH);
        }
        for (number, fd) in self.fds.iter().enumerate() {
            give(fd.as_fd(), number)?;
        }
        // SAFETY: the mask is the guardian's own.
        unsafe { sigprocmask(SIG_SETMASK, &raw const self.mask, null_mut()) };
        Ok(())
    }
}

/// Makes `fd` the descriptor `number` of the program. The guardian's own standard descriptors are open, so that no `fd` is one of
/// the numbers that are given before it.
fn give(fd: BorrowedFd<'_>, number: usize) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
    if fd.as_raw_fd() == number {
        return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
    }
    // SAFETY: whatever the descriptor is here, it is of no use to the program, and `dup2` replaces it.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let result = rustix::io::dup2(fd, &mut target);
    let _ = target.into_raw_fd();
    result
}

fn last_errno() -> Errno {
    io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

fn strings(texts: &[String]) -> io::Result<Vec<CString>> {
    texts.iter().map(|text| Ok(CString::new(text.as_str())?)).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([null()]).collect()
}

fn script_argv(argv: &[CString]) -> Vec<*const c_char> {
    [SHELL.as_ptr(), null()]
        .into_iter()
        .chain(argv.iter().skip(1).map(|string| string.as_ptr()))
        .chain([null()])
        .collect()
}

/// The guardian's variables with those of the program over them; none if that is no change.
fn environment(text: &SpawnText) -> io::Result<Vec<CString>> {
    if text.env.is_empty() {
        return Ok(Vec::new());
    }
    let inherited =
        std::env::vars_os().filter(|(name, _)| name.to_str().is_none_or(|name| !text.env.contains_key(name)));
    let own = text.env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    inherited
        .chain(own)
        .map(|(name, value)| {
            let mut variable = name.into_vec();
            variable.push(b'=');
            variable.extend_from_slice(value.as_bytes());
            Ok(CString::new(variable)?)
        })
        .collect()
}

/// Where the program may be: a path is taken as it is, a bare name is looked for on the program's `PATH`.
fn candidates(program: &str, text: &SpawnText) -> io::Result<Vec<CString>> {
    if program.contains('/') || program.is_empty() {
        return Ok(vec![CString::new(program)?]);
    }
    let path = text.env.get("PATH").map(OsString::from).or_else(|| std::env::var_os("PATH"));
    let path = path.unwrap_or_else(|| USUAL_PATH.into());
    std::env::split_paths(&path)
        .map(|folder| Ok(CString::new(folder.join(program).into_os_string().into_vec())?))
        .collect()
}
