//! Which KVM module is loaded, and whether its parameters suit a guest that spans hosts.
//!
//! Hardware that keeps accessed and dirty bits in nested page tables walks the guest's own page tables with
//! write access. Each read of a table page then is a write to it, and two hosts pull the kernel's table pages
//! to and fro for ever. AMD's nested paging always does so (only `npt=0` turns it off); Intel's does with
//! `eptad=1`; shadow paging and software KVMs never do.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::proc_files;

/// A KVM module and the parameters that matter here. `None`: the parameter could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KvmKind {
    /// `kvm_amd`.
    Amd {
        /// `npt`: nested paging.
        npt: Option<bool>,
    },
    /// `kvm_intel`.
    Intel {
        /// `ept`: nested paging.
        ept: Option<bool>,
        /// `eptad`: accessed and dirty bits in nested tables.
        eptad: Option<bool>,
    },
    /// A software KVM, which shadows page tables.
    Software,
    /// KVM is there, but none of the modules that are known.
    Unknown,
}

/// Whether reading a guest page table counts as writing to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableWrites {
    /// It does not.
    No,
    /// It does; the text is the command that changes it.
    Yes {
        /// What to run as root, with no guest running.
        remedy: &'static str,
    },
    /// It could not be found out.
    Unknown,
}

impl KvmKind {
    /// Whether the processor writes to guest page tables when it only walks them.
    pub fn table_writes(self) -> TableWrites {
        const AMD: &str = "modprobe -r kvm_amd && modprobe kvm_amd npt=0";
        const INTEL: &str = "modprobe -r kvm_intel && modprobe kvm_intel eptad=0";
        match self {
            KvmKind::Amd { npt: Some(false) } | KvmKind::Software => TableWrites::No,
            KvmKind::Amd { npt: Some(true) } => TableWrites::Yes { remedy: AMD },
            KvmKind::Intel { ept: Some(false), .. } | KvmKind::Intel { eptad: Some(false), .. } => {
                TableWrites::No
            }
            KvmKind::Intel { eptad: Some(true), .. } => TableWrites::Yes { remedy: INTEL },
            KvmKind::Amd { npt: None } | KvmKind::Intel { eptad: None, .. } | KvmKind::Unknown => {
                TableWrites::Unknown
            }
        }
    }
}

impl KvmKind {
    /// Whether KVM shadows the guest's page tables (or may: nobody knows better of an unknown one).
    pub fn shadows_page_tables(self) -> bool {
        match self {
            KvmKind::Amd { npt } => npt != Some(true),
            KvmKind::Intel { ept, .. } => ept != Some(true),
            KvmKind::Software | KvmKind::Unknown => true,
        }
    }
}

impl fmt::Display for KvmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |value: Option<bool>| value.map_or('?', |on| if on { '1' } else { '0' });
        match *self {
            KvmKind::Amd { npt } => write!(f, "kvm_amd npt={}", digit(npt)),
            KvmKind::Intel { ept, eptad } => write!(f, "kvm_intel ept={} eptad={}", digit(ept), digit(eptad)),
            KvmKind::Software => write!(f, "software KVM"),
            KvmKind::Unknown => write!(f, "unknown KVM"),
        }
    }
}

/// Looks at the modules below `root/sys/module`.
pub fn judge(root: &Path) -> KvmKind {
    let modules = root.join("sys/module");
    let flag = |module: &str, name: &str| {
        let text = proc_files::line(&modules.join(module).join("parameters").join(name));
        match text.as_str() {
            "Y" | "1" => Some(true),
            "N" | "0" => Some(false),
            _ => None,
        }
    };
    let loaded = |module: &str| modules.join(module).is_dir();
    if loaded("kvm_amd") {
        KvmKind::Amd { npt: flag("kvm_amd", "npt") }
    } else if loaded("kvm_intel") {
        KvmKind::Intel { ept: flag("kvm_intel", "ept"), eptad: flag("kvm_intel", "eptad") }
    } else if loaded("kvm_pvm") {
        KvmKind::Software
    } else {
        KvmKind::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A made-up sysfs: the modules with their parameters.
    fn sysfs(modules: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        for (module, parameters) in modules {
            let folder = root.path().join("sys/module").join(module).join("parameters");
            fs::create_dir_all(&folder).expect("mkdir");
            for (name, value) in *parameters {
                fs::write(folder.join(name), format!("{value}\n")).expect("write");
            }
        }
        root
    }

    fn kind(modules: &[(&str, &[(&str, &str)])]) -> KvmKind {
        judge(sysfs(modules).path())
    }

    #[test]
    fn settings_that_write_to_table_pages_are_told_with_their_remedy() {
        let bad = [
            (kind(&[("kvm", &[]), ("kvm_amd", &[("npt", "1")])]), "kvm_amd npt=0"),
            (kind(&[("kvm_amd", &[("npt", "Y")])]), "kvm_amd npt=0"),
            (kind(&[("kvm_intel", &[("ept", "Y"), ("eptad", "Y")])]), "kvm_intel eptad=0"),
        ];
        for (kind, part) in bad {
            let TableWrites::Yes { remedy } = kind.table_writes() else { panic!("{kind} must be refused") };
            assert!(remedy.ends_with(part), "{remedy}");
        }
    }

    #[test]
    fn settings_that_leave_table_pages_alone_pass() {
        let good = [
            kind(&[("kvm_amd", &[("npt", "N")])]),
            kind(&[("kvm_amd", &[("npt", "0")])]),
            kind(&[("kvm_intel", &[("ept", "Y"), ("eptad", "N")])]),
            kind(&[("kvm_intel", &[("ept", "N"), ("eptad", "Y")])]),
            kind(&[("kvm", &[]), ("kvm_pvm", &[("force", "N")])]),
        ];
        for kind in good {
            assert_eq!(kind.table_writes(), TableWrites::No, "{kind}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_called_good() {
        let unknown = [
            kind(&[]),
            kind(&[("kvm", &[])]),
            kind(&[("kvm_amd", &[("npt", "maybe")])]),
            kind(&[("kvm_intel", &[("ept", "Y")])]),
        ];
        for kind in unknown {
            assert_eq!(kind.table_writes(), TableWrites::Unknown, "{kind}");
        }
    }
}
