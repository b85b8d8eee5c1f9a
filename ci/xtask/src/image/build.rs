//! Makes an image: a Debian system in a folder, then a file system of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::recipe::{Recipe, BASE, FILES};
use crate::progress::Step;
use crate::setup::{packages, release, sources};
use crate::shell;

/// The root's password in all images. They are for tests: nothing else can reach them.
pub const PASSWORD: &str = "tessera";

/// Makes the image in `folder`: `disk.raw`, `kernel` and `initramfs`.
///
/// # Errors
/// When a package cannot be had, this is not root, or the disk is too small.
pub fn build(recipe: &Recipe, folder: &Path) -> Result<()> {
    tools()?;
    let root = folder.join("root");
    let step = Step::start(format!("image {}: the base system", recipe.name));
    base(&root)?;
    step.note("packages");
    configure(recipe, &root)?;
    install(recipe, &root)?;
    step.note("the file system");
    boot_files(&root, folder)?;
    disk(recipe, &root, &folder.join("disk.raw"))?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    step.done("made");
    Ok(())
}

/// Programs that only images need.
fn tools() -> Result<()> {
    let needed = [("debootstrap", "debootstrap"), ("mkfs.ext4", "e2fsprogs")];
    let missing: Vec<&str> =
        needed.iter().filter(|(program, _)| !shell::has_program(program)).map(|(_, name)| *name).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => packages::install(&missing, "  they make disk images"),
    }
}

fn base(root: &Path) -> Result<()> {
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--include=ca-certificates", release::CODENAME]);
    command.arg(root).arg(sources::release_uri()?);
    shell::output(&mut command).map(|_| ()).context("making a system in a folder needs root")
}

/// What the packages' own scripts and the first boot need.
fn configure(recipe: &Recipe, root: &Path) -> Result<()> {
    write(root, "etc/hostname", 0o644, &format!("{}\n", recipe.name))?;
    write(root, "etc/hosts", 0o644, &format!("127.0.0.1 localhost {}\n", recipe.name))?;
    write(root, "etc/fstab", 0o644, "/dev/vda / ext4 errors=remount-ro 0 1\n")?;
    // Nothing is started while packages are installed.
    write(root, "usr/sbin/policy-rc.d", 0o755, "#!/bin/sh\nexit 101\n")?;
    // Only what the disks of guests need.
    write(root, "etc/initramfs-tools/conf.d/tessera", 0o644, "MODULES=most\nCOMPRESS=zstd\n")?;
    for (path, permissions, content) in FILES {
        write(root, path, permissions, content)?;
    }
    for job in recipe.jobs {
        write(root, &format!("usr/local/lib/tessera/jobs/{}", job.name), 0o644, job.script)?;
    }
    Ok(())
}

fn install(recipe: &Recipe, root: &Path) -> Result<()> {
    let names = [&BASE[..], recipe.packages].concat().join(" ");
    let disable: Vec<String> =
        recipe.disabled.iter().map(|unit| format!("systemctl --quiet disable {unit}\n")).collect();
    let script = format!(
        "set -e\nexport DEBIAN_FRONTEND=noninteractive LC_ALL=C\n\
         apt-get -q update\napt-get -q -y --no-install-recommends install {names}\napt-get clean\n\
         echo root:{PASSWORD} | chpasswd\nsystemctl --quiet enable tessera-job.service\n{}\
         rm /usr/sbin/policy-rc.d\n",
        disable.concat()
    );
    // A namespace of its own for what is mounted: nothing stays, however this ends.
    let mounts = "mount -t proc proc \"$0/proc\" && mount -t devtmpfs dev \"$0/dev\" && exec chroot \"$0\" /bin/sh -c \"$1\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", mounts])
        .arg(root)
        .arg(script);
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).context("cannot copy resolv.conf")?;
    shell::output(&mut command).map(|_| ()).context("packages could not be installed into the image")
}

/// Takes the kernel and what boots it out of the image.
fn boot_files(root: &Path, folder: &Path) -> Result<()> {
    for (prefix, name) in [("vmlinuz-", "kernel"), ("initrd.img-", "initramfs")] {
        let found = fs::read_dir(root.join("boot"))?.filter_map(Result::ok).map(|entry| entry.path());
        let mut found: Vec<PathBuf> = found
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
            .collect();
        found.sort();
        let newest = found.pop().with_context(|| format!("the image has no /boot/{prefix}*"))?;
        fs::copy(&newest, folder.join(name)).with_context(|| format!("cannot copy {}", newest.display()))?;
    }
    Ok(())
}

fn disk(recipe: &Recipe, root: &Path, disk: &Path) -> Result<()> {
    let file = fs::File::create(disk).with_context(|| format!("cannot make {}", disk.display()))?;
    file.set_len(recipe.disk_mib << 20).with_context(|| format!("cannot make {}", disk.display()))?;
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-m", "0", "-L", "root", "-d"]).arg(root).arg(disk);
    shell::output(&mut command).map(|_| ())
}

fn write(root: &Path, path: &str, permissions: u32, content: &str) -> Result<()> {
    let path = root.join(path);
    let place = || format!("cannot write {}", path.display());
    path.parent().map_or(Ok(()), fs::create_dir_all).with_context(place)?;
    fs::write(&path, content).with_context(place)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(permissions)).with_context(place)
}
