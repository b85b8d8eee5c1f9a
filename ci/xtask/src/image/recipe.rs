//! What images are made of.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A program that runs in a guest of an image, checks itself, and says so.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// The name that `tessera.job=` on the kernel command line gives it.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The shell script: `job NAME OK DETAILS` says how it ended.
    pub script: &'static str,
}

/// A Debian system on a disk.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// Its name.
    pub name: &'static str,
    /// What is in it, in a line.
    pub about: &'static str,
    /// Packages beside the base system.
    pub packages: &'static [&'static str],
    /// Units that a guest does not start by itself: a job does, when it needs them.
    pub disabled: &'static [&'static str],
    /// Size of the disk, in MiB.
    pub disk_mib: u64,
    /// Its jobs.
    pub jobs: &'static [Job],
}

/// What every image has: init, hardware, network, a kernel and what boots it.
pub const BASE: [&str; 9] = [
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "zstd",
    "systemd-sysv",
    "udev",
    "kmod",
    "dbus",
    "iproute2",
    "procps",
];

/// Files that every image has: (path, permissions, content).
pub const FILES: [(&str, u32, &str); 2] = [
    ("usr/local/sbin/tessera-job", 0o755, include_str!("files/tessera-job.sh")),
    ("etc/systemd/system/tessera-job.service", 0o644, include_str!("files/tessera-job.service")),
];

/// All of them.
pub const RECIPES: [Recipe; 2] = [
    Recipe {
        name: "debian",
        about: "Debian 12 with systemd and an SSH server",
        packages: &["openssh-server"],
        disabled: &[],
        disk_mib: 1536,
        jobs: &[],
    },
    Recipe {
        name: "programs",
        about: "Debian 12 with the programs that are run over several hosts",
        packages: &[
            "postgresql",
            "postgresql-contrib",
            "redis-server",
            "apache2",
            "apache2-utils",
            "python3",
            "flac",
            "povray",
        ],
        disabled: &["postgresql.service", "redis-server.service", "apache2.service"],
        disk_mib: 2560,
        jobs: &[
            Job {
                name: "pgbench",
                about: "PostgreSQL: four clients of pgbench, whose sums must be equal at the end",
                script: include_str!("jobs/pgbench.sh"),
            },
            Job {
                name: "redis",
                about: "Redis: counters that many clients add to, none of it lost",
                script: include_str!("jobs/redis.sh"),
            },
            Job {
                name: "apache",
                about: "Apache's worker MPM under ab: no failed request, the same bytes",
                script: include_str!("jobs/apache.sh"),
            },
            Job {
                name: "python",
                about: "Python: a pool of processes, and threads that share a table",
                script: include_str!("jobs/python.sh"),
            },
            Job {
                name: "flac",
                about: "FLAC: several encoders at once; what comes out is what went in",
                script: include_str!("jobs/flac.sh"),
            },
            Job {
                name: "povray",
                about: "POV-Ray: a picture by threads, the same as by one",
                script: include_str!("jobs/povray.sh"),
            },
        ],
    },
];

impl Recipe {
    /// The recipe of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| recipe.name == name)
    }

    /// What tells images of different recipes, and of older versions of one, apart.
    pub fn mark(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (self, BASE, FILES).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_recipes_and_jobs_are_fit_for_files_and_command_lines() {
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
        for recipe in &RECIPES {
            assert!(plain(recipe.name) && Recipe::named(recipe.name) == Some(recipe));
            assert!(recipe.jobs.iter().all(|job| plain(job.name) && job.script.contains("job ")));
        }
        assert_eq!(Recipe::named("nothing"), None);
        assert_ne!(RECIPES[0].mark(), RECIPES[1].mark());
    }
}
