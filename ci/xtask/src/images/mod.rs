//! The images that lab hosts and guests boot from.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cleanup::TemporaryDir;
use crate::cluster::GuestFile;
use crate::initramfs::Archive;
use crate::kernels::{Kernel, Series};
use crate::{builds, shell};

/// A file that is put into an image.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Its absolute path inside.
    pub path: String,
    /// The file on this machine.
    pub from: PathBuf,
    /// Its permissions.
    pub permissions: u32,
}

/// What goes into the image of a lab host.
pub struct HostImage<'a> {
    /// The host's kernel, for its modules.
    pub kernel: &'a Kernel,
    /// How `kvm-amd` is loaded: with or without nested paging.
    pub nested_paging: bool,
    /// The statically linked `tessera`, if the host has one.
    pub tessera: Option<&'a Path>,
}

/// The initramfs of a lab host: busybox, the modules, the agent, `tessera`.
///
/// # Errors
/// When a part of it is missing.
pub fn host(image: &HostImage) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.char_device("/dev/console", 0o600, (5, 1));
    for dir in ["/proc", "/sys", "/tmp", "/root", "/run", "/lib/modules"] {
        archive.dir(dir);
    }
    archive.file("/init", 0o755, include_bytes!("host-init.sh"))?;
    busybox(&mut archive)?;
    let mut order = String::new();
    for module in image.kernel.modules(&["virtio_pci", "virtio_net", "virtio_blk", "kvm-amd"])? {
        archive.file(&format!("/lib/modules/{}", module.name), 0o644, &module.content)?;
        let settings = if module.name == "kvm-amd.ko" {
            format!(" npt={}", u8::from(image.nested_paging))
        } else {
            String::new()
        };
        order.push_str(&format!("{}{settings}\n", module.name));
    }
    archive.file("/lib/modules/order", 0o644, order.as_bytes())?;
    let agent = builds::static_programs(&[builds::AGENT])?;
    archive.copy("/bin/tessera-lab-agent", 0o755, &agent[0])?;
    if let Some(tessera) = image.tessera {
        archive.copy("/bin/tessera", 0o755, tessera)?;
    }
    Ok(archive.finish())
}

/// An archive with just these files: it may be appended to any other.
///
/// # Errors
/// When one cannot be read.
pub fn extras(files: &[Extra]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for file in files {
        archive.copy(&file.path, file.permissions, &file.from)?;
    }
    Ok(archive.finish())
}

/// The initramfs of a stock guest: its first process does everything. It has these modules of each kernel, and loads
/// those of the one that runs.
///
/// # Errors
/// When the program cannot be built, or a kernel has no such module.
pub fn guest(kernels: &[Kernel], modules: &[&str]) -> Result<Vec<u8>> {
    let programs = builds::static_programs(&[builds::GUEST_INIT])?;
    let mut archive = Archive::default();
    archive.char_device("/dev/console", 0o600, (5, 1));
    for dir in ["/proc", "/sys", "/tmp", "/root", "/run"] {
        archive.dir(dir);
    }
    archive.copy("/init", 0o755, &programs[0])?;
    for kernel in kernels.iter().filter(|_| !modules.is_empty()) {
        let folder = format!("/lib/modules/{}", kernel.release);
        let mut order = String::new();
        for module in kernel.modules(modules)? {
            archive.file(&format!("{folder}/{}", module.name), 0o644, &module.content)?;
            order.push_str(&module.name);
            order.push('\n');
        }
        archive.file(&format!("{folder}/order"), 0o644, order.as_bytes())?;
    }
    Ok(archive.finish())
}

/// The name of the guest's initramfs among the files of a cluster.
pub const GUEST_INITRAMFS: &str = "initramfs";

/// The name of a guest kernel among the files of a cluster.
pub fn kernel_name(series: Series) -> String {
    format!("kernel-{}", series.name())
}

/// Kernels and initramfs that stock guests are started with.
pub struct GuestFiles {
    dir: TemporaryDir,
    kernels: Vec<GuestFile>,
}

impl GuestFiles {
    /// For a cluster, which must not outlive this value.
    pub fn files(&self) -> Vec<GuestFile> {
        let initramfs = (GUEST_INITRAMFS.to_owned(), self.dir.path().join(GUEST_INITRAMFS));
        self.kernels.iter().cloned().chain([initramfs]).collect()
    }
}

/// Gets these kernels and makes the initramfs.
///
/// # Errors
/// When a kernel cannot be had or the initramfs cannot be built.
pub fn guest_files(series: &[Series]) -> Result<GuestFiles> {
    guest_files_with(series, &[])
}

/// As [`guest_files`], with these modules and all that they need.
///
/// # Errors
/// As [`guest_files`], and when a kernel has no such module.
pub fn guest_files_with(series: &[Series], modules: &[&str]) -> Result<GuestFiles> {
    let all = series.iter().map(|series| Kernel::get(*series)).collect::<Result<Vec<_>>>()?;
    let kernels = series.iter().zip(&all).map(|(series, kernel)| (kernel_name(*series), kernel.image()));
    let kernels = kernels.collect();
    let dir = TemporaryDir::new("tessera-guest")?;
    std::fs::write(dir.path().join(GUEST_INITRAMFS), guest(&all, modules)?)
        .context("cannot write the guest's initramfs")?;
    Ok(GuestFiles { dir, kernels })
}

/// Busybox and a link for each of its programs.
fn busybox(archive: &mut Archive) -> Result<()> {
    let path = ["/usr/bin/busybox", "/bin/busybox"].into_iter().map(Path::new).find(|path| path.is_file());
    let path = path.context("there is no busybox; `cargo xtask setup` installs it")?;
    archive.copy("/bin/busybox", 0o755, path)?;
    for name in shell::output(Command::new(path).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        archive.link(&format!("/bin/{name}"), "busybox");
    }
    Ok(())
}
