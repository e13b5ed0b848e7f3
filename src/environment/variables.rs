//! Environment variables of templates and workers: thread limits, memory allocators, hash seed, import path.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::path::Path;

/// What the libraries of numerical Python read when they are loaded. Arrow's own pool follows `OMP_NUM_THREADS`.
const THREAD_LIMITS: &[&str] = &[
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "NUMBA_NUM_THREADS",
    "TBB_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_IO_THREADS",
];

const MIB: u64 = 1 << 20;

/// How many threads the libraries in each worker may use, so that all workers together do not exceed the cores.
pub fn threads_per_worker(cores: NonZeroU32, workers: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(cores.get() / workers.get()).unwrap_or(NonZeroU32::MIN)
}

/// For starting a template. Its libraries have one thread each: others would be lost in a fork, with the locks that they
/// hold. `inherited_path` is the user's own `PYTHONPATH`.
pub fn template_variables(package: &Path, inherited_path: Option<&OsStr>) -> Vec<(&'static str, OsString)> {
    let mut path = package.as_os_str().to_owned();
    if let Some(inherited) = inherited_path.filter(|inherited| !inherited.is_empty()) {
        path.push(":");
        path.push(inherited);
    }
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("PYTHONPATH", path),
        ("PYTHONHASHSEED", "0".into()),
        // The folder that a template is started in is not a place to import from (Python 3.11 or newer). The template
        // removes it again: programs that user code starts are none of our business.
        ("PYTHONSAFEPATH", "1".into()),
        ("JE_ARROW_MALLOC_CONF", "background_thread:false".into()),
        ("MALLOC_ARENA_MAX", "2".into()),
        // Keep the memory of one batch for the next, which costs less than fresh pages, but not much more than that.
        ("MALLOC_MMAP_THRESHOLD_", (32 * MIB).to_string().into()),
        ("MALLOC_TRIM_THRESHOLD_", (64 * MIB).to_string().into()),
    ];
    variables.extend(THREAD_LIMITS.iter().map(|&name| (name, "1".into())));
    variables
}

/// For a worker, on top of its template's: libraries that the worker loads itself get their share of the threads.
pub fn worker_variables(threads: NonZeroU32) -> Vec<(&'static str, String)> {
    THREAD_LIMITS.iter().map(|&name| (name, threads.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_shared_out_and_never_none() {
        let threads = |cores, workers| {
            let number = |value| NonZeroU32::new(value).expect("not zero");
            threads_per_worker(number(cores), number(workers)).get()
        };
        assert_eq!((threads(8, 3), threads(2, 2), threads(2, 9)), (2, 1, 1));
    }

    #[test]
    fn the_package_goes_before_the_users_path() {
        let path = |inherited: Option<&str>| {
            let variables = template_variables(Path::new("/package"), inherited.map(OsStr::new));
            let path = variables.iter().find(|(name, _)| *name == "PYTHONPATH").expect("always set");
            path.1.clone()
        };
        assert_eq!(path(None), "/package");
        assert_eq!(path(Some("")), "/package");
        assert_eq!(path(Some("/a:/b")), "/package:/a:/b");
    }

    #[test]
    fn a_template_has_one_thread_and_a_worker_its_share() {
        let template = template_variables(Path::new("/package"), None);
        assert!(template.contains(&("OPENBLAS_NUM_THREADS", "1".into())));
        assert!(template.contains(&("PYTHONHASHSEED", "0".into())));
        let worker = worker_variables(NonZeroU32::new(3).expect("not zero"));
        assert!(worker.contains(&("OMP_NUM_THREADS", "3".to_owned())));
    }
}
