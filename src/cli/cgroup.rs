//! [`memory_limit`]: what the control group of this process may take, by which containers and CI jobs are limited.
//!
//! Both versions are read, by the names that cgroups(7), memory.rst and cgroup-v2.rst of the kernel give. A process may see only a part of
//! the tree, with its own group as the root, so that a folder that is not there is no error.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// The lowest limit in bytes of the groups that this process is in; `None` if there is none, or none that can be read.
pub fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    lowest(Path::new(ROOT), &groups)
}

/// `groups` is what `/proc/self/cgroup` holds: lines of number, controllers and path, between colons.
fn lowest(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        up_to_root(&root, path).filter_map(|folder| limit(&folder.join(file))).min()
    });
    limits.min()
}

/// The folder of a group and those around it.
fn up_to_root(root: &Path, group: &str) -> impl Iterator<Item = PathBuf> {
    let (root, group) = (root.to_owned(), group.trim_start_matches('/').to_owned());
    let groups: Vec<_> = Path::new(&group).ancestors().map(|ancestor| root.join(ancestor)).collect();
    groups.into_iter()
}

/// The first version says "no limit" with a number as large as it has; what is beyond any memory is none.
fn limit(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("a folder in ours");
            std::fs::write(path, text).expect("a file in ours");
        }
        root
    }

    #[test]
    fn the_lowest_limit_of_the_groups_around_counts() {
        let second = tree(&[
            ("jobs/memory.max", "2147483648\n"),
            ("jobs/one/memory.max", "max\n"),
            ("jobs/two/memory.max", "1073741824\n"),
        ]);
        assert_eq!(lowest(second.path(), "0::/jobs/one\n"), Some(2 << 30));
        assert_eq!(lowest(second.path(), "0::/jobs/two\n"), Some(1 << 30));
        assert_eq!(lowest(second.path(), "0::/\n"), None);

        let first = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/docker/abc/memory.limit_in_bytes", "536870912\n"),
        ]);
        let groups = "9:name=systemd:/docker/abc\n5:cpu,memory:/docker/abc\n0::/docker/abc\n";
        assert_eq!(lowest(first.path(), groups), Some(512 << 20));
        assert_eq!(lowest(first.path(), "5:memory:/\n"), None);
    }

    #[test]
    fn a_group_that_is_the_root_to_its_processes_has_its_limit_there() {
        let first = tree(&[("memory/memory.limit_in_bytes", "536870912\n")]);
        assert_eq!(lowest(first.path(), "5:memory:/docker/not-seen-from-here\n"), Some(512 << 20));
        let second = tree(&[("memory.max", "536870912\n")]);
        assert_eq!(lowest(second.path(), "0::/\n"), Some(512 << 20));
    }

    #[test]
    fn nonsense_is_no_limit() {
        let root = tree(&[("memory.max", "much\n")]);
        for groups in ["", "nonsense", "0::", "0::/", "1:cpu:/\n", "a:b"] {
            assert_eq!(lowest(root.path(), groups), None, "{groups}");
        }
    }
}
