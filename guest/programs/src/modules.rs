//! Kernel modules: those that the image has for the running kernel, in the order that it gives.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::trouble::Trouble;

/// Where the running kernel's modules are, if the image has some: a folder of the kernel's release name.
fn folder() -> Option<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(Path::new("/lib/modules").join(release.trim())).filter(|folder| folder.is_dir())
}

/// Loads the modules that the file `order` of the folder lists. Gives what went wrong, one text for each.
pub fn load_all() -> Vec<String> {
    let Some(folder) = folder() else { return Vec::new() };
    let order = match fs::read_to_string(folder.join("order")) {
        Ok(order) => order,
        Err(error) => return vec![format!("{}/order: {error}", folder.display())],
    };
    let load = |name: &str| load(&folder.join(name)).err().map(|trouble| trouble.to_string());
    order.lines().filter(|name| !name.is_empty()).filter_map(load).collect()
}

fn load(path: &Path) -> Result<(), Trouble> {
    let file = File::open(path).map_err(Trouble::os(format!("opening {}", path.display())))?;
    // SAFETY: an open file, a C string that lives for ever, and no flags.
    let answer = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match answer {
        0 => Ok(()),
        _ => Err(Trouble::last_os(format!("loading {}", path.display()))),
    }
}
