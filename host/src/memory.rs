//! What memory this process has and may have, as Linux says: of the machine, and of the container (control group) that it
//! runs in, which is often less.

use std::path::{Path, PathBuf};

/// The most memory that this process has had, in bytes (`VmHWM`); zero where the system does not say.
pub fn peak_memory_bytes() -> u64 {
    kernel_bytes(Path::new("/proc/self/status"), "VmHWM:").unwrap_or(0)
}

/// The memory that this process has now, in bytes (`VmRSS`); zero where the system does not say.
pub fn resident_memory_bytes() -> u64 {
    kernel_bytes(Path::new("/proc/self/status"), "VmRSS:").unwrap_or(0)
}

/// What this process can still get, in bytes (`MemAvailable`, or what its container has left), where the system says.
pub fn available_memory_bytes() -> Option<u64> {
    available(Path::new("/"))
}

/// All memory that this process could have, in bytes (`MemTotal`, or the limit of its container), where the system says.
pub fn total_memory_bytes() -> Option<u64> {
    let limits = groups(Path::new("/")).into_iter().map(|group| group.limit);
    kernel_bytes(Path::new("/proc/meminfo"), "MemTotal:").into_iter().chain(limits).min()
}

/// The most that a process of this machine can have before the system ends it, in bytes: all memory, and what may be moved to
/// disk.
pub fn largest_memory_bytes() -> Option<u64> {
    let swap = kernel_bytes(Path::new("/proc/meminfo"), "SwapTotal:").unwrap_or(0);
    total_memory_bytes().map(|total| total.saturating_add(swap))
}

fn available(root: &Path) -> Option<u64> {
    let left = groups(root).into_iter().map(|group| group.limit.saturating_sub(group.used));
    kernel_bytes(&root.join("proc/meminfo"), "MemAvailable:").into_iter().chain(left).min()
}

/// A control group that has a limit.
struct Group {
    limit: u64,
    /// Without what the kernel would give back: files that were not read lately.
    used: u64,
}

/// The control groups of this process that limit its memory: its own and those around it, of either version.
fn groups(root: &Path) -> Vec<Group> {
    let memberships = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in memberships.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, limit, used, cache) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
            "memory" => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            }
            _ => continue,
        };
        let mount = root.join(mount);
        let own: PathBuf = mount.join(path.trim_start_matches('/'));
        for directory in own.ancestors().take_while(|directory| directory.starts_with(&mount)) {
            let number = |file: &str| std::fs::read_to_string(directory.join(file)).ok()?.trim().parse::<u64>().ok();
            let (Some(limit), Some(used)) = (number(limit), number(used)) else { continue };
            let stat = std::fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
            let cache = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok());
            found.push(Group { limit, used: used.saturating_sub(cache.unwrap_or(0)) });
        }
    }
    found
}

/// A line `name: … kB` of a file of the kernel.
fn kernel_bytes(file: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("proc/meminfo", "MemTotal: 9 kB\nMemAvailable: 8 kB\n")].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        available(root.path())
    }

    #[test]
    fn a_container_has_less_than_its_machine() {
        assert_eq!(machine(&[]), Some(8192));
        let unlimited = [("proc/self/cgroup", "0::/a\n"), ("sys/fs/cgroup/a/memory.max", "max\n")];
        assert_eq!(machine(&unlimited), Some(8192));
        let second = [
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "4096\n"),
            ("sys/fs/cgroup/a/memory.current", "3000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 1000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ];
        assert_eq!(machine(&second), Some(4096 - 2000), "the limit of a group around it");
        let first = [
            ("proc/self/cgroup", "4:memory:/job\n3:cpuset:/\n0::/\n"),
            ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "5000\n"),
        ];
        assert_eq!(machine(&first), Some(0), "more than there is");
    }
}
