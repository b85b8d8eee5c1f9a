//! Kernel modules: which ones are needed, in which order, ready to be loaded.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

use crate::shell;

/// One module that an image needs.
#[derive(Debug)]
pub struct Module {
    /// Its file name without the compression's ending.
    pub name: String,
    /// The module itself, not compressed.
    pub content: Vec<u8>,
}

/// The wanted modules, and before each of them what it needs, from the tree of modules at `base`.
///
/// # Errors
/// When one is neither a file nor built in, or cannot be read.
pub fn in_order(base: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let list = base.join("modules.builtin");
    let built_in = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
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
