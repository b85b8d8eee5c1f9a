//! Stock Debian kernels: downloaded as packages, unpacked below `target/lab/kernels`, never installed.

mod modules;
pub mod symbols;
mod vmlinux;

pub use modules::Module;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

use crate::setup::release;
use crate::{debs, paths, shell};

/// Which stock kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Series {
    /// The kernel of Debian 12 itself.
    #[value(name = "6.1")]
    Bookworm,
    /// The kernel of Debian 12's backports.
    #[value(name = "6.12")]
    Backports,
}

impl Series {
    /// Its version number as people say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "6.1",
            Self::Backports => "6.12",
        }
    }

    fn target_release(self) -> String {
        match self {
            Self::Bookworm => release::CODENAME.to_owned(),
            Self::Backports => release::backports(),
        }
    }
}

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release name (`uname -r`).
    pub release: String,
    dir: PathBuf,
}

impl Kernel {
    /// Finds the kernel in the cache, or fetches it.
    ///
    /// # Errors
    /// When it is not there and apt cannot find or fetch it, or the package is not as expected.
    pub fn get(series: Series) -> Result<Self> {
        match Self::cached(series) {
            Some(kernel) => Ok(kernel),
            None => Self::fetch(series),
        }
    }

    /// The newest kernel of this series in the cache.
    pub fn cached(series: Series) -> Option<Self> {
        let prefix = format!("{}.", series.name());
        let found = fs::read_dir(cache()).ok()?.filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let numbers: Vec<u32> =
                name.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok()).collect();
            name.starts_with(&prefix).then_some((numbers, name))
        });
        let (_, release) = found.max()?;
        let kernel = Self { dir: cache().join(&release), release };
        kernel.image().is_file().then_some(kernel)
    }

    /// The kernel image (a bzImage).
    pub fn image(&self) -> PathBuf {
        self.dir.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The same kernel, not compressed: an ELF file. An emulated processor takes most of a second to unpack the
    /// image at each boot.
    ///
    /// # Errors
    /// When the image cannot be unpacked.
    pub fn unpacked(&self) -> Result<PathBuf> {
        let path = self.dir.join(format!("boot/vmlinux-{}", self.release));
        if !path.is_file() {
            let image = self.image();
            let packed = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
            let content =
                vmlinux::unpack(&packed).with_context(|| format!("cannot unpack {}", image.display()))?;
            paths::write_whole(&path, &content)?;
        }
        Ok(path)
    }

    /// These modules and all that they need, in the order in which they must be loaded. What is built into the
    /// kernel is left out.
    ///
    /// # Errors
    /// When one is neither a file nor built in, or cannot be read.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        modules::in_order(&self.dir.join("lib/modules").join(&self.release), wanted)
    }

    fn fetch(series: Series) -> Result<Self> {
        let package = resolve(series)?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        let exact = match series {
            Series::Bookworm => package.clone(),
            Series::Backports => format!("{package}/{}", series.target_release()),
        };
        let kernel = Self { dir: cache().join(&release), release };
        debs::fetch(&[exact], &kernel.dir)?;
        ensure!(kernel.image().is_file(), "package {package} has no {}", kernel.image().display());
        Ok(kernel)
    }
}

fn cache() -> PathBuf {
    paths::lab_cache().join("kernels")
}

/// The concrete package behind Debian's meta package for cloud kernels.
fn resolve(series: Series) -> Result<String> {
    let meta = format!("linux-image-cloud-amd64/{}", series.target_release());
    // A plain name in an apt-cache query takes the release that apt prefers.
    let query = if series == Series::Bookworm { "linux-image-cloud-amd64" } else { meta.as_str() };
    let depends = shell::output(Command::new("apt-cache").args(["depends", query]))
        .with_context(|| format!("apt does not know {meta}; `cargo xtask setup` brings the package lists"))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = package.with_context(|| format!("{meta} names no kernel package"))?;
    if !package.starts_with(&format!("{}.", series.name())) {
        bail!("{meta} is kernel {package}, expected {}", series.name());
    }
    Ok(format!("linux-image-{package}"))
}
