//! Where things are: the repository, and everything that xtask makes, below `target/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The target triple of everything that runs inside a lab host or a guest.
pub const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The root of the repository.
///
/// # Panics
/// Never: the manifest of this crate lies two folders below the root.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.ancestors().nth(2).unwrap_or(&manifest).to_path_buf()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo target folder of the statically linked programs.
pub fn static_target() -> PathBuf {
    target().join("static")
}

/// What the lab keeps between runs: kernels and images.
pub fn lab_cache() -> PathBuf {
    target().join("lab")
}

/// Makes a folder and its parents.
///
/// # Errors
/// With the folder's name, when it cannot be made.
pub fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))
}

/// Writes a file so that other processes see either nothing or all of it.
///
/// # Errors
/// With the file's name, when it cannot be written.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = std::fs::write(&temporary, content).and_then(|()| std::fs::rename(&temporary, path));
    written.with_context(|| format!("cannot write {}", path.display())).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}
