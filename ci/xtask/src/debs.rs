//! Debian packages that are downloaded and unpacked, not installed: the system stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{paths, shell};

/// Downloads these packages (`NAME` or `NAME/SUITE`) and unpacks them into one tree at `into`, which appears only
/// when it is complete.
///
/// # Errors
/// When apt does not know or cannot fetch one, or the tree cannot be written.
pub fn fetch(packages: &[String], into: &Path) -> Result<()> {
    let parent = into.parent().unwrap_or(into);
    let name = into.file_name().unwrap_or_default().to_string_lossy();
    let work = parent.join(format!(".{name}.{}", std::process::id()));
    paths::make_dir(&work)?;
    let outcome = unpack_all(packages, &work).and_then(|tree| match fs::rename(&tree, into) {
        // Another xtask may have been quicker: its tree is as good.
        Err(_) if into.exists() => Ok(()),
        other => other.with_context(|| format!("cannot make {}", into.display())),
    });
    let _ = fs::remove_dir_all(&work);
    outcome
}

fn unpack_all(packages: &[String], work: &Path) -> Result<PathBuf> {
    let tree = work.join("tree");
    // apt's own user cannot write here; as root apt would warn about that at each file.
    let mut download = Command::new("apt-get");
    download.args(["-o", "APT::Sandbox::User=root", "download"]).args(packages);
    shell::output(download.current_dir(work))?;
    for entry in fs::read_dir(work)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            shell::output(Command::new("dpkg-deb").arg("-x").arg(path).arg(&tree))?;
        }
    }
    Ok(tree)
}
