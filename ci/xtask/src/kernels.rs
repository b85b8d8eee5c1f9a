//! Stock Debian kernels: downloaded as packages, unpacked below `target/lab/kernels`, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, ensure, Context, Result};

use crate::setup::release;
use crate::{paths, shell};

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

/// One module that an image needs.
#[derive(Debug)]
pub struct Module {
    /// Its file name without the compression's ending.
    pub name: String,
    /// The module itself, not compressed.
    pub content: Vec<u8>,
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

    /// These modules and all that they need, in the order in which they must be loaded. What is built into the
    /// kernel is left out.
    ///
    /// # Errors
    /// When one is neither a file nor built in, or cannot be read.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let base = self.dir.join("lib/modules").join(&self.release);
        let built_in = fs::read_to_string(base.join("modules.builtin"))
            .with_context(|| format!("kernel {} has no list of built-in modules", self.release))?;
        let mut search = Search {
            files: module_files(&base.join("kernel"))?,
            built_in: built_in.lines().map(|line| plain_name(Path::new(line))).collect(),
            seen: BTreeSet::new(),
            order: Vec::new(),
        };
        for name in wanted {
            search.add(name)?;
        }
        Ok(search.order)
    }

    fn fetch(series: Series) -> Result<Self> {
        let package = resolve(series)?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        paths::make_dir(&cache())?;
        let work = cache().join(format!(".{release}.{}", std::process::id()));
        paths::make_dir(&work)?;
        let outcome = download(&package, series, &work).and_then(|()| {
            let tree = work.join("tree");
            let kernel = Self { dir: cache().join(&release), release: release.clone() };
            // Another xtask may have been quicker: its copy is as good.
            if !kernel.dir.exists() {
                fs::rename(&tree, &kernel.dir).or_else(|error| {
                    if kernel.dir.exists() {
                        Ok(())
                    } else {
                        Err(error)
                    }
                })?;
            }
            ensure!(kernel.image().is_file(), "package {package} has no {}", kernel.image().display());
            Ok(kernel)
        });
        let _ = fs::remove_dir_all(&work);
        outcome
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

fn download(package: &str, series: Series, work: &Path) -> Result<()> {
    let exact = match series {
        Series::Bookworm => package.to_owned(),
        Series::Backports => format!("{package}/{}", series.target_release()),
    };
    // apt's own user cannot write here; as root it would warn about that at each file.
    shell::output(
        Command::new("apt-get").args(["-o", "APT::Sandbox::User=root", "download", &exact]).current_dir(work),
    )?;
    let deb = fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .with_context(|| format!("apt-get download {exact} left no package"))?;
    shell::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(work.join("tree")))?;
    Ok(())
}

struct Search {
    files: Vec<PathBuf>,
    built_in: BTreeSet<String>,
    seen: BTreeSet<String>,
    order: Vec<Module>,
}

impl Search {
    fn add(&mut self, wanted: &str) -> Result<()> {
        let name = wanted.replace('-', "_");
        if self.built_in.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let path = self.files.iter().find(|path| plain_name(path) == name);
        let path = path.with_context(|| format!("the kernel has no module {wanted}"))?.clone();
        let mut content = read_module(&path)?;
        strip_signature(&mut content);
        for needed in needs(&content) {
            self.add(&needed)?;
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let file = file.trim_end_matches(".xz").trim_end_matches(".zst").to_owned();
        self.order.push(Module { name: file, content });
        Ok(())
    }
}

/// A module's name from its file: `-` and `_` are alike.
fn plain_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn module_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(module_files(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = shell::capture(Command::new(program).arg("-dc").arg(path))?;
    ensure!(output.status.success(), "{program} cannot unpack {}", path.display());
    Ok(output.stdout)
}

/// Takes away a module's signature: checking it takes an emulated processor a good part of a second, and
/// stock kernels load modules without one.
fn strip_signature(content: &mut Vec<u8>) {
    // The trailer of scripts/sign-file: id lengths and so on, the signature's big-endian length, a magic text.
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    let Some(rest) = content.strip_suffix(MAGIC) else { return };
    let Some((rest, info)) = rest.split_last_chunk::<12>() else { return };
    let [.., a, b, c, d] = *info;
    let signature = u32::from_be_bytes([a, b, c, d]) as usize;
    if let Some(length) = rest.len().checked_sub(signature) {
        content.truncate(length);
    }
}

/// The modules that this one says it needs: `depends=a,b` in its `.modinfo` section.
fn needs(content: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = content.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value = &content[at + key.len()..];
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        assert_eq!(needs(b"\x7fELF\0license=GPL\0depends=kvm,ccp\0name=kvm_amd\0"), ["kvm", "ccp"]);
        assert!(needs(b"\0depends=\0name=irqbypass\0").is_empty());
        assert!(needs(b"nothing").is_empty());
    }

    #[test]
    fn a_signature_is_taken_away_and_nothing_else() {
        let signed = [
            b"module".as_slice(),
            b"SIGN",
            &[1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 4],
            b"~Module signature appended~\n",
        ];
        let mut content = signed.concat();
        strip_signature(&mut content);
        assert_eq!(content, b"module");
        strip_signature(&mut content);
        assert_eq!(content, b"module");
        let mut lying =
            [b"\0\0\0\0\0\0\0\0\xff\xff\xff\xff".as_slice(), b"~Module signature appended~\n"].concat();
        let before = lying.clone();
        strip_signature(&mut lying);
        assert_eq!(lying, before);
    }

    #[test]
    fn module_names_do_not_depend_on_compression_or_dashes() {
        for file in ["a/kvm-amd.ko.xz", "kvm_amd.ko", "kernel/x/kvm-amd.ko.zst"] {
            assert_eq!(plain_name(Path::new(file)), "kvm_amd");
        }
    }
}
