//! [`Given`]: what a run is given beside its file.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a run is given beside its file. Nothing in `spec` or `plan` reads the environment itself.
#[derive(Clone, Debug)]
pub struct Given {
    /// `--set name=value`, in the order of the command line; the last one of a name counts.
    pub set: Vec<(String, String)>,
    /// Environment variables, for `${{ env.NAME }}`.
    pub env: BTreeMap<String, String>,
    /// What `${{ secrets.NAME }}` stands for, where that is not an environment variable.
    pub secrets: BTreeMap<String, String>,
    /// Absolute; paths in `set` are relative to it.
    pub current_dir: PathBuf,
    /// `run.seed`.
    pub seed: u64,
    pub completeness: Completeness,
}

/// Whether values that only a run can know must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// A check of the file alone: params without a value and environment variables that are not set are left open.
    Partial,
    /// A run or its plan: a param without a value is an error.
    Full,
}
